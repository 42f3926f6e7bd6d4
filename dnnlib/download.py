"""Files by URL, downloaded once and kept in a cache directory.

What loads slowly is imported where it is needed: commands that download nothing answer at once.
"""
import errno
import glob
import hashlib
import os
import re
import shutil
import socket
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from dnnlib import hf_hub, writing
from dnnlib.cache import make_cache_dir_path

TIMEOUT_SEC = 60        # Without a byte from the server.
CHUNK_BYTES = 1 << 20
MAX_BYTES = 1 << 34     # Of one file: 16 GB, many times what a network or a detector has.
MIN_BYTES_PER_SEC = 1000        # On average, once GRACE_SEC have passed.
GRACE_SEC = 60
MAX_SEC = 24 * 3600     # For one file.
MAX_PAUSE_SEC = 8       # Between attempts.
# Characters kept from the end of the server's file name; with the checksum, file systems allow 255.
MAX_NAME = 200


def is_url(obj: Any, allow_file_urls: bool = False) -> bool:
    """Whether this is a string like 'https://host/path' ('file://...' only if allowed)."""
    if not isinstance(obj, str) or not re.match('[a-z]+://', obj):
        return False
    try:
        parts = urllib.parse.urlsplit(obj)
    except ValueError:      # An address with an opening bracket that is never closed.
        return False
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
    max_bytes: int = MAX_BYTES,
) -> str | BinaryIO:
    """Opens a URL, or a local file, for reading in binary; a download is kept and found again.

    The file is moved into the cache when it is complete, so several processes may ask for it at once, and an
    interrupted download leaves nothing that could be taken for it.
    With the environment variable DNNLIB_OFFLINE=1, only the cache is asked.

    Args:
        url: 'https://...' ('http://...' too), 'file://...', 'hf://...' (dnnlib/hf_hub.py), or a path.
        cache_dir: Where downloads are kept. None: `make_cache_dir_path('downloads')`.
        num_attempts: How often to try a server that cannot be reached, breaks off, or is busy.
        verbose: Print what is downloaded.
        return_filename: Return the path of the file instead.
        cache: False: keep nothing, look for nothing. (Not with `return_filename`.)
        sha256: Hexadecimal checksum that the content must have, downloaded, cached or local.
            A cached file with another one is replaced.
        max_bytes: A download ends when it is larger; also when it is very slow (see the constants
            of this module).

    Raises:
        OSError: The file cannot be had or has another checksum; the message is one sentence.
    """
    assert cache or not return_filename, 'a file name needs the cache'
    path = _local_path(url, max_bytes)
    if path is None and not cache:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed by the caller)
        _download(url, file, num_attempts, verbose, max_bytes)
        _check(file, sha256, url)
        return file
    if path is None:
        cache_dir = cache_dir or make_cache_dir_path('downloads')
        path = _sound_cached_path(url, cache_dir, sha256) \
            or _download_into(cache_dir, url, num_attempts, verbose, sha256, max_bytes)
    file = open(path, 'rb')  # noqa: SIM115 (closed by the caller)
    _check(file, sha256, path)
    if not return_filename:
        return file
    file.close()
    return path


def _local_path(url, max_bytes=MAX_BYTES):
    """The path that a path, a file URL or an address on the Hub means; None for what has to be downloaded here."""
    if not re.match('[a-z]+://', url):
        return url
    if hf_hub.is_hub_address(url):
        return hf_hub.fetch(url, max_bytes=max_bytes)
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise OSError(f'{url}: not a valid address: {error}') from None
    if parts.scheme == 'file':
        from urllib.request import url2pathname
        return url2pathname(parts.path)
    if parts.scheme not in ('http', 'https'):
        raise OSError(f'{url}: only https, http, file and hf URLs can be opened')
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
        raise OSError(f'{name}: the SHA-256 of the content is {digest.hexdigest()}, expected {sha256}; get another copy')


# The cache: files named '{MD5 of the URL}_{name given by the server}'.


def _cached_path(url, cache_dir):
    paths = _cached_paths(url, cache_dir)
    return paths[0] if len(paths) == 1 else None


def _cached_paths(url, cache_dir):
    return glob.glob(os.path.join(glob.escape(cache_dir), f'{_md5(url)}_*'))


def _sound_cached_path(url, cache_dir, sha256):
    """The path of the cached file; None if there is none, or one with another checksum than wanted."""
    path = _cached_path(url, cache_dir)
    if path is not None and sha256 is not None:
        with open(path, 'rb') as file:
            try:
                _check(file, sha256, path)
            except OSError:
                return None
    return path


def discard_download(path: str | os.PathLike) -> bool:
    """Deletes a file from the cache of downloads, because it is not what was wanted.

    False if it is not in there.
    """
    folder, name = os.path.split(os.path.abspath(path))
    if folder != os.path.abspath(make_cache_dir_path('downloads')) or not re.match('[0-9a-f]{32}_', name):
        return False
    os.unlink(path)
    return True


def _md5(url):
    return hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()


def _download_into(cache_dir, url, num_attempts, verbose, sha256, max_bytes):
    """Downloads to a file without a name, which the server gives, and checks it; returns the path."""
    os.makedirs(cache_dir, exist_ok=True)
    with tempfile.TemporaryFile(dir=cache_dir) as file:
        name = _download(url, file, num_attempts, verbose, max_bytes)
        _check(file, sha256, url)
        name = re.sub(r'[^0-9a-zA-Z-._]', '_', name)[-MAX_NAME:]
        path = os.path.join(cache_dir, f'{_md5(url)}_{name}')
        file.seek(0)
        with writing.atomic(path, 'any') as cached:
            shutil.copyfileobj(file, cached)
    for earlier in set(_cached_paths(url, cache_dir)) - {path}:
        with suppress(FileNotFoundError):       # Another process has done the same.
            os.unlink(earlier)
    return path


# The network.


class _TryAgain(Exception):
    """An attempt failed in a way that a further attempt may not."""


def _download(url, file, num_attempts, verbose, max_bytes):
    """Writes the content of the URL to a file, with several attempts;
    returns the name that the server gives it."""
    if os.environ.get('DNNLIB_OFFLINE', '0') not in ('', '0'):
        raise OSError(f'{url} is not in the cache and DNNLIB_OFFLINE is set: get the file by other means and give its '
                      'path, or unset the variable')
    if verbose:
        print(f'Downloading {url} ...', flush=True)
    for attempt in range(1, num_attempts + 1):
        try:
            file.seek(0)
            file.truncate()
            return _download_once(url, file, max_bytes)
        except _TryAgain as problem:
            if attempt == num_attempts:
                raise OSError(f'{url} could not be downloaded in {num_attempts} attempts: {problem}') from None
            pause_sec = min(2 ** (attempt - 1), MAX_PAUSE_SEC)
            if verbose:
                print(f'Attempt {attempt} of {num_attempts} failed ({problem}), next one in {pause_sec} s',
                      flush=True)
            time.sleep(pause_sec)


def _download_once(url, file, max_bytes):
    import requests
    import urllib3
    headers = {'Accept-Encoding': 'identity'}
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT_SEC, headers=headers) as response:
            if response.status_code == 429 or response.status_code >= 500:
                raise _TryAgain(f'the server answers {response.status_code} {response.reason}')
            if response.status_code != 200:
                raise OSError(f'{url}: the server answers {response.status_code} {response.reason}')
            declared = response.headers.get('Content-Length', '')
            _receive(url, response, file, max_bytes, int(declared) if declared.isdecimal() else 0)
            if declared.isdecimal() and 'Content-Encoding' not in response.headers and file.tell() != int(declared):
                raise _TryAgain(f'only {file.tell()} of {declared} bytes came')
            return _served_name(response.headers) or url
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError,
            urllib3.exceptions.ProtocolError, urllib3.exceptions.TimeoutError) as error:
        if reason := _hopeless(error):
            raise OSError(f'{url} could not be downloaded: {reason}') from None
        raise _TryAgain(str(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
        raise OSError(f'{url} could not be downloaded: {error}') from None


def _receive(url, response, file, max_bytes, declared):
    """Writes what comes; OSError if that is more than `max_bytes`,
    or too slow to be the file that is wanted."""
    start = time.monotonic()
    if declared > max_bytes:
        raise OSError(f'{url} has {declared} bytes, at most {max_bytes} are downloaded')
    for piece in _pieces(response):
        file.write(piece)
        if file.tell() > max_bytes:
            raise OSError(f'{url} has more than {max_bytes} bytes, which are the most that are downloaded')
        sec = time.monotonic() - start
        if sec > MAX_SEC or (sec > GRACE_SEC and file.tell() < sec * MIN_BYTES_PER_SEC):
            raise OSError(f'{url} comes too slowly: {file.tell()} bytes in {sec:.0f} seconds')


def _pieces(response) -> Iterator[bytes]:
    """Yields the content as it arrives. Waiting until a piece is full could take for ever on a slow
    connection."""
    raw = getattr(response, 'raw', None)
    if not hasattr(raw, 'read1'):       # Before version 2.1 of urllib3.
        yield from response.iter_content(1 << 10 if raw else CHUNK_BYTES)
        return
    while piece := raw.read1(CHUNK_BYTES, decode_content=True):
        yield piece


def _hopeless(error):
    """Why a further attempt would fail, too: there is no network, or no such host. None if it may succeed.
    """
    while error is not None:
        if isinstance(error, socket.gaierror):
            return 'the name of the host is not known here; is the machine without a network?'
        if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN):
            return f'{os.strerror(error.errno)}; is the machine without a network?'
        error = error.__cause__ or error.__context__
    return None


def _served_name(headers):
    """The file name in the header Content-Disposition, None without one."""
    from email.message import Message
    message = Message()
    message['Content-Disposition'] = headers.get('Content-Disposition', '')
    return message.get_filename()
