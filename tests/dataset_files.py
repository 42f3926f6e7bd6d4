"""Small image files and sets of them, made for the tests of data handling."""
import io
import json
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image


def encoded(image, file_format='png', **options):
    """A Pillow image, or an array [H, W] or [H, W, C] that Pillow can take, as the bytes of a file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format=file_format, **options)
    return file.getvalue()


def noise(height=8, width=8, channels=3, seed=0):
    """uint8 [H, W, C]"""
    return np.random.RandomState(seed).randint(256, size=[height, width, channels]).astype(np.uint8)


def picture(height=8, width=8, channels=3, seed=0):
    """The bytes of a PNG with random pixels."""
    pixels = noise(height, width, channels, seed)
    return encoded(pixels[:, :, 0] if channels == 1 else pixels)


def png(ihdr, pixels):
    """A PNG with a header of one's own and unfiltered rows of bytes."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    width, height, depth, color_type = ihdr
    header = struct.pack('>IIBBBBB', width, height, depth, color_type, 0, 0, 0)
    body = zlib.compress(b''.join(b'\0' + row for row in pixels))
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', body) + chunk(b'IEND', b'')


def write_set(path, files, labels=None):
    """Writes files (name -> bytes), with a dataset.json
    where labels are given, to a folder or a .zip archive."""
    files = dict(files)
    if labels is not None:
        files['dataset.json'] = json.dumps({'labels': labels}).encode()
    if path.suffix == '.zip':
        with zipfile.ZipFile(path, 'w') as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path
