"""Which implementation an operator runs on: plain tensor operations, or the compiled ones.

Every operator that has a compiled implementation takes `impl`:

    auto      compiled where that is possible, plain tensor operations otherwise (said once, with the reason)
    ref       plain tensor operations
    native    compiled, or an error that says what is missing ('cuda' is another word for it)
"""
from torch import Tensor

IMPLS = ('auto', 'ref', 'native', 'cuda')


def use_native(impl: str, x: Tensor) -> bool:
    """True if an operator called with this `impl` on this tensor is to run its compiled implementation."""
    assert impl in IMPLS, f'impl={impl!r}: must be one of {", ".join(IMPLS)}'
    if impl in ('native', 'cuda'):
        raise RuntimeError(f"impl={impl!r}: no compiled operators here; use impl='auto' or 'ref'")
    return False
