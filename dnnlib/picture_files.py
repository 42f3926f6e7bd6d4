"""The one place through which image files are opened, since anybody may have made them.

Pillow chooses the reader by a file's content, whatever its name.
Some of its readers hand what they find to outside programs (PostScript to Ghostscript), or open what is
nested in a file with every reader there is (IPTC). Used here are those of `FORMATS` alone, none of which does
either, and only if the picture is not larger than it may be.
"""
import os
import re
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

# The readers, in the order in which they try; TGA has no signature and takes much that is none.
# Not among them, though Pillow decodes them itself: what it decodes pixel by pixel in Python (QOI, DDS), and
# what pictures are not kept in.
FORMATS = ('PNG', 'JPEG', 'WEBP', 'AVIF', 'GIF', 'BMP', 'DIB', 'TIFF', 'JPEG2000', 'PPM', 'ICO', 'ICNS',
           'PSD', 'PCX', 'SGI', 'HEIF', 'TGA')      # HEIF: inside `with_heif` alone.

MAX_PIXELS = 2 ** 26            # 8192x8192: decoding takes up to about 1 GiB then.
MAX_FILE_BYTES = 2 ** 29

_TILE_WIDTH, _TILE_LENGTH = 322, 323            # Tags of TIFF.


class PictureError(OSError):
    """A file that is no usable picture; the text is the reason alone, without the file's name."""


class TooManyPixelsError(PictureError):
    """A picture larger than it may be."""

    def __init__(self, found: str, max_pixels: int):
        super().__init__(f'{found} pixels are more than the {max_pixels} that are allowed')


@contextmanager
def open_picture(file: BinaryIO | str | os.PathLike, max_pixels: int = MAX_PIXELS,
                 formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """The picture in an open file or at a path, its header read and its size checked;
    it is decoded when first needed.

    Whatever Pillow raises in the `with` block becomes a PictureError.
    """
    assert set(formats) <= set(FORMATS), f'{formats} are not all among {FORMATS}'
    if isinstance(file, str | os.PathLike):
        with _opened_file(file) as opened, open_picture(opened, max_pixels, formats) as picture:
            yield picture
        return
    with (_as_picture_errors(max_pixels), _pixel_limit(max_pixels),
          Image.open(file, formats=installed_among(tuple(formats))) as picture):
        _check_size(picture, max_pixels)
        # Holds for pictures that are nested in this one.
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        yield picture


def read_picture_file(path: str | os.PathLike) -> bytes:
    """The bytes of a regular file that is not larger than a picture may be; OSError otherwise."""
    with _opened_file(path) as file:
        return file.read()


@contextmanager
def with_heif() -> Iterator[None]:
    """Within it pictures of phones (.heic) are read, too, where pillow-heif is installed.

    For what makes sets, not for what reads them: which files a set consists of must not depend on packages.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        yield
        return
    Image.init()        # Once in a process: readers that it adds later would be taken away below, for good.
    before = dict(Image.OPEN), list(Image.ID), dict(Image.EXTENSION)
    try:
        register_heif_opener()
        _forget_installed()
        yield
    finally:
        for registry, content in zip((Image.OPEN, Image.EXTENSION), (before[0], before[2])):
            registry.clear()
            registry.update(content)
        Image.ID[:] = before[1]
        _forget_installed()


def _forget_installed() -> None:
    extensions.cache_clear()
    installed_among.cache_clear()


@cache
def extensions() -> frozenset[str]:
    """The extensions, '.png' and so on, of the formats that are read here."""
    installed = installed_among(FORMATS)
    return frozenset(ext for ext, name in Image.registered_extensions().items() if name in installed)


@cache
def installed_among(formats: Sequence[str]) -> tuple[str, ...]:
    """Those of the formats that this Pillow was built with."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


@contextmanager
def _opened_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A regular file: others may have no end, or wait for somebody to write."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise PictureError('not a regular file')
    if status.st_size > MAX_FILE_BYTES:
        raise PictureError(f'{status.st_size} bytes are more than the {MAX_FILE_BYTES} that are allowed')
    with open(path, 'rb') as file:
        yield file


@contextmanager
def _as_picture_errors(max_pixels: int) -> Iterator[None]:
    """Turns what Pillow raises into PictureErrors, and hides its warnings, which are about metadata."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)
            # `_check_size` has a better sentence.
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            yield
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        count = re.search(r'\d+', str(error))
        raise TooManyPixelsError(count[0] if count else 'its', max_pixels) from None
    except UnidentifiedImageError:
        raise PictureError('not an image in a known format') from None
    except Exception as error:      # On damaged files Pillow's readers let almost any exception escape.
        raise PictureError(str(error) or type(error).__name__) from error


@contextmanager
def _pixel_limit(max_pixels: int) -> Iterator[None]:
    """Pillow's own limit, which it also applies to pictures within pictures."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    """Refuses what would take too much memory.

    A TIFF is decoded by whole tiles, which may exceed the picture.
    """
    tags = getattr(picture, 'tag_v2', {})
    tile = [tags.get(_TILE_WIDTH, 1), tags.get(_TILE_LENGTH, 1)] if picture.format == 'TIFF' else [1, 1]
    for width, height in (picture.size, tile):
        if width * height > max_pixels:
            raise TooManyPixelsError(f'{width}x{height}', max_pixels)
