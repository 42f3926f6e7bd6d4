"""Whether an error says that a device has run out of memory."""
import re

import torch

# In the words of the CUDA runtime and driver (torch.AcceleratorError), of MPS, of the CPU's allocator, and of cuBLAS, cuDNN,
# cuFFT, cuSOLVER and cuSPARSE; cuDNN also finds no way to convolve if there is room for none.
OUT_OF_MEMORY = ("out of memory|not enough memory|can't allocate memory|ALLOC_FAILED|ALLOCATION_FAILED|INSUFFICIENT_RESOURCES"
                 "|unable to find an engine")


def is_out_of_memory(error: RuntimeError) -> bool:
    """Does this error of torch, the driver or a library say that the device has run out of memory?"""
    return isinstance(error, torch.OutOfMemoryError) or re.search(OUT_OF_MEMORY, str(error)) is not None
