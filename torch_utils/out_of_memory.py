"""Whether an error says that a device has run out of memory."""
import torch

from dnnlib.memory import has_run_out


def is_out_of_memory(error: RuntimeError) -> bool:
    """Does this error of torch, the driver or a library say that the device has run out of memory?"""
    return isinstance(error, torch.OutOfMemoryError) or has_run_out(error)
