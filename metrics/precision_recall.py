"""Precision, recall [Kynkaanniemi et al. 2019, 1904.06991], density, coverage [Naeem et al.
2020, 2002.09797].

Around every sample p of a set A lies a ball that reaches to its k-th nearest other sample,
radius r_A(p). With real x and generated g:

    precision  share of g with |g - x| <= r_R(x) for some x
    recall     share of x with |x - g| <= r_G(g) for some g
    density    mean over g of #{x : |g - x| < r_R(x)} / k
    coverage   share of x with |g - x| < r_R(x) for some g

Distances are computed in blocks, so memory does not grow with the square of the number of samples.
"""
from __future__ import annotations

import torch

from metrics.checks import check_features
from metrics.neighbours import distance_blocks, neighbour_distances


def precision_recall(real: torch.Tensor, gen: torch.Tensor, k: int = 3,
                     block: int = 4096) -> tuple[float, float]:
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


def density_coverage(real: torch.Tensor, gen: torch.Tensor, k: int = 5,
                     block: int = 4096) -> tuple[float, float]:
    """(density, coverage) of feature sets [n, d], [m, d]; arguments and errors as in `precision_recall`."""
    check_features(real, at_least=k + 1)
    check_features(gen, at_least=k + 1)
    radii = neighbour_distances(real, k, block)
    num_inside, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for _, columns, distances in distance_blocks(gen, real, block):
        inside = distances < radii[columns]
        num_inside += int(inside.sum())
        covered[columns] |= inside.any(dim=0)
    return num_inside / (k * len(gen)), float(covered.double().mean())


def _in_some_ball(probes: torch.Tensor, centres: torch.Tensor, radii: torch.Tensor,
                  block: int) -> torch.Tensor:
    """Which probes [n, d] lie within the radius [m] of some centre [m, d]: bool [n]."""
    inside = torch.zeros(len(probes), dtype=torch.bool)
    for rows, columns, distances in distance_blocks(probes, centres, block):
        inside[rows] |= (distances <= radii[columns]).any(dim=1)
    return inside
