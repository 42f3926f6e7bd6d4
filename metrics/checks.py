"""What every estimator asks of the features it is given."""
from __future__ import annotations

import torch

from metrics.names import MetricError


def check_features(features: torch.Tensor, at_least: int):
    """Raises MetricError unless there are `at_least` feature vectors [n, d], all finite."""
    if len(features) < at_least:
        raise MetricError(f'needs at least {at_least} feature vectors, there are {len(features)}')
    num_bad = len(features) - int(features.isfinite().all(dim=1).sum())
    if num_bad:
        raise MetricError(f'{num_bad} of {len(features)} feature vectors have NaN or infinite entries')
