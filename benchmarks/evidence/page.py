"""docs/evidence.md, from an analysis: no number on it is typed by hand."""
import re
from collections import Counter
from pathlib import Path

from benchmarks.evidence.analyse import Answer, Screen
from benchmarks.evidence.controls import interval
from benchmarks.evidence.effects import Comparison, Effect, per_cent
from benchmarks.evidence.plan import Plan

PUBLISHED = Path(__file__).with_name('published.md')
FEWEST_BLOCKS = 3           # Student's interval of two values spans orders of magnitude.
THERE = ('"Until there": until the curve of a run first reaches the distance that the base of its block has over its last '
         'snapshots, which is time to quality; where the base itself takes 1.')
NOTES = Path(__file__).with_name('results')


def page(answer: Answer, picture: str) -> str:
    """The page as Markdown; `picture` is the address of the picture."""
    parts = [
        '# Which methods help, by how much, and at what cost', verdict(answer), _about(answer),
        f'![Effects of the methods '
        f'with their intervals, and the curve of every run]({picture})', *map(_screen, answer.screens), _places(answer),
        _comparisons(answer), _costs(answer), _metrics(answer), _undone(answer),
        PUBLISHED.read_text(encoding='utf-8').strip(),
        _again(answer)]
    return '\n\n'.join(part for part in parts if part) + '\n'


def verdict(answer: Answer) -> str:
    """The first line: do the controls hold?"""
    failed = [control for control in answer.controls if control.holds is False]
    unknown = [control for control in answer.controls if control.holds is None]
    if [control.name for control in failed] == ['positive']:
        head = f'**Too small to see what is known to help: {failed[0].sentence}.**'
    elif failed:
        head = f'**Do not trust this page: {"; ".join(f"{c.name}: {c.sentence}" for c in failed)}.**'
    elif unknown:
        head = '**Preliminary: not every control has been run.**'
    else:
        head = '**All controls hold.**'
    return f'{head} {" ".join(f"{c.sentence[0].upper()}{c.sentence[1:]}." for c in answer.controls if c not in failed)}'


def _about(answer: Answer) -> str:
    plan = answer.plan
    commits = sorted({_told(r.facts.get('commit', '?'))[:10] for r in answer.results})
    machines = sorted({_told(r.facts.get('processor', '?')) for r in answer.results})
    rows = [['stage', 'what it asks', 'finished', 'failed', 'planned']]
    rows += [[name, plan.stages[name]['about'], *map(str, counts)]
             for name, counts in answer.progress.items()]
    return '\n\n'.join([
        f'{plan["about"]} Plan `{plan["name"]}`, SHA-256 `{plan.sha256}`: frozen before the first run; it stands in every '
        'result. ' + (f'The runs were made by commit {", ".join(commits)} on {"; ".join(machines)}.'
                      if answer.results else 'Nothing has been run yet.'),
        table(rows),
        f'Every run sees {plan["kimg"]:g} thousand images and is scored {plan["snapshots"]} times against the whole data '
        f'set, also when it learns from a part of it. What counts is the mean over the last {plan["window"]} snapshots of '
        f'log {plan["metrics_of_page"][0]}, never the best one. A failed run counts as the worst of its block; a block is '
        'what all methods share: the images, the initial weights, and the order of everything random.',
        *([f'What is known about single results: {notes}'] if (notes := _notes(plan)) else [])])


def _notes(plan: Plan) -> str:
    """What people found out about results, from results/PLAN.notes.md; nothing if there is no such file."""
    path = NOTES / f'{plan["name"]}.notes.md'
    return path.read_text(encoding='utf-8').strip() if path.is_file() else ''


def _told(text: str) -> str:
    """What a result says, which may be a stranger's: in one line, without signs that mean something in Markdown."""
    return ' '.join(re.sub(r'[^\w .,:;=/+()\'-]', ' ', text).split())[:200]


def _screen(screen: Screen) -> str:
    def column(effects: list[Effect], show) -> dict[str, str]:
        return {effect.name: show(effect) for effect in effects}

    timed = column(screen.seconds, interval)
    covered = column(screen.coverage, _points)
    copied = column(screen.memorised, _points)
    rows = [['method', 'distance at equal images', 'p (Holm)', 'at equal seconds', 'coverage, points',
             'memorised, points', 'smallest visible']]
    for effect in sorted(screen.images, key=lambda e: e.value):
        rows.append([effect.name, _clear(effect), f'{effect.p_holm:.3f}', timed.get(effect.name, ''),
                     covered.get(effect.name, ''), copied.get(effect.name, ''),
                     f'{abs(per_cent(-effect.visible)):.0f} %'])
    on = _blocks(screen.num_blocks, 'complete ')
    joint = [effect for effect in screen.interactions if effect.is_clear]
    return '\n\n'.join([
        f'## Effects ({screen.stage})',
        f'One row a method: by how much the distance changes when it is added, averaged over all that the other methods '
        f'do, on {on}. Negative is better. In brackets 95 % intervals; **bold** leaves out '
        'zero. The last column is the smallest effect that this experiment would have found four times out of five: what '
        'is smaller cannot be read from it, whichever way.',
        table(rows),
        'Interactions of two methods that are clear (this design knows them only in groups; one or several of a group '
        f'are at work): {"; ".join(f"{e.name}: {interval(e)}" for e in joint)}.' if joint else
        'No interaction of two methods is clear.' if screen.interactions else
        'Interactions of two methods cannot be told from one block.'])


def _blocks(number: int, kind: str = '') -> str:
    return f'{number} {kind}block{"" if number == 1 else "s"}'


def _clear(effect: Effect) -> str:
    return f'**{interval(effect)}**' if effect.is_clear else interval(effect)


def _points(effect: Effect) -> str:
    """Of a share: percentage points."""
    text = f'{100 * effect.value:+.1f} ({100 * effect.low:+.1f} to {100 * effect.high:+.1f})'
    return f'**{text}**' if effect.is_clear else text


def _places(answer: Answer) -> str:
    """The base among all cells of its block."""
    found = [f'{stage}, {block.data}-{block.num_images}-{block.seed}: {place} of {num}'
             for stage, places in answer.places_of_base.items() for block, (place, num) in places.items() if num > 1]
    return ('Place of the base by distance, 1 the best, among all cells that have run in its block (data, images, seed): '
            f'{"; ".join(found)}.') if found else ''


def _comparisons(answer: Answer) -> str:
    parts = []
    for stage, found in answer.comparisons.items():
        if not found:
            continue
        rows = [['cell', 'blocks', 'distance against base', 'p (Wilcoxon)', 'chance to be better',
                 'images until there, base = 1', *(['seconds until there'] if answer.costs else [])]]
        for c in sorted(found, key=lambda c: c.value):
            rows.append([c.cell, str(c.num_blocks), _difference(c), f'{c.p:.3f}' if c.num_blocks > 1 else '',
                         f'{100 * c.improvement:.0f} %', *_to_base(answer, stage, c.cell)])
        text = [f'## Against the base, one at a time ({stage})', THERE, table(rows)]
        if stage in answer.ranks:
            r = answer.ranks[stage]
            order = ', '.join(f'{cell} {rank:.1f}'
                              for cell, rank in sorted(r.mean.items(), key=lambda item: item[1]))
            text.append(f'Mean ranks over {r.num_sets} data sets: {order}; Friedman p = {r.p:.3f}; ranks less than '
                        f'{r.critical:.1f} apart are not told apart (Nemenyi).')
        parts.append('\n\n'.join(text))
    return '\n\n'.join(parts)


def _to_base(answer: Answer, stage: str, cell: str) -> list[str]:
    """How soon a cell is first where the base ends: images, and seconds if any are known, both as shares of the base's."""
    ratio, reached, runs = answer.images_to_base[f'{stage}/{cell}']
    if ratio is None:
        return ['not reached'] * (2 if answer.costs else 1)
    return [f'{ratio:.2f} times ({reached} of {runs} runs)',
            *([f'{ratio * answer.costs[cell]:.2f} times' if cell in answer.costs else 'not measured'] if answer.costs else [])]


def _difference(comparison: Comparison) -> str:
    """With its interval, if there are enough blocks for one that says anything."""
    if comparison.num_blocks >= FEWEST_BLOCKS:
        return interval(comparison)
    return f'{per_cent(comparison.value):+.0f} % ({_blocks(comparison.num_blocks)}: no interval)'


def _costs(answer: Answer) -> str:
    if not answer.costs:
        return ''
    rows = [['cell', 'processor time per image, base = 1']]
    rows += [[cell, f'{cost:.2f}'] for cell, cost in sorted(answer.costs.items(), key=lambda item: item[1])]
    return ('## Cost\n\nMedians over the runs, of processor time of training alone, on machines that did other things as '
            f'well.\n\n{table(rows)}')


def _metrics(answer: Answer) -> str:
    known = {metric: value for metric, value in answer.correlations.items() if value == value}
    if not known:
        return ''
    pairs = ', '.join(f'{metric} {value:+.2f}' for metric, value in known.items())
    return f'## Do the metrics agree?\n\nRank correlation of {answer.plan["metrics_of_page"][0]} over all runs with: {pairs}.'


def _undone(answer: Answer) -> str:
    open_stages = {name: planned - finished - failed
                   for name, (finished, failed, planned) in answer.progress.items()}
    left = {name: num for name, num in open_stages.items() if num}
    failures = Counter((r.stage, r.cell, r.reason) for r in answer.results if r.status != 'finished')
    parts = []
    if failures:
        parts.append('Failed: ' + '; '.join(f'{stage}/{cell} ({num}): {_told(reason)}'
                                            for (stage, cell, reason), num in sorted(failures.items())) + '.')
    if left:
        parts.append('Planned and not run yet: '
                     + ', '.join(f'{num} runs of {name}' for name, num in left.items())
                     + '. Nothing above speaks for them.')
    return '## What is missing\n\n' + '\n\n'.join(parts) if parts else ''


def _again(answer: Answer) -> str:
    plan = answer.plan
    data = ' '.join(f'--data {name}=PATH' for name in plan['data'])
    sets = '\n'.join(f'- `{name}`: {entry["about"]}, {entry["images"]} images, fingerprint `{entry["fingerprint"]}`'
                     for name, entry in plan['data'].items())
    return '\n'.join([
        '## The same again', '',
        f'    python -m benchmarks.evidence run --plan={plan["name"]} --workers=2 {data}',
        f'    python -m benchmarks.evidence page --plan={plan["name"]}', '',
        'The first can be stopped and started at will and skips what has a result; the second makes this page, byte for '
        'byte, from the results in the repository. `python -m benchmarks.evidence --budget=2h` makes a small version from '
        'nothing on the bundled pictures. Data sets:', '', sets])


def table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join([lines[0], '|' + '---|' * len(rows[0]), *lines[1:]])
