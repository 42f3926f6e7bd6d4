"""Layers of the networks: numerical fixtures 03b and 04a, and what these do not hold."""
import math

import pytest
import torch
import torch.nn.functional as F
from fixture_data import case_ids

from torch_utils.ops import upfirdn2d
from training.networks import (
    Conv2dLayer,
    FullyConnectedLayer,
    MinibatchStdLayer,
    SynthesisLayer,
    ToRGBLayer,
    modulated_conv2d,
    normalize_2nd_moment,
)

HALF_DTYPES = {torch.float16: 2e-3, torch.bfloat16: 1.2e-2}  # Deviation over largest value: twice the worst seen.


def check_grads(case, y, variables):
    """Compares the gradients of sum(v * y) with the case's outputs grad_NAME."""
    expected = {name.removeprefix('grad_') for name in case.outputs if name.startswith('grad_')}
    grads = torch.autograd.grad((case.input('v') * y).sum(), [variables[name] for name in expected], allow_unused=True)
    for name, grad in zip(expected, grads):
        case.check(f'grad_{name}', torch.zeros_like(variables[name]) if grad is None else grad)


def relative_deviation(obtained, expected):
    obtained, expected = obtained.detach().double(), expected.detach().double()
    return float((obtained - expected).abs().max() / expected.abs().max())


# ----------------------------------------------------------------------------
# Fixtures.


@pytest.mark.parametrize('case', case_ids('03b_modulated_conv2d'))
def test_modulated_convolution_has_the_values_and_both_derivatives_of_the_fixture(case):
    cfg = case.config
    names = [name for name in ('x', 'weight', 'styles', 'noise') if name in case.inputs]
    variables = {name: case.input(name).requires_grad_() for name in names}

    def evaluate(fused):
        return modulated_conv2d(
            **variables, up=cfg['up'], down=cfg['down'], padding=cfg['padding'], resample_filter=case.input('f'),
            demodulate=cfg['demodulate'], flip_weight=cfg['flip_weight'], fused_modconv=fused)

    for fused in (cfg['fused'], not cfg['fused']):
        y = evaluate(fused)
        case.check('y', y)
        check_grads(case, evaluate(fused), variables)
        g, = torch.autograd.grad((case.input('v') * y).sum(), variables['styles'], create_graph=True)
        second = torch.autograd.grad(
            g.square().sum(), [variables['weight'], variables['styles']], allow_unused=True, materialize_grads=True)
        case.check('second_weight', second[0])
        case.check('second_styles', second[1])


LAYERS = {
    'fully_connected': FullyConnectedLayer,
    'conv2d': Conv2dLayer,
    'synthesis': SynthesisLayer,
    'torgb': ToRGBLayer,
    'minibatch_stddev': MinibatchStdLayer,
}
CALL_ARGS = {'gain': 'gain', 'fused': 'fused_modconv', 'noise_mode': 'noise_mode'}  # Name in the case, in forward.


@pytest.mark.parametrize('case', case_ids('04a_layers'))
def test_layer_has_the_values_and_gradients_of_the_fixture(case):
    kwargs = dict(case.config)
    kind = kwargs.pop('layer')
    variables = {name: case.input(name).requires_grad_() for name in ('x', 'w') if name in case.inputs}
    if kind == 'normalize_2nd_moment':
        y = normalize_2nd_moment(variables['x'], **kwargs)
    else:
        call = {CALL_ARGS[name]: kwargs.pop(name) for name in CALL_ARGS if name in kwargs}
        layer = LAYERS[kind](**kwargs)
        state = {name.removeprefix('state/'): case.input(name) for name in case.inputs if name.startswith('state/')}
        layer.load_state_dict(state, strict=True)
        y = layer(*variables.values(), **call)
        variables |= {f'state/{name}': param for name, param in layer.named_parameters()}
    if 'y_new' in case.outputs:
        torch.testing.assert_close(y[:, : variables['x'].shape[1]], variables['x'], rtol=0, atol=0)
        y = y[:, variables['x'].shape[1] :]
        case.check('y_new', y)
    else:
        case.check('y', y)
    check_grads(case, y, variables)


# ----------------------------------------------------------------------------
# Modulated convolution.


@pytest.mark.parametrize('kernel_size', [1, 3])
@pytest.mark.parametrize('fused', [False, True])
def test_demodulation_adds_1e_8_to_the_sum_of_squares(kernel_size, fused):
    x, weight = torch.randn(2, 4, 5, 5), torch.randn(3, 4, kernel_size, kernel_size)
    weight *= (1e-8 / weight.square().sum(dim=[1, 2, 3], keepdim=True)).sqrt()     # Sum of squares = 1e-8.
    y = modulated_conv2d(x, weight, torch.ones(2, 4), padding=kernel_size // 2, fused_modconv=fused)
    expected = F.conv2d(x, weight, padding=kernel_size // 2) / math.sqrt(2e-8)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dtype', HALF_DTYPES)
@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize(('up', 'kernel_size'), [(1, 3), (2, 3), (1, 1)])
def test_reduced_precision_agrees_with_float32(dtype, fused, up, kernel_size):
    x, weight, styles = torch.randn(2, 16, 6, 6), torch.randn(8, 16, kernel_size, kernel_size), torch.randn(2, 16)
    noise = torch.randn(2, 1, 6 * up, 6 * up)
    kwargs = {
        'up': up, 'padding': kernel_size // 2, 'resample_filter': upfirdn2d.setup_filter([1, 3, 3, 1]),
        'flip_weight': up == 1, 'fused_modconv': fused, 'noise': noise}
    x = x.to(dtype)
    y = modulated_conv2d(x, weight, styles, **kwargs)
    assert y.dtype == dtype
    assert relative_deviation(y, modulated_conv2d(x.float(), weight, styles, **kwargs)) < HALF_DTYPES[dtype]


@pytest.mark.parametrize('fused', [False, True])
def test_float16_is_normalised_before_it_can_overflow(fused):
    x, weight, styles = torch.randn(2, 16, 5, 5).half(), torch.randn(8, 16, 3, 3) * 1e6, torch.randn(2, 16) * 1e6
    expected = modulated_conv2d(x.float(), weight, styles, padding=1)
    y = modulated_conv2d(x, weight, styles, padding=1, fused_modconv=fused)
    assert relative_deviation(y, expected) < HALF_DTYPES[torch.float16]


@pytest.mark.parametrize('fused', [False, True])
def test_bfloat16_is_not_normalised(fused):
    """Normalisation would hide the epsilon of demodulation, which halves the square of this result."""
    x, weight = torch.randn(2, 4, 5, 5).bfloat16(), torch.randn(3, 4, 3, 3)
    weight *= (1e-8 / weight.square().sum(dim=[1, 2, 3], keepdim=True)).sqrt()
    y = modulated_conv2d(x, weight, torch.ones(2, 4), padding=1, fused_modconv=fused)
    expected = F.conv2d(x.float(), weight, padding=1) / math.sqrt(2e-8)
    assert relative_deviation(y, expected) < HALF_DTYPES[torch.bfloat16]


@pytest.mark.parametrize('kernel_size', [1, 3])
@pytest.mark.parametrize('demodulate', [False, True])
def test_second_derivatives_of_the_modulated_convolution_are_those_of_finite_differences(kernel_size, demodulate):
    torch.manual_seed(1)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True)
              for shape in ([2, 2, 3, 3], [2, 2, kernel_size, kernel_size], [2, 2], [3, 3])]

    def evaluate(x, weight, styles, noise):
        return modulated_conv2d(
            x, weight, styles, noise, padding=kernel_size // 2, demodulate=demodulate, fused_modconv=False)

    assert torch.autograd.gradgradcheck(evaluate, inputs)


def test_pointwise_modulation_keeps_no_second_copy_of_the_activations():
    x, weight = torch.randn(2, 8, 16, 16, requires_grad=True), torch.randn(3, 8, 1, 1, requires_grad=True)
    styles = torch.randn(2, 8, requires_grad=True)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: kept.setdefault(tensor.data_ptr(), tensor), lambda tensor: tensor):
        modulated_conv2d(x, weight, styles, demodulate=False, fused_modconv=False)
    assert [tensor.data_ptr() for tensor in kept.values() if tensor.numel() >= x.numel()] == [x.data_ptr()]


# ----------------------------------------------------------------------------
# Plain layers.


def test_second_moment_normalisation_adds_1e_8_to_the_mean_of_squares():
    x = torch.randn(3, 7)
    x *= (1e-8 / x.square().mean(dim=1, keepdim=True)).sqrt()
    torch.testing.assert_close(normalize_2nd_moment(x), x / math.sqrt(2e-8), rtol=1e-5, atol=0)


def test_minibatch_deviation_of_equal_samples_is_the_root_of_1e_8():
    y = MinibatchStdLayer(group_size=4)(torch.randn(1, 3, 2, 2).repeat(4, 1, 1, 1))
    torch.testing.assert_close(y[:, 3:], torch.full([4, 1, 2, 2], 1e-4), rtol=1e-5, atol=0)


@pytest.mark.parametrize(('shape', 'num_channels'), [((6, 4, 2, 2), 1), ((4, 3, 2, 2), 2)])
def test_minibatch_deviation_refuses_what_does_not_divide(shape, num_channels):
    with pytest.raises(ValueError, match='do not divide into groups of 4 samples'):
        MinibatchStdLayer(group_size=4, num_channels=num_channels)(torch.randn(shape))


def test_fully_connected_layer_starts_with_weights_divided_and_bias_not_divided_by_the_multiplier():
    layer = FullyConnectedLayer(200, 100, lr_multiplier=0.01, bias_init=3)
    assert 95 < layer.weight.std() < 105
    assert (layer.bias == 3).all()
    torch.testing.assert_close(layer(torch.zeros(2, 200)), torch.full([2, 100], 0.03))


@pytest.mark.parametrize(('activation', 'bias'), [('lrelu', True), ('linear', True), ('linear', False)])
def test_gain_of_a_call_scales_the_clamp_of_a_convolution(activation, bias):
    layer = Conv2dLayer(3, 4, kernel_size=3, bias=bias, activation=activation, conv_clamp=0.5)
    y = layer(torch.randn(2, 3, 6, 6) * 10, gain=0.6)
    torch.testing.assert_close(torch.stack(y.aminmax()), torch.tensor([-0.3, 0.3]))


def test_gain_of_a_call_scales_the_output_of_a_convolution():
    for kwargs in ({'bias': False}, {'activation': 'lrelu'}, {'bias': False, 'conv_clamp': 1e3}):
        layer = Conv2dLayer(3, 4, kernel_size=1, **kwargs)
        x = torch.randn(2, 3, 6, 6)
        torch.testing.assert_close(layer(x, gain=0.6), layer(x) * 0.6)


def test_upsampling_convolution_filters_and_convolves_with_reversed_kernels():
    taps = [1.0, 2.0, 5.0, 7.0]
    layer = Conv2dLayer(2, 3, kernel_size=3, up=2, resample_filter=taps)
    x = torch.randn(1, 2, 5, 5)
    stuffed = torch.zeros(1, 2, 10, 10)
    stuffed[:, :, ::2, ::2] = x
    f = torch.tensor(taps).outer(torch.tensor(taps)) * 4 / sum(taps) ** 2
    smooth = F.conv2d(F.pad(stuffed, [3, 2, 3, 2]), f.flip([0, 1]).expand(2, 1, 4, 4), groups=2)
    expected = F.conv2d(smooth, layer.weight.flip([2, 3]) / math.sqrt(18))
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_downsampling_convolution_correlates_and_then_decimates_the_filtered_map():
    taps = [1.0, 2.0, 5.0, 7.0]
    layer = Conv2dLayer(2, 3, kernel_size=3, down=2, resample_filter=taps)
    x = torch.randn(1, 2, 6, 6)
    f = torch.tensor(taps).outer(torch.tensor(taps)) / sum(taps) ** 2
    y = F.conv2d(F.pad(x, [2, 2, 2, 2]), layer.weight / math.sqrt(18))
    expected = F.conv2d(y, f.flip([0, 1]).expand(3, 1, 4, 4), groups=3, stride=2)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_filters_of_eight_taps_are_kept_separable():
    assert Conv2dLayer(1, 1, 3, resample_filter=[1] * 7).resample_filter.shape == (7, 7)
    assert Conv2dLayer(1, 1, 3, resample_filter=[1] * 8).resample_filter.shape == (8,)


def test_frozen_convolution_holds_buffers_and_draws_the_same_weights():
    torch.manual_seed(3)
    free = Conv2dLayer(3, 4, kernel_size=3)
    torch.manual_seed(3)
    frozen = Conv2dLayer(3, 4, kernel_size=3, trainable=False)
    assert not list(frozen.parameters())
    assert [name for name, _ in frozen.named_buffers()] == ['resample_filter', 'weight', 'bias']
    assert list(Conv2dLayer(3, 4, kernel_size=1, bias=False, trainable=False).state_dict()) == [
        'resample_filter', 'weight']
    torch.testing.assert_close(frozen.weight, free.weight.detach(), rtol=0, atol=0)


def test_channels_last_layers_store_their_weights_so_and_compute_the_same():
    for make in (lambda **kwargs: Conv2dLayer(4, 4, 3, **kwargs),
                 lambda **kwargs: SynthesisLayer(4, 4, 4, 8, **kwargs),
                 lambda **kwargs: ToRGBLayer(4, 4, 4, kernel_size=3, **kwargs)):
        torch.manual_seed(0)
        plain = make()
        torch.manual_seed(0)
        layer = make(channels_last=True)
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
        assert not plain.weight.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(layer.weight, plain.weight)


# ----------------------------------------------------------------------------
# Synthesis layer.


def test_random_noise_is_one_standard_normal_draw_of_the_generator_per_call():
    layer = SynthesisLayer(3, 4, w_dim=5, resolution=6)
    torch.nn.init.constant_(layer.noise_strength, 0.7)
    x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 5)
    noise = torch.randn([2, 1, 6, 6], generator=torch.Generator().manual_seed(9))
    expected = F.leaky_relu(layer_without_bias(layer, x, w) + 0.7 * noise, 0.2) * math.sqrt(2)
    state = torch.get_rng_state()
    y = layer(x, w, noise_generator=torch.Generator().manual_seed(9))
    assert torch.equal(torch.get_rng_state(), state), 'the default generator was used'
    torch.testing.assert_close(y, expected)
    torch.manual_seed(9)
    torch.testing.assert_close(layer(x, w), y, rtol=0, atol=0)


def layer_without_bias(layer, x, w):
    styles = w @ layer.affine.weight.t() / math.sqrt(w.shape[1]) + 1
    kernels = layer.weight[None] * styles[:, None, :, None, None]
    kernels = kernels / kernels.square().sum(dim=[2, 3, 4], keepdim=True).sqrt()
    return torch.cat([F.conv2d(x[n : n + 1], kernels[n], padding=1) for n in range(len(x))])


def test_random_noise_is_drawn_even_where_its_strength_is_zero():
    layer = SynthesisLayer(3, 4, w_dim=5, resolution=6)
    generator = torch.Generator().manual_seed(9)
    layer(torch.randn(2, 3, 6, 6), torch.randn(2, 5), noise_generator=generator)
    reference = torch.Generator().manual_seed(9)
    torch.randn([2, 1, 6, 6], generator=reference)
    assert torch.equal(generator.get_state(), reference.get_state())


@pytest.mark.parametrize(('use_noise', 'noise_mode'), [(True, 'const'), (True, 'none'), (False, 'random')])
def test_nothing_is_drawn_where_no_fresh_noise_is_asked_for(use_noise, noise_mode):
    layer = SynthesisLayer(3, 4, w_dim=5, resolution=6, use_noise=use_noise)
    x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 5)
    state = torch.get_rng_state()
    layer(x, w, noise_mode=noise_mode)
    assert torch.equal(torch.get_rng_state(), state)


# ----------------------------------------------------------------------------
# Refusals.


@pytest.mark.parametrize('make', [
    lambda: FullyConnectedLayer(3, 4, activation='gelu'),
    lambda: Conv2dLayer(3, 4, 3, activation='gelu'),
    lambda: SynthesisLayer(3, 4, 5, 8, activation='gelu'),
])
def test_unknown_activations_are_refused_when_the_layer_is_made(make):
    with pytest.raises(ValueError, match='activation=gelu: must be one of linear, relu, lrelu'):
        make()


def test_unknown_noise_modes_are_refused():
    layer = SynthesisLayer(3, 4, w_dim=5, resolution=6)
    with pytest.raises(ValueError, match='noise_mode=fixed: must be one of random, const, none'):
        layer(torch.randn(2, 3, 6, 6), torch.randn(2, 5), noise_mode='fixed')
