"""Random numbers of generated images: those of image i depend on the seed and on i, on nothing else.

Hence a score is the same for every batch size and every number of processes.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from metrics.names import MetricError
from torch_utils.randomness import Streams


class Labels:
    """Labels of generated images: those of uniformly random real images, so that they follow the data.

    Args:
        c_dim: Width of the label that the generator takes; 0 for an unconditional one,
            which needs no sources.
        sources: For each data set a sequence of its images' labels, [K] each; one entry per image.
        codes: For each source what is appended to its labels (the code of a data centre), or None.

    Raises:
        MetricError: If the labels do not have the width that the generator takes.
    """

    def __init__(self, c_dim: int, sources: Sequence[Sequence] = (), codes: Sequence | None = None):
        self.c_dim = c_dim
        self.sources = sources if c_dim else []
        self.codes = codes if codes is not None else [()] * len(self.sources)
        self.ends = np.cumsum([len(source) for source in self.sources])
        for source, code in zip(self.sources, self.codes):
            width = len(source[0]) + len(code)
            if width != c_dim:
                raise MetricError(f'the generator takes labels of width {c_dim}, the data set gives {width}; '
                                  'a network and its data must agree on the classes')
        if c_dim and not len(self.ends):
            raise MetricError(f'the generator takes labels of width {c_dim}, and there is no data set to give them')

    def sample(self, rng: torch.Generator) -> torch.Tensor:
        """One label, float32 [c_dim]."""
        if not self.c_dim:
            return torch.zeros(0)
        index = int(torch.randint(int(self.ends[-1]), [], generator=rng))
        k = int(np.searchsorted(self.ends, index, side='right'))
        label = self.sources[k][index - (self.ends[k] - len(self.sources[k]))]
        return torch.from_numpy(np.concatenate([label, self.codes[k]]).astype(np.float32))


class DatasetLabels(Sequence):
    """The labels of a data set as a sequence."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset.get_label(int(index))


class GeneratorInputs:
    """Latents, labels, and noise of numbered images.

    Args:
        seed: Seed of all of them.
        z_dim: Width of a latent.
        labels: Where labels come from.
        device: Of what is returned. Latents and labels are drawn on the CPU, hence equal everywhere,
            noise on it.
    """

    def __init__(self, seed: int, z_dim: int, labels: Labels, device: torch.device | str = 'cpu'):
        self.z_dim, self.labels, self.device = z_dim, labels, device
        streams = Streams(seed)
        self._first_seeds = {name: streams.seed_of(0, f'metrics/{name}') for name in ('latent', 'noise')}
        self._rngs = {'latent': torch.Generator(), 'noise': torch.Generator(device)}

    def latents(self, indices: Sequence[int],
                per_image: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(z [N, per_image, z_dim], c [N, c_dim], t [N] uniform in 0..1) of the numbered images."""
        rows = []
        for index in indices:
            rng = self._rng('latent', index)
            z = torch.randn([per_image, self.z_dim], generator=rng)
            rows.append((z, self.labels.sample(rng), torch.rand([], generator=rng)))
        return tuple(torch.stack(column).to(self.device) for column in zip(*rows))

    def noise(self, network: torch.nn.Module, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Fresh noise [N, 1, H, W] for every noise buffer of a network, by the buffer's name."""
        shapes = {name: buffer.shape for name, buffer in network.named_buffers()
                  if name.endswith('noise_const')}
        if not shapes:
            return {}
        rows = []
        for index in indices:
            rng = self._rng('noise', index)
            rows.append([torch.randn([1, *shape], generator=rng, device=self.device)
                         for shape in shapes.values()])
        return {name: torch.stack(column) for name, column in zip(shapes, zip(*rows))}

    def _rng(self, name, index):
        # Consecutive seeds stay different in the 32 bits that the CPU's generator keeps of a seed; hashes
        # would not.
        return self._rngs[name].manual_seed((self._first_seeds[name] + index) % 2 ** 63)


def with_noise(network: torch.nn.Module, noise: dict[str, torch.Tensor], *args, **kwargs) -> torch.Tensor:
    """Calls a network with other values in its noise buffers; [N, 1, H,
    W] gives each image noise of its own."""
    if not noise:
        return network(*args, **kwargs)
    return torch.func.functional_call(network, noise, args, {**kwargs, 'noise_mode': 'const'})
