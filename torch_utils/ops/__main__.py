"""Command line: `python -m torch_utils.ops build` compiles the operators, `... doctor` tells what is there."""
import os
import time
from datetime import datetime

import click
import torch

from dnnlib import output
from dnnlib.commands import how_to_build
from torch_utils.ops import backend, build, nvrtc

OF_LIBRARIES = {'cpu': ('upfirdn2d', 'bias_act', 'scale_bias_act'), 'cuda': ('upfirdn2d', 'bias_act', 'layer_act')}


@click.group(help='Compiled operators: upfirdn2d, bias_act, scale_bias_act.')
def main():
    pass


@main.command('build', help='Compile and try the operators now, instead of when they are first used.')
def build_command():
    libraries = libraries_here()
    for library in libraries:
        start = time.perf_counter()
        try:
            paths = _build_for_cuda() if library == 'cuda' else [build.build(library, again=True)]
        except build.Unavailable as reason:
            if library == 'cpu' and 'cuda' in libraries:        # Which may do without.
                click.echo(f'cpu: {reason}')
                continue
            raise click.ClickException(f'{library}: {reason}') from reason
        for path in paths:
            click.echo(f'{library}: {path} ({time.perf_counter() - start:.1f} s)')
        if library == 'cuda' and not torch.cuda.is_available():
            click.echo('cuda: not tried, there is no GPU here')
            continue
        reason = backend.why_not(library, torch.float32)
        if reason is not None:
            raise click.ClickException(f'{library}: {reason}')


def _build_for_cuda():
    """Files of the first way that works."""
    paths, why = backend.first_way(
        lambda: [build.build(library, again=library == 'cuda') for library in ('cpu', 'cuda')][1:],
        lambda: [path for name in build.architectures() for path in nvrtc.build_kernels(name, again=True).values()])
    if why is not None:
        click.echo(f'cuda: by NVRTC: {why}')
    return paths


@main.command(help='Print compilers, caches, and which implementation each operator will use, and why.')
def doctor():
    click.echo(f'torch      {torch.__version__} (CUDA: {torch.version.cuda or "none"})')
    click.echo(f'nvcc       {build.find_nvcc() or "none"}')
    for library in build.LIBRARIES:
        click.echo(f'\n{library}')
        for line in report_of(library):
            click.echo(f'  {line}')


def libraries_here() -> list[str]:
    """Those that this machine can use, or is asked to build."""
    return ['cpu', 'cuda'] if torch.cuda.is_available() or os.environ.get(build.ARCHITECTURES) else ['cpu']


def report_of(library: str) -> list[str]:
    """What each operator of 'cpu' or 'cuda' will use, and of what it is made."""
    try:
        if library == 'cpu':
            return _report_of_library(library)
        lines, why = backend.first_way(lambda: _report_of_library(library), _report_of_nvrtc)
        return lines if why is None else [f'NVRTC is used: {why}', *lines]
    except (build.Unavailable, OSError) as reason:
        return [f'{name:14} reference: {reason}' for name in OF_LIBRARIES[library]]


def _report_of_library(library):
    toolchain = build.find_toolchain(library)
    path = build.path_of(library, toolchain)
    compilers = [f'compiler       {toolchain.cxx}: {toolchain.cxx_version}', f'ninja          {toolchain.ninja}']
    if toolchain.nvcc:
        compilers.append(f'nvcc           {toolchain.nvcc_version}')
    return [*compilers, f'library        {path}', *_states_of(library, [path])]


def _report_of_nvrtc():
    library, names = nvrtc.find_nvrtc(), list(build.architectures())
    paths = [nvrtc.path_of(group, name, library) for name in names for group in nvrtc.GROUPS]
    return [f'NVRTC          {library}', f'for            {", ".join(f"sm_{name}" for name in names)}',
            *(f'machine code   {path}' for path in paths), *_states_of('cuda', paths, ' by NVRTC')]


def _states_of(library, paths, way=''):
    """A line for each operator. Raises Unavailable if a file could not be built."""
    failure = next(filter(None, map(build.failure_of, paths)), None)
    if all(map(build.is_whole, paths)):
        built = f'built {datetime.fromtimestamp(paths[0].stat().st_mtime):%Y-%m-%d %H:%M}'
    elif failure is None:
        built = 'to be built at first use'
    else:
        raise build.Unavailable(f'building has failed: {failure} (to try again: {how_to_build()})')
    return [f'{name:14} native{way}: {built}' for name in OF_LIBRARIES[library]]


if __name__ == '__main__':
    output.prepare()
    main()
