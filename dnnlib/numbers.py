"""Which numbers an option may have: the one place that reads them from a command line and checks their range.

A range is an interval as it is written in mathematics, '[0, 1)' or '(0, inf)',
and stands where the option is declared:

    @click.option('--fps', type=Whole('[1, 120]'), default=30)

Neither NaN nor infinity is in any interval. One that is open to infinity ends at `LARGEST`, and what is
nearer to 0 than `LEAST` is refused: beyond them, products in float32 overflow or vanish, and pictures turn
black without any error.
"""
import math
import re
from typing import Any

import click

LARGEST = 1e9
LEAST = 1e-30
SEED = '[0, 4294967295]'        # What NumPy's and torch's generators all take.
PROCESSES = '[1, 1024]'         # Of --gpus.
WORKERS = '[0, 1024]'
BATCH = '[1, 65536]'            # Images at a time.
PSI = '[-100, 100]'             # Truncation; 1 is none, 0 the average picture, -1 its mirror.


def is_within(value: float, within: str) -> bool:
    """Is this a number in the interval?"""
    low, high = _borders(within)
    above = value > low if within[0] == '(' and low > -LARGEST else value >= low
    below = value < high if within[-1] == ')' and high < LARGEST else value <= high
    return above and below and not _vanishes(value)


def in_words(within: str, value: float = math.nan) -> str:
    """An interval as the words of an error: '[0, 1)' becomes 'at least 0 and less than 1'. If `number` is
    beyond `LARGEST`, they name that limit.
    """
    if _vanishes(value):
        return f'0, or further from 0 than {LEAST:g}'
    low, high = _borders(within)
    words = []
    if low > -LARGEST or value < low:
        words.append(f'{"more than" if within[0] == "(" and low > -LARGEST else "at least"} {_written(low)}')
    if high != LARGEST or value > high:
        words.append(f'{"less than" if within[-1] == ")" and high < LARGEST else "at most"} {_written(high)}')
    return ' and '.join(words) or 'finite'


class _Number(click.ParamType):
    """A number of an interval.

    Whatever is wrong is one sentence that names the option and says what would do.
    """
    kind = 'number'

    def __init__(self, within: str):
        # A mistake in the interval shows where the option is declared, not when it is first used.
        _borders(within)
        self.within = within

    def parse(self, text: str) -> Any:
        """The number that is written there. Raises ValueError if it is none."""
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        option = max(param.opts, key=len) if param is not None else self.name
        try:
            number = self.parse(str(value))
        except ValueError:
            number = math.nan
        if math.isnan(number):
            shown = str(value) if len(str(value)) <= 40 else f'{str(value)[:40]}...'
            raise OutOfRange(f'{option}={shown}: must be {self.kind}, {in_words(self.within)}', ctx, param)
        if not is_within(number, self.within):
            raise OutOfRange(f'{option}={_written(number)}: must be {in_words(self.within, number)}', ctx,
                             param)
        return number

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.within!r})'


class Whole(_Number):
    """A whole number of an interval, as the type of a click option."""
    name = 'integer'
    kind = 'a whole number'

    def parse(self, text: str) -> int:
        if not re.fullmatch(r'\s*[+-]?[0-9]{1,30}\s*', text):
            raise ValueError(text)
        return int(text)


class Real(_Number):
    """A finite number of an interval, as the type of a click option."""
    name = 'float'
    kind = 'a number'

    def parse(self, text: str) -> float:
        if not text.isascii() or '_' in text:  # Python also takes 1_0 for 10, and digits of other scripts.
            raise ValueError(text)
        return float(text)


class RealOrWord(Real):
    """The same, or one of some words instead."""

    def __init__(self, within: str, words: tuple[str, ...]):
        super().__init__(within)
        self.words = words
        self.kind = f'{", ".join(words)} or a number'

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value in self.words else super().convert(value, param, ctx)


class OutOfRange(click.BadParameter):
    """A number that an option cannot have; the sentence names the option itself."""

    def format_message(self) -> str:
        return self.message


def _borders(within: str) -> tuple[float, float]:
    """Lowest and highest number of an interval, infinite ones replaced."""
    match = re.fullmatch(r'[\[(](\S+), (\S+)[\])]', within)
    assert match, f'{within!r} is no interval like "[0, 1)"'
    low, high = float(match[1]), float(match[2])
    return max(low, -LARGEST), LARGEST if math.isinf(high) else high


def _vanishes(value: float) -> bool:
    return 0 < abs(value) < LEAST


def _written(value: float) -> str:
    """Like %g, but whole numbers with all their digits."""
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else f'{value:g}'
