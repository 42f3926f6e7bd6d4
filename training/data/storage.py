"""A folder or a zip archive as a set of named files, read by any process, written completely or not at all.

Names are relative to the folder or archive and have forward slashes.
"""
import hashlib
import os
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from dnnlib import writing
from dnnlib.kinds_of_file import not_a_data_set
from dnnlib.output import printable
from training.data import passed_over

MAX_FILE_BYTES = 2 ** 29        # Of one file in a set; an archive's directory may claim anything.

_COPY_BYTES = 2 ** 20


class DatasetError(OSError):
    """What is wrong with a data set: one sentence for its user that names path and file.
    It may quote the set, so characters that control a terminal are replaced.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


class FolderFiles:
    """The files below a folder.

    Attributes:
        path: the folder, as given.
        names: all files, in plain string order, but for what programs left behind.
        left_out: what is not among the names, counted by kind.
    """

    def __init__(self, path: str):
        self.path = path
        self.left_out: Counter[str] = Counter()
        self.names = sorted(_walk(path, self.left_out))

    def open(self, name: str) -> BinaryIO:
        """Opens one file for reading; OSError with the reason alone."""
        try:
            return open(os.path.join(self.path, name), 'rb')
        except OSError as error:
            raise OSError(error.strerror or str(error)) from error

    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of one file; OSError with the reason alone."""
        with self.open(name) as file:
            return _read_all(file, os.fstat(file.fileno()).st_size, most)

    def size_and_crc(self, name: str) -> tuple[int, int]:
        """Length in bytes and CRC-32 of one file, which is read for it. DatasetError if that cannot be."""
        size, crc = 0, 0
        try:
            with self.open(name) as file:
                _require_bytes(os.fstat(file.fileno()).st_size, MAX_FILE_BYTES)
                while block := file.read(_COPY_BYTES):
                    size, crc = size + len(block), zlib.crc32(block, crc)
        except OSError as error:
            raise DatasetError(f'{self.path}: {name} cannot be read ({error})') from error
        return size, crc

    def close(self) -> None:
        """Nothing is held open."""


class ZipFiles:
    """The members of a zip archive.

    The archive is opened when first needed, once in every process:
    a forked worker that used its parent's open file would share its position and read garbage, and a spawned
    one cannot receive it at all.

    Attributes:
        path: the archive, as given.
        names: all members, in plain string order, but for what programs left behind.
        left_out: what is not among the names, counted by kind.
    """

    def __init__(self, path: str):
        self.path = path
        self._zip = None
        self._owner = None          # Id of the process that opened self._zip.
        names, self.left_out = _members(self._archive())
        self.names = sorted(names)

    def open(self, name: str) -> BinaryIO:
        """Opens one member for reading; OSError with the reason alone."""
        with _zip_errors():
            return self._archive().open(name)

    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of one member, their checksum verified; OSError with the reason alone."""
        with _zip_errors(), self._archive().open(name) as file:
            return _read_all(file, self._archive().getinfo(name).file_size, most)

    def size_and_crc(self, name: str) -> tuple[int, int]:
        """Length in bytes and CRC-32 of one member as the archive's directory states them;
        nothing is read."""
        info = self._archive().getinfo(name)
        return info.file_size, info.CRC

    def close(self) -> None:
        """Closes the archive; it opens again when needed."""
        if self._zip is not None:
            self._zip.close()
        self._zip = self._owner = None

    def _archive(self) -> zipfile.ZipFile:
        if self._zip is None or self._owner != os.getpid():
            self._zip, self._owner = _open_zip(self.path), os.getpid()
        return self._zip

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_zip': None, '_owner': None}


def open_files(path: str) -> FolderFiles | ZipFiles:
    """The folder or archive at `path`.

    Raises:
        DatasetError: there is nothing, or neither a folder nor a readable zip archive.
    """
    path = os.fspath(path)
    is_folder, is_zip = os.path.isdir(path), path.lower().endswith('.zip')
    if not os.path.exists(path):
        raise DatasetError(f'{path}: no such file or folder')
    if is_folder or not is_zip:             # What is in an archive is found out when it is read.
        sentence = not_a_data_set(path)
        if sentence is not None or not is_folder:
            raise DatasetError(sentence or f'{path}: neither a folder nor a .zip archive')
        return FolderFiles(path)
    if not os.path.isfile(path):            # A pipe would be waited for.
        raise DatasetError(f'{path}: no regular file')
    return ZipFiles(path)


def fingerprint(files: FolderFiles | ZipFiles, names: Iterable[str]) -> str:
    """SHA-256, in hex, over name, length and CRC-32 of each named file:
    equal for a folder and the zip made of it."""
    digest = hashlib.sha256()
    for name in names:
        size, crc = files.size_and_crc(name)
        digest.update(f'{name}\0{size}\0{crc:08x}\n'.encode(errors='surrogateescape'))
    return digest.hexdigest()


def open_writer(path: str):
    """Context manager that writes a folder, or a zip archive where `path` ends in .zip,
    and gives `add(name, data)`.

    Everything goes under a temporary name beside `path`, which takes its place when the block ends;
    if it ends with an exception nothing is left behind. An archive of this program is replaced; an existing
    folder must be empty.

    Raises:
        DatasetError: `path` is taken.
    """
    path = os.path.abspath(path)
    if path.lower().endswith('.zip'):
        if os.path.isdir(path):
            raise DatasetError(f'{path}: is a folder, not a zip archive')
        try:
            writing.require_free(path)
        except writing.TakenError as error:
            raise DatasetError(str(error)) from None
        return _zip_writer(path)
    if os.path.exists(path) and not os.path.isdir(path):
        raise DatasetError(f'{path}: exists and is not a folder; name a new folder or a .zip archive')
    if os.path.isdir(path) and os.listdir(path):
        raise DatasetError(f'{path}: the folder is not empty; name a new or empty folder, or a .zip archive')
    return _folder_writer(path)


@contextmanager
def _zip_writer(path: str) -> Iterator[Callable[[str, bytes], None]]:
    with _in_place_of(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
        archive.comment = writing.MARK.encode()
        yield lambda name, data: archive.writestr(_member(name), data)


def _member(name: str) -> zipfile.ZipInfo:
    """A stored member that everybody may read, without clock time: equal input makes equal archives."""
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o644 << 16
    return info


@contextmanager
def _folder_writer(path: str) -> Iterator[Callable[[str, bytes], None]]:
    def add(name: str, data: bytes) -> None:
        file = temporary / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    with _in_place_of(path) as temporary:
        temporary.mkdir()
        yield add


@contextmanager
def _in_place_of(path: str) -> Iterator[Path]:
    """`writing.atomic_path` in a folder that is made if need be; after an exception, what was made is removed."""
    with writing.made_folder(os.path.dirname(path)), writing.atomic_path(path) as temporary:
        yield temporary


def folders_below(root: str) -> Iterator[tuple[str, list[os.DirEntry]]]:
    """Each folder, however deep, outer ones first: (its name below the root, '' for that; what is in it, by name).

    Links to folders are not followed, and a folder that a program left behind is not looked into.
    """
    folders = ['']
    while folders:
        folder = folders.pop()
        path = os.path.join(root, folder) if folder else root
        try:
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise DatasetError(f'{path}: {error.strerror}') from error
        yield folder, entries
        folders += [_inside(folder, entry.name) for entry in reversed(entries)
                    if entry.is_dir(follow_symlinks=False) and not passed_over.is_left_behind(entry.name)]


def _inside(folder: str, name: str) -> str:
    return f'{folder}/{name}' if folder else name


def _walk(root: str, left_out: Counter[str]) -> Iterator[str]:
    """Names of the regular files below a folder; links to files count. What is left out is counted."""
    for folder, entries in folders_below(root):
        for entry in entries:
            is_folder = entry.is_dir(follow_symlinks=False)
            if passed_over.is_left_behind(entry.name):
                left_out[passed_over.kind_left_behind(entry.name, is_folder)] += 1
            elif is_folder:
                continue
            elif leads_to(entry.is_file):
                yield _inside(folder, entry.name)
            else:
                left_out[_kind_of_special(entry)] += 1


def leads_to(kind: Callable[[], bool]) -> bool:
    """What `is_file` or `is_dir` of an entry of a folder says; no to a link that leads to itself, or where one may not look."""
    try:
        return kind()
    except OSError:
        return False


def _kind_of_special(entry: os.DirEntry) -> str:
    if leads_to(entry.is_dir):
        return passed_over.LINKED_FOLDER
    return passed_over.DANGLING_LINK if entry.is_symlink() else passed_over.SPECIAL_FILE


def _members(archive: zipfile.ZipFile) -> tuple[set[str], Counter[str]]:
    """(Names of the files in an archive, what is left out of them), as `_walk` has them of a folder."""
    names, linked, outermost = set(), set(), set()
    for info in archive.infolist():
        found = passed_over.left_behind(info.filename.removesuffix('/'))
        if found is not None:
            outermost.add((found, found != info.filename))
        elif stat.S_ISLNK(info.external_attr >> 16):        # The member is the text of the link.
            linked.add(info.filename)
        elif not info.is_dir():
            names.add(info.filename)
    left_out = Counter(passed_over.kind_left_behind(*found) for found in outermost)
    if linked:
        left_out[passed_over.ARCHIVED_LINK] = len(linked)
    return names, left_out


def _open_zip(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:      # zipfile lets struct, value, ... errors of damaged directories escape.
        reason = getattr(error, 'strerror', None) or error
        raise DatasetError(f'{path}: cannot be read as a zip archive ({reason})') from error


@contextmanager
def _zip_errors() -> Iterator[None]:
    """What zipfile and its decompressors raise on damaged or encrypted members,
    as OSError with the reason alone."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(str(error) or type(error).__name__) from error


def _read_all(file: BinaryIO, size: int, most: int | None) -> bytes:
    _require_bytes(size, MAX_FILE_BYTES if most is None else most)
    return file.read(size)          # Without a number, a member is decompressed beyond what its archive says of it.


def _require_bytes(size: int, most: int) -> None:
    if size > most:
        raise OSError(f'{size} bytes are more than the {most} that are allowed')
