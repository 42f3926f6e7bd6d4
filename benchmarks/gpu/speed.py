"""Images per second from 32 to 1024 pixels, and launches really seen against launches counted."""
import gc
import json
import os
import subprocess
import sys
import time

import torch

from benchmarks.timing import SMALL
from gpu.report import ROOT

OFF = ['--cuda-graphs=off']
AUTO, BATCH = ['--cfg=auto'], ['--cfg=auto', '--batch=32']
CASES = [                           # (title, resolution, options of train.py)
    ('32 px small no graphs', 32, [*SMALL, '--aug=ada', *OFF]),
    ('32 px small', 32, [*SMALL, '--aug=ada']),
    ('256 px batch 32 no graphs', 256, [*BATCH, *OFF]),
    ('256 px batch 32', 256, BATCH),
    ('256 px batch 64 no graphs', 256, [*AUTO, '--batch=64', *OFF]),
    ('256 px batch 64', 256, [*AUTO, '--batch=64']),
    ('256 px batch 32 nchw', 256, [*BATCH, '--nhwc=0']),
    ('256 px batch 32 plain', 256, [*BATCH, '--ops=reference']),
    ('256 px batch 32 no tf32', 256, [*BATCH, '--allow-tf32=0']),
    ('1024 px', 1024, [*AUTO, '--batch=4']),
    ('512 px', 512, [*AUTO, '--batch=8']),
    ('64 px', 64, BATCH),
    ('256 px batch 32 bf16', 256, [*BATCH, '--precision=bf16']),
    ('256 px batch 32 noaug', 256, [*BATCH, '--aug=noaug']),
    ('256 px batch 32 fp32 tf32', 256, [*BATCH, '--precision=fp32', '--allow-tf32=1']),
]
PROFILED = '256 px batch 32', 256, [*BATCH, *OFF]
SMALLEST = [('16 px small', 16, [*SMALL, '--aug=noaug', '--batch=4'])]


def check_speed(report):
    """A row for each case."""
    for title, res, options in SMALLEST if report.reduced else CASES:
        if not report.has_time(f'speed/{title}', 9):
            return
        with report.trying(f'speed/{title}'):
            report.data[title] = found = measure(report, res, options)
            report.row(f'speed/{title}', found['graphs'] != 0, f'{found["img_s"]:.1f} img/s, {found["ms"]:.1f} ms an iteration, '
                       f'without waiting {found["free_img_s"]:.1f} img/s, graphs {found["graphs"]}, '
                       f'peak {found["gib"]:.2f} GiB, ' + ', '.join(f'{name} {ms:.1f}' for name, ms in found['phases'].items()))
        gc.collect()
        if report.device.type == 'cuda':
            torch.cuda.empty_cache()


def prepare(report, res, options):
    """A run in the middle of its way, as far as augmentation goes."""
    from train_step import build
    run = build(res, None, None, [*options, f'--device={report.device.type}'])
    if run.game.augment is not None and hasattr(run.game.augment, 'p'):
        run.game.augment.p.fill_(0.3)
    return run


def measure(report, res, options):
    """Medians of the phases' times, of which each counts as often as it is due; the device is waited for after each. Then
    images per second of iterations as in training, with nothing to load.
    """
    from train_step import Stopwatch, iterate, peak_memory_gib

    def clock():
        report.sync()
        return time.perf_counter()
    run, watch = prepare(report, res, options), Stopwatch(clock)
    batch = run.reals[0].next_batch()
    run.reals[0].next_batch = lambda: batch
    warm_up(report, run)
    for _ in range(1 if report.reduced else 5):
        iterate(run, watch.timer)
    phases = {name: sorted(seconds)[len(seconds) // 2] * 1e3 for name, seconds in watch.seconds.items()}
    often = {phase.name: 1 / phase.interval for phase in run.phases}
    total = sum(ms * often.get(name, 1) for name, ms in phases.items())
    free = seconds_of_iterations(run, clock, 1 if report.reduced else 2.5)
    return dict(img_s=run.batch_size / total * 1e3, ms=total, phases=phases, gib=peak_memory_gib(report.device),
                free_img_s=run.batch_size / free, graphs='none' if run.graphs is None else len(run.graphs),
                refused=run.graphs and run.graphs.refused)


def warm_up(report, run):
    """Iterations with all phases; with graphs until no new ones come."""
    from contextlib import nullcontext

    from train_step import iterate
    begin, known = time.monotonic(), []
    while len(known) < (1 if report.reduced else 2) or (
            run.graphs is not None and len(set(known[-12:])) > (len(known) >= 12) and time.monotonic() - begin < 15):
        iterate(run, lambda _: nullcontext())
        known.append(len(run.graphs or ()))


def seconds_of_iterations(run, clock, seconds):
    """Of one iteration, as in training; as many are made as there is time for."""
    from methods import NoTicks

    from training.training_loop import run_iteration
    run.stages[-1].end_nimg = 10 ** 9
    begin, number = clock(), 0
    while time.perf_counter() - begin < seconds:
        run_iteration(run, NoTicks())
        number += 1
    return (clock() - begin) / number


def check_launches(report):
    """Kernels that the profiler sees in each phase, beside those that count_launches.py counts; and which take the time."""
    title, res, options = SMALLEST[0] if report.reduced else PROFILED
    run = prepare(report, res, options)
    reals = [run.reals[0].next_batch()]
    counted = {} if report.reduced else launches_counted(res, options)
    seen, kernels, busy = {}, {}, 0.0
    for phase in run.phases:
        for event in events_of(report, run, phase, reals):
            seen[phase.name] = seen.get(phase.name, 0) + 1
            ms = (event.time_range.end - event.time_range.start) / 1e3 / phase.interval
            count, total = kernels.get(event.name, (0, 0.0))
            kernels[event.name] = count + 1 / phase.interval, total + ms
            busy += ms
    shares = {phase.name: phase.interval for phase in run.phases}
    report.row(f'launches/{title}', 'ok', ', '.join(
        f'{name} {num} seen' + (f', {counted[name] * shares[name]:.0f} counted' if name in counted else '')
        for name, num in seen.items()))
    report.data['kernels'] = sorted(((ms, num, name[:160]) for name, (num, ms) in kernels.items()), reverse=True)[:40]
    for ms, num, name in report.data['kernels'][:8]:
        report.row('launches/the longest', 'ok', f'{ms:.2f} of {busy:.2f} ms, {num:.0f} x {name[:110]}')


def launches_counted(res, options):
    """{part of an iteration: launches}, by a process that sees no GPU: the stand-in for one is for machines without."""
    code = ('import json, sys; from benchmarks import count_launches; res, *options = sys.argv[1:]; '
            'costs = count_launches.count(int(res), None, options); '
            'print(json.dumps({name: cost.total()[0] for name, cost in costs.items()}))')
    answer = subprocess.run([sys.executable, '-c', code, str(res), *options], capture_output=True, text=True, cwd=ROOT,
                            env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''})
    if answer.returncode:
        raise RuntimeError(f'count_launches: {answer.stderr[-300:]}')
    return json.loads(answer.stdout.strip().splitlines()[-1])


def events_of(report, run, phase, reals):
    """What ran on the device in a phase (on a CPU: what was called), the second time."""
    from torch.profiler import ProfilerActivity, profile

    from training.training_loop import run_phase
    run_phase(run, phase, reals, {})
    report.sync()
    cuda = report.device.type == 'cuda'
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        run_phase(run, phase, reals, {})
        report.sync()
    return [event for event in found.events() if not cuda or str(event.device_type).endswith('CUDA')]
