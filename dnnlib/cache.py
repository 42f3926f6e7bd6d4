"""Where programs keep what they can make or fetch again: downloads, compiled operators, features of data sets."""
import os
import stat
import tempfile

_cache_dir = None       # Set by set_cache_dir().


def set_cache_dir(path: str | None) -> None:
    """Makes this the cache directory, whatever the environment says."""
    global _cache_dir
    _cache_dir = path


def make_cache_dir_path(*paths: str) -> str:
    """A path below the cache directory, which is the first known of these; nothing is created.

    The one set by `set_cache_dir`; $DNNLIB_CACHE_DIR; .cache/dnnlib below $HOME, $USERPROFILE,
    the system's directory for temporary files.
    """
    return os.path.join(*filter(None, _place()), *paths)


def who_else_writes(path: str | os.PathLike) -> str | None:
    """A clause about a file in the cache that others could have written, None if nobody could: for what is executed.

    Trusted are this user, the administrator, and who owns the folder that was named or the home directory.
    Without either the cache lies among temporary files, where anybody may have been first.
    """
    if os.name == 'nt':                     # Other rights, and nothing that is executed.
        return None
    trusted = {0, os.geteuid()}
    top = _status(_place()[0])
    if top is not None and not top.st_mode & stat.S_IWOTH:
        trusted.add(top.st_uid)
    for part in (os.path.dirname(path), path):
        status = _status(part)
        if status is not None and status.st_uid not in trusted:
            return f'{part} belongs to another user'
        if status is not None and status.st_mode & stat.S_IWOTH and not _keeps_owners(status):
            return f'anybody may write to {part}'
    return None


def _place():
    """(The folder that was named, or is there for all, the cache's place in it)."""
    named = _cache_dir or os.environ.get('DNNLIB_CACHE_DIR')
    if named:
        return named, ''
    home = os.environ.get('HOME') or os.environ.get('USERPROFILE') or tempfile.gettempdir()
    return home, os.path.join('.cache', 'dnnlib')


def _keeps_owners(status):
    """Is it a folder like that of temporary files, where all may make files, and nobody replaces those of others?"""
    return stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX


def _status(path):
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
