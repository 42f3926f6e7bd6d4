"""Times an iteration of every method of the loss zoo against the base, all in one run.

    python benchmarks/methods.py                                     # The demo configuration, one thread.
    python benchmarks/methods.py --rounds=5 --cfg=tiny --aug=noaug

Each round runs a block of 16 iterations (every lazy phase once or more) of each method in turn; the figure is the median over
rounds of the ratio to the base's block of the same round, so that a machine that gets slower or faster does not matter.
"""
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

BLOCK = 16
DATA = ROOT / 'datasets' / 'emoji-faces-noto-32.zip'
METHODS = {
    'base': [],
    'ggdr': ['--reg_type=ggdr'],
    'diggan': ['--reg_type=diggan'],
    'weco': ['--reg_type=weco'],
    'daco': ['--reg_type=daco'],
    'genco': ['--reg_type=genco'],
    'genco fresh fakes': ['--reg_type=genco', '--genco_fakes=fresh'],
    'osgan exact': ['--loss=osgan'],
    'osgan simple': ['--loss=osgan', '--osgan_form=simple', '--osgan_force=1'],
    'osgan symmetric': ['--loss=osgan', '--osgan_game=saturating', '--osgan_form=simple'],
    'tdgan reminded': ['--reg_type=tdgan', f'--tdgan_data={DATA},{DATA}'],
    'lecam': ['--reg_type=lecam'],
    'apa': ['--reg_type=apa', '--apa_p=0.2'],
    'r2': ['--reg_type=r2'],
    'gp': ['--reg_type=gp', '--gamma=0'],
    'relativistic + r2': ['--loss=relativistic', '--reg_type=r2', '--aug=fixed', '--p=0.2'],
}


class NoTicks:
    """Stands for the ticks of a run: nothing periodic, nothing watched."""

    def __init__(self):
        self.health = self

    def timer(self, _):
        """Times nothing."""
        return nullcontext()

    def note_step(self, *_):
        """Notes nothing."""


def build(arguments, device):
    """A run of a method at its first iteration; TDGAN at the start of its second stage, where there is something to remember."""
    import train
    from training import setup
    data = [] if any(argument.startswith('--tdgan') for argument in arguments) else [f'--data={DATA}']
    options = train.main.make_context('train.py', ['--outdir=.', '--workers=0', *data, *arguments]).params
    _, config = train.resolve(train.given(options))
    run = setup.build(config, device)
    run.enter_stage(0)
    if len(run.stages) > 1:
        run.enter_stage(1)
    return run


def block_sec(run):
    """Seconds of a block of iterations."""
    from training.training_loop import run_iteration
    begin = time.perf_counter()
    for _ in range(BLOCK):
        run_iteration(run, NoTicks())
    return time.perf_counter() - begin


@click.command(context_settings=dict(ignore_unknown_options=True, allow_extra_args=True))
@click.option('--rounds', type=int, default=3, show_default=True, help='Blocks of each method.')
@click.option('--threads', type=int, default=1, show_default=True, help='Threads of torch on the CPU.')
@click.option('--only', help='Comma list of methods; the base is always there.')
@click.pass_context
def main(ctx, rounds, threads, only):
    """Further options are those of train.py (--cfg, --batch, --aug, ...)."""
    import torch

    from torch_utils import distributed
    torch.set_num_threads(threads)
    device = distributed.pick_device('auto')
    common = list(ctx.args) if any(arg.startswith('--cfg') for arg in ctx.args) else ['--cfg=tiny', *ctx.args]
    names = [name for name in METHODS if only is None or name in ['base', *only.split(',')]]
    runs = {name: build([*common, *METHODS[name]], device) for name in names}
    for run in runs.values():
        block_sec(run)                                      # Warm-up.
    seconds = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            seconds[name].append(block_sec(runs[name]))
    base = runs['base'].batch_size * BLOCK / statistics.median(seconds['base'])
    print(f'{" ".join(common)}, {device}, {threads} thread(s), torch {torch.__version__}; base {base:.1f} img/s\n')
    print('| method | time of an iteration relative to base |\n|---|---|')
    for name in names:
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds['base']))
        print(f'| {name} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |')


if __name__ == '__main__':
    main()
