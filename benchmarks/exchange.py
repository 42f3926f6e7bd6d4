"""What processes of one run exchange: calls, bytes and time an iteration, with gloo on the processors of this machine.

    python benchmarks/exchange.py                       # 2, 4, 8 and 16 processes; `tiny`, 16 px
    python benchmarks/exchange.py --ranks=2,4 --write   # And put the table into docs/scaling.md.

Calls and bytes are those of any machine. Times are not: here the processes share a few cores, and wait for one another.
"""
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

from benchmarks.page_parts import write_part  # noqa: E402
from benchmarks.timing import SMALL  # noqa: E402

PAGE = ROOT / 'docs' / 'scaling.md'
ITERATIONS = 16         # All lazy phases with their share.
OPTIONS = [*SMALL, '--aug=noaug', '--device=cpu', '--ops=reference']


class Counting:
    """Calls of torch.distributed: how many, of how many bytes, and how long this process was in them or waited for them."""

    def __init__(self):
        import torch.distributed as dist
        self.calls, self.num_bytes, self.seconds = Counter(), Counter(), 0.0
        for name in ('all_reduce', 'broadcast'):
            setattr(dist, name, self._counted(name, getattr(dist, name)))

    def _counted(self, name, function):
        def counted(tensor, *args, async_op=False, **kwargs):
            kind = 'flags' if tensor.numel() == 1 else 'gradients' if name == 'all_reduce' else name
            self.calls[kind] += 1
            self.num_bytes[kind] += tensor.numel() * tensor.element_size()
            begin = time.perf_counter()
            work = function(tensor, *args, async_op=async_op, **kwargs)
            self.seconds += time.perf_counter() - begin
            if async_op:
                work = _Timed(work, self)
            return work
        return counted


class _Timed:
    def __init__(self, work, counting):
        self._work, self._counting = work, counting

    def wait(self):
        """As that of the work."""
        begin = time.perf_counter()
        self._work.wait()
        self._counting.seconds += time.perf_counter() - begin


def worker(rank, folder, num_ranks, res):
    """Trains on random images, and writes down what this process has exchanged."""
    import torch
    from methods import NoTicks
    from train_step import build

    from torch_utils import distributed, training_stats
    from training.training_loop import run_iteration
    torch.set_num_threads(1)
    training_stats.init_multiprocessing(rank, 'cpu')
    run = build(res, None, None, [*OPTIONS, f'--gpus={num_ranks}', f'--batch={2 * num_ranks}'])
    run.stages[-1].end_nimg = 10 ** 9
    stop = distributed.LateFlag()

    def iterate():
        run_iteration(run, NoTicks())
        stop.any(False)
    for _ in range(ITERATIONS):             # Kinds of phases get known.
        iterate()
    counting, early, begin = Counting(), run.exchange.num_early, time.perf_counter()
    for _ in range(ITERATIONS):
        iterate()
    found = dict(calls=counting.calls, num_bytes=counting.num_bytes, in_calls=counting.seconds / ITERATIONS,
                 early=run.exchange.num_early - early, seconds=(time.perf_counter() - begin) / ITERATIONS)
    Path(folder, f'{rank}.json').write_text(json.dumps(found))


def row_of(num_ranks, res):
    """A line of the table, of the first process."""
    from torch_utils import distributed
    with tempfile.TemporaryDirectory() as folder:
        distributed.launch(worker, num_ranks, (folder, num_ranks, res))
        found = [json.loads(Path(folder, f'{rank}.json').read_text()) for rank in range(num_ranks)]
    assert all(one['calls'] == found[0]['calls'] for one in found), 'processes have made different calls'
    calls, size = found[0]['calls'], found[0]['num_bytes']
    share = sum(one['in_calls'] for one in found) / sum(one['seconds'] for one in found)
    return (f'| {num_ranks} | {calls["gradients"] / ITERATIONS:.1f} | {found[0]["early"] / ITERATIONS:.1f} | '
            f'{size["gradients"] / ITERATIONS / 1e6:.2f} | {calls["flags"] / ITERATIONS:.1f} | {share:.0%} |')


@click.command()
@click.option('--ranks', default='2,4,8,16', show_default=True)
@click.option('--res', type=int, default=16, show_default=True)
@click.option('--write', is_flag=True, help='Put the table into docs/scaling.md.')
def main(ranks, res, write):
    """A line for each number of processes."""
    lines = ['| processes | exchanges of gradients | of which sent early | MB | flags | share of time in them or waiting |',
             '|---|---|---|---|---|---|']
    for num_ranks in map(int, ranks.split(',')):
        lines.append(row_of(num_ranks, res))
        print(lines[-1], flush=True)
    if write:
        write_part(PAGE, 'exchange.py', '\n'.join(lines))


if __name__ == '__main__':
    main()
