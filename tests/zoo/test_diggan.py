"""DigGAN: its fixtures, its arithmetic, running means, resuming, options."""
import copy

import pytest
import torch
from fixture_data import case_ids, load_net
from step_fixtures import Reports, grad_norms, network
from tiny import assert_resumes_exactly, assert_same_bits, make_config, make_dataset
from zoo_game import assert_sum, fakes, loss_gradients, make_batch, make_game, step_gradients

from losses_ext.diggan import DigGAN, Options
from losses_ext.r1 import R1
from training.augment import PIPES, AugmentPipe
from training.loss import Game, Phase, StepContext, d_both, d_main
from training.player import Player


class Critic(torch.nn.Module):
    """[N,C,H,W] -> [N,1] by a function of the flat images [N,n] and the parameters."""

    def __init__(self, function, **parameters):
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, torch.nn.Parameter(value))

    def forward(self, img, c, return_feats=False):
        return self.function(img.flatten(1), **dict(self.named_parameters()))[:, None]


class Images(torch.nn.Module):
    """A generator that is asked for nothing but its device."""

    def __init__(self):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros([]))


def toy_game(critic, augment=None, **options):
    game = Game(Player('G', Images), Player('D', lambda: critic), augment=augment)
    critic.requires_grad_(True)
    return game, DigGAN(game, Options(**{'weight': 1.0, **options}))


def context(game):
    ctx = StepContext(game, Phase('Dmain', d_main, [game.D], critic=game.D), None)
    ctx.rng = lambda use: torch.default_generator
    return ctx


def gap(game, diggan, x_f, x_r):
    """The term [N] for given fakes and reals."""
    ctx, none = context(game), torch.zeros([len(x_f), 0])
    ctx.fake = game.judge(ctx, game.D, x_f, none, 'fake', leaf=diggan.leaf)
    ctx.real = game.judge(ctx, game.D, x_r, none, 'real', leaf=diggan.leaf)
    return diggan.d_pair(ctx)


def pair(num=3, dtype=torch.float32):
    return torch.randn([num, 1, 2, 2], dtype=dtype), torch.randn([num, 1, 2, 2], dtype=dtype)


def quadratic(a=0.7, dtype=torch.float32):
    """D(x) = a/2 |x|^2 + w.x, whose gradient is a x + w."""
    return Critic(lambda x, a, w: a / 2 * x.square().sum(1) + x @ w,
                  a=torch.tensor(a, dtype=dtype), w=torch.randn([4], dtype=dtype))


def smooth():
    return Critic(lambda x, u, v: torch.tanh(x @ u) @ v,
                  u=torch.randn([4, 5], dtype=torch.float64), v=torch.randn([5], dtype=torch.float64))


# ---------------------------------------------------------------------------------------------------------------------
# Numbers of another implementation


def fixture_game(case, weight):
    game = Game(Player('G', Images), Player('D', lambda: network(case.nets['D'])))
    game.D.module.requires_grad_(True)
    return game, DigGAN(game, Options(weight=weight))


def check_gradients(case, k, D):
    case.check(f'grad_norms_{k}', grad_norms(D, load_net(case.nets['D'])[0]['params']))
    for name, parameter in D.named_parameters():
        if f'grad_{k}/{name}' in case.outputs:
            case.check(f'grad_{k}/{name}', parameter.grad)
    D.zero_grad()


@pytest.mark.parametrize('case', [c for c in case_ids('08d_gradient_gap') if c.id == 'separate_plain'])
def test_term_equals_the_fixture(case):
    weight = case.config['weight']
    game, diggan = fixture_game(case, weight)
    with Reports() as reports:
        term = gap(game, diggan, case.input('fake_0'), case.input('real_0')).mean()
    term.backward()
    for kind in ('fake', 'real'):
        case.check(f'norm_{kind}_0', reports.all(f'Loss/diggan/norm_{kind}'))
    case.check('penalty_0', reports.all('Loss/diggan/gap').mean())
    case.check('penalty_0', term / weight)
    check_gradients(case, 0, game.D.module)


@pytest.mark.parametrize('case', [c for c in case_ids('08d_gradient_gap') if c.id != 'separate_plain'])
def test_norms_equal_the_fixture(case):
    """The penalty of these two is arithmetic that is not
    offered: it is done here, the norms are the method's."""
    config = case.config
    game, diggan = fixture_game(case, config['weight'])
    stored = None
    for k in range(2 if config['running_average'] else 1):
        fake, real, ctx = case.input(f'fake_{k}'), case.input(f'real_{k}'), context(game)
        if config['mode'] == 'joint':
            both = game.judge(ctx, game.D, torch.cat([fake, real]), None, 'x', leaf='seen')
            norms = diggan._norms(ctx, both, 'both').chunk(2)
        else:
            norms = [diggan._norms(ctx, game.judge(ctx, game.D, x, None, 'x', leaf='seen'), 'x') for x in (fake, real)]
        used = norms if stored is None else [0.5 * n + 0.5 * previous for n, previous in zip(norms, stored)]
        stored = [n.detach() for n in used]
        penalty = (used[0] - used[1]).square().mean()
        (penalty * config['weight']).backward()
        for name, value in zip(('fake', 'real'), zip(norms, used)):
            case.check(f'norm_{name}_{k}', value[0])
            case.check(f'used_{name}_{k}', value[1])
        case.check(f'penalty_{k}', penalty)
        check_gradients(case, k, game.D.module)


# ---------------------------------------------------------------------------------------------------------------------
# The term


def test_quadratic_critic():
    critic = quadratic()
    game, diggan = toy_game(critic, weight=3.0)
    x_f, x_r = pair()
    term = gap(game, diggan, x_f, x_r)
    g_f, g_r = (critic.a * x.flatten(1) + critic.w for x in (x_f, x_r))             # [N, 4]
    n_f, n_r = g_f.norm(dim=1), g_r.norm(dim=1)
    torch.testing.assert_close(term, 3 * (n_r - n_f).square())
    term.mean().backward()
    slope = 3 * 2 * (n_r - n_f)[:, None]
    unit_f, unit_r = g_f / n_f[:, None], g_r / n_r[:, None]
    torch.testing.assert_close(critic.w.grad, (slope * (unit_r - unit_f)).mean(0))
    inner = (unit_r * x_r.flatten(1) - unit_f * x_f.flatten(1)).sum(1, keepdim=True)
    torch.testing.assert_close(critic.a.grad, (slope * inner).mean())


def test_linear_and_flat_critics_cost_nothing():
    for w in (torch.randn([4]), torch.zeros([4])):
        critic = Critic(lambda x, w: x @ w, w=w)
        game, diggan = toy_game(critic)
        term = gap(game, diggan, *pair())
        term.mean().backward()
        assert (term == 0).all() and (critic.w.grad == 0).all()


def test_gradient_of_zero_has_a_finite_derivative_against_one_that_is_not():
    critic = Critic(lambda x, a: a / 2 * x.square().sum(1), a=torch.tensor(2.0))
    game, diggan = toy_game(critic)
    x_f, x_r = pair()
    gap(game, diggan, x_f * 0, x_r).mean().backward()
    torch.testing.assert_close(critic.a.grad, 2 * 2 * x_r.flatten(1).square().sum(1).mean())    # Of (a |x|)^2.


def test_zero_iff_norms_match():
    critic = Critic(lambda x, a: a / 2 * x.square().sum(1), a=torch.tensor(1.0))    # Norm: |x|.
    game, sample = toy_game(critic)
    x = torch.nn.functional.normalize(torch.randn([4, 1, 2, 2]).flatten(1)).view(4, 1, 2, 2)
    sizes = torch.tensor([1.0, 2, 3, 4])[:, None, None, None]
    assert gap(game, sample, x * sizes, -x * sizes).max() < 1e-12
    other = x * sizes.flip(0)
    torch.testing.assert_close(gap(game, sample, x * sizes, other), torch.tensor([9.0, 1, 1, 9]))


@pytest.mark.parametrize(('scale', 'gap_of_means', 'slope'), [(1, 0.0, 0.0), (2, -2.5, -2.5)])
def test_gap_of_means(scale, gap_of_means, slope):
    """Norms are a |x|, so that the gap of means and its
    derivative by a are the gap of the mean |x|, at a = 1."""
    critic = Critic(lambda x, a: a / 2 * x.square().sum(1), a=torch.tensor(1.0))
    game, mean = toy_game(critic, pair='mean', weight=3.0, interval=2)
    x = torch.nn.functional.normalize(torch.randn([4, 1, 2, 2]).flatten(1)).view(4, 1, 2, 2)
    sizes = torch.tensor([1.0, 2, 3, 4])[:, None, None, None]
    with Reports() as reports:
        assert gap(game, mean, x * sizes.flip(0) * scale, x * sizes) is None
        mean.end_phase(context(game).phase)
    torch.testing.assert_close(reports.all('Loss/diggan/gap'), torch.tensor([gap_of_means ** 2]))
    torch.testing.assert_close(critic.a.grad, torch.tensor(2 * 3.0 * 2 * gap_of_means * slope))


def test_all_pairs_are_the_gap_and_two_variances():
    critic = quadratic()
    game, diggan = toy_game(critic)
    x_f, x_r = pair(4)
    every = gap(game, diggan, x_f.repeat_interleave(4, 0), x_r.repeat(4, 1, 1, 1)).mean()
    n_f, n_r = ((critic.a * x.flatten(1) + critic.w).norm(dim=1) for x in (x_f, x_r))
    expected = (n_r.mean() - n_f.mean()).square() + n_r.var(unbiased=False) + n_f.var(unbiased=False)
    torch.testing.assert_close(every, expected)


def test_scaling_the_critic_scales_the_gap_by_the_square():
    critic = quadratic()
    game, diggan = toy_game(critic)
    x_f, x_r = pair()
    before = gap(game, diggan, x_f, x_r)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(3)
    torch.testing.assert_close(gap(game, diggan, x_f, x_r), 9 * before)


def test_finite_differences():
    critic = smooth()
    game, diggan = toy_game(critic)
    x_f, x_r = pair(dtype=torch.float64)
    gap(game, diggan, x_f, x_r).mean().backward()
    step = 1e-6
    for parameter in critic.parameters():
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            values = []
            for sign in (1, -1):
                flat[i] += sign * step
                values.append(gap(game, diggan, x_f, x_r).mean().item())
                flat[i] -= sign * step
            numerical = (values[0] - values[1]) / (2 * step)
            assert abs(numerical - parameter.grad.view(-1)[i].item()) < 1e-7


@pytest.mark.parametrize('wrt', ['aug', 'image'])
def test_gradient_is_taken_after_or_before_augmentation(wrt):
    """Contrast alone: what the critic sees is s x + t, so that the two gradients differ by s."""
    critic = quadratic()
    augment = AugmentPipe(contrast=1)
    game, diggan = toy_game(critic, augment, wrt=wrt)
    x_f, x_r = pair()
    torch.manual_seed(3)
    term = gap(game, diggan, x_f, x_r)
    torch.manual_seed(3)
    norms = []
    for x in (x_f, x_r):
        draw = augment.draw(x)
        seen = augment.transform(x, draw)
        scale = (augment.transform(x + 1, draw) - seen)[:, 0, 0, 0]                 # [N]
        norm = (critic.a * seen.flatten(1) + critic.w).norm(dim=1)
        norms.append(norm * scale if wrt == 'image' else norm)
    torch.testing.assert_close(term, (norms[1] - norms[0]).square(), rtol=1e-4, atol=1e-5)


def test_running_mean_pulls_the_norms():
    critic = quadratic()
    game, diggan = toy_game(critic, ema=0.25)

    def norms(x):
        return (critic.a * x.flatten(1) + critic.w).norm(dim=1)

    x_f, x_r = pair()
    torch.testing.assert_close(gap(game, diggan, x_f, x_r), (norms(x_r) - norms(x_f)).square())
    diggan.end_iteration(3, 1)
    y_f, y_r = pair()
    used = [0.75 * norms(y) + 0.25 * norms(x).mean() for x, y in ((x_f, y_f), (x_r, y_r))]
    torch.testing.assert_close(gap(game, diggan, y_f, y_r), (used[1] - used[0]).square())
    other = toy_game(critic, ema=0.25)[1]
    diggan.end_iteration(6, 2)
    other.load_state_dict(copy.deepcopy(diggan.state_dict()))
    assert torch.equal(gap(game, other, y_f, y_r), gap(game, diggan, y_f, y_r))
    expected = gap(game, diggan, y_f, y_r)
    diggan.begin_stage(None, 0, resumed=True)
    assert torch.equal(gap(game, diggan, y_f, y_r), expected)
    diggan.begin_stage(None, 0, resumed=False)
    torch.testing.assert_close(gap(game, diggan, y_f, y_r), (norms(y_r) - norms(y_f)).square())


# ---------------------------------------------------------------------------------------------------------------------
# In the step


BATCH = make_batch()


def step_game(r1_gamma=0, augment=None, **options):
    game = make_game(augment)
    game.regularizers = [R1(game, R1.Options(r1_gamma))] * (r1_gamma > 0)
    game.regularizers += [DigGAN(game, Options(**{'weight': 50.0, **options}))]
    return game


@pytest.mark.parametrize(('step', 'wrt'), [(d_main, 'aug'), (d_main, 'image'), (d_both, 'aug')])
def test_gradient_is_that_of_the_base_plus_the_formula(step, wrt):
    game = step_game(wrt=wrt, r1_gamma=5 if step is d_both else 0, interval=1)
    total = step_gradients(game, step, BATCH)
    del game.regularizers[-1]
    base = step_gradients(game, step, BATCH)
    norms = []
    for x, c in ((BATCH['real_img'].clone(), BATCH['real_c']), (fakes(game, BATCH), BATCH['gen_c'])):
        grad, = torch.autograd.grad(game.D.module(x.requires_grad_(), c).sum(), [x], create_graph=True)
        norms.append(grad.square().sum([1, 2, 3]).sqrt())
    assert_sum(total, base, loss_gradients(game, (50 * (norms[0] - norms[1]).square()).mean()))
    assert all(p.grad is None for p in game.G.module.parameters())


def test_interval_counts_as_often_as_it_skips():
    every, fourth = step_game(interval=1), step_game(interval=4)
    of_every = [step_gradients(every, d_main, BATCH, batch_idx=k) for k in range(4)]
    of_fourth = [step_gradients(fourth, d_main, BATCH, batch_idx=k) for k in range(4)]
    for name in of_every[0]:
        torch.testing.assert_close(sum(grads[name] for grads in of_every), sum(grads[name] for grads in of_fourth),
                                   rtol=1e-4, atol=1e-5)
    fourth.regularizers = []
    assert_same_bits(of_fourth[3], step_gradients(fourth, d_main, BATCH))


@pytest.mark.parametrize('batch_idx', [0, 1])
def test_verdicts_of_the_main_step_are_used(batch_idx):
    """No critic pass beyond the two of the base."""
    game, passes = step_game(augment=AugmentPipe(**PIPES['bgc']), interval=4), []
    game.D.module.register_forward_hook(lambda *_: passes.append(1))
    step_gradients(game, d_main, BATCH, batch_idx=batch_idx)
    assert len(passes) == 2


# ---------------------------------------------------------------------------------------------------------------------
# Runs and options


def diggan_config(data, **changes):
    options = dict(weight=5.0, interval=2, pair='sample', wrt='aug', ema=0.5)
    options.update(changes.pop('options', {}))
    return make_config(data, regularizers=dict(diggan=options), batch_gpu=2, p=0.8,
                       augment_kwargs=dict(class_name='training.augment.AugmentPipe', xflip=1, scale=1), **changes)


def test_run_resumes_exactly(tmp_path):
    config = diggan_config(make_dataset(tmp_path / 'data.zip'))
    run = assert_resumes_exactly(config, 3, 1)
    assert run.game.regularizers[-1].state_dict()['num_updates'] == {'D/real': 2, 'D/fake': 2}


def configure(gamma=1.0, **options):
    return DigGAN.configure(dict(loss_kwargs=dict(r1_gamma=gamma)), Options(**options))


def test_weight_follows_r1():
    assert configure(gamma=2.0).weight == 10
    assert configure(gamma=2.0, weight=3.0).weight == 3
    assert configure(gamma=0, weight=3.0).weight == 3


def test_automatic_weight_without_r1_is_refused():
    with pytest.raises(ValueError, match='--diggan_weight is 5 times --gamma .* give --diggan_weight'):
        configure(gamma=0)
