"""Whether an error says that memory has run out."""
import re

# In the words of the CUDA runtime and driver (torch.AcceleratorError), of MPS, of the CPU's allocator, and of cuBLAS, cuDNN,
# cuFFT, cuSOLVER and cuSPARSE; cuDNN also finds no way to convolve if there is room for none.
OUT_OF_MEMORY = ("out of memory|not enough memory|can't allocate memory|ALLOC_FAILED|ALLOCATION_FAILED|INSUFFICIENT_RESOURCES"
                 "|unable to find an engine")


def has_run_out(error: Exception) -> bool:
    """Does this error of Python, torch, the driver or a library say that there was not enough memory?"""
    return isinstance(error, MemoryError) or re.search(OUT_OF_MEMORY, str(error)) is not None
