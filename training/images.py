"""Image files as 8-bit arrays: the conversion rules that the data set and `dataset_tool.py` share.

Whatever Pillow reads becomes uint8 [H, W, C], C = 1 (grey) or 3 (RGB), by the mode that it is stored in:

    1, L, I;16, I                 grey; 16 bits keep their upper eight, as Pillow does for 16-bit colour
    LA                            grey, flattened on the background
    RGB, CMYK, YCbCr, HSV         RGB
    P                             RGB by its palette, even if all its colours are grey
    RGBA, PA, transparent P/RGB   RGB, flattened on the background (white unless told otherwise)

Anything else (floating point, L*a*b*, integers beyond 16 bits) has no agreed 8-bit form and is refused. The EXIF
orientation is applied, colour profiles are ignored, and of an animation the first frame counts.
"""
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

WHITE = (255, 255, 255)
MAX_PIXELS = 2 ** 27            # Of one image; larger ones are refused before they are decoded.

COLOR_CHOICES = ('auto', 'rgb', 'gray')

_GREY_MODES = {'1', 'L', 'LA', 'I', 'I;16', 'I;16L', 'I;16B', 'I;16N'}
_COLOR_MODES = {'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr', 'HSV'}

# Formats that Pillow hands to outside programs (EPS), or knows by name only.
_UNDECODED_FORMATS = {'EPS', 'WMF', 'BUFR', 'GRIB', 'HDF5', 'MPEG'}

# EXIF orientation -> what turns the stored picture upright; 5 to 8 exchange width and height.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(OSError):
    """A file that is no usable image; the text is the reason alone, without the file's name."""


def is_image_name(name: str) -> bool:
    """Whether the extension is one of an image format, in upper or lower case.

    `._NAME` and everything below `__MACOSX` are notes that macOS leaves beside the files that it packs.
    """
    folder, _, file_name = name.rpartition('/')
    if file_name.startswith('._') or '__MACOSX' in folder.split('/'):
        return False
    dot = file_name.rfind('.')
    return dot > 0 and file_name[dot:].lower() in _formats_by_extension()


def decode(data: bytes, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """The image in `data` as uint8 [H, W, C], C = 1 or 3, by the rules at the head of this file; not to be written to.

    Raises:
        ImageError: `data` is damaged, no image, too large, or of a kind without an 8-bit form.
    """
    with _opened(io.BytesIO(data)) as image:
        return _to_pixels(_upright(image), background)


def read_shape(file: BinaryIO) -> tuple[int, int, int]:
    """The shape, (H, W, C), that `decode` would give for this open file, from the header if the image is square.

    Raises:
        ImageError: as `decode`, as far as the header tells.
    """
    with _opened(file) as image:
        if image.width != image.height:
            image = _upright(image)
        return image.height, image.width, 1 if image.mode in _GREY_MODES else 3


def recolor(pixels: np.ndarray, color: str) -> np.ndarray:
    """`pixels` uint8 [H, W, C] in grey (luma, ITU-R 601), in RGB, or as they are; `color` is one of COLOR_CHOICES."""
    assert color in COLOR_CHOICES, f'{color!r} is not one of {COLOR_CHOICES}'
    if color == 'rgb' and pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if color == 'gray' and pixels.shape[2] == 3:
        return from_pillow(to_pillow(pixels).convert('L'))
    return pixels


def to_pillow(pixels: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] as a Pillow image of mode L (C = 1) or RGB (C = 3)."""
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def from_pillow(image: Image.Image) -> np.ndarray:
    """A Pillow image of mode L or RGB as uint8 [H, W, C], not to be written to."""
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def encode_png(pixels: np.ndarray) -> bytes:
    """`pixels` uint8 [H, W, C] as an uncompressed PNG, which is quick to read in every epoch."""
    file = io.BytesIO()
    to_pillow(pixels).save(file, format='png', compress_level=0, optimize=False)
    return file.getvalue()


@cache
def _formats_by_extension() -> dict[str, str]:
    """'.png' -> 'PNG' and so on, for every format that Pillow itself can decode."""
    known = Image.registered_extensions()
    return {ext: name for ext, name in known.items() if name in Image.OPEN and name not in _UNDECODED_FORMATS}


@cache
def _formats() -> tuple[str, ...]:
    """The formats to try, the two usual ones first."""
    return tuple(dict.fromkeys(['PNG', 'JPEG', *_formats_by_extension().values()]))


@contextmanager
def _opened(file: BinaryIO) -> Iterator[Image.Image]:
    """The image with its header read and its size checked. Whatever Pillow raises meanwhile becomes an ImageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)     # MAX_PIXELS decides.
            warnings.simplefilter('ignore', UserWarning)                        # Oddities beside the pixels.
            with Image.open(file, formats=_formats()) as image:
                _check_header(image)
                yield image
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError('not an image in a known format') from None
    except Exception as error:      # On damaged files Pillow's readers let almost any exception escape.
        raise ImageError(str(error) or type(error).__name__) from error


def _check_header(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f'{image.width}x{image.height} pixels are more than the {MAX_PIXELS} that are allowed')
    if image.mode not in _GREY_MODES | _COLOR_MODES:
        raise ImageError(f'pixels of mode {image.mode} have no 8-bit form')


def _upright(image: Image.Image) -> Image.Image:
    """The image, decoded and turned as its EXIF block says."""
    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:               # A damaged EXIF block counts as none, as in picture viewers.
        orientation = None
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_pixels(image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    if image.mode.startswith('I'):
        return _upper_bits(np.array(image))[:, :, None]
    mode = 'L' if image.mode in _GREY_MODES else 'RGB'
    if image.has_transparency_data:
        return _flatten(np.array(image.convert(mode + 'A')), background)
    return from_pillow(image if image.mode == mode else image.convert(mode))


def _upper_bits(values: np.ndarray) -> np.ndarray:
    """16-bit grey to 8 bits. A 32-bit image must hold 16-bit values: there is no other range to assume."""
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f'pixel values from {values.min()} to {values.max()} exceed 16 bits')
    return (values >> 8).astype(np.uint8)


def _flatten(pixels: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Pixels over a background, rounded to nearest; uint8 [H, W, C + 1] with alpha last -> [H, W, C], C = 1 or 3."""
    color, alpha = pixels[:, :, :-1].astype(np.uint32), pixels[:, :, -1:].astype(np.uint32)
    behind = recolor(np.array([[background]], dtype=np.uint8), 'rgb' if color.shape[2] == 3 else 'gray')     # [1, 1, C]
    return ((color * alpha + behind * (255 - alpha) + 127) // 255).astype(np.uint8)
