"""docs/notebook.ipynb: it is clean, and its code runs from top to bottom.

The cells are run by plain Python, one after another in one namespace, as they hold nothing but
Python. What Jupyter adds (showing the value of a cell's last expression) is not tested.
"""
import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / 'docs/notebook.ipynb'


def cells():
    return json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']


def code(cell):
    return ''.join(cell['source'])


def test_it_is_short_plain_python_without_outputs():
    assert NOTEBOOK.stat().st_size < 20_000
    for cell in cells():
        if cell['cell_type'] == 'code':
            compile(code(cell), cell['id'], 'exec')
            assert cell['outputs'] == [] and cell['execution_count'] is None


def test_its_links_lead_somewhere():
    import re
    text = '\n'.join(code(cell) for cell in cells() if cell['cell_type'] == 'markdown')
    links = re.findall(r'\]\((.*?)\)', text)
    assert len(links) > 3 and all((ROOT / 'docs' / link).exists() for link in links)


@pytest.fixture(scope='module')
def played(tmp_path_factory):
    """The variables after all cells, and the folder it has written to. Trains for minutes."""
    out = tmp_path_factory.mktemp('notebook')
    before = os.getcwd(), list(sys.path), dict(os.environ)
    os.environ['NOTEBOOK_OUT'] = str(out)
    os.chdir(ROOT / 'docs')                 # Where Jupyter starts it.
    namespace: dict = {'__name__': '__main__'}
    try:
        for cell in cells():
            if cell['cell_type'] == 'code':
                exec(compile(code(cell), cell['id'], 'exec'), namespace)
    finally:
        os.chdir(before[0])
        sys.path[:] = before[1]
        os.environ.clear()
        os.environ.update(before[2])
    return namespace, out


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(played):
    namespace, out = played
    assert (out / 'walk.webp').exists() and (namespace['run_dir'] / 'report.html').exists()
    assert len(namespace['frames']) == 24 and namespace['mixed'].shape == namespace['others'].shape
