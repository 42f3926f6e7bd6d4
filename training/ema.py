"""The moving average of the generator [Karras et al. 2018, arXiv:1710.10196, section 5]."""
import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

CONSTANT = 'resample_filter', 'noise_const'     # Buffers of the generator's layers that are what they were at the start.


def ema_decay(batch_size: int, nimg: int, ema_kimg: float, ema_rampup: float | None) -> float:
    """The weight of the old average after `nimg` images: half of it is left after `ema_kimg` thousand images.

    With `ema_rampup` the half-life is at most that share of the images shown so far.
    """
    half_life_nimg = ema_kimg * 1000
    if ema_rampup is not None:
        half_life_nimg = min(half_life_nimg, nimg * ema_rampup)
    return 0.5 ** (batch_size / max(half_life_nimg, 1e-8))


@torch.no_grad()
def update_ema(G_ema: torch.nn.Module, G: torch.nn.Module, decay: float) -> None:
    """Parameters: p_ema <- p + decay * (p_ema - p). Buffers: copied, but for constant ones."""
    get_ema_multi_avg_fn(decay)(list(G_ema.parameters()), list(G.parameters()), None)
    for b_ema, (name, b) in zip(G_ema.buffers(), G.named_buffers()):
        if not name.endswith(CONSTANT):
            b_ema.copy_(b)
