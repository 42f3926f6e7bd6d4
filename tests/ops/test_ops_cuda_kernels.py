"""The CUDA kernels without a GPU: they compile for old and new architectures without
a warning, and their bodies, run on the host thread by thread, compute what the plain
operators compute. Nothing here has run on a GPU; see docs/operators.md.
"""
import ctypes
import functools
import itertools
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from torch_utils.ops import build
from torch_utils.ops.bias_act import activation_funcs, bias_act
from torch_utils.ops.upfirdn2d import upfirdn2d

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
# Largest error of a result in units of its largest magnitude: one rounding, and what adding in float32 costs.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 2e-7, torch.bfloat16: 4.5e-3, torch.float16: 6e-4}
LAYOUTS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
layouts = pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
dtypes = pytest.mark.parametrize('dtype', TYPES, ids=str)


@functools.cache
def gpu_architectures():
    answer = subprocess.run([build.find_nvcc(), '--list-gpu-arch'], capture_output=True, text=True, check=True)
    return sorted({int(line.split('_')[1]) for line in answer.stdout.split()})


SOURCES = pytest.mark.parametrize('source', ['upfirdn2d.cu', 'bias_act.cu', 'layer_act.cu'])


def compile_for(architecture, source, directory, *, as_users_do):
    """As users build it, or, in a quarter of the time, without a look at how to make it fast."""
    code, speed = (f'sm_{architecture}', []) if as_users_do else (f'compute_{architecture}', ['-Xcicc', '-O0'])
    command = [build.find_nvcc(), '-std=c++17', '-O1', '-Werror', 'all-warnings', *speed,
               f'-gencode=arch=compute_{architecture},code={code}', '-cubin' if as_users_do else '-ptx',
               '-o', directory / 'kernels', build.SOURCE_DIR / source]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0 and not answer.stderr.strip(), answer.stdout + answer.stderr


needs_nvcc = pytest.mark.skipif(build.find_nvcc() is None, reason='no nvcc on this machine')


@needs_nvcc
@SOURCES
def test_kernels_compile_without_warnings(source, tmp_path):
    compile_for(gpu_architectures()[-1 if source == 'bias_act.cu' else 0], source, tmp_path, as_users_do=False)


@needs_nvcc
@pytest.mark.slow
@SOURCES
def test_kernels_compile_without_warnings_for_every_architecture(source, tmp_path):
    for architecture in gpu_architectures():
        compile_for(architecture, source, tmp_path, as_users_do=True)


@needs_nvcc
def test_the_binding_compiles_without_warnings():
    """Also torch for CPUs brings its CUDA headers along,
    but for one of macros, which the definition replaces."""
    includes = [build.torch_include(), build.cuda_home(build.find_nvcc()) / 'include']
    if not (includes[0] / 'c10/cuda/CUDAStream.h').exists() or not (includes[1] / 'cuda_runtime_api.h').exists():
        pytest.skip('no CUDA headers on this machine')
    command = [build.find_compiler(), '-std=c++20', '-Wall', '-Werror', '-fsyntax-only',
               '-DC10_USING_CUSTOM_GENERATED_MACROS', *(f'-isystem{path}' for path in includes),
               build.SOURCE_DIR / 'bindings_cuda.cpp']
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


@pytest.fixture(scope='module')
def host(tmp_path_factory):
    """The kernel bodies as a library for the host."""
    try:
        cxx = build.find_compiler()
    except build.Unavailable as reason:
        pytest.skip(str(reason))
    path = tmp_path_factory.mktemp('host') / 'host.so'
    source = Path(__file__).parent / 'ops_host.cpp'
    flags = ['-std=c++20', '-O1', '-fPIC', '-shared', f'-I{build.SOURCE_DIR}']
    subprocess.run([cxx, *flags, source, '-o', path], check=True)
    return ctypes.CDLL(path)


def pointer(tensor):
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def pair(value):
    return (value, value) if isinstance(value, int) else value


def on_host(host, x, f, up=1, down=1, padding=(0, 0, 0, 0), flip_filter=False, gain=1, general=False):
    """(result of the kernel bodies, whether a strip kernel did it)."""
    layout = torch.channels_last if not x.is_contiguous() else torch.contiguous_format
    f = f.contiguous()
    axes, out = [], []
    for axis in (0, 1):
        u, d, before, after = pair(up)[axis], pair(down)[axis], padding[2 * axis], padding[2 * axis + 1]
        size, taps = x.shape[3 - axis], f.shape[1 - axis]
        out.append((size * u + before + after - taps) // d + 1)
        axes += [u, d, before, size, out[-1], taps]
    y = torch.full([*x.shape[:2], *out[::-1]], float('nan'), dtype=x.dtype).contiguous(memory_format=layout)
    host.host_upfirdn2d.restype = ctypes.c_bool
    special = host.host_upfirdn2d(
        TYPES[x.dtype], (ctypes.c_int * 12)(*axes), ctypes.c_int64(x.shape[0]), ctypes.c_int64(x.shape[1]),
        layout == torch.channels_last, flip_filter, ctypes.c_float(gain), pointer(x), pointer(f), pointer(y), general)
    return y, special


def check(obtained, x, f, **options):
    expected = upfirdn2d(x.double(), f, impl='ref', **options)
    assert (obtained.double() - expected).abs().max() <= TOLERANCE[x.dtype] * expected.abs().max()


SIZES = (3, 5, 7), (4, 4, 4), (8, 6, 8), (20, 3, 9), (64, 5, 6), (5, 18, 35), (16, 17, 33), (2, 40, 70)
COMMON = {
    'fir': ((4, 4), {'padding': (2, 2, 2, 2)}),
    'up': ((4, 4), {'up': 2, 'padding': (2, 1, 2, 1), 'gain': 4}),
    'down': ((4, 4), {'down': 2, 'padding': (1, 1, 1, 1)}),
    'up_crop_flip': ((4, 4), {'up': 2, 'padding': (-3, 4, 1, -2), 'flip_filter': True}),
    'wavelet_up_x': ((1, 12), {'up': (2, 1), 'padding': (6, 5, 0, 0)}),
    'wavelet_up_y': ((12, 1), {'up': (1, 2), 'padding': (0, 0, 6, 5)}),
    'wavelet_down_x': ((1, 12), {'down': (2, 1), 'padding': (5, 5, 0, 0)}),
    'wavelet_down_y': ((12, 1), {'down': (1, 2), 'padding': (0, 0, 5, 5)}),
}


def has_strips(x, shape):
    """Is there a kernel for common filters that takes these images?"""
    in_fours = 1 not in shape and x.shape[1] % 4 == 0
    return x.dtype != torch.float64 and (in_fours or x.is_contiguous())


@layouts
@dtypes
@pytest.mark.parametrize('shape, options', COMMON.values(), ids=COMMON)
def test_strip_kernels_compute_what_plain_operators_do(host, shape, options, dtype, layout):
    """Sizes below, at and above those of a strip and of a
    block of threads, so that strips overhang on every side."""
    f = torch.randn(shape)
    for channels, height, width in SIZES:
        x = torch.randn(2, channels, height, width).to(dtype).contiguous(memory_format=layout)
        y, special = on_host(host, x, f, **options)
        assert special == has_strips(x, shape)
        check(y, x, f, **options)


@dtypes
@pytest.mark.parametrize('layout, start', [(torch.contiguous_format, 1), (torch.channels_last, 1), (torch.channels_last, 4)],
                         ids=['contiguous', 'channels_last', 'channels_last_in_place'])
def test_images_may_begin_anywhere_in_memory(host, layout, start, dtype):
    """A pack of four is read only from where it may stand."""
    f, options = torch.randn(4, 4), {'padding': (2, 1, 2, 1)}
    memory = torch.randn(start + 2 * 8 * 6 * 7).to(dtype)
    x = memory[start:].view(2, 6, 7, 8).permute(0, 3, 1, 2) if layout == torch.channels_last else memory[start:].view(2, 8, 6, 7)
    y, special = on_host(host, x, f, **options)
    assert special == (dtype != torch.float64 and (x.is_contiguous() or start % 4 == 0))
    check(y, x, f, **options)


@layouts
@dtypes
def test_the_general_kernel_computes_what_plain_operators_do(host, dtype, layout):
    x = torch.randn(2, 5, 9, 11).to(dtype).contiguous(memory_format=layout)
    geometries = itertools.product([1, (3, 2)], [1, (2, 3)], [(3, 4, 4, 3), (-2, 5, 6, -1)], [False, True])
    for up, down, padding, flip_filter in geometries:
        f = torch.randn(3, 5)
        options = {'up': up, 'down': down, 'padding': padding, 'flip_filter': flip_filter, 'gain': 1.5}
        y, special = on_host(host, x, f, **options)
        assert not special
        check(y, x, f, **options)


@layouts
def test_the_general_and_the_strip_kernels_agree(host, layout):
    x = torch.randn(1, 16, 9, 33).contiguous(memory_format=layout)
    for shape, options in COMMON.values():
        f = torch.randn(shape)
        general, _ = on_host(host, x, f, general=True, **options)
        torch.testing.assert_close(general, on_host(host, x, f, **options)[0], rtol=1e-5, atol=1e-5)


def bias_act_on_host(host, order, q, dy, ref, b, act, inner, gain, clamp):
    out = torch.full_like(ref, float('nan'))
    sizes = (ctypes.c_int64 * 3)(ref.numel(), inner, 1 if b is None else b.numel())
    numbers = (ctypes.c_double * 3)(0.2, gain, float('nan') if clamp is None else clamp)
    tensors = [pointer(t) for t in (q, dy, ref, b, out)]
    host.host_bias_act(TYPES[ref.dtype], order, sizes, numbers, list(activation_funcs).index(act), *tensors)
    return out


@layouts
@dtypes
@pytest.mark.parametrize('act', activation_funcs)
def test_bias_act_kernels_compute_value_and_derivatives(host, act, dtype, layout):
    x = torch.randn(3, 7, 9, 11).to(dtype).contiguous(memory_format=layout)         # More than one block, with a tail.
    b, v, q = torch.randn(7).to(dtype), torch.randn_like(x), torch.randn_like(x)
    x += x == -b[:, None, None]             # At 0 some activations have a kink, where each may choose a slope.
    inner = 1 if layout == torch.channels_last else 99
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.05, torch.float16: 6e-3}[dtype]
    for gain, clamp in ((1.3, None), (0.8, 0.7)):
        xd, bd, vd = (t.double().requires_grad_() for t in (x, b, v))
        y = bias_act(xd, bd, act=act, gain=gain, clamp=clamp, impl='ref')
        slope, = torch.autograd.grad(y, xd, torch.ones_like(y), retain_graph=True)
        dx, = torch.autograd.grad(y, xd, vd, create_graph=True)
        d2x, = torch.autograd.grad(dx, xd, q.double(), allow_unused=True, materialize_grads=True)
        value = bias_act_on_host(host, 0, None, None, x, b, act, inner, gain, clamp)
        torch.testing.assert_close(value.double(), y, rtol=tolerance, atol=tolerance)

        # Derivatives from the saved tensor, for which the exact one stands in.
        ref, bias = (x, b) if act == 'swish' else (y.detach().to(dtype), None)
        near_clamp = ((y.abs() - clamp).abs() < tolerance) if clamp else torch.zeros_like(y, dtype=torch.bool)
        first = bias_act_on_host(host, 1, None, v, ref, bias, act, inner, gain, clamp).double()
        second = bias_act_on_host(host, 2, q, v, ref, bias, act, inner, gain, clamp).double()
        if act != 'swish':                                          # Then it is the derivative with respect to y.
            second = second * slope
        for obtained, expected in ((first, dx), (second, d2x)):
            obtained = obtained.where(~near_clamp, expected)
            torch.testing.assert_close(obtained, expected, rtol=tolerance, atol=3 * tolerance)


LAYER_SIZES = (3, 7, 1, 1), (2, 20, 4, 4), (2, 3, 5, 7), (1, 64, 9, 12), (2, 96, 20, 31), (1, 5, 70, 90), (3, 513, 1, 2)


def layer_act_on_host(host, images, others, act, gain, clamp, derivatives):
    """The value, or (dx, sums [3, N, C])."""
    x = images[0]
    sizes = (ctypes.c_int64 * 3)(len(x), x.shape[1], x.shape[2] * x.shape[3])
    numbers = (ctypes.c_double * 3)(0.2, gain, float('nan') if clamp is None else clamp)
    host.host_layer_act.restype = ctypes.c_int64
    out = torch.full_like(x, float('nan'))
    arguments = [TYPES[x.dtype], sizes, not x.is_contiguous(), others[1] is not None and len(others[1]) == len(x), numbers,
                 list(activation_funcs).index(act), (ctypes.c_void_p * 3)(*map(pointer, images)),
                 (ctypes.c_void_p * 4)(*map(pointer, others)), pointer(out)]
    if not derivatives:
        host.host_layer_act(*arguments, None, False)
        return out
    tiles = host.host_layer_act(*arguments, None, True)
    sums = torch.full([3, len(x), tiles, x.shape[1]], float('nan'), dtype=torch.promote_types(x.dtype, torch.float32))
    host.host_layer_act(*arguments, pointer(sums), True)
    return out, sums.sum(2)


@layouts
@dtypes
@pytest.mark.parametrize('act, clamp', [('linear', None), ('lrelu', 0.7), ('lrelu', None), ('linear', 0.9)])
def test_layer_act_kernels_compute_value_and_first_derivatives(host, act, clamp, dtype, layout):
    """Sizes with which packs of four fit and do not, and
    blocks and tiles overhang; parts that are left out."""
    wide = torch.promote_types(dtype, torch.float32)
    tolerance = 4 * TOLERANCE[dtype]
    clamp = clamp and torch.tensor(clamp, dtype=torch.float64).to(dtype).item()     # As the operators round it.
    for number, size in enumerate(LAYER_SIZES):
        n, c, h, w = size
        x, dy = (torch.randn(size).to(dtype).contiguous(memory_format=layout) for _ in range(2))
        scale, noise, b = (torch.randn(shape).to(wide) for shape in ([n, c], [n if number % 2 else 1, 1, h, w], [c]))
        for parts in ((scale, noise, torch.tensor(0.5, dtype=wide), b), (None, None, None, b), (scale, None, None, None)):
            s, z, strength, bias = (None if t is None else t.double() for t in parts)
            t = x.double() * (1 if s is None else s[:, :, None, None])
            t = t + (0 if z is None else z * strength) + (0 if bias is None else bias[:, None, None])
            expected = bias_act(t, act=act, gain=1.3, clamp=clamp, impl='ref')
            y = layer_act_on_host(host, (x, None, None), parts, act, 1.3, clamp, derivatives=False)
            assert (y.double() - expected).abs().max() <= tolerance * expected.abs().max()

            # Slopes are told from the rounded value, which is left out where all are the same.
            ref = y if act == 'lrelu' or clamp else None
            d = 1.3 * dy.double() * torch.where((y > 0) | (act == 'linear'), 1, 0.2)
            d *= y.double().abs() < (clamp or torch.inf)
            dx, sums = layer_act_on_host(host, (x, ref, dy), parts, act, 1.3, clamp, derivatives=True)
            expected = d * (1 if s is None else s[:, :, None, None])
            assert (dx.double() - expected).abs().max() <= tolerance * expected.abs().max()
            for obtained, product in zip(sums, (d * x.double(), d, d * (0 if z is None else z))):
                assert (obtained.double() - product.sum([2, 3])).abs().max() <= 1e-5 * product.abs().sum([2, 3]).max()


def test_half_precision_conversions_agree_with_torch(host):
    """Every float16 and bfloat16, everything halfway between
    two of them, its neighbours, and what overflows."""
    for bfloat16, dtype in ((False, torch.float16), (True, torch.bfloat16)):
        halves = torch.arange(-2 ** 15, 2 ** 15, dtype=torch.int32).to(torch.int16).view(dtype).float()
        halves = halves[halves.isfinite()].sort().values
        middle = ((halves[1:].double() + halves[:-1].double()) / 2).float()
        beside = [middle.nextafter(torch.tensor(to)) for to in (-torch.inf, torch.inf)]
        edges = torch.tensor([65519.9, 65520., 1e30, 3.4e38, 1e-30, -0., torch.inf, -torch.inf, torch.nan])
        values = torch.cat([halves, middle, *beside, edges])
        narrowed, widened = torch.empty(len(values), dtype=torch.int16), torch.empty(len(values))
        host.host_convert(bfloat16, pointer(values), pointer(narrowed), pointer(widened), ctypes.c_int64(len(values)))
        np.testing.assert_array_equal(widened.numpy(), values.to(dtype).float().numpy())
        np.testing.assert_array_equal(narrowed.view(dtype).float().numpy(), values.to(dtype).float().numpy())
