"""Where programs keep what they can make or fetch again: downloads, compiled operators, features of data sets."""
import os
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
    cache_dir = _cache_dir or os.environ.get('DNNLIB_CACHE_DIR')
    if not cache_dir:
        home = os.environ.get('HOME') or os.environ.get('USERPROFILE') or tempfile.gettempdir()
        cache_dir = os.path.join(home, '.cache', 'dnnlib')
    return os.path.join(cache_dir, *paths)
