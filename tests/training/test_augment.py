"""Augmentation pipe: numbers of the fixtures and of a table, and what those leave open."""
import json

import numpy as np
import pytest
import torch
from fixture_data import case_ids

from torch_utils.ops import upfirdn2d
from training.augment import PIPES, AugmentPipe


def make_pipe(p=1.0, **options):
    pipe = AugmentPipe(**options)
    pipe.p.fill_(p)
    return pipe


def pipe_of(case):
    ranges = {key: value for key, value in case.config.items()
              if key not in ('enabled', 'percentile', 'p', 'seed', 'feature_resolutions')}
    return make_pipe(case.config['p'], **case.config['enabled'], **ranges)


def smooth_images(n=2, channels=3, height=16, width=16):
    """Random images without the highest frequencies, so that resampling them is harmless."""
    small = torch.randn(n, channels, 4, 4)
    return torch.nn.functional.interpolate(small, size=[height, width], mode='bicubic', align_corners=False)


# ---------------------------------------- fixtures

@pytest.mark.parametrize('case', case_ids('05a_augment_single') + case_ids('05b_augment_groups'))
def test_fixed_quantiles_give_the_fixture_s_images_and_derivatives(case):
    x = case.input('x').requires_grad_(True)
    y = pipe_of(case)(x, debug_percentile=case.config['percentile'])
    case.check('y', y)
    if 'grad_x' in case.outputs:
        case.check('grad_x', torch.autograd.grad((case.input('v') * y).sum(), x, retain_graph=True)[0])
    if 'second_x' in case.outputs:
        g, = torch.autograd.grad(0.5 * (case.input('v') * y * y).sum(), x, create_graph=True)
        case.check('second_x', torch.autograd.grad(g.square().sum(), x)[0])


@pytest.mark.parametrize('case', case_ids('05c_augment_seeded'))
def test_seeded_draws_give_the_fixture_s_images(case):
    torch.manual_seed(case.config['seed'])
    case.check('y', pipe_of(case)(case.input('x')))


@pytest.mark.parametrize('case', case_ids('05d_augment_joint'))
def test_official_warp_gives_the_fixture_s_maps_and_gradients(case):
    pipe = pipe_of(case)
    maps = {res: case.input(f'in_f_{res}').requires_grad_(True) for res in case.config['feature_resolutions']}
    draw = pipe.draw(case.input('x'), case.config['percentile'])
    case.check('y', pipe.transform(case.input('x'), draw))
    for res, y in pipe.warp(maps, draw, form='official').items():
        case.check(f'f_{res}', y)
        case.check(f'grad_f_{res}', torch.autograd.grad((case.input(f'v_{res}') * y).sum(), maps[res])[0])


# ---------------------------------------- table of check values

# Pipe -> (sum, absolute sum, element [1, 2, 10, 20]) at p = 0.6, at p = 1, at percentile 0.3.
CHECK_VALUES = {
    'blit':   [(-18.5029, 6608.6604, 0.35614), (218.7723, 6649.5502, 0.40054), (37.4359, 6584.2996, 0.00317)],
    'geom':   [(215.5205, 5969.0102, -0.18841), (96.3697, 6048.3108, 0.29209), (-222.0835, 6008.5179, -0.16794)],
    'color':  [(-338.9064, 6151.4636, 0.32333), (-387.4196, 5810.2581, 0.84723), (-894.2890, 4656.3673, -0.34761)],
    'filter': [(-132.4723, 7170.2475, -0.00435), (-130.9221, 7600.0106, -0.00521), (-100.4840, 6247.2020, 0.00000)],
    'noise':  [(-106.7968, 6570.3033, 0.00000), (-105.1040, 6572.0928, 0.03606), (-103.9610, 6575.8715, 0.08163)],
    'cutout': [(5.7003, 5804.0143, 0), (186.0775, 5338.1875, 0), (-304.5280, 4987.0238, 0)],
    'bgc':    [(820.3666, 6890.0381, -0.36296), (311.9638, 9293.4324, 0.29749), (-928.4413, 4367.3219, -0.29717)],
    'bgcfnc': [(554.8503, 6307.2019, -0.15354), (-506.2127, 7476.0184, 0.01765), (-846.9227, 3173.0216, -0.25600)],
}


def check_image():
    x, y = np.meshgrid(np.arange(32), np.arange(32))
    first = np.stack([np.sin(x / 5), np.cos(y / 3), ((7 * x + 3 * y) % 11) / 5 - 1])
    batch = np.stack([first, first[:, ::-1] / 2, first.transpose(0, 2, 1), -first])
    return torch.tensor(batch, dtype=torch.float32)


@pytest.mark.parametrize('setting', range(3))
@pytest.mark.parametrize('name', CHECK_VALUES)
def test_named_pipes_give_the_check_values(name, setting):
    p, percentile = [(0.6, None), (1, None), (0, 0.3)][setting]
    total, absolute, element = CHECK_VALUES[name][setting]
    torch.manual_seed(123)
    y = make_pipe(p, **PIPES[name])(check_image(), debug_percentile=percentile)
    assert y.sum().item() == pytest.approx(total, abs=1e-6 * absolute)
    assert y.abs().sum().item() == pytest.approx(absolute, rel=1e-6)
    assert y[1, 2, 10, 20].item() == pytest.approx(element, abs=2e-5)


def test_grey_images_give_the_check_values():
    torch.manual_seed(123)
    y = make_pipe(1, **PIPES['bgc'])(check_image().mean(dim=1, keepdim=True))
    assert y.sum().item() == pytest.approx(103.9880, abs=2e-3)
    assert y.abs().sum().item() == pytest.approx(1603.9997, abs=2e-3)


def test_pipes_are_the_unions_that_their_letters_say():
    letters = {'b': 'blit', 'g': 'geom', 'c': 'color', 'f': 'filter', 'n': 'noise'}
    for name, parts in {'bg': 'bg', 'bgc': 'bgc', 'bgcf': 'bgcf', 'bgcfn': 'bgcfn', 'bgcfnc': 'bgcfn'}.items():
        members = set().union(*(PIPES[letters[part]] for part in parts))
        members |= {'cutout'} if name == 'bgcfnc' else set()
        assert dict.fromkeys(members, 1) == PIPES[name]


# ---------------------------------------- buffers

def test_state_is_the_strength_and_two_filters():
    state = AugmentPipe().state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == \
        {'p': [], 'Hz_geom': [12], 'Hz_fbank': [4, 43]}
    assert state['p'] == 1


def test_geometric_filter_is_orthogonal_to_its_even_shifts():
    f = AugmentPipe().Hz_geom.double()
    for shift in range(6):
        assert (f[2 * shift:] @ f[:12 - 2 * shift]).item() == pytest.approx(0.5 * (shift == 0), abs=1e-7)


def test_band_filters_have_the_specified_numerators_and_add_up_to_an_impulse():
    bank = AugmentPipe().Hz_fbank * 32768
    assert torch.equal(bank, bank.flip(1))
    assert bank[0, 14:22].tolist() == [468, 1056, 1674, 2304, 2918, 3456, 3888, 4096]
    assert bank[1, 14:22].tolist() == [-756, -1568, -2250, -2304, -806, 1152, 3024, 4096]
    assert bank[2, 11:22].tolist() == [0, -32, 0, 288, 512, 576, 0, -3136, -4608, 2304, 8192]
    assert bank[3, 17:22].tolist() == [0, 1024, 0, -9216, 16384]
    assert bank.sum(dim=0).nonzero().tolist() == [[21]] and bank[:, 21].sum() == 32768


# ---------------------------------------- draw and transform

def test_draw_depends_on_the_shape_only():
    pipe, images = make_pipe(0.7, **PIPES['bgcfnc']), torch.randn(4, 3, 24, 24)
    torch.manual_seed(5)
    from_images = pipe.transform(images, pipe.draw(images * 100))
    torch.manual_seed(5)
    from_shape = pipe.transform(images, pipe.draw((4, 3, 24, 24)))
    torch.manual_seed(5)
    assert torch.equal(from_images, from_shape) and torch.equal(from_images, pipe(images))
    assert not torch.equal(from_images, pipe(images))


def test_transform_is_deterministic_and_leaves_the_images_alone():
    pipe, images = make_pipe(1, **PIPES['bgcfnc']), torch.randn(4, 3, 24, 24)
    before, draw = images.clone(), pipe.draw(images)
    state = torch.get_rng_state()
    first = pipe.transform(images, draw)
    assert torch.equal(first, pipe.transform(images, draw))
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)


def test_all_random_numbers_come_from_the_generator_handed_in():
    pipe, images = make_pipe(0.7, **PIPES['bgcfnc']), torch.randn(4, 3, 24, 24)
    torch.manual_seed(9)
    expected = pipe(images)
    state = torch.get_rng_state()
    obtained = pipe(images, generator=torch.Generator().manual_seed(9))
    assert torch.equal(obtained, expected) and torch.equal(torch.get_rng_state(), state)


def test_a_percentile_draws_as_many_random_numbers_as_chance():
    pipe, states = make_pipe(0.7, **PIPES['bgcfnc']), []
    for percentile in (None, 0.3):
        generator = torch.Generator().manual_seed(9)
        pipe.draw((4, 3, 24, 24), percentile, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_a_pipe_without_options_does_nothing_and_draws_nothing():
    images, state = torch.randn(2, 3, 8, 8), torch.get_rng_state()
    assert AugmentPipe()(images) is images
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('name', ['bgc', 'filter', 'noise', 'cutout'])
def test_strength_zero_is_the_identity_to_rounding(name):
    images = torch.randn(4, 3, 32, 32)
    assert (make_pipe(0, **PIPES[name])(images) - images).abs().max() < 3e-5


def test_images_of_another_shape_than_drawn_are_refused():
    pipe = AugmentPipe(xflip=1)
    with pytest.raises(AssertionError, match='drawn for'):
        pipe.transform(torch.zeros(2, 3, 8, 8), pipe.draw((4, 3, 8, 8)))


@pytest.mark.parametrize('options, size', [(PIPES['bgc'] | PIPES['noise'] | PIPES['cutout'], 6), (PIPES['filter'], 22)])
def test_first_and_second_derivatives_are_those_of_the_values(options, size):
    pipe = make_pipe(0.8, **options)
    draw = pipe.draw((2, 3, size, size))
    squares = lambda x: pipe.transform(x, draw)[:, :, ::3, ::3].square().sum(dim=[1, 2, 3])     # noqa: E731
    x = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(squares, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(squares, x, fast_mode=True)


# ---------------------------------------- single transformations by hand

@pytest.mark.parametrize('shift, whole', [(2.5, 2), (3.5, 4), (-2.5, -2), (1.5, 2), (0.5, 0)])
def test_whole_pixel_shifts_round_half_to_even(shift, whole):
    images = smooth_images()
    pipe = make_pipe(xint=1, xint_max=0.5)
    moved = pipe(images, debug_percentile=(shift / 8 + 1) / 2)      # (2 d - 1) * 0.5 * 16 = shift
    inside = slice(5, 11)
    expected = images.roll([whole, whole], dims=[2, 3])
    torch.testing.assert_close(moved[:, :, inside, inside], expected[:, :, inside, inside], rtol=0, atol=3e-5)


def test_a_pixel_whose_centre_is_on_the_border_of_the_hole_is_kept():
    images = torch.ones(1, 1, 8, 8)
    kept = make_pipe(cutout=1)(images, debug_percentile=0.3125)[0, 0]   # Hole from 0.0625 to 0.5625: centres 0 and 4.
    expected = torch.ones(8, 8)
    expected[1:4, 1:4] = 0
    assert torch.equal(kept, expected)


def test_the_hole_may_stick_out_of_the_image():
    kept = make_pipe(cutout=1)(torch.ones(1, 1, 8, 8), debug_percentile=0.97)[0, 0]
    expected = torch.ones(8, 8)
    expected[6:, 6:] = 0                                                # 0.72 ... 1.22: centres 0.8125 and 0.9375.
    assert torch.equal(kept, expected)


def test_noise_at_a_percentile_has_its_strength_but_a_random_field():
    pipe = make_pipe(noise=1, noise_std=0.2)
    generator = torch.Generator().manual_seed(3)
    noise = pipe(torch.zeros(2, 3, 8, 8), debug_percentile=0.4, generator=generator)
    generator.manual_seed(3)
    torch.randn([2, 1, 1, 1], generator=generator), torch.rand([2, 1, 1, 1], generator=generator)
    field = torch.randn([2, 3, 8, 8], generator=generator)
    torch.testing.assert_close(noise, field * (0.3708071585935579 * 0.2))       # erfinv(0.4)


def test_colour_transformations_are_the_product_of_their_matrices():
    def homogeneous(linear, constant=0.0):
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = linear
        matrix[:3, 3] = constant
        return matrix
    e = 0.3708071585935579                                          # erfinv(0.4): percentile 0.7
    b, c, theta, s = e * 0.8, 2 ** (e * 0.5), 0.4 * torch.pi, 2 ** (e * 2)
    v, eye = torch.full([3], 3 ** -0.5, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    cross = torch.linalg.cross(v.expand(3, 3), eye, dim=1).t()      # cross @ x = v x x
    grey = v.outer(v)
    expected = homogeneous(grey + s * (eye - grey)) @ homogeneous(torch.linalg.matrix_exp(theta * cross)) @ \
        homogeneous(eye - 2 * grey) @ homogeneous(c * eye) @ homogeneous(eye, b)

    pipe = make_pipe(**PIPES['color'], brightness_std=0.8, saturation_std=2)
    images = torch.randn(2, 3, 4, 4)
    obtained = pipe(images, debug_percentile=0.7).double()
    images = torch.cat([images.double(), torch.ones(2, 1, 4, 4)], dim=1)
    torch.testing.assert_close(obtained, torch.einsum('ij,njhw->nihw', expected, images)[:, :3], rtol=0, atol=3e-6)


def test_grey_images_know_no_hue_and_no_saturation():
    pipe, images, state = AugmentPipe(hue=1, saturation=1), torch.randn(2, 1, 8, 8), torch.get_rng_state()
    assert torch.equal(pipe(images), images)
    assert torch.equal(torch.get_rng_state(), state)


def test_band_gains_are_gated_one_by_one_and_keep_the_expected_power():
    pipe = make_pipe(0.8, imgfilter=0.9, imgfilter_bands=[1, 0.5, 0, 0.25], imgfilter_std=0.7)
    taps = pipe.draw((64, 3, 32, 32), generator=torch.Generator().manual_seed(1)).taps
    generator = torch.Generator().manual_seed(1)
    power = torch.tensor([10, 1, 1, 1]) / 13
    gains = torch.ones(64, 4)
    for band, weight in enumerate([1, 0.5, 0, 0.25]):
        t = 2 ** (0.7 * torch.randn(64, generator=generator))
        happens = torch.rand(64, generator=generator) < 0.9 * 0.8 * weight
        q = torch.ones(64, 4)
        q[happens, band] = t[happens]
        gains *= q / (q.square() @ power).sqrt()[:, None]
    torch.testing.assert_close(taps, gains @ pipe.Hz_fbank, rtol=0, atol=1e-6)
    assert gains.std(dim=0).min() > 0.05


def test_filter_is_the_convolution_with_each_sample_s_taps():
    pipe, images = make_pipe(imgfilter=1), torch.randn(3, 2, 24, 26)
    draw = pipe.draw(images)
    taps = draw.taps.numpy().astype(np.float64)
    padded = np.pad(images.numpy().astype(np.float64), [(0, 0), (0, 0), (21, 21), (21, 21)], mode='reflect')
    expected = np.stack([
        np.apply_along_axis(np.convolve, 1, np.apply_along_axis(np.convolve, 2, padded[n], taps[n], 'valid'),
                            taps[n], 'valid') for n in range(3)])
    np.testing.assert_allclose(pipe.transform(images, draw), expected, atol=1e-5)


# ---------------------------------------- options

def test_constructor_arguments_are_recorded_as_plain_data():
    pipe = AugmentPipe(xflip=0.5, imgfilter=1, imgfilter_bands=[1, 0, 1, 0.5])
    rebuilt = AugmentPipe(**json.loads(json.dumps(pipe.init_kwargs)))
    assert rebuilt.options == pipe.options and rebuilt.options.imgfilter_bands == (1, 0, 1, 0.5)


@pytest.mark.parametrize('options, message', [
    ({'xflip': -1}, 'xflip: -1'),
    ({'noise_std': float('nan')}, 'noise_std: nan'),
    ({'imgfilter_bands': [1, 1, 1]}, 'imgfilter_bands: .*4 numbers'),
    ({'imgfilter_bands': [1, 1, 1, -2]}, 'imgfilter_bands'),
])
def test_values_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        AugmentPipe(**options)


def test_an_unknown_option_is_refused_by_name():
    with pytest.raises(TypeError, match='xflop'):
        AugmentPipe(xflop=1)


@pytest.mark.parametrize('options, shape, message', [
    ({'hue': 1}, (2, 2, 8, 8), '2 channels'),
    ({'brightness': 1}, (2, 4, 8, 8), '4 channels'),
    ({'imgfilter': 1}, (2, 3, 21, 32), '32x21'),
])
def test_images_that_a_transformation_is_not_defined_for_are_refused(options, shape, message):
    with pytest.raises(ValueError, match=message):
        AugmentPipe(**options).draw(shape)
    AugmentPipe(xflip=1).draw(shape)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_cuda_gives_the_same_images_and_drawing_does_not_wait_for_the_device():
    pipe, images = make_pipe(1, **PIPES['bgc']), torch.randn(4, 3, 32, 32)
    expected = pipe(images, debug_percentile=0.7)
    pipe, images = pipe.cuda(), images.cuda()
    pipe.draw(images, debug_percentile=0.7)         # Constants are made at the first call.
    torch.cuda.set_sync_debug_mode('error')
    try:
        draw = pipe.draw(images, debug_percentile=0.7)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    torch.testing.assert_close(pipe.transform(images, draw).cpu(), expected, rtol=1e-4, atol=1e-4)


def test_doubling_and_halving_without_motion_cancel():
    pipe, images = AugmentPipe(), torch.randn(2, 3, 16, 16)
    padded = torch.nn.functional.pad(images, [6, 6, 6, 6], mode='reflect')
    doubled = upfirdn2d.upsample2d(padded, pipe.Hz_geom)
    halved = upfirdn2d.downsample2d(doubled, pipe.Hz_geom, padding=-12, flip_filter=True)
    torch.testing.assert_close(halved, images, rtol=0, atol=3e-5)
