"""Optimizers without the wrappers of torch.compile compute what those of torch compute."""
import copy

import pytest
import torch

from torch_utils.optimizers import untraced


def train(make_optimizer, num_steps, state=None):
    """Weights and optimizer state after steps on a fixed problem, on from a state if there is one."""
    weights = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
    optimizer = make_optimizer([weights])
    if state is not None:
        with torch.no_grad():
            weights.copy_(state[0])
        optimizer.load_state_dict(state[1])
    for _ in range(num_steps):
        optimizer.zero_grad(set_to_none=True)
        (weights - 0.3).pow(4).sum().backward()
        optimizer.step()
    return weights.detach(), copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize('kind, options', [
    (torch.optim.Adam, dict(lr=0.01, betas=(0.0, 0.99), fused=True)),
    (torch.optim.Adam, dict(lr=0.01, betas=(0.5, 0.9))),
    (torch.optim.SGD, dict(lr=0.01, momentum=0.9))])
def test_same_bits_also_after_a_restart(kind, options):
    weights, state = train(lambda p: kind(p, **options), 7)
    mine = train(lambda p: untraced(kind)(p, **options), 7, train(lambda p: untraced(kind)(p, **options), 0))
    half = train(lambda p: untraced(kind)(p, **options), 3)
    resumed = train(lambda p: untraced(kind)(p, **options), 4, half)
    for other_weights, other_state in (mine, resumed):
        assert torch.equal(other_weights, weights)
        torch.testing.assert_close(other_state, state, rtol=0, atol=0)


def test_a_step_leaves_no_graph_on_weights_that_require_grad():
    weights = torch.ones(3, requires_grad=True)
    optimizer = untraced(torch.optim.Adam)([weights])
    weights.grad = torch.ones(3)
    optimizer.step()
    assert weights.is_leaf and weights.grad_fn is None and torch.is_grad_enabled()


def test_hooks_of_optimizers_are_called():
    optimizer = untraced(torch.optim.Adam)([torch.ones(3, requires_grad=True)])
    called = []
    optimizer.register_step_pre_hook(lambda *_: called.append('before'))
    optimizer.register_step_post_hook(lambda *_: called.append('after'))
    optimizer.step()
    assert called == ['before', 'after']
