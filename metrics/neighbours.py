"""Distances between two sets of feature vectors, in blocks of bounded memory,
and nearest neighbours by them."""
from __future__ import annotations

from collections.abc import Iterator

import torch

from metrics.sharding import check_stop

# Squared distances below this share of the squared lengths are rounding: the vectors are one point.
_SAME = 1e-12


def distance_blocks(a: torch.Tensor, b: torch.Tensor,
                    block: int = 4096) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yields (rows, columns, distances float64 [rows, columns]) until all pairs of a [n, d] and b [m,
    d] were seen."""
    for i in range(0, len(a), block):
        x = a[i:i + block].double()
        x_sq = x.square().sum(dim=1, keepdim=True)
        for j in range(0, len(b), block):
            check_stop()
            y = b[j:j + block].double()
            lengths = x_sq + y.square().sum(dim=1)
            squares = lengths - 2 * (x @ y.T)
            squares[squares <= _SAME * lengths] = 0
            yield slice(i, i + block), slice(j, j + block), squares.sqrt()


def nearest(probes: torch.Tensor, points: torch.Tensor, k: int,
            block: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    """(distances float64 [n, k], indices [n, k]) of the k points [m, d] nearest to each probe [n, d],
    nearest first."""
    best = torch.full((len(probes), k), torch.inf, dtype=torch.float64)
    who = torch.zeros(len(probes), k, dtype=torch.int64)
    for rows, columns, distances in distance_blocks(probes, points, block):
        numbers = torch.arange(columns.start, columns.start + distances.shape[1]).expand(len(distances), -1)
        best[rows], order = torch.cat([best[rows], distances], dim=1).topk(k, largest=False)
        who[rows] = torch.cat([who[rows], numbers], dim=1).gather(1, order)
    return best, who


def neighbour_distances(points: torch.Tensor, k: int, block: int = 4096) -> torch.Tensor:
    """Distance of every point [n, d] to its k-th nearest other point, float64 [n]."""
    return nearest(points, points, k + 1, block)[0][:, k]    # The nearest is the point itself, at distance 0.
