"""GGDR: its fixtures, its gradients and shapes, resuming, options."""

import pytest
import torch
from fixture_data import case_ids, load_net
from step_fixtures import Reports, grad_norms, network, reals, run_phase
from tiny import assert_same_bits, make_config, make_dataset, run_iterations
from torch.nn.functional import cosine_similarity, softplus

from losses_ext.ggdr import EPS, GGDR, CosineToConstant, Options, cosine_distance, decode, decoder_resolutions
from losses_ext.path_length import PathLength
from losses_ext.r1 import R1
from torch_utils import checkpoint
from training import setup
from training.augment import PIPES, AugmentPipe
from training.diffaugment import DiffAugment
from training.loss import Game, Phase, StepContext, d_both, d_main, d_reg, g_main, g_reg
from training.networks import Discriminator, Generator
from training.player import Player

STEPS = dict(Gmain=g_main, Greg=g_reg, Dmain=d_main, Dreg=d_reg, Dboth=d_both)
SMALL = dict(img_resolution=32, img_channels=3)
CHANNELS = dict(channel_base=512, channel_max=16)


class PercentilePipe(AugmentPipe):
    """Draws everything at one percentile."""
    percentile = None

    def draw(self, images, debug_percentile=None, generator=None):
        return super().draw(images, self.percentile, generator)


def make_game(res='16', augment=None, c_dim=0, **options):
    torch.manual_seed(1)
    G = Generator(z_dim=16, c_dim=c_dim, w_dim=16, mapping_kwargs=dict(num_layers=2),
                  synthesis_kwargs=dict(channel_base=256, channel_max=12), **SMALL)
    D = Discriminator(c_dim=c_dim, mapping_kwargs=dict(num_layers=2), **CHANNELS, **SMALL)
    game = Game(Player('G', lambda: G), Player('D', lambda: D), augment=augment, style_mixing_prob=0)
    game.regularizers = [GGDR(game, Options(res=res, **options))]
    return game


def context(num=4, c_dim=0):
    torch.manual_seed(2)
    c = torch.eye(3)[torch.arange(num) % 3][:, :c_dim]
    return dict(gen_z=torch.randn([num, 16]), gen_c=c, real_c=c, real_img=torch.rand([num, 3, 32, 32]) * 2 - 1)


def d_phase(game):
    return Phase('Dmain', d_main, [game.D], critic=game.D)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers of another implementation


def fixture_game(case):
    config, (description, D_state) = case.config, load_net(case.nets['D'])
    D_config = {key: value for key, value in description['config'].items() if key != 'decoder_res'}
    augment = PercentilePipe(**config.get('augment_enabled', {})) if 'augment_enabled' in config else None
    if augment is not None:
        augment.percentile = config['augment_percentile']
    game = Game(Player('G', lambda: network(case.nets['G'])), Player('D', lambda: Discriminator(**D_config)),
                augment=augment, style_mixing_prob=0)
    options = PathLength.Options(config['pl_weight'], config['pl_decay'], config['pl_batch_shrink'])
    path_length = PathLength(game, options)
    path_length.load_state_dict(dict(mean=torch.tensor(config['pl_mean'])))
    ggdr = GGDR(game, Options(res=str(config['ggdr_res']), warp='official'))
    game.regularizers = [path_length, R1(game, R1.Options(config['r1_gamma'])), ggdr]
    game.D.module.load_state_dict(D_state)
    return game


@pytest.mark.parametrize('case', case_ids('06b_loss_ggdr'))
def test_phase_equals_the_fixture(case):
    game, name = fixture_game(case), case.config['phase']
    critic = game.D if name[0] == 'D' else None
    phase = Phase(name, STEPS[name], [critic or game.G], case.config['gain'], critic)
    with Reports() as reports:
        run_phase(game, phase, gen_z=case.input('z'), gen_c=case.input('gen_c'), real_img=reals(case),
                  real_c=case.input('real_c'), pl_noise=case.input('pl_noise'))
    for output in case.outputs:
        kind, _, rest = output.partition('/')
        module, _, parameter = rest.partition('/')
        if rest == 'Loss/D/loss_gan_gen':
            case.check(output, softplus(reports.all('Loss/scores/fake')).mean())
        elif rest == 'Loss/D/loss_gen_reg':
            term = 10 * (1 - reports.all('Loss/ggdr/cosine').mean())
            case.check(output, term if kind == 'stat_mean' else term[None])
        elif kind in ('stat_mean', 'stat_values'):
            values = reports.all(rest)
            case.check(output, values.mean() if kind == 'stat_mean' else values)
        elif kind == 'grad_norms':
            net = dict(G=game.G, D=game.D)[module].module
            case.check(output, grad_norms(net, load_net(case.nets[module])[0]['params']))
        elif kind == 'grad':
            grad = dict(dict(G=game.G, D=game.D)[module].module.named_parameters())[parameter].grad
            case.check(output, torch.zeros(case.outputs[output].shape) if grad is None else grad)
        elif output == 'pl_mean_after':
            case.check(output, game.regularizers[0].state_dict()['mean'])
        else:
            assert output == 'w_avg_after'
            case.check(output, game.G.module.mapping.w_avg)


@pytest.mark.parametrize('case', case_ids('08a_ggdr_term'))
def test_term_equals_the_fixture(case):
    config, value = case.config, 0
    sources = {r: case.input(f'source_{r}').requires_grad_() for r in config['resolutions']}
    targets = {r: case.input(f'target_{r}').requires_grad_() for r in config['resolutions']}
    for r in config['resolutions']:
        value = value + config['weight'] * cosine_distance(sources[r], targets[r]).mean() / len(config['resolutions'])
    value.backward()
    if case.id == 'one_map':
        sources[8].grad[0, :, 1, 1] = 0                     # A vector of zeros has no direction.
    case.check('value', value)
    for r in config['resolutions']:
        case.check(f'grad_source_{r}', sources[r].grad)
        case.check(f'grad_target_{r}', targets[r].grad)


# Two neighbouring numbers at 9.9 lie 1e-6 apart in float32, and the two networks in front round in their own
# way on every processor and with every build of torch (seen: 2.1e-6). Six digits of six printed are held.
WORKED = 1e-5


def test_a_worked_example():
    """Networks, latents, decoder and joint augmentation as
    another implementation computed them, to six digits."""
    torch.manual_seed(0)
    channels = dict(channel_base=2048, channel_max=64)
    G = Generator(z_dim=64, c_dim=0, w_dim=64, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=channels, **SMALL)
    game = Game(Player('G', lambda: G), Player('D', lambda: Discriminator(c_dim=0, **channels, **SMALL)))
    GGDR(game, Options(res='16'))
    D = game.D.module
    assert [list(p.shape) for p in list(D.parameters())[-4:]] == [[64, 64, 1, 1], [64], [64, 128, 1, 1], [64]]
    assert list(D.state_dict())[-6:] == ['b8_dec.weight', 'b8_dec.bias', 'b8_dec.resample_filter',
                                         'b16_dec.weight', 'b16_dec.bias', 'b16_dec.resample_filter']
    torch.manual_seed(1)
    img, feats = G.eval()(torch.randn([4, 64]), None, noise_mode='const', return_feats=[16])
    maps = decode(D.eval(), D(img, None, return_feats=True)[1], decoder_resolutions(16))
    printed = [maps[8].mean(), maps[8].std(), maps[16].mean(), maps[16].std(),
               10 * cosine_distance(maps[16], feats[16]).mean()]
    expected = torch.tensor([-0.048512, 1.028144, 0.016412, 1.211518, 9.934076])
    torch.testing.assert_close(torch.stack(printed), expected, atol=WORKED, rtol=0)
    pipe = AugmentPipe(**PIPES['bg'])
    torch.manual_seed(5)
    draw = pipe.draw(img)
    maps = decode(D, D(pipe.transform(img, draw), None, return_feats=True)[1], decoder_resolutions(16))
    distance = cosine_distance(maps[16], pipe.warp(feats[16], draw, form='official'))
    torch.testing.assert_close(10 * distance.mean(), torch.tensor(9.795272), atol=WORKED, rtol=0)


# ---------------------------------------------------------------------------------------------------------------------
# The term


def test_only_directions_count():
    u, v = torch.randn([2, 5, 4, 4]), torch.randn([2, 5, 4, 4])
    distance = cosine_distance(u, v)
    torch.testing.assert_close(cosine_distance(u * (torch.rand([2, 1, 4, 4]) + 0.1), v * 3), distance)
    assert distance.shape == (2,) and (distance > 0).all() and (distance < 2).all()
    torch.testing.assert_close(cosine_distance(u, 2 * u), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine_distance(u, -u), torch.full([2], 2.0))


def test_gradient_of_the_cosine():
    u, v = torch.randn([7], requires_grad=True), torch.randn([7])
    (-cosine_distance(u[None, :, None, None], v[None, :, None, None])).sum().backward()
    cos = u @ v / (u.norm() * v.norm())
    torch.testing.assert_close(u.grad, (v / v.norm() - cos * u / u.norm()) / u.norm())
    assert abs(u.grad @ u) < 1e-6


def test_the_cosine_of_gpus_is_the_stock_one():
    """Values and gradients, also where one of the two is nothing."""
    u, v = (torch.randn([2, 5, 4, 4], dtype=torch.float64) for _ in range(2))
    u[0, :, 0, 0], v[0, :, 1, 1], v[1, :, 2, 2] = 0, 0, 1e-9
    weights, found = torch.randn([2, 4, 4], dtype=torch.float64), []
    for cosine in (lambda u: CosineToConstant.apply(u, v, v.norm(dim=1)), lambda u: cosine_similarity(u, v, dim=1, eps=EPS)):
        x = u.clone().requires_grad_()
        y = cosine(x)
        found.append([y.detach(), *torch.autograd.grad((y * weights).sum(), x)])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_positions_without_target_or_under_cutout_do_not_count():
    u, v = torch.randn([2, 5, 4, 4], requires_grad=True), torch.randn([2, 5, 4, 4])
    v[0, :, 1] = 0
    keep = torch.ones([2, 4, 4], dtype=torch.bool)
    keep[0, :, 2] = False
    keep[1] = False
    distance = cosine_distance(u, v, keep)
    rest = [0, 2, 3]
    cos = (u[0] * v[0]).sum(0) / (u[0].norm(dim=0) * v[0].norm(dim=0))              # [4, 4]
    columns = [0, 1, 3]
    torch.testing.assert_close(distance[0], 1 - cos[rest][:, columns].mean())
    assert distance[1] == 0                                                         # Nothing is left of this one.
    distance.sum().backward()
    assert u.grad.isfinite().all() and (u.grad[0, :, 1] == 0).all() and (u.grad[1] == 0).all()


@pytest.mark.parametrize('augment', [None, AugmentPipe(**PIPES['bgc'], cutout=1), DiffAugment('translation,cutout')],
                         ids=['plain', 'bgc+cutout', 'diffaugment'])
def test_gradient_is_that_of_the_base_plus_the_formula(augment):
    game = make_game('8,32', augment, weight=7)
    D = game.D.module
    torch.manual_seed(0)
    run_phase(game, d_phase(game), **context())
    total = {name: p.grad.clone() for name, p in D.named_parameters()}
    game.regularizers = []
    torch.manual_seed(0)
    ctx = run_phase(game, d_phase(game), **context())
    base = {name: 0 if p.grad is None else p.grad.clone() for name, p in D.named_parameters()}

    D.zero_grad()
    with torch.no_grad():
        img, F = game.G.module(ctx.gen_z, ctx.gen_c, return_feats=[8, 32])
    draw = ctx.fake.draw
    feats = D(img if augment is None else augment.transform(img, draw), None, return_feats=True)[1]
    y = {8: D.b8_dec(feats[4])}
    y[16] = D.b16_dec(torch.cat([y[8], feats[8]], 1))
    y[32] = D.b32_dec(torch.cat([y[16], feats[16]], 1))
    loss = 0
    for r in (8, 32):
        target = F[r] if augment is None else augment.warp(F[r], draw)
        unit = [x / x.norm(dim=1, keepdim=True).clamp(min=1e-6) for x in (y[r], target)]
        shown = (target.norm(dim=1) > 1e-6) & (True if augment is None else draw.keep_mask(r))
        for n in range(4):
            loss = loss + 7 * (1 - (unit[0] * unit[1]).sum(1)[n][shown[n]].mean()) / 4 / 2
    loss.backward()
    for name, p in D.named_parameters():
        expected = base[name] + (0 if p.grad is None else p.grad)
        torch.testing.assert_close(total[name], expected, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize('c_dim', [0, 3])
def test_gradient_reaches_trunk_and_decoder_alone(c_dim):
    game = make_game('16', c_dim=c_dim)
    G, D = game.G.module.requires_grad_(True), game.D.module.requires_grad_(True)
    ctx = StepContext(game, d_phase(game), None, **context(c_dim=c_dim))
    ctx.rng = lambda use: torch.default_generator
    ctx.gen = game.generate(ctx, ctx.gen_z, ctx.gen_c)      # With graph, as in a one-stage step.
    ctx.fake = game.judge_fakes(ctx, game.D, leaf='img')
    game.regularizers[0].d_fake(ctx).mean().backward()
    assert all(p.grad is None for p in G.parameters())
    without = {name for name, p in D.named_parameters() if p.grad is None or (p.grad == 0).all()}
    assert without == {name for name, _ in D.named_parameters() if name.startswith(('b4.', 'mapping.'))}


@pytest.mark.parametrize('augment', [None, AugmentPipe(**PIPES['color'])], ids=['none', 'color'])
def test_target_is_untouched_where_nothing_moves(augment):
    """(What a geometric pipe does to maps, at p = 0 and above, is in test_augment_warp.py.)"""
    game = make_game('16', augment)
    maps = torch.randn([2, 5, 16, 16])
    draw = None if augment is None else augment.draw((2, 3, 32, 32))
    assert game.warp(maps, draw) is maps


@pytest.mark.parametrize(('size', 'res'), [(32, 8), (64, 16), (256, 64), (512, 64), (32, 32)])
def test_decoder_shapes(size, res):
    channels = dict(channel_base=4096, channel_max=24)
    G = Generator(z_dim=8, c_dim=0, w_dim=8, img_resolution=size, img_channels=1, mapping_kwargs=dict(num_layers=1),
                  synthesis_kwargs=dict(channel_base=2048, channel_max=10))
    D = Discriminator(c_dim=0, img_resolution=size, img_channels=1, **channels)
    game = Game(Player('G', lambda: G), Player('D', lambda: D))
    GGDR(game, Options(res=str(res)))
    maps = decode(D, D(torch.randn([1, 1, size, size]), None, return_feats=True)[1], decoder_resolutions(res))
    assert {r: list(y.shape) for r, y in maps.items()} == {
        r: [1, min(2048 // r, 10), r, r] for r in (8, 16, 32, 64) if r <= res}


@pytest.mark.parametrize(('size', 'channel_base', 'res', 'millions'), [(256, 16384, 64, 25.58), (256, 32768, 64, None),
                                                                       (32, 32768, 8, None)])
def test_decoder_has_the_published_number_of_weights(size, channel_base, res, millions):
    """25.58 M with the critic; 1.84 M for the wide network, 0.26 M for 32 pixels."""
    channels = dict(channel_base=channel_base, channel_max=512)
    with torch.device('meta'):
        G = Generator(z_dim=512, c_dim=0, w_dim=512, img_resolution=size, img_channels=3, synthesis_kwargs=channels)
        game = Game(Player('G', lambda: G),
                    Player('D', lambda: Discriminator(c_dim=0, img_resolution=size, img_channels=3, **channels)))
        bare = sum(p.numel() for p in game.D.module.parameters())
        GGDR(game, Options(res=str(res)))
    total = sum(p.numel() for p in game.D.module.parameters())
    assert round(total / 1e6, 2) == millions if millions else \
        round((total - bare) / 1e6, 2) == {256: 1.84, 32: 0.26}[size]


def test_float16_maps_are_compared_in_float32():
    """Squares of 512 values of 200 overflow float16."""
    game = make_game('8')
    feats = {4: torch.full([2, 16, 4, 4], 200.0).half()}
    maps = decode(game.D.module, feats, [8])
    assert maps[8].dtype == torch.float32 and cosine_distance(maps[8], torch.randn_like(maps[8])).isfinite().all()


def test_first_critic_of_every_source_has_a_decoder_and_no_other():
    shape = dict(c_dim=0, **CHANNELS, **SMALL)
    G = Generator(z_dim=16, w_dim=16, c_dim=0, mapping_kwargs=dict(num_layers=1), synthesis_kwargs=CHANNELS, **SMALL)
    game = Game(Player('G', lambda: G), Player('D', lambda: Discriminator(**shape)))
    game.add_critic('D_1', source=1)
    ggdr = GGDR(game, Options(res='8'))
    twin = game.add_critic('D2')
    assert [critic.grafts for critic in game.critics.values()] == [['b8_dec'], ['b8_dec'], []]
    ctx = StepContext(game, Phase('D2main', d_main, [twin], critic=twin), None, **context())
    assert ggdr.d_fake(ctx) is None


@pytest.mark.parametrize('step', [d_main, d_reg, g_main])
def test_decoder_runs_on_fakes_of_the_main_step_alone(step):
    """What is not used cannot spoil anything."""
    game = make_game('16')
    game.regularizers.insert(0, R1(game, R1.Options(1.0)))
    calls = []
    game.D.module.b8_dec.register_forward_hook(lambda *_: calls.append(1))
    player = game.G if step is g_main else game.D
    run_phase(game, Phase('x', step, [player], critic=None if step is g_main else game.D), **context())
    assert len(calls) == (step is d_main)


# ---------------------------------------------------------------------------------------------------------------------
# Runs


def ggdr_config(data, res='8', **changes):
    return make_config(data, regularizers=dict(ggdr=dict(weight=10.0, res=res, warp='aligned')), **changes)


def test_decoder_is_in_snapshots_and_starts_fresh_from_those_without(tmp_path, capsys):
    data = make_dataset(tmp_path / 'data.zip')
    trained, _ = run_iterations(ggdr_config(data), 1)
    plain = setup.build(make_config(data), torch.device('cpu'))

    def restart(config, source):
        path = tmp_path / 'snapshot.safetensors'
        networks = {p.name: p.module for p in source.game.players}
        checkpoint.save_networks(path, {**networks, 'G_ema': source.G_ema}, training_set_kwargs=None)
        run = setup.build({**config, 'seed': 5}, torch.device('cpu'))
        setup.init_from(run, checkpoint.load_networks(path))
        return run.game.D.module.state_dict(), capsys.readouterr().out

    state, printed = restart(ggdr_config(data), trained)
    assert_same_bits(state, trained.game.D.module.state_dict())
    assert printed == ''
    state, printed = restart(ggdr_config(data), plain)
    assert printed.count('\n') == 1 and 'D: no weights for b8_dec' in printed
    assert_same_bits({key: state[key] for key in plain.game.D.module.state_dict()}, plain.game.D.module.state_dict())
    assert state['b8_dec.weight'].std() > 0.5
    state, printed = restart(ggdr_config(data, res='16'), trained)
    assert 'no weights for b16_dec, which' in printed
    assert torch.equal(state['b8_dec.weight'], trained.game.D.module.b8_dec.weight)
    state, printed = restart(make_config(data), trained)
    assert 'b8_dec.weight' not in state and printed == ''


# ---------------------------------------------------------------------------------------------------------------------
# Options


def configure(size, augment='AugmentPipe', **options):
    config = dict(data_shape=dict(img_resolution=size), augment_kwargs=dict(class_name=f'training.x.{augment}'))
    return GGDR.configure(config, Options(**options))


@pytest.mark.parametrize(('size', 'res'), [(1024, '64'), (256, '64'), (128, '32'), (64, '16'), (32, '8'), (8, '8')])
def test_resolution_follows_the_images(size, res):
    assert configure(size).res == res


@pytest.mark.parametrize('size', [64, 128, 256, 1024])
def test_the_published_command_line_is_one_option(size, capsys):
    """Resolution and warp of the official code at every size; where the defaults are others, they say so."""
    options = configure(size, published=True)
    assert (options.res, options.warp) == ('64', 'official') and capsys.readouterr().err == ''
    options, said = configure(size), capsys.readouterr().err
    assert options.warp == 'aligned' and (said != '') == (size < 256)
    assert size >= 256 or f'--ggdr_res={options.res} --ggdr_warp=aligned' in said and '--ggdr_published=1' in said


@pytest.mark.parametrize('option, value', [('res', '32'), ('warp', 'aligned')])
def test_published_and_something_else_exclude_each_other(option, value):
    with pytest.raises(ValueError, match=f'--ggdr_published=1 is --ggdr_{option}=.*: leave it or --ggdr_{option}={value} out'):
        configure(256, published=True, **{option: value})


def test_given_resolutions_are_kept():
    assert configure(256, res='64').res == '64'
    assert configure(256, res='256,8').res == '256,8'


@pytest.mark.parametrize('res', ['96', '4', '128', '8,,16', 'abc', '-8'])
def test_impossible_resolution_is_refused_with_the_possible_ones(res):
    with pytest.raises(ValueError, match=f'--ggdr_res={res}: must be among 8, 16, 32, 64'):
        configure(64, res=res)


def test_published_warp_is_refused_for_diffaugment():
    with pytest.raises(ValueError, match='--ggdr_warp=official .* not for --aug=diffaug'):
        configure(64, 'DiffAugment', warp='official')
    assert configure(64, 'DiffAugment').warp == 'aligned'


def test_no_decoder_on_a_critic_with_a_view():
    game = make_game('8')
    game.D.view = lambda img, ctx: img
    with pytest.raises(AssertionError, match='GGDR asks D for'):
        GGDR(game, Options(res='8'))
