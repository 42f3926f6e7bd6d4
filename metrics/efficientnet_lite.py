"""EfficientNet-Lite0, the detector that needs no download: its ImageNet weights come with a Python package.

EfficientNet [Tan & Le 2019, arXiv:1905.11946] without squeeze-and-excitation and with ReLU6 for Swish.
Input RGB, (v - 127) / 128. Distances through it are not FID and are never called so.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from metrics.detector import Detector, embedding_of_maps
from metrics.folded_conv import FoldedConv
from metrics.resize import bicubic, resize

# Expansion, kernel size, stride of the first block, output channels, blocks: one row per stage s0 ... s6.
_STAGES = [
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]


class EfficientNetLite0(Detector):
    """Taps s4, s5, s6 (stage outputs, averaged over positions), pool (after the head)
    and logits (1000 classes).

    Args:
        state: The published state dict.
        size: Images are resized to size x size first; a multiple of 32.
        name, sha256: See `Detector`.
    """
    taps = {'s4': 112, 's5': 192, 's6': 320, 'pool': 1280, 'logits': 1000}
    main_tap = 'pool'
    # A few images are enough for the 112 features of s4; pool has 1280, which need ten thousand images.
    fd_taps = ('s4', 'pool')

    def __init__(self, state: Mapping[str, torch.Tensor], size: int = 128, name: str = 'efflite0',
                 sha256: str = ''):
        assert size % 32 == 0, f'size {size} is no multiple of 32'
        super().__init__()
        self.name, self.sha256, self.size = name, sha256, size
        self.resize_rule = f'antialiased bicubic to {size}x{size}'
        self.stem = _Conv(state, '_conv_stem', '_bn0', stride=2)
        self.stages = torch.nn.ModuleList()
        index = 0
        for expansion, _kernel, stride, _channels, num_blocks in _STAGES:
            strides = [stride] + [1] * (num_blocks - 1)
            self.stages.append(torch.nn.Sequential(*(
                _Block(state, f'_blocks.{index + i}.', expansion > 1, s) for i, s in enumerate(strides))))
            index += num_blocks
        self.head = _Conv(state, '_conv_head', '_bn1')
        self.register_buffer('fc_weight', state['_fc.weight'])
        self.register_buffer('fc_bias', state['_fc.bias'])
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor, taps: Sequence[str]) -> dict[str, torch.Tensor]:
        maps = self.maps(resize(images.float(), self.size, bicubic).clamp(0, 255))
        features = {f's{i}': maps[i].mean(dim=(2, 3)) for i in range(4, 7)}
        if {'pool', 'logits'} & set(taps):
            features['pool'] = self.head(maps[-1]).mean(dim=(2, 3))
            features['logits'] = F.linear(features['pool'], self.fc_weight, self.fc_bias)
        return {tap: features[tap] for tap in taps}

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return embedding_of_maps(self.maps(resize(images, self.size, bicubic))[1:6], weights=[1.0] * 5)

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Stage outputs s0 ... s6 of float images [N, 3, H, W] in 0..255, as large as they are."""
        x = self.stem(((images - 127) / 128).contiguous(memory_format=torch.channels_last))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class _Block(torch.nn.Module):
    """Expand, filter each channel by itself, project; added to the input where the shape has not changed."""

    def __init__(self, state, prefix, expands, stride):
        super().__init__()
        self.expand = _Conv(state, f'{prefix}_expand_conv', f'{prefix}_bn0') if expands else torch.nn.Identity()
        self.depthwise = _Conv(state, f'{prefix}_depthwise_conv', f'{prefix}_bn1', stride)
        self.project = _Conv(state, f'{prefix}_project_conv', f'{prefix}_bn2', linear=True)

    def forward(self, x):
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if x.shape == y.shape else y


class _Conv(FoldedConv):
    """Convolution and batch norm with TensorFlow's "same" padding, ReLU6 unless linear."""

    def __init__(self, state, conv, norm, stride=1, linear=False):
        kernel = state[f'{conv}.weight'].shape[2]
        super().__init__(state, conv, norm, stride, padding=(kernel - 1) // 2,
                         limits=(None, None) if linear else (0, 6))
        # TensorFlow puts the odd zero behind an image of even size. Padded equally on both sides, the kernel
        # has to start one pixel later instead.
        if stride == 2:
            self.weight = F.pad(self.weight, [1, 0, 1, 0])
