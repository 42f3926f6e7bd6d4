"""LeCam: the formula in the step, the running means it needs, resuming, refusals."""
import copy

import pytest
import torch
from step_fixtures import Reports
from tiny import assert_resumes_exactly, make_config, make_dataset
from zoo_game import assert_sum, fakes, loss_gradients, make_batch, make_game, step_gradients

from losses_ext.lecam import LeCam, Options
from training.loss import Phase, StepContext, Verdict, d_main
from training.player import Player


def lecam_game(**options):
    game = make_game()
    lecam = LeCam(game, Options(**{'weight': 0.5, 'start': 0, **options}))
    game.regularizers = [lecam]
    return game, lecam


def verdict(logits):
    return Verdict(None, None, logits, {}, None)


def follow(game, lecam, fake, real, critic=None, round_idx=0):
    """The two terms for given logits, in a micro-batch of an iteration."""
    ctx = StepContext(game, Phase('Dmain', d_main, [], critic=critic or game.D), None, round=round_idx)
    ctx.fake, ctx.real = verdict(torch.tensor(fake)), verdict(torch.tensor(real))
    return lecam.d_fake(ctx), lecam.d_real(ctx)


def test_gradient_is_that_of_the_base_plus_the_formula():
    (game, lecam), batch = lecam_game(), make_batch()
    base = step_gradients(game, d_main, batch)                                      # No mean yet, hence no term.
    lecam.begin_stage(None, 0, resumed=False)
    e_f, e_r = -0.1, 0.3
    follow(game, lecam, [e_f], [e_r])
    lecam.end_iteration(4, 1)
    total = step_gradients(game, d_main, batch)
    D = game.D.module
    a_f, a_r = D(fakes(game, batch), batch['gen_c'])[:, 0], D(batch['real_img'], batch['real_c'])[:, 0]
    assert (a_r > e_f).any() and (a_f < e_r).any()
    loss = 0.5 * ((a_r - e_f).clamp(min=0) ** 2).mean() + 0.5 * ((e_r - a_f).clamp(min=0) ** 2).mean()
    assert_sum(total, base, loss_gradients(game, loss))


def test_each_part_looks_at_the_mean_of_the_other_kind_and_at_one_side_of_it():
    game, lecam = lecam_game(weight=2.0)
    assert follow(game, lecam, [-3.0, -1.0], [1.0, 5.0]) == (None, None)            # Means: -2 and 3.
    lecam.end_iteration(2, 1)
    with Reports() as reports:
        fake, real = follow(game, lecam, [2.0, 4.0], [-4.0, 1.0])
    torch.testing.assert_close(fake, 2 * torch.tensor([1.0, 0.0]))                  # e_r = 3
    torch.testing.assert_close(real, 2 * torch.tensor([0.0, 9.0]))                  # e_f = -2
    assert reports.all('Loss/lecam/fake').tolist() == [1, 0] and reports.all('Loss/lecam/real').tolist() == [0, 9]


def test_means_move_once_per_iteration_over_all_its_micro_batches():
    game, lecam = lecam_game(weight=1.0, decay=0.75)
    follow(game, lecam, [0.0], [1.0])
    follow(game, lecam, [0.0], [3.0], round_idx=1)
    lecam.end_iteration(2, 1)
    follow(game, lecam, [0.0], [8.0])
    lecam.end_iteration(4, 2)
    e_r = (0.75 * 2 + 8) / 1.75
    torch.testing.assert_close(follow(game, lecam, [0.0], [0.0])[0], torch.tensor([e_r ** 2]))


def test_term_starts_after_so_many_iterations():
    game, lecam = lecam_game(start=3)
    acts = []
    for k in range(5):
        acts.append(follow(game, lecam, [-1.0], [1.0]) != (None, None))
        lecam.end_iteration(k, k + 1)
    assert acts == [False, False, False, True, True]


def test_critics_have_means_of_their_own():
    game, lecam = lecam_game()
    other = Player('D2', lambda: copy.deepcopy(game.D.module))
    follow(game, lecam, [-1.0], [1.0])
    lecam.end_iteration(1, 1)
    assert follow(game, lecam, [-1.0], [1.0], other) == (None, None)
    assert follow(game, lecam, [-1.0], [1.0]) != (None, None)


def test_new_stage_starts_anew():
    game, lecam = lecam_game()
    follow(game, lecam, [-1.0], [1.0])
    lecam.end_iteration(1, 1)
    lecam.begin_stage(None, 0, resumed=True)
    assert follow(game, lecam, [-1.0], [1.0]) != (None, None)
    lecam.begin_stage(None, 0, resumed=False)
    assert follow(game, lecam, [-1.0], [1.0]) == (None, None)


def test_run_resumes_exactly(tmp_path):
    options = dict(weight=0.5, decay=0.5, start=1)
    config = make_config(make_dataset(tmp_path / 'data.zip'), regularizers=dict(lecam=options), batch_gpu=2)
    run = assert_resumes_exactly(config, 3, 2)
    assert run.game.regularizers[-1].state_dict()['num_updates']['D/real'] == 3


def configure(game='logistic', loss=None, **options):
    return LeCam.configure(dict(loss=loss or game, loss_kwargs=dict(game=game), kimg=100, batch=4), Options(**options))


@pytest.mark.parametrize('loss', ['relativistic', 'osgan'])
def test_the_relativistic_game_is_warned_of(loss, capsys):
    configure('logistic')
    assert capsys.readouterr().err == ''
    configure('relativistic', loss)
    assert 'Warning: --reg_type=lecam with --loss=' + loss in capsys.readouterr().err


def test_the_default_weight_is_the_measured_one_and_the_rest_is_published():
    options = configure('hinge')
    assert (options.weight, options.decay, options.start) == (0.01, 0.99, 1000)


@pytest.mark.parametrize('start, warned', [(24999, False), (25000, True)])
def test_a_run_that_ends_before_it_starts_is_warned_of(capsys, start, warned):
    configure(start=start)
    assert (f'--lecam_start={start}: the run ends before, after 25000 iterations' in capsys.readouterr().err) == warned
