"""Allocators: the C library's keeps what a process frees, torch's on CUDA lets its blocks grow.

glibc hands large blocks back to the system as soon as they are free,
and the system hands them out again as pages that have to be mapped and zeroed at the first touch. A training
step allocates the same tensors over and over: on a CPU this took a tenth of its time (docs/performance.md).
"""
import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3         # <malloc.h>
ALLOC_CONF = 'PYTORCH_CUDA_ALLOC_CONF', 'PYTORCH_ALLOC_CONF', 'PYTORCH_HIP_ALLOC_CONF'   # All versions know the first.
LIMIT = 2 ** 31 - 1                                 # The largest value mallopt() takes: "never".


def keep_freed_memory() -> bool:
    """From now on freed memory stays with this process, for its next tensors;
    False if the C library cannot be told so."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if sys.platform == 'linux' else None
    return mallopt is not None and all([mallopt(M_TRIM_THRESHOLD, LIMIT), mallopt(M_MMAP_THRESHOLD, LIMIT)])


def let_segments_grow() -> None:
    """On CUDA, blocks of memory grow in place (`expandable_segments`), unless a variable of the allocator says otherwise.

    The margins of augmented images give nearly every step tensors of other sizes, for which blocks of fixed size are cut up and
    then are too small. To be called before the process, or one that it starts, first uses CUDA. Linux only, as the feature.
    """
    if sys.platform == 'linux' and not any(name in os.environ for name in ALLOC_CONF):
        os.environ[ALLOC_CONF[0]] = 'expandable_segments:True'
