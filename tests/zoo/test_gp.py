"""The gradient penalty centred at one: its gradient, where it acts, options."""
import pytest
import torch
from step_fixtures import Reports
from tiny import assert_same_bits
from zoo_game import STREAMS, assert_sum, fakes, loss_gradients, make_batch, make_game, step_gradients

from losses_ext.gp import GradientPenalty, Options
from training.augment import AugmentPipe
from training.loss import d_both, d_main, d_reg
from training.regularizer import Regularizer

BATCH = make_batch()


def gp_game(augment=None, reg_interval=16, **options):
    game = make_game(augment, reg_interval)
    game.regularizers = [GradientPenalty(game, Options(**options))]
    return game


def penalty_gradients(game, weight, augment=None):
    """Gradients of weight * mean (||grad_x D(T x)|| - 1)^2 at x = u x_r + (1 - u) x_f, written out."""
    u = torch.rand([4, 1, 1, 1], generator=STREAMS.generator(0, 'D/0/0/gp'))
    x = (u * BATCH['real_img'] + (1 - u) * fakes(game, BATCH)).requires_grad_()
    draw = augment and augment.draw(x, generator=STREAMS.generator(0, 'D/0/0/aug_gp/D'))
    seen = augment.transform(x, draw) if augment else x
    grad, = torch.autograd.grad(game.D.module(seen, BATCH['real_c']).sum(), [x], create_graph=True)
    return loss_gradients(game, weight * (grad.square().sum([1, 2, 3]).sqrt() - 1).square().mean())


@pytest.mark.parametrize('augment', [None, AugmentPipe(contrast=1)], ids=['plain', 'augmented'])
def test_gradient_of_the_lazy_step(augment):
    game = gp_game(augment, weight=3.0)
    obtained = step_gradients(game, d_reg, BATCH, interval=16)
    assert_sum(obtained, penalty_gradients(game, 3 * 16, augment), atol=1e-5)
    assert all(p.grad is None for p in game.G.module.parameters())


@pytest.mark.parametrize(('step', 'interval', 'options'), [
    (d_both, 1, dict(reg_interval=None)), (d_main, 1, dict(interval=1)), (d_main, 4, dict(interval=4))])
def test_gradient_is_that_of_the_main_step_plus_the_formula(step, interval, options):
    game = gp_game(weight=3.0, **options)
    obtained = step_gradients(game, step, BATCH)
    skipped = step_gradients(game, step, BATCH, batch_idx=3)
    game.regularizers = []
    base = step_gradients(game, step, BATCH)
    assert_sum(obtained, base, penalty_gradients(game, 3 * interval), atol=1e-5)
    assert_same_bits(skipped, base if interval == 4 else obtained)


class FlippedReals(Regularizer):
    """Other reals and labels for everybody."""

    def reals(self, ctx, img, c):
        return -img, c.roll(1, 0)


@pytest.mark.parametrize(('step', 'options'), [(d_reg, {}), (d_main, dict(interval=1))])
def test_the_penalty_sees_the_reals_that_the_critic_sees(step, options):
    changed = {**BATCH, 'real_img': -BATCH['real_img'], 'real_c': BATCH['real_c'].roll(1, 0)}
    game = gp_game(**options)
    expected = step_gradients(game, step, changed)
    game.regularizers.append(FlippedReals(game, None))
    assert_same_bits(step_gradients(game, step, BATCH), expected)


def test_statistics_are_norm_and_penalty():
    game = gp_game()
    with Reports() as reports:
        step_gradients(game, d_reg, BATCH)
    norms = reports.all('Loss/gp/norm')
    assert norms.shape == (4,) and torch.equal(reports.all('Loss/gp/penalty'), (norms - 1) ** 2)


def configure(r1_gamma=0, others=None, **options):
    config = dict(loss_kwargs=dict(r1_gamma=r1_gamma), D_reg_interval=16, regularizers={**(others or {}), 'gp': {}})
    return GradientPenalty.configure(config, Options(**options))


def test_interval_follows_that_of_the_lazy_step():
    assert configure() == Options(weight=10.0, interval=16)
    assert configure(interval=1).interval == 1


def test_other_targets_of_the_norm_are_refused():
    with pytest.raises(ValueError, match='--reg_type=gp .* R1 .* give --gamma=0'):
        configure(r1_gamma=1)
    with pytest.raises(ValueError, match='--reg_type=gp .* r2 .* leave out'):
        configure(others=dict(r2=dict(gamma=1.0, interval=16)))
    assert configure(others=dict(r2=dict(gamma=0.0, interval=16))).weight == 10
