"""Counts what an iteration asks of a GPU, kernels and bytes, on a machine that has none.

    python benchmarks/count_launches.py                              # 256 px, base 16384, batch 32, ADA; base and methods
    python benchmarks/count_launches.py --only=base --top=40         # And which lines ask for the most.
    python benchmarks/count_launches.py --only=base --ops=reference  # Without compiled operators.
    python benchmarks/count_launches.py --write                      # And put the table into docs/performance.md.

Lazy phases and terms count with their share of an iteration. What is counted,
and what is not seen: `meta_cuda.py`. Compiled operators count as on CUDA (one kernel each); their schemas and
shapes come with the library for CPUs, which is built if need be. Images are augmented with margins of a
quarter of their size.
"""
import math
import os
import sys
from collections import Counter
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

from benchmarks.page_parts import write_part  # noqa: E402
from dnnlib.computing import OPERATORS  # noqa: E402

METHODS = {
    'base': [],
    'ggdr': ['--reg_type=ggdr'],
    'diggan': ['--reg_type=diggan'],
    'osgan': ['--loss=osgan'],
    'genco': ['--reg_type=genco'],
}
REFERENCE = 'the reference, base', 4456, 200        # Counted in the same way, once, on its published sources.
PAGE = ROOT / 'docs' / 'performance.md'


class Cost:
    """What a part of an iteration costs, weighed by how often it comes."""

    def __init__(self):
        self.launches, self.bytes, self.waits = Counter(), Counter(), Counter()

    def add(self, meter, weight):
        """Counts what a meter has counted."""
        for mine, theirs in ((self.launches, meter.launches), (self.bytes, meter.bytes), (self.waits, meter.waits)):
            for key, value in theirs.items():
                mine[key] += value * weight

    def total(self):
        """(launches, GB, waits of the host)."""
        return sum(self.launches.values()), sum(self.bytes.values()) / 1e9, sum(self.waits.values())


def kinds_of_iterations(run):
    """[(batch_idx, share of all iterations, of {phase: share})] of iterations in
    which different things are due.

    Two iterations are of one kind if the same terms of the main steps are due in them;
    a lazy phase runs in every kind and counts with its share. Iterations that measure the methods' shares are a kind, too.
    """
    from training.run.shares import INTERVAL
    intervals = [regularizer.interval for regularizer in run.game.regularizers]
    if run.game.shares is not None:
        intervals.append(INTERVAL)
    period = math.lcm(*intervals, *(phase.interval for phase in run.phases))
    kinds = {}
    for batch_idx in range(period):
        kinds.setdefault(tuple(batch_idx % interval == 0 for interval in intervals), []).append(batch_idx)
    return [(indices[0], len(indices) / period, {phase.name: sum(i % phase.interval == 0 for i in indices) / period
                                                 for phase in run.phases}) for indices in kinds.values()]


def count(res, channel_base, arguments, ops='native'):
    """{part of an iteration: Cost} of a run with these arguments of train.py."""
    import meta_cuda
    import train_step

    from torch_utils.ops import backend
    from training import warp
    from training.training_loop import adapt_augmentation, run_phase
    former = backend.why_not, backend.has_layer_act, warp.Warp.padding
    if ops == 'native':
        reason = backend.why_not('cpu', __import__('torch').float32)
        if reason is not None:
            raise click.ClickException(f'no compiled operators: {reason}')
        backend.why_not, backend.has_layer_act = lambda device, dtype: None, lambda device: True
    warp.Warp.padding = lambda self: (former[2](self), [min(res // 4, self.width - 1)] * 4)[1]
    costs = {}

    def measure(name, weight, function):
        meter = meta_cuda.restart()
        function()
        costs.setdefault(name, Cost()).add(meter, weight)

    try:
        with meta_cuda.MetaCuda():
            run = train_step.build(res, channel_base, None, [*arguments, '--device=cuda', '--cuda-graphs=off', f'--ops={ops}'])
            reals = [run.reals[0].next_batch()]
            kinds = kinds_of_iterations(run)
            for run.batch_idx, _, _ in kinds:       # Constants and moments are made once.
                for phase in run.phases:
                    run_phase(run, phase, reals, {})
            for batch_idx, share, shares in kinds:
                run.batch_idx = batch_idx
                measure('data', share, lambda: [run.reals[0].next_batch()])
                shared = {}
                for phase in run.phases:
                    measure(phase.name, shares[phase.name],
                            lambda phase=phase, shared=shared: run_phase(run, phase, reals, shared))
                measure('average', share, lambda: average(run))
                for regularizer in run.game.having('end_iteration'):
                    measure('methods', share, lambda r=regularizer: r.end_iteration(run.nimg, run.batch_idx))
            if run.ada is not None:
                measure('ADA', 1 / run.config['ada_interval'], lambda: adapt_augmentation(run))
    finally:
        backend.why_not, backend.has_layer_act, warp.Warp.padding = former
    return costs


def average(run):
    """What the loop does with the generator's average."""
    from training.ema import update_ema
    update_ema(run.game.G_ema, run.game.G.module, 0.99)


def totals(costs):
    """(launches, GB, waits of the host) of an iteration."""
    return tuple(map(sum, zip(*(cost.total() for cost in costs.values()))))


def print_parts(costs):
    """A line for each part of an iteration."""
    for part, cost in costs.items():
        launches, size, waits = cost.total()
        print(f'  {part:<12} {launches:8.1f} launches {size:8.2f} GB   {waits:.2f} waits')


def print_top(costs, num):
    """The operations and the lines that cost the most."""
    for what in ('launches', 'bytes'):
        by_name, by_place = Counter(), Counter()
        for cost in costs.values():
            for (name, place), value in getattr(cost, what).items():
                by_name[name] += value
                by_place[place, name] += value
        unit = 1 if what == 'launches' else 1e-9
        for table in (by_name, by_place):
            print(f'\n  {what}')
            for key, value in table.most_common(num):
                print(f'    {value * unit:8.2f}  {key if isinstance(key, str) else "  ".join(key)}')


def table_of(rows):
    """The table of docs/performance.md."""
    lines = ['| | launches | GB | waits of the host |', '|---|---|---|---|',
             f'| {REFERENCE[0]} | {REFERENCE[1]} | {REFERENCE[2]} | |']
    return '\n'.join([*lines, *(f'| {name} | {launches:.0f} | {size:.0f} | {waits:.2f} |'
                                for name, (launches, size, waits) in rows.items())])


@click.command(context_settings=dict(ignore_unknown_options=True, allow_extra_args=True))
@click.option('--res', type=int, default=256, show_default=True, help='Resolution.')
@click.option('--channel-base', type=int, default=16384, show_default=True)
@click.option('--batch', type=int, default=32, show_default=True)
@click.option('--only', default=','.join(METHODS), show_default=True, help='Which of the methods.')
@click.option('--ops', type=click.Choice(OPERATORS[1:]), default='native', show_default=True)
@click.option('--top', type=int, default=0, help='How many of the most expensive operations and lines to name.')
@click.option('--write', is_flag=True, help='Put the table into docs/performance.md.')
@click.pass_context
def main(ctx, res, channel_base, batch, only, ops, top, write):
    """Further options are those of train.py; without --nhwc=1 images lie as in the reference, whose figures stand beside."""
    os.environ['CUDA_VISIBLE_DEVICES'] = ''     # The stand-in is for machines without a GPU; torch is not imported yet.
    rows = {}
    for name in only.split(','):
        costs = count(res, channel_base, ['--aug=ada', '--nhwc=0', f'--batch={batch}', *METHODS[name], *ctx.args], ops)
        rows[name] = totals(costs)
        print(f'{name}: {rows[name][0]:.0f} launches, {rows[name][1]:.1f} GB, {rows[name][2]:.2f} waits')
        print_parts(costs)
        if top:
            print_top(costs, top)
    print(table_of(rows))
    if write:
        write_part(PAGE, 'count_launches.py', table_of(rows))


if __name__ == '__main__':
    main()
