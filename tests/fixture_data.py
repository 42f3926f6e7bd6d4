"""Reads the numerical fixtures of `tests/fixtures` (format: README.md there)."""
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parent / 'fixtures'


@dataclass(frozen=True)
class Case:
    """One case of a fixture: arrays by name, tolerances of its outputs, and everything else its JSON says."""
    id: str
    config: dict
    inputs: dict                # name -> array
    outputs: dict               # name -> array
    tolerances: dict            # name -> (rtol, atol)
    nets: dict = field(default_factory=dict)
    extra: dict = field(default_factory=dict)

    def input(self, name, dtype=None):
        """The named input as a tensor, a copy, or None where the case has none of that name."""
        array = self.inputs.get(name)
        return None if array is None else torch.from_numpy(np.array(array)).to(dtype)

    def check(self, name, obtained):
        """Asserts that `obtained` (tensor or array) equals the named output at its stated tolerance."""
        if (numbers := self.compared(name, obtained)) is None:
            return
        obtained, expected, allowed = numbers
        excess = np.abs(obtained - expected) - allowed
        assert np.isfinite(obtained).all() and (excess <= 0).all(), \
            f'{self.id}: {name}: off by {np.abs(obtained - expected).max():.3g}, ' \
            f'{np.nanmax(excess):.3g} beyond the tolerance'

    def compared(self, name, obtained):
        """(obtained, expected, largest deviation allowed), float64.
        None for what must be the same, once that is asserted."""
        expected = self.outputs[name]
        if isinstance(obtained, torch.Tensor):
            obtained = obtained.detach().cpu().numpy()
        obtained = np.asarray(obtained)
        assert obtained.shape == expected.shape, f'{self.id}: {name}: shape {obtained.shape} is not {expected.shape}'
        if not np.issubdtype(expected.dtype, np.floating):
            np.testing.assert_array_equal(obtained, expected, err_msg=f'{self.id}: {name}')
            return None
        rtol, atol = (_along_first_axis(t, expected.ndim) for t in self.tolerances[name])
        obtained, expected = obtained.astype(np.float64), expected.astype(np.float64)
        return obtained, expected, atol + rtol * np.abs(expected)


def _along_first_axis(tolerance, ndim):
    tolerance = np.asarray(tolerance, dtype=np.float64)
    return tolerance.reshape(tolerance.shape + (1,) * (ndim - 1)) if tolerance.ndim else tolerance


@cache
def cases(name):
    """All cases of the fixture `name` (for example '01b_upfirdn2d')."""
    text = json.loads((ROOT / f'{name}.json').read_text())
    with np.load(ROOT / f'{name}.npz', allow_pickle=False) as arrays:
        arrays = {key: arrays[key] for key in arrays.files}
    known = {'id', 'config', 'inputs', 'outputs', 'nets'}
    return [Case(
        id=case['id'],
        config=case['config'],
        inputs={key: arrays[spec['key']] for key, spec in case['inputs'].items()},
        outputs={key: arrays[spec['key']] for key, spec in case['outputs'].items()},
        tolerances={key: (spec.get('rtol', 0), spec.get('atol', 0)) for key, spec in case['outputs'].items()},
        nets=case.get('nets', {}),
        extra={key: value for key, value in case.items() if key not in known},
    ) for case in text['cases']]


def case_ids(name):
    """Arguments for `pytest.mark.parametrize('case', ...)`."""
    import pytest
    return [pytest.param(case, id=case.id) for case in cases(name)]


def load_net(name):
    """(description, state dict) of a stored network; the
    description has kind, config, params, buffers, shapes."""
    description = json.loads((ROOT / 'nets' / f'{name}.json').read_text())
    with np.load(ROOT / 'nets' / f'{name}.npz', allow_pickle=False) as arrays:
        state = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return description, state
