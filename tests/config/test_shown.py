"""What a run says of its speed before it begins."""
import pytest

from training.config import shown


@pytest.fixture(params=['cpu', 'cuda'])
def device(request, monkeypatch):
    monkeypatch.setattr(shown, 'device_of', lambda config: request.param)
    return request.param


def config(res=256, device='auto', **command):
    return {'device': device, 'gpus': 2, 'data_shape': {'img_resolution': res}, 'command': command}


def test_a_large_run_on_the_cpu_that_nobody_asked_for_is_warned_of(device):
    assert ('--cfg=tiny is made for a CPU' in shown.note_on_slowness(config())) == (device == 'cpu')
    for quiet in (config(res=32), config(device='cpu'), config(cfg='tiny')):
        assert shown.note_on_slowness(quiet) == ''


def test_processes_on_the_cpu_are_no_gpus(device):
    expected = {'cuda': '2', 'cpu': '0 (2 processes on the CPU)'}
    assert shown.gpus_in_words(config()) == expected[device]
