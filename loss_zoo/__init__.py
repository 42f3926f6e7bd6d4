"""The StyleGAN2 loss zoo as one importable package and one command, `loss-zoo`.

    import loss_zoo
    net = loss_zoo.load('runs/00000-cats')          # A run, a file of any known format, or an address.
    net.image(seeds=[1, 2, 3]).shape                # [3, height, width, channels], uint8.
    run = loss_zoo.train(outdir='runs', data='photos.zip', mirror=True)
    loss_zoo.metrics.frechet(net.image(seeds=range(1000)), 'photos.zip')
    loss_zoo.terms.r1                               # The methods' terms, for training loops of one's own.

In a checkout the modules `training`, `torch_utils`, ... lie at the top level, where other programs of this
family have theirs. A wheel keeps them in a folder of its own (`loss_zoo/programs.py`), so that both can be
installed side by side. Importing this package imports neither them nor torch.
"""
import importlib
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loss_zoo import metrics, terms
    from loss_zoo.network import Network

__all__ = ['Network', 'load', 'metrics', 'terms', 'train']

try:
    __version__ = version('stylegan2-loss-zoo')
except PackageNotFoundError:        # A checkout that is not installed.
    __version__ = 'unknown'


def load(source: str, device: str = 'auto') -> 'Network':
    """The averaged generator of a network file of any known format, an address, or a run directory.

    device: 'auto' (the best there is), 'cpu', 'cuda' or 'mps'.
    Raises OSError if there is none, ValueError if it cannot be read; each with one sentence.
    """
    from loss_zoo.network import load
    return load(source, device)


def train(config: str | os.PathLike | Mapping[str, Any] | None = None, **options: Any) -> Path:
    """Trains as `loss-zoo train` does, and returns the directory of the run. The same call continues a run
    that was stopped.

    config: options by name, or a file of them (TOML, JSON, the directory of a run). options: more of them,
    which win: `train(outdir='runs', data='photos.zip', mirror=True, kimg=500)`; --init-from is init_from.
    Ctrl-C saves, stops and returns. Raises ValueError for options that do not do, RuntimeError for a run that
    fails, each with one sentence.
    """
    from loss_zoo.training import train
    return train(config, **options)


def __getattr__(name: str) -> Any:
    if name in ('metrics', 'terms'):
        return importlib.import_module(f'loss_zoo.{name}')
    if name == 'Network':
        from loss_zoo.network import Network
        return Network
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
