"""What a run's configuration says: every entry once, with its meaning, unit, range, and whether a run that
goes on may change it.

This is `training_options.json`, what `train.py --dry-run` prints, what is compared when a run goes on, and
the second table of docs/options.md. A file may be a stranger's: `Config.from_json` takes nothing that is not
declared here. Imports no torch.

An entry that is what one option says has that option's name. Other names are the reference's, for scripts
that read its `training_options.json`: the tables of arguments (`training_set_kwargs`, in which --mirror is
`xflip`, `G_kwargs`, ...), `resume_pkl` (--resume is a directory, too), `cudnn_benchmark` (the opposite of
--nobench). Names of before: `RENAMED`.
"""
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, get_args, get_origin

from dnnlib.computing import DEVICES, OPERATORS
from dnnlib.numbers import BATCH, PROCESSES, SEED, WORKERS, in_words, is_within
from torch_utils import network_schema

# May a run that goes on have another value? It is compared with the value that was saved.
YES, WITH_OVERRIDE, NO = 'yes', 'with --override', 'no'

# The classes that a configuration may name beside those of networks (network_schema.CLASSES): no other is
# looked up.
CLASSES = ('training.dataset.ImageFolderDataset', 'torch.optim.Adam')

# What entries were called in version 0.1.0 before they had the names of their options; still read.
RENAMED = {
    'total_kimg': 'kimg', 'kimg_per_tick': 'tick', 'image_snapshot_ticks': 'snap',
    'network_snapshot_ticks': 'snap',
    'snapshot_formats': 'snapshot_format', 'logs': 'log', 'random_seed': 'seed', 'num_gpus': 'gpus',
    'batch_size': 'batch', 'augment_p': 'p', 'ada_target': 'target',
}

MAX_DEPTH = 32              # Of tables and lists in each other.


def setting(help: str, *, unit: str = '', within: str = '', choices: tuple[str, ...] = (),
            table: type | None = None, changes: str = WITH_OVERRIDE, **default: Any) -> Any:
    """An entry of a configuration, or of a table in it.

    unit: empty if it has none.
    within: an interval of numbers, as in dnnlib/numbers.py.
    choices: words, if nothing else would do.
    table: the class that declares what stands in it, if it is a table whose entries are checked; others may
        stand beside them if that has `is_open`.
    changes: may a run that goes on have another value?
    default: what it is in a file that does not have it, as older ones may not; without one every file must
        have it. An entry whose default is None is left out where it is None.
    """
    metadata = dict(help=help, unit=unit, within=within, choices=choices, table=table, changes=changes)
    return dataclasses.field(metadata=metadata, **default)


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
    num_workers: int = setting('Processes that load images', within=WORKERS)
    prefetch_factor: int | None = setting('Batches that each of them loads ahead', within='[1, inf)',
                                          default=None)
    pin_memory: bool = setting('In memory from which a GPU copies faster', default=False)


@dataclass(frozen=True, kw_only=True)
class DataSetArguments:
    """What a data set is opened with."""
    class_name: str = setting('Its class', default='training.dataset.ImageFolderDataset')
    path: str | None = setting('Folder or zip', default=None)
    resolution: int | None = setting('Width and height of an image', unit='pixels', within='[1, 65536]',
                                     default=None)
    max_size: int | None = setting('A choice of so many images; null: all', within='[1, inf)', default=None)
    random_seed: int | None = setting('Of the choice', within=SEED, default=None)
    use_labels: bool = setting('Are its labels learnt?', default=False)
    labels_from: str | None = setting('Where they come from', default=None)
    xflip: bool = setting('Is every image there as its mirror image, too?', default=False)


@dataclass(frozen=True, kw_only=True)
class OptimizerArguments:
    """What an optimizer is made with."""
    class_name: str = setting('Its class')
    lr: float = setting('Learning rate', within='(0, inf)')
    betas: list[float] = setting('Decay of the averages of gradients and of their squares', within='[0, 1)')
    eps: float = setting('Added to the root of the latter', within='[0, inf)')
    fused: bool | None = setting('Is a step one kernel?', default=None)


@dataclass(frozen=True, kw_only=True)
class EpilogueArguments:
    """Of D's last block."""
    is_open: ClassVar[bool] = True
    mbstd_group_size: int = setting('Images in a group of the minibatch standard deviation', within=BATCH)


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
    style_mixing_prob: float = setting('Share of the images that are made of two latents', within='[0, 1]')


@dataclass(frozen=True, kw_only=True, eq=False)
class Config(Mapping):
    """The configuration of a run. It is read like a dictionary, too: `config['kimg']`."""

    # The run.
    run_dir: str | None = setting('Directory of the run', changes=YES, default=None)
    command: dict = setting('The options of train.py that were given', changes=YES)
    argv: list[str] | None = setting('The same as one would type them to repeat the run', changes=YES,
                                     default=None)
    seed: int = setting('Of everything that is random', within=SEED)
    gpus: int = setting('Processes, one per GPU', within=PROCESSES, changes=YES)
    kimg: float = setting('Length of the run', unit='kimg', within='(0, inf)', changes=YES)
    tick: float = setting('Length of a tick', unit='kimg', within='(0, inf)', changes=YES)
    snap: int = setting('From one snapshot and picture of fakes to the next', unit='ticks', within='[1, inf)',
                        changes=YES)
    snapshot_format: list[str] | None = setting('Files of each network snapshot; not given: native',
                                                changes=YES, default=None)
    keep: dict = setting('Which saved states are kept', table=KeepRule, changes=YES)
    metrics: list[str] = setting('Metrics at each snapshot', changes=YES)
    log: list[str] = setting('Logs beside stats.jsonl', changes=YES, default_factory=list)

    # The data.
    data_paths: list[str] = setting('The data sets; they are compared by data_fingerprints', changes=YES)
    data_fingerprints: list[str] = setting('SHA-256 of the images and labels of each')
    data_num_images: list[int] | None = setting('Images of each', unit='images', within='[0, inf)',
                                                changes=YES, default=None)
    data_shape: dict = setting('What they have in common', table=DataShape, changes=NO)
    training_set_kwargs: dict | None = setting('Arguments of the data set; null if a method opens its own',
                                               table=DataSetArguments)
    centre_kwargs: dict | None = setting('What the data sets that a method opens have in common',
                                         table=DataSetArguments, default=None)
    held_out: str | None = setting('Images that D never learns from, to measure the overfitting gap',
                                   changes=YES, default=None)
    metricdata: str | None = setting('Images that the metrics compare with; not given: those of the run',
                                     changes=YES, default=None)
    data_loader_kwargs: dict = setting('How images are loaded', table=Loading, changes=YES)

    # Networks and optimizers.
    G_kwargs: dict = setting('Arguments of the generator')
    D_kwargs: dict = setting('Arguments of the discriminator', table=CriticArguments)
    G_opt_kwargs: dict = setting("Arguments of G's optimizer, before the rates of lazy regularization",
                                 table=OptimizerArguments)
    D_opt_kwargs: dict = setting("Arguments of D's optimizer, before the rates of lazy regularization",
                                 table=OptimizerArguments)
    ema_kimg: float = setting('Half-life of the average of G', unit='kimg', within='[0, inf)')
    ema_rampup: float | None = setting('Share of the images shown so far that it is at most; null: no ramp-up', within='[0, inf)')
    init_from: str | None = setting('Network file that the run fine-tunes, with its architecture',
                                    default=None)
    allow_partial: bool | None = setting('May that file lack tensors?', default=None)
    resume_pkl: str | None = setting('Network file that the run starts from', default=None)

    # The step.
    batch: int = setting('Images per iteration', unit='images', within=BATCH)
    batch_gpu: int = setting('Images at once on one GPU', unit='images', within=BATCH)
    loss: str = setting('Adversarial game')
    loss_options: dict | None = setting('Options of the game, if it has any', default=None)
    loss_kwargs: dict = setting('Weights and switches of the terms that every run has', table=LossArguments)
    regularizers: dict = setting('Options of each method')
    G_reg_interval: int | None = setting("From one lazy step of G to the next; null: G has none",
                                         unit='iterations', within='[1, inf)')
    D_reg_interval: int | None = setting("From one lazy step of D to the next; null: D has none",
                                         unit='iterations', within='[1, inf)')

    # Augmentation.
    augment_kwargs: dict | None = setting('Arguments of the augmentation; not given: none', default=None)
    p: float | None = setting('Its strength at the start', within='[0, 1]', default=None)
    target: float | None = setting("Mean sign of D's logits on reals that its strength is adapted to; not given: it is not",
                                   within='[0, 1]', default=None)
    ada_signal: str | None = setting('What its strength follows instead: heldout is the overfitting r_v, once in a tick',
                                     choices=('heldout',), default=None)
    ada_interval: int = setting('From one adaptation to the next', unit='iterations', within='[1, inf)')
    ada_kimg: float = setting('In which the strength can rise from 0 to 1', unit='kimg', within='(0, inf)')

    # Where and how it is computed.
    device: str = setting('Where to compute', choices=DEVICES, changes=YES)
    ops: str = setting('Operators', choices=OPERATORS, changes=YES, default='auto')
    cudnn_benchmark: bool = setting('Does cuDNN try its algorithms first?', changes=YES)
    deterministic: bool = setting('Only algorithms that add up in one order?', changes=YES, default=False)
    allow_tf32: bool = setting('TF32 in convolutions and products')
    cuda_graphs: str = setting('Is a phase one launch?', choices=('auto', 'off', 'on'), changes=YES, default='auto')

    @classmethod
    def from_json(cls, values: Any) -> 'Config':
        """From plain data, also of before. Raises ValueError with a
        sentence that names the entry which is wrong."""
        problem = problem_of(values)
        if problem:
            raise ValueError(problem)
        return cls(**with_names_of_now(values))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dict(self)

    def __getitem__(self, name: str) -> Any:
        if name not in _fields(Config) or self._is_left_out(name):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in _fields(Config) if not self._is_left_out(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _is_left_out(self, name):
        return _fields(Config)[name].default is None and getattr(self, name) is None


@cache
def _fields(table: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(table)}


def may_change(name: str) -> str:
    """May a run that goes on have another value of this entry? `YES`, `WITH_OVERRIDE` or `NO`;
    dots lead into tables."""
    field = _fields(Config).get(name.split('.')[0])
    return field.metadata['changes'] if field else WITH_OVERRIDE


def with_names_of_now(values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain data of a configuration with the names that its entries have today."""
    return {RENAMED.get(name, name): value for name, value in values.items()}


def problem_of(values: Any, complete: bool = True) -> str | None:
    """What is wrong with the plain data of a configuration, as a sentence that names the entry; None if
    nothing is.

    complete: else entries may be missing, and there may be others: enough to show a run, not to go on with
        it.
    """
    if not isinstance(values, Mapping):
        return f'it holds {_shown(values)}, no configuration'
    if _is_too_deep(values):
        return f'it is nested more than {MAX_DEPTH} times'
    if _has_nul(values):
        return 'a text in it has a character that no name has (NUL)'
    for name, value in leaves(values):
        if name.endswith('class_name') and value not in (*CLASSES, *network_schema.CLASSES):
            return f'{_shown(name)}={_shown(value)} is none of its classes'
    return next(_contradictions(values), None) or next(_problems(Config, with_names_of_now(values), complete),
                                                       None)


def _contradictions(values: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about entries that say different things under an old and a new name,
    or under two old ones."""
    names: dict[str, str] = {}
    for name in values:
        other = names.setdefault(RENAMED.get(name, name), name)
        if other != name and values[other] != values[name]:
            yield f'{other}={_shown(values[other])} and {name}={_shown(values[name])} are two names of one entry'


def _is_too_deep(value: Any) -> bool:
    """Are lists and tables nested more than MAX_DEPTH times?"""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for outer in level if isinstance(outer, Mapping | list)
                 for item in (outer.values() if isinstance(outer, Mapping) else outer)]
    return bool(level)


def _has_nul(value: Any) -> bool:
    """Is there a text with a character NUL, which no operating system takes in a name?"""
    if isinstance(value, Mapping):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return any(map(_has_nul, value)) if isinstance(value, list) else isinstance(value, str) and '\0' in value


def _problems(table: type, values: Mapping[str, Any], complete: bool, prefix: str = '') -> Iterator[str]:
    """Sentences about what is wrong with the entries of a table."""
    for name in values:
        if complete and name not in _fields(table) and not getattr(table, 'is_open', False):
            yield f'there is no entry {_shown(prefix + name)}'
    for name, field in _fields(table).items():
        if name in values:
            yield from _problems_of_value(prefix + name, values[name], field, complete)
        elif complete and field.default is field.default_factory is dataclasses.MISSING:
            yield f'{prefix}{name} is missing'


def _problems_of_value(name: str, value: Any, field: dataclasses.Field, complete: bool) -> Iterator[str]:
    within, choices, table = (field.metadata[key] for key in ('within', 'choices', 'table'))
    if not _is_a(field.type, value):
        yield f'{name}={_shown(value)}: must be {kind_in_words(field.type)}'
    elif choices and value not in choices:
        yield f'{name}={_shown(value)}: must be one of {", ".join(choices)}'
    elif table and value is not None:
        yield from _problems(table, value, complete, f'{name}.')
    elif within and value is not None:
        for number in value if isinstance(value, list) else [value]:
            if not is_within(number, within):
                yield f'{name}={_shown(number)}: must be {in_words(within, number)}'


def _is_a(kind: Any, value: Any) -> bool:
    """Is a value of plain data of this type? A whole number is a number, too; true and false are none."""
    if isinstance(kind, UnionType):
        return any(_is_a(part, value) for part in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_a(get_args(kind)[0], item) for item in value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)


KINDS_IN_WORDS = {int: 'a whole number', float: 'a number', str: 'a text', bool: 'true or false',
                  dict: 'a table', list[str]: 'a list of texts', list[float]: 'a list of numbers',
                  list[int]: 'a list of whole numbers', NoneType: 'null'}


def kind_in_words(kind: Any) -> str:
    """'a whole number or null': a type, as part of a sentence."""
    parts = get_args(kind) if isinstance(kind, UnionType) else [kind]
    return ' or '.join(KINDS_IN_WORDS[part] for part in parts)


def _shown(value: Any) -> str:
    """The beginning of a text, or of the JSON of something else."""
    text = value if isinstance(value, str) and value.isprintable() else json.dumps(value, default=str)
    return text if len(text) <= 40 else f'{text[:40]}...'


def leaves(value: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    """(name, value) of all entries that are no tables; dots lead into those."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, item in value.items():
        yield from leaves(item, f'{name}.{key}' if name else key)
