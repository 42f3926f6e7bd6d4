"""Convolution with resampling: fixtures, the definition
in three steps, derivatives, dtypes, layouts, refusals."""
import pytest
import torch
import torch.nn.functional as F
from fixture_data import case_ids
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.conv2d_resample import conv2d_resample
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

FIR = torch.tensor([[1., 2, 4], [3, 1, 2], [0, 1, 5], [2, 2, 1]]) / 24      # 3 wide, 4 high, no symmetry.

CASES = {
    'plain': ((3, 3), {'padding': 1}),
    'plain_uneven_padding': ((3, 2), {'padding': (2, 0, -1, 1)}),
    'even_on_one_axis_only': ((3, 3), {'padding': (1, 1, 0, 2)}),
    'pointwise': ((1, 1), {}),
    'pointwise_padded': ((1, 1), {'padding': 2}),
    'down': ((3, 3), {'down': 2, 'padding': 1}),
    'down_convolution': ((3, 3), {'down': 3, 'padding': (1, 2, 0, 1), 'flip_weight': False}),
    'pointwise_down': ((1, 1), {'down': 2, 'flip_filter': True}),
    'up': ((3, 3), {'up': 2, 'padding': 1}),
    'up_convolution': ((3, 5), {'up': 2, 'padding': (1, 2, 0, 3), 'flip_weight': False, 'flip_filter': True}),
    'up_negative_padding': ((3, 3), {'up': 3, 'padding': -2}),
    'up_wide_padding': ((2, 2), {'up': 2, 'padding': 6}),
    'pointwise_up': ((1, 1), {'up': 2, 'padding': (1, 0, 2, 1)}),
    'up_down': ((3, 3), {'up': 3, 'down': 2, 'padding': 1}),
    'pointwise_up_down': ((1, 1), {'up': 2, 'down': 3}),
    'groups': ((3, 3), {'groups': 2, 'padding': 1, 'flip_weight': False}),
    'groups_up': ((3, 3), {'groups': 2, 'up': 2, 'padding': 1}),
    'groups_down': ((3, 3), {'groups': 2, 'down': 2, 'padding': 1}),
}
all_cases = pytest.mark.parametrize('kernel, options', CASES.values(), ids=CASES)


def by_definition(x, w, f, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
    """Upsample with all of the padding, convolve, downsample; written from the formula, without shortcuts."""
    pads = [padding] * 4 if isinstance(padding, int) else list(padding)
    for axis, taps in enumerate((1, 1) if f is None else (f.shape[-1], f.shape[0])):
        if up > 1:
            pads[2 * axis] += (taps + up - 1) // 2
            pads[2 * axis + 1] += (taps - up) // 2
        if down > 1:
            pads[2 * axis] += (taps - down + 1) // 2
            pads[2 * axis + 1] += (taps - down) // 2
    a = upfirdn2d(x, f if up > 1 else None, up=up, padding=pads, gain=up ** 2, flip_filter=flip_filter, impl='ref')
    b = F.conv2d(a, w if flip_weight else w.flip([2, 3]), groups=groups)
    return upfirdn2d(b, f, down=down, flip_filter=flip_filter, impl='ref') if down > 1 else b


def operands(kernel, options, dtype=torch.float64):
    groups = options.get('groups', 1)
    return torch.randn(2, 2 * groups, 8, 7, dtype=dtype), torch.randn(3 * groups, 2, *kernel, dtype=dtype)


@pytest.mark.parametrize('case', case_ids('03a_conv2d_resample'))
def test_conv2d_resample_agrees_with_the_fixture(case):
    options = {key: value for key, value in case.config.items() if key != 'filter'}
    x, w, v = (case.input(name).requires_grad_() for name in 'xwv')
    y = conv2d_resample(x, w, case.input('f'), **options)
    grad_x, grad_w = torch.autograd.grad((v * y).sum(), [x, w], create_graph=True)
    second_w, second_v = torch.autograd.grad(grad_x.square().sum(), [w, v])
    obtained = {'y': y, 'grad_x': grad_x, 'grad_w': grad_w, 'second_w': second_w, 'second_v': second_v}
    for name, value in obtained.items():
        case.check(name, value)


@all_cases
@pytest.mark.parametrize('f', [None, FIR, setup_filter([1, 2, 3, 4, 5, 4, 3, 2, 2])], ids=['none', '2d', 'separable'])
def test_every_branch_equals_the_definition(kernel, options, f):
    x, w = operands(kernel, options)
    expected = by_definition(x, w, f, **options)
    torch.testing.assert_close(conv2d_resample(x, w, f, **options), expected, rtol=1e-6, atol=1e-6)


@all_cases
def test_first_and_second_derivatives(kernel, options):
    x, w = operands(kernel, options)
    x, w = x[:1, :, :5, :4].clone().requires_grad_(), w[:options.get('groups', 1)].clone().requires_grad_()

    def op(x, w):
        return conv2d_resample(x, w, FIR, **options)
    assert gradcheck(op, (x, w))
    assert gradgradcheck(op, (x, w))


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 2e-6), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['contiguous', 'channels_last'])
@all_cases
def test_every_dtype_and_layout(kernel, options, dtype, tolerance, layout):
    x, w = operands(kernel, options, torch.float32)
    x, w = x.to(dtype).contiguous(memory_format=layout), w.to(dtype)
    y = conv2d_resample(x, w, FIR, **options)
    assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
    expected = by_definition(x.double(), w.double(), FIR, **options)
    assert (y - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize('arguments, message', [
    ({'x': torch.ones(4, 8, 8)}, r'x \[4, 8, 8\], w \[6, 2, 3, 3\]: both must have four axes'),
    ({'w': torch.ones(6, 2, 3, 3).double()}, 'x is torch.float32, w is torch.float64'),
    ({'up': (2, 2)}, r'up=\(2, 2\): must be a positive integer'),
    ({'down': 0}, 'down=0: must be a positive integer'),
    ({'groups': 1}, r'x \[1, 4, 8, 8\] and w \[6, 2, 3, 3\] do not fit groups=1'),
    ({'padding': (1, 2, 3)}, r'padding=\(1, 2, 3\)'),
])
def test_wrong_arguments_are_refused_with_their_values(arguments, message):
    good = {'x': torch.ones(1, 4, 8, 8), 'w': torch.ones(6, 2, 3, 3), 'groups': 2}
    with pytest.raises(AssertionError, match=message):
        conv2d_resample(**(good | arguments))
