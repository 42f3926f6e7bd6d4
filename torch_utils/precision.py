"""How CUDA's libraries may round, and in which order: set once per process, before it computes.

torch lets cuBLAS add up products of half precision in half precision when that is faster.
The sums of this project are long (the gradient of a ToRGB weight is one over all pixels), so they are always
formed in float32, as the convolutions' are. TF32 keeps ten bits of each factor;
as many as float16, beside which it is the default (`--allow-tf32`).
"""
import os
import warnings

import torch


def sum_in_float32() -> None:
    """From now on sums of float16 and bfloat16 products are formed in float32,
    in every matrix product on CUDA."""
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def allow_tf32(value: bool) -> None:
    """May convolutions and matrix products of float32 numbers run in TF32?"""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = value


def search_or_determinism(search: bool, deterministic: bool) -> None:
    """May cuDNN try which of its algorithms is fastest; must every sum be formed in one order?

    With `deterministic` nothing is searched for, since every process would find its own. What torch has no such
    algorithm for runs as it is; of the operators in use that is the gradient of sampled images, which is formed in
    float64 instead.
    """
    torch.backends.cudnn.benchmark = search and not deterministic
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False         # That is for finding faults, and costs launches.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')     # cuBLAS reads it when it starts.
        warnings.filterwarnings('ignore', 'grid_sampler_2d_backward_cuda does not have a deterministic')
