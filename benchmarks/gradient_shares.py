"""Measures how much every method of the loss zoo does at its defaults: its share of the gradient of its player.

    python benchmarks/gradient_shares.py                        # All methods, on the recipe of the demo.
    python benchmarks/gradient_shares.py --only=ggdr,diggan     # Some of them.
    python benchmarks/gradient_shares.py --table=lecam          # LeCam at several weights.
    python benchmarks/gradient_shares.py --write                # And puts the table into docs/methods/.

The share is that of training/run/shares.py, measured on every 16th iteration of the second half of a run of --kimg; the
figure is the median, with the range of the middle half. Options that decide from when on a method acts are set so that it
does. A page that is written keeps the rows of methods that were left out.
"""
import statistics
import sys
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

from benchmarks.methods import METHODS, NoTicks, build  # noqa: E402
from benchmarks.page_parts import write_part  # noqa: E402

EVERY = 16          # Iterations: lazy steps of D are due in each that is measured.
RECIPE = ['--cfg=tiny', '--batch=4', '--glr=0.005', '--dlr=0.005', '--cbase=512', '--gamma=1', '--pl_weight=0',
          '--mixing-prob=0', '--aug=noaug', '--subset=500', '--seed=0']
# Without a term of their own: they change what is seen, or who is asked, or how.
WITHOUT_TERM = ('base', 'daco', 'apa', 'diffusion', 'osgan exact', 'osgan simple', 'osgan symmetric', 'genco fresh fakes')
DEFAULTS = {name: options for name, options in METHODS.items() if name not in WITHOUT_TERM}
DEFAULTS['lecam'] = ['--reg_type=lecam', '--lecam_start=100']
LECAM = {f'{weight:g}': ['--reg_type=lecam', '--lecam_start=100', f'--lecam_weight={weight:g}']
         for weight in (3e-7, 0.001, 0.01, 0.1, 0.3)}
TABLES = {'defaults': ('method', DEFAULTS, 'README.md'), 'lecam': ('`--lecam_weight`', LECAM, 'lecam.md')}


def measured(options, kimg):
    """{statistic: its values} of the second half of a run of so many thousand images."""
    import torch

    from torch_utils import training_stats
    from training.run import shares
    from training.training_loop import run_iteration
    torch.set_num_threads(1)                        # So small a network is slower with more.
    shares.INTERVAL = EVERY
    run = build(options, torch.device('cpu'))
    num = max(round(kimg * 1000 / run.batch_size), 2 * EVERY)
    values, collector = {}, training_stats.Collector(f'{shares.PREFIX}.*|Loss/scores/.*')
    for _ in range(num):
        run_iteration(run, NoTicks())
        if (run.batch_idx - 1) % EVERY == 0:
            collector.update()
            for name in collector.names() if run.batch_idx > num / 2 else ():
                if collector.num(name):
                    values.setdefault(name, []).append(collector.mean(name))
    return {name.removeprefix(shares.PREFIX): of for name, of in values.items()}


def in_words(values):
    """'0.012 (0.009 to 0.02)': the median, and the range of the middle half."""
    low, median, high = statistics.quantiles(values, n=4, method='inclusive')
    return f'{median:.2g} ({low:.2g} to {high:.2g})'


def row(name, values):
    """A line of the table."""
    own = {key: of for key, of in values.items() if '/' in key and not key.startswith(('Loss/', 'r1/', 'path_length/'))}
    cells = ', '.join(f'{key} {in_words(of)}' for key, of in sorted(own.items()))
    logits = ' and '.join(f'{statistics.mean(values[f"Loss/scores/{kind}"]):.1f}' for kind in ('real', 'fake'))
    return f'| {name} | {cells or "none measured"} | {logits} |'


def kept_rows(page):
    """{name: row} of the table that is on a page."""
    part = page.read_text(encoding='utf-8').partition('gradient_shares.py begins')[2].partition('gradient_shares.py ends')[0]
    rows = [line for line in part.splitlines() if line.startswith('| ')]
    return {line.split(' | ')[0].removeprefix('| '): line for line in rows[1:]}


@click.command()
@click.option('--table', type=click.Choice(list(TABLES)), default='defaults', show_default=True, help='What is compared.')
@click.option('--kimg', type=click.FloatRange(min=0, min_open=True), default=1, show_default=True, help='Length of each run.')
@click.option('--only', help='Comma list of rows.')
@click.option('--write', 'into_docs', is_flag=True, help='Put the table into docs/methods/.')
def main(table, kimg, only, into_docs):
    """Prints a table of shares of the gradient."""
    head, runs, page = TABLES[table]
    names = list(runs) if only is None else only.split(',')
    if unknown := [name for name in names if name not in runs]:
        raise click.UsageError(f'--only: there is no row {unknown[0]!r}; there are {", ".join(runs)}')
    page = ROOT / 'docs' / 'methods' / page
    rows = kept_rows(page) if into_docs else {}
    for name in names:
        rows[name] = row(name, measured([*RECIPE, *runs[name]], kimg))
        click.echo(rows[name])
    if into_docs:
        lines = [f'| {head} | method/player: share of the gradient | mean logits of reals and fakes |', '|---|---|---|',
                 *(rows[name] for name in runs if name in rows)]
        write_part(page, 'gradient_shares.py', '\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()
