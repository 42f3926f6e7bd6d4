"""Phases that are captured and replayed train the same numbers as phases that run."""
from contextlib import contextmanager
from unittest.mock import MagicMock

import pytest
import torch
from graphs_on_cpu import CpuRecorder
from test_zoo import zoo_config
from tiny import Silent, assert_same_bits, make_dataset

from torch_utils import training_stats
from torch_utils.cuda_graphs import CudaRecorder
from training import graphs, setup
from training.augment import PIPES, AugmentPipe
from training.config.resolve import resolve
from training.config.rules import UserError
from training.training_loop import run_phase, training_loop

ADA = dict(augment_kwargs=dict(class_name='training.augment.AugmentPipe', **PIPES['bgc']), p=0.2, target=0.6, ada_kimg=0.05)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    return [make_dataset(folder / f'{i}.zip', num=12, res=8, num_classes=2, seed=i) for i in range(2)]


def trained(config, num, recorder):
    """The state after `num` iterations with a recorder of
    graphs, or without (None), and all that was reported."""
    training_stats.reset()
    for player in 'GD':
        config[f'{player}_opt_kwargs']['fused'] = True
    run = setup.build({**config, 'ops': 'reference'}, torch.device('cpu'))
    if hasattr(run.game.augment, 'margin_shares'):
        run.game.augment.margin_shares = graphs.MARGINS
    if recorder is not None:
        run.graphs = graphs.PhaseGraphs(run.randomness, recorder)
    run.stages[-1].end_nimg = 10 ** 6
    training_loop(run, Silent(num * config['batch']))
    return run.state_dict(), run.local_state_dict(), training_stats.reported()


def config_of(data, names=(), loss='logistic', **changes):
    config = zoo_config(data, names, loss, 'logistic', res=8, **changes)
    config.update(G_reg_interval=2, D_reg_interval=2)
    for name, options in dict(diggan=dict(interval=2, ema=0.5), lecam=dict(start=2), vision=dict(warmup=0.012)).items():
        config['regularizers'].get(name, {}).update(options)
    config['data_shape']['c_dim'] = 2
    config['training_set_kwargs'].update(resolution=8, use_labels=True)
    return config


CASES = {
    'ada': ((), ADA), 'accumulated': ((), dict(batch_gpu=2)), 'ggdr': (('ggdr',), ADA), 'genco': (('genco',), ADA),
    'lecam, apa': (('lecam', 'apa'), {}), 'diggan': (('diggan',), {}), 'osgan, gp': (('gp',), dict(loss='osgan')),
    'insgen, zcr': (('insgen', 'zcr'), ADA), 'fakeclr, bcr': (('fakeclr', 'bcr'), ADA), 'vision': (('vision',), {}),
    'relativistic, cr': (('r2', 'cr'), dict(loss='relativistic')),
    'diffusion': ((), dict(augment_kwargs=dict(class_name='training.diffusion.Diffusion'), p=0.1, target=0.6, ada_kimg=0.05)),
}


@pytest.mark.parametrize('names, changes', CASES.values(), ids=CASES)
def test_replayed_phases_train_the_same_bits(data, capsys, names, changes):
    recorder = CpuRecorder()
    num = 9 if 'diggan' in names else 7         # It acts in every second iteration.
    replayed = trained(config_of(data, names, **changes), num, recorder)
    expected = trained(config_of(data, names, **changes), num, None)
    assert_same_bits(replayed, expected)
    assert 'without' not in capsys.readouterr().out
    assert recorder.num_replayed > recorder.num_captured > 0


def run_with_graphs(data, **changes):
    run = setup.build({**config_of(data, **changes), 'ops': 'reference'}, torch.device('cpu'))
    run.graphs = graphs.PhaseGraphs(run.randomness, CpuRecorder())
    run.stages[-1].end_nimg = 10 ** 6
    for player in run.game.players:
        player.optimizer.param_groups[0]['fused'] = True
    return run


def test_a_phase_that_cannot_be_captured_runs_as_usual_and_says_why(data, capsys):
    run = run_with_graphs(data)
    step = run.phases[0].step

    def reading(game, ctx):
        step(game, ctx)
        float(ctx.gen.img.detach().mean())
    reading.sites, run.phases[0].step = step.sites, reading
    training_loop(run, Silent(12))
    assert list(run.graphs.refused) == ['Gmain'] and len(run.graphs) > 0
    assert capsys.readouterr().out.startswith('Gmain runs without a CUDA graph: aten._local_scalar_dense')


def test_draws_of_the_host_are_refused(data, capsys):
    run = run_with_graphs(data)
    step = run.phases[0].step

    def drawing(game, ctx):
        step(game, ctx)
        ctx.numpy_rng('mine')
    drawing.sites, run.phases[0].step = step.sites, drawing
    training_loop(run, Silent(4))
    assert 'Gmain runs without a CUDA graph: it draws random numbers on the host (Gmain/0/0/mine).' in capsys.readouterr().out


def test_without_memory_for_graphs_a_run_goes_on_without_them(data, capsys):
    run = run_with_graphs(data)

    def full(function, generators):
        raise torch.OutOfMemoryError('CUDA out of memory')
    run.graphs.recorder.capture = full
    training_loop(run, Silent(16))
    assert run.micro_batch == run.batch_gpu and run.batch_idx == 4 and len(run.graphs) == 0
    assert capsys.readouterr().out.count('Out of memory with CUDA graphs, which keep their own: going on without.') == 1


def test_a_phase_that_runs_as_usual_may_have_the_memory_of_graphs(data, capsys):
    """Smaller micro-batches come after that."""
    run = run_with_graphs(data)
    training_loop(run, Silent(8))
    num_graphs, tried = len(run.graphs), []

    def limited(module, args):
        tried.append(len(args[0]))
        if len(tried) == 1:
            raise torch.OutOfMemoryError('CUDA out of memory')
    run.graphs.refused['Dmain'] = 'of this test'
    run.game.D.module.register_forward_pre_hook(limited)
    reals = [stream.next_batch() for stream in run.reals]
    run_phase(run, next(phase for phase in run.phases if phase.name == 'Dmain'), reals, {})
    assert num_graphs > 0 and len(run.graphs) == 0 and run.micro_batch == run.batch_gpu
    assert 'going on without' in capsys.readouterr().out


def test_of_many_graphs_those_go_that_were_not_used_for_longest(data, monkeypatch):
    monkeypatch.setattr(graphs, 'MAX_GRAPHS', 1)
    recorder = CpuRecorder()
    replayed = trained(config_of(data, **ADA), 9, recorder)
    assert_same_bits(replayed, trained(config_of(data, **ADA), 9, None))
    assert recorder.num_waits > 0 and recorder.num_replayed > recorder.num_captured


class Allocator:
    """What torch does about the memory of captures, in its own
    order: whose pools are used, and which captures go on."""

    def __init__(self, monkeypatch, accepted=True):
        self.accepted, self.handles, self.users, self.underway, self.streams = accepted, iter(range(9)), {}, [], ['usual']
        outer = self

        class Graph:
            ended = False

            def capture_begin(self, pool=None, capture_error_mode='global'):
                self.pool = next(outer.handles) if pool is None else pool
                assert self.pool not in outer.underway and outer.users.get(self.pool) != 0
                outer.users[self.pool] = outer.users.get(self.pool, 0) + 1
                outer.underway.append(self.pool)

            def capture_end(self):
                if not outer.accepted:
                    outer.accepted = True
                    raise torch.AcceleratorError('CUDA error: operation failed due to a previous error during capture')
                outer.end(0, self.pool)
                self.ended = True

            def replay(self):
                pass

            def reset(self):
                if self.ended:
                    outer.release(0, self.pool)
                self.ended = False

        @contextmanager
        def capture(graph, stream):
            graph.capture_begin()
            yield
            graph.capture_end()
            graph.reset()       # It is thrown away.

        @contextmanager
        def stream(stream):
            self.streams.append(stream)
            try:
                yield
            finally:
                self.streams.pop()
        for name, value in dict(Stream=MagicMock, CUDAGraph=Graph, graph=capture, stream=stream, synchronize=MagicMock(),
                                empty_cache=MagicMock(), graph_pool_handle=lambda: next(self.handles)).items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, '_cuda_endAllocateToPool', self.end, raising=False)
        monkeypatch.setattr(torch._C, '_cuda_releasePool', self.release, raising=False)

    def end(self, device, pool):
        if pool not in self.underway:
            raise RuntimeError('not currently recording')
        self.underway.remove(pool)

    def release(self, device, pool):
        self.users[pool] -= 1
        assert self.users[pool] >= 0


@pytest.mark.parametrize('accepted', [True, False])
def test_a_capture_that_fails_holds_no_memory(monkeypatch, accepted):
    """As long as torch believes that one goes on, it gives no memory back, and steps as usual have none."""
    allocator = Allocator(monkeypatch, accepted)
    recorder = CudaRecorder(torch.device('cpu', 0))

    def full():
        raise torch.OutOfMemoryError('CUDA out of memory')
    with pytest.raises(torch.OutOfMemoryError):
        recorder.capture(full, [])
    assert allocator.underway == [] and not any(allocator.users.values()) and allocator.streams == ['usual']
    recorder.renew()
    assert recorder.capture(lambda: 'result', [])[0] == 'result'
    assert allocator.underway == [] and sum(allocator.users.values()) == 1


def test_a_graph_that_cannot_be_made_of_what_was_captured_holds_no_memory(monkeypatch):
    allocator = Allocator(monkeypatch, accepted=False)
    recorder = CudaRecorder(torch.device('cpu', 0))
    with pytest.raises(RuntimeError, match='previous error'):
        recorder.capture(lambda: 'result', [])
    assert allocator.underway == [] and not any(allocator.users.values()) and allocator.streams == ['usual']


def test_gradients_in_the_memory_of_graphs_go_with_them(data):
    run = run_with_graphs(data)
    training_loop(run, Silent(8))
    parameters = [p for player in run.game.players for p in player.module.parameters()]
    assert any(p.grad is not None for p in parameters)
    run.graphs.give_up(run.phases)
    assert all(p.grad is None for p in parameters)


def test_after_graphs_were_forgotten_others_use_other_memory(data):
    """torch takes none of a pool whose graphs are all gone."""
    run = run_with_graphs(data)
    training_loop(run, Silent(8))
    run.graphs.recorder.renew = MagicMock()
    run.graphs.forget()
    run.graphs.recorder.renew.assert_called_once()


def test_graphs_are_forgotten_when_a_run_is_restored(data):
    run = run_with_graphs(data)
    training_loop(run, Silent(12))
    assert len(run.graphs) > 0
    run.load_state_dict(run.state_dict(), run.local_state_dict())
    assert len(run.graphs) == 0


def test_what_cannot_have_graphs_says_so(data, capsys):
    cuda = torch.device('cuda')
    run = run_with_graphs(data)
    assert graphs.why_not(run.game, cuda) is None
    assert 'computes on cpu' in graphs.why_not(run.game, torch.device('cpu'))
    config = {**zoo_config(data, ['tdgan']), 'cuda_graphs': 'on'}
    assert setup.build_graphs({**config, 'cuda_graphs': 'auto'}, run.game, run.randomness, torch.device('cpu')) is None
    assert capsys.readouterr().out == ''
    assert setup.build_graphs(config, run.game, run.randomness, torch.device('cpu')) is None
    assert capsys.readouterr().out == 'Without CUDA graphs, which this run cannot have: it computes on cpu, which has none.\n'
    centres = setup.build(config, torch.device('cpu')).game
    for player in centres.players:
        player.optimizer.param_groups[0]['fused'] = True
    assert graphs.why_not(centres, cuda).startswith('TDGAN: its stages')


@pytest.mark.parametrize('options, sentence', [
    (dict(cuda_graphs='on', device='cpu'), '--cuda-graphs=on needs a CUDA device, and this run computes on cpu')])
def test_graphs_that_cannot_be_are_refused_before_any_work(data, options, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(dict(data=data[0], cfg='tiny', **options))


@pytest.mark.parametrize('p', [0.0, 0.3, 1.0])
def test_wider_margins_give_the_same_pictures(p):
    pictures, paddings = [], []
    img = torch.rand([6, 3, 32, 32], generator=torch.Generator().manual_seed(1)) * 2 - 1
    for shares in ((), graphs.MARGINS):
        pipe = AugmentPipe(**PIPES['bgc'])
        pipe.p.fill_(p)
        pipe.margin_shares = shares
        draw = pipe.draw(img, generator=torch.Generator().manual_seed(2))
        pictures.append(pipe.transform(img, draw))
        paddings.append(draw.warp.padding())
    assert len(set(paddings[1])) == 1 and all(a <= b for a, b in zip(*paddings)) and paddings[0] != paddings[1]
    assert paddings[1][0] in [min(int(-(-32 * share // 1)), 31) for share in graphs.MARGINS]
    torch.testing.assert_close(*pictures, rtol=0, atol=1e-4)


def test_graphs_are_used_where_a_run_can_have_them(data, capsys, monkeypatch):
    monkeypatch.setattr(setup, 'CudaRecorder', lambda device: CpuRecorder())
    run, gpu = run_with_graphs(data), torch.device('cuda')

    def graphs_for(choice):
        return setup.build_graphs(dict(cuda_graphs=choice), run.game, run.randomness, gpu)
    assert graphs_for('auto') is not None and graphs_for('on') is not None and graphs_for('off') is None
    monkeypatch.setattr(graphs, 'why_not', lambda game, device: 'it reads the news')
    monkeypatch.setattr(setup, 'why_not', graphs.why_not)
    assert graphs_for('auto') is None
    assert capsys.readouterr().out == 'Without CUDA graphs, which this run cannot have: it reads the news.\n'
