"""Times an iteration of every method of the loss zoo against the base, all in one run.

    python benchmarks/methods.py                                     # The demo configuration, one thread.
    python benchmarks/methods.py --rounds=15 --write                 # And puts the figures into docs/methods/*.md.
    python benchmarks/methods.py --minutes=20 --write                # As many rounds as fit.
    python benchmarks/methods.py --only=ggdr,diggan --cfg=auto       # Further options are those of train.py.

A round is 16 iterations of each method, with every lazy phase once or more, in turn with 16 of the base: what they took, divided
by what those took that were half a second away. So a machine that gets slower or faster does not matter. The figure is the median
over rounds, with the range of the middle half; the base is timed like a method, too, and shows the noise. On a CPU processor time
counts, so that waiting for other work on the machine does not matter; caches that are shared still do: run it on an idle machine.
A round of all methods is some 750 iterations. Whatever ends it early, the figures of the rounds that were finished are there.
tests/zoo/test_zoo_cost.py counts the passes.
"""
import re
import statistics
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


def figure(ratios):
    """'1.25 (1.22 to 1.28)': the median of ratios, and the range of their middle half; of a single one there is none."""
    if len(ratios) == 1:
        return f'{ratios[0]:.2f}'
    low, median, high = statistics.quantiles(ratios, n=4, method='inclusive')
    return f'{median:.2f} ({low:.2f} to {high:.2f})'


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
    """{method: its iterations over those of the base that were done in turn with them}, and seconds of the base's each time."""
    ratios, base = {}, []
    for name, run in runs.items():
        pairs = [(iteration_sec(run), iteration_sec(runs['base'])) for _ in range(ROUND)]
        own, beside = map(sum, zip(*pairs))
        base.append(beside)
        ratios[name] = own / beside
    return ratios, base


class Report:
    """The figures of the rounds so far, printed and written anew after each of them."""

    def __init__(self, what, into_docs):
        self.what, self.into_docs = what, into_docs
        self.base, self.ratios = [], []

    def round(self, ratios, base, batch_size):
        """Takes what one_round() gives."""
        self.ratios.append(ratios)
        self.base += base
        per_sec = batch_size * ROUND / statistics.median(self.base)
        sentence = f'{self.what}; base {per_sec:.1f} images per sec'
        figures = {name: figure([values[name] for values in self.ratios]) for name in ratios}
        print(f'\n{sentence}; {len(self.ratios)} round(s)\n\n| method | time of an iteration relative to base |\n|---|---|')
        for name, text in figures.items():
            print(f'| {name} | {text} |', flush=True)
        if self.into_docs:
            write(figures, f'{sentence} (`python benchmarks/methods.py`, {len(self.ratios)} round(s)); '
                           'in brackets the middle half.')


@click.command(context_settings=dict(ignore_unknown_options=True, allow_extra_args=True))
@click.option('--rounds', type=click.IntRange(1), default=9, show_default=True, help='Rounds of each method.')
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
    names = [name for name in METHODS if only is None or name in ['base', *only.split(',')]]
    runs = {name: build([*common, *METHODS[name]], device) for name in names}
    for run in runs.values():
        iteration_sec(run)                                  # Warm-up: every lazy phase is due in the first iteration.
    say = Report(f'`{" ".join(common)}`, {device}, {threads} thread(s), torch {torch.__version__}', into_docs)
    for number in range(rounds):
        if minutes is not None and number and not another_fits(began, time.monotonic(), number, minutes):
            break
        say.round(*one_round(runs), runs['base'].batch_size)
        print(f'round {number + 1}: {time.monotonic() - began:.0f} sec after the start', file=sys.stderr, flush=True)


if __name__ == '__main__':
    main()
