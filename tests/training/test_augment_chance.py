"""Chance in the augmentation pipe: how often each transformation happens, and how strong it is."""
import math

import pytest
import torch

from training import augment
from training.augment import AugmentPipe

MANY = 20000


def make_pipe(p=1.0, **options):
    pipe = AugmentPipe(**options)
    pipe.p.fill_(p)
    return pipe


def differs(values, neutral):
    return ((values - neutral).abs() > 1e-5).flatten(1).any(dim=1)


EYE = torch.eye(2)
RGB = torch.cat([torch.eye(3), torch.zeros(3, 1)], dim=1)

# Option -> (chance that the value drawn is not neutral, which samples were transformed).
HAPPENS = {
    'xflip':      (1 / 2, lambda draw: differs(draw.geometry.blit, EYE)),
    'rotate90':   (3 / 4, lambda draw: differs(draw.geometry.blit, EYE)),
    'xint':       (1, lambda draw: differs(draw.geometry.xint, 0)),
    'scale':      (1, lambda draw: differs(draw.geometry.stretch, EYE)),
    'rotate':     (1, lambda draw: differs(draw.geometry.stretch, EYE)),
    'aniso':      (1, lambda draw: differs(draw.geometry.stretch, EYE)),
    'xfrac':      (1, lambda draw: differs(draw.geometry.xfrac, 0)),
    'brightness': (1, lambda draw: differs(draw.color, RGB)),
    'contrast':   (1, lambda draw: differs(draw.color, RGB)),
    'lumaflip':   (1 / 2, lambda draw: differs(draw.color, RGB)),
    'hue':        (1, lambda draw: differs(draw.color, RGB)),
    'saturation': (1, lambda draw: differs(draw.color, RGB)),
    'noise':      (1, lambda draw: differs(draw.noise, 0)),
    'cutout':     (1, lambda draw: differs(draw.hole_size, 0)),
}


@pytest.mark.parametrize('multiplier, p', [(0.5, 0.6), (1, 0.25), (0.8, 2.0)])
@pytest.mark.parametrize('option', HAPPENS)
def test_each_happens_as_often_as_multiplier_times_strength_says(option, multiplier, p):
    not_neutral, happened = HAPPENS[option]
    chance = not_neutral * min(multiplier * p, 1)
    share = happened(make_pipe(p, **{option: multiplier}).draw((MANY, 3, 2, 2))).float().mean().item()
    assert abs(share - chance) <= 4 * math.sqrt(chance * (1 - chance) / MANY)


def test_a_filter_band_happens_as_often_as_its_weight_says():
    pipe = make_pipe(0.8, imgfilter=0.5, imgfilter_bands=[0, 0, 0.6, 0])
    impulse = pipe.Hz_fbank.sum(dim=0)
    share = differs(pipe.draw((MANY, 3, 32, 32)).taps, impulse).float().mean().item()
    assert abs(share - 0.24) <= 4 * math.sqrt(0.24 * 0.76 / MANY)


def test_both_rotations_have_the_same_chance_and_are_independent():
    # The stretch between them makes both visible: as the left
    # and the right factor of a singular value decomposition.
    draw = make_pipe(0.64, rotate=1, aniso=1, aniso_std=3).draw((MANY, 3, 2, 2))
    u, s, vh = torch.linalg.svd(draw.geometry.stretch)
    stretched = (s[:, 0] / s[:, 1] - 1).abs() > 1e-2                        # Else there is one rotation to be seen.
    along_axes = lambda m: (m.abs().amin(dim=(1, 2)) < 1e-4)[stretched]     # noqa: E731
    chance = 1 - math.sqrt(1 - 0.64)                                        # 0.4: together 1 - 0.6 * 0.6
    first, second = ~along_axes(u), ~along_axes(vh)
    for share, expected in ((first, chance), (second, chance), (first & second, chance ** 2)):
        assert abs(share.float().mean().item() - expected) <= 4 * math.sqrt(0.24 / stretched.sum().item())


def test_a_gate_exactly_at_the_chance_does_not_open():
    pipe = AugmentPipe(brightness=1)
    generator = torch.Generator().manual_seed(4)
    torch.randn(8, generator=generator)
    gates = torch.rand(8, generator=generator)
    pipe.p.copy_(gates[5])
    happened = pipe.draw((8, 3, 2, 2), generator=torch.Generator().manual_seed(4)).color[:, 0, 3] != 0
    assert happened.tolist() == [gate < gates[5] for gate in gates] and not happened[5]


def turned(draw):
    return torch.atan2(draw.geometry.stretch[:, 1, 0], draw.geometry.stretch[:, 0, 0])


def hue(draw):
    return torch.atan2((draw.color[:, 0, 2] - draw.color[:, 0, 1]) * 0.75 ** 0.5, 1.5 * draw.color[:, 0, 0] - 0.5)


# Option -> (options, standard deviation, quantity that has it and mean 0 over samples).
SPREAD = {
    'rotate':     ({'rotate_max': 0.25}, math.pi / 4 * math.sqrt(2 / 3), turned),      # Sum of two uniform angles.
    'hue':        ({'hue_max': 0.25}, math.pi / 4 * math.sqrt(1 / 3), hue),
    'xint':       ({'xint_max': 0.25}, 0.25 / math.sqrt(3), lambda draw: draw.geometry.xint),
    'scale':      ({'scale_std': 0.3}, 0.3, lambda draw: -draw.geometry.stretch[:, 0, 0].log2()),
    'aniso':      ({'aniso_std': 0.3}, 0.3, lambda draw: -draw.geometry.stretch[:, 0, 0].log2()),
    'xfrac':      ({'xfrac_std': 0.2}, 0.2, lambda draw: draw.geometry.xfrac),
    'brightness': ({'brightness_std': 0.3}, 0.3, lambda draw: draw.color[:, 0, 3]),
    'contrast':   ({'contrast_std': 0.4}, 0.4, lambda draw: draw.color[:, 0, 0].log2()),
    'saturation': ({'saturation_std': 0.7}, 0.7, lambda draw: (1.5 * draw.color[:, 0, 0] - 0.5).log2()),
    'noise':      ({'noise_std': 0.2}, 0.2, lambda draw: draw.noise),      # Its variance is a product.
    'cutout':     ({}, 1 / math.sqrt(12), lambda draw: draw.hole_center - 0.5),
}


@pytest.mark.parametrize('option', SPREAD)
def test_each_is_as_strong_as_its_range_says(option):
    options, std, quantity = SPREAD[option]
    values = quantity(make_pipe(1, **{option: 1}, **options).draw((MANY, 3, 2, 2)))
    values = values.double().view(MANY, -1)
    assert values.mean().item() == pytest.approx(0, abs=4 * std / math.sqrt(MANY))
    assert values.square().mean().sqrt().item() == pytest.approx(std, rel=0.03)
    assert (values.square().mean(dim=0).sqrt() / std).tolist() == pytest.approx([1] * values.shape[1], rel=0.04)


def test_numbers_from_a_pool_are_drawn_once_each():
    """As on GPUs: two calls for what an image is moved and coloured by."""
    dice = augment.Dice(5, torch.device('cpu'), None, torch.Generator().manual_seed(1))
    dice.is_pooled = True
    taken = [dice.uniform(), dice.uniform(2), dice.normal(), *(dice.uniform() for _ in range(augment.POOL - 4)), dice.uniform(2)]
    assert [list(x.shape) for x in (*taken[:3], taken[-1])] == [[5], [5, 2], [5], [5, 2]]
    generator = torch.Generator().manual_seed(1)
    first, normal, second = (draw([augment.POOL, 5], generator=generator) for draw in (torch.rand, torch.randn, torch.rand))
    assert torch.equal(taken[0], first[0]) and torch.equal(taken[1], first[1:3].t()) and torch.equal(taken[2], normal[0])
    assert torch.equal(taken[-2], first[-2]) and torch.equal(taken[-1], second[:2].t())     # One was left, too few for a pair.
