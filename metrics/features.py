"""Features of image streams: computed by a detector, shared out among processes,
those of data sets kept in a cache.

A cache entry is found by everything it depends on (content of the data set, options, detector, taps),
never by a path alone, so it cannot be stale. It is a safetensors file with a checksum,
written under a temporary name first.
"""
from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import dnnlib.util
from metrics.detector import Detector
from metrics.image_streams import DatasetImages, GeneratedImages
from metrics.moments import Moments
from metrics.sharding import ahead, in_order, on_main
from torch_utils import checkpoint, distributed

_CACHE_FORMAT = 1       # Part of every key, so that entries in another format are not found.
_MOMENTS_BLOCK = 1024   # Feature vectors per update of the moments.


@dataclass(frozen=True)
class FeatureOptions:
    """How features are computed; none of it changes them.

    Attributes:
        device: Where the detector is.
        batch_size: Images per call of the detector.
        cache: Keep the features of data sets?
        cache_dir: Where; None is `metrics` in the cache directory of dnnlib.
        progress: Show a bar?
    """
    device: torch.device | str = 'cpu'
    batch_size: int = 64
    cache: bool = True
    cache_dir: str | None = None
    progress: bool = False


def feature_moments(
    images: DatasetImages | GeneratedImages, detector: Detector, taps: Sequence[str], options: FeatureOptions,
) -> dict[str, Moments] | None:
    """{tap: moments of the features of all images} on process 0, None on the others.

    Raises:
        MetricError: If images cannot be read or made.
    """
    def compute():
        moments = {tap: Moments(detector.taps[tap]) for tap in taps}
        for rows in _in_blocks(_features(images, detector, taps, options), _MOMENTS_BLOCK):
            if distributed.rank() == 0:
                for tap, part in zip(taps, _split(rows, detector, taps)):
                    moments[tap].add(part)
        return {f'{tap}/{name}': tensor for tap in taps for name, tensor in moments[tap].state().items()}

    state = _cached(images, detector, taps, 'moments', compute, options)
    if distributed.rank() > 0:
        return None
    return {tap: Moments.from_state({name: state[f'{tap}/{name}'] for name in ('counts', 'mean', 'scatter')})
            for tap in taps}


def feature_rows(
    images: DatasetImages | GeneratedImages, detector: Detector, taps: Sequence[str], options: FeatureOptions,
) -> dict[str, torch.Tensor] | None:
    """{tap: features float32 [N, width] of all images} on process 0, None on the others; raises the same."""
    def compute():
        keeps = distributed.rank() == 0
        parts = [rows for rows in _features(images, detector, taps, options) if keeps]
        rows = torch.cat(parts) if parts else torch.zeros(0, sum(detector.taps[tap] for tap in taps))
        return dict(zip(taps, _split(rows, detector, taps)))

    state = _cached(images, detector, taps, 'rows', compute, options)
    return state if distributed.rank() == 0 else None


def _features(images, detector, taps, options) -> Iterator[torch.Tensor]:
    """Features at all taps side by side, float32 [n, sum of widths] per batch, in order, on every process."""
    def compute(batches):
        with torch.no_grad():
            for batch in ahead(images.batches(batches)):
                features = detector(batch.to(options.device), taps)
                yield torch.cat([features[tap].float() for tap in taps], dim=1)

    title = f'{detector.name} features of {"generated images" if isinstance(images, GeneratedImages) else images.name}'
    return in_order(images.num, options.batch_size, compute, title, options.progress)


def _split(rows, detector, taps):
    return rows.split([detector.taps[tap] for tap in taps], dim=1)


def _in_blocks(pieces: Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """The rows of all pieces in blocks of `size`, cut at the same places whatever the pieces are."""
    rest = []
    for piece in pieces:
        rest.append(piece)
        if sum(map(len, rest)) >= size:
            rows = torch.cat(rest)
            num_full = len(rows) // size * size
            yield from rows[:num_full].split(size)
            rest = [rows[num_full:]]
    if rest:
        yield torch.cat(rest)


# The cache.


def _cached(images, detector, taps, kind, compute, options) -> dict[str, torch.Tensor]:
    """What `compute` returns, or what it returned before."""
    path, key = on_main(lambda: _entry(images, detector, taps, kind, options))
    if path is None:
        return compute()
    known = _read(path) if distributed.rank() == 0 else None
    if distributed.broadcast_object(known is not None):
        return known or {}
    state = compute()
    if distributed.rank() == 0:
        _write(path, state, key)
    return state


def _entry(images, detector, taps, kind, options) -> tuple[Path | None, dict[str, Any]]:
    """(path of the cache entry, what it depends on); (None, {}) for what is not cached."""
    fingerprint = images.fingerprint() if options.cache and isinstance(images, DatasetImages) else None
    if fingerprint is None:
        return None, {}
    key = {
        'format': _CACHE_FORMAT, 'dataset': fingerprint, 'dataset_options': images.identity, 'kind': kind,
        'taps': list(taps), 'detector': detector.name, 'detector_sha256': detector.sha256,
        'resize': detector.resize_rule,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    folder = Path(options.cache_dir or dnnlib.util.make_cache_dir_path('metrics'))
    return folder / f'{digest}.safetensors', key


def _read(path):
    """The tensors of a cache entry; None if there is none or it is damaged."""
    try:
        return checkpoint.load(path)[0]
    except FileNotFoundError:
        return None
    except (OSError, checkpoint.CheckpointError) as error:
        print(f'Cached features are computed again: {error}')
        return None


def _write(path, state, key):
    try:
        os.makedirs(path.parent, exist_ok=True)
        checkpoint.save(path, state, json.loads(json.dumps(key, default=str)))
    except OSError as error:
        print(f'Features are not cached: {error}')
