"""Feature maps moved together with the images as GGDR needs them."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from training.augment import PIPES, AugmentPipe
from training.warp import affine_grid

ALIGNED_OR_OFFICIAL = pytest.mark.parametrize('form', ['aligned', 'official'])


class NoProducts(TorchDispatchMode):
    """Refuses products of matrices."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.overloadpacket not in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.baddbmm)
        return func(*args, **kwargs or {})


def test_no_place_goes_through_a_product_of_matrices():
    """With --allow-tf32=1 it would keep ten bits: places were off by a quarter of a pixel at 1024 pixels."""
    pipe = make_pipe(**PIPES['bgcfnc'])
    with NoProducts():
        draw = pipe.draw((2, 3, 64, 64))
        draw.warp.sampling_grid()
        pipe.warp(torch.ones(2, 3, 16, 16), draw)


@pytest.mark.parametrize(('width', 'height'), [(7, 4), (268, 268), (1, 1)])
def test_the_affine_grid_is_the_stock_one(width, height):
    theta = torch.randn(3, 2, 3)
    expected = F.affine_grid(theta.double(), [3, 1, height, width], align_corners=False)
    torch.testing.assert_close(affine_grid(theta, width, height).double(), expected, rtol=0, atol=1e-6)


def make_pipe(p=1.0, **options):
    pipe = AugmentPipe(**options)
    pipe.p.fill_(p)
    return pipe


def smooth_images(n, size, waves=3):
    """[n, 2, size, size] sums of a few slow waves."""
    position = (torch.arange(size) + 0.5) / size
    frequency = torch.randint(-waves, waves + 1, [n, 2, 6, 2]).float()
    phase = torch.rand(n, 2, 6) * 2 * math.pi
    angle = 2 * math.pi * (frequency[..., :1, None] * position[:, None] + frequency[..., 1:, None] * position)
    return (angle + phase[..., None, None]).sin().sum(dim=2)


def correlation(a, b, where):
    a, b = (x.movedim(1, -1)[where] for x in (a, b))
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('options', [{'xint': 1}, PIPES['blit'], PIPES['geom'], PIPES['bg']], ids=' '.join)
def test_aligned_maps_show_what_the_images_show(options, seed):
    torch.manual_seed(seed)
    pipe, images = make_pipe(**options), smooth_images(n=16, size=64)
    draw = pipe.draw(images)
    pooled = F.adaptive_avg_pool2d(pipe.transform(images, draw), 16)
    maps = pipe.warp(F.adaptive_avg_pool2d(images, 16), draw)
    ones = F.adaptive_avg_pool2d(pipe.transform(torch.ones_like(images), draw), 16)
    valid = ((ones - 1).abs() < 0.02).all(dim=1)                            # Nothing from beyond the reflections.
    assert valid.float().mean() > 0.8
    assert correlation(pooled, maps, valid) > 0.99


def test_a_shift_by_half_a_map_pixel_averages_neighbours():
    pipe = make_pipe(xint=1, xint_max=0.125)
    draw = pipe.draw((1, 3, 16, 16), debug_percentile=1.0)                  # 2 image pixels right and down.
    maps = torch.randn(1, 5, 4, 4)
    moved = pipe.warp(maps, draw)
    mean = (maps[:, :, :3, :3] + maps[:, :, 1:, :3] + maps[:, :, :3, 1:] + maps[:, :, 1:, 1:]) / 4
    torch.testing.assert_close(moved[:, :, 1:, 1:], mean)


@pytest.mark.parametrize('percentile, expected', [
    (0.3, lambda x: x.rot90(1, dims=[2, 3])),                               # No flip, one quarter.
    (0.6, lambda x: x.flip(3).rot90(2, dims=[2, 3])),                       # Flip, two quarters.
    (0.8, lambda x: x.flip(3).rot90(3, dims=[2, 3])),                       # Flip, three quarters.
])
def test_aligned_flips_and_quarter_turns_only_permute_pixels(percentile, expected):
    pipe, maps, images = make_pipe(xflip=1, rotate90=1), torch.randn(2, 5, 8, 8), smooth_images(2, 64, waves=1)
    draw = pipe.draw(images, debug_percentile=percentile)
    torch.testing.assert_close(pipe.warp(maps, draw), expected(maps), rtol=0, atol=1e-5)
    torch.testing.assert_close(pipe.transform(images, draw), expected(images), rtol=0, atol=0.1)       # Of +-6.


def test_aligned_maps_are_reflected_and_then_empty_where_the_image_is():
    pipe = make_pipe(xfrac=1, xfrac_std=1)
    draw = pipe.draw((1, 1, 64, 64), debug_percentile=0.95)             # erfinv(0.9) = 1.163 widths right and down.
    image, maps = torch.rand(1, 1, 64, 64) + 1, torch.rand(1, 1, 16, 16) + 1
    shown = F.adaptive_avg_pool2d((pipe.transform(image, draw).abs() > 0.5).float(), 16)[0, 0]
    moved = pipe.warp(maps, draw)[0, 0] > 0.5
    assert not moved[0, 0] and moved[-1, -1]
    sure = (shown < 0.2) | (shown > 0.8)
    assert torch.equal(moved[sure], shown[sure] > 0.5) and sure.float().mean() > 0.75


@pytest.mark.parametrize('share', [0.02, 0.1, 0.37])
def test_aligned_maps_do_not_fade_at_their_reflected_borders(share):
    pipe = make_pipe(xfrac=1, xfrac_std=share)
    draw = pipe.draw((1, 1, 64, 64), debug_percentile=(1 + math.erf(1)) / 2)    # Shifts by this share.
    torch.testing.assert_close(pipe.warp(torch.ones(1, 1, 16, 16), draw), torch.ones(1, 1, 16, 16), rtol=0, atol=1e-5)


def test_aligned_maps_have_the_transposed_warp_as_derivative():
    pipe = make_pipe(**PIPES['bg'])
    draw = pipe.draw((2, 3, 16, 16))
    maps = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pipe.warp(x, draw), maps, fast_mode=True)


@ALIGNED_OR_OFFICIAL
def test_maps_are_the_very_same_without_geometry(form):
    maps, alone = {8: torch.randn(2, 4, 8, 8)}, torch.randn(2, 4, 8, 8)
    for options in ({}, PIPES['color'], PIPES['noise'] | PIPES['cutout']):
        pipe = make_pipe(**options)
        draw = pipe.draw((2, 3, 16, 16))
        assert pipe.warp(maps, draw, form) is maps and pipe.warp(alone, draw, form) is alone


def test_aligned_maps_stay_as_they_are_at_strength_zero():
    pipe, maps = make_pipe(0, **PIPES['bgc']), torch.randn(4, 5, 16, 16)
    torch.testing.assert_close(pipe.warp(maps, pipe.draw((4, 3, 64, 64))), maps, rtol=0, atol=1e-5)


def test_colour_and_holes_leave_the_moved_maps_alone():
    maps = torch.randn(2, 4, 8, 8)
    pipes = [make_pipe(**PIPES[name]) for name in ('bg', 'bgcfnc')]
    first, second = (pipe.warp(maps, pipe.draw((2, 3, 24, 24), debug_percentile=0.7)) for pipe in pipes)
    assert torch.equal(first, second)


@ALIGNED_OR_OFFICIAL
def test_a_dictionary_is_warped_map_by_map_and_not_modified(form):
    pipe = make_pipe(**PIPES['bg'])
    draw = pipe.draw((2, 3, 16, 16))
    maps = {8: torch.randn(2, 4, 8, 8), 16: torch.randn(2, 4, 16, 16)}
    before = {res: x.clone() for res, x in maps.items()}
    moved = pipe.warp(maps, draw, form)
    for res in maps:
        assert torch.equal(moved[res], pipe.warp(before[res], draw, form)) and torch.equal(maps[res], before[res])


def test_the_official_form_leaves_maps_above_128_as_they_are():
    pipe = make_pipe(xflip=1)
    draw = pipe.draw((1, 1, 256, 256), debug_percentile=0.9)
    maps = {128: torch.randn(1, 1, 128, 128), 256: torch.randn(1, 1, 256, 256)}
    official, aligned = (pipe.warp(maps, draw, form) for form in ('official', 'aligned'))
    assert official[256] is maps[256] and not torch.equal(official[128], maps[128])
    torch.testing.assert_close(aligned[256], maps[256].flip(3), rtol=0, atol=2e-3)      # Rounding of positions.


def test_an_unknown_form_is_refused():
    pipe = AugmentPipe(xflip=1)
    with pytest.raises(AssertionError, match='nearest'):
        pipe.warp(torch.zeros(1, 1, 4, 4), pipe.draw((1, 1, 8, 8)), form='nearest')


# ---------------------------------------- positions under cutout

def test_keep_mask_shows_the_hole_at_each_resolution():
    draw = make_pipe(cutout=1).draw((2, 3, 8, 8), debug_percentile=0.3125)      # Image pixels 1 to 3 of 8.
    expected = {
        8: [1, 0, 0, 0, 1, 1, 1, 1],
        4: [0, 0, 1, 1],                                # What is at 1, 3, 5, 7.
        2: [0, 1],                                      # What is at 2, 6.
        16: [1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
    }
    for res, row in expected.items():
        row = torch.tensor(row, dtype=torch.bool)
        assert torch.equal(draw.keep_mask(res), (row[:, None] | row).expand(2, res, res)), res


def test_keep_mask_is_none_without_cutout_and_all_true_where_it_did_not_happen():
    assert make_pipe(**PIPES['bgc']).draw((2, 3, 8, 8)).keep_mask(4) is None
    assert make_pipe(0, cutout=1).draw((2, 3, 8, 8)).keep_mask(4).all()


def test_keep_mask_covers_what_the_image_lost():
    pipe, images = make_pipe(cutout=1), torch.ones(16, 1, 64, 64)
    draw = pipe.draw(images)
    lost = F.adaptive_avg_pool2d(1 - pipe.transform(images, draw), 16)[:, 0]
    keep = draw.keep_mask(16)
    assert lost[keep].max() <= 0.76 and lost[~keep].min() >= 0.24 and (~keep).float().mean() > 0.1
