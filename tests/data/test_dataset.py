"""Image sets: order, labels, subsets, mirror images, processes, errors."""
import io
import json
import os
import pickle
import re
import shutil
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from dataset_files import encoded, noise, picture, png, write_set
from fixture_data import ROOT, case_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from training import dataset as dataset_module
from training.dataset import BadFile, Dataset, DatasetError, ImageFolderDataset


class Blank(Dataset):
    """Black images, numbered; classes as given."""

    def __init__(self, count, classes=None, **options):
        super().__init__('blank', [count, 1, 8, 8], **options)
        self.classes = classes

    def _load_raw_image(self, raw_idx):
        return np.zeros([1, 8, 8], dtype=np.uint8)

    def _load_raw_labels(self):
        return None if self.classes is None else np.array(self.classes)


@pytest.fixture
def small_set(tmp_path):
    """Makes a folder (or archive) of 8x8 PNGs by name, or of given bytes, and opens it."""
    def make(files, labels=None, name='cats.zip', **options):
        if not isinstance(files, dict):
            files = {file: picture(seed=i) for i, file in enumerate(files)}
        return ImageFolderDataset(str(write_set(tmp_path / name, files, labels)), **options)
    return make


@pytest.mark.parametrize('form', ['zip', 'folder'])
@pytest.mark.parametrize('case', case_ids('10a_dataset'))
def test_sets_are_read_as_the_fixture_says(case, form, tmp_path):
    config = dict(case.config)
    archive, num_images = ROOT / config.pop('archive'), config.pop('n_images')
    path = archive
    if form == 'folder':
        path = tmp_path / archive.stem
        zipfile.ZipFile(archive).extractall(path)
    dataset = ImageFolderDataset(str(path), **config)
    details = [dataset.get_details(i) for i in range(len(dataset))]
    case.check('raw_idx', [d.raw_idx for d in details])
    case.check('xflip', [int(d.xflip) for d in details])
    case.check('labels', np.stack([dataset.get_label(i) for i in range(len(dataset))]))
    case.check('images', np.stack([dataset[i][0] for i in range(num_images)]))
    case.check('last_image', dataset[len(dataset) - 1][0])
    case.check('shape', dataset.image_shape)
    case.check('label_dim', dataset.label_dim)
    case.check('has_labels', int(dataset.has_labels))
    case.check('length', len(dataset))
    if 'raw_labels_int' in case.outputs:
        raw_labels = {d.raw_idx: d.raw_label for d in details}
        expected = case.outputs['raw_labels_int']
        assert all(raw_labels[i].dtype == np.int64 and raw_labels[i] == expected[i] for i in raw_labels)
    assert dataset.name == case.extra['name']
    names = [name for name in sorted(zipfile.ZipFile(archive).namelist()) if name.lower().endswith('.png')]
    assert names == case.extra['file_names']
    image, label = dataset[0]
    assert image.dtype == np.uint8 and image.flags.c_contiguous and label.dtype == np.float32


@pytest.mark.parametrize('case', [case for case in case_ids('10b_sampling') if case.id.startswith('subset')])
def test_subsets_are_chosen_as_the_fixture_says(case):
    config = dict(case.config)
    dataset = Blank(config.pop('n'), **config)
    details = [dataset.get_details(i) for i in range(len(dataset))]
    case.check('raw_idx', [d.raw_idx for d in details])
    case.check('xflip', [int(d.xflip) for d in details])


def test_mirror_images_follow_the_originals(small_set):
    dataset = small_set(['a.png', 'b.png'], labels=[['a.png', 1], ['b.png', 0]], xflip=True, use_labels=True)
    assert len(dataset) == 4
    for i in range(2):
        np.testing.assert_array_equal(dataset[i][0], noise(seed=i).transpose(2, 0, 1))
        np.testing.assert_array_equal(dataset[2 + i][0], noise(seed=i)[:, ::-1].transpose(2, 0, 1))
        np.testing.assert_array_equal(dataset[2 + i][1], dataset[i][1])


def test_images_upside_down_follow_those_and_their_mirror_images(small_set):
    dataset = small_set(['a.png', 'b.png'], labels=[['a.png', 1], ['b.png', 0]], xflip=True, yflip=True, use_labels=True)
    assert [(d.raw_idx, d.xflip, d.yflip) for d in map(dataset.get_details, range(8))] == [
        (i, x, y) for y in (False, True) for x in (False, True) for i in range(2)]
    for i in range(4):
        np.testing.assert_array_equal(dataset[4 + i][0], dataset[i][0][:, ::-1])
        np.testing.assert_array_equal(dataset[4 + i][1], dataset[i][1])
    alone = small_set(['a.png'], yflip=True)
    np.testing.assert_array_equal(alone[1][0], noise(seed=0)[::-1].transpose(2, 0, 1))


@pytest.mark.parametrize('name', ['cats', 'cats.zip'])
def test_images_are_in_plain_string_order(small_set, name):
    """By path components 'a/x.png' would come before 'a-z.png' and 'a.png'."""
    names = ['a/x.png', 'b.png', 'a-z.png', 'a.png', 'B.png']
    dataset = small_set(names, name=name)
    order = [names.index(n) for n in ('B.png', 'a-z.png', 'a.png', 'a/x.png', 'b.png')]
    for i, seed in enumerate(order):
        np.testing.assert_array_equal(dataset[i][0], noise(seed=seed).transpose(2, 0, 1))


def test_files_that_are_no_images_are_passed_over(small_set):
    files = {'a.png': picture(), 'notes.txt': b'', 'b.pdf': b'', '__MACOSX/._a.png': b'', 'c/._d.png': b''}
    assert len(small_set(files)) == 1
    assert len(small_set(files, name='cats')) == 1


def test_a_palette_image_is_converted_by_its_colors(small_set):
    image = Image.new('P', (8, 8), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    dataset = small_set({'a.png': encoded(image), 'b.png': picture()})
    assert dataset.image_shape == [3, 8, 8]
    np.testing.assert_array_equal(dataset[0][0][:, 0, 0], [10, 20, 30])


def test_classes_are_counted_over_the_whole_set():
    dataset = Blank(10, classes=[0, 1, 0, 1, 0, 1, 0, 7, 0, 1], use_labels=True, max_size=4)
    assert [dataset.get_details(i).raw_idx for i in range(4)] == [2, 4, 8, 9]  # Class 7 is not among them.
    assert dataset.label_shape == [8] and dataset.label_dim == 8 and dataset.has_onehot_labels
    np.testing.assert_array_equal(dataset.get_label(3), np.eye(8)[1])


def test_one_class_counts_as_labelled():
    dataset = Blank(3, classes=[0, 0, 0], use_labels=True)
    assert dataset.has_labels and dataset.label_dim == 1 and dataset.get_label(2).tolist() == [1]


def test_vector_labels_are_handed_out_as_copies(small_set):
    dataset = small_set(['a.png'], labels=[['a.png', [0.5, -2]]], use_labels=True)
    dataset.get_label(0)[:] = 9
    dataset[0][1][:] = 9
    dataset.get_details(0).raw_label[:] = 9
    assert dataset.get_label(0).tolist() == [0.5, -2] and not dataset.has_onehot_labels


def test_whole_numbers_are_classes_however_they_are_written(small_set):
    dataset = small_set(['a.png', 'b.png'], labels=[['a.png', 1.0], ['b.png', 0]], use_labels=True)
    assert [dataset.get_details(i).raw_label for i in range(2)] == [1, 0] and dataset.has_onehot_labels


def test_a_part_of_a_set_of_a_thousand_classes_keeps_their_numbers(small_set):
    dataset = small_set(['a.png', 'b.png'], labels=[['a.png', 999], ['b.png', 207]], use_labels=True)
    assert dataset.label_dim == 1000
    assert dataset.about_labels() == [
        '1000 classes, of which 2 occur', 'class  images', '  207       1', '  999       1']


def test_surplus_labels_are_ignored(small_set):
    dataset = small_set(['a.png'], labels=[['a.png', 1], ['gone.png', 5]], use_labels=True)
    assert dataset.label_dim == 2


@pytest.mark.parametrize('name', ['cats', 'cats.zip'])
def test_subfolders_become_classes_when_asked_for(small_set, name, tmp_path):
    files = ['set/dog/2.png', 'set/cat/old/1.png', 'set/ant/3.png', 'set/cat/1.png']
    dataset = small_set(files, name=name, use_labels=True, labels_from='folders')
    assert [dataset.get_details(i).raw_label for i in range(4)] == [0, 1, 1, 2] and dataset.label_dim == 3
    assert not ImageFolderDataset(str(tmp_path / name), use_labels=True).has_labels


@pytest.mark.parametrize('source, order, first',
                         [('natural-folders', [0, 1, 3, 2], 2), ('folders', [0, 1, 2, 3], 10)])
def test_numbered_folders_are_classes_in_the_order_asked_for(small_set, source, order, first):
    """'folders' is what runs of before have recorded, and must go on meaning what it meant to them."""
    dataset = small_set(['c0/0.png', 'c1/1.png', 'c10/2.png', 'c2/3.png'], use_labels=True,
                        labels_from=source)
    assert [dataset.get_details(i).raw_label for i in range(4)] == order
    assert dataset.about_labels()[-1].startswith(f'Class 2 is the folder c{first}: ')


@pytest.mark.parametrize('folders', [['a', 'b'], ['n01', 'n02', 'x10'], ['a-1', 'a1'], ['B', 'a']])
def test_other_folders_are_classes_in_string_order_either_way(small_set, folders):
    files = [f'{folder}/{i}.png' for i, folder in enumerate(folders)]
    dataset = small_set(files, use_labels=True, labels_from='natural-folders')
    assert [dataset.get_details(i).raw_label for i in range(len(files))] == list(range(len(files)))
    assert not dataset.has_ambiguous_order()


@pytest.mark.parametrize('path, name', [
    ('sets/cats', 'cats'), ('sets/cats/', 'cats'), ('sets/v1.5', 'v1.5'), ('sets/dogs.v2.ZIP', 'dogs.v2')])
def test_the_name_is_that_of_the_file(tmp_path, monkeypatch, path, name):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / 'archive.zip', {'a.png': picture()})
    for folder in ('cats', 'v1.5'):
        write_set(tmp_path / 'sets' / folder, {'a.png': picture()})
    shutil.copy('archive.zip', 'sets/dogs.v2.ZIP')
    assert ImageFolderDataset(path).name == name
    monkeypatch.chdir('sets/cats')
    assert ImageFolderDataset('.').name == 'cats'


def test_opening_decodes_one_image_and_reads_no_labels(small_set, monkeypatch):
    decoded = []
    decode = dataset_module.images.decode
    monkeypatch.setattr(dataset_module.images, 'decode',
                        lambda data, **_: decoded.append(data) or decode(data))
    files = {f'{i}.png': picture(seed=i) for i in range(5)} | {'dataset.json': b'not read'}
    small_set(files, use_labels=True)
    assert decoded == [files['0.png']]


# ---------------------------------------------------------------------------------------------------------------------
# Processes


@pytest.fixture
def hundred(tmp_path):
    """An archive of 100 labelled images."""
    names = [f'{i:03d}.png' for i in range(100)]
    files = {name: picture(16, 16, seed=i) for i, name in enumerate(names)}
    return str(write_set(tmp_path / 'hundred.zip', files,
                         labels=[[name, i % 7] for i, name in enumerate(names)]))


@pytest.mark.parametrize('start_method, num_workers', [('fork', 2), ('spawn', 1)])
def test_workers_read_what_their_parent_reads(hundred, start_method, num_workers):
    dataset = ImageFolderDataset(hundred, use_labels=True, xflip=True)
    expected = [dataset[i] for i in range(len(dataset))]        # The parent has the archive open now.
    loader = DataLoader(dataset, batch_size=10, num_workers=num_workers, multiprocessing_context=start_method)
    images, labels = map(np.concatenate, zip(*[[x.numpy() for x in batch] for batch in loader]))
    np.testing.assert_array_equal(images, [image for image, _ in expected])
    np.testing.assert_array_equal(labels, [label for _, label in expected])


def test_a_pickled_set_is_small_and_reads_on(hundred):
    dataset = ImageFolderDataset(hundred, use_labels=True)
    before = len(pickle.dumps(dataset))
    image, label = dataset[13]
    data = pickle.dumps(dataset)
    assert len(data) == before                  # No labels, no open archive.
    image_again, label_again = pickle.loads(data)[13]
    np.testing.assert_array_equal(image, image_again)
    np.testing.assert_array_equal(label, label_again)


def test_a_closed_set_opens_again(hundred):
    dataset = ImageFolderDataset(hundred)
    image, _ = dataset[13]
    dataset.close()
    assert dataset._files._zip is None
    np.testing.assert_array_equal(image, dataset[13][0])


# ---------------------------------------------------------------------------------------------------------------------
# Content


def test_the_fingerprint_tells_contents_apart_and_nothing_else(tmp_path):
    files, labels = {'a.png': picture(seed=1), 'b/c.png': picture(seed=2)}, [['a.png', 0], ['b/c.png', 1]]

    def fingerprint(name, files, labels=labels, **options):
        return ImageFolderDataset(str(write_set(tmp_path / name, files, labels)), **options).fingerprint()

    reference = fingerprint('1.zip', files)
    assert len(reference) == 64 and int(reference, 16)
    assert fingerprint('2', files) == reference
    assert fingerprint('3.zip', dict(reversed(files.items()))) == reference
    assert fingerprint('4', files | {'notes.txt': b'x'}, use_labels=True, xflip=True, max_size=1) == reference
    others = [
        fingerprint('5.zip', files, labels=None),
        fingerprint('6.zip', files, labels=[['a.png', 1], ['b/c.png', 1]]),
        fingerprint('7', files | {'a.png': picture(seed=3)}),
        fingerprint('8.zip', files | {'d.png': picture(seed=1)}),
        fingerprint('9.zip', {'a.png': files['a.png'], 'b/d.png': files['b/c.png']}),
    ]
    assert len({reference, *others}) == 6


def test_a_label_file_in_the_top_folder_is_part_of_the_content_where_it_is_used(tmp_path):
    """Runs without labels have a fingerprint that never counted it."""
    def fingerprint(name, labels, **options):
        files = {'cats/a.png': picture()}
        if labels is not None:
            files['cats/dataset.json'] = json.dumps({'labels': [['a.png', label] for label in labels]}).encode()
        return ImageFolderDataset(str(write_set(tmp_path / name, files)), **options).fingerprint()

    assert fingerprint('1', [0]) == fingerprint('2', None) == fingerprint('3', [0], use_labels=True, labels_from='folders')
    assert len({fingerprint('4', None), *(fingerprint(f'{5 + i}.zip', [i], use_labels=True) for i in range(2))}) == 3


BAD = {
    '00.png': picture(16, 16),
    '01.png': picture(16, 16)[:-30],
    '02.png': picture(16, 8),
    '03.png': picture(16, 16, channels=1),
    '04.png': b'not an image',
    '05.png': picture(16, 16, seed=1),
}


def test_check_names_every_bad_file_with_its_reason(small_set):
    bad = list(small_set(BAD).check())
    assert [(name, re.sub('truncated.*', 'truncated)', reason)) for name, reason, _ in bad] == [
        ('01.png', 'cannot be read (image file is truncated)'),
        ('02.png', 'is 8x16; all images must be 16x16 like the first one'),
        ('03.png', 'is grey; all images must be RGB like the first one'),
        ('04.png', 'cannot be read (not an image in a known format)'),
    ]


def test_check_by_headers_finds_all_but_damaged_pixels(small_set, monkeypatch):
    dataset = small_set(BAD, name='cats')
    monkeypatch.setattr(Image.Image, 'load',
                        lambda self: pytest.fail('decoded') if self.height == self.width else None)
    assert [bad.name for bad in dataset.check(decode=False)] == ['02.png', '03.png', '04.png']


def test_check_looks_only_at_the_chosen_subset(small_set):
    dataset = small_set(BAD, max_size=2, random_seed=1)         # Images 1 and 2.
    assert [bad.name for bad in dataset.check()] == ['01.png', '02.png']


def test_a_sound_set_is_trainable(small_set):
    small_set({'a.png': picture(16, 16), 'b.jpg': encoded(noise(16, 16), 'jpeg')}, name='cats').require_trainable()


def test_large_sets_are_checked_by_their_headers(small_set, monkeypatch):
    monkeypatch.setattr(dataset_module, 'MAX_CHECKED_PIXELS', 2 * 16 * 16 - 1)
    dataset = small_set({'00.png': BAD['00.png'], '01.png': BAD['01.png']})
    dataset.require_trainable()
    monkeypatch.setattr(dataset_module, 'MAX_CHECKED_PIXELS', 2 * 16 * 16)
    with pytest.raises(DatasetError, match='truncated'):
        dataset.require_trainable()


# ---------------------------------------------------------------------------------------------------------------------
# Errors: each is one sentence that names the path


def test_nothing_at_the_path(tmp_path):
    with pytest.raises(DatasetError) as error:
        ImageFolderDataset(str(tmp_path / 'cats'))
    assert str(error.value) == f'{tmp_path}/cats: no such file or folder'


def test_neither_folder_nor_archive(tmp_path):
    (tmp_path / 'cats.tar').write_bytes(b'')
    with pytest.raises(DatasetError) as error:
        ImageFolderDataset(str(tmp_path / 'cats.tar'))
    assert str(error.value) == f'{tmp_path}/cats.tar: neither a folder nor a .zip archive'


@pytest.mark.parametrize('name', ['cats', 'cats.zip'])
def test_no_images(small_set, tmp_path, name):
    with pytest.raises(DatasetError) as error:
        small_set({'notes/a.txt': b''}, name=name)
    assert str(error.value) == \
        f'{tmp_path}/{name}: no images in it (.png, .jpg, .webp and so on), nor in its subfolders; 1 file passed over: 1 .txt'


@pytest.mark.parametrize('data, reason', [
    (b'', 'File is not a zip file'),
    (b'PK\x03\x04 and no more', 'File is not a zip file'),
    (b'PK\1\2' + b'\x99' * 42 + b'PK\5\6' + bytes(6) + b'\1\0\x2e\0\0\0' + bytes(6), 'zip file version 15.3'),
])
def test_damaged_archive(tmp_path, data, reason):
    (tmp_path / 'cats.zip').write_bytes(data)
    with pytest.raises(DatasetError) as error:
        ImageFolderDataset(str(tmp_path / 'cats.zip'))
    assert str(error.value) == f'{tmp_path}/cats.zip: cannot be read as a zip archive ({reason})'


@pytest.mark.parametrize('name', ['cats', 'cats.zip'])
def test_damaged_image(small_set, tmp_path, name):
    dataset = small_set({'a.png': picture(), 'b.png': b'<html>404 Not Found</html>'}, name=name)
    dataset[0]
    with pytest.raises(DatasetError) as error:
        dataset[1]
    assert str(error.value) == \
        f'{tmp_path}/{name}: image b.png cannot be read (not an image in a known format); ' \
        f'to list all such files: python dataset_tool.py --check --source={tmp_path}/{name}'


def test_damaged_member_of_an_archive(small_set, tmp_path):
    dataset = small_set(['a.png', 'b.png'])
    dataset.close()
    path = tmp_path / 'cats.zip'
    content = bytearray(path.read_bytes())
    content[content.index(picture(seed=1)) + 50] ^= 1
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r'cats.zip: image b.png cannot be read \(Bad CRC-32'):
        dataset[1]


def test_vanished_image(small_set, tmp_path):
    dataset = small_set(['a.png', 'b.png'], name='cats')
    (tmp_path / 'cats' / 'b.png').unlink()
    with pytest.raises(DatasetError, match=r'cats: image b.png cannot be read \(No such file or directory\)'):
        dataset[1]


def test_oversized_member(small_set, monkeypatch):
    dataset = small_set(['a.png', 'b.png'])
    monkeypatch.setattr('training.data.storage.MAX_FILE_BYTES', 10)
    with pytest.raises(DatasetError,
                       match=r'image a.png cannot be read \(\d+ bytes are more than the 10 that'):
        dataset[0]


def test_a_label_file_of_any_size_is_not_read_for_the_fingerprint(tmp_path):
    """A file with holes takes no space and has no end; labels that are not used are part of the fingerprint, too."""
    path = write_set(tmp_path / 'set', {'a.png': picture()})
    with open(path / 'dataset.json', 'wb') as file:
        file.truncate(2 ** 40)
    with pytest.raises(DatasetError, match=f'set: dataset.json cannot be read .{2 ** 40} bytes are more than'):
        ImageFolderDataset(path).fingerprint()


def test_a_file_that_cannot_be_read_for_the_fingerprint_is_named(tmp_path):
    dataset = ImageFolderDataset(write_set(tmp_path / 'set', {'a.png': picture(), 'b.png': picture()}))
    (tmp_path / 'set/b.png').unlink()
    with pytest.raises(DatasetError, match='set: b.png cannot be read .No such file'):
        dataset.fingerprint()


@pytest.mark.parametrize('image, problem', [
    (picture(16, 8), 'is 8x16; all images must be 16x16 like the first one'),
    (picture(16, 16, channels=1), 'is grey; all images must be RGB like the first one'),
])
def test_unequal_images(small_set, tmp_path, image, problem):
    dataset = small_set({'a.png': picture(16, 16), 'b c.png': image})
    expected = f'{tmp_path}/cats.zip: image b c.png {problem}; to make a set of equal images: python dataset_tool.py ' \
        f'--source={tmp_path}/cats.zip --dest=cats-16.zip --transform=center-crop --width=16 --height=16 --color=rgb'
    for use in (lambda: dataset[1], dataset.require_trainable):
        with pytest.raises(DatasetError) as error:
            use()
        assert str(error.value) == expected


@pytest.mark.parametrize('height, width, side', [(16, 24, 16), (24, 24, 16), (4, 4, 8), (300, 400, 256)])
def test_sides_that_networks_cannot_have(small_set, tmp_path, height, width, side):
    dataset = small_set({'a.png': encoded(Image.new('L', (width, height)))}, name='my cats')
    with pytest.raises(DatasetError) as error:
        dataset.require_trainable()
    assert str(error.value) == \
        f'{tmp_path}/my cats: image a.png is {width}x{height}; ' \
        'training needs squares with a power of two, at least 8, as their side; ' \
        f"to make a set of equal images: python dataset_tool.py '--source={tmp_path}/my cats' " \
        f"'--dest=my cats-{side}.zip' --transform=center-crop --width={side} --height={side} --color=rgb"


def test_images_that_are_not_square_have_no_resolution(small_set):
    dataset = small_set({'a.png': picture(8, 16)})
    assert dataset.image_shape == [3, 8, 16]
    with pytest.raises(DatasetError, match='cats: images are 16x8, not square'):
        _ = dataset.resolution


def test_another_resolution_than_asked_for(small_set, tmp_path):
    assert small_set(['a.png'], resolution=8).resolution == 8
    with pytest.raises(DatasetError) as error:
        small_set(['a.png'], resolution=16)
    assert str(error.value) == f'{tmp_path}/cats.zip: images are 8x8, not 16x16 as asked for'


@pytest.mark.parametrize('labels, problem', [
    ([['a.png', 0]], 'dataset.json has no label for image b.png; all images need one'),
    ([], 'dataset.json has no label for image a.png and 1 more; all images need one'),
    ([['a.png', 0], ['b.png', None]], 'dataset.json has no label for image b.png; all images need one'),
    ([['a.png', 0], ['b.png', -1]],
     'image b.png has class label -1; classes are numbered from 0, up to 999999'),
    ([['a.png', 0], ['b.png', 0.25]],
     'image b.png has the label 0.25, which is no class: classes are whole numbers '
                                      'from 0; for a quantity give every image a list of one number, here [0.25]'),
    ([['a.png', 0], ['b.png', -0.5]],
     'image b.png has the label -0.5, which is no class: classes are whole numbers '
                                      'from 0; for a quantity give every image a list of one number, here [-0.5]'),
    ([['a.png', 0], ['b.png', 70000]],
     'the labels go up to 70000, but only 2 different ones occur; every number up to '
                                       'the largest is a class, so number the classes from 0 to 1'),
    ([['a.png', 0], ['b.png', 1], ['a.png', 2]], 'dataset.json has two labels for a.png, 0 and 2'),
    ([['a.png', 0], ['b.png', 10**9]], 'image b.png has class label 1000000000; '
                                       'classes are numbered from 0, up to 999999'),
    ([['a.png', 0], ['b.png', [1, 2]]], 'image b.png has a list of 2 numbers as its label; '
                                        'all labels must be alike, and image a.png has a single number'),
    ([['a.png', [1, 2]], ['b.png', [1]]], 'image b.png has a list of 1 numbers as its label; '
                                          'all labels must be alike, and image a.png has a list of 2 numbers'),
    ([['a.png', 'cat'], ['b.png', 0]], "image a.png has the label 'cat', "
                                       'which is neither a finite number nor a list of such'),
    ([['a.png', [[1]]], ['b.png', 0]], 'image a.png has the label [[1]], '
                                       'which is neither a finite number nor a list of such'),
    ([['a.png', float('nan')], ['b.png', 0]], 'image a.png has the label nan, '
                                              'which is neither a finite number nor a list of such'),
    ([['a.png', [1e39]], ['b.png', [0]]], 'image a.png has the label [1e+39], '
                                          'which is neither a finite number nor a list of such'),
    ([['a.png']], 'dataset.json must hold {"labels": [[FILE NAME, LABEL], ...]} or {"labels": null}'),
    ({'a.png': 0}, 'dataset.json must hold {"labels": [[FILE NAME, LABEL], ...]} or {"labels": null}'),
])
def test_wrong_labels(small_set, tmp_path, labels, problem):
    dataset = small_set(['a.png', 'b.png'], labels=labels, use_labels=True)
    for use in (lambda: dataset.has_labels, lambda: dataset[0], dataset.require_trainable):
        with pytest.raises(DatasetError) as error:
            use()
        assert str(error.value) == f'{tmp_path}/cats.zip: {problem}'


@pytest.mark.parametrize('content, problem', [
    (b'{', r'is not valid JSON \(Expecting property name'),
    (b'\xff\xfe\xfd', r'is not valid JSON \('),
    (b'[' * 100000, r'is not valid JSON \('),
    (b'[]', 'must hold'),
    (b'{}', 'must hold'),
    (b'null', 'must hold'),
])
def test_damaged_label_file(small_set, content, problem):
    dataset = small_set({'a.png': picture(), 'dataset.json': content}, name='cats', use_labels=True)
    with pytest.raises(DatasetError, match='cats: dataset.json ' + problem):
        _ = dataset.label_dim
    # Not asked for.
    assert not small_set({'a.png': picture(), 'dataset.json': content}, name='dogs').has_labels


@pytest.mark.parametrize('files, outside', [
    (['a.png', 'cat/b.png'], 'a.png'), (['cat/a.png', 'cat/b.png'], 'cat/a.png')])
def test_folders_that_are_no_classes(small_set, tmp_path, files, outside):
    dataset = small_set(files, use_labels=True, labels_from='folders')
    with pytest.raises(DatasetError) as error:
        _ = dataset.label_dim
    assert str(error.value) == f'{tmp_path}/cats.zip: image {outside} lies in no class folder; ' \
        'labels from folders need every image in one of several subfolders'


# ---------------------------------------------------------------------------------------------------------------------
# Anything at all


def use_everything(path):
    """Does all that one can do with a set; whether it was sound."""
    try:
        for labels_from in ('json', 'folders'):
            dataset = ImageFolderDataset(path, use_labels=True, labels_from=labels_from)
            assert all(isinstance(bad, BadFile) for bad in dataset.check())
            list(dataset.check(decode=False))
            dataset.fingerprint()
            for i in range(len(dataset)):
                image, label = dataset[i]
                assert list(image.shape) == dataset.image_shape and label.shape == (dataset.label_dim,)
            dataset.require_trainable()
    except DatasetError as error:
        assert str(error).startswith(path), error
        return False
    return True


def sound_archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f'class{i}/{i}.png', picture(seed=i))
        archive.writestr('dataset.json', json.dumps({'labels': [[f'class{i}/{i}.png', i] for i in range(3)]}))
    return file.getvalue()


def test_the_sound_archive_is_sound(tmp_path):
    (tmp_path / 'set.zip').write_bytes(sound_archive())
    assert use_everything(str(tmp_path / 'set.zip'))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(max_size=200)
       | st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=5).map(tuple))
def test_damaged_archives_only_raise_dataset_errors(tmp_path_factory, content):
    if isinstance(content, tuple):  # Changes to a sound archive; counted from its end, where it matters.
        data = bytearray(sound_archive())
        for position, value in content:
            data[-1 - position % len(data)] = value
        content = bytes(data)
    path = tmp_path_factory.getbasetemp() / 'garbage.zip'
    path.write_bytes(content)
    use_everything(str(path))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from(['a.png', 'b.png']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.tuples(JSON, JSON).map(lambda labels: {'labels': [['a.png', labels[0]], ['b.png', labels[1]]]})
       | JSON.map(lambda labels: {'labels': labels}) | JSON)
def test_odd_label_files_only_raise_dataset_errors(tmp_path_factory, content):
    path = write_set(tmp_path_factory.getbasetemp() / 'labelled', {
        'a.png': picture(), 'b.png': picture(), 'dataset.json': json.dumps(content).encode()})
    use_everything(str(path))


def test_a_huge_image_in_a_set_is_refused(small_set):
    with pytest.raises(DatasetError, match='a.png cannot be read .3600000000 pixels are more than the'):
        small_set({'a.png': png((60000, 60000, 8, 2), [])})


@pytest.mark.parametrize('kind', ['zip', 'folder'])
def test_a_label_file_beyond_all_labels_is_not_read(tmp_path, kind):
    """In a small archive: the objects that it stands for take twenty times its length."""
    size = 2 ** 26 + 2 ** 14 + 1
    if kind == 'zip':
        path = tmp_path / 'set.zip'
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr('0.png', picture())
            archive.writestr('dataset.json', bytes(size))
    else:
        path = write_set(tmp_path / 'set', {'0.png': picture()})
        with open(path / 'dataset.json', 'wb') as file:
            file.truncate(size)
    with pytest.raises(DatasetError, match=f'dataset.json cannot be read .{size} bytes are more than the {size - 1} that'):
        assert ImageFolderDataset(str(path), use_labels=True).label_dim


def test_a_member_that_is_longer_than_its_archive_says_takes_no_memory(tmp_path):
    """The directory says 1000 bytes, 100 MB are behind it."""
    path = tmp_path / 'set.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('0.png', picture() + bytes(10 ** 8))
    data = bytearray(path.read_bytes())
    struct.pack_into('<I', data, data.rindex(b'PK\1\2') + 24, 1000)
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match='0.png cannot be read .Bad CRC-32'):
            ImageFolderDataset(str(path))[0]
        assert tracemalloc.get_traced_memory()[1] < 10 ** 7
    finally:
        tracemalloc.stop()


def test_an_archive_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'set.zip')
    with pytest.raises(DatasetError, match='set.zip: no regular file'):
        ImageFolderDataset(str(tmp_path / 'set.zip'))
