"""Data sets of the Hub as `dataset_tool.py --source` and
`train.py --data`, from a stand-in on this machine."""
import pytest
from click.testing import CliRunner
from tiny import make_dataset

import dataset_tool
import train

pytest.importorskip('huggingface_hub', reason='huggingface_hub, the extra "hub", is not installed')
from hub_server import hub_on_this_machine  # noqa: E402


@pytest.fixture
def server(monkeypatch, tmp_path):
    with hub_on_this_machine(monkeypatch, tmp_path) as server:
        path = make_dataset(tmp_path / 'blobs.zip')
        with open(path, 'rb') as file:
            server.repos['dataset', 'mia/blobs'] = {'blobs.zip': file.read(), 'README.md': b'#'}
        yield server


def test_a_set_is_packed(server, tmp_path):
    dest = tmp_path / 'packed.zip'
    result = CliRunner().invoke(dataset_tool.main, ['--source=hf://datasets/mia/blobs', f'--dest={dest}'])
    assert result.exit_code == 0 and '24 images, 16x16 RGB' in result.output, result.output
    result = CliRunner().invoke(dataset_tool.main, ['--source=hf://datasets/mia/none', '--check'])
    assert result.exit_code == 1 and 'Error: hf://datasets/mia/none: there is no such repository' in result.output


def test_a_packed_set_is_trained_on(server, tmp_path):
    args = [f'--outdir={tmp_path}', '--cfg=tiny', '--dry-run', '--device=cpu', '--log=none', '--metrics=none']
    result = CliRunner().invoke(train.main, ['--data=hf://datasets/mia/blobs', *args])
    assert result.exit_code == 0 and '00000-blobs-tiny' in result.output, result.output
    result = CliRunner().invoke(train.main, ['--data=hf://datasets/mia/blobs/README.txt', *args])
    assert result.exit_code == 2
    assert '--data: hf://datasets/mia/blobs/README.txt: there is no file README.txt' in ' '.join(result.output.split())
