"""The critic's look at images: labels, draws that are used again, another augmentation."""
import torch
from zoo_game import STREAMS, make_batch, make_game

from training.augment import AugmentPipe
from training.loss import Phase, StepContext


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
