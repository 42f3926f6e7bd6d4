"""The generator's site: what is in the answers of a centre, which may be wrong."""
from collections.abc import Mapping

from torch import Tensor

from losses_ext.sites import agreement
from torch_utils import training_stats
from torch_utils.wire.message import Message
from training.run.health import CannotGoOn


def report_moments(answer: Message, known: set[str]) -> None:
    """Reports what a centre has reported; all names join those that are known. Raises CannotGoOn for what is no statistic of
    a step."""
    names, rows = answer.values.get('statistics'), answer.tensors['statistics']
    if not isinstance(names, list) or len(names) != len(rows) or not all(
            isinstance(name, str) and agreement.STATISTIC.fullmatch(name) for name in names):
        raise CannotGoOn('a centre sends statistics that were not agreed')
    known.update(names)
    if len(known) > agreement.MAX_NAMES or not ((rows[:, 0] >= 0) & (rows[:, 0] <= agreement.MAX_COUNT)).all():
        raise CannotGoOn('a centre sends statistics that no step has')
    for name, row in zip(names, rows):
        training_stats.report_moments(name, row.tolist())


def moments_in(answer: Message, widths: Mapping[str, int], name: str) -> dict[str, tuple[int, Tensor, Tensor]]:
    """What a centre says of its features. Raises ValueError if it says why not, or what no features have."""
    if 'text' in answer.values:
        raise ValueError(f'the centre {name}: {agreement.text_of(answer.values)}')
    num, tensors = agreement.whole(answer.values, 'num', 10 ** 12), answer.tensors
    found = {tap: (num, tensors[f'{tap}.mean'], tensors[f'{tap}.scatter']) for tap in widths}
    if num < 2 or not all(len(mean) == widths[tap] == len(scatter) and scatter.isfinite().all() and mean.isfinite().all()
                          for tap, (_, mean, scatter) in found.items()):
        raise ValueError(f'the centre {name} sends moments that no features have')
    return found


def ignore(answer: Message) -> None:
    """There is nothing in it."""
