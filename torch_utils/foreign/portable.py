"""The StyleGAN2 networks in one file that needs nothing but torch 1.7 or later: the source in files for the reference.

Programs that read reference snapshots execute the source text that the file brings along. This is that text; it has the
tensors, names and results of `training/networks.py`, in the plainest form and without its speed or its checks. Attributes
that other programs look at have the names that they have in the reference, whether this file needs them or not.

Licensed under the Apache License, Version 2.0.
"""
import math

import torch
import torch.nn.functional as F

LOW_PASS = (1, 3, 3, 1)
ACTIVATIONS = {         # name: (function, gain)
    'linear': (lambda x: x, 1),
    'relu': (F.relu, math.sqrt(2)),
    'lrelu': (lambda x: F.leaky_relu(x, 0.2), math.sqrt(2)),
    'tanh': (torch.tanh, 1),
    'sigmoid': (torch.sigmoid, 1),
    'elu': (F.elu, 1),
    'selu': (F.selu, 1),
    'softplus': (F.softplus, 1),
    'swish': (lambda x: x * torch.sigmoid(x), math.sqrt(2)),
}


# Operations. All of them act alike on both axes of an image.

def setup_filter(taps):
    f = torch.tensor(1 if taps is None else taps, dtype=torch.float32)
    f = f.reshape(1) if f.ndim == 0 else f
    if f.ndim == 1 and len(f) < 8:
        f = f[:, None] * f[None, :]
    return f / f.sum()


def upfirdn2d(x, f, up=1, down=1, before=0, after=0, gain=1):
    """Zero-stuffs by `up`, pads, convolves with f [t, t] or, separably, [t], and keeps every `down`-th pixel."""
    N, C, H, W = x.shape
    x = F.pad(x.reshape(N, C, H, 1, W, 1), [0, up - 1, 0, 0, 0, up - 1]).reshape(N, C, H * up, W * up)
    x = F.pad(x, [before, after, before, after])
    f = (f * gain ** (f.ndim / 2)).to(x.dtype)
    if f.ndim == 2:
        x = F.conv2d(x, f.flip([0, 1])[None, None].repeat(C, 1, 1, 1), groups=C)
    else:
        x = F.conv2d(x, f.flip([0])[None, None, None, :].repeat(C, 1, 1, 1), groups=C)
        x = F.conv2d(x, f.flip([0])[None, None, :, None].repeat(C, 1, 1, 1), groups=C)
    return x[:, :, ::down, ::down]


def upsample2d(x, f):
    return upfirdn2d(x, f, up=2, before=(len(f) + 1) // 2, after=(len(f) - 2) // 2, gain=4)


def downsample2d(x, f):
    return upfirdn2d(x, f, down=2, before=(len(f) - 1) // 2, after=(len(f) - 2) // 2)


def conv2d_resample(x, w, f, up=1, down=1, padding=0):
    """Convolution at the higher of two resolutions that differ by a factor of 2; a true convolution if it upsamples."""
    if up == 2:
        x = upfirdn2d(x, f, up=2, before=padding + (len(f) + 1) // 2, after=padding + (len(f) - 2) // 2, gain=4)
        return F.conv2d(x, w.flip([2, 3]))
    if down == 2:
        x = upfirdn2d(x, f, before=padding + (len(f) - 1) // 2, after=padding + (len(f) - 2) // 2)
        return F.conv2d(x, w, stride=2)
    return F.conv2d(x, w, padding=padding)


def modulated_conv2d(x, w, styles, f=None, up=1, padding=0, demodulate=True):
    if demodulate and x.dtype == torch.float16:     # Keeps sums in range; demodulation undoes it.
        w = w / (w.abs().amax(dim=[1, 2, 3], keepdim=True) * math.sqrt(w[0].numel()))
        styles = styles / styles.abs().amax(dim=1, keepdim=True)
    x = conv2d_resample(x * styles.to(x.dtype)[:, :, None, None], w.to(x.dtype), f, up=up, padding=padding)
    if demodulate:
        d = (styles.square() @ w.square().sum(dim=[2, 3]).t() + 1e-8).rsqrt()
        x = x * d.to(x.dtype)[:, :, None, None]
    return x


def bias_act(x, b, act, gain=1, clamp=None):
    if b is not None:
        x = x + b.to(x.dtype).reshape([-1 if i == 1 else 1 for i in range(x.ndim)])
    function, own_gain = ACTIVATIONS[act]
    x = function(x) * (own_gain * gain)
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def normalize_2nd_moment(x):
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


# Layers.

class FullyConnectedLayer(torch.nn.Module):
    def __init__(self, in_features, out_features, bias=True, activation='linear', lr_multiplier=1, bias_init=0):
        super().__init__()
        self.activation = activation
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.weight = torch.nn.Parameter(torch.randn([out_features, in_features]) / lr_multiplier)
        self.bias = torch.nn.Parameter(torch.full([out_features], float(bias_init))) if bias else None

    def forward(self, x):
        b = None if self.bias is None else self.bias * self.bias_gain
        return bias_act(x @ (self.weight * self.weight_gain).to(x.dtype).t(), b, self.activation)


class Conv2dLayer(torch.nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, bias=True, activation='linear', up=1, down=1,
                 resample_filter=LOW_PASS, conv_clamp=None, channels_last=False, trainable=True):
        super().__init__()
        self.activation = activation
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size ** 2)
        self.act_gain = ACTIVATIONS[activation][1]
        self.register_buffer('resample_filter', setup_filter(resample_filter))
        tensors = {'weight': torch.randn([out_channels, in_channels, kernel_size, kernel_size]),
                   'bias': torch.zeros([out_channels]) if bias else None}
        for name, tensor in tensors.items():
            if trainable:
                self.register_parameter(name, None if tensor is None else torch.nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def forward(self, x, gain=1):
        w = (self.weight * self.weight_gain).to(x.dtype)
        x = conv2d_resample(x, w, self.resample_filter, up=self.up, down=self.down, padding=self.padding)
        return bias_act(x, self.bias, self.activation, gain, self.conv_clamp)


class SynthesisLayer(torch.nn.Module):
    def __init__(self, in_channels, out_channels, w_dim, resolution, kernel_size=3, up=1, use_noise=True,
                 activation='lrelu', resample_filter=LOW_PASS, conv_clamp=None, channels_last=False):
        super().__init__()
        self.resolution = resolution
        self.up = up
        self.use_noise = use_noise
        self.activation = activation
        self.conv_clamp = conv_clamp
        self.padding = kernel_size // 2
        self.act_gain = ACTIVATIONS[activation][1]
        self.register_buffer('resample_filter', setup_filter(resample_filter))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(torch.randn([out_channels, in_channels, kernel_size, kernel_size]))
        if use_noise:
            self.register_buffer('noise_const', torch.randn([resolution, resolution]))
            self.noise_strength = torch.nn.Parameter(torch.zeros([]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))

    def forward(self, x, w, noise_mode='random', fused_modconv=True, gain=1):
        x = modulated_conv2d(x, self.weight, self.affine(w), self.resample_filter, up=self.up, padding=self.padding)
        if self.use_noise and noise_mode == 'random':
            noise = torch.randn([len(x), 1, self.resolution, self.resolution], device=x.device)
            x = x + (noise * self.noise_strength).to(x.dtype)
        if self.use_noise and noise_mode == 'const':
            x = x + (self.noise_const * self.noise_strength).to(x.dtype)
        return bias_act(x, self.bias, self.activation, gain, self.conv_clamp)


class ToRGBLayer(torch.nn.Module):
    def __init__(self, in_channels, out_channels, w_dim, kernel_size=1, conv_clamp=None, channels_last=False):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size ** 2)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = torch.nn.Parameter(torch.randn([out_channels, in_channels, kernel_size, kernel_size]))
        self.bias = torch.nn.Parameter(torch.zeros([out_channels]))

    def forward(self, x, w, fused_modconv=True):
        x = modulated_conv2d(x, self.weight, self.affine(w) * self.weight_gain, demodulate=False)
        return bias_act(x, self.bias, 'linear', clamp=self.conv_clamp)


class MinibatchStdLayer(torch.nn.Module):
    def __init__(self, group_size, num_channels=1):
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x):
        N, C, H, W = x.shape
        G = N if self.group_size is None else min(self.group_size, N)
        y = x.reshape(G, N // G, self.num_channels, C // self.num_channels, H, W)
        y = ((y - y.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=[2, 3, 4])
        return torch.cat([x, y[:, :, None, None].repeat(G, 1, H, W)], dim=1)


# Blocks and networks. Arguments that only matter for speed are accepted and have no effect.

def block_dtype(use_fp16, force_fp32, device):
    return torch.float16 if use_fp16 and not force_fp32 and device.type == 'cuda' else torch.float32


class MappingNetwork(torch.nn.Module):
    def __init__(self, z_dim, c_dim, w_dim, num_ws, num_layers=8, embed_features=None, layer_features=None,
                 activation='lrelu', lr_multiplier=0.01, w_avg_beta=0.995):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.num_ws = num_ws
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        embed_features = w_dim if embed_features is None else embed_features
        embed_features = embed_features if c_dim > 0 else 0
        layer_features = w_dim if layer_features is None else layer_features
        features = [z_dim + embed_features] + [layer_features] * (num_layers - 1) + [w_dim]
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, embed_features)
        for i in range(num_layers):
            self.add_module(f'fc{i}', FullyConnectedLayer(features[i], features[i + 1], activation=activation,
                                                            lr_multiplier=lr_multiplier))
        if num_ws is not None and w_avg_beta is not None:
            self.register_buffer('w_avg', torch.zeros([w_dim]))

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, skip_w_avg_update=False):
        inputs = []
        if self.z_dim > 0:
            inputs.append(normalize_2nd_moment(z.to(torch.float32)))
        if self.c_dim > 0:
            inputs.append(normalize_2nd_moment(self.embed(c.to(torch.float32))))
        x = torch.cat(inputs, dim=1)
        for i in range(self.num_layers):
            x = getattr(self, f'fc{i}')(x)
        if self.w_avg_beta is not None and self.num_ws is not None and self.training and not skip_w_avg_update:
            self.w_avg.copy_(x.detach().mean(dim=0).lerp(self.w_avg, self.w_avg_beta))
        if self.num_ws is not None:
            x = x[:, None].repeat(1, self.num_ws, 1)
        if truncation_psi != 1:
            cutoff = x.shape[1] if truncation_cutoff is None else truncation_cutoff
            x = torch.cat([self.w_avg.lerp(x[:, :cutoff], truncation_psi), x[:, cutoff:]], dim=1)
        return x


class SynthesisBlock(torch.nn.Module):
    def __init__(self, in_channels, out_channels, w_dim, resolution, img_channels, is_last, architecture='skip',
                 resample_filter=LOW_PASS, conv_clamp=None, use_fp16=False, fp16_channels_last=False, **layer_kwargs):
        super().__init__()
        self.in_channels = in_channels
        self.w_dim = w_dim
        self.resolution = resolution
        self.img_channels = img_channels
        self.is_last = is_last
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.num_conv = 1 if in_channels == 0 else 2
        self.num_torgb = 1 if is_last or architecture == 'skip' else 0
        self.register_buffer('resample_filter', setup_filter(resample_filter))
        if in_channels == 0:
            self.const = torch.nn.Parameter(torch.randn([out_channels, resolution, resolution]))
        else:
            self.conv0 = SynthesisLayer(in_channels, out_channels, w_dim, resolution, up=2, conv_clamp=conv_clamp,
                                        resample_filter=resample_filter, **layer_kwargs)
        self.conv1 = SynthesisLayer(out_channels, out_channels, w_dim, resolution, conv_clamp=conv_clamp,
                                    **layer_kwargs)
        if self.num_torgb:
            self.torgb = ToRGBLayer(out_channels, img_channels, w_dim, conv_clamp=conv_clamp)
        if in_channels > 0 and architecture == 'resnet':
            self.skip = Conv2dLayer(in_channels, out_channels, kernel_size=1, bias=False, up=2,
                                    resample_filter=resample_filter)

    def forward(self, x, img, ws, force_fp32=False, fused_modconv=None, **layer_kwargs):
        ws = iter(ws.unbind(dim=1))
        dtype = block_dtype(self.use_fp16, force_fp32, self.resample_filter.device)
        if self.in_channels == 0:
            w = next(ws)
            x = self.conv1(self.const[None].repeat(len(w), 1, 1, 1).to(dtype), w, **layer_kwargs)
        elif self.architecture == 'resnet':
            x = x.to(dtype)
            y = self.skip(x, gain=math.sqrt(0.5))
            x = self.conv0(x, next(ws), **layer_kwargs)
            x = y + self.conv1(x, next(ws), gain=math.sqrt(0.5), **layer_kwargs)
        else:
            x = self.conv0(x.to(dtype), next(ws), **layer_kwargs)
            x = self.conv1(x, next(ws), **layer_kwargs)
        if img is not None:
            img = upsample2d(img, self.resample_filter)
        if self.num_torgb:
            y = self.torgb(x, next(ws)).to(torch.float32)
            img = y if img is None else img + y
        return x, img


class SynthesisNetwork(torch.nn.Module):
    def __init__(self, w_dim, img_resolution, img_channels, channel_base=32768, channel_max=512, num_fp16_res=0,
                 **block_kwargs):
        super().__init__()
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.img_resolution_log2 = log2_res = img_resolution.bit_length() - 1
        self.block_resolutions = [2 ** i for i in range(2, log2_res + 1)]
        self.num_ws = 2 * log2_res - 2
        for res in self.block_resolutions:
            block = SynthesisBlock(
                0 if res == 4 else min(2 * channel_base // res, channel_max), min(channel_base // res, channel_max),
                w_dim, res, img_channels, is_last=res == img_resolution,
                use_fp16=res >= max(2 ** (log2_res + 1 - num_fp16_res), 8), **block_kwargs)
            self.add_module(f'b{res}', block)

    def forward(self, ws, **block_kwargs):
        x = img = None
        first = 0
        for res in self.block_resolutions:
            block = getattr(self, f'b{res}')
            block_ws = ws[:, first : first + block.num_conv + block.num_torgb].to(torch.float32)
            x, img = block(x, img, block_ws, **block_kwargs)
            first += block.num_conv
        return img


class Generator(torch.nn.Module):
    def __init__(self, z_dim, c_dim, w_dim, img_resolution, img_channels, mapping_kwargs=None, synthesis_kwargs=None):
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.w_dim = w_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.synthesis = SynthesisNetwork(w_dim, img_resolution, img_channels, **(synthesis_kwargs or {}))
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(z_dim, c_dim, w_dim, self.num_ws, **(mapping_kwargs or {}))

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, **synthesis_kwargs):
        ws = self.mapping(z, c, truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)
        return self.synthesis(ws, **synthesis_kwargs)


class DiscriminatorBlock(torch.nn.Module):
    def __init__(self, in_channels, tmp_channels, out_channels, resolution, img_channels, first_layer_idx,
                 architecture='resnet', activation='lrelu', resample_filter=LOW_PASS, conv_clamp=None, use_fp16=False,
                 fp16_channels_last=False, freeze_layers=0):
        super().__init__()
        self.in_channels = in_channels
        self.resolution = resolution
        self.img_channels = img_channels
        self.first_layer_idx = first_layer_idx
        self.architecture = architecture
        self.use_fp16 = use_fp16
        self.channels_last = use_fp16 and fp16_channels_last
        self.num_layers = 0
        self.register_buffer('resample_filter', setup_filter(resample_filter))

        def conv(in_channels, out_channels, kernel_size, **kwargs):
            self.num_layers += 1
            trainable = first_layer_idx + self.num_layers > freeze_layers
            return Conv2dLayer(in_channels, out_channels, kernel_size, trainable=trainable, **kwargs)

        if in_channels == 0 or architecture == 'skip':
            self.fromrgb = conv(img_channels, tmp_channels, 1, activation=activation, conv_clamp=conv_clamp)
        self.conv0 = conv(tmp_channels, tmp_channels, 3, activation=activation, conv_clamp=conv_clamp)
        self.conv1 = conv(tmp_channels, out_channels, 3, activation=activation, conv_clamp=conv_clamp, down=2,
                          resample_filter=resample_filter)
        if architecture == 'resnet':
            self.skip = conv(tmp_channels, out_channels, 1, bias=False, down=2, resample_filter=resample_filter)

    def forward(self, x, img, force_fp32=False):
        dtype = block_dtype(self.use_fp16, force_fp32, self.resample_filter.device)
        x = None if x is None else x.to(dtype)
        if self.in_channels == 0 or self.architecture == 'skip':
            img = img.to(dtype)
            y = self.fromrgb(img)
            x = y if x is None else x + y
            img = downsample2d(img, self.resample_filter) if self.architecture == 'skip' else None
        if self.architecture == 'resnet':
            y = self.skip(x, gain=math.sqrt(0.5))
            return y + self.conv1(self.conv0(x), gain=math.sqrt(0.5)), img
        return self.conv1(self.conv0(x)), img


class DiscriminatorEpilogue(torch.nn.Module):
    def __init__(self, in_channels, cmap_dim, resolution, img_channels, architecture='resnet', mbstd_group_size=4,
                 mbstd_num_channels=1, activation='lrelu', conv_clamp=None):
        super().__init__()
        self.in_channels = in_channels
        self.cmap_dim = cmap_dim
        self.resolution = resolution
        self.img_channels = img_channels
        self.architecture = architecture
        if architecture == 'skip':
            self.fromrgb = Conv2dLayer(img_channels, in_channels, kernel_size=1, activation=activation)
        self.mbstd = MinibatchStdLayer(mbstd_group_size, mbstd_num_channels) if mbstd_num_channels > 0 else None
        self.conv = Conv2dLayer(in_channels + mbstd_num_channels, in_channels, kernel_size=3, activation=activation,
                                conv_clamp=conv_clamp)
        self.fc = FullyConnectedLayer(in_channels * resolution ** 2, in_channels, activation=activation)
        self.out = FullyConnectedLayer(in_channels, max(cmap_dim, 1))

    def forward(self, x, img, cmap, force_fp32=False):
        x = x.to(torch.float32)
        if self.architecture == 'skip':
            x = x + self.fromrgb(img.to(torch.float32))
        if self.mbstd is not None:
            x = self.mbstd(x)
        x = self.out(self.fc(self.conv(x).flatten(1)))
        return (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim) if self.cmap_dim > 0 else x


class Discriminator(torch.nn.Module):
    def __init__(self, c_dim, img_resolution, img_channels, architecture='resnet', channel_base=32768, channel_max=512,
                 num_fp16_res=0, conv_clamp=None, cmap_dim=None, block_kwargs=None, mapping_kwargs=None,
                 epilogue_kwargs=None):
        super().__init__()
        self.c_dim = c_dim
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.img_resolution_log2 = log2_res = img_resolution.bit_length() - 1
        self.block_resolutions = [2 ** i for i in range(log2_res, 2, -1)]
        channels = {res: min(channel_base // res, channel_max) for res in self.block_resolutions + [4]}
        cmap_dim = 0 if c_dim == 0 else channels[4] if cmap_dim is None else cmap_dim
        num_layers = 0
        for res in self.block_resolutions:
            block = DiscriminatorBlock(
                channels[res] if res < img_resolution else 0, channels[res], channels[res // 2], res, img_channels,
                first_layer_idx=num_layers, architecture=architecture, conv_clamp=conv_clamp,
                use_fp16=res >= max(2 ** (log2_res + 1 - num_fp16_res), 8), **(block_kwargs or {}))
            self.add_module(f'b{res}', block)
            num_layers += block.num_layers
        if c_dim > 0:
            self.mapping = MappingNetwork(0, c_dim, cmap_dim, num_ws=None, w_avg_beta=None,
                                          **(mapping_kwargs or {}))
        self.b4 = DiscriminatorEpilogue(channels[4], cmap_dim, 4, img_channels, architecture=architecture,
                                        conv_clamp=conv_clamp, **(epilogue_kwargs or {}))

    def forward(self, img, c, **block_kwargs):
        x = None
        for res in self.block_resolutions:
            x, img = getattr(self, f'b{res}')(x, img, **block_kwargs)
        cmap = self.mapping(None, c) if self.c_dim > 0 else None
        return self.b4(x, img, cmap)


# Augmentation.

class AugmentPipe(torch.nn.Module):
    """The settings and the strength of an augmentation pipe, for programs that build their own from `_init_kwargs`."""

    def __init__(self, **options):
        super().__init__()
        vars(self).update(options)
        self.register_buffer('p', torch.ones([]))
        self.register_buffer('Hz_geom', torch.zeros([12]))
        self.register_buffer('Hz_fbank', torch.zeros([4, 43]))

    def forward(self, images, debug_percentile=None):
        raise NotImplementedError('this file has the settings of the augmentation and its strength p, not its code: '
                                  'build an AugmentPipe of your own from its init_kwargs')
