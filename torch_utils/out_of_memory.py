"""Whether an error says that a device has run out of memory."""
import re

import torch

from dnnlib.memory import OUT_OF_MEMORY


def is_out_of_memory(error: RuntimeError) -> bool:
    """Does this error of torch, the driver or a library say that the device has run out of memory?"""
    return isinstance(error, torch.OutOfMemoryError) or re.search(OUT_OF_MEMORY, str(error)) is not None
