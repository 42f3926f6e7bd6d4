"""Files by URL, downloaded once and kept in a cache directory.

What loads slowly is imported where it is needed: commands that download nothing answer at once.
"""
import glob
import hashlib
import os
import re
import tempfile
import time
import urllib.parse
from typing import Any, BinaryIO

TIMEOUT_SEC = 60        # Without a byte from the server.
CHUNK_BYTES = 1 << 20
MAX_PAUSE_SEC = 8       # Between attempts.
MAX_NAME = 200          # Of the name that a server gives, its end; file systems allow 255 with the checksum.

_cache_dir = None       # Set by set_cache_dir().


def set_cache_dir(path: str) -> None:
    """Makes this the cache directory, whatever the environment says."""
    global _cache_dir
    _cache_dir = path


def make_cache_dir_path(*paths: str) -> str:
    """A path below the cache directory, which is the first known of these; nothing is created.

    The one set by `set_cache_dir`; $DNNLIB_CACHE_DIR; .cache/dnnlib below $HOME, $USERPROFILE, the system's directory
    for temporary files.
    """
    cache_dir = _cache_dir or os.environ.get('DNNLIB_CACHE_DIR')
    if not cache_dir:
        home = os.environ.get('HOME') or os.environ.get('USERPROFILE') or tempfile.gettempdir()
        cache_dir = os.path.join(home, '.cache', 'dnnlib')
    return os.path.join(cache_dir, *paths)


def is_url(obj: Any, allow_file_urls: bool = False) -> bool:
    """Whether this is a string like 'https://host/path' ('file://...' only if allowed)."""
    if not isinstance(obj, str) or not re.match('[a-z]+://', obj):
        return False
    parts = urllib.parse.urlsplit(obj)
    if parts.scheme == 'file':
        return allow_file_urls
    return bool(parts.netloc)


def open_url(
    url: str,
    cache_dir: str | None = None,
    num_attempts: int = 10,
    verbose: bool = True,
    return_filename: bool = False,
    cache: bool = True,
    sha256: str | None = None,
) -> str | BinaryIO:
    """Opens a URL, or a local file, for reading in binary; a download is kept and found again.

    The file is moved into the cache when it is complete, so several processes may ask for it at once, and an
    interrupted download leaves nothing that could be taken for it. With the environment variable DNNLIB_OFFLINE=1, only
    the cache is asked.

    Args:
        url: 'https://...' ('http://...' too), 'file://...', or a path.
        cache_dir: Where downloads are kept. None: `make_cache_dir_path('downloads')`.
        num_attempts: How often to try a server that cannot be reached, breaks off, or is busy.
        verbose: Print what is downloaded.
        return_filename: Return the path of the file instead.
        cache: False: keep nothing, look for nothing. (Not with `return_filename`.)
        sha256: Hexadecimal checksum that the content must have, downloaded, cached or local.

    Raises:
        OSError: The file cannot be had or has another checksum; the message is one sentence.
    """
    assert cache or not return_filename, 'a file name needs the cache'
    path = _local_path(url)
    if path is None and not cache:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by the caller)
        _download(url, file, num_attempts, verbose)
        _check(file, sha256, url)
        return file
    if path is None:
        cache_dir = cache_dir or make_cache_dir_path('downloads')
        path = _cached_path(url, cache_dir) or _download_into(cache_dir, url, num_attempts, verbose, sha256)
    file = open(path, 'rb')  # noqa: SIM115 (closed by the caller)
    _check(file, sha256, path)
    if not return_filename:
        return file
    file.close()
    return path


def _local_path(url):
    """The path that a path or file URL means; None for what has to be downloaded."""
    if not re.match('[a-z]+://', url):
        return url
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == 'file':
        from urllib.request import url2pathname
        return url2pathname(parts.path)
    if parts.scheme not in ('http', 'https'):
        raise OSError(f'{url}: only https, http and file URLs can be opened')
    return None


def _check(file, sha256, name):
    """Compares the content of an open file with its checksum, if there is one, and goes back to its start."""
    file.seek(0)
    if sha256 is None:
        return
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    file.seek(0)
    if digest.hexdigest() != sha256.lower():
        raise OSError(f'{name}: the SHA-256 of the content is {digest.hexdigest()}, expected {sha256}; '
                      'delete the file if it is a cached one, and get another')


# The cache: files named '{MD5 of the URL}_{name given by the server}'.


def _cached_path(url, cache_dir):
    paths = glob.glob(os.path.join(glob.escape(cache_dir), f'{_md5(url)}_*'))
    return paths[0] if len(paths) == 1 else None


def _md5(url):
    return hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()


def _download_into(cache_dir, url, num_attempts, verbose, sha256):
    """Downloads to a temporary name, checks, renames; returns the path."""
    os.makedirs(cache_dir, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=cache_dir, prefix='partial-')
    try:
        with os.fdopen(handle, 'w+b') as file:
            name = _download(url, file, num_attempts, verbose)
            _check(file, sha256, url)
        name = re.sub(r'[^0-9a-zA-Z-._]', '_', name)[-MAX_NAME:]
        path = os.path.join(cache_dir, f'{_md5(url)}_{name}')
        os.replace(partial, path)
        return path
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


# The network.


class _TryAgain(Exception):
    """The server may do better the next time."""


def _download(url, file, num_attempts, verbose):
    """Writes the content of the URL to a file, with several attempts; returns the name that the server gives it."""
    if os.environ.get('DNNLIB_OFFLINE', '0') not in ('', '0'):
        raise OSError(f'{url} is not in the cache and DNNLIB_OFFLINE is set: get the file by other means and give its '
                      'path, or unset the variable')
    if verbose:
        print(f'Downloading {url} ...', flush=True)
    for attempt in range(1, num_attempts + 1):
        try:
            file.seek(0)
            file.truncate()
            return _download_once(url, file)
        except _TryAgain as problem:
            if attempt == num_attempts:
                raise OSError(f'{url} could not be downloaded in {num_attempts} attempts: {problem}') from None
            pause_sec = min(2 ** (attempt - 1), MAX_PAUSE_SEC)
            if verbose:
                print(f'Attempt {attempt} of {num_attempts} failed ({problem}), next one in {pause_sec} s', flush=True)
            time.sleep(pause_sec)


def _download_once(url, file):
    import requests
    headers = {'Accept-Encoding': 'identity'}
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT_SEC, headers=headers) as response:
            if response.status_code == 429 or response.status_code >= 500:
                raise _TryAgain(f'the server answers {response.status_code} {response.reason}')
            if response.status_code != 200:
                raise OSError(f'{url}: the server answers {response.status_code} {response.reason}')
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
            num_bytes = int(response.headers.get('Content-Length', file.tell()))
            if 'Content-Encoding' not in response.headers and file.tell() != num_bytes:
                raise _TryAgain(f'only {file.tell()} of {num_bytes} bytes came')
            return _served_name(response.headers) or url
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _TryAgain(str(error)) from error


def _served_name(headers):
    """The file name in the header Content-Disposition, None without one."""
    from email.message import Message
    message = Message()
    message['Content-Disposition'] = headers.get('Content-Disposition', '')
    return message.get_filename()
