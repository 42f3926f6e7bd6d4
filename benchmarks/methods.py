"""Times an iteration of every method of the loss zoo against the base, all in one run.

    python benchmarks/methods.py                                     # The demo configuration, one thread.
    python benchmarks/methods.py --rounds=8 --write                  # And puts the figures into docs/methods/*.md.
    python benchmarks/methods.py --minutes=20 --write                # As many rounds as fit.
    python benchmarks/methods.py --only=ggdr,diggan --cfg=auto       # Further options are those of train.py.

A round is 16 iterations, with every lazy phase once or more; every run does its first one, then every run its second, and so on,
so that a machine that gets slower or faster does so for all. Of each of the 16 the least time of all rounds counts, since what
else a machine does only ever adds, and their sum is divided by that of the base. In brackets is the range of what the figure is
when any one of the rounds is left out; a second base is timed like a method, and shows the noise. On a CPU processor time counts,
so that waiting for other work on the machine does not matter; caches that are shared still do: run it on an idle machine.
Whatever ends it early, the figures of the rounds that were finished are there. tests/zoo/test_zoo_cost.py counts the passes.
"""
import gc
import re
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

from benchmarks.timing import SMALL, seconds  # noqa: E402

ROUND = 16                  # Iterations of a method in a round: every lazy phase is due once or more.
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
    'cr': ['--reg_type=cr'],
    'bcr': ['--reg_type=bcr'],
    'zcr': ['--reg_type=zcr'],
    'insgen': ['--reg_type=insgen', '--aug=fixed', '--p=0.2'],
    'fakeclr': ['--reg_type=fakeclr', '--aug=fixed', '--p=0.2'],
    'vision': ['--reg_type=vision', '--vision_warmup=0'],
    'diffusion': ['--aug=diffusion', '--p=0.2'],
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
    """A run of a method at its first iteration; TDGAN at the start of its second stage,
    where there is something to remember."""
    import train
    from training import setup
    data = [] if any(argument.startswith('--tdgan') for argument in arguments) else [f'--data={DATA}']
    config = train.config_from_args(['--outdir=.', '--workers=0', *data, *arguments])
    run = setup.build(config, device)
    run.enter_stage(0)
    if len(run.stages) > 1:                         # As after the first one: before its end, G would only be reminded.
        run.nimg = run.stage.end_nimg
        for regularizer in run.game.having('end_iteration'):
            regularizer.end_iteration(run.nimg, run.batch_idx)
        run.enter_stage(1)
    return run


def iteration_sec(run):
    """Seconds of one iteration."""
    from training.training_loop import run_iteration
    return seconds(lambda: run_iteration(run, NoTicks()), run.device.type)


def another_fits(began, now, num_done, minutes):
    """Will one more round end within so many minutes of `began`, when `num_done` of them have taken until now?"""
    return now + (now - began) / num_done <= began + 60 * minutes


def ratio(own, base):
    """What the iterations of a method cost over those of the base: the least seconds of each of them, of all rounds,
    [rounds, iterations]."""
    return sum(map(min, zip(*own))) / sum(map(min, zip(*base)))


def figure(own, base):
    """'1.25 (1.22 to 1.28)': the ratio, and its range when any one of the rounds is left out; of a single one there is none."""
    if len(own) == 1:
        return f'{ratio(own, base):.2f}'
    of_all = ratio(own, base)
    without = [ratio(own[:i] + own[i + 1:], base[:i] + base[i + 1:]) for i in range(len(own))]
    return f'{of_all:.2f} ({min(of_all, *without):.2f} to {max(of_all, *without):.2f})'


def write(figures, sentence):
    """Puts {method: ratio to the base, in words} where docs/methods/*.md have marks for them."""
    table = '\n'.join(['| method | time of an iteration relative to base |', '|---|---|',
                       *(f'| {name} | {text} |' for name, text in figures.items())])
    texts = {'table': f'\n{sentence}\n\n{table}\n',
             **{name: f'{text} times the base' for name, text in figures.items()}}
    for path in (ROOT / 'docs' / 'methods').glob('*.md'):
        old = path.read_text(encoding='utf-8')
        new = re.sub(r'<!-- time: (.+?) -->.*?<!-- end -->',
                     lambda match: match[0] if match[1] not in texts else
                     f'<!-- time: {match[1]} -->{texts[match[1]]}<!-- end -->', old, flags=re.DOTALL)
        path.write_text(new, encoding='utf-8')


def one_round(runs):
    """{method: seconds of each of its iterations}, which are done in turn."""
    took = {name: [] for name in runs}
    for _ in range(ROUND):
        for name, run in runs.items():
            took[name].append(iteration_sec(run))
    return took


class Report:
    """The figures of the rounds so far, printed and written anew after each of them."""

    def __init__(self, what, into_docs, batch_size):
        self.what, self.into_docs, self.batch_size = what, into_docs, batch_size
        self.rounds = {}                # {method: [rounds, iterations]}, seconds.

    def add(self, took):
        """Takes what one_round() gives."""
        for name, seconds_of_each in took.items():
            self.rounds.setdefault(name, []).append(seconds_of_each)
        base = self.rounds['base']
        per_sec = self.batch_size * ROUND / sum(map(min, zip(*base)))
        sentence = f'{self.what}; base {per_sec:.1f} images per sec; {len(base)} round(s)'
        figures = {name: figure(rounds, base) for name, rounds in self.rounds.items() if name != 'base'}
        print(f'\n{sentence}\n\n| method | time of an iteration relative to base |\n|---|---|')
        for name, text in figures.items():
            print(f'| {name} | {text} |', flush=True)
        if self.into_docs:
            write(figures, f'{sentence} (`python benchmarks/methods.py`; in brackets the range when any one round is left out).')


@click.command(context_settings=dict(ignore_unknown_options=True, allow_extra_args=True))
@click.option('--rounds', type=click.IntRange(1), default=5, show_default=True, help='Rounds of 16 iterations.')
@click.option('--minutes', type=click.FloatRange(min=0), help='Begin no round that would end later; one is always made.')
@click.option('--threads', type=int, default=1, show_default=True, help='Threads of torch on the CPU.')
@click.option('--only', help='Comma list of methods; the base is always there.')
@click.option('--write', 'into_docs', is_flag=True, help='Put the figures into docs/methods/*.md.')
@click.pass_context
def main(ctx, rounds, minutes, threads, only, into_docs):
    """Further options are those of train.py (--cfg, --batch, --aug, ...)."""
    import torch

    from torch_utils import distributed
    began = time.monotonic()
    torch.set_num_threads(threads)
    device = distributed.pick_device('auto')
    common = list(ctx.args) if any(arg.startswith('--cfg') for arg in ctx.args) else [*SMALL, *ctx.args]
    names = ['base', 'base again', *(name for name in METHODS if name != 'base' and (only is None or name in only.split(',')))]
    runs = {name: build([*common, *METHODS[name.removesuffix(' again')]], device) for name in names}
    for run in runs.values():
        iteration_sec(run)                                  # Warm-up.
    gc.collect()
    gc.freeze()                                             # So many runs at once are no work for the collector.
    report = Report(f'`{" ".join(common)}`, {device}, {threads} thread(s), torch {torch.__version__}', into_docs,
                    runs['base'].batch_size)
    for number in range(rounds):
        if minutes is not None and number and not another_fits(began, time.monotonic(), number, minutes):
            break
        report.add(one_round(runs))
        print(f'round {number + 1}: {time.monotonic() - began:.0f} sec after the start', file=sys.stderr, flush=True)


if __name__ == '__main__':
    main()
