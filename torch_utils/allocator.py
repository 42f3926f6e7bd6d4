"""The C library's allocator, told to keep what a process frees.

glibc hands large blocks back to the system as soon as they are free, and the system hands them out again as pages that
have to be mapped and zeroed at the first touch. A training step allocates the same tensors over and over: on a CPU this
took a tenth of its time (docs/performance.md).
"""
import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3         # <malloc.h>
LIMIT = 2 ** 31 - 1                                 # The largest value mallopt() takes: "never".


def keep_freed_memory() -> bool:
    """From now on freed memory stays with this process, for its next tensors; False where the C library has no say."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    return mallopt is not None and all([mallopt(M_TRIM_THRESHOLD, LIMIT), mallopt(M_MMAP_THRESHOLD, LIMIT)])
