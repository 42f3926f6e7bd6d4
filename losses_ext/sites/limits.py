"""A centre: how much the generator's site may ask it to build, and to take in at once. Checked before there is memory for it."""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from losses_ext.sites import apart
from training import setup

MAX_CENTRES = 1000
MAX_STAGES = 10_000
MAX_KIMG = 1e6                  # Going to a place in the order of the images takes some 0.3 s for each 1000.
MAX_SOURCES = 64                # Centres on line at the same time, each with critics that are built at all of them.
MIB = 2 ** 20


@dataclass(frozen=True)
class Limits:
    """Millions of weights of all networks of a run, and MiB of the images of an iteration or of a message."""
    network: float = 300.0
    message: float = 1024.0

    def check(self, config: Mapping[str, Any], schedule: str) -> None:
        """Raises ValueError if a configuration goes beyond them."""
        stages, num = schedule.split(','), len(apart.names(config))
        if len(stages) > MAX_STAGES or num > MAX_CENTRES:
            raise ValueError(f'the run has more than {MAX_STAGES} stages or {MAX_CENTRES} centres')
        if config['kimg'] > MAX_KIMG:
            raise ValueError(f'the run has more than {MAX_KIMG:g} kimg')
        if max(stage.count('+') for stage in stages) >= MAX_SOURCES:
            raise ValueError(f'the run has more than {MAX_SOURCES} centres on line at the same time')
        shape = config['data_shape']
        num_images, size = max(config['batch'], config['batch_gpu']), shape['img_resolution']
        self._require('message', 'MiB of images at once', num_images * shape['img_channels'] * size ** 2 * 4 / MIB)
        try:
            with torch.random.fork_rng(devices=[]), torch.device('meta'):           # Shapes without numbers.
                game = setup.build_game({**config}, torch.device('meta'))
        except RuntimeError as error:                   # Shapes that no tensor can have.
            raise ValueError('the run asks for networks that nobody can build') from error
        weights = sum(math.prod(p.shape) for player in game.players for p in player.module.parameters())
        self._require('network', 'million weights', weights / 1e6)
        channels = getattr(game.G.module.synthesis, 'channels', {})
        maps = sum(channels[res] * res ** 2 for res in game.tap_G) * config['batch_gpu'] * 4 / MIB
        self._require('message', 'MiB of feature maps in a message', maps)

    def _require(self, name: str, what: str, found: float) -> None:
        most = getattr(self, name)
        if found > most:
            raise ValueError(f'the run asks for {found:.4g} {what}; this centre allows {most:g} (--max-{name})')
