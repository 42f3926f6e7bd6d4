"""Constants, shape checks, the sampler, copying between modules, and the module summary."""
import itertools

import numpy as np
import pytest
import torch
from fixture_data import case_ids

from torch_utils import misc


def stream(n, count, **options):
    return list(itertools.islice(misc.InfiniteSampler(range(n), **options), count))


def numbers(text):
    return [int(word) for word in text.split()]


@pytest.mark.parametrize('kind', ['cpu', 'mps'])
def test_only_cuda_devices_fetch_tensors_while_the_host_goes_on(monkeypatch, kind):
    """On others a copy under way may be read, or its source be gone, before it has arrived."""
    asked = []
    monkeypatch.setattr(torch.Tensor, 'to', lambda x, *args, **kwargs: asked.append((args, kwargs)))
    misc.to_device(torch.zeros(2), torch.device(kind))
    assert asked == [((torch.device(kind),), {})]


# Infinite sampler.


@pytest.mark.parametrize('case', [param for param in case_ids('10b_sampling') if param.id.startswith('sampler')])
def test_sampler_gives_the_streams_of_the_fixtures(case):
    options = {key: case.config[key] for key in ('rank', 'seed', 'window_size', 'shuffle')}
    indices = stream(case.config['size'], 200, num_replicas=case.config['replicas'], **options)
    case.check('indices', np.array(indices))


@pytest.mark.parametrize(('n', 'options', 'expected'), [
    (8, {}, '6 2 1 7 3 0 5 2 7 6 3 4 1 0 7 2 4 1 6 0 5 3 2 4 1 6 7 2 0 1 5 4'),
    (8, {'num_replicas': 2}, '6 1 3 5 7 3 1 7 4 6 5 2 1 7 0 5'),
    (8, {'num_replicas': 2, 'rank': 1}, '2 7 0 2 6 4 0 2 1 0 3 4 6 2 1 4'),
    (10, {'seed': 7}, '8 5 0 2 1 9 7 3 8 2 6 9 0 5 3 4 6 9 7 8 2 1 4 5 3 9 2 0 8 4'),
    (10, {}, '2 8 4 9 1 6 2 3 0 9 7 8 1 5 6 4 3 8 2 1 9 6 7 5'),
    (10, {'num_replicas': 2}, '2 4 1 2 0 7 1 6 3 2 9 7'),
    (10, {'num_replicas': 2, 'rank': 1}, '8 9 6 3 9 8 5 4 8 1 6 5'),
])
def test_sampler_gives_the_specified_streams(n, options, expected):
    expected = numbers(expected)
    assert stream(n, len(expected), **options) == expected


def test_sampler_window_of_one_entry_swaps_and_draws_nothing():
    once = np.arange(6)
    np.random.RandomState(3).shuffle(once)
    assert stream(6, 18, seed=3, window_size=1 / 6) == 3 * once.tolist()


def test_sampler_draws_one_number_per_entry_however_it_blocks_them():
    # The process written out, one draw at a time, long enough for several blocks.
    n, window, rng = 1000, 500, np.random.RandomState(5)
    order = np.arange(n)
    rng.shuffle(order)
    expected = []
    for t in range(10000):
        i = t % n
        expected.append(int(order[i]))
        j = (i - rng.randint(window)) % n
        order[[i, j]] = order[[j, i]]
    assert stream(n, 10000, seed=5) == expected


@pytest.mark.parametrize('start', [1, 49, 50, 51, 4096, 12345])
def test_sampler_started_late_goes_on_with_the_same_stream(start):
    options = {'rank': 1, 'num_replicas': 3, 'seed': 4}
    assert stream(50, 20, start=start, **options) == stream(50, start + 20, **options)[start:]


def test_sampler_hands_every_entry_of_a_round_to_one_rank():
    ranks = [stream(12, 4, rank=rank, num_replicas=3, seed=1, window_size=0) for rank in range(3)]
    assert sorted(itertools.chain(*ranks)) == list(range(12))


def test_sampler_feeds_a_loader():
    data = torch.arange(10)
    loader = torch.utils.data.DataLoader(data, sampler=misc.InfiniteSampler(data, seed=7), batch_size=4)
    batches = itertools.islice(iter(loader), 3)
    assert torch.cat(list(batches)).tolist() == numbers('8 5 0 2 1 9 7 3 8 2 6 9')


@pytest.mark.parametrize('options', [{'rank': 2, 'num_replicas': 2}, {'window_size': 1.5}, {'start': -1}])
def test_sampler_refuses_impossible_arguments(options):
    with pytest.raises(AssertionError):
        misc.InfiniteSampler(range(4), **options)


def test_sampler_refuses_an_empty_data_set():
    with pytest.raises(AssertionError, match='empty'):
        misc.InfiniteSampler([])


# Constants and shapes.


def test_constant_is_made_once():
    first = misc.constant([1, 2, 3])
    assert misc.constant((1, 2, 3)) is first
    assert misc.constant([1, 2, 4]) is not first
    assert misc.constant([1.0, 2.0, 3.0]) is not misc.constant([1.0, 2.0, 3.0], dtype=torch.float64)


def test_constant_has_the_value_shape_type_and_layout_asked_for():
    tensor = misc.constant([[1], [2]], shape=[4, 3, 2, 5], dtype=torch.float16, memory_format=torch.channels_last)
    assert tensor.dtype == torch.float16 and tensor.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(tensor, torch.tensor([1., 2.]).half().reshape(1, 1, 2, 1).expand(4, 3, 2, 5))
    assert misc.constant(3).dtype == torch.float32 and misc.constant(3).shape == ()


def test_constant_made_in_inference_mode_serves_in_training():
    with torch.inference_mode():
        factor = misc.constant(123.5)
    x = torch.ones([], requires_grad=True)
    (x * factor).backward()
    assert x.grad == 123.5


def test_assert_shape_names_both_shapes():
    tensor = torch.zeros(2, 3)
    misc.assert_shape(tensor, [2, None])
    for other in ([2, 4], [2], [2, 3, 1]):
        with pytest.raises(AssertionError) as error:
            misc.assert_shape(tensor, other)
        assert str(error.value) == f'shape [2, 3], expected {other}'


# Tensors of modules.


class Small(torch.nn.Module):
    """Two tensors, each held as a parameter or as a buffer."""

    def __init__(self, weight, bias, frozen=(), **more):
        super().__init__()
        for name, value in {'weight': weight, 'bias': bias, **more}.items():
            if name in frozen:
                self.register_buffer(name, torch.tensor(value))
            else:
                self.register_parameter(name, torch.nn.Parameter(torch.tensor(value)))


def test_named_tensors_are_parameters_then_buffers():
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
    names = ['0.weight', '0.bias', '1.weight', '1.bias', '0.running_mean', '0.running_var', '0.num_batches_tracked']
    named = misc.named_params_and_buffers(module)
    assert [name for name, _tensor in named] == names
    assert all(tensor is module.get_parameter(name) for name, tensor in named[:4])
    assert [id(tensor) for tensor in misc.params_and_buffers(module)] == [id(tensor) for _name, tensor in named]


def test_copy_fills_parameters_from_buffers_and_the_other_way_round():
    src = Small([1., 2.], [3.], frozen=['weight'])
    dst = Small([0., 0.], [0.], frozen=['bias'])
    weight = dst.weight
    misc.copy_params_and_buffers(src, dst, require_all=True)
    assert dst.weight.tolist() == [1, 2] and dst.bias.tolist() == [3]
    assert dst.weight is weight and weight.requires_grad and not dst.bias.requires_grad


def test_copy_leaves_out_what_only_one_side_has():
    src, dst = Small([1.], [2.], only_src=[3.]), Small([0.], [0.], only_dst=[4.])
    misc.copy_params_and_buffers(src, dst)
    assert [tensor.item() for tensor in dst.parameters()] == [1, 2, 4]


def test_copy_that_fails_names_the_tensor_and_copies_nothing():
    dst = Small([0.], [0., 0.])
    with pytest.raises(ValueError, match=r'bias has shape \[1\] in the source, \[2\] in the destination'):
        misc.copy_params_and_buffers(Small([1.], [1.]), dst)        # [1] would broadcast to [2].
    with pytest.raises(ValueError, match='extra is missing in the source'):
        misc.copy_params_and_buffers(Small([1.], [1., 1.]), Small([0.], [0., 0.], extra=[0.]), require_all=True)
    assert dst.weight.tolist() == [0] and dst.bias.tolist() == [0, 0]


# Module summary.


class Noisy(torch.nn.Module):
    """Draws random numbers and, while training, keeps an average."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Identity())
        self.register_buffer('avg', torch.zeros([]))

    def forward(self, x, scale):
        if self.training:
            self.avg += 1
        y = self.inner(x) * scale
        return {'y': y + torch.randn_like(y), 'half': y.half()}


def test_summary_lists_what_each_part_holds_and_returns(capsys):
    outputs = misc.print_module_summary(Noisy(), [torch.zeros(5, 3), 2])
    assert list(outputs) == ['y', 'half'] and outputs['y'].shape == (5, 4)
    lines = [' '.join(line.split()) for line in capsys.readouterr().out.splitlines() if '--' not in line]
    assert [line for line in lines if line] == [
        'Noisy Parameters Buffers Output shape Datatype',
        'inner.0 16 - [5, 4] float32',
        '<top level> - 1 [5, 4] [5, 4] float32 float16',
        'Total 16 1 - -',
    ]


def test_summary_shows_redundant_parts_on_request_and_folds_deep_ones(capsys):
    misc.print_module_summary(Noisy(), [torch.zeros(5, 3), 2], skip_redundant=False)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:-3]] == \
        ['inner.0', 'inner.1', 'inner', '<top']
    misc.print_module_summary(Noisy(), [torch.zeros(5, 3), 2], max_nesting=1)
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ['inner', '16']


def test_summary_leaves_no_trace():
    module = Noisy().train()
    module.inner[1].eval()
    before = torch.get_rng_state()
    outputs = misc.print_module_summary(module, [torch.zeros(5, 3), 2])
    assert not outputs['y'].requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    assert module.avg == 0
    assert module.training and module.inner[0].training and not module.inner[1].training
    assert not any(part._forward_hooks for part in module.modules())
    assert all(param.grad is None for param in module.parameters())
