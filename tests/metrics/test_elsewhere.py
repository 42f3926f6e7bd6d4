"""Metrics of images that are elsewhere: the same number as with the images, from moments alone."""
from pathlib import Path

import pytest
from metric_tools import TinyDetector
from tiny import make_dataset

from metrics import images_elsewhere
from metrics.metric_main import calc_metric
from metrics.names import MetricError
from training.dataset import ImageFolderDataset


class Source:
    """A data set on another machine, which gives what it is asked for, or not."""

    def __init__(self, path, folder, gives=True):
        folder = folder / Path(path).stem      # Of each centre.
        self.path, self.folder, self.gives, self.num_asked = path, folder, gives, 0
        self.dataset = ImageFolderDataset(path)
        self.name, self.image_shape = 'north', self.dataset.image_shape

    def __len__(self):
        return len(self.dataset)

    def get_label(self, index):
        return self.dataset.get_label(index)

    def ask_moments(self, query, widths):
        self.num_asked += 1
        if not self.gives:
            raise ValueError('north does not share')
        found = images_elsewhere.moments_for(query, kwargs_of(self.path), 'cpu', str(self.folder))
        assert {tap: len(mean) for tap, (_, mean, _) in found.items()} == widths
        return found


def kwargs_of(path):
    return dict(class_name='training.dataset.ImageFolderDataset', path=path)


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setattr(images_elsewhere, 'load_detector', lambda metric, *how: TinyDetector(metric.detector))
    monkeypatch.setattr(images_elsewhere, 'MIN_SHARED', 12)
    return [make_dataset(tmp_path / f'{seed}.zip', num=num, seed=seed) for seed, num in enumerate((24, 12, 20))]


def score(metric, centres, fakes):
    return calc_metric(metric, images_kwargs=kwargs_of(fakes), centres=centres, detector=TinyDetector(), cache=False,
                       num_workers=0).results


@pytest.mark.parametrize('metric', ['fd_efflite0', 'fd_efflite0@a'])
def test_the_distance_to_centres_elsewhere_is_that_to_their_images(paths, tmp_path, metric):
    here = score(metric, {name: (kwargs_of(path), ()) for name, path in zip('ab', paths)}, paths[2])
    sources = {name: (Source(path, tmp_path), ()) for name, path in zip('ab', paths)}
    assert score(metric, sources, paths[2]) == pytest.approx(here, rel=1e-9)
    assert sources['a'][0].num_asked == 1


def test_nearest_neighbours_are_refused_by_name_and_so_is_what_a_centre_keeps(paths, tmp_path):
    with pytest.raises(MetricError, match='kid_efflite0 needs the features of each image, and those of north do not leave it'):
        score('kid_efflite0', {'a': (Source(paths[0], tmp_path), ())}, paths[2])
    with pytest.raises(MetricError, match='north does not share'):
        score('fd_efflite0', {'a': (Source(paths[0], tmp_path, gives=False), ())}, paths[2])


@pytest.mark.parametrize('query, sentence', [
    (dict(metric='kid_efflite0'), 'moments are for Frechet distances'), (dict(metric=7), 'moments are for'),
    (dict(metric='fd_efflite0', detector='efflite0', sha256='x'), 'others here')])
def test_what_a_centre_is_asked_for_is_checked_there(paths, tmp_path, query, sentence):
    with pytest.raises(ValueError, match=sentence):
        images_elsewhere.moments_for(query, kwargs_of(paths[0]), 'cpu', str(tmp_path))


QUERY = dict(metric='fd_efflite0', detector='efflite0', sha256=TinyDetector('efflite0').sha256)


def test_moments_of_a_few_images_do_not_leave(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(images_elsewhere, 'MIN_SHARED', 13)
    with pytest.raises(ValueError, match='moments of 12 images are nearly their features; they are given of at least 13'):
        images_elsewhere.moments_for(QUERY, kwargs_of(paths[1]), 'cpu', str(tmp_path / 'cache'))
    assert not (tmp_path / 'cache').exists()


def test_moments_of_images_before_and_after_a_change_do_not_leave_both(paths, tmp_path, capsys):
    """Their difference would be the moments of the images that came."""
    before, after = paths[:2]
    for _ in range(2):
        images_elsewhere.moments_for(QUERY, kwargs_of(before), 'cpu', str(tmp_path / 'cache'))
    with pytest.raises(ValueError, match='its images are others than those') as found:
        images_elsewhere.moments_for(QUERY, kwargs_of(after), 'cpu', str(tmp_path / 'cache'))
    shared = tmp_path / 'cache' / images_elsewhere.SHARED_FILE
    assert str(tmp_path) not in str(found.value) and str(shared) in capsys.readouterr().err
    shared.write_text('{')
    with pytest.raises(ValueError, match='does not know whether'):
        images_elsewhere.moments_for(QUERY, kwargs_of(before), 'cpu', str(tmp_path / 'cache'))
    shared.unlink()
    images_elsewhere.moments_for(QUERY, kwargs_of(after), 'cpu', str(tmp_path / 'cache'))
