"""benchmarks/gpu_check.py, on the CPU: nothing of it has been on a GPU, but it is known to run."""
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / 'benchmarks'))
import gpu_check  # noqa: E402
from gpu.report import Report  # noqa: E402


def run(out, *options):
    command = [sys.executable, ROOT / 'benchmarks' / 'gpu_check.py', '--device=cpu', '--reduced', f'--out={out}', *options]
    answer = subprocess.run(command, capture_output=True, text=True)
    return answer, json.loads((out / 'gpu_check.json').read_text())


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    answer, results = run(tmp_path, '--budget=3000')
    assert answer.returncode == 0, answer.stdout
    assert set(results) == set(gpu_check.PARTS) and all(found['rows'] for found in results.values())


def test_a_part_that_fails_ends_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, 'start_part', lambda name, *_: dict(
        rows=[[name, 'FAIL' if name == 'ops' else 'ok', 'text']], data={}))
    assert gpu_check.run_all(['ops', 'speed'], 'cpu', True, 60, tmp_path) == 1
    assert set(json.loads((tmp_path / 'gpu_check.json').read_text())) == {'ops', 'speed'}
    assert '1 ok, 1 FAIL, 0 slow, 0 skip' in (tmp_path / 'gpu_check.txt').read_text()


def test_what_raises_becomes_a_row_and_rows_are_there_at_once(tmp_path):
    report = Report(tmp_path / 'part.json', 60, 'cpu', True, tmp_path)
    with report.trying('part'):
        report.row('first', True, 'text')
        raise ZeroDivisionError('why')
    rows = json.loads((tmp_path / 'part.json').read_text())['rows']
    assert rows == [['first', 'ok', 'text'], ['part', 'FAIL', 'ZeroDivisionError: why']]
    report.deadline = time.monotonic()
    assert not report.has_time('more') and report.rows[-1] == ['more', 'skip', 'no time left']
