"""DiffAugment against its formulas written out."""
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from training.diffaugment import DiffAugment


def by_hand(x, policies, seed):
    """The policies in loops, from the same random numbers in their documented order."""
    g = torch.Generator().manual_seed(seed)
    n, _, height, width = x.shape
    for policy in policies:
        y = x.clone()
        if policy == 'color':
            b, s, k = (torch.rand(n, 1, 1, 1, generator=g) for _ in range(3))
            y = y + b - 0.5
            m = y.mean(dim=1, keepdim=True)
            y = (y - m) * 2 * s + m
            m = y.mean(dim=(1, 2, 3), keepdim=True)
            y = (y - m) * (k + 0.5) + m
        if policy == 'translation':
            a, b = int(height / 8 + 0.5), int(width / 8 + 0.5)
            ty, tx = torch.randint(-a, a + 1, [n], generator=g), torch.randint(-b, b + 1, [n], generator=g)
            for i in range(n):
                for row in range(height):
                    for column in range(width):
                        r, c = row + int(ty[i]), column + int(tx[i])
                        inside = 0 <= r < height and 0 <= c < width
                        y[i, :, row, column] = x[i, :, r, c] if inside else 0
        if policy == 'cutout':
            ky, kx = int(height / 2 + 0.5), int(width / 2 + 0.5)
            oy = torch.randint(0, height + (1 - ky % 2), [n], generator=g)
            ox = torch.randint(0, width + (1 - kx % 2), [n], generator=g)
            for i in range(n):
                for j in range(ky):
                    for k in range(kx):
                        row = min(max(int(oy[i]) - ky // 2 + j, 0), height - 1)
                        column = min(max(int(ox[i]) - kx // 2 + k, 0), width - 1)
                        y[i, :, row, column] = 0
        x = y
    return x


@pytest.mark.parametrize('shape', [(6, 3, 16, 16), (4, 1, 9, 14), (3, 3, 5, 6)])
@pytest.mark.parametrize('policy', ['color', 'translation', 'cutout', 'color,translation,cutout', 'cutout,translation'])
def test_policies_are_their_formulas_in_the_listed_order(policy, shape):
    for seed in range(3):
        x = torch.randn(shape)
        obtained = DiffAugment(policy)(x, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(obtained, by_hand(x, policy.split(','), seed), rtol=1e-6, atol=1e-6)


def test_holes_reach_every_border_and_shifts_their_limits():
    draw = DiffAugment('translation,cutout').draw((4000, 3, 16, 24))
    assert draw.shift.amin(dim=0).tolist() == [-2, -3] and draw.shift.amax(dim=0).tolist() == [2, 3]
    assert draw.hole.amin(dim=0).tolist() == [0, 0] and draw.hole.amax(dim=0).tolist() == [16, 24]


def test_same_draw_same_images_and_no_further_random_numbers():
    pipe, x = DiffAugment(), torch.randn(4, 3, 16, 16)
    draw, state = pipe.draw(x), torch.get_rng_state()
    assert torch.equal(pipe.transform(x, draw), pipe.transform(x, draw))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    first = pipe.transform(x, pipe.draw(x * 7))
    torch.manual_seed(2)
    second = pipe.transform(x, pipe.draw(tuple(x.shape)))
    torch.manual_seed(2)
    assert torch.equal(first, second) and torch.equal(first, pipe(x))


def test_first_and_second_derivatives_are_those_of_the_values():
    pipe = DiffAugment()
    draw = pipe.draw((2, 3, 6, 6))
    squares = lambda x: pipe.transform(x, draw).square().sum(dim=[1, 2, 3])     # noqa: E731
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(squares, x) and torch.autograd.gradgradcheck(squares, x)


def test_maps_are_shifted_by_the_same_share_of_their_size():
    pipe = DiffAugment('color,translation')
    draw = pipe.draw((8, 3, 32, 32))                    # Shifts up to 4: 2 pixels of a map of 16, 1 of a map of 8.
    maps = {16: torch.randn(8, 2, 16, 16), 8: torch.randn(8, 2, 8, 8)}
    moved = pipe.warp(maps, draw)
    for res, x in maps.items():
        for i in range(8):
            ty, tx = (draw.shift[i] * res / 32).tolist()
            padded = F.pad(x[i], [3, 3, 3, 3])
            expected = 0                                # Bilinear: four neighbours.
            for dy, dx in itertools.product((0, 1), repeat=2):
                row, column = math.floor(ty) + dy, math.floor(tx) + dx
                weight = (1 - abs(ty - row)) * (1 - abs(tx - column))
                expected += weight * padded[:, 3 + row : 3 + row + res, 3 + column : 3 + column + res]
            torch.testing.assert_close(moved[res][i], expected, rtol=0, atol=1e-5)
    assert (draw.shift % 4 != 0).any()


def test_maps_are_the_very_same_without_translation():
    pipe, maps = DiffAugment('color,cutout'), {8: torch.randn(2, 4, 8, 8)}
    assert pipe.warp(maps, pipe.draw((2, 3, 16, 16))) is maps


@pytest.mark.parametrize('policy', ['cutout', 'translation,cutout', 'cutout,translation'])
def test_keep_mask_is_where_the_image_is_not_covered(policy):
    pipe = DiffAugment(policy)
    draw = pipe.draw((16, 1, 16, 16))
    covered = pipe.transform(torch.ones(16, 1, 16, 16), draw)[:, 0] == 0
    if 'translation' in policy:         # What is empty because it came from outside is not under the hole.
        ones = DiffAugment('translation').transform(torch.ones(16, 1, 16, 16),
                                                    type(draw)(draw.shape, ('translation',), shift=draw.shift))[:, 0]
        assert torch.equal(covered | (ones == 0), ~draw.keep_mask(16) | (ones == 0))
        assert (ones == 0).any()
    else:
        assert torch.equal(covered, ~draw.keep_mask(16))
    assert torch.equal(draw.keep_mask(8), draw.keep_mask(16)[:, 1::2, 1::2])


def test_keep_mask_is_none_without_cutout():
    assert DiffAugment('color,translation').draw((2, 3, 8, 8)).keep_mask(4) is None


@pytest.mark.parametrize('policy, message', [
    ('color,cut', "unknown policy 'cut'"), ('', "unknown policy ''"), ('color,color', 'twice')])
def test_policies_that_do_not_exist_are_refused_by_name(policy, message):
    with pytest.raises(ValueError, match=message):
        DiffAugment(policy)


def test_the_published_form_of_ggdr_is_refused_by_name():
    pipe = DiffAugment()
    with pytest.raises(ValueError, match='official'):
        pipe.warp(torch.zeros(2, 3, 8, 8), pipe.draw((2, 3, 16, 16)), form='official')


def test_constructor_arguments_are_recorded():
    pipe = DiffAugment(policy='cutout,color')
    assert DiffAugment(**pipe.init_kwargs).policies == pipe.policies == ('cutout', 'color')
    assert not pipe.state_dict()
