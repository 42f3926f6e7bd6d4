"""Builds the compiled operators of csrc/ with ninja and keeps the results.

There are two libraries: `cpu` (the operators' schemas, shapes and derivatives, and the CPU kernels) and `cuda` (the
CUDA kernels; useless without the first). A library is built when it is first asked for, by whichever process comes
first, while the others wait; the lock is the operating system's, so it ends with the process that holds it. A finished
library is named by a hash of everything that went into it, appears in its place in one step, and ends with a checksum of
what stands before: to map a file that was cut would kill the process. Of a build that failed, the compiler's output is
kept under the same name, so that nobody waits for it twice.
"""
import contextlib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import torch

from dnnlib import writing
from dnnlib.cache import who_else_writes
from dnnlib.commands import how_to_build
from dnnlib.util import make_cache_dir_path

SOURCE_DIR = Path(__file__).parent / 'csrc'
LIBRARIES = {
    'cpu': ('operators.cpp', 'bindings_cpu.cpp', 'bias_act_cpu.cpp', 'scale_bias_act_cpu.cpp',
            'upfirdn2d_cpu.cpp'),
    'cuda': ('bindings_cuda.cpp', 'bias_act.cu', 'layer_act.cu', 'upfirdn2d.cu'),
}
BASE_FLAGS = ('-std=c++20', '-fPIC', '-Wall')
# For the files that do arithmetic; they know no torch. Without the third a condition, such as lrelu's, keeps a loop from
# being vectorised where the processor has no masks, that is without AVX-512; no result depends on it. With the fourth no
# product is fused with a sum: the same bits on every processor, and wherever in a vector an element stands.
KERNEL_FLAGS = ('-O3', '-fopenmp-simd', '-fno-trapping-math', '-ffp-contract=off')
BINDING_FLAGS = ('-O1', '-fopenmp')                 # For the files that include torch, where compiling takes its time.
DIGEST_BYTES = 32                                   # Of the checksum behind a library's end; the system loads it nevertheless.
PASSING = ('No space left|Disk quota|[Kk]illed|[Oo]ut of memory|[Cc]annot allocate|virtual memory exhausted|'
           'interrupted by user|Terminated signal|Interrupt signal|Hangup signal')
ARCHITECTURES = 'TORCH_CUDA_ARCH_LIST'
MARCH = 'DNNLIB_OPS_MARCH'                          # The environment's name for a processor to build for.
ANOTHER_FOLDER = 'DNNLIB_CACHE_DIR may name a folder on another disk'


class Unavailable(Exception):
    """The operators cannot be built or used here; the message says why, in words for the user."""


@dataclass(frozen=True)
class Toolchain:
    """What a library is built with."""
    cxx: str                    # Path of the C++ compiler.
    cxx_version: str            # What it says of itself.
    ninja: str
    nvcc: str | None            # Path of the CUDA compiler, for `cuda` only.
    nvcc_version: str | None


def find_toolchain(library: str) -> Toolchain:
    """The compilers for `library` ('cpu' or 'cuda'). Raises `Unavailable` if something is missing."""
    if sys.platform != 'linux':
        raise Unavailable(f'compiled operators are for Linux, this is {sys.platform}')
    cxx = find_compiler()
    nvcc = None
    if library == 'cuda':
        if torch.version.cuda is None:
            raise Unavailable('this torch is built without CUDA')
        nvcc = find_nvcc()
        if nvcc is None:
            raise Unavailable('no CUDA compiler: nvcc is neither on PATH nor below $CUDA_HOME')
        release = _version_of(nvcc)
        if f'release {torch.version.cuda.split(".")[0]}.' not in release:
            raise Unavailable(f'nvcc ({release}) and torch (CUDA {torch.version.cuda}) are of different major versions')
    return Toolchain(cxx, _version_of(cxx), _find_ninja(), nvcc, nvcc and _version_of(nvcc))


def find_nvcc() -> str | None:
    """Path of the CUDA compiler, or None."""
    homes = [os.environ.get('CUDA_HOME'), os.environ.get('CUDA_PATH'), '/usr/local/cuda']
    paths = [os.environ.get('PATH', ''), *(f'{home}/bin' for home in homes if home)]
    return shutil.which('nvcc', path=os.pathsep.join(paths))


def find_compiler() -> str:
    """Path of the C++ compiler: $CXX, or the first one found. Raises `Unavailable` if there is none."""
    names = [os.environ['CXX']] if os.environ.get('CXX') else ['c++', 'g++', 'clang++']
    cxx = next(filter(None, map(shutil.which, names)), None)
    if cxx is None:
        raise Unavailable(f'no C++ compiler: {", ".join(names)} not found')
    return cxx


def cuda_home(nvcc: str) -> Path:
    """The directory of the CUDA toolkit that a CUDA compiler belongs to."""
    answer = subprocess.run([nvcc, '--dryrun', '-c', 'none.cu'], capture_output=True, text=True)    # Also for wrappers.
    top = next((line.split('=', 1)[1] for line in answer.stderr.splitlines() if '$ TOP=' in line), None)
    return Path(top).resolve() if top else Path(nvcc).resolve().parents[1]


def torch_include() -> Path:
    """Where torch has its headers."""
    return Path(torch.__file__).parent / 'include'


def path_of(library: str, toolchain: Toolchain) -> Path:
    """Where the finished library is or will be."""
    return Path(make_cache_dir_path('ops')) / f'{library}-{_key(library, toolchain)}.so'


def build(library: str, again: bool = False) -> Path:
    """Path of the finished library, built if need be.

    Args:
        library: 'cpu' or 'cuda'.
        again: Try it also if the same build has failed before.

    Raises:
        Unavailable: It cannot be built, with the compiler's first complaint, or cannot be kept.
    """
    try:
        toolchain = find_toolchain(library)
        return kept(path_of(library, toolchain), library, lambda path: _build(library, toolchain, path), again)
    except OSError as error:
        raise Unavailable(f'the {library} operators cannot be built or kept: {error}; {ANOTHER_FOLDER}') from error


def kept(path: Path, library: str, make: Callable[[Path], None], again: bool) -> Path:
    """`path`, which `make(path)` makes if need be, by `finish` or `give_up`, in one process while others wait."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if (clause := who_else_writes(path)) is not None:
        raise Unavailable(f'{clause}, and what is there would be executed; DNNLIB_CACHE_DIR may name a folder '
                          'of your own')
    if is_whole(path):
        return path
    if not again:
        _raise_if_it_failed(library, path)
    with lock(path.with_suffix('.lock')):
        if not is_whole(path):          # Another process may have built it while this one waited.
            if not again:
                _raise_if_it_failed(library, path)
            make(path)
    return path


def finish(path: Path, content: bytes) -> None:
    """Keeps what was built."""
    writing.write_bytes(path, content + _digest(content), 'any')
    path.chmod(path.stat().st_mode & 0o755)             # Whatever the umask: who_else_writes() looks at it.
    path.with_suffix('.log').unlink(missing_ok=True)


def give_up(path: Path, library: str, output: str) -> NoReturn:
    """Keeps what the compiler said of a build that failed, and raises Unavailable."""
    hint = ''
    if not re.search(PASSING, output):          # An error that may pass is not kept: the next start tries again.
        log = path.with_suffix('.log')
        writing.write_bytes(log, output.encode(), 'any')
        hint = f' (all of it: {log})'
    raise Unavailable(f'building the {library} operators fails: {complaint_in(output)}{hint}')


def content_of(path: Path) -> bytes:
    """What was built, without the checksum behind its end."""
    return path.read_bytes()[:-DIGEST_BYTES]


def is_whole(path: Path) -> bool:
    """Is there a finished library, with every byte that was written?"""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return content[-DIGEST_BYTES:] == _digest(content[:-DIGEST_BYTES])


def failure_of(path: Path) -> str | None:
    """The compiler's first complaint from an attempt to build this library that failed, None if there was none."""
    try:
        output = path.with_suffix('.log').read_text(errors='replace')
    except FileNotFoundError:
        return None
    return None if re.search(PASSING, output) else complaint_in(output)     # Earlier versions kept all.


def complaint_in(output: str) -> str:
    """The first line of the output of a build that tells of an error."""
    told = (line for line in output.splitlines() if re.search('error:|fatal +:|interrupted', line))
    return next(told, 'ninja failed').strip()[:300]


def _raise_if_it_failed(library, path):
    complaint = failure_of(path)
    if complaint is not None:
        raise Unavailable(f'building the {library} operators has failed before: {complaint} '
                          f'(all of it: {path.with_suffix(".log")}; to try again: {how_to_build()})')


def _digest(content):
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def _find_ninja():
    with contextlib.suppress(ImportError):
        import ninja
        bundled = shutil.which('ninja', path=ninja.BIN_DIR)
        if bundled:
            return bundled
    path = shutil.which('ninja')
    if path is None:
        raise Unavailable("no ninja: neither on PATH nor as the Python package 'ninja'")
    return path


@cache
def _version_of(compiler):
    answer = subprocess.run([compiler, '--version'], capture_output=True, text=True)
    if answer.returncode != 0:
        raise Unavailable(f'{compiler} --version fails: {answer.stderr.strip()[:200]}')
    lines = answer.stdout.strip().splitlines()
    return next((line for line in lines if 'release' in line), lines[0])    # nvcc's version is not in its first line.


def _march():
    return os.environ.get(MARCH) or 'native'


def _cpu():
    """What `-march=native` depends on."""
    if _march() != 'native':
        return _march()
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith(('flags', 'Features')):
                return line
    return platform.processor()


def _key(library, toolchain):
    parts = [torch.__version__, _cpu() if library == 'cpu' else '', repr(toolchain), *commands(library, toolchain)]
    for path in sorted(SOURCE_DIR.iterdir()):
        if path.suffix in ('.h', '.cuh', '.inc') or path.name in LIBRARIES[library]:
            parts += [path.name, path.read_text()]
    return hashlib.blake2b('\0'.join(parts).encode(), digest_size=10).hexdigest()


def commands(library, toolchain):
    """The ninja rules: compile commands for the three kinds of files, and the link command."""
    abi = f'-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}'
    includes = [f'-isystem {torch_include()}']
    libraries = [f'-L{torch_include().parent}/lib', '-lc10', '-ltorch_cpu']
    rules = {
        'kernel': [toolchain.cxx, *BASE_FLAGS, *KERNEL_FLAGS, f'-march={_march()}', '-c $in -o $out'],
        'binding': [toolchain.cxx, *BASE_FLAGS, *BINDING_FLAGS, abi, *includes, '-c $in -o $out'],
    }
    if library == 'cuda':
        home = cuda_home(toolchain.nvcc)
        rules['binding'].insert(-1, f'-isystem {home}/include')
        rules['cuda'] = [toolchain.nvcc, f'-ccbin {toolchain.cxx} -std=c++17 -O3 -Xcompiler -fPIC', *gencode(), '-c $in -o $out']
        libraries += ['-lc10_cuda']             # It brings the CUDA runtime that torch uses; a second one would be another.
    rules['link'] = [toolchain.cxx, '-shared -fopenmp $in -o $out', *libraries]
    return [f'rule {name}\n  command = {" ".join(command)}\n' for name, command in rules.items()]


def gencode():
    """Code for the GPUs that $TORCH_CUDA_ARCH_LIST names, as for torch's own extensions; else for those of this machine."""
    return [f'-gencode=arch=compute_{number},code={code}_{number}'
            for number, portable in architectures().items() for code in (('sm', 'compute') if portable else ('sm',))]


def architectures() -> dict[str, bool]:
    """{what to build for, like '80' or '90a': also for later ones?}."""
    named = re.split('[;, ]+', os.environ.get(ARCHITECTURES, '').strip('; ,'))
    if named == ['']:
        found = {torch.cuda.get_device_capability(device) for device in range(torch.cuda.device_count())}
        named = [f'{major}.{minor}' for major, minor in sorted(found)]
    if not named:
        raise Unavailable(f'no GPU to build for; {ARCHITECTURES} may name some, for example 8.0;9.0')
    matches = [re.fullmatch(r'(\d+)\.(\d)([af]?)(\+PTX)?', name) for name in named]
    if None in matches:
        raise Unavailable(f'{ARCHITECTURES}: {named[matches.index(None)][:40]!r} is not of the form 8.0 or 8.0+PTX')
    return {match[1] + match[2] + match[3]: match[4] is not None for match in matches}


def _rule_for(source):
    if source.endswith('.cu'):
        return 'cuda'
    return 'kernel' if source.endswith('_cpu.cpp') and not source.startswith('bindings') else 'binding'


def _build(library, toolchain, path):
    print(f'Building the {library} operators, once (or beforehand: {how_to_build()}) ...', flush=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix='build-') as directory:
        objects = [(source, f'{source}.o') for source in LIBRARIES[library]]
        text = commands(library, toolchain)
        text += [f'build {target}: {_rule_for(source)} {SOURCE_DIR / source}\n' for source, target in objects]
        text += [f'build result.so: link {" ".join(target for _, target in objects)}\n']
        (Path(directory) / 'build.ninja').write_text('\n'.join(text))
        answer = subprocess.run([toolchain.ninja, '-C', directory], capture_output=True, text=True, errors='replace')
        if answer.returncode:
            give_up(path, library, answer.stdout + answer.stderr)
        finish(path, (Path(directory) / 'result.so').read_bytes())


@contextlib.contextmanager
def lock(path):
    """Exclusive among all processes; given back by the operating system if this one dies."""
    import fcntl  # Not on Windows, where nothing is built either.

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:            # Some network file systems have none.
            raise Unavailable(f'{path} cannot be locked: {error.strerror}; {ANOTHER_FOLDER}') from error
        yield
