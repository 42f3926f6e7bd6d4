"""A centre: what stands where G would be."""
from typing import Any

import torch
from torch import Tensor

from torch_utils.wire.message import BadMessage


class Mailbox(torch.nn.Module):
    """Where G would be: its images and feature maps are those that have come."""
    z_dim = 0

    def __init__(self):
        super().__init__()
        self.img: Tensor | None = None          # [N,C,H,W]
        self.feats: dict[int, Tensor] = {}

    def mapping(self, z: Tensor, c: Tensor, skip_w_avg_update: bool = False) -> Tensor:
        """No styles."""
        return torch.zeros([len(c), 0, 0], device=c.device)

    def synthesis(self, ws: Tensor, return_feats: Any = (), noise_generator: Any = None) -> Any:
        """What has come."""
        if self.img is None:
            raise BadMessage('the step needs fakes, and none came')
        return (self.img, self.feats) if return_feats else self.img
