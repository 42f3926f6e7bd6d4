"""Whole metrics: the numbers equal the estimators on the features,
and depend on nothing they should not depend on."""
import json
import re

import numpy as np
import pytest
import torch
from metric_tools import TinyDetector, dataset_kwargs, image_sets, make_generator, read_images
from metric_workers import SCORED, score_all
from tiny import make_dataset

from metrics import kinds, metric_main, names
from metrics.features import FeatureOptions, feature_rows
from metrics.frechet import frechet_distance
from metrics.generator_inputs import GeneratorInputs, Labels
from metrics.image_streams import DatasetImages, GeneratedImages
from metrics.inception_score import inception_score
from metrics.kernel import kernel_distance, subset_kernel_distance
from metrics.metric_main import Centre, calc_metric, evaluate, report_metric
from metrics.moments import Moments
from metrics.names import Metric, MetricError
from metrics.precision_recall import density_coverage, precision_recall
from torch_utils import distributed
from torch_utils.ops import backend

ROUNDING = 1e-5             # Features are float32, and batches of other sizes are summed in another order.
PATH_PRECISION = 1e-3       # Of perceptual path length: it divides the rounding of float32 by 1e-4.


@pytest.fixture(autouse=True)
def small_metrics(monkeypatch):
    """Metrics of the usual kinds that make a few images only;
    operators as in the processes that some tests start."""
    monkeypatch.setattr(names, 'registry', {**names.registry, **{metric.name: metric for metric in SCORED}})
    with backend.default('reference'):
        yield


@pytest.fixture
def options(tmp_path):
    """Arguments of calc_metric for a tiny generator, detector and data set."""
    real, _ = image_sets(tmp_path)
    return {'G': make_generator(), 'dataset_kwargs': real, 'detector': TinyDetector(), 'num_workers': 0,
            'cache': False}


def features_of(options, num, tap):
    """Features of the real and of the first generated images, each computed in one go."""
    detector, G = TinyDetector(), options['G']
    inputs = GeneratorInputs(0, G.z_dim, Labels(0))
    fakes, = GeneratedImages(G, inputs, num).batches([range(num)])
    return detector(read_images(options['dataset_kwargs'])[0], [tap])[tap], detector(fakes, [tap])[tap]


def assert_same_scores(found, expected, rel):
    """Equal up to a relative difference, and path lengths up to what they are precise to."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=PATH_PRECISION if name.startswith('ppl') else rel), name


class TestNumbers:
    def test_frechet_distance_at_both_taps(self, options):
        results = calc_metric('fd20_tiny', **options).results
        for name, tap in (('fd20_tiny', 's4'), ('fd20_tiny_pool', 'pool')):
            real, fake = (Moments.of(rows) for rows in features_of(options, 20, tap))
            assert results[name] == pytest.approx(frechet_distance(real, fake, ddof=1), rel=ROUNDING)
        assert list(results) == ['fd20_tiny', 'fd20_tiny_pool']

    def test_kernel_distance(self, options):
        real, fake = features_of(options, 20, 'pool')
        result = calc_metric('kid20_tiny', **options)
        value, error = kernel_distance(real, fake)
        assert result.results['kid20_tiny'] == pytest.approx(value, rel=ROUNDING)
        assert result.std_err['kid20_tiny'] == pytest.approx(error, rel=ROUNDING)

    def test_kernel_distance_by_subsets(self, options):
        real, fake = features_of(options, 20, 'pool')
        result = calc_metric('kidsub20_tiny', seed=0, **options)
        expected = subset_kernel_distance(real, fake, 3, 10, np.random.default_rng(0))
        assert (result.results['kidsub20_tiny'], result.std_err['kidsub20_tiny']) == pytest.approx(expected, rel=ROUNDING)

    def test_precision_recall_density_coverage(self, options):
        real, fake = features_of(options, 20, 'pool')
        results = calc_metric('prdc20_tiny', **options).results
        expected = precision_recall(real, fake, k=2) + density_coverage(real, fake, k=2)
        parts = ('precision', 'recall', 'density', 'coverage')
        assert results == dict(zip([f'prdc20_tiny_{part}' for part in parts], expected))
        results = calc_metric('pr20_tiny', **options).results
        assert results == dict(zip(['pr20_tiny_precision', 'pr20_tiny_recall'], expected[:2]))

    def test_inception_score(self, options):
        _, logits = features_of(options, 20, 'logits')
        results = calc_metric('is20_tiny', **options).results
        assert tuple(results.values()) == pytest.approx(inception_score(logits, 2), rel=ROUNDING)
        assert list(results) == ['is20_tiny_mean', 'is20_tiny_std']

    @pytest.mark.parametrize(('name', 'sampled'), [('ppl6_tiny', False), ('ppl6full_tiny', True)])
    def test_path_length(self, options, name, sampled):
        from metrics.perceptual_path_length import path_distances, trimmed_mean
        G, detector = options['G'], TinyDetector()
        inputs = GeneratorInputs(0, G.z_dim, Labels(0))
        distances = []
        for i in (0, 2, 4):    # Two paths at a time, as ever: other batches round differently.
            z, c, t = inputs.latents([i, i + 1], per_image=2)
            distances.append(path_distances(G, detector.embed, z, c, t * sampled,
                                            inputs.noise(G.synthesis, [i, i + 1])))
        expected = trimmed_mean(torch.cat(distances))
        assert calc_metric(name, **options).results[name] == pytest.approx(expected, rel=PATH_PRECISION)

    def test_two_image_sets(self, tmp_path, options):
        real, other = image_sets(tmp_path)
        del options['G']
        result = calc_metric('fd_efflite0', images_kwargs=other, **options)
        detector = TinyDetector()
        moments = [Moments.of(detector(read_images(kwargs)[0], ['s4'])['s4']) for kwargs in (real, other)]
        assert result.results['fd_efflite0'] == pytest.approx(frechet_distance(*moments), rel=ROUNDING)
        assert (result.num_real, result.num_gen) == (24, 24) and result.images['name'] == 'set2'
        same = calc_metric('fd_efflite0', images_kwargs=real, **options).results['fd_efflite0']
        assert same == pytest.approx(0, abs=1e-9)


class TestIndependence:
    def test_batch_sizes_cache_and_workers_do_not_matter(self, tmp_path, options):
        expected = score_all(options)
        cache = {'cache': True, 'cache_dir': str(tmp_path / 'cache')}
        for changes in ({'batch_size': 7}, {'batch_size': 12, 'num_workers': 2}, cache, cache):
            assert_same_scores(score_all({**options, **changes}), expected, rel=ROUNDING)

    @pytest.mark.parametrize('ops', ['auto', 'native'])
    def test_path_lengths_do_not_depend_on_compiled_operators(self, options, ops):
        if ops == 'native' and backend.why_not('cpu', torch.float32) is not None:
            pytest.skip(backend.why_not('cpu', torch.float32))
        plain = calc_metric('ppl6_tiny', **options).results
        with backend.default(ops):
            assert calc_metric('ppl6_tiny', **options).results == plain

    @pytest.mark.parametrize('name', ['ppl6_tiny', 'ppl6full_tiny'])
    def test_path_lengths_are_precise_to_a_thousandth(self, options, monkeypatch, name):
        expected = calc_metric(name, **options).results[name]
        for num in (1, 3, 6):  # Other batches round in other ways, as other processors do.
            monkeypatch.setattr(kinds, 'PATHS_AT_ONCE', num)
            assert calc_metric(name, **options).results[name] == pytest.approx(expected, rel=PATH_PRECISION)

    def test_the_batch_of_the_generator_changes_rounding_alone(self, options):
        """One pixel of 20 small images that is rounded to the next of 256 values is worth 1e-4 here."""
        expected = calc_metric('fd20_tiny', **options).results
        assert calc_metric('fd20_tiny', batch_gen=16, **options).results == pytest.approx(expected, rel=1e-3)

    def test_a_second_call_gives_the_same_and_another_seed_another_score(self, options):
        torch.manual_seed(1)
        first = calc_metric('fd20_tiny', **options).results
        torch.manual_seed(2)
        assert calc_metric('fd20_tiny', **options).results == first
        assert calc_metric('fd20_tiny', seed=1, **options).results['fd20_tiny'] != first['fd20_tiny']

    def test_the_generator_is_left_as_it_was(self, options):
        G = options['G'].train().requires_grad_(True)
        before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
        rng = torch.get_rng_state()
        score_all(options)
        assert G.training and all(parameter.requires_grad for parameter in G.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in G.state_dict().items())
        assert torch.equal(torch.get_rng_state(), rng)

    def test_tf32_and_the_search_for_algorithms_are_off_while_scoring_and_as_before_afterwards(
            self, options, monkeypatch, fast_training):
        seen = []
        forward = TinyDetector.forward
        monkeypatch.setattr(TinyDetector, 'forward', lambda self, *args: seen.append(
            [getattr(place, name) for place, name, _ in fast_training]) or forward(self, *args))
        calc_metric('fd20_tiny', **options)
        assert seen and all(values == [False, False, False, True] for values in seen)
        assert all(getattr(place, name) == value for place, name, value in fast_training)

    @pytest.fixture
    def fast_training(self):
        """Allows all of it, as a training run may."""
        cudnn = torch.backends.cudnn
        settings = [(torch.backends.cuda.matmul, 'allow_tf32', True), (cudnn, 'allow_tf32', True),
                    (cudnn, 'benchmark', True), (cudnn, 'deterministic', False)]
        before = [getattr(place, name) for place, name, _ in settings]
        for place, name, value in settings:
            setattr(place, name, value)
        yield settings
        for (place, name, _), value in zip(settings, before):
            setattr(place, name, value)

    def test_one_process_that_is_asked_to_stop_stops_all_at_the_same_place(self, tmp_path, options):
        from metric_workers import stopped_worker
        distributed.launch(stopped_worker, 2, (options, str(tmp_path)))
        outcomes = [json.loads((tmp_path / f'rank{rank}.json').read_text()) for rank in range(2)]
        assert outcomes[0] == outcomes[1] and outcomes[0][1]['pr20_tiny'] == 'broken off, as asked'

    @pytest.mark.parametrize('num_ranks', [2, pytest.param(3, marks=pytest.mark.slow)])
    def test_the_number_of_processes_does_not_matter(self, tmp_path, options, num_ranks):
        from metric_workers import worker
        alone = score_all({**options, 'batch_size': 4})
        distributed.launch(worker, num_ranks, (options, str(tmp_path)))
        for rank in range(num_ranks):
            found = json.loads((tmp_path / f'rank{rank}.json').read_text())
            assert_same_scores(found['scores'], alone, rel=1e-9)  # Sums in float64 may round.
            assert found['num_gpus'] == num_ranks
            assert 'broken on purpose' in found['error']
            assert found['after'] == pytest.approx(found['scores']['fd20_tiny'], rel=1e-9)
        rows = torch.load(tmp_path / 'features.pt')
        images = DatasetImages(options['dataset_kwargs'], num_workers=0)
        expected = feature_rows(images, TinyDetector(), ['pool'], FeatureOptions(batch_size=5, cache=False))
        assert torch.equal(rows, expected['pool'])


class TestSharing:
    @pytest.mark.parametrize('names',
                             [['fd20_tiny', 'kid20_tiny', 'prdc20_tiny'], ['kid20_tiny', 'fd20_tiny']])
    def test_metrics_that_follow_each_other_look_at_each_image_once(self, options, names):
        alone = {}
        for name in names:
            alone.update(calc_metric(name, **{**options, 'cache': False}).results)
        options['detector'].num_seen = 0
        assert evaluate(names, **{**options, 'cache': False}).values == alone
        assert options['detector'].num_seen == 24 + 20

    def test_a_metric_that_does_not_exist_is_no_reason_for_another_to_fail(self, options):
        scores = evaluate(['fd20_tiny', 'fd20_nonsense'], **options)
        assert list(scores.failures) == ['fd20_nonsense'] and 'fd20_tiny' in scores.values


class TestRecord:
    def test_it_has_everything_a_number_depends_on(self, options):
        result = calc_metric('fd20_tiny', seed=3, G_kwargs={'truncation_psi': 0.5}, **options)
        assert {'results', 'metric', 'total_time', 'total_time_str', 'num_gpus'} <= set(result)
        assert result.metric == 'fd20_tiny' and result.num_gpus == 1
        expected = {'detector': 'efflite0', 'detector_sha256': f'{0:064x}', 'resize': 'none',
                    'params': {'ddof': 1}, 'num_real': 24, 'num_gen': 20, 'seed': 3,
                    'G_kwargs': {'truncation_psi': 0.5}}
        assert {key: result[key] for key in expected} == expected
        assert result.dataset['name'] == 'set1' and re.fullmatch('[0-9a-f]{64}', result.dataset['fingerprint'])

    def test_it_has_the_full_name(self, options):
        del options['G']
        result = calc_metric('fd_lite', images_kwargs=options['dataset_kwargs'], **options)
        assert result.metric == 'fd_efflite0' and list(result.results)[0] == 'fd_efflite0'

    def test_report_prints_and_appends_a_line(self, options, tmp_path, capsys):
        result = calc_metric('kid20_tiny', **options)
        for kimg in (10, 20):
            report_metric(result, str(tmp_path), str(tmp_path / f'network-snapshot-{kimg:06d}.safetensors'))
        lines = (tmp_path / 'metric-kid20_tiny.jsonl').read_text().splitlines()
        assert lines == capsys.readouterr().out.splitlines() and len(lines) == 2
        record = json.loads(lines[1])
        assert record['snapshot_pkl'] == 'network-snapshot-000020.safetensors'
        assert record['results'] == result.results and isinstance(record['timestamp'], float)
        assert 'kid20_tiny' in (tmp_path / 'metrics.svg').read_text()

    def test_a_run_directory_that_cannot_be_written_to_loses_no_result(self, options, tmp_path, capsys):
        result = calc_metric('kid20_tiny', **options)
        (tmp_path / 'metric-kid20_tiny.jsonl').symlink_to('/dev/full')
        report_metric(result, str(tmp_path), str(tmp_path / 'network-snapshot-000010.safetensors'))
        out, err = capsys.readouterr()
        assert json.loads(out)['results'] == result.results
        assert err == f'Note: kid20_tiny is not recorded in {tmp_path}: is a link, which is never written over; name a new file\n'

    def test_report_without_a_run_only_prints(self, options, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.iterdir())
        report_metric(calc_metric('fd20_tiny', **options))
        assert json.loads(capsys.readouterr().out)['snapshot_pkl'] is None
        assert sorted(tmp_path.iterdir()) == before

    def test_a_run_on_a_subset_is_scored_against_all_images(self, options):
        options['dataset_kwargs'] = {**options['dataset_kwargs'], 'max_size': 4, 'xflip': True}
        assert calc_metric('fd20_tiny', **options).num_real == 24


class TestRefusals:
    @pytest.mark.parametrize(('changes', 'message'), [
        ({'G': make_generator(channels=1)}, 'makes 16x16 images with 1 channels, set1 has 16x16 with 3'),
        ({'G': make_generator(res=32)}, 'makes 32x32 images'),
        ({'G': make_generator(c_dim=2)}, 'takes labels of width 2, the data set gives 0'),
        ({'dataset_kwargs': None}, 'needs a data set of real images'),
        ({'G': None}, 'needs a generator or a set of generated images'),
    ])
    def test_what_does_not_fit_is_one_sentence_before_work(self, options, changes, message):
        with pytest.raises(MetricError, match=message) as caught:
            calc_metric('fd20_tiny', **{**options, **changes})
        assert '\n' not in str(caught.value) and options['detector'].num_seen == 0

    def test_too_few_images(self, tmp_path, options):
        options['dataset_kwargs'] = dataset_kwargs(make_dataset(tmp_path / 'two.zip', num=2))
        with pytest.raises(MetricError, match='prdc20_tiny needs at least 3 real images, there are 2'):
            calc_metric('prdc20_tiny', **options)
        assert options['detector'].num_seen == 0

    def test_an_image_set_smaller_than_the_count(self, tmp_path, options):
        message = 'fd1k_efflite0 needs 1000 generated images, set1 has 24; fd_efflite0 takes all there are'
        with pytest.raises(MetricError, match=message):
            calc_metric('fd1k_efflite0', images_kwargs=options['dataset_kwargs'], **options)

    def test_path_lengths_of_an_image_set(self, options):
        with pytest.raises(MetricError, match='needs a generator'):
            calc_metric('ppl6_tiny', images_kwargs=options['dataset_kwargs'], **options)

    def test_a_generator_needs_a_count(self, options):
        with pytest.raises(MetricError, match='compares two image sets; .* as in fd5k_efflite0'):
            calc_metric('fd_efflite0', **options)

    def test_missing_weights(self, options, monkeypatch):
        monkeypatch.setattr('metrics.weights.candidates', lambda key, options: [])
        del options['detector']
        with pytest.raises(MetricError, match='fid50k_full needs the Inception-v3 FID weights'):
            calc_metric('fid50k_full', **options)


class TestEvaluate:
    def test_values_of_all_and_images_made_once(self, options, tmp_path, monkeypatch):
        made = []
        batches = GeneratedImages.batches
        monkeypatch.setattr(GeneratedImages, 'batches',
                            lambda self, b: made.append(self.num) or batches(self, b))
        values, failures, _ = evaluate(['fd20_tiny', 'kid20_tiny', 'pr20_tiny'], run_dir=str(tmp_path),
                                       **options)
        assert failures == {}
        assert list(values) == ['fd20_tiny', 'fd20_tiny_pool', 'kid20_tiny', 'pr20_tiny_precision',
                                'pr20_tiny_recall']
        assert made == [20]
        alone = calc_metric('kid20_tiny', **options).results
        assert values['kid20_tiny'] == alone['kid20_tiny']
        assert sorted(path.name for path in tmp_path.glob('metric-*')) == [
            f'metric-{name}.jsonl' for name in ('fd20_tiny', 'kid20_tiny', 'pr20_tiny')]

    def test_a_metric_that_fails_costs_a_sentence(self, options, capsys, monkeypatch):
        monkeypatch.setattr('metrics.kinds.precision_recall', lambda *args, **kwargs: 1 / 0)
        metrics = ['fd_efflite0', 'no_such_metric', 'pr20_tiny', 'kid20_tiny']
        values, failures, _ = evaluate(metrics, **options)
        assert list(values) == ['kid20_tiny'] and list(failures) == ['fd_efflite0', 'no_such_metric', 'pr20_tiny']
        assert failures['pr20_tiny'] == 'division by zero'
        out = capsys.readouterr().out
        assert 'fd_efflite0 could not be calculated: fd_efflite0 compares two image sets' in out
        assert 'no_such_metric could not be calculated: there is no metric' in out
        assert 'pr20_tiny could not be calculated:\nTraceback' in out and 'ZeroDivisionError' in out


class TestCentres:
    @pytest.fixture
    def centres(self, tmp_path):
        """Three centres of 24, 10 and 6 images with two classes, their union,
        and a generator that knows the codes."""
        kwargs, all_images, all_labels = [], [], []
        for seed, num in ((1, 24), (2, 10), (3, 6)):
            path = make_dataset(tmp_path / f'{seed}.zip', num=num, num_classes=2, seed=seed)
            kwargs.append(dataset_kwargs(path, use_labels=True))
            images, labels = read_images(kwargs[-1])
            all_images.append(images)
            all_labels.append(labels)
        codes = np.eye(3).tolist()
        return {f'c{i}': Centre(k, code) for i, (k, code) in enumerate(zip(kwargs, codes))}, all_images, all_labels

    def options(self, centres):
        return {'G': make_generator(c_dim=5), 'centres': centres, 'detector': TinyDetector(),
                'num_workers': 0, 'cache': False}

    def fakes(self, options, sources, codes):
        inputs = GeneratorInputs(0, 8, Labels(5, sources, codes))
        batch, = GeneratedImages(options['G'], inputs, 20).batches([range(20)])
        return batch

    def test_the_union_by_moments_equals_the_union_of_features(self, centres):
        centres, images, labels = centres
        options = self.options(centres)
        detector = TinyDetector()
        real = detector(torch.cat(images), ['s4'])['s4']
        fake = detector(self.fakes(options, labels, np.eye(3)), ['s4'])['s4']
        expected = frechet_distance(Moments.of(real), Moments.of(fake))
        result = calc_metric('fd20_tiny', **options)
        assert result.results['fd20_tiny'] == pytest.approx(expected, rel=ROUNDING)
        assert result.num_real == 40 and [entry['name'] for entry in result.dataset] == ['1', '2', '3']

    def test_a_centre_alone(self, centres):
        centres, images, labels = centres
        options = self.options(centres)
        detector = TinyDetector()
        real = detector(images[1], ['pool'])['pool']
        fake = detector(self.fakes(options, labels[1:2], [[0, 1, 0]]), ['pool'])['pool']
        result = calc_metric('kid20_tiny@c1', **options)
        assert result.metric == 'kid20_tiny@c1' and result.num_real == 10
        assert result.results == {'kid20_tiny@c1': pytest.approx(kernel_distance(real, fake)[0], rel=ROUNDING)}
        assert list(result.std_err) == ['kid20_tiny@c1']

    def test_union_and_centres_are_not_mixed_up_when_images_are_shared(self, centres):
        options = self.options(centres[0])
        values = evaluate(['fd20_tiny'], **options).values
        assert values['fd20_tiny@c2'] == calc_metric('fd20_tiny@c2', **options).results['fd20_tiny@c2']
        assert list(values)[::2] == ['fd20_tiny', 'fd20_tiny@c0', 'fd20_tiny@c1', 'fd20_tiny@c2']
        assert len(set(values.values())) == 8

    def test_an_unknown_centre(self, centres, options):
        with pytest.raises(MetricError, match='there is no centre c9; there are c0, c1, c2'):
            calc_metric('fd20_tiny@c9', **self.options(centres[0]))
        with pytest.raises(MetricError, match='there are no data centres'):
            calc_metric('fd20_tiny@c0', **options)


def test_conditional_generators_get_the_labels_of_the_data(tmp_path):
    kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip', num_classes=3), use_labels=True)
    options = {'G': make_generator(c_dim=3), 'detector': TinyDetector(), 'num_workers': 0, 'cache': False}
    labels = read_images(kwargs)[1]
    batch, = GeneratedImages(options['G'], GeneratorInputs(0, 8, Labels(3, [labels])), 20).batches([range(20)])
    real, fake = TinyDetector()(read_images(kwargs)[0], ['pool'])['pool'], TinyDetector()(batch, ['pool'])['pool']
    result = calc_metric('kid20_tiny', dataset_kwargs=kwargs, **options).results['kid20_tiny']
    assert result == pytest.approx(kernel_distance(real, fake)[0], rel=1e-5)


def test_path_lengths_draw_labels_from_the_subset_that_was_trained_on(tmp_path):
    kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip', num_classes=3), use_labels=True, max_size=2,
                            xflip=True)
    work = metric_main.Evaluation(Metric('ppl6_tiny', 'ppl', 'efflite0', 6), metric_main.MetricOptions(
        G=make_generator(c_dim=3), dataset_kwargs=kwargs, detector=TinyDetector()))
    assert len(work.inputs.labels.sources[0]) == 4
    score = metric_main.Evaluation(Metric('is20_tiny', 'is', 'efflite0', 20), metric_main.MetricOptions(
        G=make_generator(c_dim=3), dataset_kwargs=kwargs, detector=TinyDetector()))
    assert len(score.inputs.labels.sources[0]) == 24
