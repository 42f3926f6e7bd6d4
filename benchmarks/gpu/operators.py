"""The machine, the build, every operator against float64 on the CPU, and the sanitizer."""
import itertools
import math
import os
import shutil
import subprocess
import sys
import time

import torch

from gpu.report import ROOT, last_line, name_of

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}       # Of the largest value.
ODD = [2, 19, 11, 7]


def check_machine(report):
    """What it is, and the rates that everything else is to be compared with."""
    facts = report.data
    facts.update(torch=torch.__version__, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(), cores=os.cpu_count())
    for tool in ('nvcc', 'c++', 'ninja', 'compute-sanitizer'):
        facts[tool] = shutil.which(tool) or shutil.which(tool, path='/usr/local/cuda/bin')
    if report.device.type == 'cuda':
        p = torch.cuda.get_device_properties(0)
        facts.update(gpu=p.name, capability=f'{p.major}.{p.minor}', gib=round(p.total_memory / 2**30, 1),
                     gpus=torch.cuda.device_count())
    report.row('machine', 'ok', ', '.join(f'{key} {value}' for key, value in facts.items()))
    x = torch.zeros(1, device=report.device)
    facts['launch_us'] = report.seconds_of(lambda: x.add_(1)) * 1e6
    a = torch.empty(1 << (22 if report.reduced else 28), device=report.device)
    b = torch.empty_like(a)
    facts['copy_gb_s'] = 2 * a.nbytes / report.seconds_of(lambda: b.copy_(a)) / 1e9
    size = 256 if report.reduced else 8192
    for dtype in report.dtypes():
        m = torch.randn(size, size, device=report.device).to(dtype)
        facts[f'{name_of(dtype)}_tflops'] = 2 * size ** 3 / report.seconds_of(lambda m=m: m @ m) / 1e12
    report.row('machine/rates', 'ok', ', '.join(f'{key} {value:.3g}' for key, value in facts.items() if isinstance(value, float)))


def check_build(report):
    """Do the compiled operators build, load, and pass their trial?"""
    from torch_utils.ops import backend, build
    for library in ['cpu', 'cuda'] if report.device.type == 'cuda' else ['cpu']:
        begin = time.perf_counter()
        try:
            path = build.build(library)
        except build.Unavailable as reason:
            report.row(f'build/{library}', 'skip' if 'compiler' in str(reason) else 'FAIL', reason)
        else:
            report.row(f'build/{library}', 'ok', f'{time.perf_counter() - begin:.1f} s, {path.stat().st_size / 1e6:.1f} MB')
    reasons = list(filter(None, (backend.why_not(report.device.type, dtype) for dtype in report.dtypes())))
    report.row('build/trial', 'ok' if not reasons else 'skip' if 'compiler' in reasons[0] else 'FAIL', reasons[:1])


def check_ops(report):
    """Values, first and second derivatives of every operator: both back ends, all types, both memory formats."""
    from torch_utils.ops import backend
    reason = backend.why_not(report.device.type, torch.float32)
    if reason:
        report.row('ops/native', 'skip', reason)
    impls = ['reference'] if reason else ['reference', 'native']
    for title, (function, shapes) in cases().items():
        if not report.has_time(f'ops/{title}'):
            return
        for dtype in report.dtypes():
            with report.trying(f'ops/{title}'):
                check_op(report, title, function, inputs(shapes, dtype), dtype, impls)
    if report.device.type == 'cuda':
        for name, check in dict(streams=check_stream, large=check_large).items():
            if report.has_time(f'ops/{name}'):
                with report.trying(f'ops/{name}'):
                    check(report, impls[-1])


def cases():
    """{title: (function of tensors, their shapes)}, all of float inputs that lie away from kinks."""
    from torch_utils.ops import conv2d_gradfix, conv2d_resample, fma, scale_bias_act
    from torch_utils.ops.bias_act import activation_funcs, bias_act
    from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d
    from training.layers import modulated_conv2d
    f4, f12 = setup_filter([1, 3, 3, 1]), setup_filter([1, 2, -3, -4, 50, 80, 34, -7, -2, 4, 2, -8])
    f35 = setup_filter(torch.arange(15.).reshape(3, 5))

    def filtered(f, **kwargs):
        return lambda x: upfirdn2d(x, f.to(x.device), **kwargs)

    def resampled(**kwargs):
        return lambda x, w: conv2d_resample.conv2d_resample(x, w / 13, f=f4.to(x.device), **kwargs)

    def modulated(**kwargs):
        return lambda x, w, s, n: modulated_conv2d(x, w, s, noise=n, padding=1, **kwargs)

    return {
        'upfirdn2d filter': (filtered(f4, padding=(2, 1, 2, 1)), [ODD]),
        'upfirdn2d crop': (filtered(f4, padding=(-1, 3, 2, -2), flip_filter=True), [ODD]),
        'upfirdn2d up': (filtered(f4, up=2, padding=(2, 1, 2, 1), gain=4), [ODD]),
        'upfirdn2d down': (filtered(f4, down=2, padding=(2, 0, 1, 3)), [ODD]),
        'upfirdn2d wavelet up': (filtered(f12, up=2, padding=(6, 5, 6, 5), gain=4), [ODD]),
        'upfirdn2d wavelet down': (filtered(f12, down=2, padding=5, flip_filter=True), [[2, 3, 22, 18]]),
        'upfirdn2d any': (filtered(f35, up=(3, 1), down=(1, 2), padding=(-1, 3, 2, 2), gain=1.5), [ODD]),
        **{f'bias_act {act}': (lambda x, b, act=act: bias_act(x, b, act=act, gain=1.3, clamp=50), [ODD, [19]])
           for act in activation_funcs},
        'scale_bias_act': (lambda x, s, n, b: scale_bias_act.scale_bias_act(x, s, n, b, act='lrelu'),
                           [ODD, ODD[:2], [2, 1, 11, 7], [19]]),
        'fma': (fma.fma, [ODD, [2, 19, 1, 1], [2, 1, 11, 7]]),
        'conv2d': (lambda x, w: conv2d_gradfix.conv2d(x, w / 13, padding=1), [ODD, [5, 19, 3, 3]]),
        'conv2d groups': (lambda x, w: conv2d_gradfix.conv2d(x, w, stride=2, groups=2), [[2, 6, 11, 7], [4, 3, 3, 3]]),
        'conv_transpose2d': (lambda x, w: conv2d_gradfix.conv_transpose2d(x, w / 13, stride=2, padding=1), [ODD, [19, 5, 3, 3]]),
        'conv2d_resample up': (resampled(up=2, padding=1, flip_weight=False), [ODD, [8, 19, 3, 3]]),
        'conv2d_resample down': (resampled(down=2, padding=1), [ODD, [8, 19, 3, 3]]),
        'modulated_conv2d': (modulated(fused_modconv=False), [ODD, [8, 19, 3, 3], [2, 19], [2, 1, 11, 7]]),
        'modulated_conv2d fused': (modulated(fused_modconv=True), [ODD, [8, 19, 3, 3], [2, 19], [2, 1, 11, 7]]),
    }


def inputs(shapes, dtype):
    """Tensors that `dtype` can hold: the first, plus a quarter of the others, keeps away from 0."""
    generator = torch.Generator().manual_seed(1)
    first, *rest = (torch.randn(shape, generator=generator) for shape in shapes)
    return [x.to(dtype) for x in (first.sign() * (first.abs() + 0.6), *(x.clamp(-1, 1) / 4 for x in rest))]


def check_op(report, title, function, tensors, dtype, impls):
    """One row."""
    from torch_utils.ops import backend
    with backend.default('reference'):
        expected = derivatives(function, tensors, torch.float64, torch.device('cpu'), torch.contiguous_format)
    wrong, worst = [], 0.0
    for impl, layout in itertools.product(impls, (torch.contiguous_format, torch.channels_last)):
        with backend.default(impl):
            found = derivatives(function, tensors, dtype, report.device, layout)
        for key, value in expected.items():
            error = float((found[key] - value).abs().max() / value.abs().max().clamp(min=1e-3))
            tolerance = TOLERANCE[dtype] * (12 if key.startswith('d2') else 6 if key.startswith('d') else 2)
            worst = max(worst, error / tolerance if math.isfinite(error) else math.inf)
            if not error <= tolerance:
                wrong.append(f'{impl} {"last" if layout == torch.channels_last else "first"} {key}: {error:.2g}')
    report.row(f'ops/{title} {name_of(dtype)}', not wrong, f'worst at {worst:.2g} of the tolerance; {wrong[:3]}')


def derivatives(function, tensors, dtype, device, layout):
    """{name: tensor}: y, all first derivatives, and those of <dx, q> (q random) with respect to all and to dy."""
    leaves = [x.to(device, dtype).contiguous(memory_format=layout if x.ndim == 4 else torch.contiguous_format).requires_grad_()
              for x in tensors]
    y = function(*leaves)
    generator = torch.Generator().manual_seed(2)
    dy, q = (torch.randn(like.shape, generator=generator).to(tensors[0].dtype).to(device, dtype) for like in (y, leaves[0]))
    dy.requires_grad_()
    first = torch.autograd.grad(y, leaves, dy, create_graph=True, materialize_grads=True, allow_unused=True)
    second = torch.autograd.grad((first[0] * q).sum(), [dy, *leaves], allow_unused=True, materialize_grads=True)
    found = {'y': y, **{f'd{i}': g for i, g in enumerate(first)}, **{f'd2_{i}': g for i, g in enumerate(second)}}
    return {key: value.detach().cpu().double() for key, value in found.items()}


def check_stream(report, impl):
    """Operators run on torch's current stream: behind a long wait there, results must still be right."""
    from torch_utils.ops import backend
    from torch_utils.ops.bias_act import bias_act
    stream, x = torch.cuda.Stream(), torch.zeros(1, 1 << 20, device=report.device)
    with torch.cuda.stream(stream), backend.default(impl):
        torch.cuda._sleep(20_000_000)
        y = bias_act(x + 1, act='lrelu', gain=3)
    stream.synchronize()
    report.row('ops/streams', bool((y == 3).all()), impl)


def check_large(report, impl):
    """More than 2^31 elements: the last ones must be right."""
    from torch_utils.ops.bias_act import bias_act
    from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d
    if impl != 'native' or torch.cuda.mem_get_info()[0] < 24 * 2**30:
        report.row('ops/large', 'skip', 'for compiled operators with 24 GiB of free memory')
        return
    x = torch.randn(33, 64, 1024, 1024, dtype=torch.float16, device=report.device)         # 2.2e9 elements, 4.1 GiB.
    f = setup_filter([1, 3, 3, 1], report.device)
    for name, op in dict(bias_act=lambda x: bias_act(x, act='lrelu', impl='native'),
                         upfirdn2d=lambda x: upfirdn2d(x, f, down=2, padding=1, impl='native')).items():
        report.row(f'ops/large {name}', torch.equal(op(x)[-1:], op(x[-1:])), f'{x.numel() / 2**31:.2f} * 2^31 elements')


def check_sanitizer(report):
    """The trial of the kernels under compute-sanitizer."""
    tool = shutil.which('compute-sanitizer') or shutil.which('compute-sanitizer', path='/usr/local/cuda/bin')
    if tool is None or report.device.type != 'cuda':
        report.row('sanitizer', 'skip', 'no compute-sanitizer')
        return
    code = 'import torch; from torch_utils.ops import backend; print(backend.why_not("cuda", torch.float16))'
    for check in ('memcheck', 'racecheck'):
        if not report.has_time(f'sanitizer/{check}', 20):
            return
        options = ['--tool', check, '--error-exitcode', '9', '--kernel-name', 'kernel_substring=run_kernel']
        answer = subprocess.run([tool, *options, sys.executable, '-c', code],
                                capture_output=True, text=True, cwd=ROOT, timeout=report.left())
        found = [line for line in answer.stdout.splitlines() if 'SUMMARY' in line]
        report.row(f'sanitizer/{check}', answer.returncode == 0 if found else 'skip',
                   (found or [last_line(answer.stdout + answer.stderr)])[-1])
