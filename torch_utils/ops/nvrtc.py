"""The CUDA kernels without nvcc and without any other compiler: torch's CUDA wheels bring NVRTC, a library that does.

The kernels of csrc/ know no torch. Here they become machine code, in three files of the cache, under the rules of
build.py: named by all that they are made of, made by one process while others wait, checked when they are read, failures
remembered. `load` gives torch's operators to them: launched.py checks arguments and chooses kernels, driver.py starts
them, and declared.py has the schemas and derivatives where no C++ library has.
"""
import hashlib
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import library

from dnnlib.commands import how_to_build
from dnnlib.util import make_cache_dir_path
from torch_utils.ops import build, declared, kernels, launched
from torch_utils.ops.build import SOURCE_DIR, Unavailable
from torch_utils.ops.driver import Driver, Starter

PROGRAM = Path(__file__).with_name('nvrtc_program.py')
OPTIONS = '-std=c++17', '-default-device'
STANDARD = 'cmath', 'cstdint', 'cstring', 'type_traits', 'utility'      # C++'s headers, which nvrtc_std.h replaces.
GROUPS = {'filters': ('gather', 'strip', *kernels.JOINT), 'bias_act': ('bias_act',), 'layer_act': ('layer_act',)}
LIBRARY = 'nvrtc'                       # What the files in the cache begin with.


_registered: dict[str, library.Library] = {}      # When these go, so do their operators.


def find_nvrtc() -> Path:
    """The library, of the CUDA version that torch is of. Raises `Unavailable` if there is none."""
    if sys.platform != 'linux':
        raise Unavailable(f'NVRTC is used on Linux only, this is {sys.platform}')
    if torch.version.cuda is None:
        raise Unavailable('this torch is built without CUDA')
    major = torch.version.cuda.split('.')[0]
    for folder in _folders():
        found = [*sorted(folder.glob(f'libnvrtc.so.{major}*')), *sorted(folder.glob(f'libnvrtc-*.so.{major}*'))]
        for path in found:
            if '.alt.' not in path.name and 'builtins' not in path.name:
                return path
    raise Unavailable(f'no libnvrtc.so.{major}: neither beside torch nor below $CUDA_HOME (pip install nvidia-cuda-nvrtc)')


def build_kernels(architecture: str, again: bool = False) -> dict[str, Path]:
    """{group of kernels: file with its machine code} for an architecture like '90', compiled if need be.

    Raises:
        Unavailable: It cannot be compiled, with the compiler's first complaint, or cannot be kept.
    """
    nvrtc = find_nvrtc()
    try:
        paths = {group: path_of(group, architecture, nvrtc) for group in GROUPS}
        if not all(map(build.is_whole, paths.values())):
            print(f'Compiling the operators for sm_{architecture} by NVRTC, once '
                  f'(or beforehand: {how_to_build()}) ...', flush=True)
        with ThreadPoolExecutor(len(GROUPS)) as pool:
            for made in [pool.submit(build.kept, path, LIBRARY, _maker(group, architecture, nvrtc), again)
                         for group, path in paths.items()]:
                made.result()
    except OSError as error:
        raise Unavailable(f'the operators of NVRTC cannot be compiled or kept: {error}; {build.ANOTHER_FOLDER}') from error
    return paths


def path_of(group: str, architecture: str, nvrtc: Path) -> Path:
    """Where the finished file is or will be."""
    parts = [architecture, nvrtc.name, str(nvrtc.stat().st_size), *OPTIONS, kernels.source(), PROGRAM.read_text()]
    for path in sorted(SOURCE_DIR.iterdir()):
        if path.suffix in ('.h', '.cuh') or path.name == 'nvrtc.cu':
            parts += [path.name, path.read_text()]
    key = hashlib.blake2b('\0'.join(parts).encode(), digest_size=10).hexdigest()
    return Path(make_cache_dir_path('ops')) / f'{LIBRARY}-{group}-sm_{architecture}-{key}.cubin'


def load() -> None:
    """Has the kernels compiled for the current GPU and loaded, gives torch's operators to them. Raises Unavailable."""
    register(starter())


def starter() -> Starter:
    """Starts kernels, which are compiled for the current GPU and loaded there. Raises Unavailable."""
    start = Starter(Driver(), _codes_of)
    try:
        start.load(torch.cuda.current_device())
    except (OSError, RuntimeError) as error:
        raise Unavailable(f'the kernels of NVRTC cannot be loaded: {error}') from error
    return start


def register(start: launched.Start, key: str = 'CUDA') -> None:
    """Gives torch's operators to kernels that `start` starts, and declares them if no library has."""
    if not hasattr(getattr(torch.ops, launched.NAMESPACE), 'layer_act'):
        _registered['FRAGMENT'] = library.Library(launched.NAMESPACE, 'FRAGMENT')
        declared.declare(_registered['FRAGMENT'])
    _registered['IMPL'] = library.Library(launched.NAMESPACE, 'IMPL')
    launched.register(_registered['IMPL'], start, key)


def is_declared_here() -> bool:
    """Are schemas and derivatives those of declared.py? Then no library can bring its own."""
    return 'FRAGMENT' in _registered


def _codes_of(device):
    architecture = ''.join(map(str, torch.cuda.get_device_capability(device)))
    paths = build_kernels(architecture)
    return [(build.content_of(path), _names_of(group)) for group, path in paths.items()]


def _names_of(group):
    return [name for name in kernels.all_kernels() if name.startswith(GROUPS[group])]


def _maker(group, architecture, nvrtc):
    def make(path):
        with tempfile.TemporaryDirectory(dir=path.parent, prefix='build-') as folder:
            for name in STANDARD:
                Path(folder, name).write_text('#include "nvrtc_std.h"\n')
            Path(folder, 'kernels.inc').write_text(kernels.source(_names_of(group)))
            command = [sys.executable, '-I', PROGRAM, nvrtc, SOURCE_DIR / 'nvrtc.cu', *OPTIONS,
                       f'--gpu-architecture=sm_{architecture}', f'--include-path={SOURCE_DIR}', f'--include-path={folder}']
            answer = subprocess.run(command, capture_output=True)
        if answer.returncode:
            build.give_up(path, LIBRARY, answer.stderr.decode(errors='replace') + _death(answer.returncode))
        build.finish(path, answer.stdout)
    return make


def _death(status):
    """What a process that was ended had no time to say."""
    return f'\nerror: Killed by signal {-status}\n' if status < 0 else ''


def _folders():
    """Where the library may be: in NVIDIA's packages, in torch's own, in the environment, in a toolkit."""
    spec = find_spec('nvidia')
    for place in spec.submodule_search_locations if spec else []:
        yield from sorted(Path(place).glob('*/lib'))
    yield Path(torch.__file__).parent / 'lib'
    yield Path(sys.prefix) / 'lib'
    homes = [os.environ.get('CUDA_HOME'), os.environ.get('CUDA_PATH'), '/usr/local/cuda']
    yield from (Path(home) / 'lib64' for home in homes if home)
