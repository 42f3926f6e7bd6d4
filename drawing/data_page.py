"""A page that shows what is in a data set: one HTML file that needs no network and no server."""
import base64
import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from dnnlib import writing
from drawing.page_template import filled

CONTACT = 240           # Thumbnails on the contact sheet.
MOST_SIZES = 20
MOST_NAMES = 200        # Unreadable files that are named.
MOST_GROUPS = 50        # Of duplicates that are shown ...
MOST_IN_GROUP = 12      # ... and pictures in one.
MOST_CLASSES = 500


def write_page(survey: Any, path: str | os.PathLike) -> None:
    """Writes the page about a `training.data.survey.Survey`. Raises OSError."""
    writing.write_bytes(path, page_of(survey).encode(errors='backslashreplace'))


def page_of(survey: Any) -> str:
    """The whole HTML document."""
    sides, sizes = sorted(survey.sides), survey.sizes.most_common()
    in_sight = sum(bool(image.thumb) for image in survey.seen)      # The first ones; others have no thumbnail.
    step = max(-(-in_sight // CONTACT), 1)
    return filled(
        'data_page.html',
        title=os.fsencode(os.path.basename(os.path.abspath(survey.path))).decode(errors='backslashreplace'), mark=writing.MARK,
        num=len(survey.seen), num_unreadable=len(survey.unreadable), unreadable=survey.unreadable[:MOST_NAMES],
        passed_over=survey.passed_over, label_note=survey.label_note, labels=survey.labels, classes=survey.classes[:MOST_CLASSES],
        sizes=sizes[:MOST_SIZES], other_sizes=len(sizes[MOST_SIZES:]),
        num_not_square=sum(image.width != image.height for image in survey.seen),
        least=sides[0] if sides else 0, median=sides[len(sides) // 2] if sides else 0, most=sides[-1] if sides else 0,
        num_duplicates=extra(survey.duplicates), duplicates=shown(survey, survey.duplicates),
        num_near=extra(survey.near), near=shown(survey, survey.near), num_compared=survey.num_compared,
        outliers=[tile(survey, number) for number in survey.outliers],
        contact=[tile(survey, number) for number in range(0, in_sight, step)], step=step, in_sight=in_sight,
        written=f'{datetime.now():%Y-%m-%d %H:%M}')


def extra(groups: Sequence[Sequence[int]]) -> int:
    """How many pictures could go if one of each group stayed."""
    return sum(len(group) - 1 for group in groups)


def shown(survey: Any, groups: Sequence[Sequence[int]]) -> list[list[tuple[str, str]]]:
    """The largest groups, as tiles."""
    largest = sorted(groups, key=len, reverse=True)[:MOST_GROUPS]
    return [[tile(survey, number) for number in group[:MOST_IN_GROUP]] for group in largest]


def tile(survey: Any, number: int) -> tuple[str, str]:
    """(name, URI of the thumbnail or '') of a picture."""
    image = survey.seen[number]
    return image.name, f'data:image/webp;base64,{base64.b64encode(image.thumb).decode()}' if image.thumb else ''
