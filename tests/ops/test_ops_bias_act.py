"""Bias and activation: fixtures, formulas written out, derivatives, dtypes, layouts, refusals."""
import math

import pytest
import torch
from fixture_data import case_ids
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.bias_act import activation_funcs, bias_act

# (rtol, atol) of values against float64. The plain back end rounds after each of four steps.
TOLERANCE = {torch.float64: (1e-14, 1e-14), torch.float32: (2e-6, 2e-6), torch.float16: (4e-3, 4e-3),
             torch.bfloat16: (3e-2, 3e-2)}
SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717

FORMULAS = {
    'linear': lambda t, alpha: t,
    'relu': lambda t, alpha: max(t, 0),
    'lrelu': lambda t, alpha: t if t > 0 else alpha * t,
    'tanh': lambda t, alpha: math.tanh(t),
    'sigmoid': lambda t, alpha: 1 / (1 + math.exp(-t)),
    'elu': lambda t, alpha: t if t >= 0 else math.expm1(t),
    'selu': lambda t, alpha: SELU_SCALE * (t if t >= 0 else SELU_ALPHA * math.expm1(t)),
    'softplus': lambda t, alpha: math.log1p(math.exp(t)),
    'swish': lambda t, alpha: t / (1 + math.exp(-t)),
}
DEFAULTS = {act: (0.2 if act == 'lrelu' else 0, math.sqrt(2) if act in ('relu', 'lrelu', 'swish') else 1)
            for act in FORMULAS}                            # (alpha, gain)
activations = pytest.mark.parametrize('act', FORMULAS)


@pytest.mark.parametrize('case', case_ids('02_bias_act'))
def test_bias_act_agrees_with_the_fixture(case):
    options = {key: value for key, value in case.config.items() if key != 'bias'}
    tensors = {name: case.input(name).requires_grad_() for name in case.inputs}
    x, b, v = tensors['x'], tensors.get('b'), tensors['v']
    y = bias_act(x, b, impl='ref', **options)
    wanted = [x] if b is None else [x, b]
    first = torch.autograd.grad((v * y).sum(), wanted, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), [*wanted, v], allow_unused=True, materialize_grads=True)
    case.check('y', y)
    for name, value in zip(['dx', 'db'], first):
        case.check(name, value)
    for name, value in zip(['d2x', 'd2v'] if b is None else ['d2x', 'd2b', 'd2v'], second):
        case.check(name, value)


@activations
def test_values_are_those_of_the_formula(act):
    alpha, gain = DEFAULTS[act]
    x, b = torch.linspace(-6, 6, 60, dtype=torch.float64).reshape(4, 3, 5), torch.tensor([-0.3, 0, 0.4]).double()
    expected = [gain * FORMULAS[act](x[i, j, k].item() + b[j].item(), alpha)
                for i in range(4) for j in range(3) for k in range(5)]
    y = bias_act(x, b, act=act, impl='ref')
    torch.testing.assert_close(y.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-13, atol=1e-13)


def test_the_table_of_activations():
    assert {act: (spec.def_alpha, spec.def_gain) for act, spec in activation_funcs.items()} == DEFAULTS


def test_order_is_bias_activation_gain_clamp():
    y = bias_act(torch.tensor([[-4., 0.5, 2]]), torch.tensor([1., 1, 1]), act='lrelu', alpha=0.5, gain=2, clamp=2.5)
    assert y.tolist() == [[-2.5, 2.5, 2.5]]
    y = bias_act(torch.tensor([[-4., 0.5, 2]]), torch.tensor([1., 1, 1]), act='lrelu', alpha=0.5, gain=2)
    assert y.tolist() == [[-3, 3, 6]]


@activations
@pytest.mark.parametrize('clamp', [None, 0.7])
def test_first_and_second_derivatives(act, clamp):
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    b = torch.randn(5, dtype=torch.float64, requires_grad=True)

    def op(x, b):
        return bias_act(x, b, dim=2, act=act, gain=1.3, clamp=clamp, impl='ref')
    assert gradcheck(op, (x, b))
    assert gradgradcheck(op, (x, b))


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['contiguous', 'channels_last'])
@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@activations
def test_every_dtype_and_layout(act, dtype, layout):
    x = torch.randn(2, 3, 4, 5).mul(2).to(dtype).contiguous(memory_format=layout).requires_grad_()
    b = torch.randn(3).to(dtype)
    y = bias_act(x, b, act=act, clamp=2, impl='ref')
    assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
    rtol, atol = TOLERANCE[dtype]
    expected = bias_act(x.double(), b.double(), act=act, clamp=2, impl='ref')
    torch.testing.assert_close(y.double(), expected, rtol=rtol, atol=atol)
    dx, = torch.autograd.grad(y.sum(), x)
    assert dx.dtype == dtype and dx.is_contiguous(memory_format=layout)


@pytest.mark.parametrize('shape, dim', [((0, 3), 1), ((3, 0), 1), ((5,), 0), ((2, 3, 0, 4), 1)], ids=str)
def test_empty_tensors_and_odd_ranks(shape, dim):
    x, b = torch.randn(shape, requires_grad=True), torch.randn(shape[dim], requires_grad=True)
    y = bias_act(x, b, dim=dim, act='lrelu', impl='ref')
    dx, db = torch.autograd.grad(y.sum(), [x, b])
    assert y.shape == dx.shape == torch.Size(shape) and db.shape == b.shape


@activations
def test_large_arguments_stay_finite(act):
    x = torch.tensor([[-1e4, -100., 100., 1e4]], requires_grad=True)
    y = bias_act(x, act=act, impl='ref')
    dx, = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert y.isfinite().all() and dx.isfinite().all()


@pytest.mark.parametrize('arguments, message', [
    ({'x': torch.ones(2, 3, dtype=torch.int32)}, 'x is torch.int32: must be floating point'),
    ({'act': 'gelu'}, "act='gelu': must be one of linear, relu, lrelu"),
    ({'clamp': -1}, 'clamp=-1: must be None, or 0 or more'),
    ({'dim': 2}, r'dim=2: x has axes 0 \.\.\. 1'),
    ({'dim': -1}, 'dim=-1'),
    ({'b': torch.ones(2)}, r'b \[2\]: must be \[3\], x being \[2, 3\]'),
    ({'b': torch.ones(1, 3)}, r'b \[1, 3\]: must be \[3\]'),
    ({'b': torch.ones(3).double()}, 'b is torch.float64, x is torch.float32'),
    ({'impl': 'fast'}, "impl='fast': must be one of"),
])
def test_wrong_arguments_are_refused_with_their_values(arguments, message):
    with pytest.raises(AssertionError, match=message):
        bias_act(**({'x': torch.ones(2, 3), 'b': torch.ones(3)} | arguments))
