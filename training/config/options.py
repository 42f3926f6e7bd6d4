"""The options of `train.py`, in the order and under the headings of its `--help`.

A table: what they mean together is settled in resolve.py, what they became is declared in schema.py. Imports
no torch.
"""
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dnnlib import hub
from dnnlib.computing import DEVICES, OPERATORS
from dnnlib.numbers import BATCH, PROCESSES, SEED, WORKERS, Real, RealOrWord, Whole
from torch_utils.network_schema import classes_for
from training.config.base_configs import CONFIG_NAMES
from training.config.methods import LOSSES, METHODS, zoo_fields
from training.config.presets import PRESETS
from training.config.rules import UserError, require
from training.config.schema import Config
from training.config.sources import TRANSFER_NETS

AUGMENT_PIPES = ('blit', 'geom', 'color', 'filter', 'noise', 'cutout', 'bg', 'bgc', 'bgcf', 'bgcfn', 'bgcfnc')

# Options that say nothing about the run itself.
NOT_OF_THE_RUN = ('outdir', 'config', 'dry_run', 'new', 'override', 'preset', 'download_detectors')


class Option(click.Option):
    """An option that stands under a heading in `--help`."""

    def __init__(self, *names: str, heading: str = '', **kwargs: Any):
        super().__init__(names, **kwargs)
        self.heading = heading


class GroupedHelp(click.Command):
    """A command whose `--help` has headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record:
                groups.setdefault(getattr(param, 'heading', 'Other'), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def zoo_option(method: str, field: Any) -> Option:
    """`--METHOD_FIELD`, of a field of a method's `Options`."""
    default = 'none' if field.default in (None, '') else f'{field.default:g}' if field.type == 'float' else field.default
    kind = option_type(field.type.removesuffix(' | None'), field.within, field.choices)
    return Option(f'--{method}_{field.name}', type=kind, help=f'{field.help} [default: {default}]')


def option_type(name: str, within: str, choices: tuple[str, ...] = ()) -> Any:
    """The click type of a field of a method's options."""
    if within and choices:
        return RealOrWord(within, choices)
    if choices:
        return click.Choice(choices)
    if within:
        return {'float': Real, 'int': Whole}[name](within)
    return {'bool': bool, 'str': str}[name]


OPTIONS_BY_HEADING = {
    'General': [
        Option('--outdir', metavar='DIR', help='Where the run gets a directory of its own.'),
        Option('--config', metavar='FILE',
               help='Options from a file (.toml, .json), or those of the run in a directory; options '
               'that are given win (docs/options.md) [default: none]'),
        Option('--gpus', type=Whole(PROCESSES), metavar='INT',
               help='Processes, one per GPU; a power of two [default: 1]'),
        Option('--snap', type=Whole('[1, inf)'), metavar='TICKS',
               help='Ticks between snapshots [default: 50; tiny: 5]'),
        Option('--metrics', metavar='LIST',
               help='Metrics at each snapshot, or none [default: fid50k_full; tiny: none]'),
        Option('--seed', type=Whole(SEED), metavar='INT', help='Random seed [default: 0]'),
        Option('--download-detectors', is_flag=True,
               help='Fetch missing weights of the detectors of --metrics from their official addresses.'),
        Option('--snapshot-format', metavar='LIST',
               help='Files of each network snapshot: native (.safetensors), pkl '
               '(for programs that know the official snapshots) [default: native]'),
        Option('-n', '--dry-run', is_flag=True, help='Print the configuration and stop.'),
        Option('--new', is_flag=True,
               help='Start anew; without it, the same command continues an unfinished run.'),
        Option('--override', is_flag=True, help='Continue a run although its settings or data have changed.'),
        Option('--keep', metavar='LIST',
               help='Saved states to keep: the newest NUMBER[,best][,every=KIMG] [default: 2,best]'),
        Option('--log', metavar='LIST',
               help='Logs beside stats.jsonl: none, tensorboard, wandb, mlflow, trackio '
                    '[default: tensorboard if it is installed]'),
    ],
    'Data': [
        Option('--data', metavar='PATH', help='Folder or zip of square images, all of one size; hf://datasets/USER/REPO[/FILE.zip].'),
        Option('--cond', type=bool, metavar='BOOL', help='Learn the classes of the data set [default: no]'),
        Option('--labels-from', type=click.Choice(['json', 'folders']),
               help='Where classes come from: dataset.json, or the names of subfolders [default: json]'),
        Option('--subset', type=Whole('[1, inf)'), metavar='INT',
               help='Train with that many images only [default: all]'),
        Option('--held-out', metavar='PATH',
               help='Images of which D is only asked what it thinks: the overfitting gap '
               '[default: what --subset leaves out]'),
        Option('--metricdata', metavar='PATH', help='Images that --metrics compare with: of a protocol that trains on few '
               'and scores against all [default: those of the run]'),
        Option('--mirror', type=bool, metavar='BOOL', help='Double the data by mirror images [default: no]'),
    ],
    'Base configuration': [
        Option('--preset', type=click.Choice(list(PRESETS)),
               help='Options for so many images: below 500, up to '
               '50 000, more; printed, and options that are given win (docs/choosing.md) [default: none]'),
        Option('--cfg', type=click.Choice(CONFIG_NAMES), help='Base configuration [default: auto]'),
        Option('--G', 'G', type=click.Choice(list(classes_for('G'))),
               help='Class of the generator [default: Generator]'),
        Option('--D', 'D', type=click.Choice(list(classes_for('D'))),
               help='Class of the critics [default: Discriminator]'),
        Option('--gamma', type=Real('[0, inf)'), metavar='FLOAT', help='Weight of R1 [default: by --cfg]'),
        Option('--kimg', type=Whole('[1, inf)'), metavar='INT',
               help='Length of the run in thousands of images [default: by --cfg]'),
        Option('--batch', type=Whole(BATCH), metavar='INT', help='Images per iteration [default: by --cfg]'),
        Option('--batch-gpu', type=Whole(BATCH), metavar='INT',
               help='Images at once on one GPU [default: by --cfg]'),
        Option('--tick', type=Real('(0, inf)'), metavar='KIMG',
               help='Thousands of images in a tick [default: 4; tiny: 1]'),
        Option('--glr', type=Real('(0, 1]'), metavar='FLOAT', help='Learning rate of G [default: by --cfg]'),
        Option('--dlr', type=Real('(0, 1]'), metavar='FLOAT', help='Learning rate of D [default: by --cfg]'),
        Option('--cbase', type=Whole('[1, 1048576]'), metavar='INT',
               help='Width of the networks: channels times resolution, up to --cmax [default: by --cfg]'),
        Option('--cmax', type=Whole('[1, 8192]'), metavar='INT',
               help='Most channels of a layer [default: by --cfg]'),
        Option('--map-depth', type=Whole('[1, 64]'), metavar='INT',
               help="Layers of G's mapping network [default: by --cfg]"),
        Option('--mbstd-group', type=Whole('[0, 65536]'), metavar='INT',
               help='Images in a group of the minibatch standard deviation; 0: none, D looks at every image alone '
               '[default: by --cfg]'),
        Option('--mixing-prob', type=Real('[0, 1]'), metavar='FLOAT',
               help='Share of the images that are made of two latents (style mixing) [default: by --cfg]'),
    ],
    'Augmentation': [
        Option('--aug', type=click.Choice(['noaug', 'ada', 'fixed', 'diffaug']),
               help='Augmentation [default: ada]'),
        Option('--p', type=Real('[0, 1]'), metavar='FLOAT', help='Strength for --aug=fixed'),
        Option('--target', type=Real('[0, 1]'), metavar='FLOAT',
               help='What --aug=ada holds the sign statistic at [default: 0.6]'),
        Option('--ada-signal', type=click.Choice(['signs', 'heldout']), help='What --aug=ada holds at --target: the mean '
               "sign of D's logits on reals, or how much worse D rates images that it does not learn from (--held-out, "
               '--subset), r_v [default: signs]'),
        Option('--ada-kimg', type=Real('(0, inf)'), metavar='KIMG',
               help='In how many thousands of images the strength of --aug=ada can rise from 0 to 1 [default: by --cfg]'),
        Option('--augpipe', type=click.Choice(AUGMENT_PIPES), help='Which transformations [default: bgc]'),
        Option('--DiffAugment', 'diffaugment', metavar='LIST',
               help='Policies of DiffAugment (color,translation,cutout); implies --aug=diffaug'),
    ],
    'Losses and regularizers': [
        Option('--loss', type=click.Choice(LOSSES), help='Adversarial game [default: logistic]'),
        Option('--reg_type', metavar='LIST',
               help=f'Methods: none, {", ".join(METHODS)} [default: none; relativistic: r2]'),
        *(zoo_option(method, field) for method, field in zoo_fields()),
    ],
    'Transfer learning': [
        Option('--init-from', metavar='NET',
               help=f'Fine-tune a network, with its architecture unless --cfg is given: {", ".join(TRANSFER_NETS)}, any '
               'network file, URL or run directory'),
        Option('--allow-partial', is_flag=True, help='Fine-tune although the file has not all tensors.'),
        Option('--resume', metavar='RUN|NET', help='Continue the run in a directory; anything else starts '
               'from the weights in a file as --init-from does, with the architecture of --cfg [default: noresume]'),
        Option('--freezed', type=Whole('[0, 1000]'), metavar='INT',
               help='Freeze that many layers of D [default: 0]'),
    ],
    'Performance': [
        Option('--device', type=click.Choice(DEVICES),
               help='Where to compute [default: auto]'),
        Option('--ops', type=click.Choice(OPERATORS),
               help='Operators: compiled (native), '
               'plain tensor operations (reference), or what there is [default: auto]'),
        Option('--precision', type=click.Choice(['auto', 'fp32', 'fp16', 'bf16']),
               help='Of the four highest resolutions; auto is fp16 on CUDA, fp32 elsewhere [default: auto]'),
        Option('--fp32', type=bool, metavar='BOOL', help='The same as --precision=fp32 [default: no]'),
        Option('--nhwc', type=bool, metavar='BOOL',
               help='Channels-last memory in reduced precision [default: on CUDA]'),
        Option('--nobench', type=bool, metavar='BOOL', help='Without the cuDNN benchmark [default: no]'),
        Option('--deterministic', type=bool, metavar='BOOL',
               help='The same bits every time on one kind of GPU, at a cost (docs/reliability.md) [default: no]'),
        Option('--allow-tf32', type=bool, metavar='BOOL',
               help='TF32 in convolutions and products of float32 [default: on CUDA, beside reduced precision]'),
        Option('--cuda-graphs', type=click.Choice(['auto', 'off', 'on']),
               help='Replay each phase as a CUDA graph, one launch in place of thousands (docs/gpu.md); auto: on one GPU, '
               'where the methods can [default: auto]'),
        Option('--workers', type=Whole(WORKERS), metavar='INT',
               help='Processes that load images; 0: none [default: 3; tiny: 1]'),
    ],
}

OPTIONS: dict[str, Option] = {}         # By the names that programs have for them: 'batch_gpu'.
for _heading, _options in OPTIONS_BY_HEADING.items():
    for _option in _options:
        _option.heading = _heading
        OPTIONS[_option.name] = _option


def with_options(function: Callable) -> Callable:
    """Gives a function all OPTIONS; `click.command` stands above it."""
    function.__click_params__ = list(OPTIONS.values())[::-1]
    return function


def parse_args(argv: Sequence[str]) -> dict[str, Any]:
    """The options of a command line by their names, None for those that are not given.
    Raises click's errors."""
    return click.Command('train.py', params=[*OPTIONS.values()]).make_context('train.py', [*argv]).params


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, or have a default of their own."""
    unknown = [key for key in options if key not in OPTIONS]
    require(not unknown, f'there is no option {unknown[0] if unknown else ""} (train.py --help lists all)')
    return {key: value for key, value in options.items()
            if value is not None and not (OPTIONS[key].is_flag and not value)}


def with_whole_paths(o: Mapping[str, Any]) -> dict[str, Any]:
    """The same options, with paths that mean the same in every directory:
    they are read again when a run continues."""
    data = {key: ','.join(os.path.abspath(path) if path else path for path in str(o[key]).split(','))
            for key in o if key.endswith(('_data', '_tls'))}
    for key in ('data', 'held_out', 'metricdata'):
        if o.get(key):
            data[key] = os.path.abspath(on_this_machine(o[key], key))
    for key in ('init_from', 'resume'):
        if os.path.isfile(o.get(key, '')):
            data[key] = os.path.abspath(o[key])
    return {**o, **data}


def on_this_machine(path: str, option: str) -> str:
    """The path of a set; one on the Hub is downloaded. Raises UserError."""
    if not hub.is_hub_address(path):
        return path
    try:
        return hub.fetch(path, hub.PACKED, hub.MAX_SET_BYTES)
    except OSError as error:
        raise UserError(f'--{option.replace("_", "-")}: {error}') from error


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Options as one would type them."""
    return [word_of(name, value) for name, value in options.items()]


def word_of(name: str, value: Any) -> str:
    """One option as one would type it."""
    option = OPTIONS[name]
    word = max(option.opts, key=len)
    return word if option.is_flag else f'{word}={int(value) if isinstance(value, bool) else value}'


def argv_of(config: Mapping[str, Any]) -> list[str] | None:
    """What to type behind train.py to repeat a run, recorded or made of what was; None if neither,
    or of another program."""
    if config.get('argv') is not None:
        return config['argv']
    command, run_dir = config.get('command', {'': 0}), config.get('run_dir')
    if run_dir is None or not command.keys() <= OPTIONS.keys():
        return None
    return [f'--outdir={Path(run_dir).parent}',
            *words_of({name: command[name] for name in OPTIONS if name in command})]


def with_argv(config: Config) -> Config:
    """The configuration of a run as it is recorded: with what to type to repeat it."""
    return replace(config, argv=argv_of(replace(config, argv=None)))
