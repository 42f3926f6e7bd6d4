"""Names of metrics: the reference's list, what each stands for,
the pattern of our own; naming costs nothing."""
import subprocess
import sys

import pytest

from metrics import metric_main, names
from metrics.names import Metric, MetricError, find_metric, is_valid_metric, list_valid_metrics

REFERENCE = ['fid50k_full', 'kid50k_full', 'pr50k3_full', 'ppl2_wend', 'is50k', 'fid50k', 'kid50k', 'pr50k3',
             'ppl_zfull', 'ppl_wfull', 'ppl_zend', 'ppl_wend']


def test_the_reference_metrics_come_first_in_its_order():
    assert list_valid_metrics()[:12] == REFERENCE


# name: kind, detector, generated, greatest number of real images, mirrored images counted, estimator
TABLE = {
    'fid50k_full': ('fd', 'inception', 50_000, None, False, {'ddof': 0}),
    'kid50k_full': ('kid', 'inception', 50_000, 1_000_000, False,
                    {'num_subsets': 100, 'max_subset_size': 1000}),
    'pr50k3_full': ('pr', 'vgg16', 50_000, 200_000, False, {'k': 3}),
    'ppl2_wend': ('ppl', 'vgg16', 50_000, None, False, {'space': 'w', 'sampling': 'end', 'crop': False}),
    'is50k': ('is', 'inception', 50_000, None, False, {'num_splits': 10}),
    'fid50k': ('fd', 'inception', 50_000, 50_000, True, {'ddof': 0}),
    'kid50k': ('kid', 'inception', 50_000, 50_000, True, {'num_subsets': 100, 'max_subset_size': 1000}),
    'pr50k3': ('pr', 'vgg16', 50_000, 50_000, True, {'k': 3}),
    'ppl_zfull': ('ppl', 'vgg16', 50_000, None, False, {'space': 'z', 'sampling': 'full', 'crop': True}),
    'ppl_wfull': ('ppl', 'vgg16', 50_000, None, False, {'space': 'w', 'sampling': 'full', 'crop': True}),
    'ppl_zend': ('ppl', 'vgg16', 50_000, None, False, {'space': 'z', 'sampling': 'end', 'crop': True}),
    'ppl_wend': ('ppl', 'vgg16', 50_000, None, False, {'space': 'w', 'sampling': 'end', 'crop': True}),
    'fid5k_full': ('fd', 'inception', 5_000, None, False, {'ddof': 0}),
    'kid5k_full': ('kid', 'inception', 5_000, 1_000_000, False,
                   {'num_subsets': 100, 'max_subset_size': 1000}),
    'pr5k3_full': ('pr', 'vgg16', 5_000, 200_000, False, {'k': 3}),
    'fd5k_efflite0': ('fd', 'efflite0', 5_000, None, False, {'ddof': 1}),
    'kid10k_inception_clean': ('kid', 'inception_clean', 10_000, None, False, {}),
    'prdc1k_efflite0_64px': ('prdc', 'efflite0_64px', 1_000, None, False, {'k': 5}),
    'ppl2k_efflite0': ('ppl', 'efflite0', 2_000, None, False,
                       {'space': 'w', 'sampling': 'end', 'crop': False}),
    'fd_efflite0': ('fd', 'efflite0', None, None, False, {'ddof': 1}),
}


@pytest.mark.parametrize('name', TABLE)
def test_a_name_stands_for(name):
    m = find_metric(name)
    assert (m.kind, m.detector, m.num_gen, m.max_real, m.keep_xflip, m.params) == TABLE[name]


def test_fid_is_inception_at_the_reference_resize_only():
    metrics = [find_metric(name) for name in list_valid_metrics() + list_valid_metrics(needs_images=True)]
    assert {metric.detector for metric in metrics if metric.name.startswith('fid')} == {'inception'}
    assert all(metric.detector in metric.name for metric in metrics if metric.name.startswith('fd'))


def test_sets_of_images_have_no_paths_and_need_no_count():
    assert is_valid_metric('fd_efflite0', needs_images=True) and not is_valid_metric('fd_efflite0')
    assert is_valid_metric('fid50k_full', needs_images=True)
    assert is_valid_metric('ppl2_wend') and not is_valid_metric('ppl2_wend', needs_images=True)


def test_a_centre_may_follow_the_name():
    assert is_valid_metric('fd5k_efflite0@hospital-b') and not is_valid_metric('fd6k_efflite0@hospital-b')


@pytest.mark.parametrize(('short', 'full'), [
    ('fd_lite', 'fd_efflite0'), ('fd5k_lite', 'fd5k_efflite0'),
    ('kid1k_lite_64px@b', 'kid1k_efflite0_64px@b'), ('fid50k_full', 'fid50k_full')])
def test_lite_is_short_for_the_offline_detector(short, full):
    assert names.full_name(short) == full and find_metric(short) is find_metric(full)
    assert names.parse_names(f'{short}, is50k', needs_images=None) == [full, 'is50k'] and names.parse_names('None') == []


def test_an_unknown_name_is_answered_with_the_valid_ones():
    with pytest.raises(MetricError,
                       match='there is no metric fid60k; valid are fid50k_full, .*such as fd5k_efflite0'):
        find_metric('fid60k')


def test_a_function_becomes_a_metric(monkeypatch):
    monkeypatch.setattr(names, 'registry', dict(names.registry))

    @metric_main.register_metric
    def answer(options):
        return {'answer': 42 + options.seed}

    assert list_valid_metrics()[-1] == 'answer' and is_valid_metric('answer')
    result = metric_main.calc_metric('answer', seed=1)
    assert result.results == {'answer': 43.0} and result.metric == 'answer'
    with pytest.raises(ValueError, match='answer'):
        metric_main.register_metric(answer)
    assert not isinstance(find_metric('answer'), Metric)


@pytest.mark.parametrize(('result', 'expected'), [
    ('fid50k_full', False), ('fd5k_efflite0', False), ('ppl2_wend', False), ('kid50k@north', False),
    ('is50k_mean', True), ('pr50k3_full_recall', True), ('pr5k3_full', True),
    ('prdc1k_efflite0_64px_density', True),
    ('prdc1k_lite_coverage@a_b', True), ('private', False), ('is', False), ('', False)])
def test_a_metric_says_whether_higher_is_better(result, expected):
    """The names of its results begin with its own; others do not count by how they begin."""
    assert names.higher_is_better(result) == expected


def test_a_metric_in_a_file_of_its_own_is_one_line(monkeypatch, tmp_path):
    """Imported when it is asked for, and only then."""
    (tmp_path / 'own_brightness.py').write_text(
        'def brightness(options):\n    return {"brightness_mean": 1.5}\n\n\nbrightness.higher_is_better = True\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(names.FUNCTIONS, 'brightness', 'own_brightness:brightness')
    assert list_valid_metrics()[-1] == 'brightness' and not is_valid_metric('brightness', needs_images=True)
    assert 'own_brightness' not in sys.modules and 'brightness' in names.valid_names_sentence()
    assert names.higher_is_better('brightness_mean@north')
    assert metric_main.calc_metric('brightness').results == {'brightness_mean': 1.5}
    with pytest.raises(ValueError, match='brightness'):
        metric_main.register_metric(find_metric('brightness'))


def test_names_and_weights_import_no_torch():
    code = "import sys, metrics.names, metrics.weights, calc_metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True,
                   cwd=metric_main.__file__.rsplit('/metrics/', 1)[0])
