"""Random numbers that are a function of where in the run they are used, not of what was drawn before.

Every consumer of random numbers (the latents of one phase, the augmentation of one micro-batch, ...)
asks for a generator under its own name. Its seed is a hash of (seed, rank, images so far, name). Hence a
resumed run needs no generator state, and switching a consumer on or off changes the numbers of no other.
"""
import hashlib
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Streams:
    """The random streams of one process.

    Args:
        seed: The seed of the run (any integer).
        rank: The rank of this process; every rank has streams of its own.
        device: Where the torch generators live.
    """
    seed: int
    rank: int = 0
    device: torch.device | str = 'cpu'

    def seed_of(self, nimg: int, consumer: str) -> int:
        """The seed, 64 bits, of the stream of `consumer` after `nimg` images: BLAKE2b of
        'seed/rank/nimg/consumer'."""
        key = f'{self.seed}/{self.rank}/{nimg}/{consumer}'
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), 'big')

    def generator(self, nimg: int, consumer: str) -> torch.Generator:
        """A fresh generator on the device. (On the CPU, torch uses the lower 32 bits of a seed.)"""
        return torch.Generator(self.device).manual_seed(self.seed_of(nimg, consumer))

    def numpy(self, nimg: int, consumer: str) -> np.random.Generator:
        """The same for NumPy: a fresh PCG64 generator of the same seed."""
        return np.random.default_rng(self.seed_of(nimg, consumer))
