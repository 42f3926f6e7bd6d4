"""What a file or folder is, for the sentence that refuses it where something else was asked for.

It goes by how a file begins, whatever its name. For words only: nothing is opened because of what is found
here.
"""
import os
import zipfile

from dnnlib import commands

DATA_SET, FOLDER, RUN = 'a data set', 'a folder of pictures', 'the directory of a run'
NETWORK, STATE = 'a network', 'the saved state of a run'
WEIGHTS, ARRAYS, PAGE, PICTURE = 'a file of torch.save', 'arrays of NumPy', 'a web page', 'a picture'

RUN_FILE = 'training_options.json'
PICTURES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff', '.gif', '.avif')
PICTURE_STARTS = (b'\x89PNG', b'\xff\xd8\xff', b'GIF8', b'BM')
START_BYTES = 4096
MAX_NAMES = 1000                # Of a folder, are looked at.


def what_is(path: str | os.PathLike) -> str | None:
    """One of the words above, or None: something else, or nothing that can be read."""
    try:
        if os.path.isdir(path):
            return _what_folder(path)
        if not os.path.isfile(path):
            return None
        with open(path, 'rb') as file:
            start = file.read(START_BYTES)
        return _what_archive(path) if start.startswith(b'PK') else _what_begins_with(start)
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _what_folder(path):
    if os.path.isfile(os.path.join(path, RUN_FILE)):
        return RUN
    with os.scandir(path) as entries:
        names = [entry.name for entry, _ in zip(entries, range(MAX_NAMES))]
    return FOLDER if any(name.lower().endswith(PICTURES) for name in names) else None


def _what_archive(path):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith('data.pkl') for name in names):
        return WEIGHTS
    if names and all(name.endswith('.npy') for name in names):
        return ARRAYS
    return DATA_SET if any(name.lower().endswith(PICTURES) for name in names) else None


def _what_begins_with(start):
    if start[8:9] == b'{':                          # Safetensors: the length of a header, and its JSON.
        formats = {b'stylegan2-loss-zoo/state': STATE, b'stylegan2-loss-zoo/networks': NETWORK}
        return next((kind for name, kind in formats.items() if name in start), None)
    if start.startswith(PICTURE_STARTS):
        return PICTURE
    return PAGE if start.lstrip()[:1] == b'<' else None


def not_a_network(path: str | os.PathLike) -> str | None:
    """A sentence about what was named in place of a network; None if it may be one, or nobody knows."""
    found, train = what_is(path), commands.call_of('train')
    if found in (DATA_SET, FOLDER):
        return f'{path} is {found}, not a network: {train} --data={path} trains one on it'
    if found == STATE:
        return (f'{path} is {found}, not a network: its networks are the files network-snapshot-*.safetensors '
                f'beside it, and {train} --resume={os.path.dirname(path) or "."} goes on with the run')
    if found in (ARRAYS, PAGE, PICTURE):
        return (f'{path} is {found}, not a network, such as a file network-snapshot-*.safetensors, or the '
                'directory of a run')
    return None


def not_a_data_set(path: str | os.PathLike) -> str | None:
    """A sentence about what was named in place of a data set; None if it may be one, or nobody knows."""
    found, train = what_is(path), commands.call_of('train')
    if found == RUN:
        return (f'{path} is {found}, not a data set: its {RUN_FILE} says on which data it trains, and '
                f'{train} --resume={path} goes on with it')
    if found in (NETWORK, STATE, WEIGHTS, ARRAYS, PAGE, PICTURE):
        return f'{path} is {found}, not a data set, which is a folder of pictures or a .zip archive of them'
    return None


def not_a_run(path: str | os.PathLike) -> str | None:
    """The same for the directory of a run."""
    found = what_is(path)
    if found in (None, RUN):
        return None
    is_beside = os.path.isfile(os.path.join(os.path.dirname(path), RUN_FILE))
    return f'{path} is {found}, not the directory of a run' + (', such as the one it lies in' if is_beside else '')
