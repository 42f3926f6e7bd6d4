"""CR, bCR and zCR: their gradients against the formulas written out, the shift, what they leave alone."""
import copy

import pytest
import torch
from test_zoo import zoo_config
from tiny import make_dataset
from zoo_game import STREAMS, assert_sum, fakes, loss_gradients, make_batch, make_game, run_step, step_gradients

from losses_ext.bcr import BCR
from losses_ext.consistency import Shift, reflected, require_motion
from losses_ext.cr import CR
from losses_ext.zcr import ZCR
from torch_utils import training_stats
from training import setup
from training.augment import AugmentPipe
from training.diffaugment import DiffAugment
from training.loss import Phase, StepContext, d_main, g_main
from training.training_loop import run_phase

BATCH = make_batch()


def game_with(method, augment=None, **options):
    game = make_game(augment)
    game.regularizers = [method(game, method.Options(**options))]
    return game


def moved(monkeypatch, down, right):
    """Makes every draw this shift in pixels, at 16 pixels and --*_shift=0.125."""
    draw = torch.tensor([1.0, (down / 2 + 1) / 2, (right / 2 + 1) / 2])
    monkeypatch.setattr(Shift, 'draw', lambda self, img, generator=None: draw.expand(len(img), 3))
    return lambda img: torch.nn.functional.pad(img, [2, 2, 2, 2], mode='reflect')[
        :, :, 2 - down:18 - down, 2 - right:18 - right]


# The shift.

def test_what_leaves_the_image_is_reflected():
    lines = torch.arange(5)[reflected(5, torch.tensor([0, 2, -1]))]
    assert lines.tolist() == [[0, 1, 2, 3, 4], [2, 1, 0, 1, 2], [1, 2, 3, 4, 3]]
    img = torch.randn([2, 3, 6, 8])
    draw = torch.tensor([[0.4, 1.0, 0.5], [0.6, 0.5, 0.0]])     # The first mirrored and 3 down; the other 4 to the left.
    out = Shift(0.5, 0.5).transform(img, draw)
    torch.testing.assert_close(out[0, :, 3:], img[0, :, :3].flip(2), rtol=0, atol=0)
    torch.testing.assert_close(out[1, :, :, :4], img[1, :, :, 4:], rtol=0, atol=0)


def test_shifts_are_whole_pixels_up_to_the_farthest_each_way():
    shift = Shift(1 / 32, 0.0)
    pixels = shift.pixels(256, shift.draw([4000, 3, 256, 256], torch.Generator().manual_seed(0))[:, 1])
    assert set(pixels.tolist()) == set(range(-8, 9))


def test_a_shift_that_moves_nothing_is_refused():
    with pytest.raises(ValueError, match='--cr_shift=0.03125 moves nothing at 16 pixels: give --cr_shift=0.09375'):
        require_motion('--cr', 1 / 32, 0.0, 16)
    require_motion('--cr', 1 / 32, 0.0, 32)
    require_motion('--cr', 0.0, 0.5, 16)


# The terms.

def test_the_gradient_of_cr_and_bcr_is_the_formula(monkeypatch):
    A, base = moved(monkeypatch, 1, -2), step_gradients(make_game(), d_main, BATCH)
    game = game_with(CR, weight=3.0, shift=0.125)
    D = game.D.module.requires_grad_(True)

    def change(img, c):
        return (D(img, c) - D(A(img), c)).square().mean()
    real = change(BATCH['real_img'], BATCH['real_c'])
    assert_sum(step_gradients(game, d_main, BATCH), base, loss_gradients(game, 3 * real))
    game = game_with(BCR, weight_real=3.0, weight_fake=5.0, shift=0.125)
    D = game.D.module.requires_grad_(True)
    loss = 3 * change(BATCH['real_img'], BATCH['real_c']) + 5 * change(fakes(game, BATCH), BATCH['gen_c'])
    assert_sum(step_gradients(game, d_main, BATCH), base, loss_gradients(game, loss))


def test_bcr_without_fakes_is_cr(monkeypatch):
    moved(monkeypatch, 2, 1)
    games = game_with(CR, weight=3.0, shift=0.125), game_with(BCR, weight_real=3.0, weight_fake=0.0, shift=0.125)
    assert_sum(*[step_gradients(game, d_main, BATCH) for game in games], rtol=0, atol=0)


@pytest.mark.parametrize('augment', [AugmentPipe(xint=1, contrast=1), DiffAugment('color,translation')])
def test_a_acts_on_what_the_critic_saw(monkeypatch, augment):
    """The augmentation of the run is not drawn again."""
    A, seen = moved(monkeypatch, -1, 1), []
    game = game_with(CR, augment, shift=0.125)
    forward = game.D.module.forward
    game.D.module.forward = lambda img, c, **kwargs: (seen.append(img), forward(img, c, **kwargs))[1]
    ctx = run_step(game, d_main, BATCH)
    torch.testing.assert_close(seen[-1], A(ctx.real.seen), rtol=0, atol=0)


def test_the_gradient_of_the_critics_part_of_zcr_is_the_formula():
    base, game = step_gradients(make_game(), d_main, BATCH), game_with(ZCR, weight_d=4.0, noise=0.5)
    e = []
    randn_like = StepContext.randn_like
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepContext, 'randn_like', lambda ctx, z, use: (e.append(randn_like(ctx, z, use)), e[-1])[1])
        total = step_gradients(game, d_main, BATCH)
    D, near = game.D.module, fakes(game, {**BATCH, 'gen_z': BATCH['gen_z'] + 0.5 * e[0]})
    loss = 4 * (D(fakes(game, BATCH), BATCH['gen_c']) - D(near, BATCH['gen_c'])).square().mean()
    assert len(e) == 1
    assert_sum(total, base, loss_gradients(game, loss))


def test_the_generators_part_of_zcr_is_the_formula():
    def gradients_of(game):
        G = game.G.module.requires_grad_(True)
        G.zero_grad()
        ctx = StepContext(game, Phase('Gmain', g_main, [game.G]), STREAMS, **BATCH)
        g_main(game, ctx)
        return ctx, {name: p.grad.clone() for name, p in G.named_parameters() if p.grad is not None}
    _, base = gradients_of(make_game())
    game = game_with(ZCR, weight_g=2.0, noise=0.5)
    ctx, total = gradients_of(game)
    G = game.G.module
    G.zero_grad()
    e = ctx.randn_like(ctx.gen_z, 'zcr')
    pair = [G(z, ctx.gen_c) for z in (ctx.gen_z, ctx.gen_z + 0.5 * e)]
    (-2 * (pair[0] - pair[1]).square().mean()).backward()
    for name, grad in total.items():
        if 'noise_strength' in name:        # Of the noise that was drawn.
            continue
        torch.testing.assert_close(grad, base[name] + dict(G.named_parameters())[name].grad, rtol=1e-4, atol=1e-5, msg=name)


# What they leave alone.

def test_critics_that_share_their_fakes_share_the_neighbours(tmp_path):
    """Also if what phases share was copied in between, as by
    CUDA graphs: the second critic has other latents at hand."""
    run, seen = setup.build(zoo_config([make_dataset(tmp_path / 'data.zip')], ['weco', 'zcr']), torch.device('cpu')), []
    run.enter_stage(0)
    judge = run.game.judge
    run.game.judge = lambda ctx, critic, img, c, use, *args, **kwargs: (
        seen.append(img) if use.startswith('zcr') else None, judge(ctx, critic, img, c, use, *args, **kwargs))[1]
    shared, reals = {}, [stream.next_batch() for stream in run.reals]
    for phase in [phase for phase in run.phases if phase.name in ('Dmain', 'D2main')]:
        run_phase(run, phase, reals, shared)
        shared = copy.deepcopy(shared)
    assert len(seen) == 2 and torch.equal(*seen)


@pytest.mark.parametrize('name', ['cr', 'bcr', 'zcr'])
def test_statistics_of_the_logits_and_the_average_of_w_are_those_of_the_base(tmp_path, name):
    """What drives --aug=ada and the truncation: bit for
    bit. One first step of D, in which G has not moved."""
    data, found = [make_dataset(tmp_path / 'data.zip')], []
    for names in ([], [name]):
        run = setup.build(zoo_config(data, names), torch.device('cpu'))
        run.enter_stage(0)
        collector = training_stats.Collector('Loss/(scores|signs)/.*')
        collector.update()
        for phase in [phase for phase in run.phases if phase.name == 'Dmain']:
            run_phase(run, phase, [stream.next_batch() for stream in run.reals], {})
        collector.update()
        found.append((run.game.D.real_signs.tolist(), run.game.G.module.mapping.w_avg.tolist(),
                      {name: collector.mean(name) for name in collector.names()}))
    assert found[0] == found[1]
