"""A worked example of two networks: names, shapes, initial values, outputs, second-order quantities, sizes.

The numbers were printed by another implementation to the
digits shown; `close` allows for two units of the last one.
"""
import pytest
import torch

from training.networks import Discriminator, Generator

KWARGS = {'img_resolution': 32, 'img_channels': 3}
CHANNELS = {'channel_base': 2048, 'channel_max': 64}


def make_G(c_dim=0, **synthesis_kwargs):
    return Generator(z_dim=64, c_dim=c_dim, w_dim=64, mapping_kwargs={'num_layers': 2},
                     synthesis_kwargs={**CHANNELS, **synthesis_kwargs}, **KWARGS)


def make_D(c_dim=0, **kwargs):
    return Discriminator(c_dim=c_dim, mapping_kwargs={'num_layers': 2}, **CHANNELS, **KWARGS, **kwargs)


@pytest.fixture
def example():
    """G and D in evaluation mode, and four latents."""
    torch.manual_seed(0)
    G, D = make_G().eval(), make_D().eval()
    torch.manual_seed(1)
    return G, D, torch.randn([4, 64])


PICTURES = 3.65         # The largest value of a picture that the networks of `example` draw.


def close(obtained, text, size=0.0):
    """Does a tensor (its first elements) have the values printed in `text`? To two units of the last digit,
    or to 16 roundings of float32, of the value or of the numbers of `size` that it is formed of, if that is more.

    The last digits depend on the order of sums, and so on the processor: with the instructions of torch and
    oneDNN limited from AVX-512 down to SSE (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA), 11 roundings were seen.
    """
    words = text.replace('−', '-').split(', ')
    obtained = torch.as_tensor(obtained, dtype=torch.float64).flatten()[: len(words)].tolist()
    for value, word in zip(obtained, words, strict=True):
        mantissa, _, exponent = word.partition('e')
        unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition('.')[2]))
        rounding = 2 ** -24 * max(abs(value), size)
        assert abs(value - float(word)) <= max(2 * unit, 16 * rounding), f'{value} is not {word}'
    return True


# ----------------------------------------------------------------------------
# Names and shapes.


def synthesis_layer(name, res):
    return {f'{name}.weight': [64, 64, 3, 3], f'{name}.noise_strength': [], f'{name}.bias': [64],
            f'{name}.resample_filter': [4, 4], f'{name}.noise_const': [res, res],
            f'{name}.affine.weight': [64, 64], f'{name}.affine.bias': [64]}


def conv_layer(name, *weight, bias=True):
    return {f'{name}.weight': list(weight), **({f'{name}.bias': [weight[0]]} if bias else {}),
            f'{name}.resample_filter': [4, 4]}


def dense_layer(name, *weight):
    return {f'{name}.weight': list(weight), f'{name}.bias': [weight[0]]}


def expected_G(architecture, c_dim):
    shapes = {}
    for res in (4, 8, 16, 32):
        b = f'synthesis.b{res}'
        if res == 4:
            shapes[f'{b}.const'] = [64, 4, 4]
        shapes[f'{b}.resample_filter'] = [4, 4]
        if res > 4:
            shapes |= synthesis_layer(f'{b}.conv0', res)
        shapes |= synthesis_layer(f'{b}.conv1', res)
        if architecture == 'skip' or res == 32:
            shapes |= {f'{b}.torgb.weight': [3, 64, 1, 1], f'{b}.torgb.bias': [3],
                       f'{b}.torgb.affine.weight': [64, 64], f'{b}.torgb.affine.bias': [64]}
        if architecture == 'resnet' and res > 4:
            shapes |= conv_layer(f'{b}.skip', 64, 64, 1, 1, bias=False)
    shapes['mapping.w_avg'] = [64]
    if c_dim:
        shapes |= dense_layer('mapping.embed', 64, c_dim)
    return shapes | dense_layer('mapping.fc0', 64, 128 if c_dim else 64) | dense_layer('mapping.fc1', 64, 64)


def expected_D(architecture, c_dim):
    shapes = {}
    for res in (32, 16, 8):
        shapes[f'b{res}.resample_filter'] = [4, 4]
        if architecture == 'skip' or res == 32:
            shapes |= conv_layer(f'b{res}.fromrgb', 64, 3, 1, 1)
        shapes |= conv_layer(f'b{res}.conv0', 64, 64, 3, 3) | conv_layer(f'b{res}.conv1', 64, 64, 3, 3)
        if architecture == 'resnet':
            shapes |= conv_layer(f'b{res}.skip', 64, 64, 1, 1, bias=False)
    if c_dim:
        shapes |= dense_layer('mapping.embed', 64, c_dim)
        shapes |= dense_layer('mapping.fc0', 64, 64) | dense_layer('mapping.fc1', 64, 64)
    if architecture == 'skip':
        shapes |= conv_layer('b4.fromrgb', 64, 3, 1, 1)
    shapes |= conv_layer('b4.conv', 64, 65, 3, 3) | dense_layer('b4.fc', 64, 1024)
    return shapes | dense_layer('b4.out', 64 if c_dim else 1, 64)


@pytest.mark.parametrize('c_dim', [0, 10])
@pytest.mark.parametrize('architecture', ['orig', 'skip', 'resnet'])
@pytest.mark.parametrize(('make', 'expected'), [(make_G, expected_G), (make_D, expected_D)], ids=['G', 'D'])
def test_state_dict_has_the_published_names_and_shapes_in_the_published_order(make, expected, architecture, c_dim):
    state = make(c_dim, architecture=architecture).state_dict()
    assert [(name, list(tensor.shape)) for name, tensor in state.items()] == list(expected(architecture, c_dim).items())
    assert all(tensor.dtype == torch.float32 for tensor in state.values())


def sizes(net):
    """Elements of parameters, elements of buffers, keys."""
    return (sum(p.numel() for p in net.parameters()), sum(b.numel() for b in net.buffers()), len(net.state_dict()))


@pytest.mark.parametrize(('make', 'architecture', 'c_dim', 'expected'), [
    (make_G, 'skip', 0, (314387, 2944, 75)),
    (make_G, 'skip', 10, (319187, 2944, 77)),
    (make_G, 'orig', 0, (301322, 2944, 63)),
    (make_G, 'resnet', 0, (313610, 2992, 69)),
    (make_D, 'resnet', 0, (337281, 224, 37)),
    (make_D, 'resnet', 10, (350400, 224, 43)),
    (make_D, 'orig', 0, (324993, 176, 31)),
    (make_D, 'skip', 0, (325761, 224, 40)),
])
def test_small_networks_have_the_published_sizes(make, architecture, c_dim, expected):
    assert sizes(make(c_dim, architecture=architecture)) == expected


@pytest.mark.parametrize(('res', 'base', 'num_layers', 'arch', 'c_dim', 'num_ws', 'expected_G', 'expected_D'), [
    (32, 32768, 2, 'orig', 0, 8, (19947539, 3392, 75), (20720641, 176, 31)),
    (32, 32768, 2, 'orig', 10, 8, (20215315, 3392, 77), (23089664, 176, 49)),
    (256, 16384, 8, 'resnet', 0, 14, (24767458, 175568, 144), (24001089, 416, 64)),
    (256, 16384, 2, 'resnet', 0, 14, (23191522, 175568, 132), (24001089, 416, 64)),
    (512, 32768, 8, 'resnet', 0, 16, (30276583, 699904, 163), (28982849, 480, 73)),
    (1024, 32768, 8, 'resnet', 0, 18, (30370060, 2797104, 182), (29012513, 544, 82)),
])
def test_full_networks_have_the_published_sizes(
        res, base, num_layers, arch, c_dim, num_ws, expected_G, expected_D, monkeypatch):
    monkeypatch.setattr(torch, 'randn', torch.empty)    # The values do not matter and take seconds.
    G = Generator(z_dim=512, c_dim=c_dim, w_dim=512, img_resolution=res, img_channels=3,
                  mapping_kwargs={'num_layers': num_layers}, synthesis_kwargs={'channel_base': base})
    D = Discriminator(c_dim=c_dim, img_resolution=res, img_channels=3, architecture=arch, channel_base=base)
    assert (G.num_ws, sizes(G), sizes(D)) == (num_ws, expected_G, expected_D)


# ----------------------------------------------------------------------------
# Values.


def test_initial_values_and_the_number_of_draws_are_the_published_ones():
    torch.manual_seed(0)
    G, D = make_G(), make_D()
    next_draw = torch.rand([])
    G, D = G.state_dict(), D.state_dict()
    assert close(G['synthesis.b4.const'], '−1.12584, −1.15236, −0.250579, −0.433879')
    assert close(G['synthesis.b4.conv1.affine.weight'], '−1.084082, −0.128738, −0.681077, −1.309896')
    assert close(G['synthesis.b4.conv1.weight'], '0.353251, −0.131677, −1.639345, −2.446875')
    assert close(G['synthesis.b4.conv1.noise_const'], '−0.332855, 1.269201, −0.976564, 0.365125')
    assert close(G['synthesis.b32.torgb.weight'], '−1.16784, 0.04576, −0.937005, 0.404547')
    assert close(G['mapping.fc0.weight'], '−129.816376, −58.731106, −202.278732, −185.783417')
    assert close(D['b32.fromrgb.weight'], '−1.405954, 0.141714, −1.930583, −0.226771')
    assert close(D['b8.skip.weight'], '−0.101074, −0.389305, −0.671964, −0.239539')
    assert close(D['b4.conv.weight'], '0.541675, −0.432709, 0.174561, 0.591964')
    assert close(D['b4.out.weight'], '0.171017, −1.803895, −0.863551, −1.039272')
    assert close(next_draw, '0.493478775')


def draws_G(architecture, c_dim):
    """Names of the tensors drawn at random, in the order of their draws."""
    for res in (4, 8, 16, 32):
        b = f'synthesis.b{res}'
        yield from [f'{b}.const'] if res == 4 else []
        for conv in ['conv1'] if res == 4 else ['conv0', 'conv1']:
            yield from (f'{b}.{conv}.{name}' for name in ('affine.weight', 'weight', 'noise_const'))
        if architecture == 'skip' or res == 32:
            yield from (f'{b}.torgb.affine.weight', f'{b}.torgb.weight')
        yield from [f'{b}.skip.weight'] if architecture == 'resnet' and res > 4 else []
    yield from ['mapping.embed.weight'] if c_dim else []
    yield from ('mapping.fc0.weight', 'mapping.fc1.weight')


def draws_D(architecture, c_dim):
    """Likewise."""
    return [name for name in expected_D(architecture, c_dim) if name.endswith('weight')]


@pytest.mark.parametrize('c_dim', [0, 10])
@pytest.mark.parametrize('architecture', ['orig', 'skip', 'resnet'])
@pytest.mark.parametrize(('make', 'draws'), [(make_G, draws_G), (make_D, draws_D)], ids=['G', 'D'])
def test_initial_values_are_drawn_tensor_by_tensor_in_the_published_order(make, draws, architecture, c_dim):
    torch.manual_seed(5)
    net = make(c_dim, architecture=architecture)
    next_draw = torch.rand([])
    state = net.state_dict()
    torch.manual_seed(5)
    for name in draws(architecture, c_dim):
        lr_multiplier = 0.01 if '.fc' in name and 'mapping' in name else 1
        assert torch.equal(state[name], torch.randn(state[name].shape) / lr_multiplier), name
    assert torch.rand([]) == next_draw


def test_outputs_are_the_published_ones(example):
    G, D, z = example
    assert close(z, '−1.525596, −0.750232, −0.653981, −1.609485')
    ws = G.mapping(z, None)
    assert close(ws, '0.256892, −0.187415, 1.466993, 0.435391')
    assert close(ws.mean(), '0.4313012') and close(ws.std(), '0.9462323')
    img = G(z, None, noise_mode='const')
    assert close(img, '−0.12224, −0.107157, 0.001644, 0.121648')
    assert close(img.mean(), '0.0061729', size=1.3)
    assert close(img.std(), '1.2877880') and close(img.abs().max(), '3.647549')
    assert close(D(img, None), '0.255026, 0.582201, 0.21217, 0.434868', PICTURES)


def test_outputs_with_noise_are_the_published_ones(example):
    G, _, z = example
    for name, param in G.named_parameters():
        if name.endswith('noise_strength'):
            torch.nn.init.constant_(param, 0.1)
    img = G(z, None, noise_mode='const', fused_modconv=True)       # As published: the last digit depends on it.
    assert close(img, '−0.22014, −0.2792, −0.162356, −0.131238')
    assert close(img.mean(), '−0.0339462', size=1.4) and close(img.std(), '1.3614202')
    torch.manual_seed(2)
    img = G(z, None, noise_mode='random', fused_modconv=True)
    assert close(img, '−0.027348, −0.454485, 0.190078, 0.141395')
    assert close(img.mean(), '−0.0407569', size=1.4) and close(img.std(), '1.3711606')


def test_w_avg_and_truncation_are_the_published_ones(example):
    G, _, z = example
    G.train().mapping(z, None)
    assert close(G.mapping.w_avg, '−0.000246, 0.000747, 0.001911, 0.001056')
    ws = G.eval().mapping(z, None, truncation_psi=0.5, truncation_cutoff=3)
    assert close(ws[0, 0], '0.128323, −0.093334, 0.734452, 0.218223')
    assert torch.equal(ws[0, 0], ws[0, 2])
    assert close(ws[0, 3], '0.256892, −0.187415, 1.466993, 0.435391')


def test_feature_maps_have_the_published_statistics(example):
    G, _, z = example
    _, feats = G(z, None, noise_mode='const', return_feats=[4, 8, 16, 32])
    expected = {4: ('0.353507', '0.751891'), 8: ('0.216366', '0.435119'), 16: ('0.100277', '0.275873'),
                32: ('0.098979', '0.212737')}
    assert list(feats) == list(expected)
    for res, (mean, std) in expected.items():
        assert feats[res].shape == (4, 64, res, res)
        assert close(feats[res].mean(), mean) and close(feats[res].std(), std)


def check_grad_norms(net, loss, expected):
    grads = torch.autograd.grad(loss, [net.get_parameter(name) for name in expected])
    for grad, text in zip(grads, expected.values()):
        assert close(grad.norm(), text)


def test_r1_and_its_gradients_are_the_published_ones(example):
    G, D, z = example
    img = G(z, None, noise_mode='const').detach().requires_grad_()
    grad, = torch.autograd.grad(D(img, None).sum(), img, create_graph=True)
    penalty = grad.square().sum(dim=[1, 2, 3])
    assert close(penalty, '0.00235006, 0.0018736, 0.00169446, 0.00260119')
    check_grad_norms(D, penalty.mean(), {
        'b32.fromrgb.weight': '0.000827471', 'b32.conv0.weight': '0.000550811', 'b16.skip.weight': '0.000438173',
        'b4.conv.weight': '0.000654474', 'b4.fc.weight': '0.000718694', 'b4.out.weight': '0.00106964',
        'b32.conv0.bias': '7.81308e-07'})


def test_path_length_and_its_gradients_are_the_published_ones(example):
    G, _, z = example
    ws = G.train().mapping(z, None, skip_w_avg_update=True)
    img = G.synthesis(ws, noise_mode='const')
    torch.manual_seed(3)
    grad, = torch.autograd.grad((img * torch.randn_like(img) / 32).sum(), ws, create_graph=True)
    lengths = grad.square().sum(dim=2).mean(dim=1).sqrt()
    assert close(lengths, '1.0578959, 1.0147069, 0.770808, 0.7400842')
    check_grad_norms(G, lengths.square().mean(), {
        'synthesis.b4.const': '0.121013', 'synthesis.b8.conv0.weight': '0.114882',
        'synthesis.b32.conv1.affine.weight': '0.0542197', 'synthesis.b32.torgb.weight': '0.076156',
        'synthesis.b16.conv1.bias': '0.0955871', 'mapping.fc1.weight': '0.00192815'})
