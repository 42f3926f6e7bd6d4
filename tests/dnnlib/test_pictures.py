"""Image files of strangers: which programs and how much memory they can reach, whatever opens them."""
import ast
import io
import os
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from dataset_files import encoded, noise, picture, png, write_set
from network_files import make_generator
from PIL import Image

import copied
import dataset_tool
import projector
import report
import train
from dnnlib import picture_files
from dnnlib.picture_files import PictureError, open_picture
from loss_zoo import push, worth_it
from metrics.image_streams import DatasetImages, MetricError
from training.data.images import decode, read_shape
from training.run.image_grid import append_row

ROOT = Path(__file__).parents[2]
POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n'


def iptc(content):
    """An IPTC/NAA file of 8x8 grey pixels in which `content`
    is the picture: Pillow opens it, whatever it is."""
    def field(record, number, data):
        return struct.pack('>BBBH', 0x1c, record, number, len(data)) + data
    header = field(3, 20, struct.pack('>H', 8)) + field(3, 30, struct.pack('>H', 8))
    return header + field(3, 60, b'\1\0') + field(3, 120, b'\5') + field(8, 10, content) + field(9, 10, b'')


NESTED = {'iptc': iptc(POSTSCRIPT), 'eps': POSTSCRIPT, 'eps in eps in iptc': iptc(iptc(POSTSCRIPT))}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Puts a `gs` on the path; whether it was started."""
    program = tmp_path / 'bin' / 'gs'
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ntouch {tmp_path}/started\necho 10.0\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr('PIL.EpsImagePlugin.gs_binary', None)       # Pillow remembers what it has found.
    return (tmp_path / 'started').exists


def test_the_file_reaches_the_program_where_nothing_is_forbidden(started):
    with pytest.raises(Exception), Image.open(io.BytesIO(NESTED['iptc'])) as image:     # noqa: B017 (of any kind)
        image.load()
    assert started()


def tool(tmp_path, data, *options):
    source = write_set(tmp_path / 'a.zip', {'a.png': data, 'b.jpg': data, 'c.tif': data, 'd.iim': data, 'e.eps': data})
    CliRunner().invoke(dataset_tool.main, [f'--source={source}', *options])


def write_tar(path, files):
    with tarfile.open(path, 'w') as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def project(path):
    with pytest.raises(Exception, match='cannot be read'):
        projector.load_target(str(path), make_generator())


def measure(path):
    dataset = DatasetImages(dict(class_name='training.dataset.ImageFolderDataset', path=path), num_workers=0)
    for batch in dataset.batches([range(2)]):
        assert batch is None


DOORS = {
    'dataset_tool --check': lambda tmp_path, data: tool(tmp_path, data, '--check'),
    'dataset_tool --dest': lambda tmp_path, data: tool(tmp_path, data, f'--dest={tmp_path}/b.zip'),
    'train --dry-run': lambda tmp_path, data: CliRunner().invoke(train.main, [
        f'--outdir={tmp_path}', '--dry-run', '--cfg=tiny',
        f'--data={write_set(tmp_path / "a.zip", {"a.png": picture(), "b.png": data})}']),
    'projector --target': lambda tmp_path, data: project(write_set(tmp_path / 'x', {'a.png': data}) / 'a.png'),
    'metrics': lambda tmp_path, data: pytest.raises(MetricError, measure, str(
        write_set(tmp_path / 'x', {'a.png': picture(), 'b.png': data}))),
    'report': lambda tmp_path, data: report.data_uri(write_set(tmp_path / 'x', {'fakes000000.png': data}) /
                                                     'fakes000000.png', 8),
    'film strip': lambda tmp_path, data: append_row(Image.new('L', (8, 8)), write_set(
        tmp_path / 'x', {'a.png': data}) / 'a.png', 0),
    'dataset_tool --report': lambda tmp_path, data: tool(tmp_path, data, f'--report={tmp_path}/x.html'),
    'shards': lambda tmp_path, data: CliRunner().invoke(dataset_tool.main, [
        f'--source={write_tar(tmp_path / "a.tar", {"a.png": data, "b.jpg": data, "c.png": picture()})}', '--skip-bad=9',
        f'--dest={tmp_path}/b.zip']),
    'worth-it': lambda tmp_path, data: CliRunner().invoke(worth_it.main, [
        str(write_set(tmp_path / 'x', {'0/a.png': picture(), '1/b.png': data})), f'--images={tmp_path}/x',
        '--labels-from=folders']),
    'copied --images': lambda tmp_path, data: CliRunner().invoke(copied.main, [
        f'--images={write_set(tmp_path / "x", {"a.png": picture(), "b.png": data})}', f'--data={tmp_path}/x', '--workers=0']),
    'push --show-pairs': lambda tmp_path, data: pytest.raises(OSError, push.write_pairs, tmp_path / 'out.png', write_set(
        tmp_path / 'x', {'a.png': data}) / 'a.png'),
    'header': lambda tmp_path, data: pytest.raises(OSError, read_shape, io.BytesIO(data)),
}


@pytest.mark.parametrize('data', NESTED.values(), ids=NESTED)
@pytest.mark.parametrize('door', DOORS)
def test_no_picture_starts_a_program(started, tmp_path, monkeypatch, door, data):
    """Nor is one opened without naming its readers, even where it is not decoded afterwards."""
    opened, really_open = [], Image.open
    monkeypatch.setattr(subprocess, 'Popen', lambda *args, **kwargs: pytest.fail(f'{args} started'))
    monkeypatch.setattr(Image, 'open', lambda file, mode='r', formats=None: opened.append(formats) or really_open(
        file, mode, formats))
    DOORS[door](tmp_path, data)
    assert not started()
    assert opened and all(formats and set(formats) <= set(picture_files.FORMATS) for formats in opened)


def test_all_image_files_are_opened_in_one_place():
    """Also under another name (`open as ...`), and by other
    parts of Pillow that open without a list of formats."""
    found = []
    for path in [*ROOT.glob('*.py'), *(file for folder in ROOT.iterdir() if folder.is_dir() and folder.name != 'tests'
                                       and not folder.name.startswith('.') for file in folder.rglob('*.py'))]:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else ''
            if name.endswith('Image.open') or name.rpartition('.')[2] in ('imread', 'get_child_images', 'Parser') \
                    or isinstance(node, ast.ImportFrom) and node.module == 'PIL.Image' and \
                    any(alias.name != 'Image' for alias in node.names):        # The class opens nothing.
                found.append(path.relative_to(ROOT).as_posix())
    found.remove('examples/anywhere/zip_images.py')     # Which has no modules of the project; PNG alone.
    assert found == ['dnnlib/picture_files.py']


def test_no_reader_opens_what_is_nested_with_all_readers():
    """Of Pillow as it is here: neither a general `open` nor a program in the readers that are used."""
    Image.init()
    allowed = {'JPEG': {'load_djpeg'}}          # Called by nobody but by hand.
    for name in picture_files.installed_among(picture_files.FORMATS):
        factory = Image.OPEN[name][0]
        tree = ast.parse(Path(sys.modules[factory.__module__].__file__).read_text(encoding='utf-8'))
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
                     and node.name not in allowed.get(name, ()) and not node.name.startswith('_save')]
        calls = {ast.unparse(node.func) for function in functions for node in ast.walk(function)
                 if isinstance(node, ast.Call)}
        assert not calls & {'Image.open', 'subprocess.check_call', 'subprocess.Popen', 'os.system'} - (
            {'subprocess.Popen', 'subprocess.check_call'} if name == 'GIF' else set()), name


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def webp(width, height):
    """A lossless WebP of one colour: a few bytes, whatever its
    size. The bits are those of libwebp's simplest stream."""
    bits = (width - 1) | (height - 1) << 14 | 1 << 28       # Opacity is used; version 0.
    body = b'\x2f' + struct.pack('<I', bits) + b'\x88\x88\x08\x00\x00\x00\x00\x00'
    chunk = b'VP8L' + struct.pack('<I', len(body)) + body + b'\0' * (len(body) % 2)
    return b'RIFF' + struct.pack('<I', 4 + len(chunk)) + b'WEBP' + chunk


def huge_png(color_type, depth=8, side=16000):
    return png((side, side, depth, color_type), [b''])


def tiff_with_huge_tiles():
    data = bytearray(encoded(noise(16, 16, 1)[:, :, 0], 'tiff'))
    (offset,), entries = struct.unpack_from('<I', data, 4), []
    for i in range(struct.unpack_from('<H', data, offset)[0]):
        tag, kind, count, value = struct.unpack_from('<HHII', data, offset + 2 + 12 * i)
        tag = {273: 324, 279: 325}.get(tag, tag)                    # Strips become tiles.
        entries.append((tag, kind, count, value)) if tag != 278 else None
    entries += [(322, 4, 1, 2 ** 15), (323, 4, 1, 2 ** 15)]
    directory = struct.pack('<H', len(entries)) + b''.join(struct.pack('<HHII', *entry) for entry in sorted(entries))
    return bytes(data[:4]) + struct.pack('<I', len(data)) + bytes(data[8:]) + directory + bytes(4)


def ico_with(data):
    """An icon that says to be 16x16 and holds a PNG of another size."""
    return struct.pack('<HHHBBBBHHII', 0, 1, 1, 16, 16, 0, 0, 1, 32, len(data), 22) + data


HUGE = {
    'webp': webp(16383, 8192), 'png, RGBA': huge_png(6), 'png, grey': huge_png(0), 'png, 16 bits': huge_png(0, 16),
    'png, palette': huge_png(3),
    'bmp': b'BM' + struct.pack('<IIIIiiHHIIiiII', 54, 0, 54, 40, 60000, 60000, 1, 24, 0, 0, 0, 0, 0, 0),
    'gif': b'GIF89a' + struct.pack('<HHBBB', 60000, 60000, 0, 0, 0) + b',' + struct.pack('<HHHHB', 0, 0, 8, 8, 0) + b'\2\0;',
    'gif, frame beyond the screen': b'GIF89a' + struct.pack('<HHBBB', 8, 8, 0, 0, 0) + b','
                                    + struct.pack('<HHHHB', 0, 0, 60000, 60000, 0) + b'\2\0;',
    'ppm': b'P6 60000 60000 255\n', 'tga': struct.pack('<BBBHHBHHHHBB', 0, 0, 10, 0, 0, 0, 0, 0, 60000, 60000, 24, 0),
    'ico': ico_with(huge_png(6)), 'tiff, tiles': tiff_with_huge_tiles(),
}


@pytest.mark.parametrize('data', HUGE.values(), ids=HUGE)
def test_what_says_to_be_huge_is_refused_before_it_is_decoded(data, monkeypatch):
    with pytest.raises(PictureError, match='pixels .*allowed'):
        decode(data)
    assert Image.MAX_IMAGE_PIXELS != picture_files.MAX_PIXELS            # Pillow's own limit is as it was.


PEAK = """
import resource, sys
from training.data.images import decode
data = open(sys.argv[1], 'rb').read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(data)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='counts in units of 1024 bytes')
@pytest.mark.parametrize(('mode', 'limit'), [('RGBA', 13), ('LA', 13), ('P', 13), ('CMYK', 16), ('I;16', 8)])
def test_decoding_takes_few_bytes_per_pixel(tmp_path, mode, limit):
    side = 4096
    image = Image.new(mode, (side, side))
    if mode == 'P':
        image.info['transparency'] = 0
    image.save(tmp_path / 'x.tif' if mode == 'CMYK' else tmp_path / 'x.png')
    file = next(tmp_path.iterdir())
    output = subprocess.run([sys.executable, '-c', PEAK, file], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert int(output) * 1024 <= limit * side ** 2 + 2 ** 26       # Blocks have a size of their own.


def test_blocks_of_rows_are_converted_as_the_whole(monkeypatch):
    rgba = noise(37, 5, 4)
    files = [encoded(rgba), encoded(rgba[:, :, 0]), encoded(Image.fromarray(rgba).convert('LA')),
             encoded(Image.fromarray(rgba[:, :, :3]).quantize(16), transparency=3), encoded(Image.fromarray(
                 noise(37, 5, 1)[:, :, 0].astype(np.uint16) * 257)),
             encoded(rgba[:, :, :3], transparency=tuple(rgba[3, 3, :3].tolist()))]
    whole = [decode(data) for data in files]
    monkeypatch.setattr('training.data.images._BLOCK_PIXELS', 12)
    for data, pixels in zip(files, whole):
        np.testing.assert_array_equal(decode(data), pixels)


def test_the_limit_can_be_raised_and_lowered():
    assert decode(picture(16, 8), max_pixels=128).shape == (16, 8, 3)
    with pytest.raises(PictureError, match='8x16 pixels are more than the 127 that are allowed'):
        decode(picture(16, 8), max_pixels=127)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / 'pipe.png')
    for path in (tmp_path / 'pipe.png', '/dev/zero'):
        with pytest.raises(PictureError, match='not a regular file'), open_picture(path):
            pass
        with pytest.raises(PictureError, match='not a regular file'):
            picture_files.read_picture_file(path)
