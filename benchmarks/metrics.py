"""Measures the metrics: speed and exactness of the Frechet distance, speed of the detector,
response to corruption.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py frechet                            # Against scipy.linalg.sqrtm.
    OMP_NUM_THREADS=1 python benchmarks/metrics.py detector --data=DIR_OR_ZIP         # Against its convolutions alone.
    OMP_NUM_THREADS=1 python benchmarks/metrics.py corruption --data=DIR_OR_ZIP       # The tables of docs/metrics.md.
    OMP_NUM_THREADS=1 python benchmarks/metrics.py mixture --data=ZIP --other=ZIP     # Two data sets mixed.
    OMP_NUM_THREADS=1 python benchmarks/metrics.py pairs A.zip B.zip C.zip            # Distances between data sets.

Times are processor seconds, hence comparable on a busy machine, with one thread as above. Output is Markdown.
"""
import io
import sys
import time
from pathlib import Path

import click
import numpy as np
import PIL.Image
import scipy.linalg
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dnnlib.picture_files import open_picture  # noqa: E402
from metrics.detectors import load_detector  # noqa: E402
from metrics.features import FeatureOptions, feature_rows  # noqa: E402
from metrics.frechet import frechet_distance  # noqa: E402
from metrics.image_streams import DatasetImages  # noqa: E402
from metrics.kernel import kernel_distance  # noqa: E402
from metrics.moments import Moments  # noqa: E402
from metrics.names import find_metric  # noqa: E402
from metrics.precision_recall import density_coverage  # noqa: E402
from metrics.weights import WeightOptions  # noqa: E402

BUNDLED = ROOT / 'datasets' / 'emoji-faces-noto-32.zip'
data_option = click.option('--data', default=str(BUNDLED), show_default=True, help='Image set.')
detector_option = click.option('--detector', default='efflite0', show_default=True)


@click.group()
def main():
    """One measurement per command."""
    torch.set_grad_enabled(False)


@main.command()
@click.option('--dim', type=int, default=2048, show_default=True)
@click.option('--num', type=int, multiple=True, default=[1000, 10_000], show_default=True,
              help='Images on each side')
def frechet(dim, num):
    """Frechet distance of features with a decaying spectrum: ours, the matrix root,
    and exact singular values."""
    print('| images | decay | ours, s | sqrtm, s | times faster | trace term, ours - exact | sqrtm - exact |')
    print('|---|---|---|---|---|---|---|')
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    for n in num:
        for decay in (0.5, 1, 2):
            scales = np.arange(1.0, dim + 1) ** -decay
            x, y = (torch.from_numpy(rng.standard_normal((n, dim)) * scales @ rotation) for _ in range(2))
            row = compare_frechet(x, y)
            print(f'| {n} | k^-{decay:g} | ' + ' | '.join(row) + ' |', flush=True)


def compare_frechet(x, y):
    """Cells of one row: both times, their ratio, both errors relative to the traces."""
    a, b = Moments.of(x), Moments.of(y)
    cov_a, cov_b = a.cov(), b.cov()
    shift = float((a.mean - b.mean).square().sum())
    traces = float(cov_a.trace() + cov_b.trace())
    ours, ours_sec = timed(lambda: frechet_distance(a, b))
    root, root_sec = timed(lambda: np.trace(scipy.linalg.sqrtm(cov_a.numpy() @ cov_b.numpy())).real)
    triangles = [torch.linalg.qr((f - f.mean(dim=0)) / (len(f) - 1) ** 0.5).R for f in (x, y)]
    exact = float(torch.linalg.svdvals(triangles[0] @ triangles[1].T).sum())
    own = (shift + traces - ours) / 2
    return [f'{ours_sec:.2f}', f'{root_sec:.2f}', f'{root_sec / ours_sec:.1f}',
            f'{(own - exact) / exact:.0e}', f'{(root - exact) / exact:.0e}']


@main.command()
@data_option
@click.option('--num', type=int, default=921, show_default=True)
def detector(data, num):
    """Features of an image set from file to memory, and the share of it
    that convolutions take by themselves."""
    print('| detector | images | s per 1,000 images | its convolutions alone | share |')
    print('|---|---|---|---|---|')
    for name in ('efflite0_64px', 'efflite0', 'efflite0_224px'):
        network = load(name)
        images = DatasetImages(dataset(data), max_num=num, num_workers=0)
        total = min(time_features(images, network) for _ in range(3))
        convolutions = time_convolutions(network, batch_size=64)
        cells = [f'{1000 * total:.1f}', f'{1000 * convolutions:.1f}', f'{convolutions / total:.0%}']
        print(f'| {name} | {images.num} | ' + ' | '.join(cells) + ' |', flush=True)


def time_features(images, network):
    """Processor seconds per image from the file to the features."""
    return timed(lambda: feature_rows(images, network, ['pool'], FeatureOptions(cache=False)))[1] / images.num


def time_convolutions(network, batch_size):
    """Processor seconds per image of the bare convolutions of a detector: same weights, same shapes."""
    calls = []
    hooks = [module.register_forward_hook(lambda m, x, y: calls.append((m, x[0].shape)))
             for module in network.modules() if hasattr(module, 'groups')]
    network(torch.zeros(batch_size, 3, 64, 64, dtype=torch.uint8), ['pool'])
    for hook in hooks:
        hook.remove()
    total = 0.0
    for module, shape in calls:
        x = torch.zeros(shape).contiguous(memory_format=torch.channels_last)
        total += min(timed(lambda m=module, x=x: F.conv2d(x, m.weight, m.bias, m.stride, m.padding, groups=m.groups))[1]
                     for _ in range(3))
    return total / batch_size


def blur(images, sigma):
    kernel = torch.exp(-torch.arange(-9., 10).square() / (2 * sigma ** 2))
    kernel = (kernel / kernel.sum()).repeat(3, 1, 1, 1)
    x = F.pad(images.float(), [9] * 4, mode='replicate')
    x = F.conv2d(F.conv2d(x, kernel.reshape(3, 1, 19, 1), groups=3), kernel.reshape(3, 1, 1, 19), groups=3)
    return x.round().to(torch.uint8)


def noise(images, sigma):
    rng = torch.Generator().manual_seed(0)
    return (images + sigma * torch.randn(images.shape, generator=rng)).clamp(0, 255).to(torch.uint8)


def jpeg(images, quality):
    def one(image):
        file = io.BytesIO()
        PIL.Image.fromarray(image).save(file, 'jpeg', quality=quality)
        with open_picture(file, formats=['JPEG']) as picture:
            return np.asarray(picture)
    return torch.from_numpy(np.stack([one(image) for image in images.permute(0, 2, 3, 1).numpy()])).permute(0, 3, 1, 2)


def fewer(images, share):
    """As many images, but only that share of them different ones."""
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:max(int(share * len(images)), 1)]
    return images[chosen.repeat(-(-len(images) // len(chosen)))[:len(images)]]


CORRUPTIONS = {
    'blur, sigma in pixels': (blur, [0.3, 0.5, 0.7, 1, 1.5, 2]),
    'noise, sigma of 255': (noise, [2, 4, 8, 16, 32, 64]),
    'JPEG, quality': (jpeg, [95, 85, 70, 50, 30, 10]),
    'share of different images': (fewer, [0.8, 0.6, 0.4, 0.2, 0.1, 0.05]),
}


@main.command()
@data_option
@detector_option
def corruption(data, detector):
    """How the distances to the clean images respond to corruption."""
    network, images = load(detector), all_images(data)
    clean = features_of(network, images)
    for what, (corrupt, strengths) in CORRUPTIONS.items():
        table(what, [(0 if corrupt is not fewer and corrupt is not jpeg else 'none', clean),
                     *((s, features_of(network, corrupt(images, s))) for s in strengths)], clean)


@main.command()
@data_option
@click.option('--other', required=True, help='Image set that is mixed in.')
@detector_option
def mixture(data, other, detector):
    """How the distances respond to images of another set among those of the first."""
    network = load(detector)
    clean, strange = (features_of(network, all_images(path)) for path in (data, other))
    rows = []
    for share in (0, 0.02, 0.05, 0.1, 0.2, 0.5, 1):
        num = int(share * len(clean['pool']))
        rows.append((share, {tap: torch.cat([strange[tap][:num], clean[tap][num:]]) for tap in clean}))
    table(f'share of {Path(other).stem}', rows, clean)


@main.command()
@click.argument('paths', nargs=-1, required=True)
@detector_option
def pairs(paths, detector):
    """Frechet distance s4 / pool between image sets; on the diagonal between the halves of one."""
    network = load(detector)
    features = {Path(path).stem: features_of(network, all_images(path)) for path in paths}
    print('| | ' + ' | '.join(features) + ' |\n|---|' + '---|' * len(features))
    for a, x in features.items():
        cells = []
        for b, y in features.items():
            left, right = ({t: f[::2] for t, f in x.items()}, {t: f[1::2] for t, f in x.items()}) if a == b else (x, y)
            cells.append(' / '.join(f'{frechet_distance(Moments.of(left[tap]), Moments.of(right[tap])):.4g}'
                                    for tap in ('s4', 'pool')))
        print(f'| {a} | ' + ' | '.join(cells) + ' |', flush=True)


def table(what, rows, clean):
    """Prints the distances of (strength, features) to the clean features,
    and whether each column only rises."""
    print(f'\n| {what} | FD s4 | FD pool | KID x 1000 | coverage |\n|---|---|---|---|---|')
    reference = {tap: Moments.of(f) for tap, f in clean.items()}
    columns = []
    for strength, features in rows:
        numbers = [frechet_distance(reference[tap], Moments.of(features[tap])) for tap in ('s4', 'pool')]
        numbers.append(1000 * kernel_distance(clean['pool'], features['pool'])[0])
        numbers.append(density_coverage(clean['pool'], features['pool'])[1])
        columns.append(numbers)
        print(f'| {strength} | ' + ' | '.join(f'{number:.3f}' for number in numbers) + ' |', flush=True)
    columns = np.array(columns)
    rises = (np.diff(columns[:, :3], axis=0) > 0).all(axis=0)
    print(f'\nStrictly rising: FD s4 {rises[0]}, FD pool {rises[1]}, KID {rises[2]}.')


def timed(function):
    """(result, processor seconds)."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def dataset(path):
    return {'class_name': 'training.dataset.ImageFolderDataset', 'path': path}


def all_images(path):
    images = DatasetImages(dataset(path), num_workers=0)
    return images.pick(range(images.num))


def load(name):
    return load_detector(find_metric(f'fd_{name}'), WeightOptions(), 'cpu')


def features_of(network, images):
    """Features [N, d] at s4 and pool."""
    parts = [network(batch, ['s4', 'pool']) for batch in images.split(64)]
    return {tap: torch.cat([part[tap] for part in parts]) for tap in ('s4', 'pool')}


if __name__ == '__main__':
    main()
