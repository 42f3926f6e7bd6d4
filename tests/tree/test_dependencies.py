"""The page of dependencies names what is required, and files that there are."""
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/dependencies.md').read_text(encoding='utf-8')
ROWS = [line.split('|')[1:-1] for line in PAGE.splitlines() if line.startswith('|')][2:]


def test_it_names_every_requirement():
    tomllib = pytest.importorskip('tomllib', reason='Python 3.10 has no tomllib')
    project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
    names = {re.split('[^a-z-]', name)[0] for name in project['dependencies']}
    said = PAGE.partition('Required: ')[2].partition('.')[0]
    assert names == set(re.findall(r'[a-z]+', said.replace('before Python 3', '')))


def test_every_row_has_its_reason_and_its_file_is_there():
    assert len(ROWS) > 25
    for row in ROWS:
        assert len(row) == 4 and row[0].strip() and row[1].strip(), row
        for link in re.findall(r'\]\(([^)]+)\)', '|'.join(row)):
            assert (ROOT / 'docs' / link.partition('#')[0]).exists(), link
