"""VGG16 [Simonyan & Zisserman 2014, arXiv:1409.1556], configuration D,
with the LPIPS heads [arXiv:1801.03924].

Precision and recall use its second fully connected layer, perceptual path length its LPIPS embedding.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from metrics.detector import Detector, embedding_of_maps, load_torchscript
from metrics.resize import resize, tf1_bilinear

# Layer numbers in the published state dict.
_STAGES = [(0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)]
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)              # Of ImageNet, for values in 0..1.
_RESIZE_RULE = 'TensorFlow-1 bilinear to 224x224'


class VGG16(Detector):
    """Tap fc2 (4096, after its ReLU), and the LPIPS embedding if heads are given.

    Args:
        state: The published state dict of the classifier.
        heads: State dict of the LPIPS v0.1 heads, 'lin0.model.1.weight' ... 'lin4.model.1.weight', or None.
        sha256: See `Detector`.
        only_maps: Without the dense layers, nine tenths of it, which `maps` does not need.
    """
    taps = {'fc2': 4096}
    main_tap = 'fc2'
    fd_taps = ('fc2',)

    def __init__(self, state: Mapping[str, torch.Tensor], heads: Mapping | None = None, sha256: str = '',
                 only_maps: bool = False):
        super().__init__()
        self.name, self.sha256, self.resize_rule = 'vgg16', sha256, _RESIZE_RULE
        layers = [f'features.{i}' for stage in _STAGES for i in stage]
        layers += [] if only_maps else ['classifier.0', 'classifier.3']
        for name in [f'{layer}.{part}' for layer in layers for part in ('weight', 'bias')]:
            self.register_buffer(name.replace('.', '_'), state[name])
        self.register_buffer('mean', 255 * torch.tensor(_MEAN).reshape(3, 1, 1))
        self.register_buffer('std', 255 * torch.tensor(_STD).reshape(3, 1, 1))
        for i in range(5 if heads else 0):
            self.register_buffer(f'head{i}', heads[f'lin{i}.model.1.weight'].flatten())
        self.has_heads = heads is not None

    def forward(self, images: torch.Tensor, taps: Sequence[str]) -> dict[str, torch.Tensor]:
        x = self.maps(resize(images.float(), 224, tf1_bilinear))[-1]
        x = F.adaptive_avg_pool2d(F.max_pool2d(x, 2), 7).flatten(1)
        for layer in ('classifier_0', 'classifier_3'):
            x = F.linear(x, *self._layer(layer)).relu()
        return {tap: {'fc2': x}[tap] for tap in taps}

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return embedding_of_maps(self.maps(images), [self.get_buffer(f'head{i}') for i in range(5)])

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The last ReLU output of each stage, of float images [N, 3, H, W] in 0..255."""
        x, maps = (images - self.mean) / self.std, []
        for stage in _STAGES:
            if maps:
                x = F.max_pool2d(x, 2)
            for i in stage:
                x = F.conv2d(x, *self._layer(f'features_{i}'), padding=1).relu()
            maps.append(x)
        return maps

    def _layer(self, name):
        return self.get_buffer(f'{name}_weight'), self.get_buffer(f'{name}_bias')


class TorchScriptVGG16(Detector):
    """The same network with its heads from the reference's TorchScript file: a black box."""
    taps = VGG16.taps
    main_tap = 'fc2'
    fd_taps = ('fc2',)
    has_heads = True

    def __init__(self, path: str, sha256: str = ''):
        super().__init__()
        self.name, self.sha256, self.resize_rule = 'vgg16', sha256, _RESIZE_RULE
        self.network = load_torchscript(path)

    def forward(self, images: torch.Tensor, taps: Sequence[str]) -> dict[str, torch.Tensor]:
        return {tap: self.network(images, return_features=True) for tap in taps}

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images, resize_images=False, return_lpips=True)
