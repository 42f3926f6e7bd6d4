"""Conversion of image files to 8-bit grey or RGB."""
import io

import numpy as np
import pytest
from dataset_files import encoded, noise, png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from training.data.images import ImageError, decode, encode_png, is_image_name, read_shape, recolor

RED, WHITE = (255, 0, 0), (255, 255, 255)


def row(mode, *pixels):
    """An image of one row."""
    image = Image.new(mode, (len(pixels), 1))
    for x, pixel in enumerate(pixels):
        image.putpixel((x, 0), pixel)
    return image


def palette_row(colors, *indices):
    image = row('P', *indices)
    image.putpalette([value for color in colors for value in color])
    return image


def sixteen_bit(color_type, *pixels):
    """A PNG of one row with 16 bits per value."""
    return png((len(pixels), 1, 16, color_type), [np.array(pixels, dtype='>u2').tobytes()])


# Over white, value v with opacity a is v * a / 255 + 255 * (255 - a) / 255: 100 at 128 gives 177.2, at 127
# 177.8.
STORED = {
    '1': (encoded(row('1', 0, 255)), [[0], [255]]),
    'L': (encoded(row('L', 0, 100, 255)), [[0], [100], [255]]),
    'LA': (encoded(row('LA', (100, 0), (100, 128), (100, 255), (100, 127))), [[255], [177], [100], [178]]),
    'L, one grey transparent': (encoded(row('L', 0, 100), transparency=100), [[0], [255]]),
    'I;16': (encoded(row('I;16', 0, 255, 256, 65535)), [[0], [0], [1], [255]]),
    'I;16, big-endian': (encoded(row('I;16B', 0, 255, 256, 65535), 'tiff'), [[0], [0], [1], [255]]),
    'I within 16 bits': (encoded(row('I', 0, 255, 256, 65535), 'tiff'), [[0], [0], [1], [255]]),
    'RGB': (encoded(row('RGB', (1, 2, 3), RED)), [(1, 2, 3), RED]),
    'RGB, 16 bits': (sixteen_bit(2, (0, 255, 256), (257, 32768, 65535)), [(0, 0, 1), (1, 128, 255)]),
    'RGB, one color transparent': (encoded(row('RGB', (1, 2, 3), RED), transparency=RED), [(1, 2, 3), WHITE]),
    'RGBA': (encoded(row('RGBA', (100, 0, 255, 128), (9, 9, 9, 0))), [(177, 127, 255), WHITE]),
    'P': (encoded(palette_row([(1, 2, 3), RED], 1, 0)), [RED, (1, 2, 3)]),
    'P with greys only': (encoded(palette_row([(7, 7, 7), (9, 9, 9)], 1, 0)), [(9, 9, 9), (7, 7, 7)]),
    'P, one color transparent': (encoded(palette_row([(1, 2, 3), RED], 1, 0), transparency=1),
                                 [WHITE, (1, 2, 3)]),
    'P with opacities': (encoded(palette_row([(100, 0, 255), RED], 0, 1), transparency=b'\x80\xff'),
                         [(177, 127, 255), RED]),
    'CMYK': (encoded(row('CMYK', (0, 0, 0, 0), (255, 0, 0, 0), (0, 0, 0, 255)), 'tiff'),
             [WHITE, (0, 255, 255), (0, 0, 0)]),
    'GIF, two frames': (encoded(row('L', 10, 20), 'gif', save_all=True, append_images=[row('L', 30, 40)]),
                        [(10, 10, 10), (20, 20, 20)]),
}


@pytest.mark.parametrize('kind', STORED)
def test_pixels_follow_the_stated_rule(kind):
    data, expected = STORED[kind]
    pixels = decode(data)
    assert pixels.dtype == np.uint8
    if kind == 'GIF, two frames':
        # Grey or RGB: by what Pillow says it is.
        pixels, expected = pixels.max(axis=2), np.max(expected, axis=1)
    np.testing.assert_array_equal(pixels[0], expected)


@pytest.mark.parametrize('kind', STORED)
def test_the_header_tells_the_shape(kind):
    data, _ = STORED[kind]
    assert read_shape(io.BytesIO(data)) == decode(data).shape


def test_transparency_is_laid_on_the_chosen_background():
    black, blue = (0, 0, 0), (0, 0, 255)
    np.testing.assert_array_equal(decode(encoded(row('RGBA', (100, 200, 0, 51))), blue)[0], [(20, 40, 204)])
    np.testing.assert_array_equal(decode(encoded(row('LA', (100, 51))), black)[0], [[20]])
    # Its luma, 0.114 * 255.
    np.testing.assert_array_equal(decode(encoded(row('LA', (100, 0))), blue)[0], [[29]])


@pytest.mark.parametrize('orientation, upright', [
    (1, lambda x: x),
    (2, lambda x: x[:, ::-1]),
    (3, lambda x: x[::-1, ::-1]),
    (4, lambda x: x[::-1]),
    (5, lambda x: x.transpose(1, 0, 2)),
    (6, lambda x: np.rot90(x, -1)),
    (7, lambda x: x[::-1, ::-1].transpose(1, 0, 2)),
    (8, lambda x: np.rot90(x)),
])
@pytest.mark.parametrize('file_format', ['png', 'tiff', 'webp'])
def test_the_exif_orientation_is_applied(orientation, upright, file_format):
    stored = noise(height=3, width=5)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, file_format, exif=exif, **({'lossless': True} if file_format == 'webp' else {}))
    expected = upright(stored)
    np.testing.assert_array_equal(decode(data), expected)
    assert read_shape(io.BytesIO(data)) == expected.shape


def test_a_damaged_exif_block_counts_as_none():
    stored = noise(height=3, width=5)
    np.testing.assert_array_equal(decode(encoded(stored, exif=b'Exif\0\0II*\0\xff\xff\xff')), stored)


def test_color_profiles_are_ignored():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('LAB')).tobytes()
    np.testing.assert_array_equal(decode(encoded(noise(), icc_profile=profile)), noise())


@pytest.mark.parametrize('data, reason', [
    (b'', 'not an image in a known format'),
    (b'GIF89a', 'not an image in a known format'),
    (encoded(noise(32, 32))[:-100], 'image file is truncated'),
    (encoded(row('F', 0.5), 'tiff'), 'pixels of mode F have no 8-bit form'),
    (encoded(Image.new('LAB', (2, 2)), 'tiff'), 'pixels of mode LAB have no 8-bit form'),
    (encoded(row('I', -1, 65536), 'tiff'), 'pixel values from -1 to 65536 exceed 16 bits'),
    (png((12000, 12000, 8, 2), []), '144000000 pixels are more than the 67108864 that are allowed'),
    (png((9000, 9000, 8, 2), []), '9000x9000 pixels are more than the 67108864 that are allowed'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n', 'not an image in a known format'),
], ids=['empty', 'a signature only', 'truncated', 'float', 'lab', 'beyond 16 bits', 'too large', 'bomb',
        'postscript'])
def test_the_reason_of_a_refusal_is_stated(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data)


def test_an_oversized_image_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, 'load', lambda self: pytest.fail('decoded'))
    with pytest.raises(ImageError, match='9x8 pixels are more than the 64'):
        decode(png((9, 8, 8, 2), []), max_pixels=64)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(STORED)),
       st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6), st.integers(0, 100))
def test_damaged_files_are_decoded_or_refused(kind, changes, cut):
    data = bytearray(STORED[kind][0])
    for position, value in changes:
        data[position % len(data)] = value
    try:
        pixels = decode(bytes(data[:len(data) - cut]))
    except ImageError:
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] in (1, 3)


def test_recolor_makes_grey_by_luma_and_rgb_by_repetition():
    pixels = np.array([[RED, (0, 255, 0), (0, 0, 255), (10, 20, 30)]], dtype=np.uint8)
    # .299 R + .587 G + .114 B
    np.testing.assert_array_equal(recolor(pixels, 'gray')[0], [[76], [150], [29], [18]])
    np.testing.assert_array_equal(recolor(pixels, 'gray').repeat(3, axis=2),
                                  recolor(recolor(pixels, 'gray'), 'rgb'))
    assert recolor(pixels, 'rgb') is pixels and recolor(pixels, 'auto') is pixels


@pytest.mark.parametrize('channels', [1, 3])
def test_a_written_png_is_uncompressed_and_reads_back(channels):
    pixels = np.zeros([16, 8, channels], dtype=np.uint8)
    data = encode_png(pixels)
    assert len(data) > pixels.size
    np.testing.assert_array_equal(decode(data), pixels)


@pytest.mark.parametrize('name, expected', [
    ('a.png', True), ('b/c.JPEG', True), ('d.WebP', True), ('two.dots.jpg', True), ('e.gif', True),
    ('f.tiff', True),
    ('dataset.json', False), ('png', False), ('.png', False), ('a.png/b', False), ('a.pdf', False),
    ('a.eps', False),
    ('a.h5', False), ('._a.png', False), ('b/._a.png', False), ('__MACOSX/a.png', False),
    ('x/__MACOSX/y/a.png', False),
])
def test_images_are_known_by_their_extension(name, expected):
    assert is_image_name(name) == expected
