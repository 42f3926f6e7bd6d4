"""The kernels that NVRTC compiles: beside those of nvcc in one process, then alone, as on a machine without any compiler."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from gpu.report import ROOT, last_line, name_of

ALONE = {'DNNLIB_OPS_CUDA': 'nvrtc', 'CXX': 'no-compiler'}      # Schemas and derivatives are Python's, too.
PARTS = {'ops': 100, 'graphs': 100}                             # Seconds.


def check_nvrtc(report):
    """Values and speed beside nvcc's kernels; then operators and graphs of training without them."""
    if report.device.type != 'cuda':
        report.row('nvrtc', 'skip', 'for CUDA')
        return
    with report.trying('nvrtc/beside'):
        check_beside(report)
    for name, seconds in PARTS.items():
        if report.has_time(f'nvrtc/{name}', 25):
            check_part(report, name, min(seconds, report.left() - 5))


def check_beside(report):
    """Do both give the same bits, and how long does a call take the card, and the host?"""
    from torch_utils.ops import backend, launched, nvrtc
    begin = time.perf_counter()
    start = nvrtc.starter()
    report.row('nvrtc/load', 'ok', f'{time.perf_counter() - begin:.1f} s, of which compiling is once')
    reason = backend.why_not('cuda', torch.float16)
    if reason or nvrtc.is_declared_here():
        report.row('nvrtc/beside', 'skip', reason or 'no kernels of nvcc here')
        return
    for dtype in report.dtypes():
        for size, x in {'small': torch.randn(16, 64, 8, 8), 'large': torch.randn(32, 64, 256, 256)}.items():
            x = x.to(report.device, dtype).contiguous(memory_format=torch.channels_last)
            for name, arguments in calls(x).items():
                ours = getattr(launched, name)
                native = getattr(torch.ops.stylegan2_loss_zoo, name)
                first, second = native(*arguments), ours(start, *arguments)
                same = all(map(torch.equal, *(t if isinstance(t, tuple) else (t,) for t in (first, second))))
                seconds = [report.seconds_of(f, 0.05) for f in (lambda: native(*arguments), lambda: ours(start, *arguments))]  # noqa: B023
                report.row(f'nvrtc/{name} {name_of(dtype)} {size}', same,
                           f'{seconds[0] * 1e6:.1f} us by nvcc, {seconds[1] * 1e6:.1f} us by NVRTC')


def calls(x):
    """{operator: arguments} for images like x."""
    wide = torch.promote_types(x.dtype, torch.float32)
    n, c, h, w = x.shape
    scale, noise, b = (torch.randn(shape, device=x.device, dtype=wide) for shape in ((n, c), (n, 1, h, w), (c,)))
    strength, f = torch.tensor(0.5, device=x.device, dtype=wide), torch.randn(4, 4, device=x.device)
    options = 2, 0.2, 2 ** 0.5, 256.0
    r, place = torch.ones([3, n, c], device=x.device, dtype=wide), (f, [2, 1, 2, 1], False, 4.0)
    return {'layer_act': (x, scale, noise, strength, b, x, *options),
            'layer_act_grad': (x, x, x, scale, noise, strength, b, *options),
            'layer_act_grad2': (x, r, x, x, x, scale, noise, strength, b, *options),
            'act_filter': (x, b, *place, *options), 'act_filter_grad': (x, x, b, *place, *options),
            'filter_layer_act': (x, *place, scale, noise, strength, b, *options),
            'upfirdn2d': (x, f, [2, 2], [1, 1], [2, 1, 2, 1], False, 4.0)}


def check_part(report, name, seconds):
    """Another part of the check, in a process that has only NVRTC."""
    result = Path(report.work, f'nvrtc-{name}.json')
    command = [sys.executable, ROOT / 'benchmarks' / 'gpu_check.py', f'--part={name}', f'--result={result}',
               f'--seconds={seconds:.0f}', f'--device={report.device.type}', f'--work={report.work}',
               *(['--reduced'] if report.reduced else [])]
    try:
        answer = subprocess.run(command, env=os.environ | ALONE, capture_output=True, text=True, timeout=seconds + 5)
    except subprocess.TimeoutExpired:
        report.row(f'nvrtc/{name}', 'slow', f'stopped at its limit of {seconds:.0f} s')
        answer = None
    rows = json.loads(result.read_text())['rows'] if result.exists() else []
    for title, mark, text in rows:
        report.row(f'nvrtc/{title}', mark, text)
    if answer is not None and answer.returncode:
        report.row(f'nvrtc/{name}', 'FAIL', last_line(answer.stdout + answer.stderr))
