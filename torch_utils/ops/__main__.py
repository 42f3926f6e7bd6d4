"""Command line: `python -m torch_utils.ops build` compiles the operators, `... doctor` tells what is there."""
import os
import time
from datetime import datetime

import click
import torch

from dnnlib.commands import how_to_build
from torch_utils.ops import backend, build

OF_LIBRARIES = {'cpu': ('upfirdn2d', 'bias_act', 'scale_bias_act'), 'cuda': ('upfirdn2d', 'bias_act', 'layer_act')}


@click.group(help='Compiled operators: upfirdn2d, bias_act, scale_bias_act.')
def main():
    pass


@main.command('build', help='Compile and try the operators now, instead of when they are first used.')
def build_command():
    for library in _libraries():
        start = time.perf_counter()
        try:
            path = build.build(library, again=True)
        except build.Unavailable as reason:
            raise click.ClickException(f'{library}: {reason}') from reason
        click.echo(f'{library}: {path} ({time.perf_counter() - start:.1f} s)')
        if library == 'cuda' and not torch.cuda.is_available():
            click.echo('cuda: not tried, there is no GPU here')
            continue
        reason = backend.why_not(library, torch.float32)
        if reason is not None:
            raise click.ClickException(f'{library}: {reason}')


@main.command(help='Print compilers, caches, and which implementation each operator will use, and why.')
def doctor():
    click.echo(f'torch      {torch.__version__} (CUDA: {torch.version.cuda or "none"})')
    click.echo(f'nvcc       {build.find_nvcc() or "none"}')
    for library in build.LIBRARIES:
        click.echo(f'\n{library}')
        for line in report_of(library):
            click.echo(f'  {line}')


def _libraries():
    return ['cpu', 'cuda'] if torch.cuda.is_available() or os.environ.get(build.ARCHITECTURES) else ['cpu']


def report_of(library):
    try:
        toolchain = build.find_toolchain(library)
        path = build.path_of(library, toolchain)
        is_built, failure = build.is_whole(path), build.failure_of(path)
    except (build.Unavailable, OSError) as reason:
        return [f'{name:14} reference: {reason}' for name in OF_LIBRARIES[library]]
    compilers = [f'compiler       {toolchain.cxx}: {toolchain.cxx_version}', f'ninja          {toolchain.ninja}']
    if toolchain.nvcc:
        compilers.append(f'nvcc           {toolchain.nvcc_version}')
    if is_built:
        built = f'native: built {datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}'
    elif failure is not None:
        built = f'reference: building has failed: {failure} (to try again: {how_to_build()})'
    else:
        built = 'native: to be built at first use'
    return [*compilers, f'library        {path}', *(f'{name:14} {built}' for name in OF_LIBRARIES[library])]


if __name__ == '__main__':
    main()
