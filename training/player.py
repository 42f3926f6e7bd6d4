"""A player: a network that learns, with its optimizer, and the layers that methods graft on it."""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torch_utils import training_stats

if TYPE_CHECKING:
    from training.context import StepContext
    from training.loss import Verdict


class Player:
    """A network that learns, with an optimizer of its own: G, D, or a further critic.

    `make_module()` returns the network on its device; `make_optimizer(parameters)` its optimizer,
    with the rates that the configured `reg_interval` asks for (None: no lazy phase). `view(img, ctx)` maps
    [N,C,H,W] to what a critic sees of it.
    """
    is_here = True                  # If not, it learns in another process, and only its name and shapes are known here.

    def __init__(self, name: str, make_module: Callable[[], torch.nn.Module],
                 make_optimizer: Callable[[list], torch.optim.Optimizer] | None = None, reg_interval: int | None = None,
                 view: Callable[[Tensor, StepContext], Tensor] | None = None, seed: int | None = None):
        self.name = name
        self.reg_interval = reg_interval
        self.view = view
        self.source = 0             # Index of the stage's source that this critic judges.
        self.weight = 1.0           # Of this critic in the generator's loss.
        self.real_signs = None  # Running (sum, count) of the signs of its logits on reals: what ADA looks at.
        self._make_module = make_module
        self._make_optimizer = make_optimizer
        self._grafts: dict[str, Callable] = {}
        self.reset(seed)

    def graft(self, name: str, make_layer: Callable[[torch.nn.Module], torch.nn.Module]) -> None:
        """Adds a layer to the module that learns, resets, synchronises and is saved with it."""
        assert name not in self._grafts and not hasattr(self.module, name), f'{self.name} has a {name} already'
        self._grafts[name] = make_layer
        self._attach(name, make_layer)
        self.reset_optimizer()

    def reset(self, seed: int | None = None) -> None:
        """Fresh weights (grafts too), from a seed if one is given, and an empty optimizer.

        Frozen layers stay as they are.
        """
        former = getattr(self, 'module', None)
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            self.module = self._make_module().train().requires_grad_(False)
            for name, make_layer in self._grafts.items():
                self._attach(name, make_layer)
        if former is not None:
            self.copy_frozen(former)
        self.reset_optimizer()

    def copy_frozen(self, source: torch.nn.Module) -> None:
        """Copies the buffers of a network of this architecture: the weights of frozen layers, which never
        learn."""
        theirs = dict(source.named_buffers())
        for name, buffer in self.module.named_buffers():
            if name in theirs:
                buffer.copy_(theirs[name])

    def reset_optimizer(self) -> None:
        """An empty optimizer over all parameters of the module."""
        parameters = list(self.module.parameters())
        self.optimizer = self._make_optimizer(parameters) if self._make_optimizer else None
        self.real_signs = torch.zeros(2, device=parameters[0].device)

    def _attach(self, name, make_layer):
        device = next(self.module.parameters()).device
        self.module.add_module(name, make_layer(self.module).to(device).train().requires_grad_(False))

    @property
    def grafts(self) -> list[str]:
        """Names of the grafted layers."""
        return list(self._grafts)

    @property
    def suffix(self) -> str:
        """What tells this critic's statistics from the main one's: '' for D, '2' for D2, 'high' for Dhigh."""
        return self.name[1:]

    def reported(self, kind: str, verdict: Verdict) -> Verdict:
        """The same verdict of this critic on 'fake' or 'real' images, once its logits are among the statistics.

        The signs of those on reals count for adaptive augmentation.
        """
        signs = verdict.logits.detach().sign()
        training_stats.report(f'Loss/scores/{kind}{self.suffix}', verdict.logits)
        training_stats.report(f'Loss/signs/{kind}{self.suffix}', signs)
        if kind == 'real':
            self.real_signs += torch.stack([signs.nansum(), (signs == signs).sum(dtype=signs.dtype)])       # NaN is none.
        return verdict

    def state_dict(self) -> dict:
        """Weights and optimizer."""
        return dict(module=self.module.state_dict(), optimizer=self.optimizer.state_dict())

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` returned."""
        self.module.load_state_dict(state['module'])
        self.optimizer.load_state_dict(state['optimizer'])
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:              # A moment; else the number of steps.
                    values[name] = in_layout_of(parameter, value)


def in_layout_of(parameter: Tensor, value: Tensor) -> Tensor:
    """`value`, of the parameter's shape, laid out in memory as the parameter is.

    The fused Adam walks through both element by element: if their layouts differ, it silently pairs the wrong
    ones on CPUs, and refuses on GPUs.
    """
    return value if value.stride() == parameter.stride() else torch.empty_like(parameter).copy_(value)
