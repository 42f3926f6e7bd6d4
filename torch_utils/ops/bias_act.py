"""Bias, activation, gain and clamp in one operator:

    y = clamp(gain * act(x + b), -c, c)

Each activation has a gain that keeps the variance of normally distributed input roughly where it is (sqrt(2) for the
rectifiers), used unless the caller gives another.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils.ops import backend
from torch_utils.ops.launched import compute_type


@dataclass(frozen=True)
class Activation:
    """An activation function and its defaults."""
    func: Callable[[Tensor, float], Tensor]     # (t, alpha) -> value.
    def_alpha: float = 0                        # Slope for t < 0; only `lrelu` has one.
    def_gain: float = 1


activation_funcs = {        # In the order of `enum Act` in csrc/bias_act.h.
    'linear':   Activation(lambda t, alpha: t),
    'relu':     Activation(lambda t, alpha: t.relu(), def_gain=math.sqrt(2)),
    'lrelu':    Activation(F.leaky_relu, def_alpha=0.2, def_gain=math.sqrt(2)),
    'tanh':     Activation(lambda t, alpha: t.tanh()),
    'sigmoid':  Activation(lambda t, alpha: t.sigmoid()),
    'elu':      Activation(lambda t, alpha: F.elu(t)),
    'selu':     Activation(lambda t, alpha: F.selu(t)),
    'softplus': Activation(lambda t, alpha: F.softplus(t)),
    'swish':    Activation(lambda t, alpha: F.silu(t), def_gain=math.sqrt(2)),
}


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = 'linear',
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    impl: str = 'auto',
    base: Tensor | None = None,
) -> Tensor:
    """Adds a bias, applies an activation function, scales and clamps; twice differentiable in `x` and `b`.

    Args:
        x:     Tensor of any shape, floating point.
        b:     Bias [x.shape[dim]], or None: with the dtype of `x`, or float32, which is rounded to that of `x` but on GPUs.
        dim:   Axis of `x` that the bias belongs to, 0 or more; of no consequence without bias.
        act:   Name of the activation, a key of `activation_funcs`.
        alpha: Slope of `lrelu` for negative values; None: 0.2.
        gain:  Factor for the activation's value; None: the activation's own.
        clamp: Largest magnitude of the result, applied after the gain; None: no limit.
        impl:  Implementation, see `torch_utils.ops.backend`.
        base:  Tensor like `x` that is added to the result, or None.

    Returns:
        Tensor with the shape, dtype and memory format of `x`.
    """
    _check(x, b, dim, act, clamp)
    options = _, alpha, gain, clamp = options_of(act, alpha, gain, clamp)
    if (act != 'lrelu' or alpha >= 0) and backend.use_native(impl, x):      # Compiled, the sign of y tells the slope.
        if b is not None and dim == 1 and is_one_kernel(x, act) and backend.has_layer_act(x.device.type):
            if base is None and b.dtype == x.dtype and (act, gain, clamp) == ('linear', 1, None):
                return x + b[:, None, None]         # Its derivative is the identity, which is no pass at all.
            return torch.ops.stylegan2_loss_zoo.layer_act(x, None, None, None, widened(b, x), base, *options)
        b = None if b is None else b.to(x.dtype)
        y = torch.ops.stylegan2_loss_zoo.bias_act(x, b, dim, *options)
    else:
        y = _plain(x, None if b is None else b.to(x.dtype), dim, activation_funcs[act].func, alpha, gain, clamp)
    return y if base is None else base + y


def options_of(act: str, alpha: float | None = None, gain: float | None = None,
               clamp: float | None = None) -> tuple[int, float, float, float | None]:
    """(act, alpha, gain, clamp) as compiled operators take them: a number for the name, and for None what it means."""
    spec = activation_funcs[act]
    return (list(activation_funcs).index(act), float(spec.def_alpha if alpha is None else alpha),
            float(spec.def_gain if gain is None else gain), clamp)


def widened(part: Tensor | None, x: Tensor) -> Tensor | None:
    """A bias or the like, if there is one, in the type that kernels compute in for x."""
    return None if part is None else part.to(compute_type(x))


def is_one_kernel(x: Tensor, act: str) -> bool:
    """Has `layer_act` a kernel for images like this, which adds the gradients of channels up in the pass of the images?"""
    return x.device.type == 'cuda' and x.ndim == 4 and act in ('linear', 'lrelu')


def _check(x, b, dim, act, clamp):
    assert x.is_floating_point(), f'x is {x.dtype}: must be floating point'
    assert act in activation_funcs, f'act={act!r}: must be one of {", ".join(activation_funcs)}'
    assert clamp is None or clamp >= 0, f'clamp={clamp}: must be None, or 0 or more'
    if b is None:
        return
    assert 0 <= dim < x.ndim, f'dim={dim}: x has axes 0 ... {x.ndim - 1}'
    assert list(b.shape) == [x.shape[dim]], f'b {list(b.shape)}: must be [{x.shape[dim]}], x being {list(x.shape)}'
    assert b.dtype in (x.dtype, torch.float32), f'b is {b.dtype}, x is {x.dtype}'


def _plain(x, b, dim, func, alpha, gain, clamp):
    """The operator in stock tensor operations, rounding to the dtype of `x` after each."""
    if b is not None:
        x = x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    x = func(x, alpha)
    if gain != 1:
        x = x * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return x
