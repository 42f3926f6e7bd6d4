"""Files in a data set that are not among its images: what programs leave behind, and one line about all of
it.

Galleries keep thumbnails beside pictures, notebooks keep copies, systems keep what was deleted. None of that
was meant to be learnt, and a folder of it would be a class.
"""
import os
import re
from collections import Counter
from collections.abc import Iterable

LINKED_FOLDER, DANGLING_LINK, SPECIAL_FILE, ARCHIVED_LINK = 'linked folder', 'dangling link', 'special file', 'archived link'
FURTHER_PICTURE = 'further picture'             # Of a sample in an archive.
_NOTE = 'note of macOS (._*)'

# In lower case. All names that begin with a dot count, too: .ipynb_checkpoints, ._NAME,
# .thumbnails, .Trash-1000, .DS_Store.
_LEFT_BEHIND = frozenset({
    '__macosx', 'icon\r', 'network trash folder', 'temporary items', 'thevolumesettingsfolder',  # macOS
    '$recycle.bin', 'recycler', 'recycled', 'system volume information', 'found.000',  # Windows
    'thumbs.db', 'ehthumbs.db', 'ehthumbs_vista.db', 'desktop.ini', 'picasa.ini', 'zbthumbnail.info',
    'lost+found', 'lost.dir', 'aquota.user', 'aquota.group',  # Linux, Android
    '@eadir', '#recycle', '#snapshot', '@tmp', '@synoresource',  # Synology
    '@recycle', '@recently-snapshot', '@__thumb', '~snapshot',  # QNAP, NetApp
    'captureone', '[originals]', 'ipod photo cache',  # Capture One, ACDSee, iTunes
    'site-packages', '__pycache__', 'node_modules', '_vti_cnf', '_notes', '_gsdata_',  # Programs
})
_LEFT_BEHIND_ENDINGS = ('.lrdata', '@synoeastream', '@synoresource')

_UNREAD_PICTURES = frozenset(f'.{name}' for name in (
    'heic', 'heif', 'hif', 'jxl', 'jxr', 'exr', 'hdr', 'svg', 'eps', 'pdf', 'raw', 'dng', 'cr2', 'cr3', 'nef',
    'arw', 'orf',
    'rw2', 'raf', 'xcf', 'kra', 'blp', 'cur', 'dcx', 'dds', 'fits', 'fit', 'fli', 'flc', 'ftc', 'ftu', 'gbr',
    'im', 'iim', 'msp', 'pcd', 'pxr', 'qoi', 'ras', 'xbm', 'xpm', 'mpo'))
_PILLOW_HEIF = 'dataset_tool.py reads them with the extra "heic": pip install pillow-heif'
_HINTS = {
    **dict.fromkeys(_UNREAD_PICTURES, 'convert them first'),
    **dict.fromkeys(('.heic', '.heif', '.hif'), _PILLOW_HEIF),
    FURTHER_PICTURE: 'of those in a .tar archive that are named alike up to the first dot the first counts',
    LINKED_FOLDER: 'links to folders are not followed: name the folder itself, or copy it',
}
_MAX_KINDS = 8                  # Named one by one.


def is_left_behind(name: str) -> bool:
    """Is this name, without a path, one that programs give to files and folders of their own?"""
    lower = name.lower()
    return (name.startswith('.') and name not in ('.', '..') or lower in _LEFT_BEHIND
            or lower.endswith(_LEFT_BEHIND_ENDINGS))


def left_behind(path: str) -> str | None:
    """The outermost file or folder of 'a/b/c', as a path, that a program left behind; None if there is none.

    Some archives of Windows have backslashes.
    """
    return next((path[:part.end()] for part in re.finditer(r'[^/\\]+', path) if is_left_behind(part[0])),
                None)


def kind_left_behind(path: str, is_folder: bool) -> str:
    """What such a file or folder is counted as."""
    name = re.split(r'[/\\]', path)[-1]
    if is_folder:
        return f'folder {name}'
    return _NOTE if name.startswith('._') else name


def kinds_by_ending(names: Iterable[str]) -> Counter[str]:
    """Files that are no images, counted by the endings of their names."""
    return Counter(os.path.splitext(name)[1].lower() or 'without an ending' for name in names)


def in_words(kinds: Counter[str]) -> str:
    """'5 files passed over: 3 .heic (convert them first), 1 dangling link, 1 linked folder';
    '' if there are none.

    First come those for which something can be done.
    """
    if not kinds:
        return ''
    ranked = sorted(kinds, key=lambda kind: (kind not in _HINTS, -kinds[kind], kind))
    parts = [_part(kind, kinds[kind]) for kind in ranked[:_MAX_KINDS]]
    if len(ranked) > _MAX_KINDS:
        parts.append(f'{sum(kinds[kind] for kind in ranked[_MAX_KINDS:])} of other kinds')
    total = kinds.total()
    return f'{total} file{"s" * (total > 1)} passed over: {", ".join(parts)}'


def _part(kind: str, num: int) -> str:
    if num > 1 and kind.startswith('folder '):
        kind_in_words = f'folders {kind.removeprefix("folder ")}'
    else:
        kind_in_words = kind + 's' * (num > 1
                                      and kind in (LINKED_FOLDER, DANGLING_LINK, SPECIAL_FILE, ARCHIVED_LINK, FURTHER_PICTURE))
    return f'{num} {kind_in_words}' + (f' ({_HINTS[kind]})' if kind in _HINTS else '')
