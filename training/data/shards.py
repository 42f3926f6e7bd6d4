"""Sets in shards: tar archives as WebDataset has them, and Parquet files as Hugging Face data sets have them.

    0001.jpg 0001.cls       in a .tar: members of one sample have one name; .cls is its class, as a number
    image, label            columns of a .parquet: encoded pictures ({bytes, path} or bytes alone), classes

Strangers make such files. Nothing is extracted or run, a picture is read when it is asked for, and its size is bounded.
"""
import json
import os
import re
import stat
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from training.data import passed_over
from training.data.images import is_image_name
from training.data.labels import LABEL_FILE, MisplacedLabels
from training.data.passed_over import FURTHER_PICTURE
from training.data.storage import MAX_FILE_BYTES, DatasetError, folders_below, leads_to

TAR, PARQUET = '.tar', '.parquet'
CIFAR10_FILE = 'cifar-10-python.tar.gz'     # Read whole, by a reader of its own.
COMPRESSED = {         # Endings of archives that have no places to read from, and what makes a .tar of one.
    '.tar.gz': 'gunzip', '.tgz': 'gunzip -S .tgz', '.tar.zst': 'zstd -d', '.tar.bz2': 'bunzip2', '.tar.xz': 'unxz',
    '.tar.lz4': 'lz4 -d'}
MAX_NOTE_BYTES = 64             # Of a .cls file.
MAX_METADATA_BYTES = 2 ** 22    # Of what Hugging Face notes about columns.
ROWS_AT_ONCE = 16               # Of a Parquet file, decoded together.


class Picture(NamedTuple):
    """An encoded picture of a shard; `read` gives its bytes or raises an OSError with the reason alone."""
    name: str
    read: Callable[[], bytes]
    label: Any = None


class Shards(NamedTuple):
    """What is in some shards."""
    pictures: Iterator[Picture]
    count: int
    class_names: list[str] | None = None
    left_out: Counter[str] = Counter()
    label_note: str | None = None


def shards_at(path: str) -> list[str]:
    """The shards that `path` is or, if it is a folder, that lie below it, in the order of their names; all of one kind."""
    path = os.fspath(path)
    if not os.path.isdir(path):
        refuse_compressed([path])
        return [path] if path.lower().endswith((TAR, PARQUET)) else []
    found, others = [], []
    for folder, entries in folders_below(path):
        names = [entry.name for entry in entries if not leads_to(entry.is_dir)]
        if any(is_image_name(name) for name in names):
            return []
        inside = os.path.join(path, folder)
        found += [os.path.join(inside, name) for name in names
                  if name.lower().endswith((TAR, PARQUET)) and not passed_over.is_left_behind(name)]
        others += [os.path.join(inside, name) for name in names]
    if not found or found[0].lower().endswith(TAR):
        refuse_compressed(others)       # Beside others, too: a part of the set would be left out.
    if len({os.path.splitext(name)[1].lower() for name in found}) > 1:
        raise DatasetError(f'{path}: holds {TAR} and {PARQUET} files; name a folder with one kind of them')
    return found


def refuse_compressed(paths: Sequence[str]) -> None:
    """Raises DatasetError if there is a compressed archive among these."""
    for path in paths:
        ending = next((ending for ending in COMPRESSED if path.lower().endswith(ending)), None)
        if ending and os.path.basename(path) != CIFAR10_FILE:
            raise DatasetError(f'{path}: pictures cannot be read here and there in a compressed archive; make a {TAR} of it '
                               f'first ({COMPRESSED[ending]} {os.path.basename(path)})')


def open_shards(paths: Sequence[str], with_labels: bool = True) -> Shards:
    """What is in them; without labels, what would be wrong with those is no error. Raises DatasetError."""
    return open_tars(paths, with_labels) if paths[0].lower().endswith(TAR) else open_parquets(paths)


def not_labels_of_tars(where: str) -> MisplacedLabels:
    """The error of a label file beside or in archives that do not have their labels from one."""
    return MisplacedLabels(
        f'{where}: in {TAR} archives the label of a picture is a .cls file beside it; unpack them, and name the folder, '
        f'whose {LABEL_FILE} counts')


def _require_file(path: str) -> None:
    """Raises OSError for a pipe or device, which could wait, or give bytes, for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError('it is no regular file')


# ---------------------------------------------------------------------------------------------------------------------
# WebDataset.

def open_tars(paths: Sequence[str], with_labels: bool = True) -> Shards:
    """Pictures by their places in uncompressed archives; a sample's first picture counts."""
    places: dict[tuple[str, str], tuple[str, tarfile.TarInfo]] = {}     # (archive, sample): (name, member)
    labels: dict[tuple[str, str], int] = {}
    left_out: Counter[str] = Counter()
    for path in paths:
        for info in members_of(path):
            folder, _, name = info.name.rpartition('/')
            stem, _, ending = name.partition('.')
            key = path, f'{folder}/{stem}'.lstrip('/')
            if not info.isreg() or info.issparse():
                if not info.isdir():
                    left_out[passed_over.ARCHIVED_LINK if info.issym() or info.islnk() else passed_over.SPECIAL_FILE] += 1
            elif is_image_name(info.name):
                if key in places:
                    left_out[FURTHER_PICTURE] += 1
                else:
                    places[key] = f'{os.path.basename(path)}/{info.name}', info
            elif with_labels and name.lower() == LABEL_FILE:
                raise not_labels_of_tars(f'{path}: {info.name}')
            elif ending.lower() == 'cls':
                labels[key] = class_of(path, info) if with_labels else 0
            else:
                left_out += passed_over.kinds_by_ending([info.name])
    if not places:
        raise DatasetError(f'{paths[0]}: no pictures in it (.png, .jpg, .webp and so on)')
    pictures = (Picture(name, lambda path=key[0], info=info: bytes_at(path, info), labels.get(key))
                for key, (name, info) in places.items())
    return Shards(pictures, len(places), None, left_out)


def members_of(path: str) -> Iterator[tarfile.TarInfo]:
    """The headers of an archive; compressed ones have no places to read from later."""
    try:
        _require_file(path)
        with tarfile.open(path, 'r:') as archive:
            for info in archive:
                if info.size < 0:       # Some versions of tarfile would read it again and again.
                    raise tarfile.ReadError(f'a member of {info.size} bytes')
                yield info
    except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        reason = 'its headers are damaged' if isinstance(error, (MemoryError, RecursionError)) else error
        raise DatasetError(f'{path}: not a readable .tar archive without compression ({reason})') from error


def bytes_at(path: str, info: tarfile.TarInfo) -> bytes:
    """The bytes of a member."""
    if info.size > MAX_FILE_BYTES:
        raise OSError(f'{info.size} bytes are more than the {MAX_FILE_BYTES} that are allowed')
    with open(path, 'rb') as file:
        file.seek(info.offset_data)
        data = file.read(info.size)
    if len(data) < info.size:
        raise OSError(f'the archive ends after {len(data)} of its {info.size} bytes')
    return data


def class_of(path: str, info: tarfile.TarInfo) -> int:
    """The number in a .cls member."""
    try:
        if info.size > MAX_NOTE_BYTES:
            raise ValueError(f'{info.size} bytes')
        text = bytes_at(path, info)
        if not re.fullmatch(rb'\s*[+-]?[0-9]{1,18}\s*', text):       # int() would take 1_0 for 10.
            raise ValueError(repr(text.decode('utf-8', 'replace')))
        return int(text)
    except (OSError, ValueError) as error:
        raise MisplacedLabels(f'{path}: {info.name} is no class, a whole number ({error})') from error


# ---------------------------------------------------------------------------------------------------------------------
# Parquet.

def open_parquets(paths: Sequence[str]) -> Shards:
    """Rows of files that have the same columns."""
    files = [open_parquet(path) for path in paths]
    schema = files[0].schema_arrow
    column, label, names = picture_column(paths[0], schema), label_column(paths[0], schema), class_names(schema)
    for path, file in zip(paths, files):
        for name in filter(None, (column, label)):
            if file.schema_arrow.names.count(name) != 1 or file.schema_arrow.field(name).type != schema.field(name).type:
                raise DatasetError(f'{path}: its column {name} is not that of {os.path.basename(paths[0])}')
    count = sum(file.metadata.num_rows for file in files)
    if not count:
        raise DatasetError(f'{paths[0]}: no pictures in it, for it has no rows')
    pictures = (picture for path, file in zip(paths, files) for picture in rows_of(path, file, column, label))
    return Shards(pictures, count, names if label else None, label_note=note_on_labels(schema))


def open_parquet(path: str) -> Any:
    """A Parquet file of pyarrow."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DatasetError(f'{path}: Parquet files need the extra "parquet" (pip install pyarrow)') from None
    try:
        _require_file(path)
        return pyarrow.parquet.ParquetFile(path)
    except Exception as error:      # Whatever its readers raise on damaged files.
        raise DatasetError(f'{path}: not a readable Parquet file ({" ".join(str(error).split())[:200]})') from error


def picture_column(path: str, schema: Any) -> str:
    """The one column of pictures."""
    import pyarrow.types as types

    def is_bytes(kind):
        if types.is_dictionary(kind):
            return is_bytes(kind.value_type)
        return any(is_one(kind) for is_one in (types.is_binary, types.is_large_binary, types.is_fixed_size_binary,
                                               types.is_binary_view))

    found = [field.name for field in schema if is_bytes(field.type) or types.is_struct(field.type)
             and any(inner.name == 'bytes' and is_bytes(inner.type) for inner in field.type)]
    if len(found) != 1:
        named = f' ({", ".join(found[:5])})' if found else ''
        raise DatasetError(f'{path}: has {len(found)} columns of pictures{named}; there must be one, of bytes or of '
                           '{bytes, path}')
    return found[0]


def label_column(path: str, schema: Any) -> str | None:
    """The column `label`, if it holds whole numbers."""
    if schema.names.count('label') > 1:
        raise DatasetError(f'{path}: has several columns of the name label; there must be one, or none')
    return 'label' if 'label' in schema.names and is_whole(schema.field('label').type) else None


def is_whole(kind: Any) -> bool:
    """Does a column of this type hold whole numbers?"""
    import pyarrow.types as types
    return types.is_integer(kind.value_type if types.is_dictionary(kind) else kind)


def note_on_labels(schema: Any) -> str | None:
    """What a user should know of a column `label` that cannot be used, or of those that may be what it should be.
    """
    if 'label' not in schema.names:
        others = [field.name for field in schema
                  if re.search('label|class|cls', field.name.lower()) and is_whole(field.type)]
        return (f'labels are those of a column label, which is not there; there is {", ".join(others[:5])}, '
                'to be renamed if it is meant') if others else None
    if is_whole(schema.field('label').type):
        return None
    return f'the column label holds {schema.field("label").type}, not whole numbers, so that there are no labels'


def class_names(schema: Any) -> list[str] | None:
    """What Hugging Face notes of the classes in the column `label`."""
    note = (schema.metadata or {}).get(b'huggingface', b'')
    if len(note) > MAX_METADATA_BYTES:
        return None
    try:
        names = json.loads(note)['info']['features']['label']['names']
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def rows_of(path: str, file: Any, column: str, label: str | None) -> Iterator[Picture]:
    """The pictures of a file, a few rows at a time."""
    row = 0
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[column, *([label] if label else [])]):
            values = batch.column(batch.schema.get_field_index(column))
            classes = batch.column(batch.schema.get_field_index(label)).to_pylist() if label else [None] * len(values)
            for number, of_class in enumerate(classes):
                yield Picture(f'{os.path.basename(path)}/row {row}', lambda value=values[number]: bytes_of(value), of_class)
                row += 1
    except Exception as error:      # Whatever its readers raise on damaged files.
        raise DatasetError(f'{path}: cannot be read after row {row} ({" ".join(str(error).split())[:200]})') from error


def bytes_of(value: Any) -> bytes:
    """The bytes of a cell."""
    cell = value.as_py()
    data = cell.get('bytes') if isinstance(cell, dict) else cell
    if not data:
        raise OSError('the row has no bytes; pictures that lie elsewhere are not looked for')
    if len(data) > MAX_FILE_BYTES:
        raise OSError(f'{len(data)} bytes are more than the {MAX_FILE_BYTES} that are allowed')
    return data
