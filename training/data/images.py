"""Image files as 8-bit arrays: the rules that the data set and `dataset_tool.py` share.

Whatever Pillow reads becomes uint8 [H, W, C], C = 1 (grey) or 3 (RGB), by the mode that it is stored in:

    1, L, I;16, I                 grey; 16 bits keep their upper eight, as Pillow does for 16-bit colour
    LA                            grey, flattened on the background
    RGB, CMYK, YCbCr, HSV         RGB
    P                             RGB by its palette, even if all its colours are grey
    RGBA, PA, transparent P/RGB   RGB, flattened on the background (white unless told otherwise)

Anything else (floating point, L*a*b*, integers beyond 16 bits) has no agreed 8-bit form and is refused.
The EXIF orientation is applied, colour profiles are ignored, and of an animation the first frame counts.
"""
import io
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from dnnlib.picture_files import MAX_PIXELS, PictureError, extensions, open_picture
from training.data.passed_over import left_behind

WHITE = (255, 255, 255)

COLOR_CHOICES = ('auto', 'rgb', 'gray')

_GREY_MODES = {'1', 'L', 'LA', 'I', 'I;16', 'I;16L', 'I;16B', 'I;16N'}
_COLOR_MODES = {'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'CMYK', 'YCbCr', 'HSV'}

_BLOCK_PIXELS = 2 ** 20         # Handled at once, so that temporary arrays stay small.

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


ImageError = PictureError


class WrongSizeError(ImageError):
    """An image that was not decoded because it has another size than expected;
    `shape` is what `read_shape` would give."""

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__(f'is {shape[1]}x{shape[0]}')
        self.shape = shape


def is_image_name(name: str) -> bool:
    """Whether the extension is one of an image format, in upper or lower case,
    and no program left the file behind."""
    if left_behind(name) is not None:
        return False
    file_name = name.rpartition('/')[2]
    dot = file_name.rfind('.')
    return dot > 0 and file_name[dot:].lower() in extensions()


def decode(data: bytes, background: tuple[int, int, int] = WHITE, max_pixels: int = MAX_PIXELS,
           size: Sequence[int] | None = None) -> np.ndarray:
    """The image in `data` as uint8 [H, W, C], C = 1 or 3, by the rules at the head of this file; read-only.

    If `size` is given, (W, H) or (H, W), images of other sizes are not decoded.

    Raises:
        WrongSizeError: it has another size.
        ImageError: `data` is damaged, no image, too large, or of a kind without an 8-bit form.
    """
    with open_picture(io.BytesIO(data), max_pixels) as image:
        _check_mode(image)
        if size is not None and sorted(image.size) != sorted(size):
            raise WrongSizeError(_header_shape(image))
        return _to_pixels(_upright(image), background)


def read_shape(file: BinaryIO) -> tuple[int, int, int]:
    """The shape, (H, W, C), that `decode` would give for this open file,
    from the header if the image is square.

    Raises:
        ImageError: as `decode`, as far as the header tells.
    """
    with open_picture(file) as image:
        _check_mode(image)
        return _header_shape(_upright(image) if image.width != image.height else image)


def recolor(pixels: np.ndarray, color: str) -> np.ndarray:
    """`pixels` uint8 [H, W, C] in grey (luma, ITU-R 601), in RGB, or as they are;
    `color` is one of COLOR_CHOICES."""
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


def _header_shape(image: Image.Image) -> tuple[int, int, int]:
    return image.height, image.width, 1 if image.mode in _GREY_MODES else 3


def _check_mode(image: Image.Image) -> None:
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
    """The pixels of a decoded image, converted in blocks of rows."""
    num_rows = max(_BLOCK_PIXELS // max(image.width, 1), 1)
    if image.height <= num_rows:
        return _block_to_pixels(image, background, image.has_transparency_data)
    pixels = np.empty([image.height, image.width, 1 if image.mode in _GREY_MODES else 3], dtype=np.uint8)
    for top in range(0, image.height, num_rows):
        block = image.crop((0, top, image.width, min(top + num_rows, image.height)))
        pixels[top:top + num_rows] = _block_to_pixels(block, background, image.has_transparency_data)
    return pixels


def _block_to_pixels(image: Image.Image, background: tuple[int, int, int],
                     is_transparent: bool) -> np.ndarray:
    if image.mode.startswith('I'):
        return _upper_bits(np.asarray(image))[:, :, None]
    mode = 'L' if image.mode in _GREY_MODES else 'RGB'
    if is_transparent:
        return _flatten(np.asarray(_in_mode(image, mode + 'A')), background)
    return from_pillow(_in_mode(image, mode))


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _upper_bits(values: np.ndarray) -> np.ndarray:
    """16-bit grey to 8 bits. A 32-bit image must hold 16-bit values: there is no other range to assume."""
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f'pixel values from {values.min()} to {values.max()} exceed 16 bits')
    return (values >> 8).astype(np.uint8)


def _flatten(pixels: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Pixels over a background, rounded to nearest; uint8 [H, W, C + 1] with alpha last -> [H, W, C],
    C = 1 or 3."""
    color, alpha = pixels[:, :, :-1].astype(np.uint16), pixels[:, :, -1:].astype(np.uint16)
    behind = recolor(np.array([[background]], dtype=np.uint8), 'rgb' if color.shape[2] == 3 else 'gray')     # [1, 1, C]
    # At most 65152 before division.
    return ((color * alpha + behind * (255 - alpha) + 127) // 255).astype(np.uint8)
