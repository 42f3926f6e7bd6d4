"""What other services read of the repository says the same as the project itself."""
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
tomllib = pytest.importorskip('tomllib', reason='Python 3.10 has no tomllib')
yaml = pytest.importorskip('yaml', reason='pyyaml is not installed')
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / '.github/workflows').glob('*.yml')}


def commands(workflow):
    return [step['run'] for job in workflow['jobs'].values() for step in job['steps'] if 'run' in step]


@pytest.mark.parametrize('path', [*(ROOT / '.github').rglob('*.yml'), ROOT / 'CITATION.cff'], ids=lambda path: path.name)
def test_every_file_can_be_read(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == PROJECT['version'] and citation['license'] == PROJECT['license']


def test_the_oldest_python_and_torch_that_are_promised_are_tried():
    matrix = WORKFLOWS['ci']['jobs']['matrix']['strategy']['matrix']
    oldest = PROJECT['requires-python'].removeprefix('>=')
    torch = next(re.fullmatch('torch>=(.*)', name)[1] for name in PROJECT['dependencies'] if name.startswith('torch'))
    assert oldest == matrix['python'][0]
    assert any(entry['python'] == oldest and entry['torch'].startswith(f'=={torch}') for entry in matrix['include'])
    pinned = re.search('^torch(==.*)$', (ROOT / 'requirements.txt').read_text(), re.MULTILINE)[1]
    assert matrix['torch'] == [pinned]


def test_every_make_command_and_extra_that_is_named_exists():
    targets = set(re.findall('^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    extras = set(PROJECT['optional-dependencies'])
    files = [ROOT / 'Dockerfile', ROOT / '.devcontainer/devcontainer.json']
    texts = [*commands(WORKFLOWS['ci']), *(path.read_text() for path in files)]
    for text in texts:
        assert set(re.findall('make ([a-z-]+)', text)) <= targets
        for names in re.findall(r'[./c]\[([a-z,]+)\]', text):
            assert set(names.split(',')) <= extras


def test_actions_have_no_rights_but_to_read():
    for workflow in WORKFLOWS.values():
        assert workflow['permissions'] == {'contents': 'read'}
    rights = [job['permissions'] for job in WORKFLOWS['publish']['jobs'].values() if 'permissions' in job]
    assert rights == [{'id-token': 'write'}]


def test_the_container_is_told_what_to_run():
    assert json.loads((ROOT / '.devcontainer/devcontainer.json').read_text())['postCreateCommand'].startswith('pip install')
    assert 'ENTRYPOINT ["loss-zoo"]' in (ROOT / 'Dockerfile').read_text()


@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
@pytest.mark.parametrize('status, said', [(0, 'drew\n== Look at'), (75, '== `make demo` goes on from here'), (1, 'Error 1')])
def test_a_demo_that_is_stopped_is_no_error(tmp_path, status, said):
    """With a Python that says only how training ended."""
    python = tmp_path / 'env/bin/python'
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\ncase $1 in train.py) exit {status};; *) echo drew;; esac\n')
    python.chmod(0o755)
    (tmp_path / 'env/.runs').touch()
    made = subprocess.run(['make', f'VENV={tmp_path / "env"}', f'DEMO={tmp_path / "out"}', 'demo'], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert said in made.stdout and ('Error' in made.stdout, made.returncode != 0) == (status == 1, status == 1), made.stdout
    assert ('drew' in made.stdout) == (status == 0)


def test_packages_hold_nothing_that_another_program_has_left_there():
    """NVFlare, for one, signs the files of a job where they lie; a wheel would have that, too."""
    if shutil.which('git') is None:
        pytest.skip('there is no git, which tells what is in this folder')
    tracked = subprocess.run(['git', 'ls-files'], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip(f'git does not tell what is in this folder: {tracked.stderr.strip()}')
    assert [path for path in tracked.stdout.split() if '/.' in path and not path.startswith('.')] == []


@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
@pytest.mark.parametrize('status', [0, 75, 1])
def test_a_demo_between_sites_that_is_stopped_is_no_error(tmp_path, status):
    for name in ('python', 'pip'):
        program = tmp_path / 'env/bin' / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\nexit {status if name == "python" else 0}\n')
        program.chmod(0o755)
    (tmp_path / 'env/.runs').touch()
    made = subprocess.run(['make', f'VENV={tmp_path / "env"}', 'sites-demo'], cwd=ROOT, capture_output=True, text=True)
    assert (made.returncode != 0) == (status == 1), made.stdout + made.stderr
