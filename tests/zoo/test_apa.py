"""APA: what takes the place of reals and when, the probability that adapts, resuming, refusals."""

import pytest
import torch
from tiny import Silent, assert_resumes_exactly, make_config, make_dataset
from zoo_game import STREAMS, make_batch, make_game, run_step

from losses_ext.apa import APA, Options
from losses_ext.r1 import R1
from training import setup
from training.loss import Phase, StepContext, d_main, d_reg
from training.training_loop import micro_batches, run_iteration

BATCH = make_batch()


def apa_game(p=None, **options):
    game = make_game()
    game.regularizers = [R1(game, R1.Options(1.0)), APA(game, Options(p=p, **options))]
    return game, game.regularizers[-1]


def remember(game, apa, img, c, source=0):
    """An iteration whose generator made these images, in micro-batches of 4."""
    for k, (part_img, part_c) in enumerate(zip(img.split(4), c.split(4))):
        ctx = StepContext(game, Phase('Gmain', None, [game.G]), STREAMS, round=k, source=source, fake_c=part_c)
        ctx.gen = type('Made', (), dict(img=part_img.requires_grad_()))
        assert apa.g_main(ctx) is None
    apa.end_iteration(len(img), 1)


def some_fakes(num=4):
    rng = torch.Generator().manual_seed(9)
    other_c = BATCH['real_c'].roll(1, dims=1)                                       # Nowhere that of the real.
    return torch.randn([num, 3, 16, 16], generator=rng), other_c.repeat(num // 4, 1)


# ---------------------------------------------------------------------------------------------------------------------
# What critics see


@pytest.mark.parametrize('step', [d_main, d_reg])
def test_replaced_reals_are_fakes_with_their_labels(step):
    game, apa = apa_game(p=0.5)
    img, c = some_fakes()
    remember(game, apa, img, c)
    seen = []
    game.D.module.register_forward_pre_hook(lambda _, args: seen.append([x.detach().clone() for x in args]))
    run_step(game, step, BATCH, batch_idx=1)
    replaced = torch.rand([4], generator=STREAMS.generator(0, '0/0/apa')) < 0.5    # The same in all phases.
    assert 0 < replaced.sum() < 4
    seen_img, seen_c = seen[-1]                                                     # The reals come last.
    for i in range(4):
        expected = (img[i], c[i]) if replaced[i] else (BATCH['real_img'][i], BATCH['real_c'][i])
        assert torch.equal(seen_img[i], expected[0]) and torch.equal(seen_c[i], expected[1])


def test_nothing_is_replaced_before_there_are_fakes_and_at_p_0():
    game, apa = apa_game(target=0.6, kimg=500)
    set_p(apa, 1.0)
    ctx = StepContext(game, Phase('Dmain', d_main, [game.D], critic=game.D), STREAMS, **BATCH)
    assert apa.reals(ctx, BATCH['real_img'], BATCH['real_c'])[0] is BATCH['real_img']
    remember(game, apa, *some_fakes())
    assert torch.equal(apa.reals(ctx, BATCH['real_img'], BATCH['real_c'])[0], some_fakes()[0])
    set_p(apa, 0.0)
    assert torch.equal(apa.reals(ctx, BATCH['real_img'], BATCH['real_c'])[0], BATCH['real_img'])


def test_micro_batches_of_another_size_and_other_sources_get_their_own_fakes():
    game, apa = apa_game(p=1.0)
    img, c = some_fakes(8)
    remember(game, apa, img, c, source=1)
    for k in range(4):
        ctx = StepContext(game, Phase('Dmain', d_main, [game.D], critic=game.D), STREAMS, source=1, round=k)
        seen, _ = apa.reals(ctx, torch.zeros([2, 3, 16, 16]), torch.zeros([2, 3]))
        assert torch.equal(seen, img[2 * k : 2 * k + 2]) and not seen.requires_grad
    ctx = StepContext(game, Phase('Dmain', d_main, [game.D], critic=game.D), STREAMS, source=0)
    assert (apa.reals(ctx, torch.zeros([2, 3, 16, 16]), torch.zeros([2, 3]))[0] == 0).all()
    remember(game, apa, img[:4], c[:4], source=1)
    assert len(apa.state_dict()['fakes'][1][0]) == 4                                # No others linger.


def test_fakes_are_those_of_the_generator_step_before_and_cost_no_pass(tmp_path):
    config = run_config(make_dataset(tmp_path / 'data.zip'), p=1.0, batch_gpu=2)
    run = setup.build(config, torch.device('cpu'))
    run.enter_stage(0)
    made = []
    run.game.G.module.synthesis.register_forward_hook(lambda module, args, out: made.append(out.detach()))
    run_iteration(run, Silent(0))
    assert len(made) == 2 * 3                                                       # Gmain, Greg, Dmain: as the base.
    in_main = torch.cat(made[:2])
    phase = next(phase for phase in run.phases if phase.name == 'Dmain')
    contexts = micro_batches(run, phase, [run.reals[0].next_batch()], {})
    seen = [run.game.judge_reals(ctx, run.game.D).img for ctx in contexts]
    assert torch.equal(torch.cat(seen), in_main)


# ---------------------------------------------------------------------------------------------------------------------
# The probability


def set_p(apa, p, **state):
    """Puts the probability at p, and perhaps other fakes."""
    apa.load_state_dict({**apa.state_dict(), 'p': torch.tensor(p), **state})


def adapt(apa, game, sign, batch_idx, p=0.5, batch=64):
    set_p(apa, p)
    game.D.real_signs.copy_(torch.tensor([sign * 256, 256.0]))
    apa.end_iteration(batch * batch_idx, batch_idx)
    return apa.state_dict()['p'].item() - p


def test_probability_follows_the_sign_of_the_logits_of_reals():
    game, apa = apa_game(target=0.6, kimg=500.0)
    step = 64 * 4 / (500 * 1000)
    assert adapt(apa, game, sign=0.7, batch_idx=4) == pytest.approx(step, rel=1e-3)
    assert (game.D.real_signs == 0).all()
    assert adapt(apa, game, sign=0.5, batch_idx=8) == pytest.approx(-step, rel=1e-3)
    assert adapt(apa, game, sign=0.9, batch_idx=9) == 0                             # Every fourth iteration.
    assert (game.D.real_signs != 0).any()
    assert adapt(apa, game, sign=0.5, batch_idx=4, p=0.0) == 0                      # Between 0 and 1.
    assert adapt(apa, game, sign=0.9, batch_idx=4, p=1.0) == 0


def test_fixed_probability_stays_and_leaves_the_signs_alone():
    game, apa = apa_game(p=0.25)
    assert adapt(apa, game, sign=0.9, batch_idx=4, p=0.25) == 0
    assert (game.D.real_signs != 0).any()


def test_new_stage_starts_anew():
    game, apa = apa_game(target=0.6, kimg=500.0)
    remember(game, apa, *some_fakes())
    set_p(apa, 0.7)
    apa.begin_stage(None, 0, resumed=True)
    assert apa.state_dict()['p'] == 0.7 and apa.state_dict()['fakes']
    apa.begin_stage(None, 0, resumed=False)
    assert apa.state_dict()['p'] == 0 and not apa.state_dict()['fakes']


# ---------------------------------------------------------------------------------------------------------------------
# Runs and options


def run_config(data, p=None, target=0.6, kimg=0.02, **changes):
    return make_config(data, regularizers=dict(apa=dict(p=p, target=target, kimg=kimg)), **changes)


@pytest.mark.parametrize('recipe', ['logistic', 'relativistic', 'osgan'])
def test_run_resumes_exactly(tmp_path, recipe):
    data = make_dataset(tmp_path / 'data.zip', num_classes=3)
    loss_options = dict(loss_options=dict(form='exact')) if recipe == 'osgan' else {}
    config = run_config(data, p=0.5, batch_gpu=2, loss=recipe, **loss_options)
    config['loss_kwargs']['game'] = 'relativistic' if recipe == 'relativistic' else 'logistic'
    config['training_set_kwargs']['use_labels'] = True
    config['data_shape']['c_dim'] = 3
    assert_resumes_exactly(config, 3, 2)


def test_adaptive_run_resumes_exactly(tmp_path):
    config = run_config(make_dataset(tmp_path / 'data.zip'), target=-1.0)           # Every sign is above: p rises.
    run = assert_resumes_exactly(config, 6, 5)
    assert run.game.regularizers[-1].state_dict()['p'] == pytest.approx(4 * 4 / 20)


def configure(game='logistic', loss=None, ada=None, ada_kimg=500, augment_p=None, **options):
    config = dict(loss=loss or game, loss_kwargs=dict(game=game), target=ada, ada_kimg=ada_kimg, regularizers=dict(apa={}))
    config.update({} if augment_p is None else dict(p=augment_p))
    return APA.configure(config, Options(**options))


def test_defaults_are_those_of_the_official_code():
    assert configure() == Options(target=0.6, kimg=500, p=None)
    assert configure(ada_kimg=100).kimg == 100                                      # As `train.py` sets it for fine-tuning.
    assert configure(ada_kimg=100, kimg=300.0).kimg == 300
    assert configure('wgan', ada=0.6, p=0.3) == Options(p=0.3)


@pytest.mark.parametrize(('game', 'loss'), [('wgan', None), ('relativistic', None), ('wgan', 'osgan')])
def test_no_adapting_without_a_zero(game, loss):
    with pytest.raises(ValueError, match=f'--reg_type=apa cannot adapt to --loss={loss or game}.*give a fixed --apa_p'):
        configure(game, loss)


def test_beside_ada_there_is_one_controller():
    assert configure(ada=0.6) == configure(ada=0.6, p='shared') == Options(p='shared')
    assert configure(ada=0.6, p=0.3).p == 0.3
    assert configure('wgan', augment_p=0.3, p='shared') == Options(p='shared')
    with pytest.raises(ValueError, match='--apa_p=shared needs an augmentation .* give --aug=ada or --aug=fixed'):
        configure(p='shared')
    with pytest.raises(ValueError, match='--apa_target has no effect with --apa_p=shared, .* give --target'):
        configure(ada=0.6, target=0.5)


def test_the_shared_probability_is_the_strength_of_the_augmentation_but_at_most_1(tmp_path):
    data = make_dataset(tmp_path / 'data.zip')
    config = make_config(data, regularizers=dict(apa=dict(p='shared')), p=0.3, augment_kwargs=dict(
        class_name='training.augment.AugmentPipe', xflip=1))
    game = setup.build(config, torch.device('cpu')).game
    apa = next(r for r in game.regularizers if isinstance(r, APA))
    num = 10_000
    ctx = StepContext(game, Phase('Dmain', d_main, [game.D], critic=game.D), STREAMS)
    set_p(apa, 0.0, fakes={0: [torch.ones([num, 1, 1, 1]), torch.zeros([num, 0])]}, sound={})
    for strength, expected in ((0.3, 0.3), (1.7, 1.0), (0.0, 0.0)):
        game.augment.p.fill_(strength)
        img, _ = apa.reals(ctx, torch.zeros([num, 1, 1, 1]), torch.zeros([num, 0]))
        assert abs(img.mean().item() - expected) < 3 * (expected * (1 - expected) / num) ** 0.5 + 1e-6
    game.D.real_signs.fill_(4.0)
    apa.end_iteration(16, 4)
    assert (game.D.real_signs == 4).all()                                           # They are ADA's.


def test_run_with_one_controller_resumes_exactly(tmp_path):
    config = make_config(make_dataset(tmp_path / 'data.zip'), regularizers=dict(apa=dict(p='shared')), target=-1.0,
                         ada_kimg=0.02, p=0, augment_kwargs=dict(class_name='training.augment.AugmentPipe', xflip=1))
    run = assert_resumes_exactly(config, 6, 5)
    assert run.game.augment.p == pytest.approx(4 * 4 / 20)


def test_options_of_the_controller_have_no_effect_with_a_fixed_probability():
    with pytest.raises(ValueError, match='--apa_kimg has no effect with --apa_p=0.5'):
        configure(p=0.5, kimg=100.0)
