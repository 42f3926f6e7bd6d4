"""Where the programs and their modules (`train`, `training`, `torch_utils`, ...) lie, and how they are made
importable.

In a checkout they lie beside this package. A wheel has them in `loss_zoo/_programs/`: at the top level of
site-packages they would replace, or be replaced by, modules of other programs that have the same names.
"""
import sys
from functools import cache
from pathlib import Path

PACKAGES = ('training', 'torch_utils', 'dnnlib', 'metrics', 'losses_ext', 'drawing')


class NameTaken(ImportError):
    """This process has imported modules of another program under names that ours need."""


def folder() -> Path:
    """The directory that holds the programs."""
    here = Path(__file__).resolve().parent
    private = here / '_programs'
    return private if private.is_dir() else here.parent


@cache
def make_importable() -> None:
    """Puts the programs before everything else on the path of modules.
    Raises NameTaken where that comes too late."""
    where = folder()
    for name in PACKAGES:
        module = sys.modules.get(name)
        places = [*getattr(module, '__path__', [])] or [getattr(module, '__file__', None) or 'of no file']
        if module is not None and Path(places[0]).resolve() != where / name:
            raise NameTaken(f'a module named {name!r} of another program is in use in this process ({places[0]}); '
                            'use loss_zoo in a process of its own')
    sys.path.insert(0, str(where))
