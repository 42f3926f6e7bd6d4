"""Settings that every test shares, and what no test may leave behind."""
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch

from torch_utils.ops import backend

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind():
    """Commands set what holds for their process; later tests must find it as it was."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    is_deterministic, fills = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    sums = matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction
    with backend.default('auto'):
        yield
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
    torch.use_deterministic_algorithms(is_deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = fills
    matmul.allow_fp16_reduced_precision_reduction, matmul.allow_bf16_reduced_precision_reduction = sums
    torch.set_num_threads(1)
