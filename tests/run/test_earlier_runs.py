"""Runs that version 0.1.0 left in the middle go on: small
ones of each kind, stored in tests/fixtures/runs."""
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from click.testing import CliRunner

import train
from torch_utils.ops import backend
from torch_utils.state_file import load_meta
from training.run.states import saved_states

RUNS = Path(__file__).parents[1] / 'fixtures' / 'runs'
NAMES = sorted(path.name for path in RUNS.iterdir() if path.is_dir() and path.name != '__pycache__')


def continued(name, folder, monkeypatch):
    """Goes on with a copy of a stored run; returns the states,
    newest first, of which the last one is where it had stopped."""
    for path in RUNS.glob('*.zip'):
        shutil.copy(path, folder)
    shutil.copytree(RUNS / name / 'run', folder / 'run')
    monkeypatch.chdir(folder)               # The data sets are named by relative paths.
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    with backend.default('reference'):
        result = CliRunner().invoke(train.main, ['--resume=run'], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return saved_states(Path('run'))


def weights(tensors, player):
    """All weights of a player (or of `G_ema`) as one vector."""
    start = 'state/run/G_ema/' if player == 'G_ema' else f'state/run/players/{player}/module/'
    return np.concatenate([np.asarray(tensors[name], np.float64).ravel() for name in sorted(tensors) if name.startswith(start)])


@pytest.mark.parametrize('name', NAMES)
def test_an_earlier_run_goes_on_as_it_would_have(name, tmp_path, monkeypatch):
    """Every tensor is there; all weights end where the unbroken
    run's did, as far as rounding on other machines lets them.

    That is: within 2 % of the way that they went since the stop. Moments of Adam that had been lost, an order
    of reals that had changed, or other random numbers would all make it 20 % or more; other kernels make it
    0.0001 %. On one machine the two are the same bit by bit, which `benchmarks/same_numbers.py` looks at.
    """
    newest, *_, stopped = continued(name, tmp_path, monkeypatch)
    assert load_meta(newest)['finished'] and load_meta(newest)['nimg'] == 1008
    start, end = safetensors.torch.load_file(stopped), safetensors.torch.load_file(newest)
    expected = np.load(RUNS / name / 'expected.npz')

    # Later programs may remember more, but nothing less.
    assert {*expected['names']} <= {f'{key} {value.dtype} {list(value.shape)}' for key, value in end.items()}
    players = {key.split('/')[3] for key in end if key.startswith('state/run/players/')} | {'G_ema'}
    for player in players:
        way = np.linalg.norm(weights(expected, player) - weights(start, player))
        off = np.linalg.norm(weights(expected, player) - weights(end, player))
        assert way > 0 and off <= 0.02 * way, (player, off / way)
    for key in expected.files:
        if '/ranks/' in key or '/augment/' in key:
            scale = np.abs(expected[key]).max(initial=1e-3)
            np.testing.assert_allclose(end[key].numpy(), expected[key], rtol=0.02, atol=0.02 * scale, err_msg=key)
