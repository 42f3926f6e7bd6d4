"""Multiply-add and grid sampling: values and derivatives against plain expressions."""
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops.fma import fma
from torch_utils.ops.grid_sample_gradfix import grid_sample

OPERANDS = {
    'demodulation_and_noise': ((2, 3, 4, 5), (2, 3, 1, 1), (2, 1, 4, 5)),
    'shared_noise': ((2, 3, 4, 5), (2, 3, 1, 1), (4, 5)),
    'all_alike': ((3, 4), (3, 4), (3, 4)),
    'numbers': ((3, 4), (), ()),
}


@pytest.mark.parametrize('shapes', OPERANDS.values(), ids=OPERANDS)
def test_fma_is_multiply_and_add(shapes):
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    torch.testing.assert_close(fma(*tensors), tensors[0] * tensors[1] + tensors[2], rtol=1e-14, atol=1e-14)
    assert gradcheck(fma, tensors)
    assert gradgradcheck(fma, tensors)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=['contiguous', 'channels_last'])
def test_fma_keeps_dtype_and_layout(dtype, tolerance, layout):
    a, b, c = (torch.randn(shape).to(dtype) for shape in OPERANDS['demodulation_and_noise'])
    y = fma(a.contiguous(memory_format=layout), b, c)
    assert y.dtype == dtype and y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y.double(), a.double() * b.double() + c.double(), rtol=tolerance, atol=tolerance)


def image_and_grid(shape=(2, 3, 5, 6), out=(4, 7)):
    image = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    return image, torch.rand(shape[0], *out, 2, dtype=torch.float64) * 3 - 1.5      # Also outside the image.


def test_grid_sample_equals_the_stock_function():
    image, grid = image_and_grid()
    results = []
    for op in (grid_sample, lambda *t: F.grid_sample(*t, align_corners=False)):
        y = op(image, grid)
        first, = torch.autograd.grad(y.sin().sum(), image)
        results.append([y, first])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_grid_sample_derivatives_up_to_the_third():
    image, grid = image_and_grid((1, 2, 3, 4), (3, 2))
    assert gradcheck(lambda t: grid_sample(t, grid), image)
    assert gradgradcheck(lambda t: grid_sample(t, grid).square(), image)

    def slope(t):
        return torch.autograd.grad(grid_sample(t, grid).pow(3).sum(), t, create_graph=True)[0]
    assert gradgradcheck(slope, image)


def test_grid_sample_differentiates_a_grid_that_asks_for_it():
    image, grid = image_and_grid()
    grid.requires_grad_()
    expected, = torch.autograd.grad(F.grid_sample(image, grid, align_corners=False).square().sum(), grid)
    assert torch.equal(torch.autograd.grad(grid_sample(image, grid).square().sum(), grid)[0], expected)


def test_grid_sample_of_an_empty_batch():
    image, grid = image_and_grid((0, 3, 5, 6))
    y = grid_sample(image, grid)
    assert y.shape == (0, 3, 4, 7) and torch.autograd.grad(y.sum(), image)[0].shape == image.shape


def test_grid_sample_refuses_wrong_ranks_with_their_values():
    with pytest.raises(AssertionError, match=r'input \[3, 5, 6\], grid \[4, 7, 2\]: must be'):
        grid_sample(torch.ones(3, 5, 6), torch.ones(4, 7, 2))
