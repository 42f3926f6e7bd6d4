"""What the description inside a network file may say. Files come from strangers:
everything is checked before it is used.

Ranges are those of networks that could exist, not of networks that make sense:
they keep out what would compute without end, take memory that nobody has, or fail only when the network is
used. Raises ValueError with one sentence.
"""
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

MAX_FILTER_TAPS = 64
MAX_NETWORKS = 1000
SHOWN = 40              # Characters of a value in a message.


@dataclass(frozen=True)
class Number:
    """A finite number, or a whole one, within bounds; None where that has a meaning."""
    low: float
    high: float
    whole: bool = True
    optional: bool = False

    def accepts(self, value: Any) -> bool:
        """Is the value of this kind?"""
        if value is None:
            return self.optional
        kinds = (int,) if self.whole else (int, float)
        return type(value) in kinds and self.low <= value <= self.high      # NaN is within nothing.

    def __str__(self) -> str:
        kind = 'a whole number' if self.whole else 'a number'
        return f'{kind} between {self.low:g} and {self.high:g}{" or none" if self.optional else ""}'


class Flag:
    """True or false."""

    def accepts(self, value: Any) -> bool:
        """Is the value of this kind?"""
        return type(value) in (bool, int) and value in (0, 1)

    def __str__(self) -> str:
        return 'true or false'


class Filter:
    """Taps of a low-pass filter: none, a number, a list of numbers, or a list of such lists."""

    def accepts(self, value: Any) -> bool:
        """Is the value of this kind?"""
        rows = value if isinstance(value, (list, tuple)) else [1 if value is None else value]
        if len(rows) > MAX_FILTER_TAPS or not rows:
            return False
        if all(isinstance(row, (list, tuple)) and len(row) == len(rows[0]) <= MAX_FILTER_TAPS
               for row in rows):
            rows = [tap for row in rows for tap in row]
        return all(Number(-1e6, 1e6, whole=False).accepts(tap) for tap in rows) and abs(sum(rows)) > 1e-6

    def __str__(self) -> str:
        return f'at most {MAX_FILTER_TAPS} numbers whose sum is not 0'


WIDTH = Number(1, 1 << 16)
SWITCH = Flag()
OPTIONS: dict[str, Number | Flag | Filter] = {      # Of all constructors in training.networks but words.
    'z_dim': Number(0, 1 << 16),
    'c_dim': Number(0, 1 << 20),
    'w_dim': WIDTH,
    'img_resolution': Number(4, 1 << 14),
    'img_channels': Number(1, 1 << 10),
    'num_layers': Number(0, 1000),
    'embed_features': Number(1, 1 << 16, optional=True),
    'layer_features': Number(1, 1 << 16, optional=True),
    'cmap_dim': Number(1, 1 << 16, optional=True),
    'lr_multiplier': Number(1e-8, 1e8, whole=False),
    'w_avg_beta': Number(0, 1, whole=False, optional=True),
    'channel_base': Number(1, 1 << 26),
    'channel_max': WIDTH,
    'num_fp16_res': Number(0, 16),
    'conv_clamp': Number(0, 1e9, whole=False, optional=True),
    'resample_filter': Filter(),
    'kernel_size': Number(1, 31),
    'use_noise': SWITCH,
    'channels_last': SWITCH,
    'fp16_channels_last': SWITCH,
    'use_fp16': SWITCH,
    'trainable': SWITCH,
    'freeze_layers': Number(0, 1000),
    'mbstd_group_size': Number(1, 1 << 16, optional=True),
    'mbstd_num_channels': Number(0, 1 << 10),
    'blocks_per_stage': Number(1, 100),
}

# All classes of networks that a file or an option may name, and as which networks: no other class is ever
# looked up. A line more makes one of your own known (docs/own/network.md).
CLASSES: dict[str, tuple[str, ...]] = {
    'training.networks.Generator': ('G', 'G_ema'),
    'training.networks.Discriminator': ('D',),
    'training.r3gan.R3Generator': ('G', 'G_ema'),
    'training.r3gan.R3Critic': ('D',),
    'training.augment.AugmentPipe': ('augment_pipe',),
    'training.diffaugment.DiffAugment': ('augment_pipe',),
    'training.diffusion.Diffusion': ('augment_pipe',),
}


def classes_for(network: str) -> dict[str, str]:
    """{short name: full name} of the classes that a network of this name can be of."""
    return {short_name(name): name for name, networks in CLASSES.items() if network in networks}


def short_name(class_name: str) -> str:
    """'Generator' of 'training.networks.Generator'."""
    return class_name.rpartition('.')[2]


def require_known(class_name: str) -> None:
    """Raises ValueError for a class that is not in the table."""
    if class_name not in CLASSES:
        raise ValueError(f'class {class_name!r} is not one of {", ".join(CLASSES)}')


def check_options(kwargs: dict[str, Any]) -> None:
    """Compares the numbers among a constructor's arguments, also in nested groups of them,
    with their ranges."""
    for name, value in kwargs.items():
        if name in OPTIONS:
            if not OPTIONS[name].accepts(value):
                raise ValueError(f'{name}={in_words(value)}: must be {OPTIONS[name]}')
        elif isinstance(value, dict):
            check_options(value)


def check_class(network: str, class_name: str) -> None:
    """A network of this name must be of the class that everybody takes it for, not of that of another one."""
    allowed = classes_for(network)
    if allowed and class_name in CLASSES and class_name not in allowed.values():
        raise ValueError(f'{network} is of class {in_words(class_name)}, not {" or ".join(allowed)}')


def check_document(entries: Any, others: dict[str, Any], reserved: Collection[str]) -> None:
    """Of the description in a native snapshot: the table of networks, and what was saved beside it."""
    if not isinstance(entries, dict) or len(entries) > MAX_NETWORKS or not all(map(_is_entry, entries.values())):
        raise ValueError('the description of its networks is malformed')
    for name in entries:
        if not re.fullmatch(r'[A-Za-z]\w{0,99}', name) or name in (*reserved, 'training_set_kwargs', *others):
            raise ValueError(f'a network cannot have the name {in_words(name)}')
    for name, value in others.items():
        if classes_for(name):
            raise ValueError(f'{name} is {in_words(value)}, not a network')
    if not isinstance(others.get('training_set_kwargs'), dict | None):
        raise ValueError('the description of its data set is malformed')
    check_centres(others, _label_dim(entries))


def _is_entry(entry: Any) -> bool:
    return entry is None or (isinstance(entry, dict) and set(entry) == {'class_name', 'kwargs'}
                             and isinstance(entry['class_name'], str) and isinstance(entry['kwargs'], dict))


def _label_dim(entries: dict[str, Any]) -> Any:
    entry = entries.get('G_ema') or entries.get('G')
    return entry['kwargs'].get('c_dim') if entry else None


def check_centres(others: dict[str, Any], c_dim: Any) -> None:
    """`centre_labels` and `centres` of docs/formats.md, where there are any; `c_dim`:
    width of the generator's labels."""
    centres = others.get('centre_labels', [])
    if not isinstance(centres, list) or not all(_is_centre(centre, c_dim, centres[0]) for centre in centres):
        raise ValueError('what it says of its data centres (centre_labels) is malformed or does not fit the generator')
    recorded = others.get('centres')
    if recorded is not None and not (isinstance(recorded, dict)
                                     and all(map(_is_recorded, recorded.values()))):
        raise ValueError('what it says of its data centres (centres) is malformed')


def _is_centre(centre: Any, c_dim: Any, first: Any) -> bool:
    if not isinstance(centre, dict) or not {'index', 'code', 'num', 'labels'} <= centre.keys():
        return False
    code, labels = centre['code'], centre['labels']
    return (Number(0, 1 << 20).accepts(centre['index']) and Number(1, 1 << 40).accepts(centre['num'])
            and _is_vector(code) and isinstance(first, dict) and isinstance(first.get('code'), list)
            and len(code) == len(first['code']) and Number(len(code), 1 << 20).accepts(c_dim)
            and isinstance(labels, list) and len(labels) > 0
            and all(_is_counted_label(row, c_dim - len(code)) for row in labels))


def _is_counted_label(row: Any, num_classes: int) -> bool:
    """[number of a class or vector, count]"""
    if not isinstance(row, list) or len(row) != 2 or not Number(1, 1 << 40).accepts(row[1]):
        return False
    label = row[0]
    return len(label) == num_classes if _is_vector(label) else Number(0, num_classes - 1).accepts(label)


def _is_recorded(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], dict | None) and _is_vector(entry[1])


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and all(Number(-1e9, 1e9, whole=False).accepts(item) for item in value)


def in_words(value: Any) -> str:
    """The value, shortened, for a message."""
    if isinstance(value, (int, float, str, bool, type(None))) and not (isinstance(value, int) and abs(value) > 10 ** 30):
        text = repr(value) if isinstance(value, str) else str(value)
        return text if len(text) <= SHOWN else f'{text[:SHOWN]}...'
    return f'a {type(value).__name__}' if not isinstance(value, int) else 'a number of more than 30 digits'
