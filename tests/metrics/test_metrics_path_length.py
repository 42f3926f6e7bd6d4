"""Perceptual path length: fixtures 09e, and what they do not hold."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixture_data import case_ids, load_net
from metric_tools import make_generator

from metrics.names import MetricError
from metrics.perceptual_path_length import path_distance, path_distances, slerp, trimmed_mean
from training.networks import Generator

CASES = {kind: [param for param in case_ids('09e_path_length_metric') if param.id.startswith(kind)]
         for kind in ('slerp', 'reduce', 'sampler')}


@pytest.mark.parametrize('case', CASES['slerp'])
def test_slerp_matches_the_fixture(case):
    case.check('y', slerp(case.input('a'), case.input('b'), case.input('t')))


@pytest.mark.parametrize('case', CASES['reduce'])
def test_reduction_matches_the_fixture(case):
    distances = path_distance(case.input('l0'), case.input('l1'), **case.config)
    case.check('dist', distances)
    case.check('ppl', np.float64(trimmed_mean(distances)))


@pytest.mark.parametrize('case', CASES['sampler'])
def test_sampling_matches_the_fixture(case):
    description, state = load_net(case.nets['G'])
    G = Generator(**description['config']).eval()
    G.load_state_dict(state)
    config = dict(case.config)
    z, c, t = case.input('z'), case.input('c'), case.input('t')
    noise = {name.removeprefix('noise/synthesis.'): torch.from_numpy(np.array(values))
             for name, values in case.inputs.items() if name.startswith('noise/')}
    t = t * (config.pop('sampling') == 'full')
    z = torch.stack(z.chunk(2), dim=1)    # Rows i and N + i are the ends of path i.
    distances = path_distances(G, lambda x: F.avg_pool2d(x / 255, 4).flatten(1), z, c, t, noise, **config)
    case.check('dist', distances)


def paths(num, seed=0, dim=8):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(num, 2, dim, generator=rng), torch.zeros(num, 0), torch.rand(num, generator=rng)


class Linear(torch.nn.Module):
    """image = A w, 16x16; w = z, once per layer."""

    def __init__(self, res=16):
        super().__init__()
        self.img_resolution = res
        self.A = torch.randn(8, 3 * 256, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def mapping(self, z, c):
        return z[:, None].repeat(1, 2, 1)

    def synthesis(self, ws, noise_mode, force_fp32):
        return (ws[:, 0].double() @ self.A).reshape(-1, 3, 16, 16)


def test_a_linear_generator_has_the_length_of_its_columns():
    G = Linear()
    z, c, t = (values.double() for values in paths(50))
    distances = path_distances(G, lambda x: x.flatten(1) / 127.5, z, c, t * 0, {})
    expected = ((z[:, 1] - z[:, 0]).double() @ G.A).square().sum(dim=1)
    torch.testing.assert_close(distances, expected, rtol=1e-6, atol=0)


def test_a_constant_generator_has_length_zero():
    class Constant(Linear):
        def synthesis(self, ws, noise_mode, force_fp32):
            return torch.ones(len(ws), 3, 16, 16)
    assert path_distances(Constant(), lambda x: x.flatten(1), *paths(4), {}).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize('space', ['w', 'z'])
def test_the_step_size_does_not_matter_on_a_smooth_generator(space):
    G = make_generator()
    z, c, t = paths(6)
    small, large = (path_distances(G, lambda x: x.flatten(1) / 255, z, c, t, {}, space, epsilon=epsilon)
                    for epsilon in (1e-4, 1e-3))
    assert small.min() > 0
    torch.testing.assert_close(small, large, rtol=0.05, atol=0)


def test_both_images_of_a_path_share_its_noise():
    G = make_generator()
    z, c, t = paths(3)
    z[:, 1] = z[:, 0]    # Paths of length zero: only different noise could move the image.
    noise = {name: torch.randn(3, 1, *buffer.shape) for name, buffer in G.synthesis.named_buffers()
             if name.endswith('noise_const')}
    distances = path_distances(G, lambda x: x.flatten(1) / 255, z, c, t, noise)
    assert distances.max() < 10    # Rounding, divided by eps^2 = 1e-8; other noise would give millions.


@pytest.mark.parametrize(('res', 'crop', 'shape'), [
    (16, False, (16, 16)), (16, True, (8, 8)), (512, False, (8, 8)), (1024, False, (4, 4)),
    (512, True, (4, 4))])
def test_crop_and_shrinking(res, crop, shape):
    """The factor of the block average is that of the generator's resolution, also after cropping."""
    seen = []
    path_distances(Linear(res), lambda x: seen.append(x) or x.flatten(1), *paths(1), {}, crop=crop)
    assert seen[0].shape[2:] == shape


def test_the_crop_is_below_the_centre():
    class Ramp(Linear):
        def synthesis(self, ws, noise_mode, force_fp32):
            rows = torch.arange(16.)[:, None] + torch.arange(16.) / 100
            return rows.repeat(len(ws), 1, 1, 1)
    seen = []
    path_distances(Ramp(), lambda x: seen.append(x) or x.flatten(1), *paths(1), {}, crop=True)
    corner, end = seen[0][0, 0, 0, 0] / 127.5 - 1, seen[0][0, 0, -1, -1] / 127.5 - 1
    assert seen[0].shape[1] == 3    # One grey channel became three.
    assert corner.item() == pytest.approx(6.04, abs=1e-4) and end.item() == pytest.approx(13.11, abs=1e-4)


def test_slerp_stays_on_the_sphere_and_ends_at_its_ends():
    a, b = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    torch.testing.assert_close(slerp(a, b, torch.zeros(5, 1)), F.normalize(a))
    torch.testing.assert_close(slerp(a, b, torch.ones(5, 1)), F.normalize(b))
    torch.testing.assert_close(slerp(a, b, torch.full((5, 1), 0.3)).norm(dim=1),
                               torch.ones(5, dtype=torch.float64))


def test_trimming_keeps_the_percentiles_themselves():
    values = torch.arange(301.)    # Percentiles 3 and 297 exactly.
    assert trimmed_mean(values) == np.arange(3, 298).mean()
    assert trimmed_mean(torch.arange(250.)) == np.arange(2, 248).mean()    # 2.49 -> 2 and 246.51 -> 247.


def test_lengths_that_are_no_numbers_are_refused():
    with pytest.raises(MetricError, match='1 of 3 path lengths'):
        trimmed_mean(torch.tensor([1., float('nan'), 2]))
