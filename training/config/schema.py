"""What a run's configuration says, and what one can type for it: every entry once, with its meaning, unit, range, default,
and whether a run that goes on may change it.

All else is made of this: the options of `train.py` (options.py), what its `--dry-run` prints, `training_options.json`, what
is compared when a run goes on, what reports show, and docs/options.md. A file may be a
stranger's: `Config.from_json` takes nothing that is not declared here. Imports no torch.

An entry has the name of the option that sets it. What it becomes as an argument of a class, and was called in files of
before, stands in `at`; read like a dictionary, a configuration has these arguments (`config['G_kwargs']`).
The options of a method are declared in its own file: `--ggdr_weight` is `regularizers.ggdr.weight`.
"""
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar

import click

from dnnlib.computing import DEVICES, OPERATORS
from dnnlib.numbers import BATCH, PROCESSES, SEED, WORKERS, Real, Whole
from torch_utils.network_schema import classes_for
from training.config import problems
from training.config.arguments import as_arguments, as_entries, contradictions
from training.config.base_configs import CONFIG_NAMES
from training.config.methods import LOSSES, METHODS, zoo_fields
from training.config.presets import PRESETS
from training.config.setting import NO, WITH_OVERRIDE, YES, Typed, fields_of, setting
from training.config.sources import TRANSFER_NETS

# What entries were called in version 0.1.0 before they had the names of their options; still read.
RENAMED = {
    'total_kimg': 'kimg', 'kimg_per_tick': 'tick', 'image_snapshot_ticks': 'snap',
    'network_snapshot_ticks': 'snap',
    'snapshot_formats': 'snapshot_format', 'logs': 'log', 'random_seed': 'seed', 'num_gpus': 'gpus',
    'batch_size': 'batch', 'augment_p': 'p', 'ada_target': 'target',
}

AUGMENT_PIPES = ('blit', 'geom', 'color', 'filter', 'noise', 'cutout', 'bg', 'bgc', 'bgcf', 'bgcfn', 'bgcfnc', 'r3gan')

# The headings of `--help`.
HEADINGS = GENERAL, DATA, BASE, AUGMENTATION, METHOD, TRANSFER, SPEED = (
    'General', 'Data', 'Base configuration', 'Augmentation', 'Losses and regularizers', 'Transfer learning', 'Performance')


@dataclass(frozen=True, kw_only=True)
class OfTheCommand:
    """Options that say nothing about the run itself."""
    outdir: str = setting('Where the run gets a directory of its own.', typed=Typed(GENERAL, metavar='DIR'))
    config: str = setting('Options from a file (.toml, .json), or those of the run in a directory; options that are given win '
                          '(docs/options.md)', typed=Typed(GENERAL, 'none', 'FILE'))
    download_detectors: bool = setting(
        'Fetch missing weights of the detectors of --metrics from their official addresses.',
        typed=Typed(GENERAL, is_flag=True))
    dry_run: bool = setting('Print the configuration and stop.',
                            typed=Typed(GENERAL, words=('-n', '--dry-run'), is_flag=True))
    new: bool = setting('Start anew; without it, the same command continues an unfinished run.',
                        typed=Typed(GENERAL, is_flag=True))
    override: bool = setting('Continue a run although its settings or data have changed.', typed=Typed(GENERAL, is_flag=True))
    preset: str = setting('Options for so many images: below 500, up to 50 000, more; printed, and options that are given win '
                          '(docs/choosing.md)', choices=tuple(PRESETS), typed=Typed(BASE, 'none'))


@dataclass(frozen=True, kw_only=True)
class Bundles:
    """Options that stand for several entries."""
    cfg: str = setting('Base configuration', choices=CONFIG_NAMES, typed=Typed(BASE, 'auto'))
    aug: str = setting('Augmentation', choices=('noaug', 'ada', 'fixed', 'linear', 'diffaug', 'diffusion'),
                       typed=Typed(AUGMENTATION, 'ada'))
    augpipe: str = setting('Which transformations', choices=AUGMENT_PIPES, typed=Typed(AUGMENTATION, 'bgc'))
    reg_type: str = setting(f'Methods: none, {", ".join(METHODS)}',
                            typed=Typed(METHOD, 'none; relativistic: r2', 'LIST', words=('--reg_type',)))
    precision: str = setting('Of the four highest resolutions; auto is fp16 on CUDA, fp32 elsewhere',
                             choices=('auto', 'fp32', 'fp16', 'bf16'), typed=Typed(SPEED, 'auto'))
    fp32: bool = setting('The same as --precision=fp32', typed=Typed(SPEED, 'no'))


@dataclass(frozen=True, kw_only=True)
class DataShape:
    """What the data sets of a run have in common."""
    c_dim: int = setting('Numbers in a label; 0 without labels', within='[0, inf)')
    img_resolution: int = setting('Width and height of an image', unit='pixels', within='[1, 65536]')
    img_channels: int = setting('Channels of an image', within='[1, 4]')


@dataclass(frozen=True, kw_only=True)
class KeepRule:
    """Which saved states are kept."""
    newest: int = setting('The newest so many', within='[1, inf)')
    best: bool = setting('The one with the best score')
    every_kimg: float | None = setting('The first at or after each multiple', unit='kimg', within='(0, inf)')


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How images are loaded."""
    prefetch_factor: int | None = setting('Batches that each process loads ahead', within='[1, inf)', default=None)
    pin_memory: bool = setting('In memory from which a GPU copies faster', default=False)


@dataclass(frozen=True, kw_only=True)
class DataSetArguments:
    """What a data set is opened with, beside what options say."""
    class_name: str = setting('Its class', default='training.dataset.ImageFolderDataset')
    path: str | None = setting('Folder or zip', default=None)
    resolution: int | None = setting('Width and height of an image', unit='pixels', within='[1, 65536]',
                                     default=None)
    random_seed: int | None = setting('Of the choice that --subset makes', within=SEED, default=None)


@dataclass(frozen=True, kw_only=True)
class OptimizerArguments:
    """What an optimizer is made with, beside its learning rate."""
    class_name: str = setting('Its class')
    betas: list[float] = setting('Decay of the averages of gradients and of their squares', within='[0, 1)')
    eps: float = setting('Added to the root of the latter', within='[0, inf)')
    fused: bool | None = setting('Is a step one kernel?', default=None)


@dataclass(frozen=True, kw_only=True)
class EpilogueArguments:
    """Of D's last block."""
    is_open: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class CriticArguments:
    """What D is made with, as far as others than its class read it."""
    is_open: ClassVar[bool] = True
    epilogue_kwargs: dict = setting('Of its last block', table=EpilogueArguments)


@dataclass(frozen=True, kw_only=True)
class LossArguments:
    """Of the terms that every run has. The entries METHOD_OPTION are
    those of the methods that every run has."""
    is_open: ClassVar[bool] = True
    game: str = setting('What D and G play')


@dataclass(frozen=True, kw_only=True, eq=False)
class Config(Mapping):
    """The configuration of a run. Its attributes, and the file, are its entries; read like a dictionary it has
    the arguments that they become: `config.mirror`, and `config['training_set_kwargs']['xflip']`."""

    # The run.
    run_dir: str | None = setting('Directory of the run', changes=YES, default=None)
    command: dict = setting('The options of train.py that were given', changes=YES)
    argv: list[str] | None = setting('The same as one would type them to repeat the run', changes=YES, default=None)
    gpus: int = setting('Processes, one per GPU; a power of two', within=PROCESSES, changes=YES, typed=Typed(GENERAL, '1'))
    snap: int = setting('Ticks between snapshots', unit='ticks', within='[1, inf)', changes=YES,
                        typed=Typed(GENERAL, '50; tiny: 5', 'TICKS'))
    metrics: list[str] = setting('Metrics at each snapshot, or none', changes=YES,
                                 typed=Typed(GENERAL, 'fid50k_full; tiny: none'))
    seed: int = setting('Random seed', within=SEED, typed=Typed(GENERAL, '0'))
    snapshot_format: list[str] | None = setting(
        'Files of each network snapshot: native (.safetensors), pkl (for programs that know the official snapshots)',
        changes=YES, default=None, typed=Typed(GENERAL, 'native'))
    keep: dict = setting('Saved states to keep: the newest NUMBER[,best][,every=KIMG]', table=KeepRule, changes=YES,
                         typed=Typed(GENERAL, '2,best', 'LIST'))
    log: list[str] = setting('Logs beside stats.jsonl: none, tensorboard, wandb, mlflow, trackio', changes=YES,
                             default_factory=list, typed=Typed(GENERAL, 'tensorboard if it is installed'))

    # The data.
    data: list[str] = setting('Folder or zip of square images, all of one size; hf://datasets/USER/REPO[/FILE.zip].',
                              changes=YES, at=('data_paths',), typed=Typed(DATA, metavar='PATH', kind=click.STRING))
    data_fingerprints: list[str] = setting('SHA-256 of the images and labels of each data set')
    data_num_images: list[int] | None = setting('Images of each', unit='images', within='[0, inf)',
                                                changes=YES, default=None)
    data_shape: dict = setting('What they have in common', table=DataShape, changes=NO)
    training_set_kwargs: dict | None = setting('Further arguments of the data set; null if a method opens its own',
                                               table=DataSetArguments)
    centre_kwargs: dict | None = setting('Those that the data sets have in common which a method opens',
                                         table=DataSetArguments, default=None)
    cond: bool | None = setting('Learn the classes of the data set', default=None, typed=Typed(DATA, 'no'),
                                at=('training_set_kwargs.use_labels', 'centre_kwargs.use_labels'))
    labels_from: str | None = setting(
        'Where classes come from: dataset.json, or the names of subfolders', default=None,
        at=('training_set_kwargs.labels_from', 'centre_kwargs.labels_from'),
        typed=Typed(DATA, 'json', kind=click.Choice(['json', 'folders'])))
    subset: int | None = setting('Train with that many images only', unit='images', within='[1, inf)', default=None,
                                 at=('training_set_kwargs.max_size', 'centre_kwargs.max_size'), typed=Typed(DATA, 'all'))
    held_out: str | None = setting('Images of which D is only asked what it thinks: the overfitting gap',
                                   changes=YES, default=None, typed=Typed(DATA, 'what --subset leaves out', 'PATH'))
    metricdata: str | None = setting(
        'Images that --metrics compare with: of a protocol that trains on few and scores against all',
        changes=YES, default=None, typed=Typed(DATA, 'those of the run', 'PATH'))
    mirror: bool | None = setting('Double the data by mirror images', default=None, typed=Typed(DATA, 'no'),
                                  at=('training_set_kwargs.xflip', 'centre_kwargs.xflip'))
    mirrory: bool | None = setting('Double them by images upside down: for data without an up, as from microscopes',
                                   default=None, typed=Typed(DATA, 'no'),
                                   at=('training_set_kwargs.yflip', 'centre_kwargs.yflip'))

    # Networks, optimizers, and the step.
    G: str | None = setting('Class of the generator', default=None, at=('G_kwargs.class_name',),
                            typed=Typed(BASE, 'Generator', kind=click.Choice(list(classes_for('G'))), words=('--G', 'G')))
    D: str | None = setting('Class of the critics', default=None, at=('D_kwargs.class_name',),
                            typed=Typed(BASE, 'Discriminator', kind=click.Choice(list(classes_for('D'))), words=('--D', 'D')))
    gamma: float | None = setting('Weight of R1', within='[0, inf)', default=None, at=('loss_kwargs.r1_gamma',),
                                  typed=Typed(BASE, 'by --cfg'))
    kimg: float = setting('Length of the run in thousands of images', unit='kimg', within='(0, inf)', changes=YES,
                          typed=Typed(BASE, 'by --cfg', 'INT', kind=Whole('[1, inf)')))
    batch: int = setting('Images per iteration', unit='images', within=BATCH, typed=Typed(BASE, 'by --cfg'))
    batch_gpu: int = setting('Images at once on one GPU', unit='images', within=BATCH, typed=Typed(BASE, 'by --cfg'))
    tick: float = setting('Thousands of images in a tick', unit='kimg', within='(0, inf)', changes=YES,
                          typed=Typed(BASE, '4; tiny: 1', 'KIMG'))
    glr: float = setting('Learning rate of G', within='(0, inf)', at=('G_opt_kwargs.lr',),
                         typed=Typed(BASE, 'by --cfg', kind=Real('(0, 1]')))
    dlr: float = setting('Learning rate of D', within='(0, inf)', at=('D_opt_kwargs.lr',),
                         typed=Typed(BASE, 'by --cfg', kind=Real('(0, 1]')))
    cbase: int | None = setting(
        'Width of the networks: channels times resolution, up to --cmax', within='[1, inf)', default=None,
        at=('G_kwargs.synthesis_kwargs.channel_base', 'D_kwargs.channel_base'),
        typed=Typed(BASE, 'by --cfg', kind=Whole('[1, 1048576]')))
    cmax: int | None = setting('Most channels of a layer', within='[1, inf)', default=None,
                               typed=Typed(BASE, 'by --cfg', kind=Whole('[1, 8192]')),
                               at=('G_kwargs.synthesis_kwargs.channel_max', 'D_kwargs.channel_max'))
    map_depth: int | None = setting("Layers of G's mapping network", within='[0, inf)', default=None,
                                    at=('G_kwargs.mapping_kwargs.num_layers',),
                                    typed=Typed(BASE, 'by --cfg', kind=Whole('[1, 64]')))
    mbstd_group: int = setting(
        'Images in a group of the minibatch standard deviation; 0: none, D looks at every image alone', within='[0, 65536]',
        at=('D_kwargs.epilogue_kwargs.mbstd_group_size',), typed=Typed(BASE, 'by --cfg'))
    mixing_prob: float = setting('Share of the images that are made of two latents (style mixing)', within='[0, 1]',
                                 at=('loss_kwargs.style_mixing_prob',), typed=Typed(BASE, 'by --cfg'))
    ramp_kimg: float | None = setting(
        'In how many thousands of images the numbers of --cfg=r3gan, or the strength of --aug=linear, go from their first to '
        'their last values', unit='kimg', within='(0, inf)', changes=YES, default=None,
        typed=Typed(BASE, '--kimg; r3gan: at most 20000', 'KIMG'))
    ramps: dict | None = setting('Those numbers (training/ramp.py): [first, last]', default=None)
    ramp_shape: str | None = setting('Their way there', choices=('cosine', 'linear'), default=None)
    G_kwargs: dict = setting('Further arguments of the generator')
    D_kwargs: dict = setting('Further arguments of the discriminator', table=CriticArguments)
    G_opt_kwargs: dict = setting("Further arguments of G's optimizer, before the rates of lazy regularization",
                                 table=OptimizerArguments)
    D_opt_kwargs: dict = setting("Further arguments of D's optimizer, before the rates of lazy regularization",
                                 table=OptimizerArguments)
    ema_kimg: float = setting('Half-life of the average of G; 0: it is G', unit='kimg', within='[0, inf)',
                              typed=Typed(BASE, 'by --cfg', 'KIMG'))
    ema_rampup: float | None = setting(
        'Share of the images shown so far that this half-life is at most; 0: no ramp-up', within='[0, inf)',
        typed=Typed(BASE, 'by --cfg; fine-tuning: 0', kind=Real('[0, 1]')))

    # Augmentation.
    augment_kwargs: dict | None = setting('Arguments of the augmentation; not given: none', default=None)
    p: float | None = setting('Strength for --aug=fixed; one that --aug=diffusion keeps instead of adapting it',
                              within='[0, 1]', default=None, typed=Typed(AUGMENTATION))
    target: float | None = setting('What --aug=ada holds the sign statistic at; the last strength of --aug=linear',
                                   within='[0, 1]', default=None, typed=Typed(AUGMENTATION, '0.6'))
    ada_signal: str | None = setting(
        "What --aug=ada holds at --target: the mean sign of D's logits on reals, or how much worse D rates images that it does "
        'not learn from (--held-out, --subset), r_v', choices=('heldout',), default=None,
        typed=Typed(AUGMENTATION, 'signs', kind=click.Choice(['signs', 'heldout'])))
    ada_interval: int = setting('From one adaptation to the next', unit='iterations', within='[1, inf)')
    ada_kimg: float = setting('In how many thousands of images the strength of --aug=ada can rise from 0 to 1', unit='kimg',
                              within='(0, inf)', typed=Typed(AUGMENTATION, 'by --cfg', 'KIMG'))
    diffusion_t: str | None = setting(
        'Of --aug=diffusion: are long diffusions likelier, or all alike?', choices=('priority', 'uniform'), default=None,
        at=('augment_kwargs.chance',), typed=Typed(AUGMENTATION, 'priority'))
    diffusion_append: bool | None = setting(
        'Of --aug=diffusion: is D told how many steps an image went, as one more number of its labels?', default=None,
        at=('augment_kwargs.append',), typed=Typed(AUGMENTATION, 'no'))
    diffaugment: str | None = setting('Policies of DiffAugment (color,translation,cutout); implies --aug=diffaug', default=None,
                                      at=('augment_kwargs.policy',),
                                      typed=Typed(AUGMENTATION, metavar='LIST', words=('--DiffAugment', 'diffaugment')))

    # Losses and regularizers.
    loss: str = setting('Adversarial game', typed=Typed(METHOD, 'logistic', kind=click.Choice(LOSSES)))
    loss_options: dict | None = setting('Options of the game, if it has any', default=None)
    loss_kwargs: dict = setting('Further weights and switches of the terms that every run has', table=LossArguments)
    regularizers: dict = setting('Options of each method')
    G_reg_interval: int | None = setting("From one lazy step of G to the next; null: G has none",
                                         unit='iterations', within='[1, inf)')
    D_reg_interval: int | None = setting("From one lazy step of D to the next; null: D has none",
                                         unit='iterations', within='[1, inf)')

    # Transfer learning.
    init_from: str | None = setting(
        f'Fine-tune a network, with its architecture unless --cfg is given: {", ".join(TRANSFER_NETS)}, any '
        'network file, URL or run directory', default=None, typed=Typed(TRANSFER, metavar='NET'))
    allow_partial: bool | None = setting('Fine-tune although the file has not all tensors.', default=None,
                                         typed=Typed(TRANSFER, is_flag=True))
    resume: str | None = setting('Continue the run in a directory; anything else starts from the weights in a file as '
                                 '--init-from does, with the architecture of --cfg', default=None, at=('resume_pkl',),
                                 typed=Typed(TRANSFER, 'noresume', 'RUN|NET'))
    freezed: int | None = setting('Freeze that many layers of D', within='[0, 1000]', default=None,
                                  at=('D_kwargs.block_kwargs.freeze_layers',), typed=Typed(TRANSFER, '0'))

    # Where and how it is computed.
    device: str = setting('Where to compute', choices=DEVICES, changes=YES, typed=Typed(SPEED, 'auto'))
    ops: str = setting('Operators: compiled (native), plain tensor operations (reference), or what there is',
                       choices=OPERATORS, changes=YES, default='auto', typed=Typed(SPEED, 'auto'))
    nhwc: bool | None = setting(
        'Channels-last memory in reduced precision', default=None, typed=Typed(SPEED, 'on CUDA'),
        at=('G_kwargs.synthesis_kwargs.fp16_channels_last', 'D_kwargs.block_kwargs.fp16_channels_last'))
    nobench: bool = setting('Without the cuDNN benchmark', changes=YES, at=('cudnn_benchmark',), typed=Typed(SPEED, 'no'))
    deterministic: bool = setting('The same bits every time on one kind of GPU, at a cost (docs/reliability.md)', changes=YES,
                                  default=False, typed=Typed(SPEED, 'no'))
    allow_tf32: bool = setting('TF32 in convolutions and products of float32',
                               typed=Typed(SPEED, 'on CUDA, beside reduced precision'))
    cuda_graphs: str = setting('Replay each phase as a CUDA graph, one launch in place of thousands (docs/gpu.md); auto: on one '
                               'GPU, where the methods can', choices=('auto', 'off', 'on'), changes=YES, default='auto',
                               typed=Typed(SPEED, 'auto'))
    exchange: str = setting(
        'Type in which gradients travel between processes; bf16 is half the bytes, and rounds (docs/scaling.md)',
        choices=('fp32', 'bf16'), changes=YES, default='fp32', typed=Typed(SPEED, 'fp32'))
    workers: int = setting('Processes that load images; 0: none', within=WORKERS, changes=YES,
                           at=('data_loader_kwargs.num_workers',), typed=Typed(SPEED, '3; tiny: 1'))
    data_loader_kwargs: dict = setting('How images are loaded, beside that', table=Loading, changes=YES)

    @classmethod
    def from_json(cls, values: Any) -> 'Config':
        """From plain data, also of before, or with arguments in place of entries. Raises ValueError with a
        sentence that names the entry which is wrong."""
        problem = problem_of(values)
        if problem:
            raise ValueError(problem)
        return cls(**with_names_of_now(values))

    def to_json(self) -> dict[str, Any]:
        """As plain data: its entries."""
        return {name: getattr(self, name) for name, field in fields_of(Config).items()
                if getattr(self, name) is not None or field.default is not None}

    @cached_property
    def _arguments(self):
        return as_arguments(self.to_json(), PLACES)

    def __getitem__(self, name: str) -> Any:
        return self._arguments[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arguments)

    def __len__(self) -> int:
        return len(self._arguments)


PLACES = {name: field.metadata['at'] for name, field in fields_of(Config).items() if field.metadata['at']}


def may_change(name: str) -> str:
    """May a run that goes on have another value of this entry? `YES`, `WITH_OVERRIDE` or `NO`;
    dots lead into tables."""
    field = fields_of(Config).get(name.split('.')[0])
    return field.metadata['changes'] if field else WITH_OVERRIDE


def option_name(entry: str) -> str:
    """What the option is called that says an entry; dots lead into tables. Those of methods have the method's name before
    them: `regularizers.ggdr.weight` is `ggdr_weight`, and `loss_kwargs.pl_weight` is `pl_weight`."""
    table, _, name = entry.partition('.')
    if table == 'regularizers' and '.' in name:
        return name.replace('.', '_', 1)
    return name if table == 'loss_kwargs' and name in meanings_of_methods() else entry


@cache
def meanings_of_methods() -> dict[str, str]:
    """{METHOD_OPTION: what it means}"""
    return {f'{method}_{field.name}': field.help for method, field in zoo_fields()}


def meanings(table: type = Config, prefix: str = '') -> dict[str, str]:
    """{entry: what it means} of a configuration; dots lead into tables."""
    found = {}
    for name, field in fields_of(table).items():
        unit, inner = field.metadata['unit'], field.metadata['table']
        found[prefix + name] = field.metadata['help'] + (f' ({unit})' if unit else '')
        found |= meanings(inner, f'{prefix}{name}.') if inner else {}
    return found


def with_names_of_now(values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain data of a configuration, by the names that its entries have today."""
    return as_entries({RENAMED.get(name, name): value for name, value in values.items()}, PLACES)


def problem_of(values: Any, complete: bool = True) -> str | None:
    """What is wrong with the plain data of a configuration, as a sentence that names the entry; None if
    nothing is.

    complete: else entries may be missing, and there may be others: enough to show a run, not to go on with
        it.
    """
    if problem := problems.problem_of_data(values):
        return problem
    return next(two_names(values), None) or problems.problem_of_classes(now := with_names_of_now(values)) \
        or next(problems.problems_of(Config, now, complete), None)


def two_names(values: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about entries that say different things under two names."""
    names: dict[str, str] = {}
    for name in values:
        other = names.setdefault(RENAMED.get(name, name), name)
        if other != name and values[other] != values[name]:
            yield f'{other}={problems.shown(values[other])} and {name}={problems.shown(values[name])} are two names of one entry'
    yield from contradictions(values, PLACES)
