"""R2: its gradient, where it acts, options."""

import pytest
import torch
from tiny import assert_same_bits, make_config, make_dataset
from zoo_game import STREAMS, assert_sum, fakes, loss_gradients, make_batch, make_game, step_gradients

from losses_ext.r1 import R1
from losses_ext.r2 import R2, Options
from training import setup
from training.augment import AugmentPipe
from training.loss import d_both, d_main, d_reg

BATCH = make_batch()


def r2_game(augment=None, reg_interval=16, r1_gamma=0, **options):
    game = make_game(augment, reg_interval)
    game.regularizers = [R1(game, R1.Options(r1_gamma))] * (r1_gamma > 0) + [R2(game, Options(**options))]
    return game


def penalty_gradients(game, weight, transform=lambda img: img):
    """Gradients of weight/2 * mean ||grad_x D(T x)||^2, written out."""
    x = fakes(game, BATCH).requires_grad_()
    grad, = torch.autograd.grad(game.D.module(transform(x), BATCH['gen_c']).sum(), [x], create_graph=True)
    return loss_gradients(game, weight / 2 * grad.square().sum([1, 2, 3]).mean())


def test_gradient_of_the_lazy_step():
    game = r2_game(gamma=3.0)
    obtained = step_gradients(game, d_reg, BATCH, interval=16)
    assert_sum(obtained, penalty_gradients(game, 3 * 16))
    assert all(p.grad is None for p in game.G.module.parameters())


def test_gradient_is_taken_before_augmentation():
    augment = AugmentPipe(contrast=1)
    game = r2_game(augment, gamma=3.0)
    obtained = step_gradients(game, d_reg, BATCH)
    draw = augment.draw((4, 3, 16, 16), generator=STREAMS.generator(0, 'D/0/0/aug_fake/D'))
    assert_sum(obtained, penalty_gradients(game, 3, lambda img: augment.transform(img, draw)))


@pytest.mark.parametrize(('step', 'options'), [
    (d_both, dict(reg_interval=None)), (d_both, dict(reg_interval=None, r1_gamma=2.0)), (d_main, dict(interval=1))])
def test_gradient_is_that_of_the_main_step_plus_the_formula(step, options):
    game = r2_game(gamma=3.0, **options)
    obtained = step_gradients(game, step, BATCH)
    del game.regularizers[-1]
    assert_sum(obtained, step_gradients(game, step, BATCH), penalty_gradients(game, 3))


def test_interval_of_its_own_counts_as_often_as_it_skips():
    game = r2_game(gamma=3.0, interval=4)
    due = step_gradients(game, d_main, BATCH, batch_idx=4)
    skipped = step_gradients(game, d_main, BATCH, batch_idx=5)
    game.regularizers = []
    base = step_gradients(game, d_main, BATCH)
    assert_sum(due, base, penalty_gradients(game, 3 * 4))
    assert_same_bits(skipped, base)


@pytest.mark.parametrize(('options', 'sites'), [
    ({}, {'d_reg_pair'}), (dict(interval=16), {'d_reg_pair'}), (dict(interval=8), {'d_pair'}),
    (dict(reg_interval=None), {'d_reg_pair'}), (dict(reg_interval=None, interval=8), {'d_pair'})])
def test_another_interval_than_that_of_the_lazy_step_moves_it_to_the_main_step(options, sites):
    assert r2_game(gamma=1.0, **options).regularizers[-1].sites == sites


def test_lazy_step_exists_for_it_alone(tmp_path):
    config = make_config(make_dataset(tmp_path / 'data.zip'), regularizers=dict(r2=dict(gamma=1.0, interval=16)))
    config['loss_kwargs']['r1_gamma'] = 0
    names = [phase.name for phase in setup.build(config, torch.device('cpu')).phases]
    assert names == ['Gmain', 'Greg', 'Dmain', 'Dreg']


def configure(r1_gamma=2.0, **options):
    config = dict(loss_kwargs=dict(r1_gamma=r1_gamma), D_reg_interval=16, regularizers=dict(r2={}))
    return R2.configure(config, Options(**options))


def test_options_follow_r1():
    assert configure() == Options(gamma=2.0, interval=16)
    assert configure(gamma=0.5, interval=1) == Options(gamma=0.5, interval=1)
    assert configure(r1_gamma=0, gamma=0.5).gamma == 0.5


def test_automatic_strength_without_r1_is_refused():
    with pytest.raises(ValueError, match='--r2_gamma is that of R1 .* give --r2_gamma'):
        configure(r1_gamma=0)
