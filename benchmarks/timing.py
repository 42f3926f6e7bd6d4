"""The clock of benchmarks."""
import time
from collections.abc import Callable

# What is measured where nothing else is asked for: small networks with every phase that large ones have, 16 images at once.
SMALL = ['--cfg=tiny', '--batch=16', '--glr=0.0025', '--dlr=0.0025', '--cbase=1024', '--pl_weight=2', '--mixing-prob=0.9']


def clock_of(device: str) -> Callable[[], float]:
    """Processor time on a CPU, which others may use, too; on a GPU, which one waits for, the time that passes."""
    return time.process_time if device == 'cpu' else time.perf_counter


def seconds(step: Callable[[], object], device: str) -> float:
    """How long a step takes, until the device has done it."""
    import torch
    clock = clock_of(device)
    begin = clock()
    step()
    if device == 'cuda':
        torch.cuda.synchronize()
    return clock() - begin
