"""First and second moments of feature vectors, streamed in float64 and merged exactly.

Two blocks a, b of n_a, n_b vectors with means mu and scatter matrices M = sum (x - mu)(x - mu)^T combine to

    mu = mu_a + delta n_b / n,   M = M_a + M_b + delta delta^T n_a n_b / n,   delta = mu_b - mu_a   [Chan et al. 1983]

so that nothing cancels, however far the mean lies from zero,
and so that the moments of a union follow from the moments of its parts without their features (several ranks,
or data centres that keep their images to themselves).
"""
from __future__ import annotations

from collections.abc import Iterable

import torch

from metrics.names import MetricError

_BLOCK = 1024    # Vectors gathered before one matrix product; its size has no influence beyond rounding.


class Moments:
    """Count, mean [d] and scatter matrix [d, d] (float64) of a stream of feature vectors.

    Vectors with NaN or infinite entries are counted in `num_bad` and spoil the moments, never silently:
    `cov` raises.
    """

    def __init__(self, dim: int, device: torch.device | str = 'cpu'):
        self.num = 0
        self.num_bad = 0
        self.mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    @classmethod
    def of(cls, features: torch.Tensor) -> Moments:
        """The moments of the rows of features [n, d]."""
        return cls(features.shape[1], features.device).add(features)

    @classmethod
    def from_covariance(cls, num: int, mean, cov, ddof: int = 1) -> Moments:
        """From a count, a mean [d] and a covariance [d, d] with divisor num - ddof (arrays or tensors)."""
        mean, cov = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(cov, dtype=torch.float64)
        moments = cls(len(mean), mean.device)
        moments.num, moments.mean, moments.scatter = int(num), mean, cov * (num - ddof)
        return moments

    @classmethod
    def merged(cls, parts: Iterable[Moments]) -> Moments:
        """The moments of the union of all parts."""
        parts = list(parts)
        union = cls(len(parts[0].mean), parts[0].mean.device)
        for part in parts:
            union._merge(part)
        return union

    def add(self, features: torch.Tensor) -> Moments:
        """Takes in the rows of features [n, d], any float type. Returns self."""
        for rows in features.detach().split(_BLOCK):
            rows = rows.to(self.mean)
            block = Moments.__new__(Moments)
            block.num = len(rows)
            block.num_bad = len(rows) - int(rows.isfinite().all(dim=1).sum())
            block.mean = rows.mean(dim=0)
            centred = rows - block.mean
            block.scatter = centred.T @ centred
            self._merge(block)
        return self

    def cov(self, ddof: int = 1) -> torch.Tensor:
        """The covariance [d, d] with divisor num - ddof.

        Raises:
            MetricError: If there are not more than `ddof` vectors, or if some had NaN or infinite entries.
        """
        if self.num_bad:
            raise MetricError(f'{self.num_bad} of {self.num} feature vectors have NaN or infinite entries')
        if self.num <= max(ddof, 1):
            raise MetricError(f'a covariance needs at least two feature vectors, there are {self.num}')
        return self.scatter / (self.num - ddof)

    def state(self) -> dict[str, torch.Tensor]:
        """All of it as tensors on the CPU, for a file."""
        counts = torch.tensor([self.num, self.num_bad], dtype=torch.int64)
        return {'counts': counts, 'mean': self.mean.cpu(), 'scatter': self.scatter.cpu()}

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor]) -> Moments:
        """The inverse of `state`."""
        moments = cls.__new__(cls)
        moments.num, moments.num_bad = state['counts'].tolist()
        moments.mean, moments.scatter = state['mean'], state['scatter']
        return moments

    def _merge(self, other: Moments):
        num = self.num + other.num
        if other.num == 0:
            return
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.num / num)
        self.scatter = self.scatter + other.scatter + torch.outer(delta, delta) * (self.num * other.num / num)
        self.num, self.num_bad = num, self.num_bad + other.num_bad
