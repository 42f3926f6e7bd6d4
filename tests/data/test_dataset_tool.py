"""`dataset_tool.py`: sources, transforms, checks, output."""
import gzip
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from dataset_files import encoded, noise, picture, write_set
from PIL import Image

import dataset_tool
from dnnlib import writing
from training.data import cifar10, storage
from training.dataset import ImageFolderDataset

ROOT = Path(dataset_tool.__file__).parent


def run(*arguments, code=0):
    """Output of a run that must end with this exit status."""
    result = CliRunner().invoke(dataset_tool.main, [str(argument) for argument in arguments],
                                catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def convert(tmp_path):
    """Converts a source to an archive: ({name: pixels}, content of dataset.json)."""
    def convert(source, *options, dest='out.zip'):
        run(f'--source={source}', f'--dest={tmp_path / dest}', *options)
        return read_result(tmp_path / dest)
    return convert


def read_result(path):
    """What was written to an archive or folder."""
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob('*')
                 if file.is_file()}
    else:
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    labels = json.loads(files.pop('dataset.json'))
    return {name: np.array(Image.open(io.BytesIO(files[name]))) for name in sorted(files)}, labels


def name_of(index):
    return f'{index // 1000:05d}/img{index:08d}.png'


# ---------------------------------------------------------------------------------------------------------------------
# Folders and archives


@pytest.mark.parametrize('dest', ['out.zip', 'out.ZIP', 'new/out.zip', 'out', 'new/out'])
def test_images_and_labels_arrive_unchanged(convert, tmp_path, dest):
    source = write_set(tmp_path / 'cats', {'x.png': picture(), 'y.png': picture(seed=1)},
                       labels=[['y.png', [0.5, 2]], ['x.png', [3, 4]], ['z.png', 1]])
    images, labels = convert(source, dest=dest)
    assert (tmp_path / dest).is_file() == dest.lower().endswith('.zip')
    assert list(images) == [name_of(0), name_of(1)]
    np.testing.assert_array_equal(images[name_of(0)], noise())
    np.testing.assert_array_equal(images[name_of(1)], noise(seed=1))
    assert labels == {'labels': [[name_of(0), [3, 4]], [name_of(1), [0.5, 2]]]}
    ImageFolderDataset(str(tmp_path / dest), use_labels=True).require_trainable()


@pytest.mark.parametrize('bits, warned', [(12, True), (16, False)])
def test_sixteen_bits_that_hold_fewer_are_told(tmp_path, bits, warned):
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) << (bits - 6)
    source = write_set(tmp_path / 'scans', {'0.png': encoded(pixels), '1.png': encoded(pixels.T.copy())})
    warning = 'Warning: of all pixels none is brighter than 15 of 255; of 16 bits the upper eight are taken'
    assert (warning in run(f'--source={source}', '--check')) == warned
    assert (warning in run(f'--source={source}', f'--dest={tmp_path / "out.zip"}')) == warned


def test_a_folder_is_read_by_path_components_and_an_archive_by_strings(convert, tmp_path):
    files = {'a-z.png': picture(seed=0), 'a/x.png': picture(seed=1)}
    for name, order in (('cats', [1, 0]), ('cats.zip', [0, 1])):
        images, _ = convert(write_set(tmp_path / name, files))
        np.testing.assert_array_equal(list(images.values()), [noise(seed=i) for i in order])


def test_the_bundled_images_pass_through_with_their_classes(convert):
    source = ROOT / 'datasets' / 'emoji-faces-noto-32.zip'
    images, labels = convert(source, '--max-images=7')
    expected, original = read_result(source)
    assert list(images) == list(expected)[:7]
    np.testing.assert_array_equal(list(images.values()), list(expected.values())[:7])
    assert labels == {'labels': original['labels'][:7], 'label_names': original['label_names']}


def test_members_are_stored_and_archives_are_reproducible(convert, tmp_path):
    source = write_set(tmp_path / 'cats', {'x.png': picture()})
    convert(source, dest='1.zip')
    convert(source, dest='2.zip')
    assert (tmp_path / '1.zip').read_bytes() == (tmp_path / '2.zip').read_bytes()
    with zipfile.ZipFile(tmp_path / '1.zip') as archive:
        assert all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
        assert archive.getinfo(name_of(0)).file_size > noise().nbytes  # The PNG is not compressed either.
        assert archive.namelist()[-1] == 'dataset.json'


def test_at_most_a_thousand_images_lie_in_a_folder(convert, tmp_path):
    source = write_set(tmp_path / 'cats.zip', {f'{i:04d}.png': picture(8, 8, 1) for i in range(1002)})
    images, _ = convert(source)
    assert list(images)[999:] == ['00000/img00000999.png', '00001/img00001000.png', '00001/img00001001.png']


def test_labels_are_left_out_unless_every_image_has_one(convert, tmp_path):
    files = {'x.png': picture(), 'y.png': picture()}
    for i, labels in enumerate([None, [['x.png', 1]], [['x.png', 1], ['y.png', None]], []]):
        assert convert(write_set(tmp_path / f'{i}', files, labels))[1] == {'labels': None}
    named = {'labels': [['x.png', 0]], 'label_names': ['cat']}
    assert convert(write_set(tmp_path / 'named', {**files, 'dataset.json': json.dumps(named).encode()}))[1] == {
        'labels': None}
    output = run(f'--source={tmp_path}/1', f'--dest={tmp_path}/out')
    warning = 'Warning: 1 of 2 images have no label; labels are of use, and written, only if all have one\n'
    assert warning in output and warning in run(f'--source={tmp_path}/1', '--check')
    assert 'Warning' not in run(f'--source={tmp_path}/0', '--check')
    assert convert(tmp_path / '1', '--max-images=1')[1] == {'labels': [[name_of(0), 1]]}


def test_subfolders_become_classes_when_asked_for(convert, tmp_path):
    source = write_set(tmp_path / 'pets',
                       {'dog/1.png': picture(), 'cat/2.png': picture(), 'cat/3.png': picture()})
    assert convert(source)[1] == {'labels': None}
    assert convert(source, '--labels-from=folders')[1] == {
        'labels': [[name_of(0), 0], [name_of(1), 0], [name_of(2), 1]], 'label_names': ['cat', 'dog']}


def test_numbered_folders_are_classes_in_the_order_of_their_numbers(convert, tmp_path):
    """As strings, 10 and 11 come before 2."""
    source = write_set(tmp_path / 'set',
                       {f'{i}/{k}.png': picture() for i in range(12) for k in range(i % 2 + 1)})
    labels = convert(source, '--labels-from=folders')[1]
    assert labels['label_names'] == [str(i) for i in range(12)]
    output = run(f'--source={source}', '--check', '--labels-from=folders').splitlines()
    assert output[:4] == [f'{source}: 18 images, nothing wrong',
                          'Note: Class 2 is the folder 2: numbers in the names of the folders count.',
                          'Labels: 12 classes', '  class  images  name']
    assert output[4] == '      0       1  0' and output[-1] == '     11       2  11'


def test_the_table_of_classes_is_short(tmp_path):
    source = write_set(tmp_path / 'set.zip', {f'c{i:02d}/0.png': picture() for i in range(30)})
    output = run(f'--source={source}', f'--dest={tmp_path}/out', '--labels-from=folders').splitlines()
    assert output[1:] == ['Labels: 30 classes', '  class  images  name',
                          *(f'  {i:5d}       1  c{i:02d}' for i in range(24)), '  and 6 more']


def test_the_summary_says_of_vectors_that_they_are(tmp_path):
    source = write_set(tmp_path / 'set', {'a.png': picture()}, labels=[['a.png', [0.5, 2]]])
    assert run(f'--source={source}', '--check').endswith('Labels: a vector of 2 numbers for each image\n')


def test_labels_are_left_out_of_any_source(tmp_path, convert):
    assert convert(mnist_files(tmp_path, noise(84, 28, 1).reshape(3, 28, 28), [0, 1, 2]), '--labels-from=none')[1] == {
        'labels': None}


# ---------------------------------------------------------------------------------------------------------------------
# Transforms


def shrink(pixels, factor):
    """Mean of blocks, rounded: what a box filter gives."""
    height, width, channels = pixels.shape
    blocks = pixels.reshape(height // factor, factor, width // factor, factor, channels).astype(float)
    return np.floor(blocks.mean(axis=(1, 3)) + 0.5)


def convert_one(convert, tmp_path, pixels, *options):
    """What becomes of one image, [H, W, C]; None if it is dropped."""
    files = {'0.png': encoded(pixels.squeeze()),
             '1.png': encoded(np.zeros([64, 64, pixels.shape[2]], 'u1').squeeze())}
    images, _ = convert(write_set(tmp_path / 'one', files), '--resize-filter=box', *options)
    image = images.get(name_of(0))
    return image if image is None else image.reshape(*image.shape[:2], -1)


@pytest.mark.parametrize('channels', [1, 3])
def test_resizing_ignores_proportions(convert, tmp_path, channels):
    pixels = noise(16, 32, channels)
    image = convert_one(convert, tmp_path, pixels, '--width=16', '--height=16')
    np.testing.assert_allclose(image, pixels.reshape(16, 16, 2, channels).mean(axis=2), atol=0.51)


def test_one_size_leaves_the_other(convert, tmp_path):
    source = write_set(tmp_path / 'cats', {'a.png': picture(16, 8)})
    assert convert(source, '--width=16')[0][name_of(0)].shape == (16, 16, 3)
    assert convert(source, '--height=8')[0][name_of(0)].shape == (8, 8, 3)
    assert 'a.png: is 32x16;' in run(f'--source={source}', '--check', '--width=32', code=1)
    assert 'a.png: is 8x32;' in run(f'--source={source}', '--check', '--height=32', code=1)


def test_the_default_filter_is_lanczos(convert, tmp_path):
    source = write_set(tmp_path / 'cats', {'a.png': picture(16, 16)})
    for option, resample in (('', Image.Resampling.LANCZOS), ('--resize-filter=box', Image.Resampling.BOX)):
        images, _ = convert(source, '--width=8', '--height=8', *filter(None, [option]))
        expected = Image.fromarray(noise(16, 16)).resize((8, 8), resample)
        np.testing.assert_array_equal(images[name_of(0)], np.array(expected))


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('height, width, rows, columns', [
    (16, 21, slice(0, 16), slice(2, 18)),       # 5 columns too many: 2 go on the left, 3 on the right.
    (21, 16, slice(2, 18), slice(0, 16)),
    (16, 16, slice(0, 16), slice(0, 16)),
])
def test_center_crop_takes_the_middle_square(convert, tmp_path, height, width, rows, columns, channels):
    pixels = noise(height, width, channels)
    image = convert_one(convert, tmp_path, pixels, '--transform=center-crop', '--width=8', '--height=8')
    np.testing.assert_allclose(image, shrink(pixels[rows, columns], 2), atol=1)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('height, rows', [
    (24, slice(6, 18)),         # round(16 * 24 / 32) = 12 rows.
    (17, slice(4, 12)),         # round(8.5) = 8, to even.
    (19, slice(4, 14)),         # round(9.5) = 10.
])
def test_center_crop_wide_puts_the_middle_rows_on_black(convert, tmp_path, channels, height, rows):
    """From 32 pixels of width to 16 x 8; the rows are counted in
    pixels of the result and cut from the source."""
    pixels = noise(height, 32, channels)
    image = convert_one(convert, tmp_path, pixels, '--transform=center-crop-wide', '--width=16', '--height=8')
    assert image.shape == (16, 16, channels)
    assert not image[:4].any() and not image[12:].any()
    expected = Image.fromarray(pixels[rows].squeeze()).resize((16, 8), Image.Resampling.BOX)
    np.testing.assert_array_equal(image[4:12], np.array(expected).reshape(8, 16, channels))


@pytest.mark.parametrize('height, width, kept', [
    (16, 16, True),
    (16, 15, False),        # Narrower than the result.
    (15, 16, True),         # round(16 * 15 / 16) = 15 rows, 8 are needed.
    (8, 16, True),
    (7, 16, False),         # 7 rows.
    (17, 32, True),         # round(8.5) = 8, to even.
    (15, 32, True),         # round(7.5) = 8, to even.
    (13, 32, False),        # round(6.5) = 6, to even.
])
def test_center_crop_wide_drops_images_that_are_too_small(convert, tmp_path, height, width, kept):
    image = convert_one(convert, tmp_path, noise(height, width), '--transform=center-crop-wide', '--width=16',
                        '--height=8')
    assert (image is not None) == kept


def test_dropped_images_leave_gaps_and_count_as_input(convert, tmp_path):
    source = write_set(tmp_path / 'cats', {
        'a.png': picture(16, 16), 'b.png': picture(4, 4), 'c.png': picture(16, 16), 'd.png': picture(16, 16)},
        labels=[['a.png', 0], ['b.png', 1], ['c.png', 2], ['d.png', 3]])
    images, labels = convert(source, '--transform=center-crop-wide', '--width=16', '--height=8',
                             '--max-images=3')
    assert list(images) == [name_of(0), name_of(2)]
    assert labels['labels'] == [[name_of(0), 0], [name_of(2), 2]]


def test_colors_are_converted_when_asked_for(convert, tmp_path):
    source = write_set(tmp_path / 'cats', {'a.png': picture(channels=1), 'b.png': picture(), 'c.png': encoded(
        Image.new('RGBA', (8, 8), (255, 0, 0, 0)))})
    images, _ = convert(source, '--color=rgb', '--background=#0000ff')
    assert {image.shape for image in images.values()} == {(8, 8, 3)}
    assert images[name_of(2)][0, 0].tolist() == [0, 0, 255]
    images, _ = convert(source, '--color=gray')
    assert {image.shape for image in images.values()} == {(8, 8)}
    assert images[name_of(2)][0, 0] == 255


# ---------------------------------------------------------------------------------------------------------------------
# Other sources


class CodeInPickle:
    """What an attacker would put into an archive."""

    def __reduce__(self):
        return os.mkdir, ('executed',)


def cifar10_archive(folder, batches):
    path = folder / 'cifar-10-python.tar.gz'
    with tarfile.open(path, 'w:gz') as archive:
        for i, batch in enumerate(batches, start=1):
            data = batch if isinstance(batch, bytes) else pickle.dumps(batch, protocol=2)
            member = tarfile.TarInfo(f'cifar-10-batches-py/data_batch_{i}')
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def cifar10_batch(seed):
    """As Python 3 writes it; the images are stored one color plane after the other."""
    count = 3
    pixels = noise(count * 32, 32, 3, seed).reshape(count, 32, 32, 3)
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return {'data': planes.reshape(count, -1), 'labels': [seed, 7, 9]}


def python2_batch(batch):
    """The same as Python 2 wrote it: numpy's old module name, bytes as they are."""
    data, labels = batch['data'], batch['labels']
    raw = data.tobytes()
    return (b'\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R'
            b'(K\x01J' + struct.pack('<i', data.shape[0]) + b'J' + struct.pack('<i', data.shape[1]) + b'\x86'
            b'cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
            b'\x89T' + struct.pack('<i', len(raw)) + raw + b'tb'
            b'U\x06labels](' + b''.join(b'K' + bytes([label]) for label in labels) + b'eu.')


@pytest.mark.parametrize('form', ['python 3', 'python 2'])
def test_cifar10(convert, tmp_path, form):
    batches = [cifar10_batch(seed) for seed in range(5)]
    archive = cifar10_archive(tmp_path, map(python2_batch, batches) if form == 'python 2' else batches)
    images, labels = convert(archive)
    assert len(images) == 15 and labels['labels'][3:6] == [[name_of(3), 1], [name_of(4), 7], [name_of(5), 9]]
    np.testing.assert_array_equal(
        list(images.values()),
        np.concatenate([noise(96, 32, 3, seed).reshape(3, 32, 32, 3) for seed in range(5)]))


def laughs():
    """A list that is small in a file and huge as an array."""
    labels = [0] * 10
    for _ in range(12):
        labels = [labels] * 10
    return labels


@pytest.mark.parametrize('batch, reason', [
    (CodeInPickle(), r'it asks for \w+\.mkdir, which no array of bytes needs'),
    ({'data': np.zeros([3, 3072]), 'labels': [0, 0, 0]}, 'it holds an array of type f8'),
    ({'data': np.array([CodeInPickle()]), 'labels': [0]}, r'it holds an array of type O'),
    ({'data': np.zeros([3, 3071], dtype=np.uint8), 'labels': [0, 0, 0]}, 'cannot reshape'),
    ({**cifar10_batch(0), 'labels': [0, 1]}, 'its labels are not 15 classes from 0 to 9'),
    ({**cifar10_batch(0), 'labels': [0, 1, 10]}, 'its labels are not 15 classes from 0 to 9'),
    ({**cifar10_batch(0), 'labels': laughs()},
     'the labels of cifar-10-batches-py/data_batch_1 are no list of numbers'),
    ({'data': [0]}, "'labels'"),
    (b'', 'Ran out of input'),
], ids=['code', 'floats', 'code in an array', 'shape', 'count', 'class', 'expansion', 'missing', 'empty'])
def test_damaged_or_hostile_cifar10(tmp_path, monkeypatch, batch, reason):
    monkeypatch.chdir(tmp_path)
    archive = cifar10_archive(tmp_path, [batch] + [cifar10_batch(seed) for seed in range(4)])
    output = run(f'--source={archive}', '--dest=out.zip', code=1)
    assert output.startswith(f'Error: {archive}: not a readable CIFAR-10 archive (')
    assert re.search(reason, output), output
    assert not Path('executed').exists() and not Path('out.zip').exists()


def test_incomplete_cifar10(tmp_path, monkeypatch):
    archive = cifar10_archive(tmp_path, [cifar10_batch(seed) for seed in range(4)])
    assert 'data_batch_5' in run(f'--source={archive}', '--check', code=1)
    monkeypatch.setattr(cifar10, 'MAX_BATCH_BYTES', 9000)
    assert 'data_batch_1 is no file of a sensible size' in run(f'--source={archive}', '--check', code=1)
    archive.write_bytes(archive.read_bytes()[:-100])
    run(f'--source={archive}', '--check', code=1)


def mnist_files(folder, pixels, labels, magic=0x803):
    path = folder / 'train-images-idx3-ubyte.gz'
    path.write_bytes(gzip.compress(struct.pack('>4I', magic, *pixels.shape) + pixels.tobytes()))
    (folder / 'train-labels-idx1-ubyte.gz').write_bytes(
        gzip.compress(struct.pack('>2I', 0x801, len(labels)) + bytes(labels)))
    return path


def test_mnist(convert, tmp_path):
    digits = noise(5 * 28, 28, 1).reshape(5, 28, 28)
    images, labels = convert(mnist_files(tmp_path, digits, [5, 0, 4, 1, 9]))
    assert labels['labels'] == [[name_of(i), label] for i, label in enumerate([5, 0, 4, 1, 9])]
    for i in range(5):
        image = images[name_of(i)]
        assert image.shape == (32, 32) and image.sum() == digits[i].sum()
        np.testing.assert_array_equal(image[2:30, 2:30], digits[i])


@pytest.mark.parametrize('damage, message', [
    ({'labels': [0, 1]},
     'train-labels-idx1-ubyte.gz: not a readable MNIST label file (its labels are not 3 classes'),
    ({'labels': [0, 1, 10]},
     'train-labels-idx1-ubyte.gz: not a readable MNIST label file (its labels are not 3'),
    ({'magic': 0x801},
     'train-images-idx3-ubyte.gz: not a readable MNIST image file (header 0x801 [3, 28, 28])'),
    ({'pixels': noise(3 * 20, 20, 1).reshape(3, 20, 20)}, 'images of 20x20 instead of 28x28 pixels'),
])
def test_damaged_mnist(tmp_path, damage, message):
    path = mnist_files(tmp_path,
                       **{'pixels': noise(84, 28, 1).reshape(3, 28, 28), 'labels': [0, 1, 2], **damage})
    assert message in run(f'--source={path}', '--check', code=1)


@pytest.mark.parametrize('change, message', [
    (lambda data: data[:-1], 'less data than the 2352 bytes of its header'),
    (lambda data: data + b'\0', 'more data than the 2352 bytes of its header'),
    (lambda data: data[:4] + b'\xff' * 12 + data[16:], 'header 0x803 [4294967295, 4294967295, 4294967295]'),
    (lambda data: b'', 'unpack requires'),
])
def test_mnist_that_disagrees_with_its_header(tmp_path, change, message):
    path = mnist_files(tmp_path, noise(84, 28, 1).reshape(3, 28, 28), [0, 1, 2])
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
    assert message in run(f'--source={path}', '--check', code=1)


def test_mnist_without_its_labels(tmp_path):
    path = mnist_files(tmp_path, noise(84, 28, 1).reshape(3, 28, 28), [0, 1, 2])
    (tmp_path / 'train-labels-idx1-ubyte.gz').unlink()
    assert run(f'--source={path}', '--check', code=1) == \
        f'Error: {tmp_path}/train-labels-idx1-ubyte.gz: no such file; the labels of MNIST belong beside its images\n'


def test_lsun(convert, tmp_path):
    lmdb = pytest.importorskip('lmdb')
    with lmdb.open(str(tmp_path / 'cat_lmdb'), map_size=2 ** 20) as database, database.begin(write=True) as transaction:
        for key, value in {'b': encoded(noise(seed=1), 'webp', lossless=True), 'a': picture(),
                           'c': b'damaged', 'd': picture(channels=1), 'e': picture()}.items():
            transaction.put(key.encode(), value)
    images, labels = convert(f'{tmp_path}/cat_lmdb/', '--max-images=4')
    assert list(images) == [name_of(0), name_of(1), name_of(3)] and labels == {'labels': None}
    np.testing.assert_array_equal(
        list(images.values()), [noise(), noise(seed=1), noise(channels=1).repeat(3, axis=2)])
    output = run(f'--source={tmp_path}/cat_lmdb', f'--dest={tmp_path}/2.zip', '--skip-bad=0', code=1)
    assert "image b'c' cannot be read" in output


def test_lsun_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    (tmp_path / 'cat_lmdb').mkdir()
    assert run(f'--source={tmp_path}/cat_lmdb', '--check', code=1) == \
        f'Error: {tmp_path}/cat_lmdb: LSUN databases need the extra "lmdb" (pip install lmdb)\n'


def test_a_folder_that_is_no_lsun_database(tmp_path):
    pytest.importorskip('lmdb')
    source = write_set(tmp_path / 'cat_lmdb', {'a.png': picture()})
    assert f'Error: {source}: not a readable LSUN database (' in run(f'--source={source}', '--check', code=1)


# ---------------------------------------------------------------------------------------------------------------------
# Refusals, which leave nothing behind

SKIP = 'use --skip-bad=N to leave up to N such images out'
CROP = 'use --transform=center-crop with --width and --height'
RECOLOR = 'use --color=rgb or --color=gray'
WITHOUT = '; --labels-from=none leaves the labels out'
LIST = ' (--check lists all images that will not do)'


@pytest.mark.parametrize('files, options, message', [
    ({'a.png': picture(16, 8)}, [],
     'image a.png is 8x16; training needs squares with a power of two, at least 8, as their side; ' + CROP
     + LIST),
    ({'a.png': picture(24, 24)}, [],
     'image a.png is 24x24; training needs squares with a power of two, at least 8, as their side; ' + CROP
     + LIST),
    ({'a.png': picture(4, 4)}, [],
     'image a.png is 4x4; training needs squares with a power of two, at least 8, as their side; ' + CROP
     + LIST),
    ({'a.png': picture(16, 16), 'b.png': picture(32, 32)}, [],
     'image b.png is 32x32; all images must be 16x16 like the first one; ' + CROP + LIST),
    ({'a.png': picture(16, 16), 'b.png': picture(16, 16, channels=1)}, [],
     'image b.png is grey; all images must be RGB like the first one; ' + RECOLOR + LIST),
    ({'a.png': picture(), 'b.png': b'<html>'}, [],
     'image b.png cannot be read (not an image in a known format); ' + SKIP + LIST),
    ({'a.png': picture(4, 4)}, ['--transform=center-crop-wide', '--width=16', '--height=8'],
     'no image left to write (1 dropped, 0 unreadable)'),
    ({'a.txt': b''}, [],
     'no images in it (.png, .jpg, .webp and so on), nor in its subfolders; 1 file passed over: 1 .txt'),
    ({'a.png': picture(), 'dataset.json': b'{}'}, [],
     'dataset.json must hold {"labels": [[FILE NAME, LABEL], ...]} or {"labels": null}' + WITHOUT),
    ({'a.png': picture(), 'dataset.json': b'{"labels": [["a.png", -1]]}'}, [],
     'image a.png has class label -1; classes are numbered from 0, up to 999999' + WITHOUT),
    ({'a.png': picture()}, ['--labels-from=folders'],
     'image a.png lies in no class folder; labels from folders need every image in one of several subfolders'),
])
@pytest.mark.parametrize('dest', ['new/out.zip', 'new/out'])
def test_refused_sources(tmp_path, files, options, message, dest):
    source = write_set(tmp_path / 'cats', files)
    output = run(f'--source={source}', f'--dest={tmp_path / dest}', *options, code=1)
    assert output == f'Error: {source}: {message}\n'
    assert [path.name for path in tmp_path.iterdir()] == ['cats']


@pytest.mark.parametrize('name, message', [
    ('gone', 'no such file or folder'),
    ('cats.rar',
     'not a source of a known kind; there are folders, .zip archives, LSUN folders named ..._lmdb, '
                 '.tar and .parquet files, cifar-10-python.tar.gz and train-images-idx3-ubyte.gz'),
    ('cats.zip', 'cannot be read as a zip archive (File is not a zip file)'),
])
def test_sources_that_are_none(tmp_path, name, message):
    if name != 'gone':
        (tmp_path / name).write_bytes(b'')
    assert run(f'--source={tmp_path / name}', '--dest=out', code=1) == f'Error: {tmp_path / name}: {message}\n'


def test_taken_destinations(tmp_path):
    source = write_set(tmp_path / 'cats', {'a.png': picture()})
    full = write_set(tmp_path / 'full', {'a.txt': b'x'})
    (tmp_path / 'folder.zip').mkdir()
    assert run(f'--source={source}', f'--dest={full}', code=1) == \
        f'Error: {full}: the folder is not empty; name a new or empty folder, or a .zip archive\n'
    assert run(f'--source={source}', f'--dest={full}/a.txt', code=1) == \
        f'Error: {full}/a.txt: exists and is not a folder; name a new folder or a .zip archive\n'
    assert run(f'--source={source}', f'--dest={tmp_path}/folder.zip', code=1) == \
        f'Error: {tmp_path}/folder.zip: is a folder, not a zip archive\n'
    assert run(f'--source={source}', f'--dest={full}/a.txt/out.zip', code=1).startswith(f'Error: {full}/a.txt')


def test_an_empty_folder_is_filled(convert, tmp_path):
    (tmp_path / 'empty').mkdir()
    images, _ = convert(write_set(tmp_path / 'cats', {'a.png': picture()}), dest='empty')
    assert list(images) == [name_of(0)] and sorted(p.name for p in tmp_path.iterdir()) == ['cats', 'empty']


def made_here(path):
    """The archive, as if this program had written it; others are never replaced."""
    with zipfile.ZipFile(path, 'a') as archive:
        archive.comment = writing.MARK.encode()
    return path


@pytest.mark.parametrize('error', [OSError(28, 'No space left on device', 'out'), KeyboardInterrupt()])
@pytest.mark.parametrize('dest', ['out.zip', 'out'])
def test_an_existing_result_survives_a_failure(tmp_path, monkeypatch, dest, error):
    source = write_set(tmp_path / 'cats', {'a.png': picture(), 'b.png': picture()})
    if dest == 'out.zip':
        made_here(write_set(tmp_path / dest, {'old.png': picture()}))
    before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    pngs = iter([picture()])

    def encode_png(pixels):
        for data in pngs:
            return data
        raise error

    monkeypatch.setattr('training.data.packing.encode_png', encode_png)
    code, says = (1, 'Error: out: No space left on device') if isinstance(error, OSError) else (130, 'Ended by Ctrl-C.')
    assert run(f'--source={source}', f'--dest={tmp_path / dest}', code=code).strip() == says
    assert {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()} == before
    assert not any('tmp' in path.name for path in tmp_path.iterdir())


def test_an_archive_can_replace_itself(convert, tmp_path):
    archive = made_here(write_set(tmp_path / 'cats.zip', {'a.png': picture(16, 16)}))
    images, _ = convert(archive, '--width=8', '--height=8', dest='cats.zip')
    assert images[name_of(0)].shape == (8, 8, 3)


@pytest.mark.parametrize('options, code, message', [
    ([], 2, 'give one of --dest, the folder or .zip archive to write, --check, and --report'),
    (['--dest='], 2, "'--dest': its value is empty; leave it out, or give one"),
    (['--dest=a.zip', '--check'], 2,
     'give one of --dest, the folder or .zip archive to write, --check, and --report'),
    (['--check', '--max-images=0'], 2, '--max-images=0: must be at least 1'),
    (['--check', '--transform=center-crop', '--width=8'], 1,
     '--transform=center-crop: needs --width and --height'),
    (['--check', '--transform=center-crop-wide', '--width=8', '--height=16'], 1,
     '--height=16: must not exceed --width=8 with --transform=center-crop-wide'),
    (['--check', '--background=reddish'], 1,
     '--background=reddish: not a colour; use a name like black, or #rrggbb'),
])
def test_options_that_do_not_go_together(options, code, message):
    assert message in run('--source=datasets', *options, code=code)


def test_labels_from_folders_need_folders(tmp_path):
    path = mnist_files(tmp_path, noise(84, 28, 1).reshape(3, 28, 28), [0, 1, 2])
    assert run(f'--source={path}', '--check', '--labels-from=folders', code=1) == \
        f'Error: {path}: has no folders to take labels from; leave out --labels-from=folders\n'


# ---------------------------------------------------------------------------------------------------------------------
# Bad images


def test_check_lists_every_bad_file_with_its_reason(tmp_path):
    source = write_set(tmp_path / 'cats', {
        'a.png': b'', 'b.png': picture(16, 8), 'c.png': picture(16, 16), 'd.png': picture(8, 8),
        'e.png': picture(16, 16), 'f.png': picture(16, 16, channels=1)})
    before = set(tmp_path.rglob('*'))
    assert run(f'--source={source}', '--check', code=1).splitlines() == [
        'a.png: cannot be read (not an image in a known format)',
        'b.png: is 8x16; training needs squares with a power of two, at least 8, as their side',
        'd.png: is 8x8; all images must be 16x16 like the first one',
        'f.png: is grey; all images must be RGB like the first one',
        f'Error: {source}: 4 of 6 images will not do; {SKIP}; {CROP}; {RECOLOR}',
    ]
    assert set(tmp_path.rglob('*')) == before


def test_check_judges_what_the_transform_makes(tmp_path):
    source = write_set(tmp_path / 'cats', {'a.png': picture(16, 9), 'b.png': picture(30, 20, channels=1)})
    options = ['--transform=center-crop', '--width=8', '--height=8', '--color=rgb']
    assert run(f'--source={source}', '--check', *options) == f'{source}: 2 images, nothing wrong\nLabels: none\n'


def test_skip_bad_is_a_budget(tmp_path):
    source = write_set(tmp_path / 'cats',
                       {'a.png': b'', 'b.png': picture(), 'c.png': b'', 'd.png': picture()})
    run(f'--source={source}', f'--dest={tmp_path}/out.zip', '--skip-bad=1', code=1)
    assert not (tmp_path / 'out.zip').exists()
    output = run(f'--source={source}', f'--dest={tmp_path}/out.zip', '--skip-bad=2').splitlines()
    assert set(output) == {
        f'Skipped: {source}: image a.png cannot be read (not an image in a known format)',
        f'Skipped: {source}: image c.png cannot be read (not an image in a known format)',
        f'{tmp_path}/out.zip: 2 images, 8x8 RGB; 0 dropped as too small, 2 skipped as unreadable',
        'Labels: none',
    }
    assert list(read_result(tmp_path / 'out.zip')[0]) == [name_of(1), name_of(3)]


def test_unequal_images_are_not_skipped(tmp_path):
    source = write_set(tmp_path / 'cats', {'a.png': picture(), 'b.png': picture(16, 16)})
    run(f'--source={source}', f'--dest={tmp_path}/out.zip', '--skip-bad=9', code=1)


def test_names_in_an_archive_lead_nowhere(tmp_path):
    """Members are read, never extracted: written files have names of our own."""
    names = ['../../up.png', f'{tmp_path}/absolute.png', '..\\..\\windows.png']
    (tmp_path / 'in').mkdir()
    source = write_set(tmp_path / 'in' / 'cats.zip', dict.fromkeys(names, picture()))
    run(f'--source={source}', f'--dest={tmp_path}/in/out')
    assert len(ImageFolderDataset(f'{tmp_path}/in/out')) == len(ImageFolderDataset(source)) == 3
    assert {path.name for path in tmp_path.iterdir()} == {'in'}
    assert {path.name for path in (tmp_path / 'in').iterdir()} == {'cats.zip', 'out'}


def test_an_oversized_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, 'MAX_FILE_BYTES', 1000)
    source = write_set(tmp_path / 'cats.zip', {'a.png': picture(), 'b.png': b'\0' * 1001})
    assert 'b.png: cannot be read (1001 bytes are more than the 1000 that are allowed)' in \
        run(f'--source={source}', '--check', code=1)


# ---------------------------------------------------------------------------------------------------------------------


def test_help_loads_nothing_heavy():
    script = 'import sys, dataset_tool; dataset_tool.main(["--help"], standalone_mode=False); ' \
             'print(sorted({"torch", "numpy", "PIL", "tqdm"} & set(sys.modules)))'
    output = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert '--labels-from' in output and output.endswith('\n[]\n')


def test_packing_does_without_torch(tmp_path):
    source = write_set(tmp_path / 'cats', {'a.png': picture()})
    script = f'import sys, dataset_tool; dataset_tool.main(["--source={source}", "--check"], standalone_mode=False); ' \
             'from training.dataset import ImageFolderDataset; print("torch" in sys.modules)'
    output = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert output == f'{source}: 1 images, nothing wrong\nLabels: none\nFalse\n'


@pytest.mark.parametrize(('options', 'code', 'sentence'), [
    (['--width=200', '--height=200'], 1,
     '--width=200: training needs squares with a power of two as their side; the nearest '
     'are 128 and 256'),
    (['--height=9'], 1,
     '--height=9: training needs squares with a power of two as their side; the nearest are 8 and 16'),
    (['--height=4'], 1,
     '--height=4: training needs squares with a power of two as their side; the least is 8'),
    (['--transform=center-crop-wide', '--width=24', '--height=10'], 1,
     '--width=24: training needs squares with a power of two as their side; the nearest are 16 and 32'),
    (['--width=16', '--height=32'], 1, '--width=16 --height=32: training needs squares; give both the same'),
    (['--skip-bad=4294967296'], 2, '--skip-bad=4294967296: must be at least 0 and at most 1000000000'),
    (['--max-images=0'], 2, '--max-images=0: must be at least 1'),
    (['--width=99999999'], 2, '--width=99999999: must be at least 8 and at most 8192'),
    (['--max-pixels=1099511627776'], 2,
     '--max-pixels=1099511627776: must be at least 1 and at most 1073741824'),
])
def test_numbers_that_cannot_do(tmp_path, options, code, sentence):
    source = write_set(tmp_path / 'cats', {'a.png': picture(16, 16)})
    assert run(f'--source={source}', '--check', *options, code=code).splitlines()[-1] == f'Error: {sentence}'


@pytest.mark.parametrize('ending', ['', '.zip'])
def test_the_limit_of_pixels_is_an_option_that_the_refusal_names(tmp_path, ending):
    source = write_set(tmp_path / f'cats{ending}', {'a.png': picture(16, 16)})
    output = run(f'--source={source}', '--check', '--max-pixels=255', code=1)
    assert 'a.png: cannot be read (16x16 pixels are more than the 255 that are allowed)' in output
    assert 'a larger --max-pixels allows it' in output.splitlines()[-1]
    assert 'nothing wrong' in run(f'--source={source}', '--check', '--max-pixels=256')


def test_the_limit_of_pixels_can_be_raised(tmp_path):
    source = write_set(tmp_path / 'cats', {'a.png': encoded(Image.new('1', (8200, 8200)))})
    run(f'--source={source}', '--check', code=1)
    run(f'--source={source}', f'--dest={tmp_path}/out.zip', '--width=8', '--height=8',
        '--max-pixels=68000000')


@pytest.mark.parametrize('action', ['--check', '--report={}/page.html', '--dest={}/out.zip'])
def test_a_source_without_images_is_one_sentence(tmp_path, action):
    for name, header in (('images-idx3', (0x803, 0, 28, 28)), ('labels-idx1', (0x801, 0))):
        with gzip.open(tmp_path / f'train-{name}-ubyte.gz', 'wb') as file:
            file.write(struct.pack(f'>{len(header)}I', *header))
    source = tmp_path / 'train-images-idx3-ubyte.gz'
    assert run(f'--source={source}', action.format(tmp_path), code=1) == f'Error: --source={source}: there are no images in it\n'


# ---------------------------------------------------------------------------------------------------------------------
# Pictures of phones.

def phone_picture(path, size=(40, 24)):
    """A file as a phone writes it, lying on its side: its left is red."""
    heif = pytest.importorskip('pillow_heif', reason='needs the extra "heic"')
    image = Image.new('RGB', size, (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 16, size[1]))
    exif = Image.Exif()
    exif[0x0112] = 6                # To be turned to the right.
    heif.from_pillow(image).save(str(path), quality=95, exif=exif.tobytes())


def test_pictures_of_phones_are_read_upright(tmp_path):
    phone_picture(tmp_path / 'IMG_1.HEIC')
    run(f'--source={tmp_path}', f'--dest={tmp_path / "out.zip"}', '--transform=center-crop', '--width=16', '--height=16')
    pixels = read_result(tmp_path / 'out.zip')[0][name_of(0)].astype(int)
    assert pixels.shape == (16, 16, 3)
    assert abs(pixels[:3] - [255, 0, 0]).max() < 60 and abs(pixels[10:] - [0, 0, 255]).max() < 60      # The left is on top.


def test_only_the_tool_reads_pictures_of_phones(tmp_path):
    (tmp_path / 'photos').mkdir()
    phone_picture(tmp_path / 'photos/IMG_1.HEIC')
    (tmp_path / 'photos/IMG_2.png').write_bytes(picture())
    assert 'out: 2 images' in run(f'--source={tmp_path / "photos"}', f'--dest={tmp_path / "out"}', '--color=rgb',
                                  '--transform=center-crop', '--width=16', '--height=16')
    assert len(ImageFolderDataset(str(tmp_path / 'out'))) == 2
    (tmp_path / 'out/IMG_3.heic').write_bytes((tmp_path / 'photos/IMG_1.HEIC').read_bytes())
    assert '1 .heic' in ImageFolderDataset(str(tmp_path / 'out')).passed_over()


def test_reading_pictures_of_phones_leaves_all_other_readers():
    pytest.importorskip('pillow_heif', reason='needs the extra "heic"')
    code = ('from PIL import Image\nfrom dnnlib.picture_files import FORMATS, installed_among, with_heif\n'
            'with with_heif():\n    inside = installed_among(FORMATS)\n'
            'after = installed_among(FORMATS)\nassert set(inside) - set(after) == {"HEIF"} and "WEBP" in after, after')
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_a_picture_of_a_phone_that_is_damaged_or_too_large(tmp_path):
    phone_picture(tmp_path / 'whole.heic')
    data = (tmp_path / 'whole.heic').read_bytes()
    (tmp_path / 'half.heic').write_bytes(data[:len(data) // 2])
    (tmp_path / 'none.heic').write_bytes(b'')
    said = run(f'--source={tmp_path}', '--check', '--max-pixels=900', code=1)
    assert 'half.heic: cannot be read (' in said and 'none.heic: cannot be read (not an image in a known format)' in said
    assert 'whole.heic: cannot be read (' in said and 'pixels are more than the 900 that are allowed' in said


def test_a_set_is_not_written_into_what_it_is_made_of(tmp_path):
    write_set(tmp_path / 'photos', {f'{i}.png': encoded(noise(seed=i)) for i in range(3)})
    (tmp_path / 'linked').symlink_to('photos')
    for dest in ('photos', 'photos/new', 'linked/new'):
        said = run(f'--source={tmp_path / "photos"}', f'--dest={tmp_path / dest}', code=2)
        assert 'lies in the source' in ' '.join(said.split())
    run(f'--source={tmp_path / "photos"}', f'--dest={tmp_path / "photos/set.zip"}')        # Not among its pictures.
