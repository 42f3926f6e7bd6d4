"""Label files that name the images in another way than the set does, or lie elsewhere:
matched where that is certain."""
import json
import unicodedata

import pytest
from click.testing import CliRunner
from dataset_files import picture, write_set

import dataset_tool
from training.data.matching import AmbiguousError, match
from training.dataset import DatasetError, ImageFolderDataset

IMAGES = ['c0/0.png', 'c0/2.png', 'c1/1.png']
NFC, NFD = (unicodedata.normalize(form, 'caf\u00e9.png') for form in ('NFC', 'NFD'))


def match_all(theirs, ours):
    """The image that each entry belongs to, by position; None for an entry of no image."""
    by_image = match({name: i for i, name in enumerate(theirs)}, ours).by_image
    return [next((name for name, i in by_image.items() if i == k), None) for k in range(len(theirs))]


@pytest.mark.parametrize('theirs', [
    IMAGES,
    [f'/home/me/set/{name}' for name in IMAGES],
    [f'absent/{name}' for name in IMAGES],
    [f'./{name}' for name in IMAGES],
    [name.replace('/', '\\') for name in IMAGES],
    ['D:\\Data\\' + name.replace('/', '\\').upper() for name in IMAGES],
    [f'file:///{name}' for name in IMAGES],
    ['c0/0.png', 'C0/2.PNG', './c1/1.png'],
])
def test_names_are_matched_where_that_is_certain(theirs):
    assert match_all(theirs, IMAGES) == IMAGES
    assert match_all([*theirs, 'c2/3.png'], IMAGES) == [*IMAGES, None]


@pytest.mark.parametrize('theirs, ours', [
    (['0.png', '1.png'], ['cats/0.png', 'cats/1.png']),
    (['cats/0.png', 'cats/1.png'], ['new/cats/0.png', 'new/cats/1.png']),
    (['/old/cats/0.png', '/old/cats/1.png'], ['new/cats/0.png', 'new/cats/1.png']),
    (['a/x/0.png', 'b/x/0.png'], ['new/a/x/0.png', 'new/b/x/0.png']),
    ([NFC, 'b.png'], [NFD, 'b.png']),
    ([NFD, 'b.png'], [f'set/{NFC}', 'set/b.png']),
])
def test_either_side_may_have_folders_or_accents_of_its_own(theirs, ours):
    assert match_all(theirs, ours) == ours


def test_the_longer_agreement_wins():
    """Both parts of the file have a 0.png, but the folder of the images says which is meant."""
    assert match_all(['train/0.png', 'val/0.png'], ['set/train/0.png']) == ['set/train/0.png', None]


@pytest.mark.parametrize('theirs, ours', [
    (['0.jpg', '1.jpg'], ['0.png', '1.png']),
    (['a/0.png', 'b/1.png'], ['0.png', '1.png']),               # No one beginning for all.
    (['10.png', '11.png'], ['0.png', '1.png']),                 # A beginning ends in a slash.
    (['x/0.png'], ['0.png', '1.png']),
    (['A.png', 'a.PNG'], ['a.png']),
    (['A.png'], ['a.png', 'a.PNG']),
])
def test_nothing_is_guessed(theirs, ours):
    assert match_all(theirs, ours) == [None] * len(theirs)


def test_two_beginnings_that_fit_are_refused():
    with pytest.raises(AmbiguousError) as error:
        match({'train/0.png': 0, 'val/0.png': 1, 'val/1.png': 1, 'train/1.png': 0}, ['0.png', '1.png'])
    assert error.value.args == ('train/0.png', 'val/0.png', '0.png')


def test_the_outer_one_of_two_label_files_counts(tmp_path):
    """As one at the root does."""
    source = write_set(tmp_path / 'set', {'a/b/0.png': picture(), 'a/b/dataset.json': b'not read',
                                          'a/dataset.json': label_file([['b/0.png', 0]])})
    assert ImageFolderDataset(str(source), use_labels=True).label_dim == 1


def run(*arguments, code=0):
    result = CliRunner().invoke(dataset_tool.main, [str(argument) for argument in arguments],
                                catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def label_file(labels):
    return json.dumps({'labels': labels}).encode()


@pytest.mark.parametrize('name', ['set', 'set.zip'])
def test_labels_in_the_one_top_folder_are_found(tmp_path, name):
    files = {f'my/cats/{i}.png': picture(seed=i) for i in range(3)}
    files['my/dataset.json'] = label_file([[f'cats/{i}.png', i % 2] for i in range(3)])
    source = write_set(tmp_path / name, files)
    dataset = ImageFolderDataset(str(source), use_labels=True)
    assert [int(dataset.get_details(i).raw_label) for i in range(3)] == [0, 1, 0]
    output = run(f'--source={source}', f'--dest={tmp_path}/out')
    assert f'Note: {source}: my/dataset.json says cats/0.png for my/cats/0.png; names were matched.\n' in output
    assert output.endswith('Labels: 2 classes\n  class  images\n      0       2\n      1       1\n')
    assert [label for _, label in json.loads((tmp_path / 'out/dataset.json').read_bytes())['labels']] == [0, 1, 0]


def test_archives_of_windows_have_their_labels_too(tmp_path):
    files = {f'cats\\{"ab"[i % 2]}\\{i}.png': picture(seed=i) for i in range(4)}
    source = write_set(tmp_path / 'set.zip', files)
    assert run(f'--source={source}', '--check', '--labels-from=folders').endswith(
        '  class  images  name\n      0       2  a\n      1       2  b\n')
    files['cats\\dataset.json'] = label_file([[f'{"ab"[i % 2]}/{i}.png', i % 2] for i in range(4)])
    assert 'Labels: 2 classes\n' in run(f'--source={write_set(source, files)}', '--check')
    dataset = ImageFolderDataset(str(source), use_labels=True)
    assert dataset.label_dim == 2 and dataset.passed_over() == ''
    files['cats\\a\\dataset.json'] = files.pop('cats\\dataset.json')
    assert 'is not where labels are looked for' in run(f'--source={write_set(source, files)}', '--check', code=1)


@pytest.mark.parametrize('content, problem', [
    (b'{"images": []}', 'must hold {"labels": [[FILE NAME, LABEL], ...]} or {"labels": null}'),
    (b'\xff\xfe', 'is not valid JSON'),
    (b'{"labels": [["0.png", "cat"]]}', "image 0.png has the label 'cat', which is neither a finite number nor a list"),
])
def test_a_label_file_that_cannot_be_read_can_be_left_out(tmp_path, content, problem):
    source = write_set(tmp_path / 'set', {'0.png': picture(), 'dataset.json': content})
    output = run(f'--source={source}', '--check', code=1)
    assert problem in output and output.endswith('; --labels-from=none leaves the labels out\n')
    assert run(f'--source={source}', '--check', '--labels-from=none').endswith('Labels: none\n')


@pytest.mark.parametrize('files, problem', [
    ({'dataset.json': label_file([['0.jpg', 0], ['1.jpg', 1]])},
     'dataset.json names no image of the set: it has 0.jpg and 1 more, the set has a/0.png and 1 more; names must be '
     'relative to the root of the set, with forward slashes'),
    ({'dataset.json': label_file([['x/a/0.png', 0], ['x/b/1.png', 1], ['y/a/0.png', 2], ['y/b/1.png', 3]])},
     'dataset.json has the labels of a/0.png in several ways, as x/a/0.png and as y/a/0.png; names must be relative to '
     'the root of the set, with forward slashes'),
    ({'a/dataset.json': label_file([['0.png', 0]]), 'b/dataset.json': label_file([['1.png', 1]])},
     'a/dataset.json and 1 more is not where labels are looked for: those of all images must be in one dataset.json at '
     'the root of the set'),
    ({'Dataset.json': label_file([['a/0.png', 0], ['b/1.png', 1]])},
     'Dataset.json is not where labels are looked for: those of all images must be in one dataset.json at the root of '
     'the set'),
])
def test_labels_that_belong_to_no_image_are_not_dropped_in_silence(tmp_path, files, problem):
    source = write_set(tmp_path / 'set', {'a/0.png': picture(), 'b/1.png': picture(seed=1), **files})
    with pytest.raises(DatasetError) as error:
        ImageFolderDataset(str(source), use_labels=True).require_trainable()
    assert str(error.value) == f'{source}: {problem}'
    for action in ('--check', f'--dest={tmp_path}/out'):
        assert run(f'--source={source}', action, code=1) == \
            f'Error: {source}: {problem}; --labels-from=none leaves the labels out\n'
    output = run(f'--source={source}', f'--dest={tmp_path}/out', '--labels-from=none')
    assert output.endswith('Labels: none\n') and json.loads((tmp_path / 'out/dataset.json').read_bytes()) == {'labels': None}


def test_a_label_file_of_another_program_elsewhere_is_none_of_ours(tmp_path):
    source = write_set(tmp_path / 'set', {'a/0.png': picture(), 'cache/dataset.json': b'{}'})
    assert run(f'--source={source}', '--check').endswith('Labels: none\n')
