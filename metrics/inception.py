"""The FID network: the ImageNet classifier "Inception v3" of December 2015 [Szegedy et al.
2015, arXiv:1512.00567].

It differs from later Inception v3 networks in three places: average pools do not count padding,
the last block pools by maximum, and there are 1008 outputs. Layers are named as in the state dict of
pytorch-fid, from which it is loaded.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from metrics.detector import Detector, load_torchscript
from metrics.folded_conv import FoldedConv
from metrics.resize import bicubic, resize, tf1_bilinear

# Branches of each kind of block. '/2' marks stride 2 without padding, a tuple two layers side by side.
_A = [
    ['branch1x1'],
    ['branch5x5_1', 'branch5x5_2'],
    ['branch3x3dbl_1', 'branch3x3dbl_2', 'branch3x3dbl_3'],
    ['avg', 'branch_pool'],
]
_B = [
    ['branch3x3/2'],
    ['branch3x3dbl_1', 'branch3x3dbl_2', 'branch3x3dbl_3/2'],
    ['max/2'],
]
_C = [
    ['branch1x1'],
    ['branch7x7_1', 'branch7x7_2', 'branch7x7_3'],
    ['branch7x7dbl_1', 'branch7x7dbl_2', 'branch7x7dbl_3', 'branch7x7dbl_4', 'branch7x7dbl_5'],
    ['avg', 'branch_pool'],
]
_D = [
    ['branch3x3_1', 'branch3x3_2/2'],
    ['branch7x7x3_1', 'branch7x7x3_2', 'branch7x7x3_3', 'branch7x7x3_4/2'],
    ['max/2'],
]
_E = [
    ['branch1x1'],
    ['branch3x3_1', ('branch3x3_2a', 'branch3x3_2b')],
    ['branch3x3dbl_1', 'branch3x3dbl_2', ('branch3x3dbl_3a', 'branch3x3dbl_3b')],
    ['avg', 'branch_pool'],
]
_E_MAX = [*_E[:3], ['max', 'branch_pool']]

_BLOCKS = {
    'Mixed_5b': _A, 'Mixed_5c': _A, 'Mixed_5d': _A,
    'Mixed_6a': _B, 'Mixed_6b': _C, 'Mixed_6c': _C, 'Mixed_6d': _C, 'Mixed_6e': _C,
    'Mixed_7a': _D, 'Mixed_7b': _E, 'Mixed_7c': _E_MAX,
}
_RULES = {'inception': (tf1_bilinear, 'TensorFlow-1 bilinear to 299x299'),
          'inception_clean': (bicubic, 'antialiased bicubic to 299x299')}


class Inception(Detector):
    """Taps pool (2048) and logits (1008, without the bias, for the inception score).

    Args:
        state: State dict with the names of pytorch-fid's file.
        name: 'inception' resizes as the reference does, 'inception_clean' as clean-fid;
            scores do not compare.
        sha256: See `Detector`.
    """
    taps = {'pool': 2048, 'logits': 1008}
    main_tap = 'pool'
    fd_taps = ('pool',)

    def __init__(self, state: Mapping[str, torch.Tensor], name: str = 'inception', sha256: str = ''):
        super().__init__()
        self.name, self.sha256 = name, sha256
        self.matrix, self.resize_rule = _RULES[name]
        self.stem = torch.nn.Sequential(
            _unit(state, 'Conv2d_1a_3x3', stride=2, padding=0),
            _unit(state, 'Conv2d_2a_3x3', padding=0),
            _unit(state, 'Conv2d_2b_3x3', padding=1),
            torch.nn.MaxPool2d(3, stride=2),
            _unit(state, 'Conv2d_3b_1x1', padding=0),
            _unit(state, 'Conv2d_4a_3x3', padding=0),
            torch.nn.MaxPool2d(3, stride=2),
        )
        self.blocks = torch.nn.Sequential(*(_Block(state, name, table) for name, table in _BLOCKS.items()))
        self.register_buffer('fc_weight', state['fc.weight'])

    def forward(self, images: torch.Tensor, taps: Sequence[str]) -> dict[str, torch.Tensor]:
        x = resize(images.float(), 299, self.matrix).clamp(0, 255)
        x = self.blocks(self.stem((x - 128) / 128))    # [N, 2048, 8, 8]
        features = {'pool': x.mean(dim=(2, 3))}
        if 'logits' in taps:
            features['logits'] = F.linear(features['pool'], self.fc_weight)
        return {tap: features[tap] for tap in taps}


class TorchScriptInception(Detector):
    """The same network from the reference's TorchScript file: a black box that resizes by itself."""
    taps = Inception.taps
    main_tap = 'pool'
    fd_taps = ('pool',)

    def __init__(self, path: str, sha256: str = ''):
        super().__init__()
        self.name, self.sha256, self.resize_rule = 'inception', sha256, _RULES['inception'][1]
        self.network = load_torchscript(path)

    def forward(self, images: torch.Tensor, taps: Sequence[str]) -> dict[str, torch.Tensor]:
        features = {}
        if 'pool' in taps:
            features['pool'] = self.network(images, return_features=True)
        # It returns probabilities; a probability that is 0 in float32 gets the smallest one.
        if 'logits' in taps:
            probabilities = self.network(images, no_output_bias=True)
            features['logits'] = probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()
        return features


class _Block(torch.nn.Module):
    """Branches side by side, their outputs concatenated."""

    def __init__(self, state, name, branches):
        super().__init__()
        self.branches = branches
        steps = [step for branch in branches for group in branch for step in _together(group)]
        self.units = torch.nn.ModuleDict({step: _unit(state, f'{name}.{step.removesuffix("/2")}',
                                                      *_stride(step))
                                          for step in steps if not step.startswith(('avg', 'max'))})

    def forward(self, x):
        return torch.cat([self._branch(branch, x) for branch in self.branches], dim=1)

    def _branch(self, branch, x):
        for group in branch:
            x = torch.cat([self._step(step, x) for step in _together(group)], dim=1)
        return x

    def _step(self, step, x):
        if step == 'avg':
            return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        if step == 'max':
            return F.max_pool2d(x, 3, stride=1, padding=1)
        if step == 'max/2':
            return F.max_pool2d(x, 3, stride=2)
        return self.units[step](x)


def _together(group):
    return group if isinstance(group, tuple) else (group,)


def _stride(step):
    """(stride, padding) of a step; padding None keeps the size."""
    return (2, 0) if step.endswith('/2') else (1, None)


def _unit(state, name, stride=1, padding=None):
    if padding is None:
        height, width = state[f'{name}.conv.weight'].shape[2:]
        padding = (height // 2, width // 2)
    return FoldedConv(state, f'{name}.conv', f'{name}.bn', stride, padding)
