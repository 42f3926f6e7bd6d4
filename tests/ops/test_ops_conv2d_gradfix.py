"""Convolutions that are their own derivatives, against stock ones; the switch for weight gradients."""
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops import conv2d_gradfix
from torch_utils.ops.conv2d_gradfix import no_weight_gradients

FORMS = {
    'plain': {},
    'padded': {'padding': 1},
    'strided': {'stride': 2, 'padding': (0, 1)},
    'loose': {'stride': (3, 2)},            # The last rows and columns of the image are not reached.
    'dilated': {'dilation': (1, 2), 'padding': 1},
    'grouped': {'groups': 2, 'stride': 2, 'padding': 1},
}
forms = pytest.mark.parametrize('form', FORMS.values(), ids=FORMS)


def operands(form, transposed=False):
    groups = form.get('groups', 1)
    x = torch.randn(2, 2 * groups, 7, 8, dtype=torch.float64, requires_grad=True)
    shape = (2 * groups, 1, 3, 2) if transposed else (groups, 2, 3, 2)
    w = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    b = torch.randn(w.shape[1] * groups if transposed else w.shape[0], dtype=torch.float64, requires_grad=True)
    return x, w, b


def derivatives(op, *tensors):
    """Value, first derivatives, and derivatives of the sum of their squares."""
    y = op(*tensors)
    first = torch.autograd.grad(y.sin().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum(d.square().sum() for d in first), tensors)
    return [y, *first, *second]


@forms
def test_conv2d_and_its_derivatives_equal_the_stock_ones(form):
    x, w, b = operands(form)
    ours = derivatives(lambda *t: conv2d_gradfix.conv2d(*t, **form), x, w, b)
    stock = derivatives(lambda *t: F.conv2d(*t, **form), x, w, b)
    torch.testing.assert_close(ours, stock, rtol=1e-10, atol=1e-10)


@forms
@pytest.mark.parametrize('reach', ['least', 'most'])
def test_conv_transpose2d_and_its_derivatives_equal_the_stock_ones(form, reach):
    output_padding = 1 if reach == 'most' and 'stride' in form else 0       # Less than the stride is allowed.
    x, w, b = operands(form, transposed=True)
    options = form | {'output_padding': output_padding}
    ours = derivatives(lambda *t: conv2d_gradfix.conv_transpose2d(*t, **options), x, w, b)
    stock = derivatives(lambda *t: F.conv_transpose2d(*t, **options), x, w, b)
    torch.testing.assert_close(ours, stock, rtol=1e-10, atol=1e-10)


@forms
def test_first_and_second_derivatives(form):
    x, w, _ = operands(form)
    x, w = x[:1, :, :5, :5].detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
    assert gradcheck(lambda x, w: conv2d_gradfix.conv2d(x, w, **form), (x, w))
    assert gradgradcheck(lambda x, w: conv2d_gradfix.conv2d(x, w, **form), (x, w))
    y = conv2d_gradfix.conv2d(x, w, **form).detach().requires_grad_()
    assert gradgradcheck(lambda y, w: conv2d_gradfix.conv_transpose2d(y, w, **form), (y, w))


def r1_weight_gradient(conv, x, w):
    """Gradient with respect to w of the squared gradient with respect to x."""
    y = F.softplus(conv(x, w, padding=1))
    g, = torch.autograd.grad(y.sum(), x, create_graph=True)
    return torch.autograd.grad(g.square().sum(), w)[0].float()


def test_second_derivatives_in_bfloat16_are_right_on_cpus():
    """Stock convolutions of torch 2.13 fail this (relative error 0.75), hence conv2d_gradfix on CPUs too."""
    x, w = torch.randn(8, 64, 32, 32), torch.randn(64, 64, 3, 3) / 24
    x, w = x.bfloat16().float().requires_grad_(), w.bfloat16().float().requires_grad_()     # Exact in bfloat16.
    expected = r1_weight_gradient(F.conv2d, x, w)
    half = [t.detach().bfloat16().requires_grad_() for t in (x, w)]
    obtained = r1_weight_gradient(conv2d_gradfix.conv2d, *half)
    assert (obtained - expected).norm() <= 0.02 * expected.norm()


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('size', [(1, 1), (4, 6)])
def test_1x1_kernels_on_channels_last_images_are_convolutions_like_others(size, channels):
    torch.manual_seed(0)
    x = torch.randn(2, channels, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    w, b = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ([5, channels, 1, 1], [5]))
    results = []
    for op in (F.conv2d, conv2d_gradfix.conv2d):
        y = op(x, w, b)
        assert y.is_contiguous(memory_format=torch.channels_last) or channels == 1      # Then x is in either format.
        first = torch.autograd.grad(y.sin().sum(), [x, w, b], create_graph=True)
        results.append([y, *first, *torch.autograd.grad(sum(d.square().sum() for d in first), [x, w])])
    assert all(torch.allclose(a, b) for a, b in zip(*results))


@pytest.mark.parametrize('op', [conv2d_gradfix.conv2d, conv2d_gradfix.conv_transpose2d])
def test_no_weight_gradients_leaves_out_the_weights_and_nothing_else(op):
    x, w = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(2, 2, 3, 3, requires_grad=True)
    expected_x, expected_w = torch.autograd.grad(op(x, w).square().sum(), [x, w])
    y = op(x, w).square().sum()
    with no_weight_gradients():
        dx, dw = torch.autograd.grad(y, [x, w], allow_unused=True, retain_graph=True)
    assert dw is None and torch.equal(dx, expected_x)
    assert torch.equal(torch.autograd.grad(y, w)[0], expected_w)


def test_penalties_on_input_gradients_do_not_depend_on_the_switch():
    x, w = torch.randn(2, 2, 5, 5, requires_grad=True), torch.randn(2, 2, 3, 3, requires_grad=True)

    def penalty():
        g, = torch.autograd.grad(conv2d_gradfix.conv2d(x, w).sin().sum(), x, create_graph=True)
        return g.square().sum()
    expected = torch.autograd.grad(penalty(), w)[0]
    with no_weight_gradients():
        value = penalty()
    assert torch.equal(torch.autograd.grad(value, w)[0], expected)


def test_no_weight_gradients_ends_with_its_block_also_by_an_exception():
    x, w = torch.randn(1, 1, 3, 3), torch.randn(1, 1, 3, 3, requires_grad=True)

    def weight_gradient():
        return torch.autograd.grad(conv2d_gradfix.conv2d(x, w).sum(), w, allow_unused=True)[0]
    with pytest.raises(KeyError), no_weight_gradients():
        raise KeyError
    assert weight_gradient() is not None
    with no_weight_gradients():
        with no_weight_gradients():
            pass
        assert weight_gradient() is None


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@forms
def test_layout_of_results(form, dtype):
    x, w, _ = operands(form)
    x = x.detach().to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = conv2d_gradfix.conv2d(x, w.detach().to(dtype), **form)
    dx, = torch.autograd.grad(y, x, torch.ones_like(y))
    assert y.is_contiguous(memory_format=torch.channels_last) and y.dtype == dtype
    assert dx.is_contiguous(memory_format=torch.channels_last) and dx.dtype == dtype


def test_an_empty_batch():
    x, w = torch.randn(0, 2, 5, 5, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    y = conv2d_gradfix.conv2d(x, w, padding=1)
    dx, dw = torch.autograd.grad(y.sum(), [x, w])
    assert y.shape == (0, 3, 5, 5) and dx.shape == x.shape and (dw == 0).all()


def test_wrong_arguments_are_refused_with_their_values():
    with pytest.raises(AssertionError, match=r'input \[2, 5, 5\], weight \[2, 2, 3, 3\]: both must have four axes'):
        conv2d_gradfix.conv2d(torch.ones(2, 5, 5), torch.ones(2, 2, 3, 3))
    with pytest.raises(AssertionError, match='input is torch.float32, weight is torch.float64'):
        conv2d_gradfix.conv_transpose2d(torch.ones(1, 2, 5, 5), torch.ones(2, 2, 3, 3).double())
