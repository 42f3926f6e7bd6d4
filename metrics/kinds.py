"""What is calculated of the features on both sides: one function per kind of metric.

Each takes a `metric_main.Evaluation` and returns (results, standard errors), on all processes.
"""
from collections.abc import Callable

import numpy as np
import torch

from metrics.features import feature_rows
from metrics.frechet import frechet_distance
from metrics.inception_score import inception_score
from metrics.kernel import kernel_distance, subset_kernel_distance
from metrics.moments import Moments
from metrics.perceptual_path_length import path_distances, trimmed_mean
from metrics.precision_recall import density_coverage, precision_recall
from metrics.sharding import in_order, on_main
from torch_utils.ops import backend

# Path lengths divide rounding errors by 1e-4. Fixed batches make these equal for every number of processes.
PATHS_AT_ONCE = 2


def _fd(work):
    name, ddof, taps = work.metric.name, work.metric.params['ddof'], work.detector.fd_taps
    real = [work.real_moments(images, taps) for images in work.real]
    fake = work.fake_rows()

    def distance(tap):
        return frechet_distance(Moments.merged(part[tap] for part in real), Moments.of(fake[tap]), ddof)

    return on_main(lambda: {name if tap == taps[0] else f'{name}_{tap}': distance(tap) for tap in taps}), {}


def _kid(work):
    name, subsets = work.metric.name, work.metric.params
    if subsets:
        rng = np.random.default_rng(work.options.seed)
        value, error = work.on_rows(lambda real, fake: subset_kernel_distance(real, fake, rng=rng, **subsets))
    else:
        value, error = work.on_rows(kernel_distance)
    return {name: value}, {name: error}


def _pr(work):
    k = work.metric.params['k']
    return work.named('precision recall', work.on_rows(lambda real, fake: precision_recall(real, fake, k)))


def _prdc(work):
    k = work.metric.params['k']
    values = work.on_rows(lambda real, fake: precision_recall(real, fake, k)
                          + density_coverage(real, fake, k))
    return work.named('precision recall density coverage', values)


def _is(work):
    logits = feature_rows(work.fake, work.detector, ['logits'], work.features)
    return work.named('mean std', on_main(lambda: inception_score(logits['logits'], **work.metric.params)))


def _ppl(work):
    params = dict(work.metric.params)
    is_full = params.pop('sampling') == 'full'

    def compute(batches):
        for batch in batches:
            z, c, t = work.inputs.latents(batch, per_image=2)
            noise = work.inputs.noise(work.G.synthesis, batch)
            yield path_distances(work.G, work.detector.embed, z, c, t * is_full, noise, **params)

    name = work.metric.name
    # Compiled operators round differently, and do not exist on every machine.
    with backend.default('reference'):
        pieces = in_order(work.metric.num_gen, PATHS_AT_ONCE, compute, 'paths', work.options.progress)
        distances = list(pieces)

    def finish():
        found = torch.cat(distances)
        return trimmed_mean(found), float(found.std() / len(found) ** 0.5)

    value, error = on_main(finish)
    return {name: value}, {name: error}


KINDS: dict[str, Callable] = {'fd': _fd, 'kid': _kid, 'pr': _pr, 'prdc': _prdc, 'is': _is, 'ppl': _ppl}
