"""A recording of a run's terminal as an animated SVG, from the lines that its log has.

    python benchmarks/recording.py runs/00000-photos docs/run.svg

The command, then the lines of its ticks, each after a pause in proportion to the time that the run took for it. Names of
folders do not get in. One file without a script: any page can show it.
"""
import re
import sys
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from dnnlib import writing  # noqa: E402
from loss_zoo.card import command_of  # noqa: E402
from training.run.run_files import lines_of, read_options  # noqa: E402

SECONDS = 9.0               # For the whole run, however long it took.
STILL = 4.0                 # The whole text stands before it begins anew.
MOST_LINES, COLUMNS = 14, 96
LINE, CHARACTER, MARGIN = 18, 7.3, 14
WANTED = r'tick +\d+ .*sec/tick +(?P<sec>[\d.]+).*'


def main() -> None:
    """Writes the file."""
    run_dir, out = Path(sys.argv[1]), sys.argv[2]
    lines = lines_of_run(run_dir)
    writing.write_text(out, svg(lines))
    print(f'{out}: {len(lines)} lines, {Path(out).stat().st_size} bytes')


def lines_of_run(run_dir: Path) -> list[tuple[float, str]]:
    """(seconds since the line before, text): the command, then ticks."""
    command = command_of(read_options(run_dir)) or 'loss-zoo train'
    typed = textwrap.wrap(f'$ {command}', COLUMNS - 2, subsequent_indent='      ', break_on_hyphens=False)
    typed = [*(f'{line} \\' for line in typed[:-1]), typed[-1]]
    ticks = [(float(match['sec']), line.partition('cpumem')[0].rstrip()[:COLUMNS]) for line in lines_of(run_dir / 'log.txt')
             if (match := re.fullmatch(WANTED, line))]
    return [*((0.0, line) for line in typed), *ticks[:MOST_LINES]]


def svg(lines: list[tuple[float, str]]) -> str:
    """The document: each line becomes visible at its time, and all vanish together at the end."""
    whole = sum(sec for sec, _ in lines) or 1
    width, height = 2 * MARGIN + COLUMNS * CHARACTER, 2 * MARGIN + len(lines) * LINE
    parts, passed = [], 0.0
    for number, (sec, text) in enumerate(lines):
        passed += sec
        at = passed / whole * SECONDS / (SECONDS + STILL)
        parts.append(f'<text x="{MARGIN}" y="{MARGIN + LINE * (number + 0.75):g}" xml:space="preserve">{escape(text)}'
                     f'<animate attributeName="opacity" values="0;1;1" keyTimes="0;{max(at, 0.001):.4f};1" calcMode="discrete" '
                     f'dur="{SECONDS + STILL:g}s" repeatCount="indefinite"/></text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-size="12" fill="#e6e6e6" '
            f'font-family="ui-monospace, Menlo, Consolas, monospace" role="img" aria-label="A run in the terminal">\n'
            f'<!-- {writing.MARK} -->\n'
            f'<rect width="100%" height="100%" rx="8" fill="#1e1e1e"/>\n' + '\n'.join(parts) + '\n</svg>\n')


if __name__ == '__main__':
    main()
