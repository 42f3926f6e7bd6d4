"""The critic's look at images: labels, draws that are used again, another augmentation."""
import pytest
import torch
from zoo_game import STREAMS, gradients, make_batch, make_game, run_step

from losses_ext import REG_TYPES, load
from losses_ext.games import RELATIVISTIC
from training import both
from training.augment import PIPES, AugmentPipe
from training.diffaugment import DiffAugment
from training.diffusion import Diffusion
from training.loss import Phase, StepContext, d_main

OPTIONS = {name: load(REG_TYPES[name]).Options(interval=2, **{strength: 1.0})
           for name, strength in (('diggan', 'weight'), ('r2', 'gamma'))}


class Negative:
    """An augmentation that draws nothing."""

    def draw(self, img, generator):
        return ()

    def transform(self, img, draw):
        return -img


def test_a_verdict_has_its_labels_and_can_share_its_draw_or_have_another_augmentation():
    augment = AugmentPipe(brightness=1)
    augment.p.fill_(1)
    game, batch = make_game(augment), make_batch()
    ctx = StepContext(game, Phase('D', None, [game.D], critic=game.D), STREAMS, **batch)
    img, c = batch['real_img'], batch['real_c']
    first = game.judge(ctx, game.D, img, c, 'a')
    assert first.c is c
    assert not torch.equal(game.judge(ctx, game.D, img, c, 'b').seen, first.seen)
    assert torch.equal(game.judge(ctx, game.D, img, c, 'b', draw=first.draw).seen, first.seen)
    assert torch.equal(game.judge(ctx, game.D, img, c, 'a', augment=Negative()).seen, -img)


@pytest.mark.parametrize('paired', [False, True])
def test_fakes_and_reals_in_one_pass_teach_a_critic_the_same(monkeypatch, paired):
    """As on GPUs: samples of the one have nothing to do with those of the other, also in statistics."""
    game, batch, passes = make_game(), make_batch(8), []
    if paired:
        game.adversarial = RELATIVISTIC
    game.tap_D = True
    game.D.module.register_forward_hook(lambda _, inputs, out: passes.append(len(out[1][8])))
    expected, found = [], []
    for together, values in ((False, expected), (True, found)):
        monkeypatch.setattr(both, 'takes_both', lambda critic, ctx, together=together: together)
        ctx = run_step(game, d_main, batch)
        for verdict in ctx.fake, ctx.real:
            values += [verdict.logits, verdict.feats[8]]
        values += gradients(game).values()
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert passes == [8, 8, 16]


def test_what_an_augmentation_drew_last_time_is_drawn_before_the_step():
    """As on GPUs, where the host would wait for a pass of the generator; what is drawn is the same."""
    augment, drawn = AugmentPipe(**PIPES['bgc']), []
    augment.draw = lambda *args, draw=augment.draw, **kwargs: drawn.append(args[0]) or draw(*args, **kwargs)
    game, batch = make_game(augment), make_batch()
    phase, seen = Phase('D', d_main, [game.D], critic=game.D), []
    for nimg, is_ahead in ((0, True), (8, False), (8, True)):
        ctx = StepContext(game, phase, STREAMS, nimg, **batch)
        if is_ahead:
            ctx.draw_ahead()
        before, calls = len(drawn), []
        for use in ('fake', 'real'):
            calls.append(game.judge(ctx, game.D, batch['real_img'], batch['real_c'], use).seen)
        assert len(drawn) - before == (0 if nimg and is_ahead else 2)
        seen.append(calls)
    assert all(map(torch.equal, seen[1], seen[2])) and not torch.equal(seen[0][0], seen[2][0])
    other = game.judge(ctx, game.D, batch['real_img'][:2], batch['real_c'][:2], 'real').seen
    assert len(other) == 2          # Another size is drawn anew.


@pytest.mark.parametrize('name', ['diggan', 'r2'])
def test_one_pass_yields_the_gradients_of_both_where_both_are_wanted(monkeypatch, name):
    """DigGAN's gap of fakes and reals from one derivative; R2 in main steps asks for that of fakes alone."""
    game, batch = make_game(AugmentPipe(**PIPES['bgc'])), make_batch(8)
    game.regularizers = [load(REG_TYPES[name])(game, OPTIONS[name])]
    passes, values = [], []
    game.D.module.register_forward_hook(lambda _, inputs, out: passes.append(len(inputs[0])))
    draw = game.augment.draw([16, 3, 16, 16], generator=torch.Generator().manual_seed(0))
    part = {'aug_fake/D': slice(8), 'aug_real/D': slice(8, 16), 'aug/D': slice(16)}
    monkeypatch.setattr(StepContext, 'draw', lambda ctx, augment, img, use: both.of_images(draw, part[use]))
    for together in False, True:
        monkeypatch.setattr(both, 'takes_both', lambda critic, ctx, together=together: together)
        ctx = run_step(game, d_main, batch)
        values.append([ctx.fake.logits, ctx.real.logits, *gradients(game).values()])
        if name == 'diggan':
            whole = [verdict.input_grad('seen') for verdict in (ctx.fake, ctx.real)]
            assert [x.shape for x in whole] == [batch['real_img'].shape] * 2
            values[-1] += whole
    for a, b in zip(*values, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert passes == ([8, 8, 16] if name == 'diggan' else [8, 8, 8, 8])


def test_what_steps_draw_is_known_for_each_kind_of_step():
    """Where a term is due they may draw for other images: what they do not use need not be drawn."""
    augment, drawn = AugmentPipe(**PIPES['bgc']), []
    augment.draw = lambda *args, draw=augment.draw, **kwargs: drawn.append(args[0]) or draw(*args, **kwargs)
    game, batch = make_game(augment), make_batch()
    game.regularizers = [load(REG_TYPES['diggan'])(game, OPTIONS['diggan'])]
    phase = Phase('D', d_main, [game.D], critic=game.D)
    for batch_idx in range(8):
        ctx = StepContext(game, phase, STREAMS, batch_idx=batch_idx, **batch)
        ctx.draw_ahead()
        ahead = len(drawn)
        game.judge(ctx, game.D, batch['real_img'], batch['real_c'], 'apart' if batch_idx % 2 == 0 else 'both')
        assert len(drawn) - ahead == (1 if batch_idx < 2 else 0)
    assert len(drawn) == 8


def test_critics_see_both_in_one_pass_on_gpus_only():
    game, batch = make_game(), make_batch()
    ctx = StepContext(game, Phase('D', None, [game.D], critic=game.D), STREAMS, **batch)
    assert not both.takes_both(game.D, ctx)
    ctx.real_img = batch['real_img'].to('meta')
    assert both.takes_both(game.D, ctx)
    game.D.module.takes_batches = False
    assert not both.takes_both(game.D, ctx)


@pytest.mark.parametrize('make', [lambda: AugmentPipe(**PIPES['bgcfnc']), DiffAugment, Diffusion])
def test_a_part_of_a_draw_moves_a_part_of_the_images(make):
    augment, img = make(), torch.randn(6, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    draw = augment.draw(img, generator=torch.Generator().manual_seed(1))
    whole, maps = augment.transform(img, draw), img[:, :, ::4, ::4]
    for part in slice(2), slice(2, None):
        mine = both.of_images(draw, part)
        torch.testing.assert_close(augment.transform(img[part], mine), whole[part])
        torch.testing.assert_close(augment.warp(maps[part], mine), augment.warp(maps, draw)[part])
        if draw.keep_mask(12) is not None:
            assert torch.equal(mine.keep_mask(12), draw.keep_mask(12)[part])


def test_each_half_is_seen_through_a_view_of_its_own(monkeypatch):
    """Views that draw numbers draw the same for fakes and reals, however they are shown."""
    game, batch, seen = make_game(), make_batch(), []
    game.D.view = lambda img, ctx: seen.append(len(img)) or img + ctx.randn_like(img, 'view')
    ctx = StepContext(game, Phase('D', None, [game.D], critic=game.D), STREAMS, **batch)
    ctx.gen, ctx.fake_c = game.fakes(ctx)
    monkeypatch.setattr(both, 'takes_both', lambda critic, ctx: True)
    fake, real = both.judge_both(game, ctx)
    assert seen == [4, 4]
    assert torch.equal(fake.seen, game.judge_fakes(ctx, game.D).seen)
    assert torch.equal(real.seen, game.judge_reals(ctx, game.D).seen)
