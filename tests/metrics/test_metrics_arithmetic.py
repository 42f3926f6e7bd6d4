"""The arithmetic of the metrics on given feature arrays: fixtures of category 09,
formulas, and hand-made tables."""
import numpy as np
import pytest
import scipy.linalg
import torch
from fixture_data import case_ids
from metric_tools import external, features

from metrics.frechet import frechet_distance
from metrics.inception_score import inception_score
from metrics.kernel import kernel_distance, subset_kernel_distance
from metrics.moments import Moments
from metrics.names import MetricError
from metrics.neighbours import nearest, neighbour_distances
from metrics.precision_recall import density_coverage, precision_recall

SQUARE = torch.tensor([[0., 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)
MOVED = SQUARE + torch.tensor([0.5, 0])


def normal(num, dim, seed=0, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((num, dim))).to(dtype)


def moments_of_gaussian(mean, cov, num=1000):
    return Moments.from_covariance(num, mean, cov)


def sqrtm_distance(x, y):
    """The formula as FID programs write it: a matrix root of the
    non-symmetric product, covariances of numpy."""
    (mu_x, s_x), (mu_y, s_y) = ((f.mean(axis=0), np.cov(f, rowvar=False)) for f in (x.numpy(), y.numpy()))
    root = scipy.linalg.sqrtm(s_x @ s_y).real
    return ((mu_x - mu_y) ** 2).sum() + np.trace(s_x) + np.trace(s_y) - 2 * np.trace(root)


class TestMoments:
    @pytest.mark.parametrize('case', case_ids('09a_frechet'))
    def test_mean_and_covariance_match_the_fixture(self, case):
        for name in ('real', 'gen'):
            moments = Moments.of(case.input(name))
            case.check(f'mean_{name}', moments.mean)
            case.check(f'cov_{name}', moments.cov(ddof=0))

    def test_merged_parts_equal_the_whole(self):
        features = normal(5000, 6) + 1000 * torch.arange(6)    # |mean| >> standard deviation
        whole = np.cov(features.numpy(), rowvar=False)
        merged = Moments.merged(Moments.of(part) for part in features.split([1, 17, 2500, 2482]))
        assert merged.num == 5000
        np.testing.assert_allclose(merged.cov().numpy(), whole, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(merged.mean.numpy(), features.mean(dim=0).numpy(), rtol=1e-14)

    def test_centres_pool_by_count_mean_and_covariance_alone(self):
        centres = [normal(40, 3, seed=1), 2 * normal(7, 3, seed=2) + 5, normal(200, 3, seed=3) - 1]
        pooled = Moments.merged(Moments.from_covariance(len(c), c.numpy().mean(axis=0),
                                                        np.cov(c.numpy(), rowvar=False))
                                for c in centres)
        union = torch.cat(centres).numpy()
        np.testing.assert_allclose(pooled.cov().numpy(), np.cov(union, rowvar=False), rtol=1e-12)
        np.testing.assert_allclose(pooled.mean.numpy(), union.mean(axis=0), rtol=1e-12)

    def test_state_round_trip(self):
        moments = Moments.of(normal(10, 4))
        again = Moments.from_state(moments.state())
        assert again.num == 10 and torch.equal(again.cov(), moments.cov())

    def test_nan_is_refused_with_the_count(self):
        features = normal(10, 3)
        features[2, 1], features[5, 0] = float('nan'), float('inf')
        with pytest.raises(MetricError, match='2 of 10'):
            Moments.of(features).cov()

    def test_a_single_vector_has_no_covariance(self):
        with pytest.raises(MetricError, match='at least two'):
            Moments.of(normal(1, 3)).cov(ddof=0)


class TestFrechetDistance:
    @pytest.mark.parametrize('case', case_ids('09a_frechet'))
    def test_matches_the_fixture(self, case):
        real, gen = Moments.of(case.input('real')), Moments.of(case.input('gen'))
        case.check('fid', torch.tensor(frechet_distance(real, gen, ddof=0), dtype=torch.float64))

    def test_diagonal_gaussians(self):
        a = moments_of_gaussian([0., 0], np.diag([1., 4]))
        b = moments_of_gaussian([1., 0], np.diag([4., 1]))
        assert frechet_distance(a, b) == pytest.approx(3, rel=1e-12)

    def test_commuting_covariances(self):
        rotation = torch.linalg.qr(normal(5, 5)).Q
        l_a, l_b = torch.tensor([9., 4, 1, 0.25, 0]).double(), torch.tensor([1., 16, 1, 0, 4]).double()
        a, b = (moments_of_gaussian(torch.zeros(5), rotation @ l.diag() @ rotation.T) for l in (l_a, l_b))
        expected = float((l_a.sqrt() - l_b.sqrt()).square().sum())
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)    # Roots of rounded zeros.

    def test_a_shift_by_half(self):
        assert frechet_distance(Moments.of(SQUARE), Moments.of(MOVED)) == pytest.approx(0.25, rel=1e-12)

    @pytest.mark.parametrize('num', [10, 500])
    def test_is_zero_between_equal_sets(self, num):
        moments = Moments.of(normal(num, 50))
        assert 0 <= frechet_distance(moments, moments) <= 1e-9 * float(moments.cov().trace())

    def test_rotation_leaves_it_and_scale_squares_it(self):
        x, y = normal(60, 20, seed=1), normal(90, 20, seed=2) @ torch.diag(torch.linspace(0.1, 2, 20).double())
        rotation = torch.linalg.qr(normal(20, 20, seed=3)).Q
        expected = frechet_distance(Moments.of(x), Moments.of(y))
        turned = frechet_distance(Moments.of(x @ rotation), Moments.of(y @ rotation))
        assert turned == pytest.approx(expected, rel=1e-10)
        assert frechet_distance(Moments.of(3 * x), Moments.of(3 * y)) == pytest.approx(9 * expected, rel=1e-10)

    def test_fewer_samples_than_dimensions_equals_the_form_from_features(self):
        x, y = normal(10, 50, seed=1), normal(13, 50, seed=2)
        a, b = (x - x.mean(0)) / 9 ** 0.5, (y - y.mean(0)) / 12 ** 0.5
        traces = a.square().sum() + b.square().sum()
        trace_of_root = torch.linalg.svdvals(a @ b.T).sum()
        expected = float((x.mean(0) - y.mean(0)).square().sum() + traces - 2 * trace_of_root)
        assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(expected, rel=1e-9)

    def test_equals_the_matrix_root_formula(self):
        x, y = normal(400, 30, seed=1), normal(500, 30, seed=2) * 1.5 + 0.1
        assert frechet_distance(Moments.of(x), Moments.of(y)) == pytest.approx(sqrtm_distance(x, y), rel=1e-9)

    def test_finite_sample_bias_falls_like_one_over_n(self):
        def score(num):
            pairs = [[Moments.of(normal(num, 64, seed=s)) for s in (seed, seed + 1)]
                     for seed in range(0, 8, 2)]
            return np.mean([frechet_distance(x, y) for x, y in pairs])
        assert score(400) == pytest.approx(5.5, rel=0.04) and score(1600) == pytest.approx(1.37, rel=0.04)


class TestKernelDistance:
    @pytest.mark.parametrize('case', case_ids('09b_kernel'))
    def test_matches_the_fixture(self, case):
        real, gen, config = case.input('real'), case.input('gen'), dict(case.config)
        rng = np.random.RandomState(config.pop('seed'))
        case.check('kid', np.float64(subset_kernel_distance(real, gen, rng=rng, **config)[0]))
        case.check('kid_full', np.float64(kernel_distance(real, gen)[0]))

    def test_hand_made_value(self):
        assert kernel_distance(SQUARE, MOVED)[0] == pytest.approx(-0.40299479166666696, rel=1e-12)
        assert subset_kernel_distance(SQUARE, MOVED, num_subsets=1)[0] == pytest.approx(-0.40299479166666696, rel=1e-12)

    def test_blocks_do_not_matter(self, monkeypatch):
        real, gen = normal(50, 8, seed=1), normal(70, 8, seed=2)
        whole = kernel_distance(real, gen)
        monkeypatch.setattr('metrics.kernel._BLOCK', 7)
        assert kernel_distance(real, gen) == pytest.approx(whole, rel=1e-12)

    def test_is_zero_on_average_for_equal_distributions(self):
        values = [kernel_distance(normal(100, 16, seed=s), normal(120, 16, seed=s + 1))[0]
                  for s in range(0, 200, 2)]
        assert abs(np.mean(values)) < 3 * np.std(values) / 10
        assert min(values) < 0 < max(values)

    def test_standard_error_is_the_spread_over_repetitions(self):
        draws = [kernel_distance(normal(150, 4, seed=2 * s), normal(200, 4, seed=2 * s + 1) + 0.5)
                 for s in range(200)]
        values, errors = np.array(draws).T
        assert np.mean(errors) == pytest.approx(np.std(values), rel=0.2)
        x, y = normal(30, 4, seed=1), normal(40, 4, seed=2) + 0.5
        assert kernel_distance(x, y) == pytest.approx(kernel_distance(y, x), rel=1e-12)

    def test_subset_standard_error(self):
        real, gen = normal(60, 4, seed=1), normal(60, 4, seed=2)
        singles = [subset_kernel_distance(real, gen, 1, 20, rng)[0]
                   for rng in [np.random.default_rng(3)] * 25]
        mean, error = subset_kernel_distance(real, gen, 25, 20, np.random.default_rng(3))
        assert mean == pytest.approx(np.mean(singles), rel=1e-12)
        assert error == pytest.approx(np.std(singles) / 5, rel=1e-12)

    def test_float32_features_lose_nothing(self):
        real, gen = normal(300, 2048, seed=1, dtype=torch.float32), normal(300, 2048, seed=2, dtype=torch.float32)
        exact = kernel_distance(real.double(), gen.double())[0]
        assert kernel_distance(real, gen)[0] == pytest.approx(exact, rel=1e-9)

    def test_nan_and_too_few_are_refused(self):
        with pytest.raises(MetricError, match='1 of 4'):
            kernel_distance(SQUARE, torch.where(MOVED == 1.5, torch.nan, MOVED)[[0, 1, 2, 2]])
        with pytest.raises(MetricError, match='at least 2'):
            kernel_distance(SQUARE, SQUARE[:1])


class TestPrecisionRecall:
    REAL = torch.tensor([[0.], [1], [2], [10]], dtype=torch.float64)
    GEN = torch.tensor([[0.4], [1.1], [30]], dtype=torch.float64)

    @pytest.mark.parametrize('case', case_ids('09c_precision_recall'))
    def test_matches_the_fixture(self, case):
        real, gen, config = case.input('real'), case.input('gen'), case.config
        precision, recall = precision_recall(real, gen, config['k'], block=config['row_batch'])
        case.check('precision', np.float64(precision))
        case.check('recall', np.float64(recall))
        case.check('kth_real', neighbour_distances(real, config['k'], block=config['col_batch']))
        case.check('kth_gen', neighbour_distances(gen, config['k']))

    def test_hand_made_table(self):
        assert neighbour_distances(self.REAL, 1).tolist() == [1, 1, 1, 8]
        assert neighbour_distances(self.GEN, 1).tolist() == pytest.approx([0.7, 0.7, 28.9])
        assert precision_recall(self.REAL, self.GEN, k=1) == pytest.approx((2 / 3, 1))
        assert density_coverage(self.REAL, self.GEN, k=1) == pytest.approx((4 / 3, 3 / 4))

    @pytest.mark.parametrize('block', [1, 7, 40])
    def test_blocks_do_not_matter(self, block):
        real, gen = normal(40, 5, seed=1), normal(30, 5, seed=2) * 1.2
        assert precision_recall(real, gen, block=block) == precision_recall(real, gen, block=10_000)
        assert density_coverage(real, gen, block=block) == density_coverage(real, gen, block=10_000)

    def test_a_sample_on_the_surface_of_a_ball_is_inside_for_precision_and_outside_for_density(self):
        real, gen = torch.tensor([[0., 0], [3, 4]]), torch.tensor([[-5., 0], [-50, 0], [-95, 0]])
        assert precision_recall(real, gen, k=1)[0] == pytest.approx(1 / 3)    # |(-5, 0)| = 5 = |(3, 4)|
        assert density_coverage(real, gen, k=1) == (0, 0)

    @pytest.mark.parametrize('block', [3, 100])
    def test_nearest_finds_the_nearest(self, block):
        probes, points = normal(10, 3, seed=1), normal(20, 3, seed=2)
        table = np.linalg.norm(probes.numpy()[:, None] - points.numpy(), axis=2)
        distances, indices = nearest(probes, points, k=4, block=block)
        np.testing.assert_array_equal(indices.numpy(), np.argsort(table, axis=1)[:, :4])
        np.testing.assert_allclose(distances.numpy(), np.sort(table, axis=1)[:, :4], rtol=1e-10)

    def test_repeated_points_lie_in_their_own_ball_of_radius_zero(self):
        point = normal(1, 300) * 7    # No round numbers: the self-distance would come out as rounding noise.
        real = torch.cat([point, point, point, point, normal(4, 300, seed=1) + 1000])
        assert neighbour_distances(real, 3)[:4].tolist() == [0, 0, 0, 0]
        assert precision_recall(real, point.repeat(5, 1), k=3)[0] == 1

    def test_expected_coverage_and_density_of_equal_distributions(self):
        num, k = 500, 5
        runs = [density_coverage(normal(num, 3, seed=s), normal(num, 3, seed=s + 1), k=k)
                for s in range(0, 40, 2)]
        missed = np.prod([(num - i) / (2 * num - i) for i in range(1, k + 1)])
        assert np.mean(runs, axis=0) == pytest.approx([1, 1 - missed], abs=0.01)

    def test_too_few_and_nan_are_refused(self):
        with pytest.raises(MetricError, match='at least 4 feature vectors, there are 3'):
            precision_recall(self.REAL, self.GEN, k=3)
        with pytest.raises(MetricError, match='NaN'):
            density_coverage(self.REAL, self.GEN.log10().sub(10).sqrt(), k=1)


@pytest.mark.parametrize('case', external()['distances'], ids=['more samples than features', 'fewer'])
class TestOtherPrograms:
    """The numbers that pytorch-fid and torch-fidelity give for the same features, to 1e-6."""

    def test_frechet_distance(self, case):
        real, gen = (Moments.of(features(*case[side])) for side in ('real', 'gen'))
        assert frechet_distance(real, gen) == pytest.approx(case['pytorch_fid'], rel=1e-6)
        assert frechet_distance(real, gen) == pytest.approx(case['torch_fidelity_fid'], rel=1e-6)

    def test_kernel_distance(self, case):
        real, gen = features(*case['real']), features(*case['gen'])
        assert kernel_distance(real, gen)[0] == pytest.approx(case['torch_fidelity_kid'], rel=1e-6)

    def test_precision_and_recall(self, case):
        real, gen = features(*case['real']), features(*case['gen'])
        assert precision_recall(real, gen) == pytest.approx(case['torch_fidelity_precision_recall'], rel=1e-6)

    def test_inception_score(self, case):
        score = inception_score(3 * features(*case['gen']))
        assert score == pytest.approx(case['torch_fidelity_inception_score_of_3_gen'], rel=1e-6)


class TestInceptionScore:
    @pytest.mark.parametrize('case', case_ids('09d_inception_score'))
    def test_matches_the_fixture(self, case):
        mean, std = inception_score(case.input('probs').log(), **case.config)
        case.check('mean', np.float64(mean))
        case.check('std', np.float64(std))

    def test_hand_made_values(self):
        assert inception_score(torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).log(), 1)[0] \
            == pytest.approx(1.4449348111684153, rel=1e-12)
        assert inception_score(1000 * torch.eye(7), 1) == pytest.approx((7, 0))
        assert inception_score(torch.ones(20, 5), 10) == pytest.approx((1, 0))

    def test_needs_an_image_per_split(self):
        with pytest.raises(MetricError, match='at least 10'):
            inception_score(torch.ones(9, 5))
