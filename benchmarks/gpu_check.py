"""All that has never been checked on a GPU, in one run of under eight minutes: what is wrong there, and how fast it is.

    python benchmarks/gpu_check.py                              # On a machine with a GPU; also `make gpu-check`
    python benchmarks/gpu_check.py --only=build,ops,speed       # Some parts
    python benchmarks/gpu_check.py --device=cpu --reduced       # Tries this program itself where there is no GPU

Every part (benchmarks/gpu/) is a process of its own with a limit of time; what it found until then is kept, and nothing
that fails ends the rest. A table is printed last; it and all figures go to gpu_check.txt and gpu_check.json in --out.
Marks: ok, FAIL (wrong or broken), slow (right, but far from what it could be), skip (cannot be tried here).
"""
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'tests'), str(ROOT / 'benchmarks')]

from dnnlib.computing import device_option_for  # noqa: E402

# {part: (module of benchmarks/gpu, limit in seconds, stage)}. Parts of one stage run side by side, stages one after the other.
PARTS = {
    'machine': ('operators', 40, 0), 'build': ('operators', 170, 1),
    'ops': ('operators', 110, 2), 'nets': ('networks', 60, 2), 'fixtures': ('networks', 100, 2),
    'memory': ('runs', 50, 3), 'group': ('runs', 60, 3),
    'training': ('runs', 130, 4), 'resume': ('runs', 120, 4), 'tools': ('runs', 80, 4),
    'graphs': ('graphs', 100, 5), 'speed': ('speed', 170, 6), 'launches': ('speed', 80, 7),
    'sanitizer': ('operators', 75, 8), 'nvrtc': ('by_nvrtc', 240, 9),
}
MARKS = 'ok', 'FAIL', 'slow', 'skip'


@click.command()
@device_option_for('What is checked.', 'cuda', ['cuda', 'cpu'])
@click.option('--reduced', is_flag=True, help='Smallest sizes and numbers of steps.')
@click.option('--budget', type=float, default=465, show_default=True, help='Seconds for everything.')
@click.option('--only', help=f'Some of {",".join(PARTS)}.')
@click.option('--out', default='gpu_check_out', show_default=True)
@click.option('--part', hidden=True)
@click.option('--result', hidden=True)
@click.option('--work', hidden=True)
@click.option('--seconds', type=float, default=60, hidden=True)
def main(device, reduced, budget, only, out, part, result, work, seconds):
    """Checks on a GPU what tests on a CPU cannot."""
    if part:
        run_part(part, result, seconds, dict(device=device, reduced=reduced, work=work))
        return
    if device == 'cuda' and subprocess.run([sys.executable, '-c', 'import torch; assert torch.cuda.is_available()'],
                                           stderr=subprocess.DEVNULL).returncode:
        raise click.ClickException('no GPU that torch can use here; --device=cpu --reduced tries the program itself')
    names = only.split(',') if only else list(PARTS)
    if unknown := set(names) - set(PARTS):
        raise click.UsageError(f'--only: there is no part {sorted(unknown)[0]}; parts are {", ".join(PARTS)}')
    sys.exit(run_all(names, device, reduced, budget, Path(out)))


def run_all(names, device, reduced, budget, out):
    """Runs the parts; returns the exit status: 1 if something failed."""
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    results = {}
    with tempfile.TemporaryDirectory(prefix='gpu-check-', ignore_cleanup_errors=True) as work:
        options = [f'--device={device}', f'--work={work}', *(['--reduced'] if reduced else [])]
        for stage in sorted({PARTS[name][2] for name in names}):
            now = [name for name in names if PARTS[name][2] == stage]
            with ThreadPoolExecutor(len(now)) as pool:
                for name, found in zip(now, pool.map(lambda name: start_part(name, work, options, begin + budget), now)):
                    results[name] = found
            text = write(out, results, begin)
    print('\n' + text)
    return 1 if any(row[1] == 'FAIL' for found in results.values() for row in found['rows']) else 0


def start_part(name, work, options, deadline):
    """Runs a part in a process of its own; returns what it has written until its end or its limit."""
    limit = min(PARTS[name][1], deadline - time.monotonic())
    if limit < 15:
        return dict(rows=[[name, 'skip', 'no time left']], data={}, seconds=0)
    result, log, begin = Path(work, f'{name}.json'), Path(work, f'{name}.log'), time.monotonic()
    command = [sys.executable, __file__, f'--part={name}', f'--result={result}', f'--seconds={limit:.0f}', *options]
    with open(log, 'w') as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment(), start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        with contextlib.suppress(ProcessLookupError):       # Also whatever it has started itself.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    found = json.loads(result.read_text()) if result.exists() else dict(rows=[], data={})
    tail = log.read_text(errors='replace')[-1500:]
    if code is None:
        found['rows'].append([name, 'slow' if found['rows'] else 'FAIL', f'stopped at its limit of {limit:.0f} s'])
    elif code:
        found['rows'].append([name, 'FAIL', f'ended with status {code}: {(tail.strip().splitlines() or [""])[-1][:200]}'])
    found.update(seconds=round(time.monotonic() - begin, 1), log=tail)
    print(f'{name}: {found["seconds"]} s, {summary(found["rows"])}', flush=True)
    return found


def environment():
    """Of the parts: cuBLAS is told beforehand what makes it deterministic; blocks of memory grow, as train.py has it; those side
    by side do not fight for the cores."""
    return {'CUBLAS_WORKSPACE_CONFIG': ':4096:8', 'PYTORCH_CUDA_ALLOC_CONF': 'expandable_segments:True', 'OMP_NUM_THREADS': '2',
            **os.environ, 'PYTHONUNBUFFERED': '1'}


def summary(rows):
    """How many rows there are of each mark."""
    return ', '.join(f'{sum(row[1] == mark for row in rows)} {mark}' for mark in MARKS)


def write(out, results, begin):
    """Writes both files; returns the table."""
    rows = [row for found in results.values() for row in found['rows']]
    width = max([len(row[0]) for row in rows], default=0)
    lines = [f'{name:<{width}}  {mark:<4}  {text}' for name, mark, text in rows]
    text = '\n'.join([*lines, f'{time.monotonic() - begin:.0f} s: {summary(rows)}'])
    (out / 'gpu_check.json').write_text(json.dumps(results, indent=1, default=str))
    (out / 'gpu_check.txt').write_text(text + '\n')
    return text


def run_part(name, result, seconds, options):
    """In the process of a part."""
    import importlib

    from gpu.report import Report
    report = Report(result, seconds, **options)
    with report.trying(name):
        getattr(importlib.import_module(f'gpu.{PARTS[name][0]}'), f'check_{name}')(report)
    shutil.rmtree(Path(options['work'], 'cache'), ignore_errors=True)


if __name__ == '__main__':
    main()
