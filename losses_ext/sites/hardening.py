"""A centre: what is done to image gradients before they leave."""
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Hardening:
    """What is done to an image gradient before it leaves: its norm, image by image, is cut off, and Gaussian noise added."""
    clip: float | None = None
    noise: float = 0.0

    def and_also(self, clip: float | None, noise: float) -> 'Hardening':
        """The stricter of both."""
        clips = [norm for norm in (self.clip, clip) if norm is not None]
        return Hardening(min(clips, default=None), max(self.noise, noise))

    def applied(self, grad: Tensor) -> Tensor:
        """A gradient [N,C,H,W] as it may leave. The noise is of this machine: no seed of the run tells it."""
        if self.clip is not None:
            norms = grad.flatten(1).norm(dim=1).clamp(min=1e-30)
            grad = grad * (self.clip / norms).clamp(max=1)[:, None, None, None]
        if self.noise > 0:
            secret = torch.Generator(grad.device)
            secret.seed()
            grad = grad + self.noise * torch.randn(grad.shape, device=grad.device, generator=secret)
        return grad
