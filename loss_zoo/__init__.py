"""The StyleGAN2 loss zoo as one importable package and one command, `loss-zoo`.

    import loss_zoo
    net = loss_zoo.load('runs/00000-cats')          # A run, a file of any known format, or an address.
    net.image(seeds=[1, 2, 3]).shape                # [3, height, width, channels], uint8.

In a checkout the modules `training`, `torch_utils`, ... lie at the top level, where other programs of this
family have theirs. A wheel keeps them in a folder of its own (`loss_zoo/programs.py`), so that both can be
installed side by side. Importing this package imports neither them nor torch.
"""
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loss_zoo.network import Network

__all__ = ['Network', 'load']

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


def __getattr__(name: str) -> Any:
    if name == 'Network':
        from loss_zoo.network import Network
        return Network
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
