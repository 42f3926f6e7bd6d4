"""The parts of a page that a benchmark writes: what stands between two marks with its name."""
from pathlib import Path


def write_part(page: Path, script: str, text: str) -> None:
    """Replaces the part of a page that a benchmark has written by another text.
    Raises ValueError if it has no such part."""
    begin, end = (f'<!-- benchmarks/{script} {word} -->' for word in ('begins', 'ends'))
    before, rest = page.read_text(encoding='utf-8').split(begin)
    page.write_text(f'{before}{begin}\n\n{text}\n{end}{rest.split(end)[1]}', encoding='utf-8')
