"""The exchange of gradients beside the backward pass: what
is sent when. (What comes back: test_two_processes.py.)"""
from pathlib import Path

import pytest
import torch

import train
from training import exchange, setup
from training.config.rules import UserError
from training.exchange import GradientExchange

FACES = Path(__file__).parents[2] / 'datasets' / 'emoji-faces-noto-32.zip'


@pytest.fixture
def sent(monkeypatch):
    """The sums of what was sent, in order; nothing is exchanged."""
    sums = []

    class Alone:
        def __init__(self, tensors, travels_as=None):
            self._tensors = [tensor.clone() for tensor in tensors]
            sums.append([float(tensor.sum()) for tensor in tensors])

        def tensors(self):
            return self._tensors
    monkeypatch.setattr(exchange.distributed, 'Mean', Alone)
    return sums


def phase(one, weights, kind, factors=(1,), sent=None, fails=False):
    """Back-propagates, and returns how many buckets were sent before the end."""
    for w in weights:
        w.grad = None
    try:
        with one.watching(kind, weights):
            for factor in factors:
                loss = 1
                for w in weights:
                    loss = loss * w.sum() * factor
                loss.backward()
                if fails:
                    raise torch.OutOfMemoryError('CUDA out of memory')
    except torch.OutOfMemoryError:
        return None
    early = len(sent)
    one.finish()
    return early


def weights():
    return [torch.full([2], float(i + 1), requires_grad=True) for i in range(3)]


def test_buckets_are_sent_early_once_the_kind_of_phase_is_known(sent):
    one, mine = GradientExchange(1), weights()
    assert phase(one, mine, 'main', sent=sent) == 0 and len(sent) == 3
    expected = [w.grad.clone() for w in mine]
    sent.clear()
    assert phase(one, mine, 'main', sent=sent) == 3 == len(sent)
    assert all(torch.equal(w.grad, grad) for w, grad in zip(mine, expected))
    assert sent == [[float(grad.sum())] for grad in reversed(expected)]       # The last ones first.
    sent.clear()
    assert phase(one, mine, 'other', sent=sent) == 0


def test_a_gradient_is_sent_when_it_is_complete(sent):
    one, mine = GradientExchange(1), weights()
    phase(one, mine, 'main', factors=(1, 2), sent=sent)
    first = sent.copy()
    sent.clear()
    assert phase(one, mine, 'main', factors=(1, 2), sent=sent) == 3 and sent == first


def test_what_methods_add_later_is_sent_in_the_end(sent):
    one, mine = GradientExchange(1), weights()
    for _ in range(2):
        sent.clear()
        assert phase(one, mine, None, sent=sent) == 0 and len(sent) == 3


def test_a_phase_that_is_repeated_sends_nothing_twice(sent):
    """One process may run out of memory; the others have got its buckets."""
    one, mine = GradientExchange(1), weights()
    phase(one, mine, 'main', sent=sent)
    sent.clear()
    phase(one, mine, 'main', sent=sent, fails=True)
    assert len(sent) == 3
    phase(one, mine, 'main in halves', factors=(0.5, 0.5), sent=sent)
    assert len(sent) == 3


def test_new_parameters_are_nothing_that_is_known(sent):
    one = GradientExchange(1)
    phase(one, weights(), 'main', sent=sent)
    sent.clear()
    assert phase(one, weights(), 'main', sent=sent) == 0


def test_gradients_that_are_missing_travel_as_zeros_and_keep_their_place(sent):
    one, mine = GradientExchange(), [*weights(), torch.ones(2, requires_grad=True)]
    for _ in range(2):
        sent.clear()
        with one.watching('main', mine):
            (mine[0].sum() * mine[1].sum() * mine[2].sum()).backward()
        one.finish()
        assert sent[0][0] == 0 and torch.equal(mine[3].grad, torch.zeros(2))
        for w in mine:
            w.grad = None


def test_what_travels_as_bfloat16_needs_somebody_to_travel_to():
    options = ['--outdir=runs', f'--data={FACES}', '--cfg=tiny', '--device=cpu', '--log=none']
    with pytest.raises(UserError, match='--exchange=bf16 is about what several processes exchange, and .* has one'):
        train.config_from_args([*options, '--exchange=bf16'])
    config = train.config_from_args([*options, '--exchange=bf16', '--gpus=2'])
    assert setup.build_exchange(config).travels_as == torch.bfloat16
    assert setup.build_exchange({**config, 'exchange': 'fp32'}).travels_as is None
    assert setup.build_exchange({}).travels_as is None
