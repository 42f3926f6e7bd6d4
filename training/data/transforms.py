"""What `dataset_tool.py` may do to an image: colours, crop, size.

A transform takes uint8 [H, W, C] and returns the same kind, or None to drop the image.
"""
from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image

from training.data.images import from_pillow, recolor, to_pillow

Transform = Callable[[np.ndarray], np.ndarray | None]

FILTERS = {'box': Image.Resampling.BOX, 'lanczos': Image.Resampling.LANCZOS}


def make_transform(
    transform: str | None = None,       # None, 'center-crop' or 'center-crop-wide'.
    width: int | None = None,  # Of the result; None keeps the image's own, which the crops do not allow.
    height: int | None = None,
    resize_filter: str = 'lanczos',     # 'lanczos' or 'box'.
    color: str = 'auto',                # 'auto' (as it is), 'rgb' or 'gray'.
) -> Transform:
    """The chosen change of colour and then the chosen crop and size, as one function of an image."""
    assert transform is None or width and height, f'{transform} needs width and height'
    shape = {None: resized, 'center-crop': center_crop, 'center-crop-wide': center_crop_wide}[transform]
    shape = partial(shape, width=width, height=height, resample=FILTERS[resize_filter])
    return lambda pixels: shape(recolor(pixels, color))


def resized(pixels: np.ndarray, width: int | None, height: int | None, resample: int) -> np.ndarray:
    """The image in another size, whatever that does to its proportions."""
    old_height, old_width, _ = pixels.shape
    size = (width or old_width, height or old_height)
    return pixels if size == (old_width, old_height) else from_pillow(to_pillow(pixels).resize(size, resample))


def center_crop(pixels: np.ndarray, width: int, height: int, resample: int) -> np.ndarray:
    """The largest square in the middle, in another size."""
    old_height, old_width, _ = pixels.shape
    side = min(old_height, old_width)
    top, left = (old_height - side) // 2, (old_width - side) // 2
    return resized(pixels[top:top + side, left:left + side], width, height, resample)


def center_crop_wide(pixels: np.ndarray, width: int, height: int, resample: int) -> np.ndarray | None:
    """Middle rows at full width, in another size, on a black square of side `width`;
    too small an image is dropped.

    The number of rows is counted in pixels of the result yet cut from the original,
    so that an image wider than `width` loses more of its height than its proportions ask for: data sets in
    use were made so, and others must match them.
    """
    old_height, old_width, num_channels = pixels.shape
    num_rows = round(width * old_height / old_width)
    if old_width < width or num_rows < height:
        return None
    rows = pixels[(old_height - num_rows) // 2:(old_height + num_rows) // 2]
    canvas = np.zeros([width, width, num_channels], dtype=np.uint8)
    canvas[(width - height) // 2:(width + height) // 2] = resized(rows, width, height, resample)
    return canvas
