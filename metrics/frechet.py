"""Frechet distance between two Gaussians [Frechet 1957; Heusel et al. 2017, arXiv:1706.08500].

    d^2 = |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2)

The last trace needs no root of the non-symmetric product:
with any factors S = F^T F it is the sum of the singular values of M = F_a F_b^T, because S_a S_b has the
non-zero eigenvalues of M M^T, whose roots are M's singular values.
"""
from __future__ import annotations

import numpy as np
import torch

from metrics.moments import Moments
from metrics.names import MetricError

_ROUNDING = 1e-6    # A distance below zero by more than this share of the traces is an error, not rounding.


def frechet_distance(a: Moments, b: Moments, ddof: int = 1) -> float:
    """The squared Frechet distance of two feature sets by their moments, in float64.

    Args:
        a, b: Moments of the two sets, of equal dimension.
        ddof: Covariances have divisor num - ddof: 1, or 0 as in the metrics with the reference's names.

    Raises:
        MetricError: If a set has fewer than two vectors or non-finite ones,
            or if the result is far below zero.
    """
    cov_a, cov_b = a.cov(ddof).cpu(), b.cov(ddof).cpu()
    traces = float(cov_a.trace() + cov_b.trace())
    distance = float((a.mean.cpu() - b.mean.cpu()).square().sum()) + traces - 2 * trace_of_root(cov_a, cov_b)
    if distance < -_ROUNDING * traces:
        raise MetricError(f'the Frechet distance came out as {distance:g}, with {traces:g} for both traces together')
    return max(distance, 0.0)


def trace_of_root(cov_a: torch.Tensor, cov_b: torch.Tensor) -> float:
    """tr (S_a S_b)^(1/2) of two symmetric positive semi-definite matrices [d, d]."""
    m = _factor(cov_a) @ _factor(cov_b).T
    gram = m @ m.T if len(m) <= m.shape[1] else m.T @ m
    return float(torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().sum())


def _factor(cov: torch.Tensor) -> torch.Tensor:
    """The pivoted Cholesky factor: F [rank, d] with F^T F = cov, its rows in the order of decreasing weight.

    The order is what makes the roots of the eigenvalues above as good as singular values:
    the Gram matrix is graded, so small eigenvalues do not drown in the rounding of the large ones (measured:
    benchmarks/metrics.py frechet). The rank is found on the way; it is below d with fewer samples than
    dimensions or with features that are constant.
    """
    # Imported here, so that the start of a training run does not wait for it.
    from scipy.linalg import lapack
    upper, order, rank, _ = lapack.dpstrf(cov.numpy())
    factor = np.empty((rank, len(cov)))
    factor[:, order - 1] = np.triu(upper)[:rank]
    return torch.from_numpy(factor)
