"""Times how long a user waits before something happens.

    python benchmarks/start_up.py

`help` is `train.py --help` (median of several), `iteration` from the start
of `train.py --cfg=tiny` on the bundled images to the end of its first iteration with operators that are
already built, in wall time; `processor` is what it took of all cores.
"""
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
DATA = ROOT / 'datasets' / 'emoji-faces-noto-32.zip'
TRAIN = [sys.executable, '-u', str(ROOT / 'train.py')]


def help_seconds():
    """Of `train.py --help`."""
    begin = time.perf_counter()
    subprocess.run([*TRAIN, '--help'], check=True, capture_output=True)
    return time.perf_counter() - begin


def first_iteration():
    """Seconds until the run reports its first tick, which ends after the first iteration: wall, processor."""
    with tempfile.TemporaryDirectory() as outdir:
        begin, used = time.perf_counter(), children_seconds()
        command = [*TRAIN, f'--outdir={outdir}', f'--data={DATA}', '--cfg=tiny', '--workers=0']
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            reached = next((line for line in process.stdout if line.startswith('tick 0')), None)
            seconds = time.perf_counter() - begin
            process.send_signal(signal.SIGKILL)
    assert reached, 'train.py ended without a tick'
    return seconds, children_seconds() - used


def children_seconds():
    """Processor time of all ended children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@click.command()
@click.option('--repeats', type=click.IntRange(min=1), default=5, show_default=True, help='Runs of --help.')
@click.option('--json', 'json_path', help='Also write the figures here.')
def main(repeats, json_path):
    """Time the start of train.py."""
    subprocess.run([sys.executable, '-m', 'torch_utils.ops', 'build'], check=True, cwd=ROOT,
                   capture_output=True)
    wall, used = first_iteration()
    seconds = {'help': statistics.median(help_seconds() for _ in range(repeats)), 'iteration': wall,
               'processor': used}
    print(f'{os.cpu_count()} cores')
    for name, value in seconds.items():
        print(f'  {name:<10} {value:6.2f} s')
    if json_path:
        Path(json_path).write_text(json.dumps(seconds))


if __name__ == '__main__':
    main()
