"""Scores of images that one has, as `calc_metrics.py` calculates them."""
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loss_zoo import programs

if TYPE_CHECKING:
    from metrics.detector import Detector

programs.make_importable()      # For the imports inside the functions below.

DATASET = 'training.dataset.ImageFolderDataset'


def frechet(a: Any, b: Any, detector: str = 'efflite0', device: str = 'auto') -> float:
    """The Frechet distance of two sets; the same as the metric `fd_DETECTOR` of the same images.

    a, b: each a folder or archive of equal images, uint8 images [N, height, width, 1 or 3], or features,
        floats [N, d].
    detector: whose features: 'efflite0' (the extra `metrics`), or another one whose weights are there.
    Raises ValueError with one sentence, and OSError for files that are not there.
    """
    from metrics.frechet import frechet_distance
    from metrics.moments import Moments
    from metrics.names import MetricError, find_metric
    rows = [features(each, detector, device) for each in (a, b)]
    if rows[0].shape[1] != rows[1].shape[1]:
        raise ValueError(f'features of {rows[0].shape[1]} and of {rows[1].shape[1]} numbers cannot be compared')
    try:
        metric = find_metric(f'fd_{detector}')
        return frechet_distance(Moments.of(rows[0]), Moments.of(rows[1]), metric.params['ddof'])
    except MetricError as error:
        raise ValueError(str(error)) from error


def features(images: Any, detector: str = 'efflite0', device: str = 'auto', batch_size: int = 64) -> Tensor:
    """Features [N, d] of images, on the CPU; floats [N, d] are features already.

    Raises as `frechet`.
    """
    from metrics.names import MetricError
    if isinstance(images, str | os.PathLike):
        if not os.path.exists(images):
            raise FileNotFoundError(f'{images}: no such folder or archive')
        source = os.fspath(images)
    else:
        source = torch.as_tensor(images)
        if source.ndim == 2 and source.is_floating_point():
            return source.cpu()
        if source.ndim != 4 or source.dtype != torch.uint8 or source.shape[3] not in (1, 3):
            raise ValueError(f'images {list(source.shape)} {source.dtype}: must be uint8 [N, height, width, 1 or 3], or '
                             'features, floats [N, d]')
    try:
        model, where = _detector(detector, device)
        read = _of_path if isinstance(source, str) else _of_array
        return read(source, model, where, batch_size)
    except MetricError as error:
        raise ValueError(str(error)) from error


def _detector(name: str, device: str) -> tuple['Detector', torch.device]:
    from metrics.detectors import load_detector
    from metrics.names import find_metric
    from metrics.weights import WeightOptions
    from torch_utils.distributed import pick_device
    where = pick_device(device)
    return load_detector(find_metric(f'fd_{name}'), WeightOptions(), where), where


def _of_path(path, model, device, batch_size):
    from metrics.features import FeatureOptions, feature_rows
    from metrics.image_streams import DatasetImages
    images = DatasetImages(dict(class_name=DATASET, path=path), num_workers=0)
    tap = model.fd_taps[0]
    return feature_rows(images, model, [tap], FeatureOptions(device, batch_size, cache=False))[tap].cpu()


def _of_array(images, model, device, batch_size):
    from metrics.image_streams import as_rgb
    tap, parts = model.fd_taps[0], images.movedim(3, 1).split(batch_size)           # uint8 [N,C,H,W]
    with torch.no_grad():
        return torch.cat([model(as_rgb(part.to(device)), [tap])[tap].float().cpu() for part in parts])
