"""Helpers that know nothing of torch nor of this project: attribute dictionaries, logging,
names, downloads. What they need is imported when they are asked for: programs import this package first (`ctrl_c.py`)."""
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnnlib import util
    from dnnlib.util import EasyDict

__all__ = ['EasyDict', 'util']


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    module = importlib.import_module('dnnlib.util')
    return module if name == 'util' else getattr(module, name)
