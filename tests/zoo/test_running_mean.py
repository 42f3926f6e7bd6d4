"""Running means: unbiased from the start, over micro-batches, restored exactly."""
import math

import pytest
import torch

from losses_ext.running_mean import RunningMeans

CPU = torch.device('cpu')


def test_mean_is_the_weighted_mean_of_all_iterations_so_far():
    means, history = RunningMeans(0.9, CPU), []
    for k in range(1, 5):
        batch = [torch.randn([3]), torch.randn([3])]                                # Two micro-batches.
        for round_idx, values in enumerate(batch):
            means.add('a', round_idx, values)
        means.update()
        history.append(torch.cat(batch).mean())
        weights = torch.tensor([0.9 ** (k - 1 - i) for i in range(k)])
        torch.testing.assert_close(means.get('a'), (torch.stack(history) * weights).sum() / weights.sum())


def test_only_means_that_were_added_to_move():
    means = RunningMeans(0.5, CPU)
    assert means.get('a') is None and means.num_updates('a') == 0
    means.add('a', 0, torch.tensor([2.0]))
    assert means.get('a') is None                                                   # Not before the iteration is over.
    means.update()
    means.add('b', 0, torch.tensor([4.0]))
    means.update()
    assert means.get('a') == 2 and means.get('b') == 4
    assert means.num_updates('a') == means.num_updates('b') == 1


def test_a_phase_that_begins_anew_counts_once():
    """Memory ran out in its second micro-batch of two; then it had four."""
    means = RunningMeans(0.5, CPU)
    means.add('a', 0, torch.tensor([100.0, 200.0]))
    for round_idx in range(4):
        means.add('a', round_idx, torch.tensor([float(round_idx)]))
    means.update()
    assert means.get('a') == 1.5


def test_values_leave_their_graph():
    means = RunningMeans(0.5, CPU)
    means.add('a', 0, torch.ones([2], requires_grad=True) * 3)
    means.update()
    assert not means.get('a').requires_grad


def test_state_goes_on_as_if_nothing_had_happened():
    one, other = RunningMeans(0.7, CPU), RunningMeans(0.7, CPU)
    for value in (1.0, 5.0):
        one.add('a', 0, torch.tensor([value]))
        one.update()
    other.add('z', 0, torch.tensor([9.0]))
    other.update()
    other.load_state_dict(one.state_dict())
    assert other.get('z') is None
    for means in (one, other):
        means.add('a', 0, torch.tensor([2.0]))
        means.update()
    assert torch.equal(one.get('a'), other.get('a'))
    one.reset()
    assert one.get('a') is None


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_no_update(bad):
    """Wherever it comes: the mean is that of the others."""
    for position in range(4):
        means, others = RunningMeans(0.8, CPU), RunningMeans(0.8, CPU)
        values = [1.0, 5.0, 2.0]
        values.insert(position, bad)
        for value in values:
            means.add('a', 0, torch.tensor([value, 0.0]))
            means.update()
            assert means.get('a').isfinite()
            if math.isfinite(value):
                others.add('a', 0, torch.tensor([value, 0.0]))
                others.update()
        torch.testing.assert_close(means.get('a'), others.get('a'))
        restored = RunningMeans(0.8, CPU)
        restored.load_state_dict(means.state_dict())
        assert torch.equal(restored.get('a'), means.get('a'))


def test_means_that_an_earlier_version_left_not_finite_begin_anew(capsys):
    means = RunningMeans(0.5, CPU)
    means.load_state_dict(dict(sums={'D/real': torch.tensor(math.nan), 'D/fake': torch.tensor(0.5)},
                               num_updates={'D/real': 7, 'D/fake': 1}))
    assert means.get('D/real') is None and means.get('D/fake') == 1
    assert 'running means of D/real are not finite' in capsys.readouterr().out
