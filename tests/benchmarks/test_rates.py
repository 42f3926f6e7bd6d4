"""What benchmarks/rates.py counts as the arithmetic of a training iteration."""
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fake_cuda import CUDA, CudaTensor, FakeCuda

from torch_utils.ops.conv2d_gradfix import conv2d, conv_transpose2d
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

sys.path.append(str(Path(__file__).parents[2] / 'benchmarks'))
import rates  # noqa: E402
from rates import FlopCount  # noqa: E402

N, I, O, R = 2, 4, 6, 8
ONE_PASS = 2 * N * I * O * 9 * R * R        # Multiplications and additions of a 3x3 layer in one direction.


def tensors(groups=1):
    """Images and a weight that require gradients."""
    return torch.randn(N, I, R, R, requires_grad=True), torch.randn(O, I // groups, 3, 3, requires_grad=True)


@pytest.mark.parametrize('conv', [F.conv2d, conv2d])
@pytest.mark.parametrize('groups', [1, 2])
def test_a_layer_and_its_two_gradients_count_alike(conv, groups):
    x, w = tensors(groups)
    with FlopCount() as count:
        conv(x, w, padding=1, groups=groups).sum().backward()
    assert count.flops == {('convolution', torch.float32): 3 * ONE_PASS // groups}


def test_an_upsampling_layer_counts_what_it_multiplies():
    x, w = tensors()
    with FlopCount() as count:
        conv_transpose2d(x, w.transpose(0, 1), stride=2).sum().backward()
    assert count.flops == {('convolution', torch.float32): 3 * ONE_PASS}
    assert list(count.sizes)[0] == (N, I, O, R)


def test_a_gradient_penalty_counts_every_convolution_of_its_second_derivative():
    x, w = tensors()
    with FlopCount() as count:
        y = conv2d(x, w, padding=1).square()
        slope, = torch.autograd.grad(y.sum(), x, create_graph=True)
        slope.square().sum().backward()
    # y; slope and, for nothing, dy/dw; then two gradients of slope, a function of w and y; two of y.
    assert count.flops['convolution', torch.float32] == 7 * ONE_PASS


def test_filters_and_sums_do_not_count_and_products_do():
    x, w = tensors()
    with FlopCount() as count:
        upfirdn2d(x, setup_filter([1, 3, 3, 1]), padding=1, impl='ref').square().sum()
        x.flatten(1) @ torch.ones(I * R * R, 5)
    assert count.flops == {('matrix', torch.float32): 2 * N * I * R * R * 5}


def test_the_attainable_rate_of_a_gpu_is_measured_there(monkeypatch):
    results = []
    monkeypatch.setattr(rates, 'MATRIX_SIZE_ON_GPU', 8)
    monkeypatch.setattr(rates.AttainableRate, '_sample', lambda self, key, run, repeats: results.append(run()))
    with FakeCuda():
        rates.AttainableRate([(1, 2, 2, 4)], torch.float16, rates.clock_of(1, CUDA), CUDA).measure()
    tensors = [x for result in results for x in (result if isinstance(result, tuple | list) else [result]) if x is not None]
    assert len(results) == 7 and all(isinstance(x, CudaTensor) and x.dtype == torch.float16 for x in tensors)
