"""What the generator's site and a centre must have in common, and what crosses between them."""
import enum
import hashlib
import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from torch_utils.wire.message import BadMessage, Header, TensorForm

PROTOCOL = 3
MAX_LABELS = 100_000            # Different labels of a centre.
MAX_LABEL_NUMBERS = 2 ** 24     # In all of them.
MAX_STATISTICS = 256            # In one answer.
MAX_TEXT = 500                  # Characters of a sentence from the other end.
STATISTIC = re.compile(r'Loss/[\w/]{1,80}|Progress/nonfinite_grads', re.ASCII)
MAX_NAMES = 1000                # Of statistics of all centres.
MAX_COUNT = 1e12                # Of the values in one of them.
NAME = re.compile(r'[A-Za-z0-9][\w.-]{0,62}', re.ASCII)

# Of the configuration: what both ends must have alike. Nothing in it says where anything is.
COMMON = ('data_shape', 'centre_kwargs', 'G_kwargs', 'D_kwargs', 'G_opt_kwargs', 'D_opt_kwargs', 'batch', 'batch_gpu', 'loss',
          'loss_options', 'loss_kwargs', 'regularizers', 'G_reg_interval', 'D_reg_interval', 'augment_kwargs', 'p', 'target',
          'ada_interval', 'ada_kimg', 'seed', 'kimg', 'allow_tf32')

# Options of the command that cross, so that a centre can make the same configuration of them. No path is among them.
CROSSING = ('cfg', 'seed', 'kimg', 'batch', 'batch_gpu', 'gamma', 'glr', 'dlr', 'cbase', 'cmax', 'map_depth', 'mbstd_group',
            'mixing_prob', 'aug', 'p', 'target', 'ada_kimg', 'augpipe', 'diffaugment', 'diffusion_t', 'diffusion_append', 'loss',
            'reg_type', 'freezed', 'nhwc', 'allow_tf32', 'cond', 'mirror')


class Disagreement(BadMessage):
    """What came is a sound message, and the other end cannot be worked with: trying again would not help."""


class Kind(enum.IntEnum):
    """Kinds of messages."""
    HELLO = 1                   # A centre says who it is.
    WELCOME = 2                 # The generator's site says what will be done.
    READY = 3                   # The centre agrees.
    REFUSED = 4                 # Either end does not; with a sentence.
    ENTER = 10                  # A stage begins or goes on.
    JUDGE = 11                  # Fakes; the answer is what G learns of them.
    LEARN = 12                  # Fakes that a critic learns from.
    LEARN_FROM_REALS = 16       # A critic learns without fakes.
    JUDGE_AND_LEARN = 18        # Both at once, of the same fakes.
    MEASURED = 17               # An iteration in which shares of methods were measured is over.
    MOMENTS = 19                # Moments of the features of a centre's images are asked for, which it may refuse.
    SAVE = 13
    LEAVE = 14                  # The stage is over.
    END = 15                    # The run is over, or stops for now.
    ANSWER = 20
    FAILED = 21                 # The centre cannot; with a sentence.


def number_of(names: str, name: str) -> int | None:
    """Which of the centres in a comma list is called so; None if none is."""
    known = names.split(',')
    return known.index(name) if name in known else None


def digests(config: Mapping[str, Any], local: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """{entry: a hash} of all that both ends must have alike. `local`: options of methods that may differ."""
    found = {}
    for name in COMMON:
        value = config.get(name)
        if name == 'regularizers':
            value = {method: {key: item for key, item in options.items() if key not in local.get(method, ())}
                     for method, options in value.items()}
        text = json.dumps(value, sort_keys=True, default=str)
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:24]
    return found


def difference(ours: Mapping[str, str], theirs: Any) -> str | None:
    """The first entry in which two configurations differ; None if they are alike."""
    theirs = theirs if isinstance(theirs, Mapping) else {}
    return next((name for name in ours if ours[name] != theirs.get(name)), None)


def crossing_options(config: Mapping[str, Any], own: frozenset[str]) -> dict[str, Any]:
    """The options of a run that centres are told. `own`: options of methods that stay here."""
    command = config['command']
    chosen = {*config['regularizers'], config['loss'], 'pl', 'r1', 'genco'}
    methods = [name for name in command if '_' in name and name.partition('_')[0] in chosen and name not in own]
    options = {name: command[name] for name in command if name in CROSSING or name in methods}
    return {**options, 'precision': precision_of(config)}


def precision_of(config: Mapping[str, Any]) -> str:
    """--precision of a configuration, where `auto` has been decided."""
    kwargs = config['D_kwargs']
    if not kwargs.get('num_fp16_res'):
        return 'fp32'
    return 'bf16' if kwargs.get('reduced_dtype') == 'bfloat16' else 'fp16'


IMAGE_TYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'uint8': torch.uint8}
GRAD_TYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}


def packed_images(img: torch.Tensor, kind: str) -> torch.Tensor:
    """Images [N,C,H,W] in about -1..1 as they travel."""
    img = img.detach().cpu()
    return (img * 127.5 + 128).clamp(0, 255).to(torch.uint8) if kind == 'uint8' else img.to(IMAGE_TYPES[kind])


def unpacked_images(img: torch.Tensor, kind: str) -> torch.Tensor:
    """The same as they are shown to a critic."""
    return img.float() / 127.5 - 1 if kind == 'uint8' else img.float()


def image_form(config: Mapping[str, Any], kind: str) -> TensorForm:
    """What may come of images: up to a micro-batch of them."""
    shape = config['data_shape']
    size = shape['img_resolution']
    return TensorForm(IMAGE_TYPES[kind], (config['batch_gpu'], shape['img_channels'], size, size), (True, False, False, False))


def most_labels(c_dim: int) -> int:
    """How many different labels of so many numbers a centre may say it has: they get memory before anything else is known."""
    return min(MAX_LABELS, MAX_LABEL_NUMBERS // max(c_dim, 1))


def label_form(config: Mapping[str, Any], num: int) -> TensorForm:
    """Up to so many labels."""
    return TensorForm(torch.float32, (num, config['data_shape']['c_dim']), (True, False))


def moments_forms(widths: Mapping[str, int]) -> dict[str, TensorForm]:
    """Means and scatter matrices for each tap of a detector; of no size if the centre does not give them."""
    forms = {}
    for tap, width in widths.items():
        forms[f'{tap}.mean'] = TensorForm(torch.float64, (width,), (True,))
        forms[f'{tap}.scatter'] = TensorForm(torch.float64, (width, width), (True, True))
    return forms


def answer_forms(grad: TensorForm | None, more: Mapping[str, TensorForm] = MappingProxyType({})):
    """What may come back from a centre."""
    forms = dict(statistics=TensorForm(torch.float64, (MAX_STATISTICS, 3), (True, False)),
                 signs=TensorForm(torch.float32, (16, 2), (True, False)))
    forms.update(more)
    table = {Kind.ANSWER: forms if grad is None else {**forms, 'grad': grad}, Kind.FAILED: {}, Kind.REFUSED: {}}
    return of_kinds(table)


def of_kinds(table: Mapping[int, Mapping[str, TensorForm]]):
    """What may come, as a function of a message's header: messages of these kinds alone."""
    def forms(header: Header) -> Mapping[str, TensorForm]:
        if header.kind not in table:
            raise BadMessage(f'a message of kind {header.kind} came, which nobody asked for')
        return table[header.kind]
    return forms


def text_of(values: Mapping[str, Any], name: str = 'text') -> str:
    """A sentence from the other end, harmless on a terminal."""
    value = values.get(name)
    text = value if isinstance(value, str) else 'no reason was given'
    return ''.join(c if c.isprintable() else '?' for c in text[:MAX_TEXT])


def whole(values: Mapping[str, Any], name: str, most: int = 2 ** 62) -> int:
    """A whole number from the other end. Raises BadMessage."""
    value = values.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise BadMessage(f'{name} is no whole number from 0 to {most}')
    return value


def real(values: Mapping[str, Any], name: str, least: float = 0.0, most: float = 1e9) -> float:
    """A number from the other end. Raises BadMessage."""
    value = values.get(name)
    if type(value) not in (int, float) or not least <= value <= most:
        raise BadMessage(f'{name} is no number from {least:g} to {most:g}')
    return float(value)
