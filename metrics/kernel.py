"""Kernel distance: the squared maximum mean discrepancy under a cubic kernel [Binkowski et al.
2018, arXiv:1801.01401].

    k(x, y) = (x.y / d + 1)^3
    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)

is unbiased at every number of samples, hence now and then slightly negative. Two conventions:
the mean over random subsets (the published metric), and all samples at once (no random numbers, and an error
estimate of its own).
"""
from __future__ import annotations

import math

import numpy as np
import torch

from metrics.checks import check_features
from metrics.sharding import check_stop

_BLOCK = 2048    # Rows and columns of the kernel matrix held at a time.


def kernel_distance(real: torch.Tensor, gen: torch.Tensor) -> tuple[float, float]:
    """(MMD^2, its standard error) of two feature sets [n, d], [m, d], from all samples, in float64.

    The standard error is that of the U-statistic's linear part: with h(x_i) = mean_{j != i} k(x_i, x_j) -
    mean_j k(x_i, y_j), and likewise h(y_j), it is the root of 4 var h(x) / n + 4 var h(y)
    / m [Hoeffding 1948]. It is too small only where the two distributions are (nearly)
    equal and the linear part vanishes.

    Raises:
        MetricError: If a set has fewer than two samples, or non-finite features.
    """
    check_features(real, at_least=2)
    check_features(gen, at_least=2)
    rr, gg = _row_means(real), _row_means(gen)
    rg, gr = _row_means(real, gen), _row_means(gen, real)
    variance = 4 * (rr - rg).var() / len(real) + 4 * (gg - gr).var() / len(gen)
    return float(rr.mean() + gg.mean() - 2 * rg.mean()), math.sqrt(variance)


def subset_kernel_distance(
    real: torch.Tensor, gen: torch.Tensor, num_subsets: int = 100, max_subset_size: int = 1000, rng=None,
) -> tuple[float, float]:
    """(mean, standard error) of MMD^2 over random subsets of both sets, each of min(n, m,
    max_subset_size) samples.

    Subsets overlap, so the standard error (spread over subsets / root of their number) is an underestimate.

    Args:
        real, gen: Features [n, d] and [m, d].
        num_subsets, max_subset_size: How many subsets, of at most how many samples.
        rng: A NumPy generator, new or legacy; draws gen's subset, then real's. None: a new one with seed 0.

    Raises:
        MetricError: If a set has fewer than two samples, or non-finite features.
    """
    check_features(real, at_least=2)
    check_features(gen, at_least=2)
    rng = np.random.default_rng(0) if rng is None else rng
    size = min(len(real), len(gen), max_subset_size)
    values = []
    for _ in range(num_subsets):
        y = gen[rng.choice(len(gen), size, replace=False)]
        x = real[rng.choice(len(real), size, replace=False)]
        values.append(float(_row_means(x).mean() + _row_means(y).mean() - 2 * _row_means(x, y).mean()))
    return float(np.mean(values)), float(np.std(values) / math.sqrt(num_subsets))


def _row_means(x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    """For every row of x [n, d] the mean kernel with all rows of y, or with all *other* rows of x:
    float64 [n]."""
    others = x if y is None else y
    sums = torch.zeros(len(x), dtype=torch.float64)
    for i in range(0, len(x), _BLOCK):
        check_stop()
        rows = x[i:i + _BLOCK].double()
        for columns in others.split(_BLOCK):
            sums[i:i + _BLOCK] += _kernel(rows @ columns.double().T, x.shape[1]).sum(dim=1)
        if y is None:
            sums[i:i + _BLOCK] -= _kernel(rows.square().sum(dim=1), x.shape[1])
    return sums / (len(others) - (y is None))


def _kernel(products: torch.Tensor, dim: int) -> torch.Tensor:
    return (products / dim + 1) ** 3
