"""Inception score [Salimans et al. 2016, arXiv:1606.03498].

    IS = exp( mean over images of KL( p(class | image) || p(class) ) ),   p(class) = mean over images
"""
from __future__ import annotations

import torch

from metrics.checks import check_features


def inception_score(logits: torch.Tensor, num_splits: int = 10) -> tuple[float, float]:
    """(mean, population standard deviation) of the score over contiguous parts of the rows.

    Args:
        logits: Class scores before the softmax [n, num_classes].
        num_splits: Number of parts; part i has rows [i n / num_splits, (i + 1) n / num_splits).

    Raises:
        MetricError: If there are fewer rows than parts, or non-finite scores.
    """
    check_features(logits, at_least=num_splits)
    log_p = logits.double().log_softmax(dim=1)
    bounds = [i * len(log_p) // num_splits for i in range(num_splits + 1)]
    scores = torch.stack([_score(log_p[start:end]) for start, end in zip(bounds, bounds[1:])])
    return float(scores.mean()), float(scores.std(correction=0))


def _score(log_p: torch.Tensor) -> torch.Tensor:
    p = log_p.exp()
    divergence = torch.xlogy(p, p) - torch.xlogy(p, p.mean(dim=0))    # 0 where p is 0
    return divergence.sum(dim=1).mean().exp()
