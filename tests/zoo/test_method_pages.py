"""The pages of the methods have what a reader of a paper looks for."""
from pathlib import Path

import pytest

PAGES = [path for path in (Path(__file__).parents[2] / 'docs/methods').glob('*.md') if path.name != 'README.md']


@pytest.mark.parametrize('path', PAGES, ids=lambda path: path.stem)
def test_a_page_has_its_formula_and_says_of_equation_numbers_what_all_say(path):
    text = path.read_text(encoding='utf-8')
    formula = text.partition('\n## Formula\n')[2].partition('\n## ')[0]
    said = formula.strip().splitlines()[-1]
    assert said in [f'Equation numbers of the {papers}: not checked.' for papers in ('paper', 'papers')]
    assert text.count('quation number') == 1
    assert all(f'\n## {heading}' in text for heading in ('When to use it', 'Command line', 'Reference', 'Differences from'))
