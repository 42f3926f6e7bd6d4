"""Who else could have written what is kept for later, and would then be executed."""
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from dnnlib.cache import make_cache_dir_path, who_else_writes

ME, OTHER, ADMINISTRATOR = 1000, 1001, 0
PRIVATE, FOR_ALL = 0o755, 0o1777


@pytest.fixture
def rights(monkeypatch):
    """{path: (owner, mode)} of files that need not be there; others belong to the administrator."""
    known = {}

    def status(path, **_):
        owner, mode = known.get(os.fspath(path), (ADMINISTRATOR, PRIVATE))
        return SimpleNamespace(st_uid=owner, st_mode=(stat.S_IFREG if path == library() else stat.S_IFDIR) | mode)

    for name in ('DNNLIB_CACHE_DIR', 'USERPROFILE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', '/home/me')
    monkeypatch.setattr('tempfile.tempdir', '/tmp')
    monkeypatch.setattr(os, 'geteuid', lambda: ME)
    monkeypatch.setattr(os, 'stat', status)
    return known


def library():
    return make_cache_dir_path('ops', 'cpu.so')


def test_what_this_user_or_the_administrator_has_written_is_trusted(rights):
    assert who_else_writes(library()) is None
    rights[library()] = ME, PRIVATE
    assert who_else_writes(library()) is None


def test_whoever_owns_the_home_directory_is_trusted(rights):
    """In a container the administrator may work in a user's home."""
    rights['/home/me'] = rights[library()] = OTHER, PRIVATE
    assert who_else_writes(library()) is None


@pytest.mark.parametrize('named', [None, '/tmp/shared', '/home/me/cache'])
def test_what_others_have_written_is_not(rights, monkeypatch, named):
    if named:
        monkeypatch.setenv('DNNLIB_CACHE_DIR', named)
    rights[os.path.dirname(library())] = OTHER, PRIVATE
    assert who_else_writes(library()) == f'{os.path.dirname(library())} belongs to another user'


def test_without_a_home_anybody_may_have_been_first(rights, monkeypatch):
    monkeypatch.delenv('HOME')
    assert library() == '/tmp/.cache/dnnlib/ops/cpu.so'
    rights['/tmp'] = OTHER, FOR_ALL         # Whoever owns it: it is for all.
    rights[library()] = OTHER, PRIVATE
    assert who_else_writes(library()) == f'{library()} belongs to another user'


@pytest.mark.parametrize('part', [os.path.dirname, str])
def test_what_anybody_may_write_to_is_not_trusted(rights, part):
    rights[part(library())] = ME, 0o777
    assert who_else_writes(library()) == f'anybody may write to {part(library())}'


def test_a_folder_where_all_may_make_files_and_none_replaces_those_of_others_will_do(rights, monkeypatch):
    """As in the image that the Dockerfile makes."""
    assert 'chmod 1777 /cache /cache/ops' in (Path(__file__).parents[2] / 'Dockerfile').read_text()
    monkeypatch.setenv('DNNLIB_CACHE_DIR', '/cache')
    rights['/cache'] = rights['/cache/ops'] = ADMINISTRATOR, FOR_ALL
    assert who_else_writes(library()) is None
    rights[library()] = OTHER, PRIVATE
    assert who_else_writes(library()) == '/cache/ops/cpu.so belongs to another user'
    rights[library()] = ME, FOR_ALL
    assert who_else_writes(library()) == 'anybody may write to /cache/ops/cpu.so'
