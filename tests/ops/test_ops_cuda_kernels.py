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


def axes_of(x, f, up, down, padding):
    """(numbers that the kernels have of both axes, size of the result)."""
    axes, out = [], []
    for axis in (0, 1):
        u, d, before, after = pair(up)[axis], pair(down)[axis], padding[2 * axis], padding[2 * axis + 1]
        size, taps = x.shape[3 - axis], f.shape[1 - axis]
        out.append((size * u + before + after - taps) // d + 1)
        axes += [u, d, before, size, out[-1], taps]
    return (ctypes.c_int * 12)(*axes), [*x.shape[:2], *out[::-1]]


def on_host(
    host, x, f, up=1, down=1, padding=(0, 0, 0, 0), flip_filter=False, gain=1, general=False, base=None
):
    """(result of the kernel bodies, whether a strip kernel did it)."""
    layout = torch.channels_last if not x.is_contiguous() else torch.contiguous_format
    f = f.contiguous()
    axes, shape = axes_of(x, f, up, down, padding)
    y = torch.full(shape, float('nan'), dtype=x.dtype).contiguous(memory_format=layout)
    host.host_upfirdn2d.restype = ctypes.c_bool
    special = host.host_upfirdn2d(
        TYPES[x.dtype],
        axes,
        ctypes.c_int64(x.shape[0]),
        ctypes.c_int64(x.shape[1]),
        layout == torch.channels_last,
        flip_filter,
        ctypes.c_float(gain),
        pointer(x),
        pointer(f),
        pointer(y),
        pointer(base),
        general,
    )
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


@layouts
@dtypes
def test_another_image_is_added_to_what_is_filtered(host, dtype, layout):
    """By kernels for common filters, and by that for any."""
    for (shape, options), (channels, height, width) in itertools.product(
        [COMMON['up'], ((3, 5), COMMON['up'][1])], SIZES
    ):
        x, f = (
            torch.randn(2, channels, height, width).to(dtype).contiguous(memory_format=layout),
            torch.randn(shape),
        )
        expected = upfirdn2d(x.double(), f, impl='ref', **options)
        base = torch.randn_like(expected).to(dtype).contiguous(memory_format=layout)
        y, special = on_host(host, x, f, base=base, **options)
        assert special == (has_strips(x, shape) and shape == (4, 4))
        expected = expected + base.double()
        assert (y.double() - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


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


def arguments_of_layer(x, act, gain, clamp, noise):
    """(sizes, channels last, noise for each sample, numbers, activation), as the host's functions take them."""
    sizes = (ctypes.c_int64 * 3)(len(x), x.shape[1], x.shape[2] * x.shape[3])
    numbers = (ctypes.c_double * 3)(0.2, gain, float('nan') if clamp is None else clamp)
    return (
        sizes,
        not x.is_contiguous(),
        noise is not None and len(noise) == len(x),
        numbers,
        list(activation_funcs).index(act),
    )


def addresses(tensors):
    return (ctypes.c_void_p * len(tensors))(*map(pointer, tensors))


def layer_act_on_host(
    host, order, act, gain, clamp, images, scale=None, noise=None, strength=None, b=None, r=None
):
    """Order 0: the value; 1: (dx, sums [3, N, C]); 2: (for dy, for x, sums [1, N, C]). images: x, y, dy, base, q."""
    x, y, dy, base, q = map(images.get, ('x', 'y', 'dy', 'base', 'q'))
    like = next(t for t in (x, y, dy) if t is not None)
    sizes, last, own_noise, numbers, index = arguments_of_layer(like, act, gain, clamp, noise)
    host.host_layer_act.restype = ctypes.c_int64
    images, others = addresses([x, y, dy, base, q]), addresses([scale, noise, strength, b, r])
    out, out_x = (torch.full_like(like, float('nan')) for _ in range(2))

    def start(sums):
        results = addresses([out, out_x if order == 2 else None, sums])
        return host.host_layer_act(
            TYPES[like.dtype], order, sizes, last, own_noise, numbers, index, images, others, results
        )

    if order == 0:
        start(None)
        return out
    wide = torch.promote_types(like.dtype, torch.float32)
    sums = torch.full(
        [3 if order == 1 else 1, len(like), start(None), like.shape[1]], float('nan'), dtype=wide
    )
    start(sums)
    return (out, sums.sum(2)) if order == 1 else (out, out_x, sums.sum(2))


def layers(dtype, layout):
    """(images x, y, dy, base, q and parts that are there, of sizes with which packs of four fit and do not; whether noise is)."""
    wide = torch.promote_types(dtype, torch.float32)
    for number, size in enumerate(LAYER_SIZES):
        n, c, h, w = size
        images = {
            name: torch.randn(size).to(dtype).contiguous(memory_format=layout)
            for name in ('x', 'dy', 'base', 'q')
        }
        scale, noise, b = (torch.randn(shape).to(wide) for shape in ([n, c], [n if number % 2 else 1, 1, h, w], [c]))
        strength, scale = torch.tensor(0.5, dtype=wide), scale + scale.sign() / 2
        for parts in (dict(scale=scale, noise=noise, strength=strength, b=b), dict(b=b), dict(scale=scale)):
            yield images, parts


def argument_of(x, scale=None, noise=None, strength=None, b=None):
    """What the activation is applied to, in float64."""
    t = x.double() * (1 if scale is None else scale.double()[:, :, None, None])
    t = t if noise is None else t + noise.double() * strength.double()
    return t if b is None else t + b.double()[:, None, None]


def is_near(obtained, expected, tolerance):
    return (obtained.double() - expected).abs().max() <= tolerance * expected.abs().max()


ACTIVATIONS = pytest.mark.parametrize(
    'act, clamp', [('linear', None), ('lrelu', 0.7), ('lrelu', None), ('linear', 0.9)]
)


def rounded(clamp, dtype):
    """As the operators round it."""
    return clamp and torch.tensor(clamp, dtype=torch.float64).to(dtype).item()


@layouts
@dtypes
@ACTIVATIONS
def test_layer_act_kernels_compute_value_and_first_derivatives(host, act, clamp, dtype, layout):
    """Also where blocks and tiles overhang; slopes told from
    the value and from x, and x from the value."""
    tolerance, clamp = 4 * TOLERANCE[dtype], rounded(clamp, dtype)
    for images, parts in layers(dtype, layout):
        x, dy, base = images['x'], images['dy'], images['base']
        s, z = parts.get('scale'), parts.get('noise')
        expected = bias_act(argument_of(x, **parts), act=act, gain=1.3, clamp=clamp, impl='ref')
        y = layer_act_on_host(host, 0, act, 1.3, clamp, {'x': x}, **parts)
        assert is_near(y, expected, tolerance)
        assert is_near(
            layer_act_on_host(host, 0, act, 1.3, clamp, {'x': x, 'base': base}, **parts),
            expected + base,
            tolerance,
        )

        # Slopes are told from the rounded value, which is left out where all are the same.
        ref = y if act == 'lrelu' or clamp else None
        d = 1.3 * dy.double() * torch.where((y > 0) | (act == 'linear'), 1, 0.2)
        d *= y.double().abs() < (clamp or torch.inf)
        # Near the clamp x and the rounded value may disagree.
        edge = (expected.abs() - (clamp or torch.inf)).abs() < 1e-2
        for told in ({'x': x, 'y': ref}, {'x': x}, {'y': ref}):
            if ref is None and 'x' not in told or 'y' not in told and edge.any():
                continue
            dx, sums = layer_act_on_host(host, 1, act, 1.3, clamp, {'dy': dy, **told}, **parts)
            assert is_near(dx, d * (1 if s is None else s.double()[:, :, None, None]), tolerance)
            first = x.double() if 'x' in told or s is not None else torch.zeros_like(d)
            for place, other in enumerate(
                (first, torch.ones_like(d), d * 0 if z is None else z.expand_as(d).double())
            ):
                # x is as exact as the value that it is told from.
                enough = 1e-5 if 'x' in told or place else 60 * TOLERANCE[dtype] + 1e-5
                most = (d * other).abs().sum([2, 3]).max() + (0 if 'x' in told else d.abs().sum([2, 3]).max())
                assert (sums[place].double() - (d * other).sum([2, 3])).abs().max() <= enough * most


@layouts
@dtypes
@ACTIVATIONS
def test_layer_act_kernels_compute_second_derivatives(host, act, clamp, dtype, layout):
    """Against those of the formula, in which slopes are constants."""
    tolerance, clamp = 4 * TOLERANCE[dtype], rounded(clamp, dtype)
    for images, parts in layers(dtype, layout):
        x, dy, q = (images[name].double().requires_grad_() for name in ('x', 'dy', 'q'))
        y = layer_act_on_host(host, 0, act, 1.3, clamp, {'x': images['x']}, **parts)
        slope = 1.3 * torch.where((y > 0) | (act == 'linear'), 1.0, 0.2).double()
        slope = slope * (y.double().abs() < (clamp or torch.inf))
        scale = parts.get('scale', torch.ones(x.shape[:2])).double().requires_grad_()
        r = torch.randn(3, *x.shape[:2]).to(torch.promote_types(dtype, torch.float32))
        d, z = dy * slope, parts['noise'].double() if 'noise' in parts else 0
        sums = torch.stack(
            [(d * other).sum([2, 3]) for other in (x, torch.ones_like(x), z + torch.zeros_like(x))]
        )
        expected = torch.autograd.grad(
            (d * scale[:, :, None, None] * q).sum() + (sums * r).sum(), (dy, x, scale)
        )
        told = {'x': images['x'], 'y': y, 'dy': images['dy'], 'q': images['q']}
        d_dy, d_x, d_scale = layer_act_on_host(host, 2, act, 1.3, clamp, told, **parts, r=r)
        assert is_near(d_dy, expected[0], tolerance) and is_near(d_x, expected[1], tolerance)
        assert (d_scale[0].double() - expected[2]).abs().max() <= 1e-5 * (d * q).abs().sum([2, 3]).max()


def joint_on_host(
    host, kind, x, f, padding, act, gain, clamp, scale=None, noise=None, strength=None, b=None, to=None
):
    """(result, whether there is a kernel): 0: layer_act after a filter; 1: an activation before one; 2: what that one's
    gradient x becomes for what was activated, `to`, and its sums [N, C]."""
    axes, shape = axes_of(x, f, 1, 1, padding)
    y = torch.full(shape, float('nan'), dtype=x.dtype).contiguous(
        memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)
    sizes, _, own_noise, numbers, index = arguments_of_layer(x if kind == 1 else y, act, gain, clamp, noise)
    host.host_joint.restype = ctypes.c_bool
    host.host_slope_tiles.restype = ctypes.c_int64
    tiles = host.host_slope_tiles(
        axes, ctypes.c_int64(shape[0]), ctypes.c_int64(shape[1]), not x.is_contiguous()
    )
    sums = torch.full(
        [shape[0], tiles, shape[1]], float('nan'), dtype=torch.promote_types(x.dtype, torch.float32)
    )
    images = [x, None, None, None, None] if kind < 2 else [to, None, x, None, None]
    special = host.host_joint(
        TYPES[x.dtype],
        kind,
        axes,
        sizes,
        not x.is_contiguous(),
        own_noise,
        True,
        ctypes.c_float(1.7),
        numbers,
        index,
        pointer(f),
        *map(addresses, (images, [scale, noise, strength, b, None], [y, None, sums])),
    )
    return y if kind < 2 else (y, sums.sum(1)), special


@layouts
@dtypes
@ACTIVATIONS
def test_activations_beside_a_filter(host, act, clamp, dtype, layout):
    """In the kernel of the filter; no bias on what lies outside of the image."""
    tolerance, clamp, f = 4 * TOLERANCE[dtype], rounded(clamp, dtype), torch.randn(4, 4)
    wide, padding = torch.promote_types(dtype, torch.float32), (2, 1, 3, 2)
    filtered = functools.partial(upfirdn2d, f=f, padding=padding, flip_filter=True, gain=1.7, impl='ref')
    for number, (channels, height, width) in enumerate(SIZES):
        x = torch.randn(2, channels, height, width).to(dtype).contiguous(memory_format=layout)
        shape = filtered(x).shape
        parts = {'scale': torch.randn(shape[:2]), 'noise': torch.randn(1 + number % 2, 1, *shape[2:]),
                 'strength': torch.tensor(0.5), 'b': torch.randn(channels)}
        parts = {name: part.to(wide) for name, part in parts.items()}
        for some in (parts, {'scale': parts['scale']}):
            y, special = joint_on_host(host, 0, x, f, padding, act, 1.3, clamp, **some)
            assert special == has_strips(x, (4, 4))
            if special:
                expected = bias_act(
                    argument_of(filtered(x.double()), **some), act=act, gain=1.3, clamp=clamp, impl='ref'
                )
                assert is_near(y, expected, tolerance)
        for some in ({'b': parts['b']}, {}):
            y, special = joint_on_host(host, 1, x, f, padding, act, 1.3, clamp, **some)
            assert special == has_strips(x, (4, 4))
            if special:
                expected = filtered(
                    bias_act(argument_of(x, **some), act=act, gain=1.3, clamp=clamp, impl='ref')
                )
                assert is_near(y, expected, tolerance)
            to = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
            (d, sums), special = joint_on_host(host, 2, x, f, padding, act, 1.3, clamp, **some, to=to)
            assert special == has_strips(x, (4, 4))
            if special:
                value = bias_act(argument_of(to, **some), act=act, gain=1.3, clamp=clamp, impl='ref')
                slope = 1.3 * torch.where((value > 0) | (act == 'linear'), 1, 0.2)
                slope = slope * (value.abs() < (clamp or torch.inf))
                expected = filtered(x.double()) * slope
                assert is_near(d, expected, tolerance)
                most = expected.abs().sum([2, 3]).max()
                assert (sums.double() - expected.sum([2, 3])).abs().max() <= 1e-5 * most


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
