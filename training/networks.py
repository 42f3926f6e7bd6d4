"""Generator and discriminator of StyleGAN2 [Karras et al. 2020, arXiv:1912.04958],
with the reduced precision of StyleGAN2-ADA [Karras et al. 2020, arXiv:2006.06676, appendix D].

    Generator(z, c) = SynthesisNetwork(MappingNetwork(z, c))        latents z, labels c -> ws -> images
    Discriminator(img, c)                                           images, labels c -> logits

Both are pyramids of blocks, one per resolution (a power of two);
a block's architecture [arXiv:1912.04958, figure 7] is

    orig    features only; the image is made from, or enters at, the highest resolution
    skip    the generator adds up images of all resolutions; the discriminator sees the image at all resolutions
    resnet  residual branches around the two convolutions of a block

Names of parameters and buffers, their order, and the order of the random numbers
that initialise them are those of the published networks, so weights can be exchanged
and a seed gives the same network.
"""
import copy
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from torch_utils import misc
from torch_utils.ops import upfirdn2d
from training.layers import (
    EPS,
    LOW_PASS,
    Conv2dLayer,
    FullyConnectedLayer,
    MinibatchStdLayer,
    SynthesisLayer,
    ToRGBLayer,
    check_choice,
    modulated_conv2d,
    normalize_2nd_moment,
    together,
)
from training.modulation import matrices_of, modulations

__all__ = [
    'Conv2dLayer', 'Discriminator', 'DiscriminatorBlock', 'DiscriminatorEpilogue', 'FullyConnectedLayer', 'Generator',
    'MappingNetwork', 'MinibatchStdLayer', 'SynthesisBlock', 'SynthesisLayer', 'SynthesisNetwork', 'ToRGBLayer',
    'modulated_conv2d', 'normalize_2nd_moment',
]

ARCHITECTURES = ('orig', 'skip', 'resnet')
REDUCED_DTYPES = ('float16', 'bfloat16')


# ----------------------------------------------------------------------------
# Generator.


class MappingNetwork(nn.Module):
    """Latents and labels to intermediate latents: a multilayer perceptron after normalisation.

    In training mode it tracks the mean of its output in `w_avg` [w_dim],
    towards which `truncation_psi` pulls.
    """

    def __init__(
        self,
        z_dim: int,                             # 0 = no latent input.
        c_dim: int,                             # 0 = unconditional.
        w_dim: int,
        num_ws: int | None,  # Copies of the output, one per layer. None = the output itself.
        num_layers: int = 8,
        embed_features: int | None = None,      # Width of the embedded label. None = w_dim.
        layer_features: int | None = None,      # Width of the hidden layers. None = w_dim.
        activation: str = 'lrelu',
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,       # Decay of w_avg per call. None = no tracking.
    ):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        self.tracks_w_avg = num_ws is not None and w_avg_beta is not None

        embed_features = w_dim if embed_features is None else embed_features
        layer_features = w_dim if layer_features is None else layer_features
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        widths = [z_dim + (embed_features if c_dim > 0 else 0)] + [layer_features] * (num_layers - 1) + [w_dim]
        for i in range(num_layers):
            layer = FullyConnectedLayer(widths[i], widths[i + 1], activation=activation, lr_multiplier=lr_multiplier)
            self.add_module(f'fc{i}', layer)
        if self.tracks_w_avg:
            self.register_buffer('w_avg', torch.zeros([w_dim]))

    def forward(
        self,
        z: Tensor | None,                       # [N, z_dim], any dtype; ignored if z_dim is 0.
        c: Tensor | None,                       # [N, c_dim], any dtype; ignored if c_dim is 0.
        truncation_psi: float = 1,              # Distance from w_avg is multiplied by this.
        truncation_cutoff: int | None = None,   # In the first ws only. None = in all.
        skip_w_avg_update: bool = False,        # Leave w_avg alone although in training mode?
    ) -> Tensor:  # [N, num_ws, w_dim] float32, contiguous; [N, w_dim] if num_ws is None.
        """Maps latents and labels to ws."""
        inputs = []
        if self.z_dim > 0:
            misc.assert_shape(z, [None, self.z_dim])
            inputs.append(normalize_2nd_moment(z.float()))
        if self.c_dim > 0:
            misc.assert_shape(c, [None, self.c_dim])
            inputs.append(normalize_2nd_moment(self.embed(c.float())))
        x = torch.cat(inputs, dim=1)
        for i in range(self.num_layers):
            x = getattr(self, f'fc{i}')(x)

        if not skip_w_avg_update:
            self.track(x)
        if self.num_ws is not None:
            x = x[:, None].repeat(1, self.num_ws, 1)
        return x if truncation_psi == 1 else self._truncate(x, truncation_psi, truncation_cutoff)

    def track(self, w: Tensor) -> None:
        """In training mode: moves w_avg towards the mean of w [N, w_dim]."""
        if self.training and self.tracks_w_avg:
            self.w_avg.copy_(misc.finite_or(self.w_avg.lerp(w.detach().mean(dim=0), 1 - self.w_avg_beta), self.w_avg))

    def _truncate(self, ws, psi, cutoff):
        assert self.tracks_w_avg, f'truncation_psi={psi}: this mapping network does not track w_avg'
        truncated = self.w_avg.lerp(ws[:, :cutoff], psi)
        return truncated if cutoff is None else torch.cat([truncated, ws[:, cutoff:]], dim=1)


class _Block(nn.Module):
    """What the blocks of both networks share: an architecture, a low-pass filter,
    and the precision they compute in."""

    def __init__(self, resolution, architecture, resample_filter, use_fp16, fp16_channels_last, reduced_dtype):
        super().__init__()
        check_choice('architecture', architecture, ARCHITECTURES)
        check_choice('reduced_dtype', reduced_dtype, REDUCED_DTYPES)
        self.resolution = resolution
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.reduced_dtype = getattr(torch, reduced_dtype)
        self.channels_last = use_fp16 and fp16_channels_last
        self.register_buffer('resample_filter', upfirdn2d.setup_filter(resample_filter))

    def cast(self, x, force_fp32):
        """x [N, C, H, W] in the dtype and memory format of this block.

        On CPUs that format is always channels-last, in which convolutions are up
        to three times faster than contiguous.
        """
        reduced = self.use_fp16 and not force_fp32
        channels_last = x.device.type == 'cpu' or (reduced and self.channels_last)
        return x.to(dtype=self.reduced_dtype if reduced else torch.float32,
                    memory_format=torch.channels_last if channels_last else torch.contiguous_format)


class SynthesisBlock(_Block):
    """One resolution of the generator: features at twice the resolution of the block before,
    and their image."""

    def __init__(
        self,
        in_channels: int,                       # 0 = first block, which starts from a learned constant.
        out_channels: int,
        w_dim: int,
        resolution: int,                        # Of the output.
        img_channels: int,
        is_last: bool,  # Does the network end here? Then it has a ToRGB layer in any case.
        architecture: str = 'skip',
        resample_filter: Sequence[float] | None = LOW_PASS,
        conv_clamp: float | None = None,        # Layers clamp their output to +-conv_clamp. None = no clamp.
        use_fp16: bool = False,                 # Compute in `reduced_dtype`?
        fp16_channels_last: bool = False,       # Use the channels-last memory format then?
        reduced_dtype: str = 'float16',         # 'float16' or 'bfloat16'.
        **layer_kwargs: Any,                    # Further arguments of SynthesisLayer.
    ):
        super().__init__(resolution, architecture, resample_filter, use_fp16, fp16_channels_last, reduced_dtype)
        self.in_channels = in_channels
        self.w_dim = w_dim
        layer_kwargs = {'conv_clamp': conv_clamp, 'channels_last': self.channels_last, **layer_kwargs}

        if in_channels == 0:
            self.const = nn.Parameter(torch.randn([out_channels, resolution, resolution]))
        else:
            self.conv0 = SynthesisLayer(
                in_channels, out_channels, w_dim, resolution, up=2, resample_filter=resample_filter, **layer_kwargs)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, **layer_kwargs)
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = 1 if is_last or architecture == 'skip' else 0
        if self.num_torgb:
            self.torgb = ToRGBLayer(
                out_channels, img_channels, w_dim, conv_clamp=conv_clamp, channels_last=self.channels_last)
        if in_channels > 0 and architecture == 'resnet':
            self.skip = Conv2dLayer(
                in_channels, out_channels, kernel_size=1, bias=False, up=2, resample_filter=resample_filter,
                channels_last=self.channels_last)

    def forward(
        self,
        x: Tensor | None,  # [N, in_channels, resolution / 2, resolution / 2]; None if first.
        img: Tensor | None,  # [N, img_channels, resolution / 2, resolution / 2] float32, if any.
        ws: Tensor,                             # [N, num_conv + num_torgb, w_dim]
        force_fp32: bool = False,               # Ignore use_fp16?
        # As in modulated_conv2d. None = by mode, precision and batch, below.
        fused_modconv: bool | None = None,
        prepared: Sequence[dict[str, Any]] | None = None,   # Further arguments of each layer.
        **layer_kwargs: Any,                    # Further arguments of SynthesisLayer.forward.
    ) -> tuple[Tensor, Tensor | None]:
        """Returns features [N, out_channels, resolution, resolution] in the block's dtype,
        and the image so far [N, img_channels, resolution, resolution] float32, or None.
        """
        misc.assert_shape(ws, [None, self.num_conv + self.num_torgb, self.w_dim])
        w = iter(ws.unbind(dim=1))
        own = iter(prepared or [{}] * ws.shape[1])
        if self.in_channels == 0:
            x = self.const.expand(ws.shape[0], -1, -1, -1)
        else:
            misc.assert_shape(x, [None, self.in_channels, self.resolution // 2, self.resolution // 2])
        x = self.cast(x, force_fp32)
        if fused_modconv is None:
            # On a CPU one grouped convolution of many groups is about three times slower than scaling
            # activations.
            fused_modconv = not self.training and x.device.type != 'cpu' and (x.dtype == torch.float32 or len(x) == 1)
        layer_kwargs['fused_modconv'] = fused_modconv

        if self.in_channels == 0:
            x = self.conv1(x, next(w), **next(own), **layer_kwargs)
        elif self.architecture == 'resnet':
            shortcut = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x, next(w), **next(own), **layer_kwargs)
            x = shortcut + self.conv1(x, next(w), gain=math.sqrt(0.5), **next(own), **layer_kwargs)
        else:
            x = self.conv0(x, next(w), **next(own), **layer_kwargs)
            x = self.conv1(x, next(w), **next(own), **layer_kwargs)

        if img is not None:
            img = upfirdn2d.upsample2d(img, self.resample_filter)
        if self.num_torgb:
            y = self.torgb(x, next(w), fused_modconv=fused_modconv, **next(own))
            y = y.to(dtype=torch.float32, memory_format=torch.contiguous_format)
            img = y if img is None else img + y
        return x, img


class SynthesisNetwork(nn.Module):
    """Intermediate latents to images, block by block from 4x4 upwards.

    A ToRGB layer shares its w with the first convolution of the next block,
    hence num_ws = 2 log2(img_resolution) - 2. Raises ValueError for an img_resolution that is not a power of
    two of at least 4.
    """

    def __init__(
        self,
        w_dim: int,
        img_resolution: int,
        img_channels: int,
        channel_base: int = 32768,              # Channels at resolution r: channel_base / r,
        channel_max: int = 512,                 # but not more than this.
        num_fp16_res: int = 0,                  # Number of highest resolutions in reduced precision.
        **block_kwargs: Any,                    # Further arguments of SynthesisBlock.
    ):
        super().__init__()
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.block_resolutions = _resolutions(img_resolution, lowest=4)
        self.channels = _channels(self.block_resolutions, channel_base, channel_max)
        self.num_ws = 0
        for res in self.block_resolutions:
            block = SynthesisBlock(
                self.channels.get(res // 2, 0), self.channels[res], w_dim, res, img_channels,
                is_last=(res == img_resolution), use_fp16=_is_reduced(res, img_resolution, num_fp16_res),
                **block_kwargs)
            self.add_module(f'b{res}', block)
            self.num_ws += block.num_conv
        self.num_ws += block.num_torgb

    def forward(
        self,
        ws: Tensor,                             # [N, num_ws, w_dim]
        return_feats: Collection[int] = (),     # Resolutions whose feature maps are wanted.
        **block_kwargs: Any,                    # force_fp32, fused_modconv, noise_mode, noise_generator.
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Returns img [N, img_channels, img_resolution, img_resolution] float32, or (img, feats)
        with `return_feats`.

        feats is {resolution: [N, channels[resolution], resolution, resolution] float32}:
        what the block of that resolution hands to its ToRGB layer and to the next block.
        """
        misc.assert_shape(ws, [None, self.num_ws, self.w_dim])
        for res in return_feats:
            check_choice('return_feats', res, self.block_resolutions)
        ws = ws.float()
        x = img = None
        feats = {}
        first_w = 0
        # A GPU takes as long for a call as for a layer.
        prepared = self.prepared(ws, **block_kwargs) if ws.is_cuda and not is_compiling() else {}
        for res in self.block_resolutions:
            block = getattr(self, f'b{res}')
            block_ws = ws[:, first_w : first_w + block.num_conv + block.num_torgb]
            x, img = block(x, img, block_ws, prepared=prepared.get(res), **block_kwargs)
            first_w += block.num_conv
            if res in return_feats:
                feats[res] = x.float()
        return (img, feats) if return_feats else img

    def prepared(self, ws, force_fp32=False, fused_modconv=None, noise_mode='random', noise_generator=None):
        """{resolution: further arguments of each of the block's layers}: styles, noise, and in training what weights
        become, of all layers in few calls."""
        styles_of = self.styles_of(ws)
        found = {res: [{} for _ in styles] for res, styles in styles_of.items()}
        convs, rgbs = [], []                # (layer, its styles, its type, its arguments)
        for res, arguments in found.items():
            block = getattr(self, f'b{res}')
            dtype = block.reduced_dtype if block.use_fp16 and not force_fp32 else torch.float32
            names = [name for name in ('conv0', 'conv1', 'torgb') if hasattr(block, name)]
            for name, style, own in zip(names, styles_of[res], arguments):
                (rgbs if name == 'torgb' else convs).append((getattr(block, name), style, dtype, own))
        *of_rgbs, owns = zip(*rgbs)
        for own, matrices in zip(owns, matrices_of(*of_rgbs)):
            own['matrices'] = matrices
        layers, styles, dtypes, owns = zip(*convs)
        for own, style in zip(owns, styles):
            own['styles'] = style
        if self.training and not fused_modconv:
            weights = [layer.weight for layer in layers]
            for own, modulation in zip(owns, modulations(weights, styles, dtypes, EPS)):
                own['modulation'] = modulation
        if noise_mode == 'random' and layers[0].use_noise:
            shapes = [[len(ws), 1, layer.resolution, layer.resolution] for layer in layers]
            sizes = [*map(math.prod, shapes)]
            drawn = torch.randn([sum(sizes)], device=ws.device, generator=noise_generator)
            for own, shape, noise in zip(owns, shapes, drawn.split(sizes)):
                own['noise'] = noise.view(shape)
        return found

    def styles_of(self, ws):
        """{resolution: styles of the block's layers}, from few products."""
        w, first_w, layers, inputs = ws.unbind(dim=1), 0, {}, []
        for res in self.block_resolutions:
            block = getattr(self, f'b{res}')
            layers[res] = [getattr(block, name) for name in ('conv0', 'conv1', 'torgb') if hasattr(block, name)]
            inputs += w[first_w : first_w + len(layers[res])]
            first_w += block.num_conv
        styles = iter(together([layer.affine for group in layers.values() for layer in group], inputs))
        return {res: [next(styles) for _ in group] for res, group in layers.items()}


class Generator(nn.Module):
    """Latents and labels to images. `init_kwargs` holds the constructor's arguments as plain data."""

    def __init__(
        self,
        z_dim: int,
        c_dim: int,                             # 0 = unconditional.
        w_dim: int,
        img_resolution: int,                    # Power of two, at least 4.
        img_channels: int,
        mapping_kwargs: Mapping[str, Any] = {},     # Further arguments of MappingNetwork.
        synthesis_kwargs: Mapping[str, Any] = {},   # Further arguments of SynthesisNetwork.
    ):
        super().__init__()
        self.init_kwargs = _arguments(locals())
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **synthesis_kwargs)
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **mapping_kwargs)

    def forward(
        self,
        z: Tensor,                              # [N, z_dim]
        c: Tensor | None,                       # [N, c_dim]; ignored if c_dim is 0.
        truncation_psi: float = 1,              # As in MappingNetwork.forward.
        truncation_cutoff: int | None = None,
        **synthesis_kwargs: Any,                # As in SynthesisNetwork.forward.
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Returns what SynthesisNetwork.forward returns: images, with feature maps if asked for."""
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)


# ----------------------------------------------------------------------------
# Discriminator.


class DiscriminatorBlock(_Block):
    """One resolution of the discriminator: two convolutions, the second of which halves the resolution."""

    def __init__(
        self,
        in_channels: int,  # 0 = first block, which sees the image only; else tmp_channels.
        tmp_channels: int,                      # Between the two convolutions.
        out_channels: int,
        resolution: int,                        # Of the input.
        img_channels: int,
        first_layer_idx: int,                   # Number of layers in the blocks before this one.
        architecture: str = 'resnet',
        activation: str = 'lrelu',
        resample_filter: Sequence[float] | None = LOW_PASS,
        conv_clamp: float | None = None,        # Layers clamp their output to +-conv_clamp. None = no clamp.
        use_fp16: bool = False,                 # Compute in `reduced_dtype`?
        fp16_channels_last: bool = False,       # Use the channels-last memory format then?
        freeze_layers: int = 0,  # This many first layers of the network hold buffers, not parameters.
        reduced_dtype: str = 'float16',         # 'float16' or 'bfloat16'.
    ):
        super().__init__(resolution, architecture, resample_filter, use_fp16, fp16_channels_last, reduced_dtype)
        assert in_channels in (0, tmp_channels), f'in_channels={in_channels}, expected 0 or {tmp_channels}'
        self.in_channels = in_channels
        self.img_channels = img_channels
        self.num_layers = 0

        def conv(*args, **kwargs):
            trainable = first_layer_idx + self.num_layers >= freeze_layers
            self.num_layers += 1
            return Conv2dLayer(*args, trainable=trainable, channels_last=self.channels_last, **kwargs)

        active = {'activation': activation, 'conv_clamp': conv_clamp}
        halving = {'down': 2, 'resample_filter': resample_filter}
        if in_channels == 0 or architecture == 'skip':
            self.fromrgb = conv(img_channels, tmp_channels, kernel_size=1, **active)
        self.conv0 = conv(tmp_channels, tmp_channels, kernel_size=3, **active)
        self.conv1 = conv(tmp_channels, out_channels, kernel_size=3, **active, **halving)
        if architecture == 'resnet':
            self.skip = conv(tmp_channels, out_channels, kernel_size=1, bias=False, **halving)

    def forward(
        self,
        x: Tensor | None,                       # [N, in_channels, resolution, resolution]; None if first.
        img: Tensor | None,  # [N, img_channels, resolution, resolution], if this block needs it.
        force_fp32: bool = False,               # Ignore use_fp16?
    ) -> tuple[Tensor, Tensor | None]:
        """Returns features [N, out_channels, resolution / 2, resolution / 2] in the block's dtype,
        and for `skip` the image at that resolution, else None.
        """
        if x is not None:
            misc.assert_shape(x, [None, self.in_channels, self.resolution, self.resolution])
            x = self.cast(x, force_fp32)
        if self.in_channels == 0 or self.architecture == 'skip':
            misc.assert_shape(img, [None, self.img_channels, self.resolution, self.resolution])
            img = self.cast(img, force_fp32)
            y = self.fromrgb(img)
            x = y if x is None else x + y
            img = upfirdn2d.downsample2d(img, self.resample_filter) if self.architecture == 'skip' else None

        if self.architecture == 'resnet':
            x, shortcut = self.skip.beside(x, gain=math.sqrt(0.5))
            x = self.conv0.convolved(x)
            return self.conv1(x, gain=math.sqrt(0.5), before=self.conv0, base=shortcut), img
        return self.conv1(self.conv0.convolved(x), before=self.conv0), img


class DiscriminatorEpilogue(nn.Module):
    """Features at the lowest resolution to logits, in float32.

    With labels, the logit is the projection of the features onto the mapped label [Miyato & Koyama 2018,
    arXiv:1802.05637].
    """

    def __init__(
        self,
        in_channels: int,
        cmap_dim: int,                          # Width of the mapped label. 0 = unconditional.
        resolution: int,
        img_channels: int,
        architecture: str = 'resnet',
        mbstd_group_size: int | None = 4,       # As in MinibatchStdLayer.
        mbstd_num_channels: int = 1,            # Likewise; 0 = no such layer.
        activation: str = 'lrelu',
        # The convolution's output is clamped to +-conv_clamp. None = no clamp.
        conv_clamp: float | None = None,
    ):
        super().__init__()
        check_choice('architecture', architecture, ARCHITECTURES)
        self.in_channels = in_channels
        self.cmap_dim = cmap_dim
        self.resolution = resolution
        self.img_channels = img_channels
        self.architecture = architecture
        if architecture == 'skip':
            self.fromrgb = Conv2dLayer(img_channels, in_channels, kernel_size=1, activation=activation)
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels > 0 else None
        self.conv = Conv2dLayer(
            in_channels + mbstd_num_channels, in_channels, kernel_size=3, activation=activation, conv_clamp=conv_clamp)
        self.fc = FullyConnectedLayer(in_channels * resolution ** 2, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1)

    def forward(
        self,
        x: Tensor,                              # [N, in_channels, resolution, resolution]
        img: Tensor | None,  # [N, img_channels, resolution, resolution]; only used by `skip`.
        cmap: Tensor | None,                    # [N, cmap_dim]; only used with labels.
        force_fp32: bool = False,               # Accepted as by the blocks; the epilogue is always float32.
        num_batches: int = 1,                   # As in MinibatchStdLayer.forward.
    ) -> Tensor:                                # [N, 1] float32
        """Returns the logits."""
        misc.assert_shape(x, [None, self.in_channels, self.resolution, self.resolution])
        x = x.to(dtype=torch.float32, memory_format=torch.contiguous_format)
        if self.architecture == 'skip':
            misc.assert_shape(img, [None, self.img_channels, self.resolution, self.resolution])
            x = x + self.fromrgb(img.to(dtype=torch.float32, memory_format=torch.contiguous_format))
        if self.mbstd is not None:
            x = self.mbstd(x, num_batches)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        if self.cmap_dim > 0:
            misc.assert_shape(cmap, [None, self.cmap_dim])
            x = (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
        return x


class Discriminator(nn.Module):
    """Images and labels to logits, block by block down to 4x4.
    `init_kwargs` holds the constructor's arguments.

    Raises ValueError for an img_resolution that is not a power of two of at least 8.
    """
    takes_batches = True

    def __init__(
        self,
        c_dim: int,                             # 0 = unconditional.
        img_resolution: int,                    # Power of two, at least 8.
        img_channels: int,
        architecture: str = 'resnet',
        channel_base: int = 32768,              # Channels at resolution r: channel_base / r,
        channel_max: int = 512,                 # but not more than this.
        num_fp16_res: int = 0,                  # Number of highest resolutions in reduced precision.
        conv_clamp: float | None = None,        # Layers clamp their output to +-conv_clamp. None = no clamp.
        cmap_dim: int | None = None,            # Width of the mapped label. None = channels at 4x4.
        block_kwargs: Mapping[str, Any] = {},       # Further arguments of DiscriminatorBlock.
        mapping_kwargs: Mapping[str, Any] = {},     # Further arguments of MappingNetwork.
        epilogue_kwargs: Mapping[str, Any] = {},    # Further arguments of DiscriminatorEpilogue.
        reduced_dtype: str = 'float16',         # 'float16' or 'bfloat16'.
    ):
        super().__init__()
        self.init_kwargs = _arguments(locals())
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.block_resolutions = _resolutions(img_resolution, lowest=8)[::-1]
        self.channels = _channels([*self.block_resolutions, 4], channel_base, channel_max)
        if c_dim == 0:
            cmap_dim = 0
        elif cmap_dim is None:
            cmap_dim = self.channels[4]

        common = {'img_channels': img_channels, 'architecture': architecture, 'conv_clamp': conv_clamp}
        num_layers = 0
        for res in self.block_resolutions:
            block = DiscriminatorBlock(
                self.channels[res] if res < img_resolution else 0, self.channels[res], self.channels[res // 2], res,
                first_layer_idx=num_layers, use_fp16=_is_reduced(res, img_resolution, num_fp16_res),
                reduced_dtype=reduced_dtype, **common, **block_kwargs)
            self.add_module(f'b{res}', block)
            num_layers += block.num_layers
        if c_dim > 0:
            self.mapping = MappingNetwork(
                z_dim=0, c_dim=c_dim, w_dim=cmap_dim, num_ws=None, w_avg_beta=None, **mapping_kwargs)
        self.b4 = DiscriminatorEpilogue(self.channels[4], cmap_dim, resolution=4, **common, **epilogue_kwargs)

    def forward(
        self,
        img: Tensor,                            # [N, img_channels, img_resolution, img_resolution]
        c: Tensor | None,                       # [N, c_dim]; ignored if c_dim is 0.
        return_feats: bool = False,             # Are feature maps wanted?
        num_batches: int = 1,                   # img is so many batches, each with statistics of its own.
        **block_kwargs: Any,                    # force_fp32.
    ) -> Tensor | tuple[Tensor, dict[int, Tensor]]:
        """Returns logits [N, 1] float32, or (logits, feats) with `return_feats`.

        feats is {resolution: [N, channels[resolution], resolution,
        resolution]} for resolutions from half the image's down to 4: the outputs of the blocks,
        in their dtype.
        """
        x = None
        feats = {}
        for res in self.block_resolutions:
            x, img = getattr(self, f'b{res}')(x, img, **block_kwargs)
            if return_feats:
                feats[res // 2] = x
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        logits = self.b4(x, img, cmap, num_batches=num_batches)
        return (logits, feats) if return_feats else logits


# ----------------------------------------------------------------------------
# Shared by both networks.


def _arguments(variables):
    """A copy of a constructor's arguments, given its locals() before any other is set."""
    return {name: copy.deepcopy(value) for name, value in variables.items() if name not in ('self', '__class__')}


def _resolutions(img_resolution, lowest):
    """Resolutions from `lowest` to the image's."""
    if img_resolution < lowest or img_resolution & (img_resolution - 1):
        raise ValueError(f'img_resolution={img_resolution}: must be a power of two, at least {lowest}')
    return [2 ** i for i in range(lowest.bit_length() - 1, img_resolution.bit_length())]


def _channels(resolutions, channel_base, channel_max):
    """{resolution: number of channels}."""
    channels = {res: min(channel_base // res, channel_max) for res in resolutions}
    for res, num_channels in channels.items():
        if num_channels < 1:
            raise ValueError(f'channel_base={channel_base}, channel_max={channel_max}: no channels at {res}x{res}')
    return channels


def _is_reduced(res, img_resolution, num_fp16_res):
    """Is `res` among the `num_fp16_res` highest resolutions? 4x4 never is."""
    return res >= max(2 * img_resolution // 2 ** num_fp16_res, 8)
