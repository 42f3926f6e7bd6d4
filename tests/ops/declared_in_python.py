"""A program: the operators as a machine without a C++ compiler declares them, their kernels run by the driver of
fake_driver.cpp, against plain ones. Apart, since a process declares them once."""
import sys
from functools import partial

import torch
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops import backend, build, kernels, launched, nvrtc
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.driver import Driver
from torch_utils.ops.upfirdn2d import upfirdn2d

SCALES = {'scale': [2, 4], 'noise': [2, 1, 5, 6], 'strength': [], 'b': [4]}


def main(path):
    driver = Driver(path)
    handles = driver.functions(b'\x7fELF', kernels_needed())
    nvrtc.register(lambda launch, device: driver.start(handles[launch.name], launch, 7, 3), 'CPU')
    backend.why_not = lambda device, dtype: None
    torch.manual_seed(0)
    ops = torch.ops.stylegan2_loss_zoo
    check_registration(ops)
    check_derivatives()
    check_layers(ops)
    try:
        backend.load_library('cpu')
    except build.Unavailable as reason:
        print(reason)


def kernels_needed():
    return [name for name in kernels.all_kernels() if 'float64' in name or 'float32' in name
            if not name.startswith('bias_act') or name.rsplit('_', 1)[1] in ('linear', 'lrelu', 'swish', 'tanh')]


def check_registration(ops):
    """Schemas, shapes without data, autograd, tracing."""
    x, f, b = torch.randn(2, 3, 6, 7, requires_grad=True), torch.randn(3, 4), torch.randn(3, requires_grad=True)
    check = partial(torch.library.opcheck, test_utils=('test_schema', 'test_autograd_registration', 'test_faketensor'))
    for layout in (torch.contiguous_format, torch.channels_last):
        image = x.detach().contiguous(memory_format=layout).requires_grad_()
        check(ops.upfirdn2d.default, (image, f, [2, 1], [1, 2], [2, 1, 1, 0], False, 2.0))
        check(ops.layer_act.default, (image, None, None, None, b, image, 2, 0.2, 1.5, 0.8))
        three = [image.detach()] * 3
        check(ops.layer_act_grad.default, (*three, *[None] * 4, 0, 0.2, 1.5, None))
        check(
            ops.layer_act_grad2.default,
            (three[0], torch.ones(3, 2, 3), *three, *[None] * 4, 0, 0.2, 1.5, None),
        )
        place = torch.randn(4, 4), [2, 1, 2, 1], False, 2.0
        check(ops.act_filter.default, (three[0], b.detach(), *place, 2, 0.2, 1.5, 0.8))
        check(ops.act_filter_grad.default, (three[0], three[0], b.detach(), *place, 2, 0.2, 1.5, 0.8))
        check(
            ops.filter_layer_act.default, (three[0], *place, None, None, None, b.detach(), 2, 0.2, 1.5, 0.8)
        )
        check(
            ops.filter_add.default, (three[0], place[0], [1, 1], [1, 1], [2, 1, 2, 1], False, 2.0, three[0])
        )
    torch.library.opcheck(ops.upfirdn2d.default, (x, f, [2, 1], [1, 2], [2, 1, 1, 0], False, 2.0))
    torch.library.opcheck(ops.bias_act.default, (x, b, 1, 2, 0.2, 1.5, 0.8))
    for act in (0, 8):
        options = (1, act, 0.2, 1.5, 0.8)
        check(ops.bias_act.default, (x, b, *options))
        check(ops.bias_act_grad.default, (torch.randn_like(x), x, b, *options))
        check(ops.bias_act_grad2.default, (x.detach(), x.detach(), x.detach(), None, *options))


def check_derivatives():
    x, f = torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True), torch.randn(3, 4)
    for options in ({'padding': (2, -1, 1, 2)}, {'up': (2, 1), 'down': (1, 3), 'padding': 3, 'flip_filter': True, 'gain': 2.0}):
        filtered = partial(upfirdn2d, f=f, impl='native', **options)
        assert gradcheck(filtered, x) and gradgradcheck(filtered, x, fast_mode=True)
        torch.testing.assert_close(filtered(x), upfirdn2d(x, f, impl='ref', **options), rtol=1e-6, atol=1e-6)
    t, b = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True), torch.randn(5, dtype=torch.float64, requires_grad=True)
    for act, clamp in (('linear', None), ('linear', 0.7), ('lrelu', 0.7), ('tanh', None), ('swish', 0.7)):
        op = partial(bias_act, dim=2, act=act, gain=1.3, clamp=clamp, impl='native')
        assert gradcheck(op, (t, b)) and gradgradcheck(op, (t, b), fast_mode=True)
        torch.testing.assert_close(op(t, b), bias_act(t, b, dim=2, act=act, gain=1.3, clamp=clamp, impl='ref'))
    d, = torch.autograd.grad(bias_act(t, act='tanh', impl='native').sum(), t, create_graph=True)
    d2, = torch.autograd.grad(d.sum(), t, create_graph=True)
    try:
        torch.autograd.grad(d2.sum(), t)
    except RuntimeError as error:
        assert "no third derivative; use impl='ref'" in str(error)
    else:
        raise AssertionError('a third derivative')


def check_layers(ops):
    """One kernel for all first derivatives, other operators for the second."""
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 4, 5, 6, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
        parts = {name: torch.randn(shape, dtype=torch.float64, requires_grad=name != 'noise') for name, shape in SCALES.items()}
        for act, clamp in ((0, None), (2, 0.8)):
            def op(x, scale, strength, b, options=(act, 0.2, 1.3, clamp), noise=parts['noise']):
                return ops.layer_act(x, scale, noise, strength, b, None, *options)
            inputs = x, parts['scale'], parts['strength'], parts['b']
            assert gradcheck(op, inputs) and gradgradcheck(op, inputs, fast_mode=True)
            y = op(*inputs)
            expected = bias_act(x * parts['scale'][:, :, None, None] + parts['noise'] * parts['strength'], parts['b'],
                                act=kernels.ACTS[act], gain=1.3, clamp=clamp, impl='ref')
            torch.testing.assert_close(y, expected)
            cotangent = torch.randn_like(y)
            for a, b in zip(torch.autograd.grad(y, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent)):
                torch.testing.assert_close(a, b)
            assert launched.layout_of(y) == layout
    noise = parts['noise'].requires_grad_()
    try:
        ops.layer_act(x, None, noise, None, None, None, 0, 0.0, 1.0, None).sum().backward()
    except RuntimeError as error:
        assert 'noise has no derivative' in str(error)
    else:
        raise AssertionError('a derivative of noise')


if __name__ == '__main__':
    main(sys.argv[1])
