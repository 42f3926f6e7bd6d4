"""What each method does: its share of the gradient of its
player, which no number of the training depends on."""
from pathlib import Path

import pytest
import torch
from test_zoo import METHODS, zoo_config
from tiny import assert_same_bits, make_dataset, run_iterations

from benchmarks.methods import METHODS as TIMED
from benchmarks.methods import NoTicks, build
from torch_utils import training_stats
from training import setup
from training.run import shares
from training.run.shares import INTERVAL, PREFIX
from training.training_loop import run_iteration, run_phase


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    return [make_dataset(folder / f'{i}.zip', num=12, seed=i) for i in range(2)]


def shares_of(run, batch_idx=0):
    """{statistic: value} of one iteration."""
    for stage_idx in range(len(run.stages)):
        run.enter_stage(stage_idx)
    run.batch_idx, reals, shared = batch_idx, [stream.next_batch() for stream in run.reals], {}
    collector = training_stats.Collector(f'{PREFIX}.*')
    collector.update()
    for phase in run.phases:
        if batch_idx % phase.interval == 0:
            run_phase(run, phase, reals, shared)
    run.game.shares.end_iteration()
    collector.update()
    return {name.removeprefix(PREFIX): collector.mean(name) for name in collector.names() if collector.num(name)}


def without_shares(state):
    """The state without the statistics, which are not of the training."""
    return [state[0], {key: value for key, value in state[1].items() if key != 'statistics'}]


@pytest.mark.parametrize(('loss', 'names'), [('logistic', ['ggdr', 'diggan', 'weco', 'r2', 'lecam']), ('osgan', ['ggdr', 'r2']),
                                             ('logistic', ['tdgan'])])
def test_measuring_changes_no_bit(data, monkeypatch, loss, names):
    config = zoo_config(data, names, loss, 'logistic', batch_gpu=2)
    _, measured = run_iterations(config, 3)
    build = setup.build_game

    def without(*args):
        game = build(*args)
        game.shares = None
        return game
    monkeypatch.setattr(setup, 'build_game', without)
    _, plain = run_iterations(config, 3)
    assert_same_bits(without_shares(measured), without_shares(plain))


@pytest.mark.parametrize('name', [name for name in METHODS if name not in ('apa', 'daco')])
def test_every_method_with_a_term_has_a_share(data, name):
    """Of the player that it teaches; beside it stand those of the terms that every run has."""
    config = zoo_config(data, [name], **(dict(r1_gamma=1.0) if name != 'gp' else {}))
    player = dict(weco='D2', tdgan='G', vision='G').get(name, 'D')
    shares = shares_of(setup.build(config, torch.device('cpu')), INTERVAL * (name != 'lecam'))
    assert f'{name}/{player}' in shares or name == 'lecam'
    assert all(0 <= value <= 1 for value in shares.values()) and 'path_length/G' in shares
    assert ('r1/D' in shares) == (name != 'gp')


def test_a_share_is_the_length_of_the_term_beside_that_of_the_whole_step(data):
    """WeCo's, which the batch does not enter, written out."""
    run = setup.build(zoo_config(data, ['weco'], batch_gpu=2), torch.device('cpu'))
    game = run.game
    D, twin = game.D.module, game.critics['D2'].module.requires_grad_(True)
    pairs = list(zip(D.parameters(), twin.parameters()))
    dot, a, b = (sum(terms) for terms in zip(*[((p * q).sum(), p.square().sum(), q.square().sum()) for p, q in pairs]))
    cosine = dot.detach() * 0 + dot / (a * b).sqrt()
    grads = torch.autograd.grad(0.01 * (1 + cosine), list(twin.parameters()), allow_unused=True)
    length = torch.stack([grad.norm() for grad in grads if grad is not None]).norm()
    twin.requires_grad_(False)
    seen = {}
    note_step = game.shares.note_step

    def noting(ctx):
        if ctx.phase.name == 'D2main' and ctx.round == 0:
            seen['whole'] = torch.stack([p.grad.norm() for p in twin.parameters() if p.grad is not None]).norm()
        note_step(ctx)
    game.shares.note_step = noting
    for player in game.players:
        player.optimizer = torch.optim.SGD(player.module.parameters(), lr=0.0)
    assert shares_of(run)['weco/D2'] == pytest.approx((length / seen['whole']).item(), rel=1e-3)


def test_the_only_term_of_a_lazy_step_is_not_differentiated_again(data, monkeypatch):
    """Its gradient is there when the step has run. R1 and R2 share theirs, and each has its own."""
    found, counts, grad = [], [], torch.autograd.grad
    alone = shares.is_alone
    for again in True, False:
        run = setup.build(zoo_config(data, ['lecam'], r1_gamma=1.0), torch.device('cpu'))
        counts.append(0)

        def counted(*args, **kwargs):
            counts[-1] += kwargs.get('retain_graph') is True
            return grad(*args, **kwargs)
        monkeypatch.setattr(torch.autograd, 'grad', counted)
        monkeypatch.setattr(shares, 'is_alone', lambda ctx, again=again: alone(ctx) and not again)
        found.append(shares_of(run))
    assert counts == [2, 0] and found[0] == pytest.approx(found[1], rel=1e-5)
    assert {'path_length/G', 'r1/D'} <= found[1].keys()
    run = setup.build(zoo_config(data, ['r2'], r1_gamma=1.0), torch.device('cpu'))
    assert {'r1/D', 'r2/D'} <= shares_of(run).keys() and counts[1] == 2


def test_only_now_and_then_and_only_where_there_are_methods(data):
    run = setup.build(zoo_config(data, ['r2']), torch.device('cpu'))
    assert shares_of(run, INTERVAL) and not shares_of(run, INTERVAL + 16)
    assert setup.build(zoo_config(data), torch.device('cpu')).game.shares is None


def test_no_memory_for_it_ends_it_and_not_the_run(data, monkeypatch):
    run = setup.build(zoo_config(data, ['ggdr']), torch.device('cpu'))
    grad = torch.autograd.grad

    def failing(*args, **kwargs):
        if kwargs.get('retain_graph') and kwargs.get('allow_unused'):
            raise torch.OutOfMemoryError('CUDA out of memory')
        return grad(*args, **kwargs)
    monkeypatch.setattr(torch.autograd, 'grad', failing)
    assert set(shares_of(run)) == {'path_length/G'} and run.micro_batch == run.batch_gpu      # That is the whole step.
    monkeypatch.undo()
    assert not shares_of(run, INTERVAL)


# Groups in which every method with a term occurs; weco is known to be next to nothing.
TOGETHER = ['lecam,r2,bcr,zcr,insgen', 'diggan,cr,fakeclr', 'gp,ggdr', 'tdgan', 'vision']


@pytest.mark.parametrize('names', [*TOGETHER[:-1], pytest.param(TOGETHER[-1], marks=pytest.mark.slow)])
def test_no_method_does_next_to_nothing_at_its_defaults(monkeypatch, names):
    """Beside others, which make its share smaller. Only options that decide from when on one acts are given."""
    monkeypatch.setattr(shares, 'INTERVAL', 8)
    given = dict(lecam=['--lecam_start=4'], vision=['--vision_warmup=0', '--vision_size=64'], gp=['--gamma=0'],
                 tdgan=TIMED['tdgan reminded'][1:])
    more = [option for name in names.split(',') for option in given.get(name, ())]
    run = build(['--cfg=tiny', '--batch=4', '--cbase=512', '--cmax=16', '--aug=fixed', '--p=0.2', '--gamma=1',
                 f'--reg_type={names}', *more],
                torch.device('cpu'))
    collector = training_stats.Collector(f'{PREFIX}.*')
    for batch_idx in range(9):
        if batch_idx == 8:
            collector.update()
        run_iteration(run, NoTicks())
    collector.update()
    found = {name.removeprefix(PREFIX): collector.mean(name) for name in collector.names() if collector.num(name)}
    for name in names.split(','):
        own = [value for key, value in found.items() if key.startswith(f'{name}/')]
        assert own and max(own) >= 1e-3, (name, found)


def test_every_method_is_in_a_group_or_says_what_it_is_there_for():
    named = {name for names in TOGETHER for name in names.split(',')}
    assert {*METHODS} - named == {'apa', 'daco', 'weco'}
    page = (Path(__file__).parents[2] / 'docs/methods/genco.md').read_text(encoding='utf-8')
    assert 'its gradient is 1e-5 to 1e-6 of the rest: what helps is the second critic itself' in page
