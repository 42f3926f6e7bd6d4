"""Detectors by name: loading their weights, once per process and device."""
from __future__ import annotations

from pathlib import Path

import torch

from dnnlib.kinds_of_file import WEIGHTS, what_is
from metrics.detector import Detector
from metrics.efficientnet_lite import EfficientNetLite0
from metrics.inception import Inception, TorchScriptInception
from metrics.names import Metric, MetricError
from metrics.vgg16 import VGG16, TorchScriptVGG16
from metrics.weights import WeightOptions, find_all_weights

_EFFLITE_SIZES = {'efflite0': 128, 'efflite0_64px': 64, 'efflite0_224px': 224}

_loaded: dict[tuple, Detector] = {}


def load_detector(metric: Metric, options: WeightOptions, device: torch.device | str) -> Detector:
    """The detector of a metric on a device, in evaluation mode; loaded the first time, remembered by content.

    Raises:
        MetricError: If its weights are missing, damaged, or not what they should be.
    """
    found = find_all_weights(metric, options)
    key = (metric.detector, str(device), *(file.sha256 for file in found.values()))
    if key not in _loaded:
        try:
            detector = _build(metric.detector, found)
        except (KeyError, RuntimeError, ValueError, OSError) as error:
            paths = ' and '.join(str(file.path) for file in found.values())
            reason = f'it has no {error}' if isinstance(error, KeyError) else 'damaged, or of another network'
            raise MetricError(f'{paths}: not the weights of the detector {metric.detector}: {reason}') from error
        _loaded[key] = detector.eval().requires_grad_(False).to(device)
    return _loaded[key]


def _build(name: str, found: dict) -> Detector:
    main = found[next(iter(found))]
    sha256 = '+'.join(file.sha256 for file in found.values())
    if main.path.suffix == '.pt':
        return _build_torchscript(name, main.path, sha256)
    state = read_state_dict(main.path)
    if name in _EFFLITE_SIZES:
        return EfficientNetLite0(state, _EFFLITE_SIZES[name], name, sha256)
    if name == 'vgg16':
        return VGG16(state, read_state_dict(found['lpips'].path) if 'lpips' in found else None, sha256)
    return Inception(state, name, sha256)


def _build_torchscript(name: str, path: Path, sha256: str) -> Detector:
    if name == 'inception':
        return TorchScriptInception(str(path), sha256)
    if name == 'vgg16':
        return TorchScriptVGG16(str(path), sha256)
    raise MetricError(f'{path} resizes by itself, so it cannot serve as {name}; use a state dict (.pth)')


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pth` file, on the CPU; nothing in the file is executed.

    Raises:
        MetricError: If it is damaged or holds something else.
    """
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:      # torch names no common base for what it raises about damaged files.
        found = what_is(path)
        what = 'damaged, or holds more than tensors' if found in (None, WEIGHTS) else found
        raise MetricError(f'{path} cannot be read as a file of weights (.pth): it is {what}') from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor)
                                                for value in content.values()):
        raise MetricError(f'{path} holds something other than named tensors')
    return content
