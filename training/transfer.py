"""Fine-tuning: which architecture a network file asks for,
and which of its tensors fit the networks of a run."""
from dataclasses import dataclass, field
from typing import Any

import torch

from torch_utils import checkpoint

# Arguments of networks that follow the run (its data, precision, batch), whatever file it starts from.
OF_THE_RUN = {'c_dim', 'img_resolution', 'img_channels', 'num_fp16_res', 'conv_clamp', 'reduced_dtype',
              'fp16_channels_last', 'freeze_layers', 'mbstd_group_size'}
WHERE_GIVEN = {'mbstd_num_channels'}     # Of the run if it says so, else of the file.
SUBSTITUTES = {'G': 'G_ema', 'G_ema': 'G'}      # What a network starts from if the file lacks it.
SHOWN = 5                                       # Names in a report.


@dataclass
class Match:
    """How the tensors of a network in a file fit those of a network of the run."""
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)     # With both shapes.

    @property
    def is_complete(self) -> bool:
        """Does the file have every tensor of the run's network?"""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        parts = [f'{len(self.matched)} tensors match']
        for what, names in (('missing', self.missing), ('of another shape', self.mismatched)):
            if names:
                more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
                parts.append(f'{len(names)} are {what}: {", ".join(names[:SHOWN])}{more}')
        return '; '.join(parts)


def source_of(name: str, networks: dict[str, Any]) -> torch.nn.Module | None:
    """The network of a file that the run's network of this name starts from."""
    network = networks.get(name)
    return network if network is not None else networks.get(SUBSTITUTES.get(name))


def match_tensors(expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> Match:
    """Compares names and shapes."""
    match = Match()
    for name, tensor in expected.items():
        if name not in found:
            match.missing.append(name)
        elif found[name].shape != tensor.shape:
            match.mismatched.append(f'{name} {list(found[name].shape)} instead of {list(tensor.shape)}')
        else:
            match.matched.append(name)
    return match


def compare(config: dict[str, Any], networks: dict[str, Any]) -> dict[str, Match]:
    """How a file fits the G, D and G_ema that a configuration describes; nothing is built for it."""
    matches = {}
    for name, kwargs in (('G', 'G_kwargs'), ('D', 'D_kwargs'), ('G_ema', 'G_kwargs')):
        kwargs = {**config['data_shape'], **config[kwargs]}
        expected = checkpoint.skeleton(kwargs.pop('class_name'), kwargs, max_layers=1000)
        source = source_of(name, networks)
        matches[name] = match_tensors(expected, source.state_dict() if source is not None else {})
    return matches


def adopt_architecture(config: dict[str, Any], networks: dict[str, Any]) -> None:
    """Makes G and D of a configuration those of a file, but for what follows the run."""
    for name in ('G', 'D'):
        source = source_of(name, networks)
        if source is not None:
            theirs = {'class_name': checkpoint.class_name_of(source), **source.init_kwargs}
            config[f'{name}_kwargs'] = adopted(config[f'{name}_kwargs'], theirs)


def adopted(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    result = {}
    for key in {**ours, **theirs}:
        mine, other = ours.get(key), theirs.get(key)
        if isinstance(mine, dict) or isinstance(other, dict):
            result[key] = adopted(mine or {}, other or {})
        elif key in OF_THE_RUN | WHERE_GIVEN and key in ours:
            result[key] = mine
        elif key not in OF_THE_RUN and key in theirs:
            result[key] = other
    return result


@torch.no_grad()
def copy_matching(source: torch.nn.Module, target: torch.nn.Module) -> Match:
    """Copies all tensors that have the same name and shape in both; says what the others are."""
    found, expected = source.state_dict(), target.state_dict()
    match = match_tensors(expected, found)
    for name in match.matched:
        expected[name].copy_(found[name])
    return match
