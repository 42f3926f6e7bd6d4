"""What the networks promise beyond numbers: precision,
noise, feature maps, truncation, reconstruction, refusals."""
import inspect
import json

import pytest
import torch

from training import layers, networks
from training.networks import (
    Discriminator,
    DiscriminatorBlock,
    DiscriminatorEpilogue,
    Generator,
    MappingNetwork,
    SynthesisBlock,
    SynthesisNetwork,
)

ARCHITECTURES = ['orig', 'skip', 'resnet']
REDUCED = {'float16': 0.02, 'bfloat16': 0.12}  # Deviation over largest value, all layers: twice the worst seen.


def make_G(c_dim=0, img_resolution=32, mapping_kwargs=None, **synthesis_kwargs):
    return Generator(
        z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=img_resolution, img_channels=3,
        mapping_kwargs={'num_layers': 2, **(mapping_kwargs or {})},
        synthesis_kwargs={'channel_base': 512, 'channel_max': 16, **synthesis_kwargs})


def make_D(c_dim=0, img_resolution=32, **kwargs):
    return Discriminator(
        c_dim=c_dim, img_resolution=img_resolution, img_channels=3, channel_base=512, channel_max=16, **kwargs)


def set_noise_strength(G, value):
    for name, param in G.named_parameters():
        if name.endswith('noise_strength'):
            torch.nn.init.constant_(param, value)


def relative_deviation(obtained, expected):
    obtained, expected = obtained.detach().double(), expected.detach().double()
    return float((obtained - expected).abs().max() / expected.abs().max())


# ----------------------------------------------------------------------------
# Mapping.


def test_mean_of_ws_is_tracked_once_per_training_call_only():
    net = MappingNetwork(z_dim=8, c_dim=0, w_dim=8, num_ws=3, num_layers=2)
    z = torch.randn(4, 8)
    mean = net.eval()(z, None)[:, 0].mean(dim=0).detach()
    net.train()(z, None, skip_w_avg_update=True)
    assert (net.w_avg == 0).all()
    net(z, None)
    torch.testing.assert_close(net.w_avg, 0.005 * mean)
    net(z, None)
    torch.testing.assert_close(net.w_avg, (0.005 + 0.995 * 0.005) * mean)
    assert not net.w_avg.requires_grad


def test_generator_forward_tracks_the_mean_once():
    G = make_G()
    z = torch.randn(4, 8)
    mean = G.eval().mapping(z, None)[:, 0].mean(dim=0)
    G.train()(z, None)
    torch.testing.assert_close(G.mapping.w_avg, 0.005 * mean)


def test_truncation_uses_the_mean_after_its_update():
    net = MappingNetwork(z_dim=8, c_dim=0, w_dim=8, num_ws=3, num_layers=2, w_avg_beta=0)
    z = torch.randn(1, 8)
    torch.testing.assert_close(net.train()(z, None, truncation_psi=0)[0, 0], net.w_avg)
    assert (net.w_avg != 0).any()


@pytest.mark.parametrize('truncation', [{}, {'truncation_psi': 0.5}, {'truncation_psi': 0.5, 'truncation_cutoff': 1}])
def test_ws_can_be_written_to(truncation):
    net = MappingNetwork(z_dim=8, c_dim=0, w_dim=8, num_ws=3, num_layers=2)
    ws = net(torch.randn(2, 8), None, **truncation)
    assert ws.shape == (2, 3, 8) and ws.is_contiguous()
    others = ws[:, [0, 2]].clone()
    ws[:, 1] = 7
    assert torch.equal(ws[:, [0, 2]], others)


def test_networks_without_tracking_have_no_mean_and_refuse_truncation():
    for kwargs in ({'num_ws': None}, {'num_ws': 3, 'w_avg_beta': None}):
        net = MappingNetwork(z_dim=8, c_dim=0, w_dim=8, num_layers=2, **kwargs)
        assert 'w_avg' not in net.state_dict()
        net(torch.randn(2, 8), None)
        with pytest.raises(AssertionError, match='does not track w_avg'):
            net(torch.randn(2, 8), None, truncation_psi=0.5)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16])
def test_latents_labels_and_ws_of_any_dtype_are_computed_in_float32(dtype):
    G = make_G(c_dim=3).eval()
    z, c = torch.randn(2, 8).to(dtype), torch.eye(2, 3)
    ws = G.mapping(z, c.to(dtype))
    assert torch.equal(ws, G.mapping(z.float(), c)) and ws.dtype == torch.float32
    img = G.synthesis(ws.to(dtype), noise_mode='const')
    assert torch.equal(img, G.synthesis(ws.to(dtype).float(), noise_mode='const')) and img.dtype == torch.float32


def test_mapping_without_layers_or_labels_or_latents():
    z, c = torch.randn(2, 8), torch.eye(2, 3)
    net = MappingNetwork(z_dim=8, c_dim=0, w_dim=8, num_ws=None, num_layers=0)
    torch.testing.assert_close(net(z, None), layers.normalize_2nd_moment(z))
    net = MappingNetwork(z_dim=0, c_dim=3, w_dim=8, num_ws=None, num_layers=0)
    torch.testing.assert_close(net(None, c), layers.normalize_2nd_moment(net.embed(c)))


# ----------------------------------------------------------------------------
# Noise.


@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_random_noise_is_drawn_layer_by_layer_in_forward_order(architecture):
    """The draws of the generator, put into the layers' constant noise, give the same image."""
    G = make_G(architecture=architecture).eval()
    set_noise_strength(G, 0.5)
    ws = torch.randn(1, G.num_ws, 8)
    img = G.synthesis(ws, noise_mode='random', noise_generator=torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    for res in (4, 8, 16, 32):
        for conv in ['conv1'] if res == 4 else ['conv0', 'conv1']:
            layer = G.synthesis.get_submodule(f'b{res}.{conv}')
            layer.noise_const.copy_(torch.randn([1, 1, res, res], generator=generator)[0, 0])
    torch.testing.assert_close(G.synthesis(ws, noise_mode='const'), img, rtol=0, atol=0)
    torch.manual_seed(4)
    torch.testing.assert_close(G.synthesis(ws), img, rtol=0, atol=0)


def test_samples_of_a_batch_get_noise_of_their_own():
    G = make_G().eval()
    set_noise_strength(G, 0.5)
    ws = torch.randn(1, G.num_ws, 8).repeat(2, 1, 1)
    img = G.synthesis(ws)
    assert (img[0] - img[1]).abs().max() > 0.01
    img = G.synthesis(ws, noise_mode='const')
    torch.testing.assert_close(img[0], img[1])


# ----------------------------------------------------------------------------
# Feature maps.


@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_generator_returns_exactly_the_feature_maps_asked_for(architecture):
    G = make_G(architecture=architecture, num_fp16_res=1).eval()
    z = torch.randn(2, 8)
    outputs = {}
    for res in (8, 32):
        G.synthesis.get_submodule(f'b{res}').register_forward_hook(
            lambda module, args, output, res=res: outputs.__setitem__(res, output[0]))
    img, feats = G(z, None, noise_mode='const', return_feats={32, 8})
    assert list(feats) == [8, 32]
    for res, feat in feats.items():
        assert feat.dtype == torch.float32 and feat.shape == (2, 16, res, res)
        assert torch.equal(feat, outputs[res].float())
    assert torch.equal(img, G(z, None, noise_mode='const'))
    assert torch.equal(img, G(z, None, noise_mode='const', return_feats=()))


def test_feature_maps_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match='return_feats=64: must be one of 4, 8, 16, 32'):
        make_G()(torch.randn(1, 8), None, return_feats=[64])


@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_discriminator_returns_the_outputs_of_its_blocks_as_computed(architecture):
    D = make_D(architecture=architecture, num_fp16_res=1, reduced_dtype='bfloat16')
    img = torch.randn(4, 3, 32, 32)
    logits, feats = D(img, None, return_feats=True)
    assert {res: (list(feat.shape), feat.dtype) for res, feat in feats.items()} == {
        16: ([4, 16, 16, 16], torch.bfloat16), 8: ([4, 16, 8, 8], torch.float32), 4: ([4, 16, 4, 4], torch.float32)}
    assert torch.equal(logits, D(img, None))
    if architecture != 'skip':      # The epilogue then depends on the last map only.
        assert torch.equal(logits, D.b4(feats[4], None, None))


# ----------------------------------------------------------------------------
# Precision.


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('dtype', REDUCED)
@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_generator_in_reduced_precision_agrees_with_float32(architecture, dtype, channels_last):
    G = make_G(architecture=architecture, num_fp16_res=4, conv_clamp=256, reduced_dtype=dtype,
               fp16_channels_last=channels_last)
    set_noise_strength(G, 0.1)
    ws = torch.randn(3, G.num_ws, 8)
    for training in (False, True):
        G.train(training)
        expected = G.synthesis(ws, noise_mode='const', force_fp32=True)
        img = G.synthesis(ws, noise_mode='const')
        assert img.dtype == torch.float32 and img.is_contiguous()
        assert 0 < relative_deviation(img, expected) < REDUCED[dtype]


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('dtype', REDUCED)
@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_discriminator_in_reduced_precision_agrees_with_float32(architecture, dtype, channels_last):
    D = make_D(architecture=architecture, num_fp16_res=4, conv_clamp=256, reduced_dtype=dtype,
               block_kwargs={'fp16_channels_last': channels_last})
    img = torch.randn(4, 3, 32, 32)
    expected, expected_feats = D(img, None, return_feats=True, force_fp32=True)
    logits, feats = D(img, None, return_feats=True)
    assert logits.dtype == torch.float32
    assert 0 < relative_deviation(logits, expected) < REDUCED[dtype]
    for res, feat in feats.items():
        assert feat.dtype == getattr(torch, dtype)
        assert 0 < relative_deviation(feat, expected_feats[res]) < REDUCED[dtype]


@pytest.mark.parametrize('dtype', REDUCED)
def test_first_and_second_derivatives_in_reduced_precision_agree_with_float32(dtype):
    """Smooth activations, since rounding flips kinks; large
    logits, since nothing else keeps float16 from underflow."""
    smooth = {'activation': 'swish'}
    G = make_G(num_fp16_res=2, conv_clamp=256, reduced_dtype=dtype, **smooth)
    D = make_D(num_fp16_res=2, conv_clamp=256, reduced_dtype=dtype, block_kwargs=smooth, epilogue_kwargs=smooth)
    params = [*G.parameters(), *D.parameters()]
    ws = G.mapping(torch.randn(4, 8), None).detach().requires_grad_()

    def derivatives(**kwargs):
        img = G.synthesis(ws, noise_mode='const', **kwargs)
        logits = 64 * D(img, None, **kwargs).sum()
        first = torch.autograd.grad(
            logits, [img, ws, *params], create_graph=True, allow_unused=True, materialize_grads=True)
        penalty = first[0].square().sum() + first[1].square().sum()
        second = torch.autograd.grad(penalty, params, allow_unused=True, materialize_grads=True)
        return [torch.cat([grad.detach().flatten() for grad in grads]) for grads in (first, second)]

    for obtained, expected in zip(derivatives(), derivatives(force_fp32=True)):
        assert 0 < (obtained - expected).norm() / expected.norm() < REDUCED[dtype]


@pytest.mark.parametrize(('num_fp16_res', 'reduced'), [(0, []), (1, [32]), (2, [16, 32]), (9, [8, 16, 32])])
def test_reduced_precision_counts_from_the_highest_resolution_and_spares_the_lowest(num_fp16_res, reduced):
    G, D = make_G(num_fp16_res=num_fp16_res), make_D(num_fp16_res=num_fp16_res)
    assert [res for res in (4, 8, 16, 32) if G.synthesis.get_submodule(f'b{res}').use_fp16] == reduced
    assert [res for res in (8, 16, 32) if D.get_submodule(f'b{res}').use_fp16] == reduced


@pytest.mark.parametrize(('device', 'reduced', 'full'), [
    ('cpu', torch.channels_last, torch.channels_last),
    ('meta', torch.channels_last, torch.contiguous_format),
])
def test_memory_format_is_channels_last_on_cpus_and_elsewhere_where_asked_for(device, reduced, full):
    x = torch.randn(2, 4, 16, 16, device=device)
    block = DiscriminatorBlock(4, 4, 4, 16, 3, first_layer_idx=0, use_fp16=True, fp16_channels_last=True)
    for force_fp32, dtype, memory_format in [(False, torch.float16, reduced), (True, torch.float32, full)]:
        y = block.cast(x, force_fp32)
        assert y.dtype == dtype
        assert [y.is_contiguous(memory_format=option) for option in (torch.contiguous_format, torch.channels_last)] == \
            [memory_format == option for option in (torch.contiguous_format, torch.channels_last)]


@pytest.mark.parametrize(('training', 'use_fp16', 'batch', 'explicit', 'fused'), [
    (True, False, 1, None, False),
    (False, False, 2, None, True),
    (False, True, 1, None, True),
    (False, True, 2, None, False),
    (True, True, 2, True, True),
    (False, False, 2, False, False),
])
@pytest.mark.parametrize('device', ['cpu', 'meta'])
def test_modulation_is_fused_in_evaluation_unless_a_batch_is_in_reduced_precision(
        training, use_fp16, batch, explicit, fused, device, monkeypatch):
    """A device without data stands for a GPU; on a CPU it is fused only when asked for."""
    seen = []
    original = layers.convolve_modulated
    monkeypatch.setattr(layers, 'convolve_modulated', lambda *args, fused_modconv, **kwargs: (
        seen.append(fused_modconv), original(*args, fused_modconv=fused_modconv, **kwargs))[1])
    block = SynthesisBlock(4, 4, 5, 8, 3, is_last=True, use_fp16=use_fp16).train(training).to(device)
    x, ws = torch.randn(batch, 4, 4, 4, device=device), torch.randn(batch, 3, 5, device=device)
    block(x, None, ws, fused_modconv=explicit)
    assert seen == [fused and (device != 'cpu' or explicit is not None)] * 3


# ----------------------------------------------------------------------------
# Construction.


@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_number_of_ws_is_two_per_resolution_in_every_architecture(architecture):
    for log2_res in (2, 3, 5):
        assert make_G(img_resolution=2 ** log2_res, architecture=architecture).num_ws == 2 * log2_res - 2


def test_to_rgb_shares_its_w_with_the_next_convolution():
    """w_1 reaches the 4x4 image and conv0 of 8x8; nothing before."""
    G = make_G().eval()
    ws = torch.randn(1, G.num_ws, 8, requires_grad=True)
    _, feats = G.synthesis(ws, noise_mode='const', return_feats=[4, 8, 32])
    used = {res: torch.autograd.grad(feat.sum(), ws, retain_graph=True)[0][0].abs().sum(dim=1) > 0
            for res, feat in feats.items()}
    assert used[4].tolist() == [True] + [False] * 7
    assert used[8].tolist() == [True] * 3 + [False] * 5
    assert used[32].tolist() == [True] * 7 + [False]


def test_block_filter_reaches_only_the_layers_that_resample():
    G = make_G(architecture='resnet', resample_filter=[1, 2, 1])
    D = make_D(architecture='resnet', block_kwargs={'resample_filter': [1, 2, 1]})
    for net in (G, D):
        for name, buffer in net.named_buffers():
            if name.endswith('resample_filter'):
                layer = name.split('.')[-2]
                default = layer in ('fromrgb', 'conv') or layer == ('conv1' if net is G else 'conv0')
                assert buffer.shape == ((4, 4) if default else (3, 3)), name


def test_frozen_layers_keep_their_values_and_gradients_flow_past_them():
    torch.manual_seed(0)
    free = make_D()
    torch.manual_seed(0)
    D = make_D(block_kwargs={'freeze_layers': 5})
    state = D.state_dict()
    assert state.keys() == free.state_dict().keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in free.state_dict().items())
    D.load_state_dict(free.state_dict())
    img = torch.randn(4, 3, 32, 32, requires_grad=True)
    torch.testing.assert_close(D(img, None), free(img, None), rtol=0, atol=0)
    D(img, None).sum().backward()
    assert img.grad.abs().max() > 0


@pytest.mark.parametrize('net', [
    lambda: make_G(c_dim=3, architecture='resnet', num_fp16_res=2, conv_clamp=256, fp16_channels_last=True),
    lambda: make_D(c_dim=3, architecture='skip', cmap_dim=7, block_kwargs={'freeze_layers': 2}, conv_clamp=2,
                   mapping_kwargs={'num_layers': 1}, epilogue_kwargs={'mbstd_num_channels': 0}),
], ids=['G', 'D'])
def test_networks_can_be_rebuilt_from_their_recorded_arguments(net):
    net = net()
    assert list(net.init_kwargs) == list(inspect.signature(type(net)).parameters)
    rebuilt = type(net)(**json.loads(json.dumps(net.init_kwargs)))
    assert rebuilt.init_kwargs == net.init_kwargs
    rebuilt.load_state_dict(net.state_dict())
    assert [name for name, _ in rebuilt.named_parameters()] == [name for name, _ in net.named_parameters()]
    inputs = (torch.randn(2, 8), torch.eye(2, 3)) if isinstance(net, Generator) else (
        torch.randn(2, 3, 32, 32), torch.eye(2, 3))
    kwargs = {'noise_mode': 'const'} if isinstance(net, Generator) else {}
    assert torch.equal(net.eval()(*inputs, **kwargs), rebuilt.eval()(*inputs, **kwargs))


def test_recorded_arguments_do_not_follow_what_the_caller_does_later():
    synthesis_kwargs = {'channel_base': 64}
    G = Generator(8, 0, 8, 4, 3, synthesis_kwargs=synthesis_kwargs)
    synthesis_kwargs['channel_base'] = 32
    assert G.init_kwargs['synthesis_kwargs'] == {'channel_base': 64}
    assert G.init_kwargs['mapping_kwargs'] == {}


PUBLIC_NAMES = {  # Argument names and defaults that outside scripts rely on; ours come behind or in between by name.
    MappingNetwork: 'z_dim c_dim w_dim num_ws num_layers=8 embed_features=None layer_features=None activation=lrelu '
                    'lr_multiplier=0.01 w_avg_beta=0.995',
    MappingNetwork.forward: 'z c truncation_psi=1 truncation_cutoff=None skip_w_avg_update=False',
    layers.FullyConnectedLayer: 'in_features out_features bias=True activation=linear lr_multiplier=1 bias_init=0',
    layers.Conv2dLayer: 'in_channels out_channels kernel_size bias=True activation=linear up=1 down=1 '
                        'resample_filter=(1,3,3,1) conv_clamp=None channels_last=False trainable=True',
    layers.Conv2dLayer.forward: 'x gain=1',
    layers.SynthesisLayer: 'in_channels out_channels w_dim resolution kernel_size=3 up=1 use_noise=True '
                           'activation=lrelu resample_filter=(1,3,3,1) conv_clamp=None channels_last=False',
    layers.SynthesisLayer.forward: 'x w noise_mode=random fused_modconv=True gain=1',
    layers.ToRGBLayer: 'in_channels out_channels w_dim kernel_size=1 conv_clamp=None channels_last=False',
    layers.ToRGBLayer.forward: 'x w fused_modconv=True',
    layers.MinibatchStdLayer: 'group_size num_channels=1',
    layers.modulated_conv2d: 'x weight styles noise=None up=1 down=1 padding=0 resample_filter=None demodulate=True '
                             'flip_weight=True fused_modconv=True',
    layers.normalize_2nd_moment: 'x dim=1 eps=1e-08',
    SynthesisBlock: 'in_channels out_channels w_dim resolution img_channels is_last architecture=skip '
                    'resample_filter=(1,3,3,1) conv_clamp=None use_fp16=False fp16_channels_last=False',
    SynthesisBlock.forward: 'x img ws force_fp32=False fused_modconv=None',
    SynthesisNetwork: 'w_dim img_resolution img_channels channel_base=32768 channel_max=512 num_fp16_res=0',
    SynthesisNetwork.forward: 'ws',
    Generator: 'z_dim c_dim w_dim img_resolution img_channels mapping_kwargs={} synthesis_kwargs={}',
    Generator.forward: 'z c truncation_psi=1 truncation_cutoff=None',
    DiscriminatorBlock: 'in_channels tmp_channels out_channels resolution img_channels first_layer_idx '
                        'architecture=resnet activation=lrelu resample_filter=(1,3,3,1) conv_clamp=None '
                        'use_fp16=False fp16_channels_last=False freeze_layers=0',
    DiscriminatorBlock.forward: 'x img force_fp32=False',
    DiscriminatorEpilogue: 'in_channels cmap_dim resolution img_channels architecture=resnet mbstd_group_size=4 '
                           'mbstd_num_channels=1 activation=lrelu conv_clamp=None',
    DiscriminatorEpilogue.forward: 'x img cmap force_fp32=False',
    Discriminator: 'c_dim img_resolution img_channels architecture=resnet channel_base=32768 channel_max=512 '
                   'num_fp16_res=0 conv_clamp=None cmap_dim=None block_kwargs={} mapping_kwargs={} epilogue_kwargs={}',
    Discriminator.forward: 'img c',
}


@pytest.mark.parametrize('function', PUBLIC_NAMES, ids=lambda function: function.__qualname__)
def test_public_arguments_have_their_names_order_and_defaults(function):
    parameters = [p for name, p in inspect.signature(function).parameters.items() if name != 'self']
    public = [p.name if p.default is p.empty else f'{p.name}={p.default}'.replace(' ', '') for p in parameters]
    expected = PUBLIC_NAMES[function].split()
    assert public[: len(expected)] == expected


# ----------------------------------------------------------------------------
# Refusals.


@pytest.mark.parametrize(('make', 'message'), [
    (lambda: make_G(img_resolution=48), 'img_resolution=48: must be a power of two, at least 4'),
    (lambda: make_G(img_resolution=2), 'img_resolution=2: must be a power of two, at least 4'),
    (lambda: make_D(img_resolution=48), 'img_resolution=48: must be a power of two, at least 8'),
    (lambda: make_D(img_resolution=4), 'img_resolution=4: must be a power of two, at least 8'),
    (lambda: make_G(architecture='unet'), 'architecture=unet: must be one of orig, skip, resnet'),
    (lambda: make_D(architecture='unet'), 'architecture=unet: must be one of orig, skip, resnet'),
    (lambda: DiscriminatorEpilogue(4, 0, 4, 3, architecture='unet'), 'architecture=unet: must be one of orig, skip'),
    (lambda: make_G(activation='gelu'), 'activation=gelu: must be one of linear, relu, lrelu'),
    (lambda: make_D(block_kwargs={'activation': 'gelu'}), 'activation=gelu: must be one of linear, relu, lrelu'),
    (lambda: make_G(mapping_kwargs={'activation': 'gelu'}), 'activation=gelu: must be one of linear, relu, lrelu'),
    (lambda: make_G(reduced_dtype='float64'), 'reduced_dtype=float64: must be one of float16, bfloat16'),
    (lambda: make_D(reduced_dtype='float64'), 'reduced_dtype=float64: must be one of float16, bfloat16'),
    (lambda: make_G(channel_base=16), 'channel_base=16, channel_max=16: no channels at 32x32'),
])
def test_wrong_settings_are_refused_in_a_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(('call', 'message'), [
    (lambda G, D: G.synthesis(torch.randn(1, 7, 8)), r'shape \[1, 7, 8\], expected \[None, 8, 8\]'),
    (lambda G, D: G(torch.randn(1, 7), None), r'shape \[1, 7\], expected \[None, 8\]'),
    (lambda G, D: D(torch.randn(1, 3, 16, 16), None), r'shape \[1, 3, 16, 16\], expected \[None, 3, 32, 32\]'),
])
def test_tensors_of_wrong_shape_are_refused(call, message):
    with pytest.raises(AssertionError, match=message):
        call(make_G(), make_D())


def test_every_public_name_can_be_imported_from_the_networks_module():
    assert {'modulated_conv2d', 'normalize_2nd_moment', 'Generator', 'Discriminator'} < set(networks.__all__)
    assert all(hasattr(networks, name) for name in networks.__all__)


@pytest.mark.parametrize('architecture', ['skip', 'orig', 'resnet'])
def test_styles_of_all_layers_at_once_are_those_of_each(architecture):
    """As on GPUs: to rounding, with their gradients."""
    torch.manual_seed(0)
    G = SynthesisNetwork(8, 32, 3, channel_base=256, channel_max=16, architecture=architecture)
    ws = torch.randn(3, G.num_ws, 8, requires_grad=True)
    layers = [layer for layer in G.modules() if hasattr(layer, 'affine')]
    alone = {}
    for layer in layers:
        layer.affine.register_forward_hook(lambda module, _, y: alone.update({module: y}))
    G(ws, noise_mode='none')
    styles = G.styles_of(ws)
    assert list(styles) == G.block_resolutions and sum(map(len, styles.values())) == len(layers)
    for res, group in styles.items():
        block = getattr(G, f'b{res}')
        names = [name for name in ('conv0', 'conv1', 'torgb') if hasattr(block, name)]
        for name, style in zip(names, group, strict=True):
            torch.testing.assert_close(style, alone[getattr(block, name).affine])
    leaves = [ws, *(layer.affine.weight for layer in layers), *(layer.affine.bias for layer in layers)]
    together = [style for group in styles.values() for style in group]
    gradients = [torch.autograd.grad(sum(style.square().sum() for style in outputs), leaves)
                 for outputs in (together, alone.values())]
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)



@pytest.mark.parametrize('architecture', ['skip', 'resnet'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_what_is_prepared_for_all_layers_at_once_gives_the_same_images(architecture, dtype):
    """As on GPUs: images, and derivatives of both orders, of weights and latents."""
    torch.manual_seed(0)
    reduced = dict(num_fp16_res=2, conv_clamp=256) if dtype == torch.float16 else {}
    channels = dict(channel_base=256, channel_max=16)
    G = SynthesisNetwork(8, 16, 3, architecture=architecture, **channels, **reduced).train()
    set_noise_strength(G, 0.5)
    ws = torch.randn(2, G.num_ws, 8, requires_grad=True)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    prepared = G.prepared(ws, noise_generator=generators[0])
    arguments = [own for each in prepared.values() for own in each]
    drawn = torch.cat([own['noise'].flatten() for own in arguments if 'noise' in own])
    assert torch.equal(drawn, torch.randn(drawn.shape, generator=generators[1]))
    assert 'noise' not in G.prepared(ws, noise_mode='const')[4][0]
    assert 'modulation' not in G.eval().prepared(ws)[4][0]
    found, params = [], [ws, *G.train().parameters()]
    for at_once in (False, True):
        arguments, x, img = G.prepared(ws, noise_generator=generators[0].manual_seed(1)), None, None
        for res, first in ((4, 0), (8, 1), (16, 3)):
            block = getattr(G, f'b{res}')
            for own in arguments[res]:
                own.pop('nothing' if at_once else 'modulation', None)
            block_ws = ws[:, first:first + block.num_conv + block.num_torgb]
            x, img = block(x, img, block_ws, prepared=arguments[res])
        first = torch.autograd.grad(img.square().sum(), params, retain_graph=True, allow_unused=True)
        slope, = torch.autograd.grad(img.sin().sum(), ws, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), params, allow_unused=True)
        found.append([img, *first, slope, *second])
    for a, b in zip(*found, strict=True):
        if a is not None:
            share = 2e-2 if dtype == torch.float16 else 1e-4
            torch.testing.assert_close(a, b, rtol=0, atol=share * float(a.detach().abs().max()) + 1e-7)
