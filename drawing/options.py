"""Options of the scripts that draw with a generator, and the forms that their values take."""
import re
from collections.abc import Sequence
from typing import Any

import click

from dnnlib.numbers import BATCH, PSI, Real, Whole

MAX_SEED = 2 ** 32 - 1


class SeedList(click.ParamType):
    """`a-b` (both included) or `a,b,c`; seeds are 0 to 2^32 - 1."""
    name = 'seeds'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Sequence[int]:
        if not isinstance(value, str):
            return value
        if span := re.fullmatch(r'(\d+)-(\d+)', value.strip()):
            seeds: Sequence[int] = range(int(span[1]), int(span[2]) + 1)
        elif re.fullmatch(r'\s*\d+\s*(,\s*\d+\s*)*', value):
            seeds = [int(seed) for seed in value.split(',')]
        else:
            self.fail(f'{value!r} is neither a range like 0-7 nor a list like 1,5,9', param, ctx)
        if not seeds:
            self.fail(f'{value!r} is empty: the first number must not be above the second', param, ctx)
        if max(seeds) > MAX_SEED:
            self.fail(f'{max(seeds)} is too large: at most {MAX_SEED}', param, ctx)
        return seeds


class GridSize(click.ParamType):
    """`WxH`: tiles across and down."""
    name = 'WxH'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r'([1-9]\d{0,3})x([1-9]\d{0,3})', value)
        if not match:
            self.fail(f'{value!r} is not a size like 8x4 (tiles across x tiles down)', param, ctx)
        return int(match[1]), int(match[2])


class NumberList(click.ParamType):
    """`a,b,c`: numbers."""
    name = 'numbers'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if not isinstance(value, str):
            return value
        try:
            return [float(number) for number in value.split(',')]
        except ValueError:
            self.fail(f'{value!r} is not a list of numbers like 0,0.5,1', param, ctx)


def choose_ops(ctx: click.Context, param: click.Parameter, name: str) -> None:
    """Sets what operators run on, for this process. `load_generator` checks that it can be had."""
    if name != 'auto':
        from torch_utils.ops import backend
        backend.set_default(name)


ops_option = click.option(
    '--ops', type=click.Choice(['auto', 'native', 'reference']), default='auto', show_default=True, expose_value=False,
    callback=choose_ops, help='Operators: compiled (native), plain tensor operations (reference), or what there is.')


def common_options(command: Any) -> Any:
    """The options of every script that draws with a generator."""
    for option in reversed([
        click.option('--network', required=True, metavar='FILE|URL|DIR',
                     help='Network file, its URL, or a run directory (its newest snapshot is taken).'),
        click.option('--trunc', 'truncation_psi', type=Real(PSI), default=1, show_default=True,
                     help='Truncation psi: below 1 trades variety for quality, 0 is the average picture.'),
        click.option('--class', 'class_idx', type=Whole('[0, inf)'), metavar='INDEX',
                     help='Class to draw (conditional networks).'),
        click.option('--noise-mode', type=click.Choice(['const', 'random', 'none']), default='const',
                     show_default=True, help='Noise inputs: the stored ones, fresh ones, or zero.'),
        click.option('--outdir', required=True, metavar='DIR', help='Where pictures go; created if missing.'),
        click.option('--batch', type=Whole(BATCH), default=8, show_default=True,
                     help='Pictures computed at a time. Does not change them.'),
        click.option('--device', type=click.Choice(['auto', 'cpu', 'cuda', 'mps']), default='auto', show_default=True,
                     help='What computes.'),
        ops_option,
    ]):
        command = option(command)
    return command
