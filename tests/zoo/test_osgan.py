"""One-stage training: its forms, refusals, cost, and the fixtures 08e and 08f."""
import math

import pytest
import torch
from fixture_data import case_ids
from step_fixtures import FixtureContext, Reports, build_game
from tiny import make_config, make_dataset
from torch.nn.functional import leaky_relu, linear

from losses_ext import GAMES as ALL_GAMES
from losses_ext import configure, rules_of
from losses_ext.osgan import Options, one_stage, ratio_of
from training import setup
from training.loss import LOGISTIC, Game, Phase, d_main, g_main
from training.player import Player
from training.regularizer import Regularizer
from training.training_loop import run_phase

GAMES = list(ALL_GAMES)
NETS = dict(G='Gt_a', D='Dt_a')


# A GAN of four linear layers, as the fixture describes it.

class DenseG(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        self.A0, self.a0, self.A1, self.a1 = (torch.nn.Parameter(case.input(name)) for name in ('A0', 'a0', 'A1', 'a1'))
        self.shape = case.config['image']

    def mapping(self, z, c, skip_w_avg_update=False):
        return leaky_relu(linear(z, self.A0, self.a0), 0.2)

    def synthesis(self, ws, return_feats=(), noise_generator=None):
        return linear(ws, self.A1, self.a1).tanh().reshape(-1, *self.shape)


class DenseD(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        self.B0, self.b0, self.B1, self.b1 = (torch.nn.Parameter(case.input(name)) for name in ('B0', 'b0', 'B1', 'b1'))

    def forward(self, img, c, return_feats=False):
        return linear(leaky_relu(linear(img.flatten(1), self.B0, self.b0), 0.2), self.B1, self.b1)


def one_stage_gradients(game, options, **context):
    """{name: gradient} of both players after one joint step."""
    phase = next(one_stage(game, options))
    for player in game.players:
        player.module.zero_grad(set_to_none=True)
        player.module.requires_grad_(True)
    phase.step(game, FixtureContext(game, phase, None, **context))
    return {name: p.grad for player in game.players for name, p in player.module.named_parameters(player.name)}


def two_stage_gradients(game, **context):
    """The same from two separate steps at the same parameters on the same batch."""
    grads = {}
    for step, player, critic in ((g_main, game.G, None), (d_main, game.D, game.D)):
        for other in game.players:
            other.module.zero_grad(set_to_none=True)
            other.module.requires_grad_(other is player)
        phase = Phase('', step, [player], critic=critic)
        phase.step(game, FixtureContext(game, phase, None, **context))
        grads.update({name: p.grad for name, p in player.module.named_parameters(player.name)})
    return grads


@pytest.mark.parametrize('form', ['exact', 'simple', 'full'])
@pytest.mark.parametrize('case', case_ids('08f_onestage_gradients'))
def test_gradients_equal_the_fixture(case, form):
    name = 'saturating' if case.config['variant'] == 'symmetric' else 'logistic'
    game = Game(Player('G', lambda: DenseG(case)), Player('D', lambda: DenseD(case)), rules_of(name), style_mixing_prob=0)
    z = case.input('z')
    c = torch.zeros([len(z), 0])
    grads = one_stage_gradients(game, Options(form=form), gen_z=z, gen_c=c, real_img=case.input('real'), real_c=c)
    for output in case.outputs:
        kind, _, parameter = output.partition('/')
        if kind in ('grad', 'two_stage'):
            case.check(output, grads[f'{"G" if parameter in ("A0", "a0", "A1", "a1") else "D"}.{parameter}'])


@pytest.mark.parametrize('case', case_ids('08e_onestage_ratio'))
def test_ratio_equals_the_fixture(case):
    gamma = ratio_of(LOGISTIC, case.input('logits'), None, math.inf)
    case.check('gamma', gamma)
    case.check('factor', 1 / (1 - gamma))


def stored_game(name='logistic'):
    game = build_game(NETS)
    game.adversarial = rules_of(name)
    game.regularizers = []
    return game


def context(num=8):
    torch.manual_seed(1)
    c = torch.zeros([num, 0])
    return dict(gen_z=torch.randn([num, 32]), gen_c=c, real_img=torch.rand([num, 3, 32, 32]) * 2 - 1, real_c=c)


@pytest.mark.parametrize('name', GAMES)
def test_exact_form_equals_two_stages(name):
    """With minibatch statistics (the stored critic has them), for every game."""
    game = stored_game(name)
    expected = two_stage_gradients(game, **context())
    for key, grad in one_stage_gradients(game, Options(), **context()).items():
        torch.testing.assert_close(grad, expected[key], rtol=2e-4, atol=2e-6, msg=lambda text, k=key: f'{k}: {text}')


@pytest.mark.parametrize('form', ['exact', 'simple'])
@pytest.mark.parametrize('name', ['logistic', 'relativistic'])
def test_smaller_micro_batches_count_by_their_share(name, form):
    """As after memory ran out: gradients of both players, times the share."""
    game = stored_game(name)
    whole = one_stage_gradients(game, Options(form=form), **context())
    for key, grad in one_stage_gradients(game, Options(form=form), share=0.25, **context()).items():
        torch.testing.assert_close(grad, whole[key] / 4, rtol=1e-4, atol=1e-7, msg=lambda text, k=key: f'{k}: {text}')


@pytest.mark.parametrize('name, real', [('logistic', None), ('relativistic', torch.tensor([1.0, 1.0, 1.0]))])
def test_statistics_of_the_ratio(name, real):
    with Reports() as reports:
        gamma = ratio_of(rules_of(name), torch.tensor([-20.0, 2.0, 3.0]), real, 1e4)
    shift = 0 if real is None else 1
    assert reports.all('Loss/osgan/min_logit') == -20 - shift and reports.all('Loss/osgan/median_logit') == 2 - shift
    assert reports.all('Loss/osgan/clamped').tolist() == [1, 0, 0] and gamma[0] == -1e4


def spread(game, factor):
    """Makes the logits unequal, as a trained critic's are."""
    game.D.module.b4.out.weight.data *= factor


@pytest.mark.parametrize('name', ['logistic', 'relativistic'])
def test_ratio_forms_need_a_per_sample_critic(name):
    """Without minibatch statistics they equal the exact form; with them they do not."""
    for coupled in (False, True):
        game = stored_game(name)
        spread(game, 20)
        if not coupled:         # The statistic's channel gets no weight.
            game.D.module.b4.conv.weight.data[:, -1] = 0
        grads = {form: one_stage_gradients(game, Options(form=form), **context()) for form in ('exact', 'simple', 'full')}
        for form in ('simple', 'full'):
            error = max((grads[form][key] - grad).abs().max() / grad.abs().max()
                        for key, grad in grads['exact'].items() if key.startswith('G.') and grad.abs().max() > 0)
            assert (error < 1e-3) != coupled, f'{form}: {error}'


@pytest.mark.parametrize('name', ['saturating', 'wgan'])
def test_sign_flip_is_exact_for_coupled_critics(name):
    game = stored_game(name)
    spread(game, 20)
    expected = one_stage_gradients(game, Options(), **context())
    for key, grad in one_stage_gradients(game, Options(form='simple'), **context()).items():
        torch.testing.assert_close(grad, expected[key], rtol=1e-3, atol=1e-5, msg=lambda text, k=key: f'{k}: {text}')


class LargeLogits(Regularizer):
    """A term on the fakes of a method that says nothing about them."""

    def d_fake(self, ctx):
        return 3 * ctx.fake.logits.square()


@pytest.mark.parametrize('form', ['exact', 'simple', 'full'])
@pytest.mark.parametrize('name', ['logistic', 'saturating', 'wgan', 'relativistic'])
def test_a_term_on_fakes_reaches_the_critic_alone(name, form):
    game = stored_game(name)
    before = one_stage_gradients(game, Options(form=form), **context())
    game.regularizers = [LargeLogits(game, None)]
    after = one_stage_gradients(game, Options(form=form), **context())
    for key, grad in before.items():
        if key.startswith('G.') and grad is not None:
            assert torch.equal(after[key], grad), key
    assert not torch.allclose(after['D.b4.out.weight'], before['D.b4.out.weight'])


def test_an_unknown_game_is_refused_by_name():
    with pytest.raises(ValueError, match='--osgan_game=chess: there is no such game; there are logistic, '):
        configure(zoo_config(), dict(game='chess'))


@pytest.mark.parametrize('name', ['logistic', 'saturating', 'wgan', 'relativistic'])
def test_ratio_is_the_quotient_of_the_derivatives(name):
    a = torch.linspace(-5, 5, 11, dtype=torch.float64, requires_grad=True)
    real = torch.linspace(1, -1, 11, dtype=torch.float64)
    game = rules_of(name)
    dG, = torch.autograd.grad(game.G(a, real).sum(), a)
    dD, = torch.autograd.grad((game.D(a, real) if game.paired else game.D_fake(a)).sum(), a)
    gamma = ratio_of(game, a, real if game.paired else None, math.inf)
    torch.testing.assert_close(gamma, dG / dD)
    if name == 'logistic':
        torch.testing.assert_close(1 / (1 - gamma), torch.sigmoid(a.detach()))
        torch.testing.assert_close(game.D_fake(a) - game.G(a, None), a)


@pytest.mark.parametrize('logit', [-200.0, -100.0, -20.0, 0.0, 20.0, 200.0])
@pytest.mark.parametrize('form', ['exact', 'simple', 'full'])
@pytest.mark.parametrize('name', ['logistic', 'saturating', 'wgan', 'relativistic'])
def test_gradients_are_finite_at_extreme_logits(name, form, logit):
    game = stored_game(name)
    game.D.module.b4.out.bias.data.fill_(logit)
    if name == 'relativistic':      # A common shift cancels; move the fakes alone.
        module, forward = game.D.module, game.D.module.forward
        module.forward = lambda img, c, **kw: forward(img, c, **kw) + (logit if img.requires_grad else -logit)
    for key, grad in one_stage_gradients(game, Options(form=form), **context(4)).items():
        assert grad is None or grad.isfinite().all(), key


def zoo_config(**changes):
    config = dict(loss='osgan', loss_kwargs=dict(game='osgan', r1_gamma=1.0), regularizers={}, batch=4,
                  training_set_kwargs=dict(resolution=32),
                  G_kwargs=dict(synthesis_kwargs=dict(channel_base=1024, channel_max=32)),
                  D_kwargs=dict(epilogue_kwargs=dict(mbstd_num_channels=0), num_fp16_res=0, channel_base=1024, channel_max=32))
    config.update(changes)
    return config


@pytest.mark.parametrize('options, changes, sentence', [
    (dict(form='simple'), dict(D_kwargs=dict(epilogue_kwargs={})), 'minibatch statistics.*--mbstd-group=0'),
    (dict(form='full'), dict(D_kwargs=dict(epilogue_kwargs=dict(mbstd_num_channels=0), num_fp16_res=4)), '--fp32=1'),
    (dict(form='simple', game='hinge'), {}, '--osgan_game=hinge'),
    (dict(form='full', game='lsgan'), {}, '--osgan_game=lsgan'),
    (dict(form='simple', game='saturating'), dict(regularizers=dict(ggdr={})), '--reg_type=ggdr'),
    (dict(game='wgan'), dict(target=0.6), '--aug=ada cannot follow'),
])
def test_refusals(options, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        configure(zoo_config(**changes), options)


@pytest.mark.parametrize('options, changes', [
    (dict(form='simple'), {}),
    (dict(form='simple', force=True), dict(D_kwargs=dict(epilogue_kwargs={}))),
    (dict(form='simple', game='wgan'), dict(D_kwargs=dict(epilogue_kwargs={}, num_fp16_res=4))),
    (dict(game='hinge'), dict(D_kwargs=dict(epilogue_kwargs={}), target=0.6)),
])
def test_what_is_not_refused(options, changes):
    config = zoo_config(**changes)
    configure(config, options)
    assert config['loss_kwargs']['game'] == options.get('game', 'logistic')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp('data') / 'plain.zip')


def osgan_run(data, **changes):
    config = make_config(data, loss='osgan', loss_options=dict(form='exact'), **changes)
    run = setup.build(config, torch.device('cpu'))
    run.enter_stage(0)
    return run


def test_both_gradients_are_taken_before_either_step(data):
    """Swapping the order in which the players step changes nothing."""
    states = []
    for order in (1, -1):
        run = osgan_run(data)
        phase = run.phases[0]
        phase.players = phase.players[::order]
        run_phase(run, phase, [run.reals[0].next_batch()], {})
        states.append([p for player in run.game.players for p in player.module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*states))


@pytest.mark.parametrize('form', ['exact', 'simple', 'full'])
def test_one_pass_of_g_and_two_of_d(data, form):
    run = osgan_run(data)
    counts = dict(G=0, D=0)
    run.game.G.module.synthesis.register_forward_hook(lambda *_: counts.__setitem__('G', counts['G'] + 1))
    run.game.D.module.register_forward_hook(lambda *_: counts.__setitem__('D', counts['D'] + 1))
    phase = next(one_stage(run.game, Options(form=form)))
    run_phase(run, phase, [run.reals[0].next_batch()], {})
    assert counts == dict(G=1, D=2)
    assert [phase.name for phase in run.phases] == ['GDmain', 'Greg', 'Dreg']
