"""Operators that are one kernel on GPUs (torch_utils/ops/joint.py): here the CPU computes what they are defined as."""
import pytest
import torch
from test_ops_native import native  # noqa: F401 (a fixture)
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops import backend, bias_act, joint, scale_bias_act, upfirdn2d
from training.networks import Discriminator, SynthesisNetwork

TAPS = [[1, 2, 3, 1], [0, 1, 2, 2], [3, 1, 1, 5], [1, 0, 2, 1]]


def is_one_kernel(x, act):
    return x.ndim == 4 and act in ('linear', 'lrelu')


@pytest.fixture
def as_on_gpus(native, monkeypatch):  # noqa: F811
    """Returns a function that has layers take the operators of GPUs from now on, or those of CPUs again."""
    plain = bias_act.is_one_kernel

    def switch(on):
        for module in (bias_act, scale_bias_act, joint):
            monkeypatch.setattr(module, 'is_one_kernel', is_one_kernel if on else plain)
        monkeypatch.setattr(backend, 'has_layer_act', lambda device: on)
    return switch


def random(*shape, grad=True):
    return torch.randn(shape, dtype=torch.float64).requires_grad_(grad)


def test_an_image_beside_itself_filtered(as_on_gpus):
    f, x, results = upfirdn2d.setup_filter(TAPS), random(2, 3, 7, 9), []

    def op(x):
        return joint.filtered_beside(x, f, 2, (1, 2, 2, 1))
    for on in (False, True):
        as_on_gpus(on)
        same, small = op(x)
        assert torch.equal(same, x)
        results.append([small, *torch.autograd.grad(same.sin().sum() + small.cos().sum(), x)])
        only, = torch.autograd.grad(op(x)[1].sum(), x)
        results[-1].append(only)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert gradcheck(op, x) and gradgradcheck(op, x)


@pytest.mark.parametrize('act, clamp', [('lrelu', 0.9), ('linear', None)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_an_activation_before_a_filter(as_on_gpus, act, clamp, layout):
    fir = {'f': upfirdn2d.setup_filter(TAPS), 'padding': (2, 1, 1, 2), 'flip_filter': False}
    x, b, results = (
        random(2, 3, 4, 5, grad=False).contiguous(memory_format=layout).requires_grad_(),
        random(3),
        [],
    )

    def op(x, b):
        return joint.act_filtered(x, {'b': b, 'act': act, 'gain': 1.3, 'clamp': clamp}, fir)
    for on in (False, True):
        as_on_gpus(on)
        y = op(x, b)
        results.append([y, *torch.autograd.grad(y.sin().sum(), (x, b))])
    for a, b_ in zip(*results, strict=True):
        torch.testing.assert_close(a, b_)
    assert gradcheck(op, (x, b)) and gradgradcheck(op, (x, b))


@pytest.mark.parametrize('act, clamp', [('lrelu', 0.9), ('linear', None)])
@pytest.mark.parametrize('is_filtered', [True, False])
def test_a_layer_after_a_filter(as_on_gpus, act, clamp, is_filtered):
    """Also without what was filtered, from which the first derivatives do not come."""
    fir = (
        {'f': upfirdn2d.setup_filter(TAPS), 'padding': (2, 1, 1, 2), 'flip_filter': False, 'gain': 4}
        if is_filtered
        else None
    )
    noise, parts = random(2, 1, 4, 5, grad=False), [random(2, 3, 4, 5), random(2, 3), random(), random(3)]

    def op(x, scale, strength, b):
        return scale_bias_act.scale_bias_act(
            x, scale, noise, b, act=act, gain=1.3, clamp=clamp, strength=strength, fir=fir
        )

    results = []
    for on in (False, True):
        as_on_gpus(on)
        y = op(*parts)
        results.append([y, *torch.autograd.grad(y.sin().sum(), parts)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert gradcheck(op, parts) and gradgradcheck(op, parts)


def both_orders(module, inputs, run):
    """Result, gradients, and those of a penalty on the slope."""
    params = [*inputs, *module.parameters()]
    y = run()
    first = torch.autograd.grad(y.square().sum(), params, retain_graph=True, allow_unused=True)
    slope, = torch.autograd.grad(y.sum(), inputs, create_graph=True)
    return [y, *first, slope, *torch.autograd.grad(slope.square().sum(), params, allow_unused=True)]


@pytest.mark.parametrize('architecture', ['resnet', 'skip', 'orig'])
@pytest.mark.parametrize('which', ['critic', 'generator'])
def test_networks_compute_the_same_with_operators_of_gpus(as_on_gpus, architecture, which):
    """To rounding, with the gradients of a penalty on gradients, too."""
    torch.manual_seed(0)
    sizes = dict(channel_base=256, channel_max=16, architecture=architecture)
    if which == 'critic':
        module = Discriminator(0, 16, 3, conv_clamp=256, **sizes)
        inputs = [torch.randn(4, 3, 16, 16, requires_grad=True)]
        run = lambda: module(inputs[0], None)       # noqa: E731
    else:
        module = SynthesisNetwork(8, 16, 3, conv_clamp=256, **sizes).train()
        for name, parameter in module.named_parameters():
            if name.endswith('noise_strength'):
                parameter.data.fill_(0.5)
        inputs = [torch.randn(2, module.num_ws, 8, requires_grad=True)]
        run = lambda: module(inputs[0], noise_mode='const', fused_modconv=False)    # noqa: E731
    found = []
    for on in (False, True):
        as_on_gpus(on)
        found.append(both_orders(module, inputs, run))
    for a, b in zip(*found, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * float(a.detach().abs().max()) + 1e-7)


def test_registration_passes_torchs_own_check(native):  # noqa: F811
    for layout in (torch.contiguous_format, torch.channels_last):
        x, b, scale = (
            torch.randn(2, 4, 6, 5).contiguous(memory_format=layout),
            torch.randn(4),
            torch.randn(2, 4),
        )
        place, options = (upfirdn2d.setup_filter([1, 3, 3, 1]), [2, 1, 2, 1], False, 4.0), (2, 0.2, 1.5, 0.8)
        torch.library.opcheck(native.act_filter.default, (x, b, *place, *options))
        torch.library.opcheck(native.act_filter_grad.default, (x, x, b, *place, *options))
        torch.library.opcheck(native.filter_layer_act.default, (x, *place, scale, None, None, b, *options))
        torch.library.opcheck(native.filter_add.default, (x, place[0], [1, 1], [1, 1], *place[1:], x))
        torch.library.opcheck(native.layer_act_grad.default, (x, x, x, scale, None, None, b, *options))
        torch.library.opcheck(
            native.layer_act_grad2.default, (x, torch.randn(3, 2, 4), x, x, x, scale, None, None, b, *options)
        )
