"""Networks and data sets of the Hugging Face Hub, by addresses as its own programs have them.

    hf://user/repo                          the one network of a repository, or its newest snapshot
    hf://user/repo/nets/a.safetensors@v1    a file, of a revision (a branch, a tag, a commit)
    hf://datasets/user/repo/photos.zip      a data set, or a part of one

The package huggingface_hub does the work and keeps what was downloaded; HF_ENDPOINT, HF_TOKEN and HF_HOME
mean what they mean to it. It is imported where it is needed. Everything that goes wrong is an OSError of one
sentence.
"""
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dnnlib import output
from dnnlib.cache import make_cache_dir_path

SCHEME = 'hf://'
ADDRESS = re.compile(r'hf://(?P<datasets>datasets/)?(?P<repo>(?!(datasets|spaces)/)[\w.-]+/[\w.-]+?)'
                     r'(@(?P<early>[\w.-]+))?(/(?P<file>[^@]*[^@/]))?(@(?P<late>[\w./-]+))?/?')
FORM = 'hf://USER/REPO[/FILE][@REVISION], or hf://datasets/USER/REPO[/FILE][@REVISION]'
NETWORKS = ('.safetensors',)            # Taken unless another file is named: they hold tensors and nothing else.
SETS = ('.parquet', '.tar', '.zip')     # In a folder, the files of the first kind that there is.
PACKED = ('.zip',)
MAX_BYTES = 1 << 34                     # Of a network: 16 GB.
MAX_SET_BYTES = 1 << 38                 # Of all files of a data set: 256 GB.
MAX_FILES = 100_000                     # Of a repository.
TIMEOUT_SEC = 30
MAX_NAMED = 5                           # Files in a sentence.


@dataclass(frozen=True)
class Address:
    """What an address means."""
    address: str
    repo: str
    kind: str                           # 'model' or 'dataset'.
    file: str | None
    revision: str | None


@dataclass(frozen=True)
class Listed:
    """The files of a repository at a commit: {name: bytes}."""
    commit: str | None
    sizes: dict[str, int]


def is_hub_address(text: Any) -> bool:
    """Whether this names something on the Hub."""
    return isinstance(text, str) and text.startswith(SCHEME)


def parse(address: str) -> Address:
    """The parts of an address. Raises OSError for one that is none."""
    match = ADDRESS.fullmatch(address)
    parts = (match['file'] or '').split('/') if match else ['..']
    if match is None or '..' in parts or '\\' in address or not address.isprintable() or match['early'] and match['late']:
        raise OSError(f'{printable(address)}: not an address on the Hub; they have the form {FORM}')
    return Address(address, match['repo'], 'dataset' if match['datasets'] else 'model', match['file'] or None,
                 match['early'] or match['late'])


def fetch(address: str, endings: Sequence[str] = NETWORKS, max_bytes: int = MAX_BYTES) -> str:
    """The path of a file of the Hub, downloaded unless it is here already.

    Without a file in the address: the one file with such an ending, or the newest of the snapshots of a run.
    """
    place = parse(address)
    with in_one_sentence(place) as hub:
        found = listing(hub, place)
        name = place.file or only_file(place, found, endings)
        require_file(place, found, name)
        require_room(place, found.sizes.get(name, 0), max_bytes)
        return hub.hf_hub_download(place.repo, name, repo_type=place.kind, revision=place.revision,
                                   endpoint=endpoint(), local_files_only=is_offline())


def fetch_set(address: str) -> str:
    """The path of a data set of the Hub: a file, or a folder with the Parquet files, tar archives or the zip
    archive of a repository or of a folder in it."""
    place = parse(address)
    with in_one_sentence(place) as hub:
        if is_offline():
            raise OSError('data sets are looked up on the Hub, and this machine is told to be offline; give the path of a copy')
        found = listing(hub, place)
        if place.file in found.sizes:
            require_ending(place, place.file, SETS)
            return fetch(address, SETS, MAX_SET_BYTES)
        names = files_of_set(place, found)
        require_room(place, sum(found.sizes[name] for name in names), MAX_SET_BYTES)
        folder = folder_for(place, found.commit, names)
        for name in names:
            hub.hf_hub_download(place.repo, name, repo_type=place.kind, revision=found.commit, endpoint=endpoint(),
                                local_dir=folder)
        return folder if len(names) > 1 else os.path.join(folder, names[0])


def endpoint() -> str:
    """Where the Hub is."""
    return (os.environ.get('HF_ENDPOINT') or 'https://huggingface.co').rstrip('/')


def is_offline() -> bool:
    """Is the network not to be asked?"""
    return any(os.environ.get(name, '0').lower() not in ('', '0', 'false', 'no', 'off')
               for name in ('DNNLIB_OFFLINE', 'HF_HUB_OFFLINE'))


# ---------------------------------------------------------------------------------------------------------------------
# What there is, and what is wanted of it.

def listing(hub: Any, place: Address) -> Listed:
    """The files of a repository; offline, those that are here."""
    if is_offline():
        folder = hub.snapshot_download(place.repo, repo_type=place.kind, revision=place.revision, local_files_only=True)
        paths = [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names]
        return Listed(None, {os.path.relpath(path, folder).replace(os.sep, '/'): os.path.getsize(path) for path in paths})
    info = hub.HfApi(endpoint=endpoint()).repo_info(
        place.repo, repo_type=place.kind, revision=place.revision, files_metadata=True, timeout=TIMEOUT_SEC)
    files = info.siblings or []
    if len(files) > MAX_FILES or not re.fullmatch('[0-9a-f]{7,64}', info.sha or ''):
        raise OSError(f'the server names {len(files)} files at revision {info.sha!r}; that is no usable repository')
    return Listed(info.sha, {file.rfilename: file.size or 0 for file in files if is_harmless(file.rfilename)})


def is_harmless(name: str) -> bool:
    """Does a name that a server gave lead to a place inside the folder it is put into?"""
    return name.isprintable() and not name.startswith('/') and '\\' not in name and '..' not in name.split('/')


def only_file(place: Address, found: Listed, endings: Sequence[str]) -> str:
    """The file that an address without one means."""
    names = sorted(name for name in found.sizes if name.lower().endswith(tuple(endings)))
    snapshots = [name for name in names if re.fullmatch(r'(.*/)?network-snapshot-\d+\.safetensors', name)]
    if len(names) == 1 or names and names == snapshots and len({os.path.dirname(name) for name in names}) == 1:
        return max(names, key=lambda name: int(re.findall(r'\d+', f'0{name}')[-1]))
    kinds = ' or '.join(endings)
    if names:
        raise OSError(f'there are {len(names)} {kinds} files in it; name one: {listed(names, place)}')
    raise OSError(f'there is no {kinds} file in it; there are {listed(found.sizes)}; another file must be named')


def require_file(place: Address, found: Listed, name: str) -> None:
    """Raises OSError unless the repository has this file."""
    if name not in found.sizes:
        where = 'downloaded before (the network is not asked)' if is_offline() else f'in {place.repo}'
        raise OSError(f'there is no file {name} {where}; there are {listed(found.sizes)}')


def require_ending(place: Address, name: str, endings: Sequence[str]) -> None:
    """Raises OSError for a file that could not be what is wanted."""
    if not name.lower().endswith(tuple(endings)):
        raise OSError(f'{name} is not what is wanted here: {" or ".join(endings)}')


def require_room(place: Address, num_bytes: int, most: int) -> None:
    """Raises OSError for more than is allowed, or than the disk has room for."""
    if num_bytes > most:
        raise OSError(f'it has {num_bytes} bytes; at most {most} are downloaded')
    where = os.environ.get('HF_HOME') or os.path.expanduser('~')
    free = shutil.disk_usage(where).free if os.path.isdir(where) else num_bytes
    if num_bytes > free and not is_offline():
        raise OSError(f'it has {num_bytes} bytes, and {where} has room for {free}')


def files_of_set(place: Address, found: Listed) -> list[str]:
    """The files of a data set: of one kind, below the folder that the address names."""
    below = [name for name in found.sizes if not place.file or name.startswith(f'{place.file}/')]
    if place.file and not below:
        require_file(place, found, place.file)
    for ending in SETS:
        names = sorted(name for name in below if name.lower().endswith(ending))
        if len(names) > 1 and ending in PACKED:
            raise OSError(f'there are {len(names)} {ending} files in it; name one: {listed(names, place)}')
        if names:
            return names
    raise OSError(f'there is no {", ".join(SETS[:-1])} or {SETS[-1]} file in it; there are {listed(below)}')


def folder_for(place: Address, commit: str | None, names: Sequence[str]) -> str:
    """A folder that holds these files and no others."""
    digest = hashlib.sha256('\n'.join([commit or '', *names]).encode()).hexdigest()[:16]
    return make_cache_dir_path('hub', f'{place.repo.replace("/", "--")}-{digest}')


def listed(names: Any, place: Address | None = None) -> str:
    """The first names, as part of a sentence; with a place, as addresses."""
    names = sorted(names)
    prefix = f'{SCHEME}{"datasets/" * (place.kind == "dataset")}{place.repo}/' if place else ''
    more = f' and {len(names) - MAX_NAMED} more' if len(names) > MAX_NAMED else ''
    return ', '.join(printable(prefix + name) for name in names[:MAX_NAMED]) + more or 'none at all'


def printable(text: str) -> str:
    """Text of a stranger for a terminal."""
    return output.printable(text[:300], keep='')


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong.

@contextmanager
def in_one_sentence(place: Address) -> Iterator[Any]:
    """Gives the package, and turns whatever it raises into an OSError of one sentence."""
    hub = package(place.address)
    from huggingface_hub import errors
    try:
        yield hub
    except Exception as error:          # The network, the server, the disk: each library has exceptions of its own.
        reason = in_words(error, errors, place)
        raise OSError(f'{printable(place.address)}: {reason}') from error


def package(address: str) -> Any:
    """The package huggingface_hub, quiet where no person looks."""
    try:
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    except ImportError:
        raise OSError(f'{printable(address)}: the Hub needs the extra "hub" (pip install huggingface_hub)') from None
    except ValueError as error:         # It reads its variables while it is imported.
        variables = ', '.join(sorted(name for name in os.environ if name.startswith(('HF_', 'HUGGINGFACE_'))))
        raise OSError(f'{printable(address)}: huggingface_hub cannot use one of the variables that are set '
                      f'({variables}): {printable(str(error))}') from None
    if not sys.stderr.isatty():
        disable_progress_bars()
    return huggingface_hub


def in_words(error: Exception, errors: Any, place: Address) -> str:
    """Why something could not be had from the Hub, or sent there."""
    status = getattr(getattr(error, 'response', None), 'status_code', None)
    revision = place.revision or 'main'
    if isinstance(error, errors.GatedRepoError):
        return f'its owner wants terms to be accepted first, on {endpoint()}/{place.repo}, and a token (HF_TOKEN)'
    if isinstance(error, errors.RevisionNotFoundError):
        return f'there is no revision {revision}'
    if isinstance(error, errors.RepositoryNotFoundError):
        return (f'there is no such repository on {endpoint()}, or it is private and no token that is known here opens it '
                '(HF_TOKEN, or hf auth login)')
    if isinstance(error, errors.EntryNotFoundError) and is_offline():
        return 'it is not among what was downloaded before, and the network is not asked (DNNLIB_OFFLINE, HF_HUB_OFFLINE)'
    if status in (401, 403):
        return f'the server answers {status}: this token may not do that (HF_TOKEN, or hf auth login)'
    if status is not None:
        return f'the server answers {status}'
    if type(error) is OSError and error.errno is None:      # A sentence from above.
        return str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f'{error.filename}: {error.strerror}'
    text = ' '.join(printable(str(error) or type(error).__name__).split())
    if 'HTTP' in ''.join(kind.__name__ for kind in type(error).__mro__) or isinstance(error, ConnectionError | TimeoutError):
        return f'{endpoint()} cannot be reached ({text}); DNNLIB_OFFLINE=1 uses what was downloaded before'
    return text
