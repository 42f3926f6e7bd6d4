"""Runs of train.py on the device: memory that runs out, process groups, every method, resuming, and the tools after it."""
import gc
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import torch

from benchmarks.timing import SMALL
from gpu.report import DATA, ROOT, last_line

METHODS = {
    'base': [], 'ggdr': ['--reg_type=ggdr', '--aug=ada'], 'genco': ['--reg_type=genco'],
    'tdgan': ['--reg_type=tdgan', f'--tdgan_data={DATA},{DATA}'], 'lecam apa': ['--reg_type=lecam,apa'],
    'osgan': ['--loss=osgan'], 'relativistic': ['--loss=relativistic'], 'diffaug': ['--aug=diffaug'],
    'accumulated': ['--batch=32', '--batch-gpu=8'], 'diggan': ['--reg_type=diggan'],
    'ada': ['--aug=fixed', '--p=0.4', '--augpipe=bgcfnc'], 'fp32': ['--precision=fp32'], 'bf16': ['--precision=bf16'],
    'nhwc tf32': ['--nhwc=1', '--allow-tf32=1'], 'plain operators': ['--ops=reference', '--aug=ada'],
}


def check_memory(report):
    """Memory that really runs out: the run goes on, without graphs, then with smaller micro-batches."""
    if report.device.type != 'cuda':
        report.row('memory', 'skip', 'the memory of a CPU')
        return
    for graphs in ('auto', 'off'):
        title = f'memory/graphs {graphs}'
        with report.trying(title):
            full, peak, _, _ = iterations_within(report, None, graphs)
            micro, less, finite, text = iterations_within(report, peak * 0.6, graphs)
            report.row(title, micro < full and finite, f'{full} images at once need {peak / 2**30:.1f} GiB; with 60 % of it: '
                       f'{micro} at once, {less / 2**30:.1f} GiB, {text}, weights finite: {finite}')


def iterations_within(report, limit, graphs):
    """(images at once, most bytes, are weights finite, what became of graphs) of three iterations with so much memory."""
    from methods import NoTicks
    from train_step import build

    from training.training_loop import run_iteration
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(limit / torch.cuda.get_device_properties(0).total_memory, 1) if limit else 1.0)
    torch.cuda.reset_peak_memory_stats()
    run = build(64, 8192, None, ['--cfg=auto', '--aug=noaug', '--batch=64', '--precision=fp32', '--ops=reference', '--nobench=1',
                                 f'--cuda-graphs={graphs}'])
    run.stages[-1].end_nimg = 10 ** 9
    for _ in range(3):
        run_iteration(run, NoTicks())
    report.sync()
    finite = all(bool(p.isfinite().all()) for player in run.game.players for p in player.module.parameters())
    text = 'without graphs'
    if run.graphs is not None:
        text = f'{len(run.graphs)} graphs, refused: {set(run.graphs.refused.values()) or "none"}'
    return run.micro_batch, torch.cuda.max_memory_allocated(), finite, text


def check_group(report):
    """A process group of one with the device's own backend, what the exchange costs besides the network; then two processes."""
    import torch.distributed as dist

    from torch_utils import distributed
    cuda = report.device.type == 'cuda'
    dist.init_process_group('cpu:gloo,cuda:nccl' if cuda else 'gloo', rank=0, world_size=1,
                            store=dist.FileStore(str(report.work / 'store'), 1))
    tensors = [torch.randn(512, 512, 3, 3, device=report.device) for _ in range(10 if cuda else 1)]
    tensors += [torch.randn(512, device=report.device) for _ in range(80)]
    before = tensors[0].clone()
    exchange = report.seconds_of(lambda: distributed._in_one_piece(tensors, dist.all_reduce))
    flat = torch.cat([t.flatten() for t in tensors])
    alone = report.seconds_of(lambda: dist.all_reduce(flat))
    flag = report.seconds_of(lambda: distributed.any(False), 0.02)
    report.row('group/one', torch.equal(before, tensors[0]), f'{flat.nbytes / 1e6:.0f} MB in {len(tensors)} tensors: exchange '
               f'{exchange * 1e3:.2f} ms, all_reduce alone {alone * 1e3:.2f} ms, the flag of every iteration {flag * 1e6:.0f} us')
    dist.destroy_process_group()
    if cuda and torch.cuda.device_count() < 2:
        report.row('group/two', 'skip', 'there is one GPU')
    elif not report.reduced:
        mark, text, _ = train(report, 'two', ['--gpus=2', '--kimg=4', '--aug=noaug'])
        report.row('group/two', mark, text)


def train(report, name, options):
    """(mark, text, run directory) of one run of train.py: does it end well, and do its statistics look like training?"""
    outdir = report.work / 'runs' / name.replace(' ', '-')
    where = [] if any('tdgan' in option for option in options) else [f'--data={DATA}']
    command = [sys.executable, 'train.py', f'--outdir={outdir}', f'--device={report.device.type}', *SMALL, '--metrics=none',
               '--log=none', '--workers=1', '--tick=0.5', '--snap=1000', *where, *options]
    log = outdir.with_suffix('.log')
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    with open(log, 'w') as file:        # Not a pipe: its own children would keep that open.
        try:
            status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT,
                                    timeout=max(report.left(), 1)).returncode
        except subprocess.TimeoutExpired:
            return 'slow', f'not through in time: {last_line(log.read_text(errors="replace"))}', None
    if status:
        return 'FAIL', f'status {status}: {last_line(log.read_text(errors="replace"))}', None
    run_dir = max(outdir.iterdir())
    rows = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    last = {key: value['mean'] for key, value in rows[-1].items() if isinstance(value, dict) and value['num']}
    skipped = sum((row.get('Progress/nonfinite_grads') or {}).get('mean') or 0 for row in rows)
    losses = {key[5:-5]: value for key, value in last.items() if key.startswith('Loss/') and key.endswith('/loss')}
    is_good = bool(losses) and skipped == 0 and all(math.isfinite(last[key]) for key in last if key.startswith('Loss/'))
    return 'ok' if is_good else 'FAIL', (
        f'{last["Progress/kimg"]:g} kimg in {time.monotonic() - begin:.0f} s, '
        f'{last.get("Timing/sec_per_kimg", math.nan):.2f} s/kimg, skipped steps {skipped:g}, '
        + ', '.join(f'{key} {value:.2f}' for key, value in losses.items())), run_dir


def check_training(report):
    """Every method for a hundred iterations and more, as a user starts it."""
    methods = {'base': METHODS['base']} if report.reduced else METHODS

    def one(item):
        name, options = item
        if not report.has_time(f'training/{name}', 12):
            return
        aug = [] if any(option.startswith('--aug=') for option in options) else ['--aug=noaug']
        mark, text, _ = train(report, name, [*options, *aug, f'--kimg={1 if report.reduced else 2}'])
        report.row(f'training/{name}', mark, text)
    with ThreadPoolExecutor(max(1, min(5, (os.cpu_count() or 2) // 3))) as pool:
        list(pool.map(one, methods.items()))


def check_resume(report):
    """A run that is stopped and continued: the same bits with --deterministic, how far off without."""
    exactly, freely = ['--deterministic=1', '--aug=noaug'], ['--aug=noaug']
    augmented = ['--deterministic=1', '--aug=fixed', '--p=0.4']
    pairs = {'the same run twice': (exactly, [2], [2]), 'deterministic': (exactly, [2], [1, 2]),
             'deterministic, augmented': (augmented, [2], [1, 2]), 'as users run it': (freely, [2], [1, 2])}
    with ThreadPoolExecutor(8) as pool:                 # Straight on; in two halves.
        states = {title: [pool.submit(final_state, report, f'{title} {side}', parts, way) for side, parts in enumerate(both)]
                  for title, (way, *both) in pairs.items()}
    for title, (first, second) in states.items():
        with report.trying(f'resume/{title}'):
            differing, largest = difference(first.result(), second.result())
            report.row(f'resume/{title}', not differing or pairs[title][0] is freely,
                       f'{len(differing)} tensors differ, by up to {largest:.2g} of their norm: {differing[:3]}')


def final_state(report, title, parts, options):
    """The state after a run of train.py that was continued after each of `parts` (kimg) but the last."""
    from torch_utils.state_file import load_state
    from training.run.states import saved_states
    run_dir = None
    for kimg in parts:
        goes_on = [] if run_dir is None else [f'--resume={run_dir}']
        _, text, run_dir = train(report, title, [f'--kimg={kimg}', *options, *goes_on])
        if run_dir is None:
            raise RuntimeError(text)
    return load_state(saved_states(run_dir)[0])[0]['run']


def difference(first, second, prefix=''):
    """(paths of what differs in two nested states, largest relative difference)."""
    if isinstance(first, torch.Tensor):
        if torch.equal(first, second):
            return [], 0.0
        return [prefix], float((first.double() - second.double()).norm() / first.double().norm().clamp(min=1e-12))
    if not isinstance(first, dict | list | tuple):
        return ([], 0.0) if first == second else ([prefix], 0.0)
    found = [difference(first[key], second[key], f'{prefix}/{key}')
             for key in (first if isinstance(first, dict) else range(len(first)))]
    return [path for paths, _ in found for path in paths], max((size for _, size in found), default=0.0)


def check_tools(report):
    """What draws, exports, projects and measures."""
    mark, text, run_dir = train(report, 'for tools', ['--kimg=1', '--aug=noaug'])
    if run_dir is None:
        report.row('tools', mark, text)
        return
    device = f'--device={report.device.type}'
    commands = {
        'generate': ['generate.py', '--seeds=0-63', '--grid=8x8', device],
        'style_mixing': ['style_mixing.py', '--rows=0,1', '--cols=2,3', '--styles=0-2', device],
        'video': ['video.py', '--seeds=0-3', '--frames=15', '--format=gif', device],
        'export': ['export.py', '--format=pt2'],
        'calc_metrics': ['calc_metrics.py', '--metrics=fd1k_efflite0', f'--data={DATA}', '--no-cache', device],
    }
    for name, (script, *options) in list(commands.items())[:1 if report.reduced else None]:
        if not report.has_time(f'tools/{name}', 8):
            return
        extra = [] if name == 'calc_metrics' else [f'--outdir={report.work / name}']
        command = [sys.executable, script, f'--network={run_dir}', *extra, *options]
        answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=max(report.left(), 5))
        text = answer.stdout + answer.stderr
        is_absent = answer.returncode and any(words in text for words in ('needs the extra', 'weights of', 'efficientnet'))
        report.row(f'tools/{name}', 'skip' if is_absent else answer.returncode == 0, last_line(text))
