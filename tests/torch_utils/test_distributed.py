"""Processes that work together: collectives of two gloo
processes, and how a run ends when one of them fails."""
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import click
import PIL.Image
import pytest
import torch
import torch.distributed as dist

from dnnlib import torchrun
from torch_utils import distributed, launcher, misc, training_stats

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)        # What hangs must end some day; a machine may be busy with other things.
PATIENCE_SEC = 300


# One process.


def test_one_process_is_a_group_of_one():
    seen = []
    distributed.launch(lambda *args: seen.append(args), 1, args=('a', 2))
    assert seen == [(0, 'a', 2)]
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    assert distributed.all_agree(True) and not distributed.all_agree(False)
    assert distributed.any(True) and not distributed.any(False)
    assert distributed.broadcast_object('a') == 'a' and distributed.gather_objects('a') == ['a']
    distributed.barrier()
    module = torch.nn.Linear(2, 2)
    before = [param.clone() for param in module.parameters()]
    distributed.broadcast_module_(module)
    distributed.all_reduce_mean_([param.data for param in module.parameters()])
    distributed.check_equal({'D': module})
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters()))


def test_what_a_child_computes_comes_back_without_it():
    assert launcher.in_child(os.getpid) != os.getpid() == launcher.ask(os.getpid, num_processes=1)
    with pytest.raises(ZeroDivisionError):
        launcher.in_child(divmod, 1, 0)
    with pytest.raises(RuntimeError, match='the process that computed abort has died'):
        launcher.in_child(os.abort)


def test_error_of_a_single_process_passes_unchanged():
    def fail(_rank):
        raise ValueError('as it was')
    with pytest.raises(ValueError, match='as it was'):
        distributed.launch(fail, 1)


def test_group_is_up_while_the_function_runs_and_down_after_it(tmp_path):
    seen = []
    launcher.run_in_group(lambda rank: seen.append((rank, dist.is_initialized())), 0, 1, (),
                           store=dist.FileStore(str(tmp_path / 'store'), 1))
    assert seen == [(0, True)] and not dist.is_initialized()


# Devices.


def test_device_is_picked_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert distributed.pick_device('cpu') == distributed.pick_device('auto') == torch.device('cpu')


def test_cuda_device_is_that_of_the_local_rank(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(torch.cuda, 'set_device', chosen.append)
    monkeypatch.setenv('LOCAL_RANK', '3')
    monkeypatch.setattr(distributed, 'has_group', lambda: True)        # Without a group the variable is left over.
    monkeypatch.setattr(distributed.dist, 'get_rank', lambda: 3)
    monkeypatch.setattr(distributed.dist, 'get_world_size', lambda: 4)
    assert distributed.pick_device('auto') == distributed.pick_device('cuda') == torch.device('cuda', 3)
    assert chosen == 2 * [torch.device('cuda', 3)]


def test_device_that_is_not_there_is_a_usage_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    assert distributed.check_device('cuda', 1) == 'cuda' and distributed.check_device('cpu', 8) == 'cpu'
    with pytest.raises(click.UsageError, match='--device=cuda: CUDA devices needed: 2, found: 1; --device=cpu'):
        distributed.check_device('cuda', 2)
    with pytest.raises(click.UsageError, match='--device=mps serves one process, not 2'):
        distributed.check_device('mps', 2)
    with pytest.raises(click.UsageError, match='--device=mps: this machine has no such device'):
        distributed.pick_device('mps')
    as_of_torchrun(monkeypatch, LOCAL_WORLD_SIZE='1')   # One process here, of two on two machines.
    assert distributed.check_device('cuda', 2) == 'cuda'


def as_of_torchrun(monkeypatch, **changes):
    """The environment of a process of torchrun, of two."""
    usual = {'RANK': '0', 'LOCAL_RANK': '0', 'WORLD_SIZE': '2', 'MASTER_ADDR': 'localhost', 'MASTER_PORT': '29500'}
    for name, value in {**usual, **changes}.items():
        monkeypatch.setenv(name, value)


# Collectives, two processes.


class Small(torch.nn.Module):
    """Every kind of tensor that a module may hold, filled with one number."""

    def __init__(self, value):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full([2, 3, 4, 5], value).to(memory_format=torch.channels_last))
        self.frozen = torch.nn.Parameter(torch.full([], value, dtype=torch.float16), requires_grad=False)
        self.register_buffer('w_avg', torch.full([3], value))
        self.register_buffer('count', torch.tensor(2 ** 40 + 1 + int(value)))
        self.register_buffer('flag', torch.tensor(value > 0))


def check_collectives(rank):
    check_connections()
    assert distributed.rank() == distributed.local_rank() == rank and distributed.world_size() == 2
    assert distributed.pick_device('cpu') == torch.device('cpu')
    assert 2 * torch.get_num_threads() <= max(os.cpu_count(), 2)        # The cores are shared.
    assert not distributed.all_agree(rank == 0) and distributed.all_agree(True)
    assert distributed.any(rank == 0) and not distributed.any(False)
    distributed.barrier()
    assert distributed.broadcast_object({'from': rank}) == {'from': 0}
    assert distributed.gather_objects(f'rank {rank}') == ['rank 0', 'rank 1']
    assert distributed.gather_on_main(f'rank {rank}') == (None if rank else ['rank 0', 'rank 1'])
    state = {'a': [torch.arange(3) + rank, 'text', torch.tensor(1.5 + rank)], 'b': (rank, torch.zeros(0, 2))}
    state = distributed.broadcast_nested(state if rank == 0 else None)
    assert torch.equal(state['a'][0], torch.arange(3)) and state['a'][1:] == ['text', 1.5]
    assert state['b'][0] == 0 and state['b'][1].shape == (0, 2)
    late = distributed.LateFlag()           # One call later, and the same on both.
    assert [late.any(rank == 1 and call == 1) for call in range(4)] == [False, False, True, False]
    check_all_reduce_mean(rank)
    check_broadcast(rank)
    check_equality(rank)
    check_statistics(rank)


def check_connections():
    """gloo connects two processes when they have something to say to each other, not before."""
    def sockets():
        paths = [f'/proc/self/fd/{fd}' for fd in os.listdir('/proc/self/fd')]
        return sum(os.readlink(path).startswith('socket:') for path in paths if os.path.lexists(path))
    if sys.platform == 'linux':
        before = sockets()
        distributed.barrier()
        assert sockets() > before


def check_all_reduce_mean(rank):
    tensors = [
        torch.arange(120.).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last) + rank,
        torch.tensor(4. + 2 * rank),
        torch.full([3], math.inf) if rank else torch.zeros(3),
        torch.zeros([0, 2]),
    ]
    strides = [tensor.stride() for tensor in tensors]
    all_reduce, calls = dist.all_reduce, []
    dist.all_reduce = lambda *args, **kwargs: calls.append(args) or all_reduce(*args, **kwargs)
    try:
        distributed.all_reduce_mean_(tensors)
        assert len(calls) == 1
        distributed.all_reduce_mean_([])
        assert len(calls) == 1
    finally:
        dist.all_reduce = all_reduce
    assert torch.equal(tensors[0], torch.arange(120.).reshape(2, 3, 4, 5) + 0.5)
    assert tensors[1] == 5 and (tensors[2] == math.inf).all()
    assert [tensor.stride() for tensor in tensors] == strides
    alone = torch.arange(4.).reshape(2, 2) + rank
    distributed.all_reduce_mean_([alone])
    assert torch.equal(alone, torch.arange(4.).reshape(2, 2) + 0.5)
    transposed = (torch.arange(6.).reshape(2, 3) + rank).T
    distributed.all_reduce_mean_([transposed])
    assert torch.equal(transposed, torch.arange(6.).reshape(2, 3).T + 0.5) and transposed.stride() == (1, 3)
    mixed = [torch.tensor(1. + rank), torch.tensor(2 ** 30 + 1. + 2 * rank, dtype=torch.float64)]
    distributed.all_reduce_mean_(mixed)
    assert mixed[0] == 1.5 and mixed[1] == 2 ** 30 + 2 and mixed[1].dtype == torch.float64
    one, other = (torch.randn(1000, generator=torch.Generator().manual_seed(number)) for number in (0, 1))
    mean, = distributed.Mean([other if rank else one], torch.bfloat16).tensors()
    assert ((mean - (one + other) / 2).abs() <= 2 ** -8 * (one.abs() + other.abs())).all()
    assert mean.dtype == torch.float32
    assert all(torch.equal(mean, theirs) for theirs in distributed.gather_objects(mean))


def check_broadcast(rank):
    module = Small(float(rank))
    held = [*module.parameters(), *module.buffers()]
    distributed.broadcast_module_(module)
    for tensor, expected in zip(held, [*Small(0.).parameters(), *Small(0.).buffers()]):
        assert torch.equal(tensor, expected) and tensor.stride() == expected.stride()
    assert module.weight.requires_grad and not module.frozen.requires_grad
    single = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        single.weight.fill_(rank + 1)
    distributed.broadcast_module_(single)
    assert (single.weight == 1).all() and single.weight.requires_grad


def check_equality(rank):
    G, D = Small(1.), torch.nn.Linear(2, 2)
    distributed.broadcast_module_(D)
    with torch.no_grad():
        G.weight[0, 0, 0, 0] = math.nan
        G.weight[0, 0, 0, 1] = math.inf
        G.w_avg += rank
    distributed.check_equal({'G': G, 'D': D})
    misc.check_ddp_consistency(G, r'Small\.w_avg')
    assert message_of(distributed.check_equal, {'G': G}, ignore='') == \
        'rank 1: G.w_avg differs from rank 0 in 3 of 3 elements, by up to 1'
    assert message_of(misc.check_ddp_consistency, G) == \
        'rank 1: Small.w_avg differs from rank 0 in 3 of 3 elements, by up to 1'
    with torch.no_grad():
        G.weight[1, 2, 3, 4] += 0.25 * rank
        G.count += rank
        D.bias[0] += rank
    assert message_of(distributed.check_equal, {'G': G, 'D': D}) == \
        'rank 1: D.bias differs from rank 0 in 1 of 2 elements, by up to 1 (and 2 more tensors differ)'
    assert message_of(distributed.check_equal, {'G': G}) == \
        'rank 1: G.count differs from rank 0 in 1 of 1 elements, by up to 1 (and 1 more tensors differ)'
    with torch.no_grad():
        G = Small(1.)
        G.weight[1, 2, 3, 4] = math.nan if rank else 0
    assert message_of(distributed.check_equal, {'G': G}) == \
        'rank 1: G.weight differs from rank 0 in 1 of 120 elements, by up to nan'
    assert message_of(distributed.check_equal, {'D': torch.nn.Linear(2, 2 + rank, bias=False)}) == \
        "rank 1: has ['D.weight [3, 2] torch.float32'] where rank 0 has ['D.weight [2, 2] torch.float32']"


def message_of(check, *args, **kwargs):
    with pytest.raises(RuntimeError) as error:
        check(*args, **kwargs)
    return str(error.value)


def check_statistics(rank):
    with pytest.raises(AssertionError, match='call training_stats.init_multiprocessing'):
        training_stats.Collector()
    training_stats.registry = training_stats.Registry()
    training_stats.init_multiprocessing(rank, 'cpu')
    collector = training_stats.Collector()
    training_stats.report('signs', torch.tensor([1., 1., -1.]) if rank else torch.tensor([-1.]))
    training_stats.report0('kimg', 3 + rank)
    training_stats.report('rank1', [7.] * rank)
    collector.update()
    assert (collector.num('signs'), collector['signs']) == (4, 0)
    assert (collector.num('kimg'), collector['kimg']) == (1, 3)
    assert (collector.num('rank1'), collector['rank1']) == (1, 7)
    training_stats.report('signs', rank)
    states = [None, None]
    dist.all_gather_object(states, collector.state_dict())
    assert states[0] == states[1] and states[0]['unread']['signs'] == [2, 1, 1]
    training_stats.report(f'only{rank}', 1)
    with pytest.raises(AssertionError, match='ranks have reported different statistics'):
        collector.update()


def test_a_flag_of_one_process_is_known_at_once():
    late = distributed.LateFlag()
    assert [late.any(flag) for flag in (True, False)] == [True, False]


def test_collectives_of_two_processes(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    distributed.launch(check_collectives, 2)
    assert not dist.is_initialized()


class OnGPU(torch.Tensor):
    is_cuda = property(lambda self: True)


def test_nccl_averages_itself(monkeypatch):
    """Gradients of a GPU are not divided in a pass of their own."""
    sent = []

    def all_reduce(tensor, op=dist.ReduceOp.SUM, async_op=False):
        sent.append((op, tensor.dtype))
        return SimpleNamespace(wait=lambda: None)
    monkeypatch.setattr(distributed, 'world_size', lambda: 2)
    monkeypatch.setattr(dist, 'is_nccl_available', lambda: True)
    monkeypatch.setattr(dist, 'all_reduce', all_reduce)
    grads = [torch.ones(3).as_subclass(OnGPU), torch.ones(2, 2).as_subclass(OnGPU)]
    assert all((mean == 1).all() for mean in distributed.Mean(grads).tensors())
    distributed.all_reduce_mean_(grads)
    mean, = distributed.Mean([torch.ones(3) + 2 ** -20], torch.bfloat16).tensors()      # On the CPU: divided here.
    assert (mean == 0.5).all() and mean.dtype == torch.float32
    assert sent == [*2 * [(dist.ReduceOp.AVG, torch.float32)], (dist.ReduceOp.SUM, torch.bfloat16)]


# Failures.


def raise_on_rank_1(rank):
    if rank == 1:
        raise ValueError('no such luck')
    dist.all_reduce(torch.zeros(1))         # gloo raises here as soon as rank 1 is gone.


def test_error_of_one_rank_is_raised_in_the_parent(capfd):
    with pytest.raises(distributed.RankError) as error:
        distributed.launch(raise_on_rank_1, 2)
    assert error.value.format_message() == 'rank 1 of 2 failed: ValueError: no such luck'
    stderr = capfd.readouterr().err
    assert stderr.count('Traceback') == 1 and 'in raise_on_rank_1' in stderr


def die_on_rank_1(rank, folder):
    Path(folder, f'pid{rank}').write_text(str(os.getpid()))
    distributed.barrier()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(86400)


@pytest.mark.skipif(sys.platform == 'win32', reason='signals')
def test_killed_rank_ends_even_those_that_do_not_listen(tmp_path):
    with pytest.raises(distributed.RankError, match=r'rank 1 of 2 was killed by SIGKILL \(is the memory'):
        distributed.launch(die_on_rank_1, 2, args=(str(tmp_path),))
    assert not is_running(int((tmp_path / 'pid0').read_text()))


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(('exitcodes', 'reports', 'expected'), [
    ([0, 0], [], None),
    ([1, 1], [(0, 20.0, 'peer is gone'), (1, 10.0, 'cause')], 'rank 1 of 2 failed: cause'),
    ([-15, 1], [(1, 10.0, 'peer is gone')], 'rank 0 of 2 was killed by SIGTERM'),
    ([-6, -11], [], 'rank 1 of 2 was killed by SIGSEGV'),
    ([-6, 1], [(1, 10.0, 'cause')], 'rank 1 of 2 failed: cause'),
    ([0, 3], [], 'rank 1 of 2 ended with status 3'),
    ([130, 0], [], 'rank 0 of 2 was interrupted'),
    ([None, -6], [], 'rank 1 of 2 was killed by SIGABRT'),
])
def test_cause_is_told_from_its_consequences(tmp_path, exitcodes, reports, expected):
    for rank, seconds, message in reports:
        (tmp_path / f'failure{rank}.json').write_text(json.dumps(
            {'time': seconds, 'rank': rank, 'message': message, 'exit_code': None, 'traceback': ''}))
    error = launcher.cause_among([SimpleNamespace(exitcode=code) for code in exitcodes], tmp_path)
    assert (error and error.format_message()) == expected


def test_user_error_of_a_rank_keeps_its_words_and_exit_status(tmp_path, capsys):
    try:
        raise click.UsageError('--resume: no such file')
    except click.UsageError as error:
        launcher.report_to_parent(error, 0, tmp_path)
    error = launcher.cause_among([SimpleNamespace(exitcode=1)], tmp_path)
    assert (error.format_message(), error.exit_code) == ('--resume: no such file', 2)
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(('error', 'expected'), [
    (RuntimeError('CUDA error\nCompile with something'), 'RuntimeError: CUDA error'),
    (AssertionError(), 'AssertionError'),
    (KeyError('a: b'), "KeyError: 'a: b'"),
])
def test_error_of_a_rank_is_one_line(tmp_path, error, expected):
    launcher.report_to_parent(error, 1, tmp_path)
    error = launcher.cause_among([SimpleNamespace(exitcode=code) for code in (None, 1)], tmp_path)
    assert error.format_message() == f'rank 1 of 2 failed: {expected}'


# torchrun, and signals to the parent.


@pytest.mark.parametrize('left_over', [{'RANK': '1'}, {'WORLD_SIZE': 'abc'}, {'LOCAL_RANK': '7'}, {'LOCAL_WORLD_SIZE': '9'},
                                       {'RANK': '1', 'WORLD_SIZE': '8', 'LOCAL_RANK': '1'}])
def test_variables_left_over_from_elsewhere_count_for_nothing(monkeypatch, left_over):
    for name, value in left_over.items():
        monkeypatch.setenv(name, value)
    assert distributed.torchrun_world_size() is None
    assert torchrun.is_main_process() and torchrun.world_size(1) == 1
    assert distributed.local_rank() == 0
    assert distributed.check_device('cpu', 1) == 'cpu'


@pytest.mark.parametrize('wrong', [{'WORLD_SIZE': 'abc'}, {'RANK': '-1'}, {'RANK': '2'}, {'LOCAL_RANK': '5'},
                                   {'LOCAL_WORLD_SIZE': 'two'}])
def test_what_torchrun_would_never_say_is_refused_in_a_sentence(monkeypatch, wrong):
    as_of_torchrun(monkeypatch, **wrong)
    with pytest.raises(click.UsageError, match=f'{next(iter(wrong))}=.*unset RANK'):
        torchrun.place()


def test_torchrun_with_another_number_of_processes_is_refused(monkeypatch):
    assert distributed.torchrun_world_size() is None
    as_of_torchrun(monkeypatch, RANK='2', WORLD_SIZE='4')
    assert distributed.torchrun_world_size() == 4
    with pytest.raises(click.UsageError, match='torchrun has started 4 processes, the options ask for 2'):
        distributed.launch(print, 2)


SCRIPT = f'''
import ctypes, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
# A shell's job in the background begins without it.
signal.signal(signal.SIGINT, signal.SIG_IGN if 'background' in sys.argv else signal.default_int_handler)
import torch
from torch_utils import distributed

def work(rank, folder, mode):
    if mode == 'stubborn':
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
    if mode == 'graceful':
        signal.signal(signal.SIGINT, lambda *_: (Path(folder, f'saved{{rank}}').touch(), os._exit(0)))
    if mode == 'background':
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda *_: (Path(folder, f'saved{{rank}}').touch(), os._exit(0)))
    tensor = torch.tensor(float(distributed.rank()))
    distributed.all_reduce_mean_([tensor])
    Path(folder, f'rank{{rank}}').write_text(f'{{os.getpid()}} {{distributed.world_size()}} {{tensor.item()}}')
    if mode == 'stuck':
        ctypes.PyDLL(None).sleep(86400)         # Without letting other threads of Python run.
    if mode != 'torchrun':
        time.sleep(86400)

if __name__ == '__main__':
    distributed.launch(work, 2, args=sys.argv[1:])
    print('ended well')
'''


def results(folder, patience_sec=PATIENCE_SEC):
    """What both ranks have written: [pid, world size, mean]."""
    deadline = time.monotonic() + patience_sec
    files = [folder / 'rank0', folder / 'rank1']
    while not all(file.exists() and file.read_text() for file in files):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return [[float(word) for word in file.read_text().split()] for file in files]


@pytest.fixture
def script(tmp_path):
    path = tmp_path / 'script.py'
    path.write_text(SCRIPT)
    return path


FIRST = f'''
import sys
sys.path.insert(0, {str(ROOT)!r})
import train
from training.data import storage
read, real = [], storage.FolderFiles.size_and_crc
storage.FolderFiles.size_and_crc = lambda self, name: read.append(name) or real(self, name)
options = '--outdir=runs --cfg=tiny --device=cpu --log=none'.split()
config = train.config_from_args([*options, f'--data={{sys.argv[1]}}'])
print(len(read), *config.data_fingerprints)
'''


def test_of_torchruns_processes_the_first_alone_reads_a_folder(tmp_path):
    """Each has the fingerprint; the others wait for it, and hear why there is none."""
    (tmp_path / 'set').mkdir()
    for name in 'ab':
        PIL.Image.new('RGB', (16, 16), name == 'a' and 'red' or 'blue').save(tmp_path / 'set' / f'{name}.png')
    alone, *found = [outputs(FIRST, tmp_path / 'set', num) for num in (1, 2)]
    found, = found
    (count, fingerprint), = alone
    assert count == '2' and found == [['2', fingerprint], ['0', fingerprint]]


def outputs(script, argument, num_ranks):
    """The words that each process of torchrun prints."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = str(free.getsockname()[1])
    num = str(num_ranks)
    shared = {**os.environ, 'WORLD_SIZE': num, 'LOCAL_WORLD_SIZE': num, 'MASTER_ADDR': 'localhost', 'MASTER_PORT': port}
    ranks = [subprocess.Popen([sys.executable, '-c', script, str(argument)], stdout=subprocess.PIPE, text=True,
                              env={**shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)})
             for rank in range(num_ranks)]
    return [rank.communicate(timeout=PATIENCE_SEC)[0].split() for rank in ranks]


def test_why_the_first_found_nothing_out_is_known_to_all(monkeypatch):
    said = []
    store = SimpleNamespace(wait=lambda names, timeout: None, get=lambda name: said[0],
                            set=lambda name, text: said.append(text))
    monkeypatch.setattr(launcher, 'rendezvous', lambda *_, **__: iter([(store, torchrun.place().rank, 2)]))
    as_of_torchrun(monkeypatch)
    with pytest.raises(ZeroDivisionError):
        launcher.of_first(lambda: str(1 / 0))
    as_of_torchrun(monkeypatch, RANK='1')
    with pytest.raises(click.UsageError, match='division by zero'):
        launcher.of_first(lambda: 'not asked')


@pytest.mark.slow
def test_torchrun_processes_form_the_group(script, tmp_path):
    subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
                    str(script), str(tmp_path), 'torchrun'], check=True, timeout=PATIENCE_SEC)
    assert [result[1:] for result in results(tmp_path)] == 2 * [[2, 0.5]]


@pytest.mark.skipif(sys.platform == 'win32', reason='signals')
@pytest.mark.parametrize('mode', [
    pytest.param('sleep', marks=pytest.mark.slow),
    pytest.param('stuck', marks=pytest.mark.skipif(sys.platform != 'linux', reason='a service of Linux'))])
def test_ranks_do_not_outlive_their_parent(script, tmp_path, mode):
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), mode])
    pids = [int(result[0]) for result in results(tmp_path)]
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + PATIENCE_SEC
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='signals')
@pytest.mark.parametrize(('mode', 'signum', 'expected'), [
    ('graceful', signal.SIGINT, 'ended well'),
    ('sleep', signal.SIGINT, 'KeyboardInterrupt'),
    ('sleep', signal.SIGTERM, 'rank 0 of 2 was interrupted'),
    ('graceful', signal.SIGTERM, 'ended well'),
])
def test_signals_reach_all_ranks(script, tmp_path, mode, signum, expected):
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), mode], start_new_session=True, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    pids = [int(result[0]) for result in results(tmp_path)]
    if signum == signal.SIGINT:
        os.killpg(parent.pid, signum)       # As a terminal does.
    else:
        parent.send_signal(signum)
    output, _ = parent.communicate(timeout=PATIENCE_SEC)
    assert expected in output
    assert not any(is_running(pid) for pid in pids)
    assert len(list(tmp_path.glob('saved*'))) == (2 if mode == 'graceful' else 0)


@pytest.mark.skipif(sys.platform == 'win32', reason='signals')
@pytest.mark.parametrize('signum', [signal.SIGUSR1, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signals_reach_the_ranks_of_what_a_script_starts_in_the_background(script, tmp_path, signum):
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), 'background'], text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    results(tmp_path)
    parent.send_signal(signum)
    try:
        output, _ = parent.communicate(timeout=PATIENCE_SEC)
    finally:
        parent.kill()
    assert 'ended well' in output and len(list(tmp_path.glob('saved*'))) == 2


@pytest.mark.skipif(sys.platform == 'win32', reason='signals')
def test_signals_to_the_whole_group_leave_no_traceback_and_a_second_interrupt_ends_it(script, tmp_path):
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path), 'stubborn'], start_new_session=True, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    results(tmp_path)
    time.sleep(0.5)                             # The ranks have their handlers before they write; the parent is waiting.
    os.killpg(parent.pid, signal.SIGUSR1)
    os.killpg(parent.pid, signal.SIGINT)
    deadline = time.monotonic() + PATIENCE_SEC
    while parent.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)                        # Also while the ranks are being ended, and while this process ends.
        parent.send_signal(signal.SIGINT)
    printed, _ = parent.communicate(timeout=PATIENCE_SEC)
    assert parent.returncode == 130
    assert 'Traceback' not in printed and 'resource_tracker' not in printed, printed
