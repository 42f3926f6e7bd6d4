"""Statistics: what is reported, what collectors show, and that resuming changes nothing."""
import gc
import json
import math

import numpy as np
import pytest
import torch

from torch_utils import training_stats
from torch_utils.training_stats import Collector, report, report0


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(training_stats, 'registry', training_stats.Registry())


def test_queries_equal_numpy_on_float32_values():
    values = np.random.RandomState(0).randn(100).astype(np.float32)
    collector = Collector()
    report('a', torch.from_numpy(values[:60]).reshape(3, 4, 5))
    report('a', values[60:].tolist())
    collector.update()
    assert collector.num('a') == 100
    assert collector.mean('a') == collector['a'] == pytest.approx(values.mean(dtype=np.float64), rel=1e-6)
    assert collector.std('a') == pytest.approx(values.std(dtype=np.float64), rel=1e-6)
    assert collector.as_dict() == {'a': {'num': 100, 'mean': collector['a'], 'std': collector.std('a')}}


def test_values_pass_through_float32():
    collector = Collector()
    report('kimg', 0.16)
    report('large', torch.tensor([2 ** 24 + 1, 0], dtype=torch.float64))
    collector.update()
    assert collector['kimg'] == float(np.float32(0.16)) != 0.16
    assert collector['large'] == 2 ** 23


def test_sums_of_many_reports_are_float64():
    collector = Collector()
    for _ in range(3):
        report('a', 2 ** 24 + 2)
        report('a', 1)
    collector.update()
    assert collector['a'] == (2 ** 24 + 3) / 2          # In float32 the ones would be lost.


def test_report_returns_its_argument_and_takes_anything_like_a_tensor():
    collector = Collector()
    weight = torch.ones(2, requires_grad=True)
    for value in (1, 2.5, True, [1, 2], np.float64(3), torch.tensor(4, dtype=torch.int64), weight.half(), weight * 2):
        assert report('a', value) is value
    collector.update()
    assert collector.num('a') == 11 and collector['a'] == pytest.approx((1 + 2.5 + 1 + 3 + 3 + 4 + 2 + 4) / 11)


def test_name_is_registered_without_values():
    collector = Collector()
    report('b', [])
    report('a', torch.zeros(0))
    collector.update()
    assert collector.names() == ['b', 'a']
    assert collector.num('a') == 0 and math.isnan(collector['a']) and math.isnan(collector.std('a'))


def test_single_value_has_no_spread_and_nonfinite_ones_have_none_defined():
    collector = Collector()
    report('one', 0.1)
    report('nan', [1, math.nan])
    report('inf', [1, math.inf])
    report('equal', [0.1] * 7)
    collector.update()
    assert collector.std('one') == 0
    assert math.isnan(collector.std('nan')) and math.isnan(collector['nan'])
    assert math.isnan(collector.std('inf')) and collector['inf'] == math.inf
    assert collector.std('equal') == pytest.approx(0, abs=1e-4)


def test_report0_counts_on_rank_0_only():
    collector = Collector()
    report0('a', 1)
    collector.update()
    assert collector.num('a') == 1
    training_stats.registry = training_stats.Registry()
    training_stats.init_multiprocessing(rank=1, sync_device=None)
    collector = Collector()
    assert report0('a', 1) == 1
    collector.update()
    assert collector.names() == ['a'] and collector.num('a') == 0


def test_collector_matches_whole_names_only():
    collector, other = Collector('Loss/[GD]'), Collector()
    for name in ('Loss/G', 'Loss/D', 'xLoss/G', 'Loss/G/loss'):
        report(name, 1)
    other.update()
    collector.update()
    assert collector.names() == list(collector.as_dict()) == ['Loss/G', 'Loss/D']
    assert collector.state_dict()['visible'].keys() == {'Loss/G', 'Loss/D'}
    with pytest.raises(AssertionError, match='xLoss/G does not match'):
        collector.mean('xLoss/G')


def test_collectors_watch_one_name_independently():
    often, seldom = Collector('a'), Collector()
    for value in (1, 2, 3):
        report('a', value)
        often.update()
        assert often.num('a') == 1 and often['a'] == value
    seldom.update()
    assert seldom.num('a') == 3 and seldom['a'] == 2


def test_collector_sees_nothing_from_before_its_birth_and_takes_it_from_nobody():
    first = Collector()
    report('a', 1)
    second = Collector()
    report('a', 3)
    first.update()
    second.update()
    assert (first['a'], second['a']) == (2, 3)


@pytest.mark.parametrize('keep_previous', [True, False])
def test_name_without_new_values_keeps_its_previous_ones_on_request(keep_previous):
    collector = Collector(keep_previous=keep_previous)
    report('a', [1, 3])
    collector.update()
    collector.update()
    assert collector.num('a') == (2 if keep_previous else 0)


def test_update_shows_values_since_the_previous_update_only():
    collector = Collector()
    report('a', [math.nan, 1])
    collector.update()
    report('a', 5)
    assert math.isnan(collector['a'])                   # Nothing changes before the update,
    collector.update()
    assert collector.num('a') == 1 and collector['a'] == 5      # and a NaN does not outlast one.


def test_collector_that_is_gone_receives_nothing():
    Collector()
    gc.collect()
    assert len(training_stats.registry.collectors) == 0


def test_report_in_inference_mode_can_be_added_to():
    collector = Collector()
    with torch.inference_mode():
        report('a', torch.ones(2))
    report('a', torch.zeros(2))
    collector.update()
    assert collector['a'] == 0.5


def test_state_resumes_exactly():
    def first_half(collectors):
        report('b', torch.linspace(0, 1, 7))
        report('a', [0.1, 0.2])
        collectors[0].update()
        report('a', [0.3, math.nan])

    def second_half(collectors):
        report('a', 0.7)
        collectors[0].update()
        collectors[1].update()
        return json.dumps([collector.as_dict() for collector in collectors])

    collectors = [Collector(), Collector('[ab]')]
    first_half(collectors)
    saved = json.dumps([training_stats.state_dict(), *(collector.state_dict() for collector in collectors)])
    expected = second_half(collectors)

    training_stats.registry = training_stats.Registry()
    registry_state, *states = json.loads(saved)
    report('unrelated', 1)
    training_stats.load_state_dict(registry_state)
    collectors = [Collector(), Collector('[ab]')]
    report('a', 1000)
    for collector, state in zip(collectors, states):
        collector.load_state_dict(state)
    assert second_half(collectors) == expected


def test_what_no_collector_was_told_goes_on_with_the_same_rounding():
    """In float64 2 ** 53 + 1 + 1 is 2 ** 53, but 2 ** 53 + (1 + 1) is not."""
    def values_of(interruption):
        training_stats.reset()
        collector = Collector()
        report('a', 2.0 ** 53)
        interruption(collector)
        report('a', 1)
        report('a', 1)
        collector.update()
        return collector['a']

    def interrupt(collector):
        reported, state = json.loads(json.dumps([training_stats.reported(), collector.state_dict()]))
        training_stats.reset()
        collector.load_state_dict({**state, 'unread': {}})
        training_stats.report_again(reported)

    def interrupt_by_sums(collector):
        collector.load_state_dict(collector.state_dict())

    assert values_of(interrupt) == values_of(lambda collector: None) == 2.0 ** 53 / 3 != values_of(interrupt_by_sums)


def test_reset_forgets_names_and_values():
    report('a', 1)
    training_stats.reset()
    collector = Collector()
    assert collector.names() == []


def test_late_initialisation_is_refused():
    Collector()
    training_stats.init_multiprocessing(rank=0, sync_device=None)
    with pytest.raises(AssertionError, match='before the first collector'):
        training_stats.init_multiprocessing(rank=1, sync_device=None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_report_does_not_wait_for_the_device():
    collector = Collector()
    value = torch.ones(4, device='cuda')
    report('a', value)
    torch.cuda.set_sync_debug_mode('error')
    try:
        report('a', value * 3)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    report('a', [5.0, 5.0])                             # The same name from another device.
    collector.update()
    assert collector.num('a') == 10 and collector['a'] == pytest.approx(2.6)
