"""Files that are written complete or not at all, and never over something that this program did not write.

Every writer of this project goes through this file:

    with writing.atomic(path) as file:              # A file to write, and to read back.
        file.write(data)
    with writing.atomic_path(path) as temporary:    # For libraries that want a name: same suffix, same folder.
        save(temporary)
    with writing.append(path) as file:              # For logs.
        file.write(line)
    writing.write_picture(path, picture)            # Also write_npz, write_text, write_bytes.
    writing.require_free(path)                      # Before work is done: would `atomic(path)` be refused?
    writing.require_place(path)                     # The same, where the folder must be there, too.
    with writing.made_folder(path):                 # A folder for files; not left behind empty.

What stands at `path` already is replaced only if it is a regular file and `replace` allows it:

    'ours'  it is empty, or holds MARK, so this program wrote it before: for names that a user gives
    'any'   for names in a run directory or a cache, which only this program gives
    'none'  never

Links, devices, pipes, sockets and folders are never written to, replaced or followed.
A refusal is a TakenError.
"""
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

if TYPE_CHECKING:       # Loaded inside the functions that use it.
    from PIL.Image import Image

Replace = Literal['ours', 'any', 'none']

MARK = 'made by stylegan2-loss-zoo'  # Stands in every file that may be replaced, near its beginning or end.
MARK_WITHIN = 2 ** 16                           # Bytes at either end of a file that are searched for it.
MAX_NAME = 50  # Characters of a name that its temporary name repeats, the last ones.

_BINARY = getattr(os, 'O_BINARY', 0)            # Windows.
_NO_LINK = getattr(os, 'O_NOFOLLOW', 0)
_NO_WAIT = getattr(os, 'O_NONBLOCK', 0)         # A pipe without a reader.

_KINDS = {stat.S_IFDIR: 'a folder', stat.S_IFLNK: 'a link', stat.S_IFCHR: 'a device',
          stat.S_IFBLK: 'a device', stat.S_IFIFO: 'a pipe', stat.S_IFSOCK: 'a socket'}


class TakenError(FileExistsError):
    """Something stands where a file should go; the text is one sentence for users,
    `strerror` the same without name."""

    def __str__(self) -> str:
        return f'{self.filename}: {self.strerror}'


def require_free(path: str | os.PathLike, replace: Replace = 'ours') -> None:
    """Raises TakenError if a writer that allows `replace` may not write to `path`; OSError if that cannot be
    found out."""
    path = Path(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), 'no regular file')
        raise TakenError(errno.EEXIST, f'is {kind}, which is never written over; name a new file',
                         os.fspath(path))
    if replace == 'none' or (replace == 'ours' and not is_ours(path)):
        found = 'exists already' if replace == 'none' else 'exists already and was not written by this program'
        raise TakenError(errno.EEXIST, f'{found}; name a new file, or move it away', os.fspath(path))


def require_place(path: str | os.PathLike, replace: Replace = 'ours') -> None:
    """As `require_free`, for a name that a user gives: its folder must be there already, too."""
    require_free(path, replace)
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise FileNotFoundError(errno.ENOENT, f'{folder} is no folder that can be written to',
                                os.fspath(path))


@contextmanager
def made_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder that is there, made with its parents if need be. Those made that are empty at the end are removed again,
    so that a program which fails leaves none behind. Raises OSError if it cannot be made."""
    path = Path(path)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]      # The innermost first.
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield path
    finally:
        for folder in made:
            with suppress(OSError):             # It holds something by now, or was not made after all.
                folder.rmdir()


def lies_in(path: str | os.PathLike, folder: str | os.PathLike) -> bool:
    """Would what is written to `path`, there or not, be in the folder, wherever links lead?"""
    inner, outer = os.path.realpath(path), os.path.realpath(folder)
    return inner == outer or inner.startswith(os.path.join(outer, ''))


def is_empty_folder(path: str | os.PathLike) -> bool:
    """Is there a folder, not a link to one, with nothing in it?"""
    path = Path(path)
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def is_ours(path: str | os.PathLike) -> bool:
    """Is a regular file empty, or does it hold MARK near its beginning or end?"""
    with open(path, 'rb') as file:
        head = file.read(MARK_WITHIN)
        if not head:
            return True
        file.seek(max(os.fstat(file.fileno()).st_size - MARK_WITHIN, 0))
        return MARK.encode() in head or MARK.encode() in file.read(MARK_WITHIN)


@contextmanager
def atomic(path: str | os.PathLike, replace: Replace = 'ours', sync: bool = False) -> Iterator[BinaryIO]:
    """A file to write (and read back) that takes the name `path` at the end of the `with` block.

    Until then, and if the block fails, whatever was at `path` before stays and nothing is left beside it.

    Args:
        path: Where to; its folder must exist.
        replace: What may be at `path` already.
        sync: Return only when it is on the disk, so that it outlives a loss of power.
    """
    path = Path(path)
    require_free(path, replace)
    with _renamed(path, path.with_name(temporary_name(path))) as temporary:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _BINARY
        with os.fdopen(os.open(temporary, flags, 0o666), 'w+b') as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        require_free(path, replace)             # Asked again: a file may have appeared in the meantime.
    if sync:
        _sync_folder(path.parent)


@contextmanager
def atomic_path(path: str | os.PathLike, replace: Replace = 'ours') -> Iterator[Path]:
    """A free name beside `path`, with its suffix, for a file or folder that takes the name `path` at the end.

    An empty folder at `path` is replaced. If the block fails, nothing is left beside it.
    """
    path = Path(os.path.abspath(path))
    if not is_empty_folder(path):
        require_free(path, replace)
    with _renamed(path, path.with_name(temporary_name(path) + path.suffix)) as temporary:
        yield temporary
        if is_empty_folder(path):
            path.rmdir()
        require_free(path, replace)


def write_bytes(path: str | os.PathLike, data: bytes, replace: Replace = 'ours', sync: bool = False) -> None:
    """Writes a whole file as `atomic` does."""
    with atomic(path, replace, sync) as file:
        file.write(data)


def write_text(path: str | os.PathLike, text: str, replace: Replace = 'ours', sync: bool = False) -> None:
    """Writes a whole file in UTF-8 as `atomic` does; names of files that are no UTF-8 keep their bytes."""
    write_bytes(path, text.encode(errors='surrogateescape'), replace, sync)


def write_picture(path: str | os.PathLike, picture: 'Image', replace: Replace = 'ours',
                  **options: Any) -> None:
    """Writes a picture as `atomic` does, in the format of the name's ending (without one: PNG),
    with MARK in it.

    Raises ValueError if Pillow writes no format of that ending.
    """
    from PIL import Image
    suffix = Path(path).suffix.lower() or '.png'
    form = Image.registered_extensions().get(suffix)
    if form not in Image.SAVE:
        raise ValueError(f'{path}: no format of pictures ends in {suffix}; use .png')
    with atomic(path, replace) as file:
        picture.save(file, form, **picture_mark(form), **options)


def picture_mark(form: str) -> dict[str, Any]:
    """What `Image.save` is to be given so that a file of this format ('PNG', 'WEBP', 'GIF', ...)
    holds MARK."""
    from PIL import Image, PngImagePlugin
    if form == 'PNG':
        text = PngImagePlugin.PngInfo()
        text.add_text('Software', MARK)
        return {'pnginfo': text}
    if form == 'GIF':
        return {'comment': MARK}
    exif = Image.Exif()
    exif[0x0131] = MARK                         # Software. Formats that have no place for it pass over it.
    return {'exif': exif}


def write_npz(path: str | os.PathLike, replace: Replace = 'ours', **arrays: Any) -> None:
    """Writes arrays for `numpy.load` as `atomic` does, with MARK in the file."""
    import zipfile

    import numpy as np
    with atomic(path, replace) as file:
        np.savez(file, **arrays)
        with zipfile.ZipFile(file, 'a') as archive:
            archive.comment = MARK.encode()


@contextmanager
def append(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A regular file, made if need be, to add bytes to; each `write` goes to the system at once."""
    require_free(path, 'any')
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK | _NO_WAIT | _BINARY
    with os.fdopen(os.open(path, flags, 0o666), 'ab', buffering=0) as file:
        yield file


def temporary_name(path: str | os.PathLike) -> str:
    """The name beside `path` of what is being written: '.NAME.PID.tmp'; it stays if the process is killed."""
    return f'.{Path(path).name[-MAX_NAME:]}.{os.getpid()}.tmp'


@contextmanager
def _renamed(path: Path, temporary: Path) -> Iterator[Path]:
    """After the block, `temporary` is renamed to `path`. Errors of the system name `path`, which the user
    knows."""
    try:
        _remove(temporary)  # It may be left from a process with the same number that was killed.
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, os.fspath(temporary)):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    """Removes a file, link or folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes a renaming last. Windows has no such thing."""
    if os.name == 'nt':
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
