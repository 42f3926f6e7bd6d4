"""Channels that are carried by calls, as within a job of NVFlare: here the calls are those of one process."""
import queue

import pytest
import torch

from torch_utils.wire.channel import Closed
from torch_utils.wire.message import Header, Message, TensorForm
from torch_utils.wire.nvflare_channel import Post, post

FORMS = dict(x=TensorForm(torch.float32, (2 ** 20,)))


class Job:
    """Two posts, and what one has been connected to by the other."""

    def __init__(self):
        self.calls, self.found = [], queue.Queue()
        self.server = Post(lambda site, number, frames: self.carry(self.centre, 'server', number, frames))
        self.centre = Post(lambda site, number, frames: self.carry(self.server, 'north', number, frames))

    def carry(self, to, caller, number, frames):
        self.calls.append(len(frames))
        return to.take(caller, number, frames)

    def connected(self):
        """(end of the centre, end of the server)."""
        self.server.listen(self.found.put)
        one = self.centre.connect('server')
        one.send(Message(Header(1)))
        other = self.found.get(timeout=20)
        other.receive(lambda header: {}, 20)
        return one, other


def test_messages_arrive_and_each_takes_one_call():
    job = Job()
    one, other = job.connected()
    assert other.names == {'north'} and one.names is None
    sent, num = torch.rand(2 ** 20), len(job.calls)
    for source, target in ((one, other), (other, one)):
        source.send(Message(Header(2), {}, dict(x=sent)))
        found = target.receive(lambda header: FORMS, 20)
        assert torch.equal(found.tensors['x'], sent)
    assert job.calls[num:] == [6, 6]                # Description, four pieces, digest.


@pytest.mark.parametrize('index', [0, 1])
def test_either_end_closes_a_connection_for_both(index):
    ends = Job().connected()
    ends[index].close()
    with pytest.raises(Closed):
        ends[1 - index].receive(lambda header: {}, 20)
    with pytest.raises(Closed):
        ends[1 - index].send(Message(Header(2)))


def test_a_site_that_connects_again_ends_its_former_connection_and_no_other():
    job = Job()
    one, other = job.connected()
    again, there = job.connected()
    assert not other.is_open
    with pytest.raises(Closed):
        one.receive(lambda header: {}, 20)
    job.server.take('south', 7, [b'what another site says'])
    there.send(Message(Header(3)))
    assert again.receive(lambda header: {}, 20).header.kind == 3


def test_nobody_connects_before_the_other_end_listens():
    with pytest.raises(OSError, match='does not listen yet'):
        Job().centre.connect('server')
    job = Job()
    job.server.listen(job.found.put)()
    with pytest.raises(OSError, match='does not listen yet'):
        job.centre.connect('server')


def test_calls_that_fail_end_the_connection_with_a_sentence():
    def fail(site, number, frames):
        raise RuntimeError('gone\x1b[2J')

    with pytest.raises(OSError, match=r'does not reach the program of server: gone\?'):
        Post(fail).connect('server')


@pytest.mark.parametrize('number, frames', [('7', [b'x']), (7, b'x'), (7, ['x']), (7, [bytes(2 ** 21)]), (None, None),
                                            (True, [b'x'])])
def test_what_is_no_frame_is_not_taken(number, frames):
    job = Job()
    job.server.listen(job.found.put)
    assert job.server.take('north', number, frames) is False and job.found.empty()


def test_outside_of_a_job_there_is_no_post():
    with pytest.raises(ValueError, match='no job of NVFlare'):
        post()
