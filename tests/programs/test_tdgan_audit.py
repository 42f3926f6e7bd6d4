"""The audit of what has left a centre: nothing hides behind anything."""
import os

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny import make_dataset

import tdgan_audit
from torch_utils.wire.message import Header, Message, frames_of
from training.dataset import ImageFolderDataset

ANSWER = 20


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp('data') / 'north.zip', num=4, res=8)


def recorded(folder, *tensors):
    """A folder with a message of each."""
    folder.mkdir(exist_ok=True)
    for number, tensor in enumerate(tensors):
        frames = frames_of(Message(Header(ANSWER), {}, dict(grad=tensor)))
        (folder / f'message-{number:09d}.bin').write_bytes(b''.join(frames))
    return folder


def audit(*args):
    result = CliRunner().invoke(tdgan_audit.main, [*map(str, args)])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), 3e38])
def test_a_copy_does_not_hide_behind_a_number_that_is_none(tmp_path, data, bad):
    dataset = ImageFolderDataset(data)
    copies = torch.tensor(np.stack([dataset[i][0] for i in range(2)])).float()
    noise = torch.randn(4, 3, 8, 8)
    if abs(bad) < float('inf'):
        noise[2] = bad
    else:
        noise[2, 0, 0, 0], copies[1, 0, 0, 0] = bad, bad
    said = audit(recorded(tmp_path / 'wire', torch.cat([noise, copies])), f'--data={data}')
    assert 'largest correlation with an image of the centre 1.000' in said
    assert ('2 numbers are not finite' in said) == (not abs(bad) < float('inf'))


def test_the_beginning_of_a_message_is_named(tmp_path):
    folder = recorded(tmp_path / 'wire', torch.zeros(1), torch.zeros(1))
    os.truncate(folder / 'message-000000001.bin', 170)
    said = audit(folder)
    assert '1 messages' in said and '1 files hold the beginning of a message alone' in said
    assert 'message-000000001.bin' in said


def test_messages_are_read_in_their_order_however_many_there_are(tmp_path):
    from torch_utils.wire import record
    folder = recorded(tmp_path / 'wire', torch.zeros(1))
    (folder / 'message-000000000.bin').rename(folder / 'message-1000000000.bin')
    recorded(folder, torch.ones(1))
    assert [float(message.tensors['grad']) for message, _ in record.read(folder)] == [1, 0]


def test_a_record_that_is_no_file_is_named_in_a_sentence(tmp_path):
    os.mkdir(tmp_path / 'message-000000000.bin')
    said = CliRunner().invoke(tdgan_audit.main, [str(tmp_path)])
    assert said.exit_code == 1 and 'Errno' not in said.output
    assert f'{tmp_path / "message-000000000.bin"}: ' in said.output.replace('\n', '')
