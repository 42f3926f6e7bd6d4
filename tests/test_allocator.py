"""Freed memory stays with the process."""
import subprocess
import sys

import pytest

PROGRAM = '''
import resource
import torch
from torch_utils.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.zeros(2 ** 24).add_(1)        # 64 MiB: 16384 pages.
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
first = faults()
kept = keep_freed_memory()
faults()
print(int(kept), first, faults())
'''


@pytest.mark.skipif(sys.platform != 'linux', reason='the allocator of glibc')
def test_freed_memory_is_used_again_without_new_pages():
    done = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True)
    kept, first, later = map(int, done.stdout.split())
    if not kept:
        pytest.skip('a C library without mallopt')
    assert later < first / 3
