"""Real images that are on another machine: of them there are moments of features, and nothing else.

`ImagesElsewhere` stands for them where a metric is calculated, `moments_for` calculates them where they are. The Frechet distance
needs no more: moments of a union follow from those of its parts (moments.py).
"""
from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnlib import writing
from dnnlib.reading import read_file
from metrics.detector import Detector
from metrics.detectors import load_detector
from metrics.features import FeatureOptions, feature_moments
from metrics.image_streams import DatasetImages
from metrics.moments import Moments
from metrics.names import Metric, MetricError, find_metric
from metrics.weights import WeightOptions

MIN_SHARED = 100            # Images whose moments may leave: those of a few are nearly their features.
MAX_SHARED = 2 ** 20        # Bytes of that file.
SHARED_FILE = 'shared-moments.json'     # In the directory of the cache: of which images moments have left, for each detector.


class ImagesElsewhere:
    """The images of `source`, which has a length, `name`, `image_shape`, `get_label(i)` and `ask_moments(query, widths)`: from
    {tap: width} to {tap: (number, mean, scatter)}, or a ValueError with a sentence."""

    def __init__(self, source: Any, metric: Metric):
        if metric.kind != 'fd':
            raise MetricError(f'{metric.name} needs the features of each image, and those of {source.name} do not leave it; '
                              'fid... and fd... need their moments alone')
        self.dataset, self.name, self._metric = source, source.name, metric
        self.num = min(len(source), metric.max_real or len(source))
        self.key = ('elsewhere', source.name, self.num)

    def fingerprint(self) -> None:
        """Nothing is known of their content."""

    def moments(self, detector: Detector, taps: Sequence[str]) -> dict[str, Moments]:
        """{tap: moments}. Raises MetricError."""
        query = dict(metric=self._metric.name, detector=detector.name, sha256=detector.sha256)
        try:
            found = self.dataset.ask_moments(query, {tap: detector.taps[tap] for tap in taps})
        except ValueError as error:
            raise MetricError(str(error)) from error
        return {tap: Moments.from_covariance(num, mean, scatter / (num - 1)) for tap, (num, mean, scatter) in found.items()}


def images_of(source: Any, metric: Metric, num_workers: int) -> DatasetImages | ImagesElsewhere:
    """The real images of a metric: of the arguments of a data set, or elsewhere. Raises MetricError."""
    if hasattr(source, 'ask_moments'):
        return ImagesElsewhere(source, metric)
    return DatasetImages(source, metric.max_real, metric.keep_xflip, num_workers=num_workers)


def moments_for(query: Mapping[str, Any], dataset_kwargs: Mapping[str, Any], device: Any, cache_dir: str) -> dict[str, tuple]:
    """{tap: (number, mean, scatter)} of the images of a data set, kept in a directory: calculated once. Raises ValueError."""
    try:
        metric = find_metric(str(query.get('metric')))
    except MetricError:
        metric = None
    if not isinstance(metric, Metric) or metric.kind != 'fd':
        raise ValueError('moments are for Frechet distances')
    if metric.max_real is not None:
        raise ValueError(f'{metric.name} looks at the first images alone: beside the moments of all, those would tell the rest')
    try:
        detector = load_detector(metric, WeightOptions(), device)
        is_same = (detector.name, detector.sha256) == (query.get('detector'), query.get('sha256'))
        if is_same:
            images = DatasetImages(dataset_kwargs, None, metric.keep_xflip, num_workers=0)
            require_enough(len(images.dataset))
            note_shared(Path(cache_dir, SHARED_FILE), f'{detector.name} {detector.sha256}', images.fingerprint())
            found = feature_moments(images, detector, detector.fd_taps, FeatureOptions(device, cache_dir=cache_dir))
    except MetricError as error:            # Names files, which is nobody else's business.
        print(f'Warning: no moments for {metric.name}: {error}', file=sys.stderr, flush=True)
        raise ValueError(f'it cannot calculate {metric.name}; its own output says why') from error
    if not is_same:
        raise ValueError(f'the weights of the detector {detector.name} are others here')
    assert found is not None
    return {tap: (moments.num, moments.mean, moments.scatter) for tap, moments in found.items()}


def require_enough(num: int) -> None:
    """Raises ValueError for fewer images than moments may be given of."""
    if num < MIN_SHARED:
        raise ValueError(f'moments of {num} images are nearly their features; they are given of at least {MIN_SHARED}')


def note_shared(path: Path, detector: str, fingerprint: str | None) -> None:
    """Keeps of which images moments have left. Raises ValueError if those were others: both together would tell which images came
    or went."""
    try:
        known = json.loads(read_file(path, MAX_SHARED).decode())
    except FileNotFoundError:
        known = {}
    except (OSError, ValueError) as error:
        print(f'Warning: no moments: {path} cannot be read: {error}', file=sys.stderr, flush=True)
        raise ValueError('it does not know whether it has given moments of other images before') from error
    if known.setdefault(detector, fingerprint) != fingerprint:
        print(f'Warning: no moments: the images are others than those whose moments have left; remove {path} if both may be '
              'known.', file=sys.stderr, flush=True)
        raise ValueError('its images are others than those of which it has given moments before: both would tell the difference')
    path.parent.mkdir(parents=True, exist_ok=True)
    writing.write_text(path, json.dumps(known), 'any')
