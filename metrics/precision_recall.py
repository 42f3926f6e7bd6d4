"""Precision, recall [Kynkaanniemi et al. 2019, 1904.06991], density, coverage [Naeem et al. 2020, 2002.09797].

Around every sample p of a set A lies a ball that reaches to its k-th nearest other sample, radius r_A(p). With real x
and generated g:

    precision  share of g with |g - x| <= r_R(x) for some x
    recall     share of x with |x - g| <= r_G(g) for some g
    density    mean over g of #{x : |g - x| < r_R(x)} / k
    coverage   share of x with |g - x| < r_R(x) for some g

Distances are computed in blocks, so memory does not grow with the square of the number of samples.
"""
from __future__ import annotations

from collections.abc import Iterator

import torch

from metrics.checks import check_features

_SAME = 1e-12    # Squared distances below this share of the squared lengths are rounding: the samples are one point.


def precision_recall(real: torch.Tensor, gen: torch.Tensor, k: int = 3, block: int = 4096) -> tuple[float, float]:
    """(precision, recall) of feature sets [n, d], [m, d].

    Args:
        real, gen: Features; need more than k samples each.
        k: Which neighbour gives the radius.
        block: Rows and columns of the distance matrix held at a time.

    Raises:
        MetricError: If a set has too few samples, or non-finite features.
    """
    check_features(real, at_least=k + 1)
    check_features(gen, at_least=k + 1)
    precision = _in_some_ball(gen, real, neighbour_distances(real, k, block), block)
    recall = _in_some_ball(real, gen, neighbour_distances(gen, k, block), block)
    return float(precision.double().mean()), float(recall.double().mean())


def density_coverage(real: torch.Tensor, gen: torch.Tensor, k: int = 5, block: int = 4096) -> tuple[float, float]:
    """(density, coverage) of feature sets [n, d], [m, d]; arguments and errors as in `precision_recall`."""
    check_features(real, at_least=k + 1)
    check_features(gen, at_least=k + 1)
    radii = neighbour_distances(real, k, block)
    num_inside, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for _, columns, distances in _distance_blocks(gen, real, block):
        inside = distances < radii[columns]
        num_inside += int(inside.sum())
        covered[columns] |= inside.any(dim=0)
    return num_inside / (k * len(gen)), float(covered.double().mean())


def neighbour_distances(points: torch.Tensor, k: int, block: int = 4096) -> torch.Tensor:
    """Distance of every point [n, d] to its k-th nearest other point, float64 [n]."""
    nearest = torch.full((len(points), k + 1), torch.inf, dtype=torch.float64)    # With itself, at distance 0.
    for rows, _, distances in _distance_blocks(points, points, block):
        nearest[rows] = torch.cat([nearest[rows], distances], dim=1).topk(k + 1, largest=False).values
    return nearest[:, k]


def _in_some_ball(probes: torch.Tensor, centres: torch.Tensor, radii: torch.Tensor, block: int) -> torch.Tensor:
    """Which probes [n, d] lie within the radius [m] of some centre [m, d]: bool [n]."""
    inside = torch.zeros(len(probes), dtype=torch.bool)
    for rows, columns, distances in _distance_blocks(probes, centres, block):
        inside[rows] |= (distances <= radii[columns]).any(dim=1)
    return inside


def _distance_blocks(a: torch.Tensor, b: torch.Tensor, block: int) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yields (rows, columns, distances float64 [rows, columns]) until all pairs of a [n, d] and b [m, d] were seen."""
    for i in range(0, len(a), block):
        x = a[i:i + block].double()
        x_sq = x.square().sum(dim=1, keepdim=True)
        for j in range(0, len(b), block):
            y = b[j:j + block].double()
            lengths = x_sq + y.square().sum(dim=1)
            squares = lengths - 2 * (x @ y.T)
            squares[squares <= _SAME * lengths] = 0
            yield slice(i, i + block), slice(j, j + block), squares.sqrt()
