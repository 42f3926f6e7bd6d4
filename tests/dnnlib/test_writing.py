"""dnnlib/writing.py: files complete or not at all, and never over what this program did not write."""
import ast
import os
import re
import socket
import stat
import zipfile

import numpy as np
import pytest
from PIL import Image
from source_files import project_files

from dnnlib import writing
from training.data.storage import DatasetError, open_files, open_writer

MARKED = b'<html>' + writing.MARK.encode()


@pytest.fixture(params=['folder', 'link', 'dangling link', 'pipe', 'socket'])
def special(request, tmp_path):
    """A path where something stands that is no regular file, with its kind."""
    path = tmp_path / 'special'
    if request.param == 'folder':
        path.mkdir()
        (path / 'inside').touch()
    elif request.param == 'link':
        (tmp_path / 'target').write_bytes(MARKED)
        path.symlink_to(tmp_path / 'target')
    elif request.param == 'dangling link':
        path.symlink_to(tmp_path / 'nowhere')
    elif request.param == 'pipe':
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.fspath(path))
    return path


def contents(folder):
    return {path.name: (path.lstat().st_mode, path.is_file() and not path.is_symlink() and path.read_bytes())
            for path in folder.iterdir()}


@pytest.mark.parametrize('replace', ['ours', 'any', 'none'])
def test_special_files_are_never_touched(special, tmp_path, replace):
    before = contents(tmp_path)
    with pytest.raises(writing.TakenError,
                       match='special: is a .*, which is never written over; name a new file'):
        writing.write_bytes(special, b'x', replace)
    with pytest.raises(writing.TakenError), writing.atomic_path(special, replace):
        pytest.fail('the work was done before')
    with pytest.raises(writing.TakenError), writing.append(special):
        pytest.fail('it was opened')
    assert contents(tmp_path) == before


def test_a_device_is_never_touched():
    with pytest.raises(writing.TakenError, match='/dev/null: is a device'):
        writing.require_free('/dev/null', 'any')
    with pytest.raises(writing.TakenError), writing.append('/dev/null'):
        pytest.fail('it was opened')
    assert stat.S_ISCHR(os.stat('/dev/null').st_mode)


@pytest.mark.parametrize(('found', 'replace', 'free'), [
    (b'a photo', 'ours', False), (MARKED, 'ours', True), (b'', 'ours', True),
    (b'x' * 10 ** 6 + MARKED, 'ours', True),
    (b'x' * 10 ** 5 + MARKED + b'x' * 10 ** 5, 'ours', False), (b'a photo', 'any', True),
    (MARKED, 'none', False),
])
def test_only_what_may_be_replaced_is(tmp_path, found, replace, free):
    path = tmp_path / 'file'
    path.write_bytes(found)
    if free:
        writing.require_free(path, replace)
        writing.write_bytes(path, b'new', replace)
        assert path.read_bytes() == b'new'
    else:
        for write in (writing.require_free, lambda path, replace: writing.write_bytes(path, b'new', replace)):
            with pytest.raises(writing.TakenError, match=f'{path}: exists already.*; name a new file'):
                write(path, replace)
        assert path.read_bytes() == found
    assert os.listdir(tmp_path) == ['file']


def test_what_came_meanwhile_stays(tmp_path):
    path = tmp_path / 'file'
    with pytest.raises(writing.TakenError), writing.atomic(path) as file:
        file.write(b'new')
        path.write_bytes(b'a photo')
    assert path.read_bytes() == b'a photo' and os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize('replaced', [False, True])
def test_a_writer_that_fails_leaves_nothing_and_changes_nothing(tmp_path, replaced):
    path = tmp_path / 'file.html'
    if replaced:
        path.write_bytes(MARKED)
    before = contents(tmp_path)
    with pytest.raises(KeyboardInterrupt), writing.atomic(path) as file:
        file.write(b'half')
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), writing.atomic_path(path) as temporary:
        assert temporary.suffix == '.html' and temporary.parent == tmp_path
        temporary.mkdir()
        (temporary / 'half').touch()
        raise KeyboardInterrupt
    assert contents(tmp_path) == before


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path):
    """Somebody's run directory may hold one that guesses the name."""
    victim, path = tmp_path / 'victim', tmp_path / 'file'
    victim.write_bytes(b'secret')
    (tmp_path / writing.temporary_name(path)).symlink_to(victim)
    writing.write_bytes(path, b'new')
    assert victim.read_bytes() == b'secret' and path.read_bytes() == b'new'
    assert sorted(os.listdir(tmp_path)) == ['file', 'victim']


def test_a_folder_takes_the_place_of_an_empty_one(tmp_path):
    (tmp_path / 'new').mkdir()
    with writing.atomic_path(tmp_path / 'new') as temporary:
        temporary.mkdir()
        (temporary / 'a').touch()
    assert os.listdir(tmp_path) == ['new'] and os.listdir(tmp_path / 'new') == ['a']


def test_errors_of_the_system_name_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / 'nowhere' / 'file'
    with pytest.raises(FileNotFoundError) as caught:
        writing.write_text(path, 'x')
    assert caught.value.filename == str(path)
    with pytest.raises(OSError) as caught, writing.atomic(tmp_path / 'file'):
        raise OSError(28, 'No space left on device')
    assert caught.value.filename == str(tmp_path / 'file')


def test_long_and_foreign_names_can_be_written(tmp_path):
    for name in ('x' * 250 + '.html', os.fsdecode(b'caf\xe9.html'), '\N{SNOWMAN}' * 80):
        writing.write_text(tmp_path / name, name)
        assert (tmp_path / name).read_bytes() == os.fsencode(name)


def test_append_adds_to_what_is_there(tmp_path):
    for line in (b'1\n', b'2\n'):
        with writing.append(tmp_path / 'log') as file:
            file.write(line)
    assert (tmp_path / 'log').read_bytes() == b'1\n2\n'


def test_new_files_have_the_rights_that_the_user_chose(tmp_path):
    before = os.umask(0o027)
    try:
        writing.write_text(tmp_path / 'file', 'x')
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / 'file').stat().st_mode) == 0o640


@pytest.mark.parametrize('name', ['a.png', 'a', 'a.PNG', 'a.webp', 'a.gif', 'a.jpg', 'a.tiff'])
def test_pictures_replace_their_like_but_not_a_photo(tmp_path, name):
    picture, path = Image.new('RGB', (8, 8)), tmp_path / name
    for _ in range(2):
        writing.write_picture(path, picture)
        with Image.open(path) as written:
            assert written.size == (8, 8)
    picture.save(path, 'png')
    with pytest.raises(writing.TakenError):
        writing.write_picture(path, picture)


def test_a_picture_of_no_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match='no format of pictures ends in .docx; use .png'):
        writing.write_picture(tmp_path / 'a.docx', Image.new('L', (1, 1)))


def test_arrays_replace_their_like_but_not_others(tmp_path):
    path = tmp_path / 'a.npz'
    for value in (1, 2):
        writing.write_npz(path, w=np.array([value]))
        with np.load(path) as arrays:
            assert arrays['w'] == value
    np.savez(path, w=np.array([3]))
    with pytest.raises(writing.TakenError):
        writing.write_npz(path, w=np.array([4]))


def test_nothing_is_written_by_other_means():
    """Whatever opens a file to write it is in writing.py, or says here why it need not be."""
    allowed = {
        'dnnlib/writing.py',            # Itself.
        'dnnlib/logger.py', 'training/run/lock.py',     # The log and the lock of a run.
        'dnnlib/output.py',             # os.devnull, for a process without streams.
        'drawing/output_files.py',      # A trial of the room there is, under a name of writing.py.
        'training/run/status.py',           # stats.jsonl, which is cut and added to.
        'training/data/storage.py',          # Archives and folders of images.
        'torch_utils/ops/build.py', 'torch_utils/ops/nvrtc.py',     # What compilers read, in a folder of its own.
        'torch_utils/wire/certificates.py',     # Keys that nobody but their owner may read, from the first byte on.
        'torch_utils/wire/record.py',   # Messages, each under a name that nothing has yet.
        'video.py',
    }
    found = set()
    for file, source in project_files().items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and writes(node) and not file.startswith('benchmarks/'):
                found.add(file)
    assert found <= allowed


def test_one_file_renames():
    """Whatever appears complete or not at all does so by way of writing.py."""
    means = ('os.replace', 'os.rename', 'os.renames', 'shutil.move')
    renaming = {file for file, source in project_files().items() for node in ast.walk(ast.parse(source))
                if isinstance(node, ast.Call) and ast.unparse(node.func) in means}
    assert renaming == {'dnnlib/writing.py'}


def writes(call):
    """Does this call write a file under a name?"""
    name = ast.unparse(call.func)
    if name in ('open', 'os.fdopen', 'io.open') or name.endswith('.open'):
        words = [ast.unparse(argument)
                 for argument in [*call.args[:2], *(key.value for key in call.keywords)]]
        return any(re.fullmatch(r"'[rb]*[wax+][wax+b]*'", word) for word in words)
    last = name.rpartition('.')[2]
    return last in ('write_text', 'write_bytes') and not name.startswith('writing.') or name in ('np.save', 'shutil.copy')


def test_a_data_set_replaces_one_of_ours_but_no_other_file(tmp_path):
    path = tmp_path / 'set.zip'
    for name in ('1.png', '2.png'):
        with open_writer(path) as add:
            add(name, b'x')
        assert open_files(path).names == [name]
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('only copy.png', b'x')
    with pytest.raises(DatasetError, match='exists already and was not written by this program'):
        open_writer(path)
    assert open_files(path).names == ['only copy.png']
    os.mkfifo(tmp_path / 'pipe.zip')
    with pytest.raises(DatasetError, match='is a pipe'):
        open_writer(tmp_path / 'pipe.zip')
