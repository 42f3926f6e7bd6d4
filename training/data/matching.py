"""Which entry of a label file belongs to which image, where the two do not write the names alike.

Equal names belong together. The rest is compared regardless of spelling (back slashes, './', composed and
decomposed accents), and then of letter case, as far as that leaves one entry for one image. If nothing
matches, all names may differ by one common beginning: an absolute path, or a folder too many on either side.
"""
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

MAX_DEPTH = 16          # Folders around all images that may be left out, at most.


class Match(NamedTuple):
    """The entries that belong to images, and an example of two names that are not equal, (of the file,
    of the image)."""
    by_image: dict[str, Any]
    example: tuple[str, str] | None = None


class AmbiguousError(ValueError):
    """The names fit in several ways. Arguments: two names in the file that fit one image, and that image's
    name."""


def match(entries: dict[str, Any], image_names: Sequence[str]) -> Match:
    """The entries {name in the file: label} as {image name: label}, as far as they are certain.

    Raises:
        AmbiguousError: several beginnings fit equally well.
    """
    found = {name: name for name in image_names if name in entries}  # {image name: name in the file}
    for key in (_spelling, _letters):
        if len(found) < len(image_names):
            used = set(found.values())
            theirs = _unique((name for name in entries if name not in used), key)
            ours = _unique((name for name in image_names if name not in found), key)
            found |= {name: theirs[k] for k, name in ours.items() if k in theirs}
            if not found and len(ours) == len(image_names):
                found = _by_beginning(theirs, ours)
    example = next(((theirs, ours) for ours, theirs in found.items() if theirs != ours), None)
    return Match({ours: entries[theirs] for ours, theirs in found.items()}, example)


def _spelling(name: str) -> str:
    name = name.replace('\\', '/')
    if name[:1] in ('/', '.') or '//' in name or '/.' in name:
        name = '/'.join(part for part in name.split('/') if part not in ('', '.'))
    return name if name.isascii() else unicodedata.normalize('NFC', name)


def _letters(name: str) -> str:
    return _spelling(name).casefold()


def _unique(names: Iterable[str], key: Callable[[str], str]) -> dict[str, str]:
    """{key: name}, without the keys that several names have."""
    by_key, several = {}, set()
    for name in names:
        k = key(name)
        if by_key.setdefault(k, name) != name:
            several.add(k)
    for k in several:
        del by_key[k]
    return by_key


def _by_beginning(theirs: dict[str, str], ours: dict[str, str]) -> dict[str, str]:
    """{image name: name in the file}, from {key: name} of both, for all images or for none.

    It compares as much of the images' names as possible: folders around all images are left out one by one,
    the outermost first, until something fits.
    """
    for depth in range(min(_common_depth(ours), MAX_DEPTH) + 1):
        inner = {k.split('/', depth)[-1]: name for k, name in ours.items()} if depth else ours
        fitting = list(_fitting_beginnings(list(inner), theirs))
        if len(fitting) > 1:
            k = next(iter(inner))
            raise AmbiguousError(theirs[fitting[0] + k], theirs[fitting[1] + k], inner[k])
        if fitting:
            return {name: theirs[fitting[0] + k] for k, name in inner.items()}
    return {}


def _common_depth(names: Iterable[str]) -> int:
    """The number of folders, from the outside, that all of the names have in common."""
    parents = [name.split('/')[:-1] for name in names]
    first, last = min(parents), max(parents)
    return next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))


def _fitting_beginnings(names: list[str], known: dict[str, str]) -> Iterator[str]:
    """Beginnings that turn all of the names into known ones: '' or a path that ends in a slash."""
    end = names[0]
    for candidate in known:
        beginning = candidate[:len(candidate) - len(end)]
        if candidate.endswith(end) and beginning[-1:] in ('', '/') and all(beginning + name in known for name in names):
            yield beginning
