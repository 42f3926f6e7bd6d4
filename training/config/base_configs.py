"""The named base configurations of `train.py --cfg`, and the formulas of `auto`. Plain data; imports nothing.

Source: Karras et al. 2020, arXiv:2006.06676, appendix C; `low_shot`: Zhao et al. 2020, arXiv:2006.10738,
as their PyTorch code has it; `tiny` is ours, sized for a CPU.
"""
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BaseConfig:
    """What a base configuration sets. None: computed by `auto_config` or not used."""
    ref_gpus: int | None            # batch_gpu = batch // ref_gpus; None = the number of GPUs asked for.
    kimg: int                       # Length of the run.
    batch: int                      # Images per iteration.
    mbstd: int                      # Group size of the minibatch standard deviation; 0: D has none.
    channel_base: int               # Channels at resolution r: min(channel_base / r, channel_max).
    lr: float                       # Of G and D.
    gamma: float                    # R1 weight.
    ema_kimg: float                 # Half-life of the generator average.
    ema_rampup: float | None        # ... at most this share of the images shown so far. None = no ramp-up.
    mapping_layers: int             # Depth of G's mapping network.
    channel_max: int = 512
    z_dim: int = 512                # Also w_dim.
    plain: bool = False             # Without path length, style mixing and residual D.
    pl_weight: float = 2            # Of path length.
    mixing_prob: float = 0.9        # Of style mixing.
    ada_kimg: float = 500           # In which the strength of --aug=ada can rise from 0 to 1.
    tick: float = 4                 # Length of a tick in kimg.
    snap: int = 50                  # Ticks between snapshots.
    metrics: tuple[str, ...] = ('fid50k_full',)
    workers: int = 3
    r3gan: bool = False             # The networks and the schedule of R3GAN.
    precision: str = 'fp16'         # On CUDA.


BASE_CONFIGS = {
    'stylegan2': BaseConfig(8, 25000, 32, 4, 32768, 0.002, 10, 10, None, 8),
    'paper256': BaseConfig(8, 25000, 64, 8, 16384, 0.0025, 1, 20, None, 8),
    'paper512': BaseConfig(8, 25000, 64, 8, 32768, 0.0025, 0.5, 20, None, 8),
    'paper1024': BaseConfig(8, 25000, 32, 4, 32768, 0.002, 2, 10, None, 8),
    'cifar': BaseConfig(2, 100000, 64, 32, 32768, 0.0025, 0.01, 500, 0.05, 2, plain=True),
    'low_shot': BaseConfig(None, 300, 8, 4, 32768, 0.002, 10, 10, None, 2, snap=10),
}
CONFIG_NAMES = ('auto', *BASE_CONFIGS, 'tiny', 'r3gan')

# Options that a base configuration stands for; those that are given win, and settle others.
IMPLIED: dict[str, dict[str, Any]] = {
    'r3gan': dict(loss='relativistic', aug='fixed', p=0.0, augpipe='r3gan', mirror=True),
}
SETTLES = {'aug': ('p', 'augpipe'), 'diffaugment': ('aug', 'p', 'augpipe')}

R3GAN_GAMMAS = {32: 0.05, 64: 2.0, 256: 150.0}      # At the start, of CIFAR-10 and FFHQ; a tenth of it at the end.


def implied_options(name: str, given: Collection[str]) -> dict[str, Any]:
    """What a base configuration adds to the options that are given."""
    settled = {*given, *(other for option, others in SETTLES.items() if option in given for other in others)}
    return {option: value for option, value in IMPLIED.get(name, {}).items() if option not in settled}


def base_config(name: str, resolution: int, gpus: int) -> BaseConfig:
    """The base configuration of that name for a data set resolution and a number of processes."""
    if name == 'auto':
        return auto_config(resolution, gpus)
    if name == 'tiny':
        return tiny_config(resolution, gpus)
    if name == 'r3gan':
        return r3gan_config(resolution, gpus)
    return BASE_CONFIGS[name]


def auto_config(resolution: int, gpus: int) -> BaseConfig:
    """Settings that fit a resolution and a number of GPUs."""
    batch = max(min(gpus * min(4096 // resolution, 32), 64), gpus)
    return BaseConfig(
        ref_gpus=gpus, kimg=25000, batch=batch, mbstd=min(batch // gpus, 4),
        channel_base=32768 if resolution >= 512 else 16384,
        lr=0.002 if resolution >= 1024 else 0.0025,
        gamma=0.0002 * resolution ** 2 / batch,
        ema_kimg=batch * 10 / 32, ema_rampup=0.05, mapping_layers=2)


def tiny_config(resolution: int, gpus: int) -> BaseConfig:
    """A network small enough to draw something on a CPU within minutes, at 32 or 64 pixels.

    What counts in so short a time are steps: small batches, high rates, narrow networks, and neither path length nor style
    mixing. `docs/performance.md` has the search that led here. At the pace of long runs ADA would be nowhere when these end.
    """
    batch = max(4, gpus)
    return BaseConfig(
        ref_gpus=gpus, kimg=200, batch=batch, mbstd=min(batch // gpus, 4), channel_base=512, channel_max=64,
        z_dim=64, lr=0.005, gamma=resolution ** 2 / 1024, ema_kimg=2, ema_rampup=0.1, mapping_layers=2,
        pl_weight=0, mixing_prob=0, ada_kimg=20, tick=1, snap=5, metrics=(), workers=1)


def r3gan_config(resolution: int, gpus: int) -> BaseConfig:
    """R3GAN's; between and beyond the resolutions that were published, gamma follows the line through those of FFHQ in a
    drawing with logarithmic axes.
    """
    slope = math.log(R3GAN_GAMMAS[256] / R3GAN_GAMMAS[64], 4)
    gamma = R3GAN_GAMMAS.get(resolution, R3GAN_GAMMAS[256] * (resolution / 256) ** slope)
    return BaseConfig(
        ref_gpus=8, kimg=20000, batch=512 if resolution <= 32 else 256, mbstd=0, channel_base=24576, channel_max=768, z_dim=64,
        lr=2e-4, gamma=float(f'{gamma:.3g}'), ema_kimg=5000 if resolution <= 32 else 500, ema_rampup=None, mapping_layers=0,
        pl_weight=0, mixing_prob=0, r3gan=True, precision='bf16')


def networks(base: BaseConfig) -> dict[str, Any]:
    """Arguments of networks, optimizers and loss of a base configuration."""
    channels = dict(channel_base=base.channel_base, channel_max=base.channel_max, num_fp16_res=4,
                    conv_clamp=256)
    adam = dict(class_name='torch.optim.Adam', lr=base.lr, betas=[0, 0.99], eps=1e-8, fused=True)
    config = dict(
        G_kwargs=dict(class_name='training.networks.Generator', z_dim=base.z_dim, w_dim=base.z_dim,
                      mapping_kwargs=dict(num_layers=base.mapping_layers), synthesis_kwargs=dict(channels)),
        D_kwargs=dict(class_name='training.networks.Discriminator', block_kwargs={}, mapping_kwargs={},
                      epilogue_kwargs=minibatch_statistics(base.mbstd), **channels),
        G_opt_kwargs=adam, D_opt_kwargs=dict(adam),
        loss_kwargs=dict(r1_gamma=base.gamma, style_mixing_prob=base.mixing_prob, pl_weight=base.pl_weight,
                         pl_decay=0.01, pl_batch_shrink=2),
        G_reg_interval=4, D_reg_interval=16)
    if base.r3gan:
        config['G_kwargs'].update(class_name='training.r3gan.R3Generator', mapping_kwargs={})
        config['D_kwargs'].update(class_name='training.r3gan.R3Critic')
        config['loss_kwargs'].update(pl_interval=1, r1_interval=1)
    if base.plain:
        config['loss_kwargs'].update(pl_weight=0, style_mixing_prob=0)
        config['D_kwargs']['architecture'] = 'orig'
    return config


def minibatch_statistics(group: int) -> dict[str, Any]:
    """Arguments of D's last block for groups of so many images; 0: D looks at every image alone."""
    return dict(mbstd_group_size=group) if group > 0 else dict(mbstd_group_size=1, mbstd_num_channels=0)
