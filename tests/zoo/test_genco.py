"""GenCo: views, twin critics, their terms, and the fixtures 06c, 08b and 08c."""
import copy
import math
from types import SimpleNamespace

import pytest
import torch
from fixture_data import case_ids, load_net
from step_fixtures import Reports, build_game, grad_norms, network, reals, run_phase
from tiny import make_config, make_dataset

import losses_ext
from losses_ext.daco import DaCo, band_map, keep_bands, num_kept
from losses_ext.daco import Options as DaCoOptions
from losses_ext.genco import GenCo
from losses_ext.genco import Options as GenCoOptions
from losses_ext.weco import Options as WeCoOptions
from losses_ext.weco import WeCo, joined_cosine, parameter_pairs, weight_cosine
from torch_utils.randomness import Streams
from training import setup
from training.loss import Phase, StepContext, d_main, d_reg, g_main, g_reg
from training.training_loop import adapt_augmentation

MASKS = ['hermitian', 'official']


# Fixtures.

def genco_game(case):
    config = case.config
    game = build_game(case.nets, r1_gamma=config['r1_gamma'], pl_weight=config['pl_weight'], pl_mean=config['pl_mean'],
                      pl_batch_shrink=config['pl_batch_shrink'], pl_decay=config['pl_decay'])
    weco, daco = WeCo(game, WeCoOptions()), DaCo(game, DaCoOptions(mask='official'))
    daco._draw = lambda ctx, num, device: case.input('bands', torch.float32)
    game.regularizers += [weco, daco]
    for name in ('D2', 'Dhigh'):
        game.critics[name].module = network(case.nets[name])
    return game


@pytest.mark.parametrize('case', case_ids('06c_loss_genco'))
def test_phase_equals_the_fixture(case):
    game, name = genco_game(case), case.config['phase']
    player = {p.name: p for p in game.players}[name.removesuffix('main').removesuffix('reg')]
    step = {('G', 'main'): g_main, ('G', 'reg'): g_reg, ('D', 'main'): d_main, ('D', 'reg'): d_reg}[
        name[0], 'main' if name.endswith('main') else 'reg']
    phase = Phase(name, step, [player], case.config['gain'], None if name[0] == 'G' else player)
    with Reports() as reports:
        run_phase(game, phase, gen_z=case.input('z'), gen_c=case.input('gen_c'), real_img=reals(case),
                  real_c=case.input('real_c'), pl_noise=case.input('pl_noise'), remaining=case.config['damping'])
    for output in case.outputs:
        kind, _, rest = output.partition('/')
        module, _, parameter = rest.partition('/')
        if kind in ('stat_mean', 'stat_values'):
            rest = {'Loss/r21_penalty': 'Loss/r1_penalty2', 'Loss/rhigh1_penalty': 'Loss/r1_penaltyhigh'}.get(rest, rest)
            values = reports.all(rest)
            if rest == 'Loss/D2/loss':          # The fixture's includes the weight term.
                values = values + 0.01 * case.config['damping'] * (1 + reports.all('Loss/weco/cosine2'))
            case.check(output, values.mean() if kind == 'stat_mean' else values)
        elif kind == 'grad_norms':
            case.check(output, grad_norms(player.module, load_net(case.nets[module])[0]['params']))
        elif kind == 'grad':
            case.check(output, dict(player.module.named_parameters())[parameter].grad)
        elif output == 'pl_mean_after':
            case.check(output, game.regularizers[0].state_dict()['mean'])
        else:
            assert output == 'w_avg_after'
            case.check(output, game.G.module.mapping.w_avg)


@pytest.mark.parametrize('case', case_ids('08b_frequency_view'))
def test_view_equals_the_fixture(case):
    x = case.input('x').requires_grad_()
    y = keep_bands(x, case.input('bands', torch.float32), 'official')
    case.check('y', y)
    case.check('grad_x', torch.autograd.grad((case.input('v') * y).sum(), x)[0])
    band = band_map(*x.shape[2:], 64, 'official')
    case.check('band_map', torch.where(band == 64, -1, band).int())


@pytest.mark.parametrize('case', case_ids('08c_weight_discrepancy'))
def test_weight_discrepancy_equals_the_fixture(case):
    num = sum(name.startswith('d_') for name in case.inputs)
    learning = [case.input(f'e_{i}').requires_grad_() for i in range(num)]
    pairs = [(case.input(f'd_{i}'), learning[i]) for i in range(num)]
    value = (1 + weight_cosine(pairs)) * case.config['scale'] * case.config['damping']
    case.check('value', value)
    for i, grad in enumerate(torch.autograd.grad(value, learning)):
        case.check(f'grad_e_{i}', grad)


# The frequency view.

def all_bands(num, bands=64):
    return torch.ones([num, bands])


@pytest.mark.parametrize('mask', MASKS)
@pytest.mark.parametrize('size', [8, 16, 32, 64, 128, 256])
def test_with_all_bands_the_view_is_the_identity(size, mask):
    x = torch.randn([2, 3, size, size])
    torch.testing.assert_close(keep_bands(x, all_bands(2), mask), x, rtol=1e-5, atol=1e-5)


def official_band(k, n):
    """The band of frequency k, signed, as the official program numbers 64 of them."""
    radius = k + 1 if k >= 0 else -k
    return min(i for i in range(64) if n * (i + 1) // 128 >= radius)


@pytest.mark.parametrize('size', [32, 64, 128, 256])
def test_band_maps(size):
    signed = [k if k < size // 2 else k - size for k in range(size)]
    per_axis = torch.tensor([official_band(k, size) for k in signed])
    assert torch.equal(band_map(size, size, 64, 'official'), torch.maximum(per_axis[:, None], per_axis[None, :]))

    default = band_map(size, size, 64)
    expected = [[min(max(abs(ky), abs(kx)) * 64 // (size // 2 + 1), 63) for kx in signed] for ky in signed]
    assert default.tolist() == expected
    assert torch.equal(default, default.flip(0, 1).roll((1, 1), (0, 1)))
    assert default.min() == 0 and default.max() == 64 * (size // 2) // (size // 2 + 1)


def random_bands(num):
    return (torch.rand([num, 64]) < 0.5).float()


def test_the_default_view_is_an_orthogonal_projection():
    x, y, keep = torch.randn([2, 3, 32, 32]), torch.randn([2, 3, 32, 32]), random_bands(2)
    view = keep_bands(x, keep)
    torch.testing.assert_close(keep_bands(view, keep), view, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((view * y).sum(), (x * keep_bands(y, keep)).sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(view + keep_bands(x, 1 - keep), x, rtol=1e-5, atol=1e-5)
    full = torch.fft.ifft2(torch.fft.fft2(x) * keep[:, band_map(32, 32, 64)][:, None])
    assert full.imag.abs().max() < 1e-6
    torch.testing.assert_close(view, full.real, rtol=1e-5, atol=1e-5)


def test_constants_vanish_and_single_frequencies_pass_or_do_not():
    keep = all_bands(1)
    keep[:, :8] = 0
    assert keep_bands(torch.full([1, 3, 64, 64], 0.7), keep).abs().max() < 1e-6
    wave = torch.cos(2 * math.pi * 20 * torch.arange(64) / 64).expand(1, 1, 64, 64)
    torch.testing.assert_close(keep_bands(wave, keep), wave, rtol=1e-4, atol=1e-5)
    keep[:, 20 * 64 // 33] = 0
    assert keep_bands(wave, keep).abs().max() < 1e-5


def draw(options, num=50, phase='Dmain', nimg=0):
    daco = object.__new__(DaCo)
    daco.options = options
    phase = Phase(phase, d_main, [])
    return daco._draw(StepContext(None, phase, Streams(0), nimg), num, 'cpu')


def test_every_sample_keeps_its_number_of_bands_and_phases_share_them():
    options = DaCoOptions()
    keep = draw(options)
    assert num_kept(options) == 44 and (keep.sum(1) == 44).all() and keep[:, :8].sum() == 0
    assert len({tuple(row) for row in keep.tolist()}) == 50
    assert torch.equal(keep, draw(options, phase='Gmain')) and torch.equal(keep, draw(options, phase='Dhighreg'))
    assert not torch.equal(keep, draw(options, nimg=4))
    assert (draw(DaCoOptions(drop_low=0))[:, :8].sum(1) > 0).any()


def test_daco_that_would_see_nothing_is_refused():
    with pytest.raises(ValueError, match='--daco_keep=0 '):
        DaCo.configure({}, DaCoOptions(keep=0))


# The weight discrepancy.

def test_values_gradient_and_invariance():
    a, b = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64, requires_grad=True)
    cosine = weight_cosine([(a[:2], b[:2]), (a[2:], b[2:])])
    grad, = torch.autograd.grad(cosine, b)
    expected = (a / a.norm() - cosine * b / b.norm()) / b.norm()
    torch.testing.assert_close(grad, expected)
    assert abs((grad * b).sum()) < 1e-12
    torch.testing.assert_close(weight_cosine([(3 * a, 7 * b)]), cosine)
    for other, value in ((a, 1), (-a, -1)):
        assert weight_cosine([(a, other)]).item() == pytest.approx(value)
    layers = weight_cosine([(a[:2], b[:2]), (a[2:], b[2:])], 'layer')
    torch.testing.assert_close(layers, (weight_cosine([(a[:2], b[:2])]) + weight_cosine([(a[2:], b[2:])])) / 2)


def test_the_cosine_of_gpus_is_the_stock_one():
    """Values and gradients, however tensors lie in memory, and where one side is nothing."""
    shapes = [4, 3, 3, 3], [5], [2, 7], [4, 2, 1, 1]
    a, b = ([torch.randn(shape, dtype=torch.float64) for shape in shapes] for _ in range(2))
    a[0], b[0] = (x.to(memory_format=torch.channels_last) for x in (a[0], b[0]))
    for factor, layout in ((1, torch.channels_last), (1, torch.contiguous_format), (0, torch.channels_last)):
        a[0] = a[0].contiguous(memory_format=layout)
        mine = [(x * factor).requires_grad_() for x in b]
        cosine, expected = joined_cosine(list(zip(a, mine))), weight_cosine(list(zip(a, mine)))
        torch.testing.assert_close(cosine, expected)
        for one, other in zip(torch.autograd.grad(3 * cosine, mine), torch.autograd.grad(3 * expected, mine), strict=True):
            torch.testing.assert_close(one, other)


def test_only_the_twin_gets_a_gradient():
    game = build_game(dict(G='Gt_a', D='Dt_a'))
    weco = WeCo(game, WeCoOptions())
    for player in game.players:
        player.module.requires_grad_(True)
    assert weco.d_fake(SimpleNamespace(critic=game.D, remaining=1)) is None
    weco.d_fake(SimpleNamespace(critic=game.critics['D2'], remaining=1)).backward()
    assert all(p.grad is None for p in game.D.module.parameters())
    assert any(p.grad is not None for p in game.critics['D2'].module.parameters())


def test_decay_and_both():
    game = build_game(dict(G='Gt_a', D='Dt_a'))
    weco = WeCo(game, WeCoOptions(both=True))
    cosine = weight_cosine(parameter_pairs(game.D.module, game.critics['D2'].module))
    for critic in game.critics.values():
        value = weco.d_fake(SimpleNamespace(critic=critic, remaining=0.75))
        torch.testing.assert_close(value, 0.01 * 0.75 * (1 + cosine))


@pytest.mark.parametrize('twin', [False, True])
def test_at_weight_0_a_twin_without_push_is_kept_if_asked_for(data, twin):
    config = make_config(data, regularizers=dict(weco=dict(weight=0.0, twin=twin), genco={}))
    losses_ext.configure(config, {})
    run = setup.build(config, torch.device('cpu'))
    assert list(run.game.critics) == (['D', 'D2'] if twin else ['D'])
    for regularizer in run.game.having('d_fake'):
        with Reports() as reports:
            assert regularizer.d_fake(SimpleNamespace(critic=run.game.critics['D2'], remaining=0.75)) is None
        assert 'Loss/weco/cosine2' in reports.values


def test_unequal_critics_are_refused_by_the_first_tensor():
    with pytest.raises(ValueError, match=r'weight has shape \[2, 3\] in one and \[2, 4\] in the other'):
        parameter_pairs(torch.nn.Linear(3, 2), torch.nn.Linear(4, 2))


# Little to see.

@pytest.mark.parametrize('res, options, share', [
    (32, dict(bands=64, drop_low=63, keep=1.0), '100%'),        # 17 bands have frequencies, the highest is number 60.
    (32, dict(bands=64, drop_low=8, keep=0.05), '56%'),         # 2 of 56 bands, 42 empty: 42 * 41 / (56 * 55).
    (32, dict(bands=4, drop_low=2, keep=0.5), None),
    (32, dict(bands=64, drop_low=8, keep=0.8), None),
    (8, dict(bands=64, drop_low=8, keep=0.8), None),            # 44 of 56, 4 not empty: about 1 draw in 742.
])
def test_what_shows_the_critic_nothing_at_a_resolution_is_refused(res, options, share):
    configure = lambda: DaCo.configure(dict(data_shape=dict(img_resolution=res)), DaCoOptions(**options))       # noqa: E731
    if share is None:
        assert configure() == DaCoOptions(**options)
        return
    with pytest.raises(ValueError, match=f'--daco_drop_low={options["drop_low"]} .* at {res} pixels {share} of the choices'):
        configure()


# Together.

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp('data') / 'plain.zip')


def test_mean_of_three_copies_is_the_base_gradient():
    game = build_game(dict(G='Gt_a', D='Dt_a'))
    context = dict(gen_z=torch.randn([4, 32]), gen_c=torch.zeros([4, 0]))

    def gradient():
        run_phase(game, Phase('Gmain', g_main, [game.G]), **context)
        return [p.grad for p in game.G.module.parameters()]
    expected = gradient()
    for name in ('D2', 'D3'):
        game.add_critic(name).module = copy.deepcopy(game.D.module)
    GenCo(game, GenCoOptions(reduce='mean'))
    for grad, base in zip(gradient(), expected):
        torch.testing.assert_close(grad, base, rtol=1e-4, atol=1e-6)


def test_the_mean_is_over_the_critics_of_one_centre(data):
    centres = dict(data=f'{data},{data}', schedule='0+1:1', weights='sum')
    config = make_config(data, regularizers=dict(tdgan=centres, weco={}, daco={}, genco=dict(reduce='mean')))
    losses_ext.configure(config, {})
    run = setup.build(config, torch.device('cpu'))
    run.enter_stage(0)
    assert {name: critic.weight for name, critic in run.game.critics.items()} == dict.fromkeys(
        ['D', 'D_1', 'D2', 'D2_1', 'Dhigh', 'Dhigh_1'], 1 / 3)


@pytest.mark.parametrize('sign', [-1.0, 1.0])
def test_adaptive_strength_follows_the_first_critic(data, sign):
    augment = dict(class_name='training.augment.AugmentPipe', xflip=1)
    config = make_config(data, regularizers=dict(weco={}, daco={}, genco={}), augment_kwargs=augment, target=0.6)
    run = setup.build(config, torch.device('cpu'))
    run.game.augment.p.fill_(0.5)
    for name, critic in run.game.critics.items():
        critic.real_signs.fill_(4)
        critic.real_signs[0] *= sign if name == 'D' else -sign
    adapt_augmentation(run)
    assert (run.game.augment.p - 0.5).sign() == sign


def test_frozen_layers_of_a_critic_that_starts_fresh_are_those_of_d(data):
    """Fine-tuning from a file that knows no twin; also when a
    stage has new critics. Other layers are the twin's own."""
    file = setup.build(make_config(data, seed=1), torch.device('cpu')).game.D.module
    config = make_config(data, regularizers=dict(weco={}, genco={}))
    config['D_kwargs']['block_kwargs'] = dict(freeze_layers=3)
    run = setup.build(config, torch.device('cpu'))
    setup.init_from(run, dict(G=run.game.G.module, D=file))
    twin = run.game.critics['D2']
    for _ in range(2):
        for name, tensor in file.state_dict().items():
            same = torch.equal(twin.module.state_dict()[name], tensor)
            if tensor.ndim == 4 and name.endswith('.weight'):
                assert same == name.startswith(('b16.fromrgb', 'b16.conv')), name
        twin.reset(5)
