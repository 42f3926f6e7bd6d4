"""Layers of the StyleGAN2 networks: equalised learning rate, modulated convolution, minibatch statistics.

Sources: equalised learning rate and minibatch deviation [Karras et al. 2018, arXiv:1710.10196];
styles and noise [Karras et al. 2019, arXiv:1812.04948]; modulation and demodulation [Karras et al. 2020,
arXiv:1912.04958, section 2.2]; clamped float16 activations [Karras et al. 2020, arXiv:2006.06676,
appendix D].

All parameters are float32. A layer computes in the dtype of its input; only styles,
demodulation and noise are formed in float32 and cast when they meet the activations.
"""
import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_compiling

from torch_utils import misc
from torch_utils.ops import bias_act, conv2d_resample, upfirdn2d
from torch_utils.ops.scale_bias_act import scale_bias_act
from training.modulation import Modulation, demodulation, prenormalize

EPS = 1e-8  # Inside every root: second moment, demodulation, minibatch deviation.
LOW_PASS = (1, 3, 3, 1)  # Taps of the filter that goes with every change of resolution.
NOISE_MODES = ('random', 'const', 'none')


def check_choice(name: str, value: object, choices: Iterable) -> None:
    """Raises ValueError unless `value` is one of `choices`; `name` is the option as the user knows it."""
    if value not in choices:
        raise ValueError(f'{name}={value}: must be one of {", ".join(map(str, choices))}')


def normalize_2nd_moment(x: Tensor, dim: int = 1, eps: float = EPS) -> Tensor:
    """x, any shape, scaled so that the mean of its squares along `dim` is 1."""
    return x * (x.square().mean(dim=dim, keepdim=True) + eps).rsqrt()


# ----------------------------------------------------------------------------
# Modulated convolution.


def modulated_conv2d(
    x: Tensor,                          # [N, I, H, W]
    weight: Tensor,                     # [O, I, kh, kw], shared by all samples.
    styles: Tensor,                     # [N, I]: factor of every input channel.
    noise: Tensor | None = None,        # [N, 1, H', W'] or [H', W'], added to the result.
    up: int = 1,
    down: int = 1,
    padding: int = 0,                   # At the upsampled resolution.
    resample_filter: Tensor | None = None,  # Low-pass filter of setup_filter() for up and down.
    demodulate: bool = True,            # Scale every output channel's kernel to unit length?
    flip_weight: bool = True,           # True: correlation, as in stock convolutions. False: convolution.
    fused_modconv: bool = True,         # True: modulate the weights. False: modulate the activations.
) -> Tensor:                            # [N, O, H', W'] in the dtype of x.
    """Convolves every sample with its own kernel, modulated by its style [arXiv:1912.04958,
    equations 1 and 3].

        w'[n,o,i,k] = styles[n,i] * weight[o,i,k]
        d[n,o]      = 1 / sqrt(sum over i,k of w'[n,o,i,k]^2 + 1e-8)    or 1 without `demodulate`
        y[n]        = x[n] * (d[n] * w'[n]) + noise

    Both evaluations agree to rounding and have derivatives of any order.
    The fused one runs a single convolution with N groups;
    the other scales the activations before and after a plain convolution.
    """
    x, scale, fir = convolve_modulated(
        x, weight, styles, up=up, down=down, padding=padding, resample_filter=resample_filter, demodulate=demodulate,
        flip_weight=flip_weight, fused_modconv=fused_modconv)
    if scale is None:
        return x if noise is None else x + noise.to(x.dtype)
    return scale_bias_act(x, scale, noise, fir=fir)


def convolve_modulated(
    x: Tensor, weight: Tensor, styles: Tensor, *, up: int, padding: int, resample_filter: Tensor | None, down: int = 1,
    demodulate: bool = True, flip_weight: bool, fused_modconv: bool, modulation: Modulation | None = None,
) -> tuple[Tensor, Tensor | None, dict | None]:
    """`modulated_conv2d` without noise; the factors [N, O] that its channels still need, or None; and, where there
    are such, the arguments of `upfirdn2d` for the filter that it needs before them, or None.

    `modulation`: what weight and styles become, if that is known already.
    """
    if modulation is not None:
        styles, demod, kernel = modulation
        weight = weight if kernel is None else kernel
    else:
        if demodulate and x.dtype == torch.float16:
            weight, styles = prenormalize(weight, styles)
        demod = demodulation(weight, styles, EPS) if demodulate else None

    # A 1x1 convolution is a matrix product per pixel. With one matrix per sample there is no modulated copy
    # of x to be made, and none to be kept for the backward pass.
    is_pointwise = weight.shape[2:] == (1, 1) and up == down == 1 and padding == 0
    if is_pointwise:
        return _mix_channels(x, _sample_weights(weight, styles, demod, x.dtype).flatten(2)), None, None

    resample = {'f': resample_filter, 'up': up, 'down': down, 'padding': padding, 'flip_weight': flip_weight}
    if fused_modconv:
        w = _sample_weights(weight, styles, demod, x.dtype)                          # [N, O, I, kh, kw]
        x = conv2d_resample.conv2d_resample(x.reshape(1, -1, *x.shape[2:]), w.flatten(0, 1), groups=len(w), **resample)
        return x.reshape(len(w), -1, *x.shape[2:]), None, None

    x = scale_bias_act(x, styles)
    if up > 1 and down == 1 and demod is not None:
        x, fir = conv2d_resample.conv2d_unfiltered(
            x, _kernel(weight, x), resample_filter, up, padding, flip_weight=flip_weight)
        return x, demod, fir
    return conv2d_resample.conv2d_resample(x, _kernel(weight, x), **resample), demod, None


def _mix_channels(x, matrices):
    """matrices[n] @ x[n] at every pixel: [N, I, H, W] and [N, O, I] -> [N, O, H,
    W] in the memory format of x."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return (x.permute(0, 2, 3, 1).flatten(1, 2) @ matrices.mT).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
    return (matrices @ x.flatten(2)).unflatten(2, x.shape[2:])


def _sample_weights(weight, styles, demod, dtype):
    """Kernel of every sample, [N, O, I, kh, kw]."""
    scale = styles[:, None] if demod is None else styles[:, None] * demod[:, :, None]  # [N, 1 or O, I]
    return (weight * scale[..., None, None]).to(dtype)


# ----------------------------------------------------------------------------
# Plain layers.


class FullyConnectedLayer(nn.Module):
    """y = activation(x @ weight.T * lr_multiplier / sqrt(in_features) + bias * lr_multiplier),
    x [N, in_features]."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = 'linear',     # As in bias_act; its default gain applies.
        lr_multiplier: float = 1,       # Learning-rate multiplier: parameters are stored this much larger.
        bias_init: float = 0,           # Initial value of the stored bias.
    ):
        super().__init__()
        check_activation(activation)
        self.activation = activation
        self.weight = nn.Parameter(torch.randn([out_features, in_features]) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_features] -> [N, out_features]."""
        weight = self.weight.to(x.dtype)
        bias = self.bias
        if bias is not None:
            bias = bias.to(x.dtype)
            if self.bias_gain != 1:
                bias = bias * self.bias_gain
        x = x * self.weight_gain        # Rather than the weight: a batch is smaller.
        if self.activation == 'linear':
            return F.linear(x, weight, bias)
        return bias_act.bias_act(F.linear(x, weight), bias, act=self.activation)


def together(layers: Sequence[FullyConnectedLayer], inputs: Sequence[Tensor]) -> list[Tensor]:
    """What each linear layer makes of its input [N, in_features]; layers of the same shape by one batched product.

    Equal to calling them one by one but for rounding. GPUs take as long for a call as for a layer.
    """
    groups: dict = {}
    for i, layer in enumerate(layers):
        assert layer.activation == 'linear' and layer.bias_gain == 1, 'only plain linear layers'
        groups.setdefault((layer.weight.shape, layer.weight_gain), []).append(i)
    outputs = {}
    for (_, gain), group in groups.items():
        weights, biases = (torch.stack([getattr(layers[i], name) for i in group]) for name in ('weight', 'bias'))
        y = torch.baddbmm(biases[:, None], torch.stack([inputs[i] for i in group]), weights.mT, alpha=gain)
        outputs.update(zip(group, y.unbind()))
    return [outputs[i] for i in range(len(layers))]


class Conv2dLayer(nn.Module):
    """Convolution with optional resampling, bias, activation and clamp.

    The weight is scaled by 1 / sqrt(fan-in) in every call. Layers that upsample are true convolutions,
    all others correlations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activation: str = 'linear',
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] | None = LOW_PASS,
        conv_clamp: float | None = None,    # Output is clamped to +-conv_clamp. None = no clamp.
        channels_last: bool = False,        # Memory format of the weight.
        trainable: bool = True,             # False: weight and bias are buffers.
    ):
        super().__init__()
        check_activation(activation)
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size ** 2)
        self.register_buffer('resample_filter', upfirdn2d.setup_filter(resample_filter))

        weight = _draw_weight(out_channels, in_channels, kernel_size, channels_last)
        bias = torch.zeros([out_channels]) if bias else None
        if trainable:
            self.weight = nn.Parameter(weight)
            self.bias = nn.Parameter(bias) if bias is not None else None
        else:
            self.register_buffer('weight', weight)
            self.register_buffer('bias', bias)

    def forward(
        self,
        x: Tensor,                          # [N, in_channels, H, W]
        gain: float = 1,                    # Scales output and clamp.
        before: 'Conv2dLayer | None' = None,    # A layer that x has been convolved by, and not yet activated.
        base: Tensor | None = None,         # Added to the result.
    ) -> Tensor:                            # [N, out_channels, H * up / down, W * up / down]
        """Applies the layer."""
        x = self.convolved(x, gain, before)
        if self._is_plain():
            return x if base is None else base + x
        return bias_act.bias_act(x, base=base, **self._activation(gain))

    def convolved(self, x: Tensor, gain: float = 1, before: 'Conv2dLayer | None' = None) -> Tensor:
        """`forward` but for what follows the convolution."""
        return conv2d_resample.conv2d_resample(
            x, self._scaled(x, gain), f=self.resample_filter, up=self.up, down=self.down, padding=self.padding,
            flip_weight=(self.up == 1), before=None if before is None else before._activation(1))

    def beside(self, x: Tensor, gain: float = 1) -> tuple[Tensor, Tensor]:
        """x itself, for what else it is needed, and `forward` of it; for a plain layer of one pixel that halves."""
        assert self._is_plain() and self.weight.shape[2:] == (1, 1) and self.up == 1, 'only plain, of one pixel'
        return conv2d_resample.conv2d_beside(x, self._scaled(x, gain), self.resample_filter, self.down)

    def _is_plain(self):
        return self.bias is None and self.activation == 'linear' and self.conv_clamp is None

    def _scaled(self, x, gain):
        """The kernel for x. Of a plain layer the gain joins it, which saves a pass over the output."""
        return _kernel(self.weight, x, self.weight_gain * gain if self._is_plain() else self.weight_gain)

    def _activation(self, gain):
        """Arguments of `bias_act`."""
        return {'b': self.bias, **_options(self.activation, gain, self.conv_clamp)}


class MinibatchStdLayer(nn.Module):
    """Appends how much the samples of a group differ, as constant feature maps [arXiv:1710.10196,
    section 3]."""

    def __init__(
        self,
        group_size: int | None,         # Samples per group, at most the batch. None = the whole batch.
        num_channels: int = 1,          # Number of appended maps, one per slice of the input channels.
    ):
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: Tensor, num_batches: int = 1) -> Tensor:
        """[N, C, H, W] -> [N, C + num_channels, H, W]; sample n belongs to group n mod (N / group size).

        x may be several batches of one size, one after the other, which have nothing to do with each other.
        Raises ValueError if the batch does not divide into groups or C into slices.
        """
        N, C, H, W = x.shape
        N //= num_batches
        group_size = N if self.group_size is None else min(self.group_size, N)
        if N % group_size or C % self.num_channels:
            raise ValueError(
                f'minibatch deviation: {N} samples and {C} channels do not divide into groups of {group_size} samples '
                f'and {self.num_channels} slices of channels')
        y = x.unflatten(0, [num_batches, group_size, -1]).transpose(0, 1).flatten(1, 2)
        y = y.unflatten(2, [self.num_channels, -1])
        y = y - y.mean(dim=0)                               # Faster on CPUs than var().
        y = (y.square().mean(dim=0) + EPS).sqrt()           # [groups, slices, C / slices, H, W]
        y = y.mean(dim=[2, 3, 4])                           # [groups, slices]
        y = y.unflatten(0, [num_batches, 1, -1]).expand(-1, group_size, -1, -1).flatten(0, 2)   # [samples, slices]
        return torch.cat([x, y[:, :, None, None].expand(-1, -1, H, W)], dim=1)


# ----------------------------------------------------------------------------
# Layers with a style.


class SynthesisLayer(nn.Module):
    """Modulated convolution with noise, bias, activation and clamp [arXiv:1912.04958, figure 2d]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,                    # Of the output; the input's is resolution / up.
        kernel_size: int = 3,
        up: int = 1,
        use_noise: bool = True,
        activation: str = 'lrelu',
        resample_filter: Sequence[float] | None = LOW_PASS,
        conv_clamp: float | None = None,    # Output is clamped to +-conv_clamp. None = no clamp.
        channels_last: bool = False,        # Memory format of the weight.
    ):
        super().__init__()
        check_activation(activation)
        self.resolution = resolution
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.register_buffer('resample_filter', upfirdn2d.setup_filter(resample_filter))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(_draw_weight(out_channels, in_channels, kernel_size, channels_last))
        if use_noise:
            self.register_buffer('noise_const', torch.randn([resolution, resolution]))
            self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros([out_channels]))

    def forward(
        self,
        x: Tensor,                          # [N, in_channels, resolution / up, resolution / up]
        w: Tensor,                          # [N, w_dim]
        noise_mode: str = 'random',         # 'random': fresh in every call, 'const': the layer's own, 'none'.
        fused_modconv: bool = True,         # As in modulated_conv2d.
        gain: float = 1,                    # Scales output and clamp.
        noise_generator: torch.Generator | None = None,     # Of 'random'. None = the default of x's device.
        styles: Tensor | None = None,       # affine(w), where that is known already.
        noise: Tensor | None = None,        # [N, 1, resolution, resolution] of 'random', where it is drawn already.
        modulation: Modulation | None = None,   # Of the weight, where it is known already; not fused.
    ) -> Tensor:                            # [N, out_channels, resolution, resolution]
        """Applies the layer in the style w."""
        noise = self._noise(x, noise_mode, noise_generator) if noise is None else noise
        styles = styles if modulation or styles is not None else self.affine(w)
        x, scale, fir = convolve_modulated(
            x, self.weight, styles, up=self.up, padding=self.padding, resample_filter=self.resample_filter,
            flip_weight=(self.up == 1), fused_modconv=fused_modconv, modulation=modulation)
        strength = None if noise is None else self.noise_strength
        return _activate(x, self.bias, self.activation, gain, self.conv_clamp, scale, noise, strength, fir)

    def _noise(self, x, mode, generator):
        """[N, 1, resolution, resolution] or [resolution, resolution] float32, without its strength, or None."""
        check_choice('noise_mode', mode, NOISE_MODES)
        if not self.use_noise or mode == 'none':
            return None
        if mode == 'const':
            return self.noise_const
        shape = [x.shape[0], 1, self.resolution, self.resolution]
        return torch.randn(shape, device=x.device, generator=generator)


class ToRGBLayer(nn.Module):
    """Feature map to image: modulated convolution without demodulation, with bias and clamp."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        kernel_size: int = 1,
        conv_clamp: float | None = None,    # Output is clamped to +-conv_clamp. None = no clamp.
        channels_last: bool = False,        # Memory format of the weight.
    ):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(_draw_weight(out_channels, in_channels, kernel_size, channels_last))
        self.bias = nn.Parameter(torch.zeros([out_channels]))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size ** 2)

    def forward(self, x: Tensor, w: Tensor, fused_modconv: bool = True, matrices: Tensor | None = None) -> Tensor:
        """x [N, in_channels, H, W] in the style w [N, w_dim] -> [N, out_channels, H, W].

        `matrices`: its own of `matrices_of`, if they are known already.
        """
        if matrices is None:
            styles = self.affine(w) * self.weight_gain
            x = modulated_conv2d(x, self.weight, styles, demodulate=False, fused_modconv=fused_modconv)
        else:
            x = _mix_channels(x, matrices)
        return _activate(x, self.bias, 'linear', 1, self.conv_clamp)


# ----------------------------------------------------------------------------
# Shared by the layers.


def check_activation(activation: str) -> None:
    """Raises ValueError unless bias_act knows the activation."""
    check_choice('activation', activation, bias_act.activation_funcs)


def _draw_weight(out_channels, in_channels, kernel_size, channels_last):
    weight = torch.randn([out_channels, in_channels, kernel_size, kernel_size])
    return weight.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _kernel(weight, x, gain=1):
    """The weight times `gain` in the dtype and memory format of x,
    so that no convolution in any derivative has to convert it."""
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if is_last else torch.contiguous_format
    if gain == 1 or is_compiling():     # A compiler makes one pass of it anyway.
        return (weight if gain == 1 else weight * gain).to(dtype=x.dtype, memory_format=memory_format)
    return _Scaled.apply(weight, misc.constant([gain], dtype=weight.dtype, device=weight.device), x.dtype, memory_format)


class _Scaled(torch.autograd.Function):
    """A tensor times one number, rounded to another type, in one pass; and its gradient, likewise."""
    @staticmethod
    def forward(ctx, tensor, factor, dtype, memory_format):
        ctx.save_for_backward(factor)
        out = torch.empty(tensor.shape, dtype=dtype, device=tensor.device, memory_format=memory_format)
        return torch.mul(tensor, factor, out=out)

    @staticmethod
    def backward(ctx, grad):
        factor, = ctx.saved_tensors
        return grad * factor, None, None, None     # In the type of `factor`, which has an axis.


def _activate(x, bias, activation, gain, clamp, scale=None, noise=None, strength=None, fir=None):
    """Bias, activation with its own gain times `gain`, clamp scaled by `gain`; before that, scale [N, C] and noise,
    and first of all a filter where there is such a scale.
    """
    options = _options(activation, gain, clamp)
    if scale is None:
        x = x if noise is None else x + (noise * strength).to(x.dtype)
        return bias_act.bias_act(x, bias, **options)
    return scale_bias_act(x, scale, noise, bias, strength=strength, fir=fir, **options)


def _options(activation, gain, clamp):
    """Those of `bias_act` for an activation whose own gain, and clamp, are scaled by `gain`."""
    return {'act': activation, 'gain': bias_act.activation_funcs[activation].def_gain * gain,
            'clamp': None if clamp is None else clamp * gain}
