"""How CUDA's libraries may round: set once per process, before it computes.

torch lets cuBLAS add up products of half precision in half precision when that is faster.
The sums of this project are long (the gradient of a ToRGB weight is one over all pixels), so they are always
formed in float32, as the convolutions' are. TF32 keeps ten bits of each factor;
as many as float16, beside which it is the default (`--allow-tf32`).
"""
import torch


def sum_in_float32() -> None:
    """From now on sums of float16 and bfloat16 products are formed in float32,
    in every matrix product on CUDA."""
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def allow_tf32(value: bool) -> None:
    """May convolutions and matrix products of float32 numbers run in TF32?"""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = value
