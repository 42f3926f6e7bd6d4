"""Freed memory stays with the process."""
import os
import subprocess
import sys

import pytest

from torch_utils import allocator

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


@pytest.mark.parametrize('name', allocator.ALLOC_CONF)
def test_segments_grow_unless_a_variable_says_otherwise(monkeypatch, name):
    for each in allocator.ALLOC_CONF:
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr(sys, 'platform', 'linux')
    allocator.let_segments_grow()
    assert os.environ.pop(allocator.ALLOC_CONF[0]) == 'expandable_segments:True'
    monkeypatch.setenv(name, 'max_split_size_mb:64')
    allocator.let_segments_grow()
    assert {each: os.environ.get(each) for each in allocator.ALLOC_CONF if each in os.environ} == {name: 'max_split_size_mb:64'}
