"""What lies in a data set and is none of its images."""
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from dataset_files import picture, write_set

import dataset_tool
import train
from training.config.going_on import refuse_changes
from training.data import passed_over
from training.data.storage import DatasetError
from training.dataset import ImageFolderDataset

LEFT_BEHIND = ['.ipynb_checkpoints', '.thumbnails', '.Trash-1000', '.git', '__MACOSX', '@eaDir', '#recycle',
               '$RECYCLE.BIN',
               'System Volume Information', 'lost+found', '__pycache__', '.@__thumb', '@Recycle',
               'Catalog Previews.lrdata', 'CaptureOne', '[Originals]', 'RECYCLED', 'iPod Photo Cache', 'site-packages']
CLASSES = {'c0/0.png': picture(seed=0), 'c1/1.png': picture(seed=1)}


@pytest.fixture(autouse=True)
def without_the_reader_of_heic(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)


def convert(source, dest, *options):
    result = CliRunner().invoke(dataset_tool.main, [f'--source={source}', f'--dest={dest}', *options],
                                catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(dest) as archive:
        return json.loads(archive.read('dataset.json')), result.output


@pytest.mark.parametrize('ending', ['', '.zip'])
@pytest.mark.parametrize('name', LEFT_BEHIND)
def test_a_folder_that_a_program_left_behind_is_no_class_and_has_no_images(tmp_path, name, ending):
    files = {**CLASSES, f'{name}/0-checkpoint.png': picture(seed=2), f'c1/{name}/deep/1.png': picture(seed=3)}
    source = write_set(tmp_path / f'pets{ending}', files)
    labels, output = convert(source, tmp_path / 'out.zip', '--labels-from=folders')
    assert [label for _, label in labels['labels']] == [0, 1] and labels['label_names'] == ['c0', 'c1']
    assert f'{source}: 2 files passed over: 2 folders {name}' in output.splitlines()
    dataset = ImageFolderDataset(str(source), use_labels=True, labels_from='folders')
    assert len(dataset) == 2 and dataset.label_dim == 2
    assert dataset.fingerprint() == ImageFolderDataset(str(write_set(tmp_path / 'clean', CLASSES))).fingerprint()


@pytest.mark.parametrize('ending', ['', '.zip'])
def test_files_that_programs_left_behind_are_no_images(tmp_path, ending):
    files = {'a.png': picture(), '._a.png': b'', '.b.png': picture(), 'Thumbs.db': b'', 'desktop.ini': b'',
             '.DS_Store': b''}
    source = write_set(tmp_path / f'cats{ending}', files)
    dataset = ImageFolderDataset(str(source))
    assert len(dataset) == 1
    assert dataset.passed_over() == ('5 files passed over: 1 .DS_Store, 1 .b.png, 1 Thumbs.db, 1 desktop.ini, '
                                     '1 note of macOS (._*)')


def test_archives_of_windows_may_have_backslashes(tmp_path):
    files = {'a\\b.png': picture(), '..\\c.png': picture(), '__MACOSX\\d.png': b'', 'a\\.thumbs\\e.png': b''}
    dataset = ImageFolderDataset(str(write_set(tmp_path / 'cats.zip', files)))
    assert len(dataset) == 2
    assert dataset.passed_over() == '2 files passed over: 1 folder .thumbs, 1 folder __MACOSX'


def test_the_root_of_a_set_may_be_hidden_and_names_may_begin_with_a_dot_and_a_slash(tmp_path):
    write_set(tmp_path / '.cache', CLASSES)
    assert len(ImageFolderDataset(str(tmp_path / '.cache'))) == 2
    write_set(tmp_path / 'pets.zip', {f'./{name}': data for name, data in CLASSES.items()})
    assert len(ImageFolderDataset(str(tmp_path / 'pets.zip'))) == 2


def test_what_is_left_out_is_counted_by_kind(tmp_path):
    source = write_set(tmp_path / 'cats',
                       {'a.png': picture(), 'dataset.json': b'{"labels": null}', 'notes.TXT': b'',
                                           'LICENSE': b'', 'b.HEIC': b'', 'c.heic': b'', 'd.dds': b''})
    os.symlink('nowhere', source / 'e.png')
    os.symlink(write_set(tmp_path / 'dogs', {'f.png': picture()}), source / 'dogs')
    os.mkfifo(source / 'g.png')
    sentence = ('8 files passed over: 2 .heic (dataset_tool.py reads them with the extra "heic": pip install pillow-heif), '
                '1 .dds (convert them first), 1 linked folder (links to folders are not followed: name the folder itself, or '
                'copy it), 1 .txt, 1 dangling link, 1 special file, 1 without an ending')
    assert ImageFolderDataset(str(source)).passed_over() == sentence
    result = CliRunner().invoke(dataset_tool.main, [f'--source={source}', '--check'])
    assert result.exit_code == 0 and f'{source}: {sentence}' in result.output.splitlines()


def test_folders_may_be_nested_deeper_than_functions(tmp_path):
    """About as deep as a path of 4096 bytes can be."""
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1500):
            os.mkdir('d')
            os.chdir('d')
        Path('0.png').write_bytes(picture())
        os.chdir(here)
        found = ImageFolderDataset(str(tmp_path))
        assert len(found) == 1
        assert CliRunner().invoke(dataset_tool.main, [f'--source={tmp_path}', '--check']).exit_code == 0
    finally:
        os.chdir(here)
        subprocess.run(['rm', '-rf', str(tmp_path / 'd')])      # What pytest removes it with is not made for that.


def test_links_in_an_archive_are_no_images(tmp_path):
    source = write_set(tmp_path / 'cats.zip', {'a.png': picture(), 'd/': b''})
    with zipfile.ZipFile(source, 'a') as archive:
        for name in ('b.png', 'c.png'):
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, 0o120777 << 16
            archive.writestr(link, 'a.png')
    assert ImageFolderDataset(str(source)).passed_over() == '2 files passed over: 2 archived links'


def test_a_set_with_nothing_but_such_files_says_so(tmp_path):
    os.symlink(write_set(tmp_path / 'dogs', {'f.png': picture()}),
               write_set(tmp_path / 'cats', {'a.heic': b''}) / 'dogs')
    with pytest.raises(DatasetError,
                       match=r'no images in it .*; 2 files passed over: 1 .heic \(.*\), 1 linked folder'):
        ImageFolderDataset(str(tmp_path / 'cats'))
    result = CliRunner().invoke(dataset_tool.main, [f'--source={tmp_path}/cats', '--check'])
    assert result.exit_code == 1 and '2 files passed over' in result.output


def test_many_kinds_are_summed_up():
    assert passed_over.in_words(Counter({f'.{i:02d}': 1 for i in range(11)})).endswith('1 .07, 3 of other kinds')
    assert passed_over.in_words(Counter()) == ''


def test_training_says_what_it_passes_over(tmp_path):
    source = write_set(tmp_path / 'cats', {'a.png': picture(), 'b.heic': b''})
    result = CliRunner().invoke(train.main,
                                [f'--data={source}', f'--outdir={tmp_path}/runs', '--cfg=tiny', '--dry-run',
                                             '--metrics=none', '--aug=noaug'])
    assert result.exit_code == 0 and f'{source}: 1 file passed over: 1 .heic (' in result.output


def test_a_run_of_before_says_why_its_images_are_fewer(tmp_path):
    source = write_set(tmp_path / 'cats', {'a.png': picture(), '.old/b.png': picture()})
    with pytest.raises(train.UserError,
                       match=r'2 images fewer .*pictures that programs left behind \(.old\) no longer count'):
        refuse_changes('run', {'data_paths': [str(source)]}, {'data_fingerprints': '2 images fewer'}, False)
