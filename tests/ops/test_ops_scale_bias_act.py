"""scale_bias_act: compiled against composed of other operators; derivatives; what it refuses."""
import pytest
import torch
from test_ops_native import TOLERANCE, assert_close, both, native  # noqa: F401 (a fixture)
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.bias_act import activation_funcs
from torch_utils.ops.scale_bias_act import scale_bias_act
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

ACTS = [act for act in activation_funcs if act != 'swish']
NOISES = {'own': [3, 1, 5, 7], 'shared': [1, 1, 5, 7], 'flat': [5, 7]}


def tensors(dtype, noise='own', channels=20, size=(5, 7)):
    torch.manual_seed(0)
    shapes = [3, channels, *size], [3, channels], [*NOISES[noise][:-2], *size], [channels]
    x, *rest = (torch.randn(shape, dtype=dtype) for shape in shapes)
    return [t.requires_grad_() for t in (x.contiguous(memory_format=torch.channels_last), *rest)]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('act', ACTS)
def test_compiled_equals_composed_up_to_second_derivatives(native, dtype, act):  # noqa: F811
    def op(x, scale, noise, b, impl):
        return scale_bias_act(x, scale, noise, b, act=act, gain=1.5, clamp=0.8, impl=impl)
    assert_close(*both(op, *tensors(dtype)), TOLERANCE[dtype])


@pytest.mark.parametrize('act', ['linear', 'lrelu', 'tanh'])
def test_bfloat16_is_near_float64(native, act):  # noqa: F811
    """By the length of the difference: at a kink a rounded argument may have the other slope."""
    inputs = tensors(torch.bfloat16)
    results = []
    for dtype in (torch.float64, torch.bfloat16):
        converted = [t.detach().to(dtype).requires_grad_() for t in inputs]
        y = scale_bias_act(*converted, act=act, impl='native')
        results.append([y, *torch.autograd.grad(y.sin().sum(), converted)])
    for a, b in zip(*results):
        assert b.dtype == torch.bfloat16 and (a - b).norm() <= 0.01 * a.norm()


def filtered(dtype, noise='own', channels=20, size=(5, 7)):
    """Inputs whose first is larger, and a filter that makes it fit: not symmetric, it pads and crops."""
    x, *rest = tensors(dtype, noise, channels, size)
    x = torch.randn(3, channels, size[0] + 2, size[1] + 1, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    taps = [[1, 2, 3, 1], [0, 1, 2, 2], [3, 1, 1, 5]]
    fir = dict(f=setup_filter(taps), padding=(2, 0, -1, 1), flip_filter=False, gain=4)
    return [x.requires_grad_(), *rest], fir


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('act', ['linear', 'lrelu', 'tanh'])
@pytest.mark.parametrize('noise', NOISES)
def test_a_filter_before_it_makes_one_pass(native, dtype, act, noise):  # noqa: F811
    inputs, fir = filtered(dtype, noise)

    def op(x, scale, noise, b, impl):
        return scale_bias_act(x, scale, noise, b, act=act, gain=1.5, clamp=0.8, impl=impl, fir=fir)
    assert_close(*both(op, *inputs), TOLERANCE[dtype])
    with torch.no_grad():
        one = op(*inputs, impl='native')
        options = dict(act=act, gain=1.5, clamp=0.8, impl='native')
        two = scale_bias_act(upfirdn2d(inputs[0], **fir), *inputs[1:], **options)
    assert torch.equal(one, two) and one.shape == two.shape == (3, 20, 5, 7)


@pytest.mark.parametrize('act', ['linear', 'lrelu'])
@pytest.mark.parametrize('noise', NOISES)
def test_derivatives_through_the_filter(native, act, noise):  # noqa: F811
    inputs, fir = filtered(torch.float64, noise, channels=3, size=(2, 3))
    op = lambda *args: scale_bias_act(*args, act=act, clamp=3.0, impl='native', fir=fir)    # noqa: E731
    assert gradcheck(op, inputs) and gradgradcheck(op, inputs)


def test_without_what_was_filtered_derivatives_are_the_same(native):  # noqa: F811
    """Several blocks of pixels, and rows of several units of work."""
    inputs, fir = filtered(torch.float32, channels=37, size=(70, 40))
    y = scale_bias_act(*inputs, act='lrelu', clamp=1.0, impl='native', fir=fir)
    dy = torch.randn_like(y)
    fast = torch.autograd.grad(y, inputs, dy, retain_graph=True)
    slow = torch.autograd.grad(y, inputs, dy, create_graph=True)
    assert all(not d.requires_grad for d in fast) and slow[0].requires_grad
    assert_close(slow, fast, 1e-5)


@pytest.mark.parametrize('noise', NOISES)
@pytest.mark.parametrize('act', ['linear', 'lrelu', 'tanh'])
def test_derivatives(native, act, noise):  # noqa: F811
    inputs = tensors(torch.float64, noise, channels=3, size=(2, 3))
    op = lambda *args: scale_bias_act(*args, act=act, impl='native')    # noqa: E731
    assert gradcheck(op, inputs) and gradgradcheck(op, inputs)


def test_the_fast_derivatives_are_those_that_can_be_derived(native):  # noqa: F811
    """Both run on the same inputs; sizes reach over several blocks of pixels, the last of them not full."""
    inputs = tensors(torch.float32, channels=37, size=(21, 40))
    y = scale_bias_act(*inputs, act='lrelu', clamp=1.0, impl='native')
    dy = torch.randn_like(y)
    fast = torch.autograd.grad(y, inputs, dy, retain_graph=True)
    slow = torch.autograd.grad(y, inputs, dy, create_graph=True)
    assert all(not d.requires_grad for d in fast) and slow[0].requires_grad
    assert_close(slow, fast, 1e-5)


def test_noise_and_bias_may_be_left_out(native):  # noqa: F811
    x, scale, *_ = tensors(torch.float32)
    results = both(lambda x, scale, impl: scale_bias_act(x, scale, impl=impl), x, scale)
    assert_close(*results, 1e-6)
    assert torch.equal(results[1][0], x * scale[:, :, None, None])


def test_the_number_of_threads_changes_no_bit(native):  # noqa: F811
    inputs = tensors(torch.float32, channels=64, size=(48, 48))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = scale_bias_act(*inputs, act='lrelu', impl='native')
            results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other))


def test_other_layouts_and_swish_take_other_operators():
    x, *rest = tensors(torch.float32)
    expected = scale_bias_act(x, *rest, act='lrelu', impl='ref')
    assert torch.allclose(scale_bias_act(x.detach().contiguous(), *rest, act='lrelu'), expected, atol=1e-6)
    assert scale_bias_act(x, *rest, act='swish').shape == x.shape


def test_arguments_that_do_not_fit_are_refused(native):  # noqa: F811
    x, scale, noise, b = (t.detach() for t in tensors(torch.float32))
    options = 2, 0.2, 1.0, None
    for arguments, message in [
            ((x.contiguous(), scale, noise, b), 'must be channels-last images'),
            ((x, scale[:2], noise, b), r'must be \[3, 20\]'),
            ((x, scale, noise[..., 1:], b), r'must be \[N or 1, 1, H, W\]'),
            ((x, scale, noise, b[1:]), r'must be \[20\]'),
            ((x, scale.double(), noise, b), 'scale is Double, x is Float')]:
        with pytest.raises(RuntimeError, match=message):
            native.scale_bias_act(*arguments, *options)


def test_registration_passes_torchs_own_check(native):  # noqa: F811
    x, scale, noise, b = (t.detach() for t in tensors(torch.float32))
    options = 2, 0.2, 1.5, 0.8
    torch.library.opcheck(native.scale_bias_act.default, (x, scale, noise, b, *options))
    torch.library.opcheck(native.scale_bias_act_grad.default, (torch.randn_like(x), x, x, scale, *options))
    place = setup_filter([1, 3, 3, 1]), [2, 1, 2, 1], False, 4.0
    torch.library.opcheck(native.filter_act.default, (x, *place, scale, noise, b, *options))
    torch.library.opcheck(native.filter_act_grad.default, (torch.randn_like(x), x, scale, noise, b, *options))


# layer_act, the operator for GPUs: its CPU implementation is
# the definition, its derivatives are the same everywhere.

PARTS = {'all': 'x scale noise strength b', 'bias': 'x b', 'scale': 'x scale', 'no strength': 'x scale noise b',
         'base': 'x b base', 'all and base': 'x scale noise strength b base'}


def layer_act(dtype, parts, act=2, clamp=0.8, layout=torch.channels_last):
    """(function of the parts that are there, these parts)."""
    torch.manual_seed(0)
    shapes = {'x': [2, 3, 2, 3], 'scale': [2, 3], 'noise': [2, 1, 2, 3], 'strength': [], 'b': [3], 'base': [2, 3, 2, 3]}
    names = PARTS[parts].split()
    wide = torch.promote_types(dtype, torch.float32)
    tensors = [torch.randn(shapes[name], dtype=torch.float64).to(dtype if name in ('x', 'base') else wide) for name in names]
    tensors[0] = tensors[0].contiguous(memory_format=layout)
    for name, tensor in zip(names, tensors):
        tensor.requires_grad_(name != 'noise')

    def op(*tensors):
        given = dict(zip(names, tensors))
        return torch.ops.stylegan2_loss_zoo.layer_act(*map(given.get, shapes), act, 0.2, 1.5, clamp)
    return op, tensors


@pytest.mark.parametrize('parts', PARTS)
@pytest.mark.parametrize('act, clamp', [(0, None), (2, None), (2, 0.8)])
def test_layer_act_has_first_and_second_derivatives(native, parts, act, clamp):  # noqa: F811
    op, tensors = layer_act(torch.float64, parts, act, clamp)
    assert gradcheck(op, tensors) and gradgradcheck(op, tensors)


@pytest.mark.parametrize('parts', PARTS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_layer_act_gives_gradients_of_the_kinds_of_its_arguments(native, parts, dtype):  # noqa: F811
    """The fast derivatives are those that can be derived again; only images are rounded."""
    op, tensors = layer_act(dtype, parts)
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    y = op(*tensors)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    dy = torch.randn_like(y)
    fast, slow = (torch.autograd.grad(y, leaves, dy, retain_graph=True, create_graph=again)
                  for again in (False, dtype != torch.float16))             # CPUs have no bias_act in float16.
    for leaf, a, b in zip(leaves, fast, slow):
        assert a.dtype == leaf.dtype and a.shape == leaf.shape
        tolerance = 1e-5 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_layer_act_refuses_what_does_not_fit(native):  # noqa: F811
    op, (x, scale, noise, strength, b) = layer_act(torch.float32, 'all')
    for wrong in ((x, scale[:1], noise, strength, b), (x, scale, noise[:, 0], strength, b), (x, scale, noise, strength, b[:2]),
                  (x, scale.double(), noise, strength, b), (x[0], scale, noise, strength, b)):
        with pytest.raises(RuntimeError, match='must be'):
            op(*wrong)
    with pytest.raises(RuntimeError, match='noise has no derivative'):
        op(x, scale, noise.clone().requires_grad_(), strength, b).sum().backward()
