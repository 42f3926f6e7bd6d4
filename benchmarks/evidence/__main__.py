"""Which methods of the zoo help on limited data, by how much, and at what cost:
an experiment that anyone can repeat.

    python -m benchmarks.evidence --budget=2h                       # A small version on the bundled pictures, from nothing.
    python -m benchmarks.evidence run --plan=gpu32 --device=cuda --workers=15 --data emoji=emoji.zip
    python -m benchmarks.evidence page --plan=gpu32                 # docs/evidence.md from the results in the repository.
    python -m benchmarks.evidence status --plan=gpu32

A plan (plans/*.json) says what is run and how it is judged; `run` walks it,
`page` analyses what there is. Needs the extra `evidence` (statsmodels, matplotlib).
"""
import importlib.util
import re
import sys
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.evidence.plan import Plan  # noqa: E402
from benchmarks.evidence.results import read_results  # noqa: E402
from dnnlib.computing import device_option_for  # noqa: E402

FOLDER = Path(__file__).parent
SMALL_PLAN = 'quick32'
BUNDLED = {'faces': ROOT / 'datasets' / 'emoji-faces-noto-32.zip'}


class Duration(click.ParamType):
    """Seconds, from '90m' or '2h' or a number of seconds."""
    name = 'duration'

    def convert(self, value, param, ctx):
        match = re.fullmatch(r'(\d+(?:\.\d+)?)([smh]?)', str(value))
        if not match:
            self.fail(f'{value!r} is no duration such as 2h, 90m or 600s', param, ctx)
        return float(match[1]) * {'': 1, 's': 1, 'm': 60, 'h': 3600}[match[2]]


class DataSet(click.ParamType):
    """`NAME=PATH`."""
    name = 'NAME=PATH'

    def convert(self, value, param, ctx):
        name, equals, path = value.partition('=')
        if not (name and equals and path):
            self.fail(f'{value!r} is not of the form NAME=PATH', param, ctx)
        return name, Path(path).absolute()


def plan_option(default=None):
    """--plan."""
    return click.option('--plan', 'plan_name', default=default, required=default is None, metavar='NAME|FILE',
                        help='A plan in plans/, or a file.')


def load_plan(name: str) -> Plan:
    """The plan, or a usage error."""
    try:
        return Plan.load(name)
    except ValueError as error:
        raise click.UsageError(f'--plan: {error}') from error


def results_path(plan: Plan, outdir: Path | None = None) -> Path:
    """Where the results of a plan are kept: in the repository, unless told otherwise."""
    return (outdir or FOLDER / 'results') / f'{plan["name"]}.jsonl'


@click.group(invoke_without_command=True)
@click.option('--budget', type=Duration(),
              help=f'Run the plan `{SMALL_PLAN}` for so long, and write its page.')
@click.option('--workers', type=click.IntRange(1, 64), default=2, show_default=True,
              help='Runs at a time, one thread each.')
@device_option_for('Where to train.', 'cpu', ['cpu', 'cuda'])
@click.option('--outdir', type=click.Path(path_type=Path), default=Path('evidence-out'), show_default=True,
              help='Where the small version goes.')
@click.pass_context
def main(ctx: click.Context, budget: float | None, workers: int, device: str, outdir: Path) -> None:
    """Run the experiment, or make its page."""
    if ctx.invoked_subcommand is None:
        if budget is None:
            raise click.UsageError('give --budget=2h for the small version, or a command: run, page, status')
        require_extra()
        plan = load_plan(SMALL_PLAN)
        walk(plan, BUNDLED, workers, device, budget, results_path(plan, outdir), outdir / 'work')
        write_page(plan, results_path(plan, outdir), outdir / 'evidence.md')


@main.command()
@plan_option()
@click.option('--data', 'data', type=DataSet(), multiple=True, help='A data set of the plan; once for each.')
@click.option('--workers', type=click.IntRange(1, 64), default=2, show_default=True,
              help='Runs at a time, one thread each.')
@device_option_for('Where to train.', 'cpu', ['cpu', 'cuda'])
@click.option('--budget', type=Duration(), default='1000h',
              help='Start no run after so long [default: no limit].')
@click.option('--stage', 'stages', multiple=True, help='Only this stage; can be repeated.')
@click.option('--cell', 'names', multiple=True, help='Only runs of this cell, in every block; can be repeated.')
@click.option('--workdir', type=click.Path(path_type=Path), default=Path('evidence-work'), show_default=True,
              help='Where runs train; can be removed afterwards.')
@click.option('--outdir', type=click.Path(path_type=Path),
              help='Where the results go [default: into the repository].')
def run(plan_name: str, data: tuple, workers: int, device: str, budget: float, stages: tuple[str, ...],
        names: tuple[str, ...], workdir: Path, outdir: Path | None) -> None:
    """Train and score what has no result yet."""
    plan = load_plan(plan_name)
    for option, chosen, known in [('stage', stages, [*plan.stages]),
                                  ('cell', names, [*dict.fromkeys(cell.name for cell in plan.cells())])]:
        for name in chosen:
            if name not in known:
                raise click.UsageError(f'--{option}={name}: the plan has {", ".join(known)}')
    walk(plan, {**{k: v for k, v in BUNDLED.items() if k in plan['data']}, **dict(data)}, workers, device,
         budget, results_path(plan, outdir), workdir, stages, names)


def walk(plan: Plan, data: dict, workers: int, device: str, budget: float, results: Path, workdir: Path,
         stages: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> None:
    """Runs the plan; one sentence for what cannot be run, or if it was stopped."""
    from benchmarks.evidence.run import PlanError, Runner
    try:
        Runner(plan, results.absolute(), workdir.absolute(), data, device, budget, stages, names).run(workers)
    except PlanError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise click.ClickException('stopped; the same command continues') from None


@main.command()
@plan_option()
@click.option('--outdir', type=click.Path(path_type=Path),
              help='Where the results are [default: in the repository].')
@click.option('--out', type=click.Path(path_type=Path), default=ROOT / 'docs' / 'evidence.md',
              show_default=False, help='The page [default: docs/evidence.md].')
def page(plan_name: str, outdir: Path | None, out: Path) -> None:
    """Analyse the results and write the page and its picture."""
    require_extra()
    plan = load_plan(plan_name)
    write_page(plan, results_path(plan, outdir), out)


def require_extra() -> None:
    """A sentence before hours of runs if their results could not be analysed then."""
    if any(importlib.util.find_spec(name) is None for name in ('statsmodels', 'matplotlib')):
        raise click.ClickException('the page needs the extra "evidence" (pip install statsmodels matplotlib)')


def write_page(plan: Plan, results: Path, out: Path) -> None:
    """The page, and its picture beside it."""
    from benchmarks.evidence.analyse import analyse
    from benchmarks.evidence.page import page as text_of
    from benchmarks.evidence.picture import save_picture
    answer = analyse(plan, read_results(results, plan))
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = out.with_suffix('.svg')
    save_picture(answer, picture)
    out.write_text(text_of(answer, picture.name), encoding='utf-8')
    click.echo(f'{out} and {picture}')


@main.command()
@plan_option()
@click.option('--outdir', type=click.Path(path_type=Path),
              help='Where the results are [default: in the repository].')
def status(plan_name: str, outdir: Path | None) -> None:
    """Say how much is done."""
    plan = load_plan(plan_name)
    found = read_results(results_path(plan, outdir), plan)
    planned = list(plan.cells())
    for name in plan.stages:
        done = [r for r in found if r.stage == name]
        click.echo(f'{name}: {len(done)} of {sum(cell.stage == name for cell in planned)} runs, '
                   f'{sum(r.status != "finished" for r in done)} failed')


if __name__ == '__main__':
    main()
