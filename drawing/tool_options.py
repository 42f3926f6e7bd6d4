"""Options of the scripts that make pictures with a generator, and the forms that their values take."""
import io
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import click

from dnnlib.computing import OPERATORS, device_option
from dnnlib.numbers import BATCH, PSI, SEED, Real, Whole, is_within
from dnnlib.reading import read_file

MAX_SEEDS = 1_000_000  # Seeds of one command. A longer list is a mistake, or work for several commands.
MAX_COLUMNS = 1000              # Numbers of --trunc-sheet.
LABEL = '[-1000000, 1000000]'   # Each number of a label that is a vector.
MAX_NPY_HEADER = 2 ** 16        # Bytes.


class SeedList(click.ParamType):
    """Numbers and ranges `a-b` (both included), separated by commas; seeds are 0 to 2^32 - 1."""
    name = 'seeds'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sequence[int]:
        if not isinstance(value, str):
            return value
        if not re.fullmatch(r'\s*[0-9]+(\s*-\s*[0-9]+)?\s*(,\s*[0-9]+(\s*-\s*[0-9]+)?\s*)*', value):
            self.fail(f'{shortened(value)} is no list of numbers and ranges like 1,5,9 or 0-3,7,9-11', param,
                      ctx)
        spans = [self._span(part.strip(), param, ctx) for part in value.split(',')]
        if sum(map(len, spans)) > MAX_SEEDS:
            self.fail(f'{shortened(value)} are {sum(map(len, spans))} numbers, at most {MAX_SEEDS} are taken at once', param, ctx)
        return spans[0] if len(spans) == 1 else list(chain.from_iterable(spans))

    def _span(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> range:
        ends = [part.strip().lstrip('0') or '0' for part in text.split('-')]
        for end in ends:
            if len(end) > 10 or not is_within(int(end), SEED):
                self.fail(f'{end[:40]} is too large: at most {2 ** 32 - 1}', param, ctx)
        first, last = int(ends[0]), int(ends[-1])
        if first > last:
            self.fail(f'{text!r} is empty: the first number must not be above the second', param, ctx)
        return range(first, last + 1)


class GridSize(click.ParamType):
    """`WxH`: tiles across and down."""
    name = 'WxH'

    def convert(self, value: Any, param: click.Parameter | None,
                ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r'([1-9][0-9]{0,3})x([1-9][0-9]{0,3})', value)
        if not match:
            self.fail(f'{shortened(value)} is not a size like 8x4 (tiles across x tiles down)', param, ctx)
        return int(match[1]), int(match[2])


class NumberList(click.ParamType):
    """`a,b,c`: numbers, each in an interval (dnnlib/numbers.py)."""
    name = 'numbers'

    def __init__(self, within: str, max_length: int):
        self.number, self.max_length = Real(within), max_length

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if not isinstance(value, str):
            return value
        parts = value.split(',')
        if len(parts) > self.max_length:
            self.fail(f'{len(parts)} numbers, at most {self.max_length} are taken', param, ctx)
        try:
            for part in parts:
                float(part)
        except ValueError:
            self.fail(f'{shortened(value)} is not a list of numbers like 0,0.5,1', param, ctx)
        return [self.number.convert(part, param, ctx) for part in parts]


class Label(NumberList):
    """A label that is a vector: `a,b,c`, or an .npy file that holds it."""
    name = 'label'

    def __init__(self):
        super().__init__(LABEL, 100_000)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, str) and value.endswith('.npy'):
            value = ','.join(map(repr, self._read(value, param, ctx)))
        return super().convert(value, param, ctx)

    def _read(self, path: str, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        from numpy.lib import format as npy
        try:
            data = read_file(path, self.max_length * 8 + MAX_NPY_HEADER)
        except OSError as error:
            self.fail(f'{path} cannot be read: {error.strerror or error}', param, ctx)
        try:
            array = npy.read_array(io.BytesIO(data), allow_pickle=False)
        except Exception:               # NumPy raises many things on a file that is something else.
            self.fail(f'{path} is not an .npy file with one vector of numbers', param, ctx)
        if array.dtype.kind not in 'fiu' or array.ndim == 0 or not 0 < array.size == array.shape[-1]:
            self.fail(f'{path} is not an .npy file with one vector of numbers ({array.dtype} {list(array.shape)})', param, ctx)
        return array.astype(float).reshape(-1).tolist()


def shortened(text: str) -> str:
    """A value as an error repeats it."""
    return repr(text if len(text) <= 40 else f'{text[:40]}...')


def choose_ops(ctx: click.Context, param: click.Parameter, name: str) -> None:
    """Sets what operators run on, for this process. `load_generator` checks that it can be had."""
    if name != 'auto':
        from torch_utils.ops import backend
        backend.set_default(name)


ops_option = click.option(
    '--ops', type=click.Choice(OPERATORS), default='auto', show_default=True,
    expose_value=False,
    callback=choose_ops,
    help='Operators: compiled (native), plain tensor operations (reference), or what there is.')
class_option = click.option('--class', 'class_idx', type=Whole('[0, inf)'), metavar='INDEX',
                            help='Class to show (conditional networks).')
label_option = click.option('--label', type=Label(), metavar='A,B,..|FILE.npy',
                            help='Label to show, where labels are vectors and not classes (conditional networks).')


def common_options(command: Any) -> Any:
    """The options of every script that makes pictures with a generator."""
    for option in reversed([
        click.option('--network', required=True, metavar='FILE|URL|DIR',
                     help='Network file, its URL, or a run directory (its newest snapshot is taken).'),
        click.option('--trunc', 'truncation_psi', type=Real(PSI), default=1, show_default=True,
                     help='Truncation psi: below 1 trades variety for quality, 0 is the average picture.'),
        class_option,
        label_option,
        click.option('--noise-mode', type=click.Choice(['const', 'random', 'none']), default='const',
                     show_default=True, help='Noise inputs: the stored ones, fresh ones, or zero.'),
        click.option('--outdir', required=True, metavar='DIR', help='Where pictures go; created if missing.'),
        click.option('--batch', type=Whole(BATCH), default=8, show_default=True,
                     help='Pictures computed at a time. Does not change them.'),
        device_option,
        ops_option,
    ]):
        command = option(command)
    return command
