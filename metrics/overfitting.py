"""What a discriminator thinks of images it was not trained on [Karras et al. 2020, arXiv:2006.06676, eq. 1].

    gap = E D(train) - E D(held out),    r_v = gap / (E D(train) - E D(generated))

Without overfitting both are 0. As the discriminator memorises its training images,
held-out ones look more and more like generated ones to it, and r_v goes to 1: with little data,
the number to watch.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from metrics.generator_inputs import DatasetLabels, GeneratorInputs, Labels, with_noise
from metrics.image_streams import frozen_copy, open_dataset
from metrics.names import MetricError
from metrics.sharding import StopAsked, check_stop, stoppable


def overfitting_gap(
    D: torch.nn.Module, dataset_kwargs: Mapping[str, Any], held_out_kwargs: Mapping[str, Any] | None = None,
    G: torch.nn.Module | None = None, max_num: int = 2000, batch_size: int = 32, seed: int = 0,
    device: torch.device | str = 'cpu', wants_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Compares a discriminator's mean scores on training, held-out and generated images.

    All are scored in random batches of equal size, because a discriminator may look at the whole batch;
    the same number of each. Images are not augmented.

    Args:
        D: The discriminator: D(images in -1..1, labels) -> logits.
        dataset_kwargs: Class name and arguments of the training set.
        held_out_kwargs: Those of a set that D was not trained on. None: the images that training left out,
            if it saw a subset (`max_size`).
        G: The generator; without it there is no r_v.
        max_num: At most so many images of each kind.
        batch_size: Images per batch.
        seed: Of the choice of images, and of the generated ones.
        device: Where to compute.
        wants_stop: Asked all the time; once it is true, the work is broken off.

    Returns:
        train, held_out, gap, gap_std_err; with G also generated and r_v; nothing if it was broken off.

    Raises:
        MetricError: If nothing was held out, or the sets do not fill a batch.
    """
    with stoppable(wants_stop), suppress(StopAsked):
        return _gap(D, dataset_kwargs, held_out_kwargs, G, max_num, batch_size, seed, device)
    return {}


def _gap(D, dataset_kwargs, held_out_kwargs, G, max_num, batch_size, seed, device):
    train, rest, chosen = _both_sides(dataset_kwargs, held_out_kwargs)
    num = min(len(train), len(chosen), max_num) // batch_size * batch_size
    if not num:
        raise MetricError(f'{train.name}: {len(train)} training and {len(chosen)} held-out images do not fill a batch '
                          f'of {batch_size} each')
    rng = np.random.default_rng(seed)
    D = frozen_copy(D, device)
    on_train = _scores_of_items(D, train, rng.permutation(len(train))[:num], batch_size, device)
    on_rest = _scores_of_items(D, rest, rng.permutation(chosen)[:num], batch_size, device)
    result = {
        'train': float(on_train.mean()), 'held_out': float(on_rest.mean()),
        'gap': float(on_train.mean() - on_rest.mean()),
        'gap_std_err': float(((on_train.var() + on_rest.var()) / num).sqrt()),
    }
    if G is not None:
        result['generated'] = float(_scores_of_fakes(D, G, train, num, batch_size, seed, device).mean())
        spread = result['train'] - result['generated']
        # No spread: the discriminator scores all images alike.
        result['r_v'] = result['gap'] / spread if spread else float('nan')
    return result


def _both_sides(dataset_kwargs, held_out_kwargs):
    """(training set, a set that contains held-out images, the numbers of these in it)."""
    train = open_dataset(dataset_kwargs)
    if held_out_kwargs is None:
        return train, *held_out_items(dataset_kwargs)
    rest = open_dataset(held_out_kwargs)
    return train, rest, range(len(rest))


def held_out_items(dataset_kwargs: Mapping[str, Any]) -> tuple[Any, list[int]]:
    """(the whole data set, numbers of the images in it that a run with these arguments never saw).

    Raises:
        MetricError: If it saw them all.
    """
    subset, whole = open_dataset(dataset_kwargs), open_dataset(dataset_kwargs, max_size=None, xflip=False)
    seen = {subset.get_details(i).raw_idx for i in range(len(subset))}
    rest = [i for i in range(len(whole)) if whole.get_details(i).raw_idx not in seen]
    if not rest:
        raise MetricError(f'{whole.name}: training saw all {len(whole)} images, none is held out; '
                          'train on a subset or give another data set')
    return whole, rest


@torch.no_grad()
def _scores_of_items(D, dataset, indices, batch_size, device):
    """Logits, float64 [N], of these items."""
    scores = []
    for batch in np.split(indices, len(indices) // batch_size):
        check_stop()
        items = [dataset[int(i)] for i in batch]
        images = torch.from_numpy(np.stack([item[0] for item in items])).to(device)
        c = torch.from_numpy(np.stack([item[1] for item in items])).to(device)
        scores.append(_judge(D, images.float() / 127.5 - 1, c))
    return torch.cat(scores)


@torch.no_grad()
def _scores_of_fakes(D, G, dataset, num, batch_size, seed, device):
    """Logits, float64 [num], of generated images."""
    G = frozen_copy(G, device)
    inputs = GeneratorInputs(seed, G.z_dim, Labels(G.c_dim, [DatasetLabels(dataset)]), device)
    scores = []
    for i in range(0, num, batch_size):
        check_stop()
        indices = range(i, i + batch_size)
        z, c, _ = inputs.latents(indices)
        images = with_noise(G, inputs.noise(G, indices), z[:, 0], c)
        scores.append(_judge(D, images, c))
    return torch.cat(scores)


def _judge(D, images, c):
    """Logits, float64 [N]. A discriminator that is told of the augmentation, too, is told that there was none."""
    untold = max(getattr(D, 'c_dim', 0) - c.shape[1], 0)
    return D(images, pad(c, (0, untold))).flatten().cpu().double()
