"""Shared by the fault suite: helpers of the tests above it, a data set, and one undisturbed run."""
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]


@pytest.fixture(scope='session')
def data(tmp_path_factory):
    """Sixteen images of 8 pixels: the smallest for which networks have two resolutions."""
    from tiny import make_dataset
    return make_dataset(tmp_path_factory.mktemp('data') / 'plain.zip', num=16, res=8)


@pytest.fixture(scope='session')
def undisturbed(tmp_path_factory, data):
    """The configuration of a run that nothing happened to; all its states are kept."""
    from forked import finish, printed, run_config
    config = run_config(data, tmp_path_factory.mktemp('undisturbed') / 'run', keep=dict(newest=100))
    assert finish(config) == 0, printed(config)[-3000:]
    return config
