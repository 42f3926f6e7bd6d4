"""What an iteration asks of a GPU, counted on tensors without numbers (benchmarks/count_launches.py)."""
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import count_launches
import meta_cuda

from torch_utils import training_stats
from torch_utils.ops import build, upfirdn2d

# Launches, GB. What costs less lowers them.
SIZE = 256, 16384, ['--aug=ada', '--batch=32', '--nhwc=0']    # As the figures of before; channels last has 2 GB more to convert.
MOST = {'base': (1900, 88), 'ggdr': (2000, 94), 'diggan': (1965, 100), 'genco': (3550, 195), 'osgan': (1850, 76)}


@pytest.fixture(autouse=True)
def compiler():
    try:
        build.find_toolchain('cpu')
    except build.Unavailable as reason:
        pytest.skip(f'launches are counted with compiled operators: {reason}')


@pytest.mark.parametrize('name', ['base', *(pytest.param(name, marks=pytest.mark.slow) for name in MOST if name != 'base')])
def test_an_iteration_costs_no_more_than_it_did(name):
    res, channel_base, arguments = SIZE
    launches, size, waits = count_launches.totals(
        count_launches.count(res, channel_base, [*arguments, *count_launches.METHODS[name]]))
    assert launches <= MOST[name][0] and size <= MOST[name][1]
    assert waits <= 2.5 if name == 'base' else True     # ADA's, and its margins'.


def test_known_operations_are_counted():
    with meta_cuda.MetaCuda():
        x = torch.ones([4, 3, 8, 8], device='cuda').half()
        w = torch.ones([5, 3, 3, 3], device='cuda', dtype=torch.float16).requires_grad_()
        meter = meta_cuda.restart()
        y = torch.nn.functional.conv2d(x, w, padding=1)
        assert meter.total() == (1, 2 * (x.numel() + w.numel() + y.numel()), 0)
        y[:, :1].expand(4, 5, 8, 8).add(1)              # What is repeated is read once.
        assert meter.total()[:2] == (2, 2 * (x.numel() + w.numel() + y.numel() + y.numel() // 5 + y.numel()))
        meter = meta_cuda.restart()
        torch.autograd.grad(y.float().sum(), w)
        names = {name: num for (name, _), num in meter.launches.items()}
        assert names.pop('convolution_backward') == 1 and set(names) == {'_to_copy', 'sum', 'ones_like'}
        assert meta_cuda.restart().total() == (0, 0, 0)
        x.sum().item()
        assert meta_cuda.meter.total()[2] == 1


def test_plain_operators_cost_more():
    x = torch.ones(1, 8, 16, 16)
    f = upfirdn2d.setup_filter([1, 3, 3, 1])
    with meta_cuda.MetaCuda():
        x, f = x.to('cuda'), f.to('cuda')
        meter = meta_cuda.restart()
        upfirdn2d.upsample2d(x, f, impl='ref')
        assert meter.total()[0] > 1


def test_statistics_of_the_device_do_not_stay_behind():
    with meta_cuda.MetaCuda():
        training_stats.report('left', torch.ones([3], device='cuda'))
    assert 'left' not in training_stats.state_dict()['names']
