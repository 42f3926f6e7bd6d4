"""Streams of numbered uint8 images [N, 3, H, W]: those of a data set, and those that a generator makes."""
from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

import dnnlib.util
from metrics.generator_inputs import DatasetLabels, GeneratorInputs, Labels, with_noise
from metrics.names import MetricError
from training.data.stages import (
    end_with_program,
    has_no_room,
    ignore_stop_signals,
    processes,
    tell_of_no_processes,
    without_traceback,
)
from training.data.storage import folders_below


def open_dataset(dataset_kwargs: Mapping[str, Any], **changes: Any):
    """The data set of these arguments (class_name among them), some of them changed. Without mirror images none is upside down.

    Raises:
        MetricError: If it cannot be opened.
    """
    try:
        kwargs = {**dataset_kwargs, **changes}
        if changes.get('xflip') is False and 'yflip' not in changes:
            kwargs.pop('yflip', None)
        return dnnlib.util.construct_class_by_name(**kwargs)
    except OSError as error:
        raise MetricError(str(error)) from error


class DatasetImages:
    """The first images of a data set, in its order.

    Args:
        dataset_kwargs: Class name and arguments of the data set.
        max_num: At most that many images; None takes all.
        keep_xflip: Keep mirrored images if the arguments ask for them; else they are left out.
        whole: The whole data set, even if the arguments ask for a subset:
            a run on few images is scored against all.
        num_workers: Processes that decode images.

    Raises:
        MetricError: If the data set cannot be opened, or its images have neither one nor three channels.
    """

    def __init__(self, dataset_kwargs: Mapping[str, Any], max_num: int | None = None,
                 keep_xflip: bool = False, whole: bool = True, num_workers: int = 3):
        changes = {'xflip': keep_xflip and dataset_kwargs.get('xflip', False)}
        if keep_xflip and dataset_kwargs.get('yflip'):
            changes['yflip'] = True
        if whole:
            changes['max_size'] = None
        self.dataset = open_dataset(dataset_kwargs, **changes)
        self.name = self.dataset.name
        self.path = str(dataset_kwargs.get('path', ''))
        self.num = min(len(self.dataset), max_num or len(self.dataset))
        self.num_workers = num_workers
        if self.dataset.num_channels not in (1, 3):
            raise MetricError(f'{self.name}: images have {self.dataset.num_channels} channels; metrics need 1 or 3')
        options = {key: value for key, value in dataset_kwargs.items() if key not in ('path', 'use_labels')}
        self.identity = {**options, **changes, 'max_num': max_num}

    @property
    def key(self) -> tuple:
        """Equal for the same images of the same files."""
        options = {name: value for name, value in self.identity.items() if name != 'max_num'}
        return self.path, self.num, tuple(sorted((name, str(value)) for name, value in options.items()))

    def fingerprint(self) -> str | None:
        """SHA-256 of the content of the data set; None if its class offers none.

        Read again only if files changed.
        """
        if not hasattr(self.dataset, 'fingerprint'):
            return None
        key = (self.path, _stamp(self.path))
        if key not in _fingerprints:
            _fingerprints[key] = self.dataset.fingerprint()
        return _fingerprints[key]

    def batches(self, batches: Sequence[range]) -> Iterator[torch.Tensor]:
        """The images of each range of numbers in turn. Raises MetricError if one cannot be read."""
        num_workers, num_loaded = min(self.num_workers, os.cpu_count() or 1, len(batches)), 0
        try:
            for batch in self._load(batches, num_workers):
                yield batch
                num_loaded += 1
        except RuntimeError as error:
            if not has_no_room(error):
                raise
            tell_of_no_processes(error)
            yield from self._load(batches[num_loaded:], 0)

    def _load(self, batches: Sequence[range], num_workers: int) -> Iterator[torch.Tensor]:
        loader = torch.utils.data.DataLoader(
            self.dataset, batch_sampler=[list(batch) for batch in batches], collate_fn=_stack,
            **processes(num_workers), worker_init_fn=ignore_stop_signals,
            # Seeds of the workers come from here; by default they would be drawn from the training run's
            # generator.
            generator=torch.Generator())
        try:
            items = iter(loader)
            end_with_program(items)
            yield from map(as_rgb, items)
        # An error of a worker process contains a traceback; the sentence for the user is its last line.
        except OSError as error:
            raise MetricError(without_traceback(error).splitlines()[-1]) from error

    def pick(self, indices: Sequence[int]) -> torch.Tensor:
        """The images of these numbers."""
        return as_rgb(_stack([self.dataset[i] for i in indices]))


class GeneratedImages:
    """The images that a generator makes of numbered inputs.

    Args:
        G: The generator.
        inputs: Its random numbers.
        num: How many images there are.
        batch_gen: How many are made at once.
        G_kwargs: Further arguments of the generator's call.
    """

    def __init__(self, G: torch.nn.Module, inputs: GeneratorInputs, num: int, batch_gen: int = 4,
                 G_kwargs: Mapping[str, Any] | None = None):
        self.G, self.inputs, self.num = G, inputs, num
        self.batch_gen, self.G_kwargs = batch_gen, dict(G_kwargs or {})
        if torch.device(inputs.device).type != 'cuda' and any(getattr(module, 'use_fp16', False) for module in G.modules()):
            self.G_kwargs.setdefault('force_fp32', True)  # As generate.py: half precision is for CUDA only.

    @torch.no_grad()
    def batches(self, batches: Sequence[range]) -> Iterator[torch.Tensor]:
        """The images of each range of numbers in turn."""
        for batch in batches:
            parts = [batch[i:i + self.batch_gen] for i in range(0, len(batch), self.batch_gen)]
            yield as_rgb(torch.cat([to_uint8(self._generate(part)) for part in parts]))

    def _generate(self, indices):
        z, c, _ = self.inputs.latents(indices)
        images = with_noise(self.G, self.inputs.noise(self.G, indices), z[:, 0], c, **self.G_kwargs)
        num_bad = len(images) - int(images.isfinite().flatten(1).all(dim=1).sum())
        if num_bad:
            raise MetricError(f'{num_bad} of {len(images)} generated images have NaN or infinite pixels')
        return images


def generated_images(options: Any, num: int) -> GeneratedImages:
    """The first images that the generator of an evaluation (`metric_main.MetricOptions`) makes, with labels
    of its data set.

    Raises:
        MetricError: If there is no generator, or no data set that has its labels.
    """
    if options.G is None:
        raise MetricError('this metric needs a generator')
    device = options.device if options.device is not None else next(options.G.parameters()).device
    G = frozen_copy(options.G, device)
    has_labels = G.c_dim and options.dataset_kwargs is not None
    sources = [DatasetLabels(open_dataset(options.dataset_kwargs, max_size=None, xflip=False))] if has_labels else []
    inputs = GeneratorInputs(options.seed, G.z_dim, Labels(G.c_dim, sources), device)
    return GeneratedImages(G, inputs, num, options.batch_gen, options.G_kwargs)


def real_images(options: Any, num: int | None = None) -> DatasetImages:
    """The first images of the data set of an evaluation (`metric_main.MetricOptions`), at most `num`.

    Raises:
        MetricError: If there is no data set, or it is not one whose images are here.
    """
    if options.dataset_kwargs is None:
        raise MetricError('this metric needs one data set of real images, not several centres' if options.centres
                          else 'this metric needs a data set of real images')
    if not isinstance(options.dataset_kwargs, Mapping):
        raise MetricError('this metric needs real images, and those of this run are on other machines')
    return DatasetImages(options.dataset_kwargs, num, num_workers=options.num_workers)


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images in -1..1 as 8-bit numbers: 127.5 x + 128, clamped and cut off, as the reference's metrics do."""
    return (images.float() * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Grey images [N, 1, H, W] repeated to three channels; others as they are."""
    return images.repeat([1, 3, 1, 1]) if images.shape[1] == 1 else images


def frozen_copy(G: torch.nn.Module, device: torch.device | str) -> torch.nn.Module:
    """A copy in evaluation mode, without gradients, on the device."""
    return copy.deepcopy(G).eval().requires_grad_(False).to(device)


# The fingerprints known to this process: the one of a folder takes reading every file.
_fingerprints: dict[tuple, str] = {}


def _stamp(path):
    """Changes when files do: names, sizes and times of modification of everything at a path that may be of the set."""
    found = [(path, os.stat(path))]
    if os.path.isdir(path):
        found += [(entry.path, _status(entry)) for _, entries in folders_below(path) for entry in entries]
    return hash(tuple(sorted((file, status.st_size, status.st_mtime_ns) for file, status in found)))


def _status(entry):
    """Of what a link leads to; of the link itself, where that is nothing."""
    try:
        return entry.stat()
    except OSError:
        return entry.stat(follow_symlinks=False)


def _stack(items):
    return torch.from_numpy(np.stack([item[0] for item in items]))    # Items are (image, label), or more.
