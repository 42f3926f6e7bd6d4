"""The page of dependencies names all that is installed, every folder of the tree, and files that there are."""
import re
from pathlib import Path

import pytest
from source_files import project_files

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/dependencies.md').read_text(encoding='utf-8')
ROWS = [line.split('|')[1:-1] for line in PAGE.splitlines() if line.startswith('|') and '---' not in line]
LINKS = [link.partition('#')[0] for link in re.findall(r'\]\(([^)]+)\)', PAGE)]


def project():
    tomllib = pytest.importorskip('tomllib', reason='Python 3.10 has no tomllib')
    return tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def test_it_names_every_requirement():
    names = {re.split('[^a-z0-9-]', name)[0] for name in project()['dependencies']}
    said = PAGE.partition('Required: ')[2].partition('.')[0]
    assert names == set(re.findall(r'[a-z][a-z0-9]+', said.replace('before Python 3', '')))
    assert names == {name.strip() for row in ROWS[1:] if len(row) == 3 and '`' not in row[0] for name in row[0].split(',')
                     } - {'extra'}


def test_it_names_every_package_of_an_extra():
    said = {name.strip('` '): row[1] for row in ROWS if len(row) == 3 for name in row[0].split(',')}
    for extra, packages in project()['optional-dependencies'].items():
        for package in packages:
            name = re.split(r'[^\w-]', package)[0]
            assert name in said[extra] or name == 'stylegan2-loss-zoo', (extra, name)


def test_every_row_has_its_reason_and_its_file_is_there():
    parts = [row for row in ROWS if len(row) == 4]
    assert len(parts) > 40 and all(len(row) in (3, 4) and row[0].strip() and row[1].strip() for row in ROWS)
    for link in LINKS:
        assert (ROOT / 'docs' / link).exists(), link


def test_every_folder_of_the_tree_is_looked_at():
    looked_at = {(ROOT / 'docs' / link).resolve() for link in LINKS}
    folders = {(ROOT / path).parent for path in project_files() if not path.startswith('examples')} - {ROOT}
    missing = [folder for folder in folders
               if not any(folder in path.parents or path in (folder, *folder.parents) and path != ROOT for path in looked_at)]
    assert not missing, missing
