"""Runs all benchmarks of speed, prints their figures as tables,
and with --write puts them into docs/performance.md.

    python benchmarks/all.py --quick            # Three minutes on two idle cores.
    python benchmarks/all.py --write            # Half an hour, mostly the full widths; the machine should be idle.
    python benchmarks/all.py --only=training --quick

Every figure comes from a process of its own, so that peak memory is that of one thing.
On a machine with a GPU training and generation run there.
"""
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
from page_parts import write_part

HERE = Path(__file__).parent
PAGE = HERE.parent / 'docs' / 'performance.md'


@dataclass(frozen=True)
class Case:
    """One configuration of the training step."""
    name: str
    arguments: tuple[str, ...]
    iterations: int = 5
    precisions: tuple[str, ...] = ('fp32', 'bf16')
    threads: tuple[int, ...] = (1, 2)
    plain: bool = True                  # Also with plain operators?


SMALL = Case('small, 32 px, batch 16', ('--res=32',), iterations=10)
WIDER = Case('64 px, base 4096, max 256, batch 8', ('--res=64', '--channel-base=4096', '--channel-max=256', '--batch=8'))
QUICK = [Case(SMALL.name, SMALL.arguments, 3), Case(WIDER.name, WIDER.arguments, 1, plain=False)]
WIDTHS = [
    *(Case(f'small, {res} px, batch 16', (f'--res={res}',), 3, ('fp32',), (1,), False)
      for res in (64, 128, 256)),
    *(Case(f'full, {res} px, batch 4', ('--cfg=auto', f'--res={res}', '--batch=4'), 1, ('fp32',), (1,), False)
      for res in (32, 64, 128, 256)),
]


def figures(script, *arguments, threads=1):
    """What benchmarks/SCRIPT writes with --json. Shows what it prints."""
    click.echo(f'\n$ benchmarks/{script} {" ".join(arguments)}', err=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'figures.json'
        env = {**os.environ, 'OMP_NUM_THREADS': str(threads), 'OMP_WAIT_POLICY': 'PASSIVE',
               'PYTHONPATH': str(HERE.parent)}
        subprocess.run([sys.executable, HERE / script, *arguments, f'--json={path}'], check=True, env=env,
                       stdout=sys.stderr)
        return json.loads(path.read_text())


def table(head, rows):
    """Markdown."""
    return [f'| {" | ".join(head)} |', f'|{"---|" * len(head)}',
            *(f'| {" | ".join(row)} |' for row in rows), '']


def machine():
    """One line about where the figures come from, with the copy rate of its memory."""
    import torch
    try:
        cpu = re.search(r'model name\s*: (.*)', Path('/proc/cpuinfo').read_text())[1]
    except (OSError, TypeError):
        cpu = platform.processor()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU'
    return [f'{cpu}, {os.cpu_count()} cores, {gpu}, torch {torch.__version__}; one thread copies '
            f'{copy_rate() / 1e9:.1f} GB/s (read and written).', '']


def copy_rate(megabytes=256):
    """Bytes per second, read plus written, of the fastest of some copies of a large tensor by one thread."""
    import torch
    torch.set_num_threads(1)
    source = torch.zeros(megabytes << 18)
    target = torch.zeros_like(source)
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - begin)
    return 2 * source.nbytes / min(seconds)


def operators(quick):
    """Ratios of times, geometric means over the sizes of a 64 px network."""
    options = ['--dtype=float32', '--seconds=0.02'] if quick else []
    means = figures('ops.py', *options, *(f'--only={name}' for name in ('bias_act', 'fir', 'up', 'down')))
    rows = [[f'`{key}`',
             *(f'{mean.get(f"native {what}", 0):.2f}' for what in ('forward', 'backward', 'double')),
             f'{mean["share of the copy rate"]:.0%}' if 'share of the copy rate' in mean else '']
            for key, mean in means.items() if 'native forward' in mean]
    return ['Operators: time of the plain one / time of the compiled one, one thread; geometric means.', '',
            *table(['operator', 'forward', 'with backward', 'with double backward', 'of the copy rate'],
                   rows)]


def training(quick):
    """The training step, against what convolutions and products could reach, and against plain operators."""
    rows = [row for case in (QUICK if quick else [SMALL, WIDER, *WIDTHS]) for row in training_rows(case)]
    return ['Training: an iteration with all phases and their intervals; `share` of the attainable rate of convolutions and '
            'matrix products; processor time on one thread, wall time on two.', '',
            *table(['configuration', 'precision', 'threads', 'ms', 'img/s', 'GFLOP/s attainable', 'share',
                    'calls', 'peak GiB', 'plain operators: time', 'peak GiB'], rows)]


def training_rows(case):
    """One row for every precision and number of threads."""
    for precision in case.precisions:
        for threads in case.threads:
            options = [*case.arguments, f'--precision={precision}', f'--threads={threads}',
                       f'--iterations={case.iterations}', f'--warmup={int(case.plain)}']
            found = figures('train_step.py', *options, '--share', threads=threads)
            seconds, best, calls = (sum(phase[i] * phase[1] for phase in found['phases'].values())
                                    for i in (0, 2, 3))
            rates = ', '.join(f'{convolution:.0f} ({dtype.removeprefix("torch.")})'
                              for dtype, (convolution, _) in found['gflops'].items())
            plain = ['', '']
            if case.plain:
                other = figures('train_step.py', *options, '--ops=reference', threads=threads)
                times = sum(phase[0] * phase[1] for phase in other['phases'].values()) / seconds
                plain = [f'{times:.2f}x', f'{other["peak_gib"]:.2f}']
            yield [case.name, precision, str(threads), f'{seconds * 1e3:.0f}',
                   f'{found["batch"] / seconds:.1f}', rates,
                   f'{best / seconds:.0%}', f'{calls:.0f}', f'{found["peak_gib"]:.2f}', *plain]


def generation(quick):
    """Drawing pictures, and writing them at the same time."""
    rows = []
    for name, options in {'32 px, small': ['--res=32', '--channel-base=1024', '--channel-max=64',
                                           '--count=64'],
                          '256 px, full': ['--res=256', '--count=8']}.items():
        for threads in (1,) if quick else (1, 2):
            found = figures('generate.py', *options, f'--threads={threads}', threads=threads)
            rate = {what: found['count'] / seconds for what, seconds in found['seconds'].items()}
            rows.append([name, str(threads),
                         *(f'{rate[what]:.1f}' for what in ('draw', 'write', 'both', 'fused', 'not fused'))])
    return ['Generation: pictures per second, batch 8, wall time. `both`: drawing while earlier ones are encoded and written, '
            'as `generate.py` does; `fused`, `not fused`: styles in the weights or in the activations.', '',
            *table(['generator', 'threads', 'draw', 'write', 'both', 'fused', 'not fused'], rows)]


def data(quick):
    """Loading images."""
    rates = figures('data.py')
    return ['Data: bundled images (32 px), batch 16: ' + ', '.join(
        f'{rate:.0f} img/s with {workers} workers' for workers, rate in rates.items()) + '.', '']


def start(quick):
    """What a user waits for."""
    found = figures('start_up.py', threads=os.cpu_count())
    return [f'Start: `train.py --help` {found["help"]:.2f} s; first iteration of `tiny` {found["iteration"]:.1f} s after the '
            f'start ({found["processor"]:.1f} s of processor time).', '']


SECTIONS = {'operators': operators, 'training': training, 'generation': generation, 'data': data,
            'start': start}


@click.command()
@click.option('--quick', is_flag=True, help='Few sizes, few repetitions.')
@click.option('--write', is_flag=True, help='Write the tables into docs/performance.md.')
@click.option('--only', type=click.Choice(list(SECTIONS)), multiple=True,
              help='Parts to run.  [default: all]')
def main(quick, write, only):
    """Run all benchmarks of speed."""
    if write and only:
        raise click.UsageError('--write replaces all tables, --only runs some: give one of them')
    lines = machine()
    for name in only or SECTIONS:
        lines += SECTIONS[name](quick)
    click.echo('\n' + '\n'.join(lines))
    if write:
        write_part(PAGE, 'all.py', '\n'.join(lines))


if __name__ == '__main__':
    main()
