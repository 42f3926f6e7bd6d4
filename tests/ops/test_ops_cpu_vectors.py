"""The CPU kernels are vectorised for every processor, whatever its vectors are, and where an element stands changes no bit."""
import shutil
import subprocess

import pytest
import torch

from torch_utils.ops import backend, build
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

X86 = ('x86-64', 'x86-64-v3', 'x86-64-v4')              # SSE, AVX2, AVX-512.
LOOP = '''
#include "bias_act.h"
using namespace zoo;
void work(const BiasAct& p, float* __restrict out, const float* __restrict dy, const float* __restrict ref) {
    const Activation<Act::%s, float> op(p);
    for (int64_t i = 0; i < p.size; ++i) out[i] = op.apply<%d>(0.0f, dy[i], ref[i]);
}
'''


@pytest.fixture(scope='module')
def gcc():
    """A compiler that can say what it has vectorised, for processors of this kind."""
    path = shutil.which('g++')
    if path is None or subprocess.run([path, '-march=x86-64-v4', '-x', 'c++', '-fsyntax-only', '-'], input='', text=True,
                                      capture_output=True).returncode:
        pytest.skip('there is no g++ that knows the levels of x86-64')
    return [path, *build.BASE_FLAGS, *build.KERNEL_FLAGS, f'-I{build.SOURCE_DIR}', '-c', '-o', '/dev/null']


@pytest.mark.parametrize('march', X86[1:])
@pytest.mark.parametrize('order', [0, 1])
@pytest.mark.parametrize('act', ['linear', 'relu', 'lrelu'])
def test_a_condition_keeps_no_loop_from_being_vectorised(gcc, act, order, march):
    command = [*gcc, f'-march={march}', '-fopt-info-vec-optimized', '-x', 'c++', '-']
    result = subprocess.run(command, input=LOOP % (act, order), text=True, capture_output=True, check=True)
    assert 'loop vectorized' in result.stderr


@pytest.mark.parametrize('march', X86)
def test_vectors_are_those_of_the_processor(gcc, march):
    """Of a wider one the compiler says that it would pass it otherwise (-Wpsabi); it would add its elements one by one."""
    source = build.SOURCE_DIR / 'upfirdn2d_cpu.cpp'
    result = subprocess.run([*gcc, f'-march={march}', '-O1', str(source)], text=True, capture_output=True, check=True)
    assert result.stderr == ''


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('factors', [dict(), dict(up=2), dict(down=2)], ids=str)
@pytest.mark.parametrize('shape', [(3, 9, 9), (5, 8, 8), (16, 13, 31)], ids=str)
def test_the_place_in_a_batch_changes_no_bit(shape, factors, layout):
    if reason := backend.why_not('cpu', torch.float32):
        pytest.skip(reason)
    img = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=layout)

    def filtered(images):
        return upfirdn2d(images, setup_filter([1, 3, 3, 1]), padding=[2, 1, 2, 1], impl='native', **factors)
    assert torch.equal(filtered(img), torch.cat([filtered(img[i:i + 1]) for i in range(len(img))]))
