"""The networks of R3GAN [Huang et al. 2024, arXiv:2501.05441]: plain residual networks, without styles, noise, minibatch
statistics and equalized learning rates.

    block       y = x + L3 act(L2 act(L1 x))            L1: 1x1, C -> 2C;  L2: 3x3, in groups of 16 channels;  L3: 1x1, 2C -> C
    G           z, and a dense embedding of the label: dense to C, times a learned basis [C,4,4]; for each resolution
                blocks, then up by 2;  a 1x1 convolution to the image
    D           a 1x1 convolution from the image; for each resolution blocks, then down by 2;  at 4x4 a depthwise
                convolution over all of it, dense to a logit, or to the inner product with a dense embedding of the label

Layers have no biases; those are in the activations: bias, then leaky ReLU with slope 0.2. Weights ~ N(0, gain^2 / fan_in).
L3 starts at 0, so that every block starts as the identity: D is then linear in the image, G in z.

Both take the place of the networks in networks.py (network_protocol.py). What is the intermediate latent there is here z,
with the embedding of the label behind it.
"""
from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d_gradfix import conv2d
from torch_utils.ops.upfirdn2d import downsample2d, setup_filter, upsample2d

SLOPE = 0.2
ACT_GAIN = math.sqrt(2 / (1 + SLOPE ** 2))      # Of layers before an activation: keeps the variance.
EXPANSION = 2                                   # Of a block's channels within it.
GROUP_WIDTH = 16                                # Channels that a 3x3 convolution mixes.
EMBEDDING = 64                                  # Numbers that G makes of a label.
LOW_PASS = (1, 3, 3, 1)


class Layer(nn.Module):
    """A convolution or, on [N,C], a dense layer, without bias."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1, gain: float = 1):
        super().__init__()
        self.groups, self.padding = groups, kernel_size // 2 if kernel_size % 2 else 0
        shape = [out_channels, in_channels // groups, kernel_size, kernel_size]
        self.weight = nn.Parameter(torch.randn(shape) / (math.sqrt(math.prod(shape[1:])) / gain) if gain else torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.to(x.dtype)
        if x.ndim == 2:
            return x @ weight.flatten(1).T
        return conv2d(x, weight, padding=self.padding, groups=self.groups)


class Activation(nn.Module):
    """Bias, then leaky ReLU, without a gain."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros([channels]))

    def forward(self, x: Tensor) -> Tensor:
        return bias_act(x, self.bias.to(x.dtype), act='lrelu', alpha=SLOPE, gain=1)


class ResidualBlock(nn.Module):
    """[N,C,h,w] -> the same; the identity at the start."""

    def __init__(self, channels: int, num_blocks: int):
        super().__init__()
        inner = EXPANSION * channels
        gain = ACT_GAIN * num_blocks ** -0.25           # `num_blocks`: of the whole network.
        groups = math.gcd(inner, max(inner // GROUP_WIDTH, 1))
        self.expand, self.act1 = Layer(channels, inner, gain=gain), Activation(inner)
        self.mix, self.act2 = Layer(inner, inner, kernel_size=3, groups=groups, gain=gain), Activation(inner)
        self.reduce = Layer(inner, channels, gain=0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.reduce(self.act2(self.mix(self.act1(self.expand(x)))))


class ResolutionStage(nn.Module):
    """The blocks of one resolution, with what leads there from the one before (G) or from it to the next (D)."""

    def __init__(self, channels: int, other: int, blocks: int, num_blocks: int, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.blocks = nn.ModuleList(ResidualBlock(channels, num_blocks) for _ in range(blocks))
        self.register_buffer('resample_filter', setup_filter(LOW_PASS))
        self._other = other

    def run(self, x: Tensor, force_fp32: bool = False) -> Tensor:
        """The blocks, in their type."""
        x = self.cast(x, force_fp32)
        for block in self.blocks:
            x = block(x)
        return x

    def cast(self, x: Tensor, force_fp32: bool = False) -> Tensor:
        """x as this stage computes it."""
        return x.to(torch.float32 if force_fp32 else self.dtype)


class UpStage(ResolutionStage):
    """Up by 2, after a 1x1 convolution if the widths differ, then the blocks. The first only has blocks."""

    def __init__(self, channels: int, other: int, *args: Any):
        super().__init__(channels, other, *args)
        self.widen = Layer(other, channels) if other not in (0, channels) else None

    def forward(self, x: Tensor, force_fp32: bool = False) -> Tensor:
        x = self.cast(x, force_fp32)
        if self._other:
            x = upsample2d(x if self.widen is None else self.widen(x), self.resample_filter)
        return self.run(x, force_fp32)


class DownStage(ResolutionStage):
    """The blocks, then down by 2 and a 1x1 convolution if the widths differ."""

    def __init__(self, channels: int, other: int, *args: Any):
        super().__init__(channels, other, *args)
        self.widen = Layer(channels, other) if other not in (0, channels) else None

    def forward(self, x: Tensor) -> Tensor:
        """Of the maps after the blocks."""
        x = downsample2d(x, self.resample_filter)
        return x if self.widen is None else self.widen(x)


class PlainMapping(nn.Module):
    """z, and behind it the embedding of the label, as the only w. There is nothing to track, and `w_avg` is 0."""
    num_ws = 1

    def __init__(self, z_dim: int, c_dim: int):
        super().__init__()
        self.z_dim, self.c_dim = z_dim, c_dim
        self.embed = Layer(c_dim, EMBEDDING) if c_dim > 0 else None
        self.register_buffer('w_avg', torch.zeros([z_dim + (EMBEDDING if c_dim > 0 else 0)]))

    def forward(self, z: Tensor, c: Tensor | None, truncation_psi: float = 1, truncation_cutoff: int | None = None,
                skip_w_avg_update: bool = False) -> Tensor:
        """ws [N,1,w_dim]; `truncation_psi` makes z shorter."""
        z = z if truncation_cutoff == 0 else z * truncation_psi
        return (z if self.embed is None else torch.cat([z, self.embed(c)], dim=1))[:, None]

    def track(self, w: Tensor) -> None:
        """Nothing."""


class PlainSynthesis(nn.Module):
    """ws [N,1,w_dim] to images."""

    def __init__(self, w_dim: int, img_resolution: int, img_channels: int, channel_base: int, channel_max: int,
                 num_fp16_res: int, reduced_dtype: str, blocks_per_stage: int):
        super().__init__()
        self.num_ws, self.w_dim = 1, w_dim
        resolutions = resolutions_of(img_resolution)
        self.channels = widths(resolutions, channel_base, channel_max)
        self.resolutions = resolutions
        self.enter = Layer(w_dim, self.channels[4])
        self.basis = nn.Parameter(torch.randn([self.channels[4], 4, 4]))
        for res in resolutions:
            dtype = stage_dtype(res, img_resolution, num_fp16_res, reduced_dtype)
            self.add_module(f's{res}', UpStage(self.channels[res], self.channels.get(res // 2, 0), blocks_per_stage,
                                               blocks_per_stage * len(resolutions), dtype))
        self.to_rgb = Layer(self.channels[img_resolution], img_channels)

    def forward(self, ws: Tensor, return_feats: Collection[int] = (), *, noise_generator: torch.Generator | None = None,
                noise_mode: str = 'random', force_fp32: bool = False) -> Any:
        """As in network_protocol.py; nothing is random."""
        x = self.enter(ws[:, 0])[:, :, None, None] * self.basis                     # [N,C,4,4]
        feats = {}
        for res in self.resolutions:
            x = getattr(self, f's{res}')(x, force_fp32)
            if res in return_feats:
                feats[res] = x.float()
        img = self.to_rgb(x).float()
        return (img, feats) if return_feats else img


class R3Generator(nn.Module):
    """Latents and labels to images; `more` is what StyleGAN2's generator would get besides."""
    has_styles = False

    def __init__(self, z_dim: int, c_dim: int, img_resolution: int, img_channels: int, w_dim: int = 0,
                 blocks_per_stage: int = 2, synthesis_kwargs: Mapping[str, Any] = {}, **more: Any):
        super().__init__()
        own = own_arguments(synthesis_kwargs)
        self.init_kwargs = dict(z_dim=z_dim, c_dim=c_dim, img_resolution=img_resolution, img_channels=img_channels,
                                blocks_per_stage=blocks_per_stage, synthesis_kwargs=own)
        self.z_dim, self.c_dim = z_dim, c_dim
        self.img_resolution, self.img_channels = img_resolution, img_channels
        self.mapping = PlainMapping(z_dim, c_dim)
        self.w_dim, self.num_ws = len(self.mapping.w_avg), 1
        self.synthesis = PlainSynthesis(self.w_dim, img_resolution, img_channels, blocks_per_stage=blocks_per_stage, **own)

    def forward(self, z: Tensor, c: Tensor | None, truncation_psi: float = 1, truncation_cutoff: int | None = None,
                **synthesis_kwargs: Any) -> Any:
        """What the synthesis returns."""
        return self.synthesis(self.mapping(z, c, truncation_psi, truncation_cutoff), **synthesis_kwargs)


class R3Critic(nn.Module):
    """Images and labels to logits; `more` is what StyleGAN2's critic would get besides."""

    def __init__(self, c_dim: int, img_resolution: int, img_channels: int, blocks_per_stage: int = 2,
                 block_kwargs: Mapping[str, Any] = {}, epilogue_kwargs: Mapping[str, Any] = {}, **more: Any):
        super().__init__()
        if epilogue_kwargs.get('mbstd_num_channels', 1) > 0 and 'mbstd_group_size' in epilogue_kwargs:
            raise ValueError('it has no minibatch statistics: give --mbstd-group=0')
        if block_kwargs.get('freeze_layers'):
            raise ValueError('none of its layers can be frozen: leave out --freezed')
        own = own_arguments(more)
        self.init_kwargs = dict(c_dim=c_dim, img_resolution=img_resolution, img_channels=img_channels,
                                blocks_per_stage=blocks_per_stage, **own)
        self.c_dim, self.img_resolution, self.img_channels = c_dim, img_resolution, img_channels
        self.resolutions = resolutions_of(img_resolution)[::-1]
        self.channels = widths(self.resolutions, own['channel_base'], own['channel_max'])
        width = self.channels[4]
        self.from_rgb = Layer(img_channels, self.channels[img_resolution])
        for res in self.resolutions:
            dtype = stage_dtype(res, img_resolution, own['num_fp16_res'], own['reduced_dtype'])
            self.add_module(f's{res}', DownStage(self.channels[res], self.channels.get(res // 2, 0), blocks_per_stage,
                                                 blocks_per_stage * len(self.resolutions), dtype))
        self.flatten = Layer(width, width, kernel_size=4, groups=width)
        self.out = Layer(width, width if c_dim > 0 else 1)
        self.embed = Layer(c_dim, width, gain=1 / math.sqrt(width)) if c_dim > 0 else None

    def forward(self, img: Tensor, c: Tensor | None, return_feats: bool = False, force_fp32: bool = False) -> Any:
        """Logits [N,1]; with `return_feats` also the maps after the blocks of each resolution from half the image's down."""
        x, feats = self.from_rgb(getattr(self, f's{self.img_resolution}').cast(img, force_fp32)), {}
        for res in self.resolutions:
            stage = getattr(self, f's{res}')
            x = stage.run(x, force_fp32)
            if return_feats and res < self.img_resolution:
                feats[res] = x
            x = stage(x) if res > 4 else x
        x = self.out(self.flatten(x.float()).flatten(1))
        logits = x if self.embed is None else (x * self.embed(c)).sum(1, keepdim=True)
        return (logits, feats) if return_feats else logits


def own_arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of StyleGAN2's arguments that mean something here. Raises ValueError for float16."""
    own = dict(channel_base=kwargs.get('channel_base', 24576), channel_max=kwargs.get('channel_max', 768),
               num_fp16_res=kwargs.get('num_fp16_res', 0), reduced_dtype=kwargs.get('reduced_dtype', 'bfloat16'))
    if own['num_fp16_res'] > 0 and kwargs.get('reduced_dtype', 'float16') == 'float16':
        raise ValueError('its layers have no clamps, without which float16 overflows: give --precision=bf16 or fp32')
    return own


def stage_dtype(res: int, img_resolution: int, num_fp16_res: int, reduced_dtype: str) -> torch.dtype:
    """What a resolution is computed in: the highest ones in the reduced type, as in networks.py."""
    is_reduced = res >= max(2 * img_resolution // 2 ** num_fp16_res, 8)
    return getattr(torch, reduced_dtype) if is_reduced else torch.float32


def resolutions_of(img_resolution: int) -> list[int]:
    """4, 8, ... up to the image's. Raises ValueError."""
    if img_resolution < 8 or img_resolution & (img_resolution - 1):
        raise ValueError(f'img_resolution={img_resolution}: must be a power of two, at least 8')
    return [2 ** i for i in range(2, img_resolution.bit_length())]


def widths(resolutions: list[int], channel_base: int, channel_max: int) -> dict[int, int]:
    """{resolution: channels}."""
    return {res: max(min(channel_base // res, channel_max), 1) for res in resolutions}
