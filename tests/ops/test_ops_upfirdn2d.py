"""Resampling: fixtures, the definition written out as a
sum, derivatives, dtypes, layouts, sizes, refusals."""
import itertools

import pytest
import torch
from fixture_data import case_ids
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops import upfirdn2d as ops
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

# Largest error of one result, in units of the sum of the magnitudes of its terms.
TOLERANCE = {torch.float64: 2e-7, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}

GEOMETRIES = {
    'same': {'padding': (1, 2, 2, 1)},
    'up': {'up': 2, 'padding': (2, 1, 2, 1), 'gain': 4},
    'down': {'down': 2, 'padding': 1},
    'up_down': {'up': (3, 2), 'down': (2, 3), 'padding': (4, 3, 2, 5)},
    'one_axis_each': {'up': (2, 1), 'down': (1, 2), 'padding': (3, 0, 0, 3)},
    'crop': {'up': 2, 'padding': (-3, -1, 0, -2)},
    'far_padding': {'up': 3, 'down': 2, 'padding': (9, 7, 8, 6)},
    'down_crop_flip': {'down': 3, 'padding': (-1, 2, 2, -1), 'flip_filter': True},
}
geometries = pytest.mark.parametrize('geometry', GEOMETRIES.values(), ids=GEOMETRIES)


def by_definition(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1):
    """upfirdn2d as the sum that defines it, y(o) = sum over k of h(k) z(o D + k - p0), in float64."""
    f = torch.ones(1, 1) if f is None else f
    if f.ndim == 1:
        f = f.double().outer(f.double())
    f = f.double() * gain
    h = f if flip_filter else f.flip([0, 1])
    ux, uy = (up, up) if isinstance(up, int) else up
    dx, dy = (down, down) if isinstance(down, int) else down
    pads = [padding] * 4 if isinstance(padding, int) else list(padding)
    left, right, top, bottom = pads if len(pads) == 4 else [pads[0], pads[0], pads[1], pads[1]]
    fh, fw = h.shape
    height, width = x.shape[2:]
    out_h = (height * uy + top + bottom - fh) // dy + 1
    out_w = (width * ux + left + right - fw) // dx + 1
    y = torch.zeros(*x.shape[:2], out_h, out_w, dtype=torch.float64)
    for oy, ox, ky, kx in itertools.product(range(out_h), range(out_w), range(fh), range(fw)):
        v, u = oy * dy + ky - top, ox * dx + kx - left
        if v % uy == 0 and u % ux == 0 and 0 <= v // uy < height and 0 <= u // ux < width:
            y[:, :, oy, ox] += h[ky, kx] * x[:, :, v // uy, u // ux].double()
    return y


@pytest.mark.parametrize('case', case_ids('01a_setup_filter'))
def test_setup_filter_agrees_with_the_fixture(case):
    options = dict(case.config)
    taps = None if options.pop('taps') == 'none' else case.inputs['taps']
    f = setup_filter(taps, **options)
    assert f.dtype == torch.float32
    case.check('f', f)
    case.check('ndim', torch.tensor(f.ndim))


def check_derivatives(case, op):
    """Compares y, grad_x and second_x, as the fixtures define them."""
    x, v = case.input('x').requires_grad_(), case.input('v')
    y = op(x)
    grad_x, = torch.autograd.grad((v * y).sum(), x, retain_graph=True)
    g, = torch.autograd.grad(0.5 * (v * y * y).sum(), x, create_graph=True)
    second_x, = torch.autograd.grad((g * g).sum(), x)
    for name, value in {'y': y, 'grad_x': grad_x, 'second_x': second_x}.items():
        case.check(name, value)


@pytest.mark.parametrize('case', case_ids('01b_upfirdn2d'))
def test_upfirdn2d_agrees_with_the_fixture(case):
    options = {key: value for key, value in case.config.items() if key != 'filter'}
    check_derivatives(case, lambda x: upfirdn2d(x, case.input('f'), impl='ref', **options))


@pytest.mark.parametrize('case', case_ids('01c_filter_up_down'))
def test_filter_up_and_downsampling_agree_with_the_fixture(case):
    options = {key: value for key, value in case.config.items() if key not in ('filter', 'op')}
    check_derivatives(case, lambda x: getattr(ops, case.config['op'])(x, case.input('f'), impl='ref', **options))


@geometries
@pytest.mark.parametrize('shape', [(3, 5), (1, 1), (4, 2), (5,), (9,), None], ids=str)
def test_upfirdn2d_is_the_sum_that_defines_it(geometry, shape):
    f = None if shape is None else torch.randn(shape)
    x = torch.randn(2, 3, 8, 9, dtype=torch.float64)
    expected = by_definition(x, f, **geometry)
    torch.testing.assert_close(upfirdn2d(x, f, impl='ref', **geometry), expected, rtol=1e-6, atol=1e-6)


@geometries
@pytest.mark.parametrize('shape', [(3, 5), (4,)], ids=str)
def test_first_and_second_derivatives(geometry, shape):
    f = torch.randn(shape)
    x = torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: upfirdn2d(x, f, impl='ref', **geometry), x)
    assert gradgradcheck(lambda x: upfirdn2d(x, f, impl='ref', **geometry), x)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['contiguous', 'channels_last'])
@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@geometries
def test_every_dtype_and_layout(geometry, dtype, layout):
    f = torch.randn(4, 4)
    x = torch.randn(2, 3, 8, 9).to(dtype).contiguous(memory_format=layout).requires_grad_()
    y = upfirdn2d(x, f, impl='ref', **geometry)
    assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
    scale = by_definition(x.detach().abs(), f.abs(), **geometry)
    error = (y.double() - by_definition(x.detach(), f, **geometry)).abs()
    assert (error <= TOLERANCE[dtype] * scale).all()
    dx, = torch.autograd.grad(y, x, torch.ones_like(y))
    assert dx.dtype == dtype and dx.is_contiguous(memory_format=layout)


@pytest.mark.parametrize('shape', [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (1, 1, 1, 1), (1, 2, 1, 7)], ids=str)
@pytest.mark.parametrize('geometry', [{'padding': 3}, {'up': 2, 'padding': 3}, {'down': 2, 'padding': 3}], ids=str)
def test_empty_and_tiny_images(shape, geometry):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    f = torch.randn(4, 4)
    y = upfirdn2d(x, f, impl='ref', **geometry)
    torch.testing.assert_close(y.detach(), by_definition(x.detach(), f, **geometry), rtol=1e-6, atol=1e-6)
    dx, = torch.autograd.grad(y.sum(), x)
    assert dx.shape == x.shape


def test_probe_rows():
    row = torch.tensor([0., 1, 0, 0])[None, None, None]
    f = torch.tensor([[1., 2, 3]])
    stuffed = upfirdn2d(row, f, up=(2, 1), padding=(1, 2, 0, 0))
    assert stuffed.flatten().tolist() == [0, 1, 2, 3, 0, 0, 0, 0, 0]
    stuffed = upfirdn2d(row, f, up=(2, 1), padding=(1, 2, 0, 0), flip_filter=True)
    assert stuffed.flatten().tolist() == [0, 3, 2, 1, 0, 0, 0, 0, 0]
    row = torch.arange(1., 7)[None, None, None]
    assert upfirdn2d(row, f, down=(2, 1), padding=(1, 0, 0, 0)).flatten().tolist() == [4, 16, 28]
    assert upfirdn2d(row, f, padding=(-1, -1, 0, 0)).flatten().tolist() == [16, 22]


def test_default_filter_on_a_white_image():
    x, f = torch.ones(1, 1, 4, 4), setup_filter([1, 3, 3, 1])
    y = ops.upsample2d(x, f)[0, 0]
    assert y.shape == (8, 8) and y[0, 0] == 0.5625 and y[0, 3] == 0.75 and y[4, 4] == 1
    assert (ops.downsample2d(x, f) == 0.765625).all()


def test_the_gain_of_each_pass_rounds_in_float32():
    """Effective taps are formed in float32 before they become float64."""
    f, gain = setup_filter([1, 2, 1]), 0.1
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    taps = upfirdn2d(one, f, padding=2, gain=gain, impl='ref')[0, 0]
    assert torch.equal(taps, (f * gain).double())


def test_setup_filter_leaves_its_argument_alone():
    for taps in (torch.ones(8), torch.ones(3, 3)):
        f = setup_filter(taps)
        assert (taps == 1).all() and f.data_ptr() != taps.data_ptr()


@pytest.mark.parametrize('arguments, message', [
    ({'x': torch.ones(3, 4, 4)}, r'x is torch.float32 \[3, 4, 4\]: must be floating point \[N, C, H, W\]'),
    ({'x': torch.ones(1, 1, 4, 4, dtype=torch.int64)}, 'x is torch.int64'),
    ({'f': torch.ones(2, 2, 2)}, r'f is torch.float32 \[2, 2, 2\]'),
    ({'f': torch.ones(2, dtype=torch.float64)}, 'f is torch.float64'),
    ({'f': torch.ones(2, requires_grad=True)}, 'gets no gradient'),
    ({'up': 0}, 'up=0: must be a positive integer'),
    ({'up': 1.5}, 'up=1.5: must be a positive integer'),
    ({'down': (1, 2, 3)}, r'down=\(1, 2, 3\)'),
    ({'padding': (1, 2, 3)}, r'padding=\(1, 2, 3\)'),
    ({'padding': 0.5}, 'padding=0.5'),
    ({'padding': -2}, r'no output: \[1, 1, 4, 4\] filtered with \[2, 2\], up=1, down=1, padding=-2'),
    ({'impl': 'fast'}, "impl='fast': must be one of auto, ref, native, cuda"),
])
def test_wrong_arguments_are_refused_with_their_values(arguments, message):
    good = {'x': torch.ones(1, 1, 4, 4), 'f': torch.ones(2, 2)}
    with pytest.raises(AssertionError, match=message):
        upfirdn2d(**(good | arguments))


def test_wrong_taps_are_refused():
    with pytest.raises(AssertionError, match=r'\[2, 2\] cannot be made separable'):
        setup_filter(torch.ones(2, 2), separable=True)
    with pytest.raises(AssertionError, match=r'shape \[0\]'):
        setup_filter([])
