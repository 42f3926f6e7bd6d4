"""Every command that a page or a help text shows can be typed as it stands there.

Commands are read from the indented and fenced blocks of all pages, from the docstrings of the
commands' files and from their help. Each is parsed by the command that it names, with every
option's own checks; those of train.py, when slow tests run, up to the end of a dry run.
"""
import importlib
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from network_files import make_generator
from PIL import Image
from tiny import make_dataset

from loss_zoo.command import PROGRAMS as PROGRAMS_OF_GROUP
from torch_utils import checkpoint

try:
    import tomllib
except ImportError:         # Python 3.10.
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
SCRIPTS = [name for name in sorted(path.stem for path in ROOT.glob('*.py')) if name not in ('legacy', 'hatch_build')]
PAGES = [path for path in [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('*/README.md')]
         if path.name != 'CHANGELOG.md' and 'fixtures' not in path.parts]
PROGRAMS = r'(python|pip|pipx|make|torchrun|tensorboard|wandb|loss-zoo|\w+\.py)'


def lines_of(text):
    """Lines that look like commands, continued ones joined,
    without comments and settings of the environment."""
    for line in text.replace('\\\n', ' ').splitlines():
        line = re.sub(r'^(\$ |Example: |[A-Z_]+=\S+ )+', '', line.strip())
        if re.match(PROGRAMS + ' ', line):
            yield re.split(r'  +(?=[A-Z#])', re.sub(r'\s#.*', '', line))[0]


def blocks_of(page):
    """The indented and fenced parts of a page, and whole commands in its tables."""
    fenced = re.findall(r'^```\w*\n(.*?)^```', page, re.S | re.M)
    in_tables = re.findall(r'^\|.*`(python [^`]+)`', page, re.M)
    return '\n'.join([*fenced, *in_tables, *(line for line in page.splitlines() if line.startswith('    '))])


def help_of(name):
    """The docstring of a command's file, and what it says at the top and the end of its help."""
    module = importlib.import_module(name)
    text = '\n'.join([module.__doc__ or '', module.main.help or '', module.main.epilog or ''])
    return re.sub(r'\\\n\s*', ' ', text)


def commands():
    """{command: where it stands}."""
    found = {}
    for path in PAGES:
        for line in lines_of(blocks_of(path.read_text(encoding='utf-8'))):
            found.setdefault(line, path.relative_to(ROOT).as_posix())
    for name in SCRIPTS:
        for line in lines_of(help_of(name)):
            found.setdefault(line, f'{name}.py')
    return {line: place for line, place in found.items() if '[options]' not in line}      # A synopsis.


COMMANDS = commands()


def script_and_arguments(line):
    """('train', [...]) of a command that runs one of this project's, else (None, words)."""
    words = shlex.split(line)
    for idx, word in enumerate(words):
        if word.removesuffix('.py') in SCRIPTS and word.endswith('.py'):
            return word.removesuffix('.py'), words[idx + 1:]
    return None, words


@pytest.mark.parametrize('line', COMMANDS, ids=[f'{place}: {line}' for line, place in COMMANDS.items()])
def test_a_command_can_be_typed_as_it_stands(line):
    assert re.match(r'(python|pip|pipx|make|torchrun|tensorboard|wandb|loss-zoo) ', line), 'begins with no program'
    assert '...' not in line.split(), 'leaves something out'
    script, words = script_and_arguments(line)
    if script:
        importlib.import_module(script).main.make_context(f'{script}.py', list(words))    # Raises what it would say.
    elif words[0] == 'loss-zoo':
        name, *words = words[1:]
        importlib.import_module(PROGRAMS_OF_GROUP[name].module).main.make_context(name, words)
    elif words[0] == 'python' and words[1] == '-m':
        importlib.import_module(words[2])
    elif words[0] == 'python':
        source = (ROOT / words[1]).read_text(encoding='utf-8')
        for word in words[2:]:
            option = word.partition('=')[0]
            assert not option.startswith('--') or option in source or option[2:].replace('-', '_') in source, option
    elif words[0] == 'make':
        assert re.search(rf'^{re.escape(words[1])}:', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.M)
    elif words[:2] == ['pip', 'install']:
        check_packages(line, words[2:])


def check_packages(line, packages):
    """This project is on no index: it is installed from its
    folder, with extras that there are, quoted for every shell."""
    extras = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']['optional-dependencies']
    for package in packages:
        is_from_here = '@ git+' in package
        assert is_from_here or not package.startswith('stylegan2-loss-zoo'), 'is on no index; install "."'
        if '[' in package:
            assert f'"{package}"' in line, 'brackets need quotes'
            assert set(re.search(r'\[(.*)\]', package)[1].split(',')) <= set(extras)


def test_the_commands_are_found():
    """Pages and helps of every command are read, and some commands are known to be there."""
    places = set(COMMANDS.values())
    assert {'README.md', 'docs/tools.md', 'docs/metrics.md', 'docs/data.md', 'docs/methods/ggdr.md', 'CONTRIBUTING.md'} <= places
    named = {script_and_arguments(line)[0] for line in COMMANDS}
    assert {'train', 'generate', 'dataset_tool', 'calc_metrics', 'projector', 'video', 'export', 'convert', 'report'} <= named
    assert list(lines_of('x.py --a=1')) == ['x.py --a=1'] and list(lines_of('some text')) == []


def test_the_first_commands_of_the_readme_run_one_after_another(tmp_path, monkeypatch):
    """But for the training itself, of which the dry run tells the directory that the next command names."""
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    part = readme.partition('## Your own pictures')[2].partition('\n## ')[0]
    lines = [line for line in part.splitlines() if line.startswith('    python')]
    pack, learn, draw = (script_and_arguments(line.strip()) for line in lines[:3])
    assert (pack[0], learn[0], draw[0]) == ('dataset_tool', 'train', 'generate')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'photos').mkdir()
    for number in range(4):
        Image.new('RGB', (40, 30 + number), (0, 99, 60 * number)).save(tmp_path / f'photos/{number}.jpg')

    def said(script, *arguments):
        result = CliRunner().invoke(importlib.import_module(script).main, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    assert 'photos.zip: 4 images, 256x256 RGB' in said(pack[0], *pack[1])
    run_dir = draw[1][0].partition('=')[2]
    assert f'Output directory:   {run_dir}\n' in said(learn[0], *learn[1], '--dry-run')
    Path(run_dir).mkdir(parents=True)
    checkpoint.save_networks(Path(run_dir, 'network-snapshot-000001.safetensors'), {'G_ema': make_generator()})
    said(draw[0], *draw[1])
    assert Path('out/grid00.png').is_file()


# A network, a run, certificates, weights, a server, which are not there to be had.
NEED_A_FILE = '--init-from', '--resume', '--config', '--tdgan_tls', '--vision_file', '--data=hf:'
TRAINING = [line for line in COMMANDS if script_and_arguments(line)[0] == 'train' and line.startswith('python')
            and not any(word.startswith(NEED_A_FILE) for word in script_and_arguments(line)[1])]


@pytest.mark.slow
@pytest.mark.parametrize('line', TRAINING)
def test_a_command_that_trains_passes_its_dry_run(line, tmp_path, monkeypatch):
    """With small pictures under the names that the command gives."""
    import train
    arguments = script_and_arguments(line)[1]
    monkeypatch.chdir(tmp_path)
    num = max([600, *(int(word.partition('=')[2]) for word in arguments if word.startswith('--subset='))])
    for word in arguments:
        if word.startswith(('--data=', '--tdgan_data=', '--held-out=')):
            for path in word.partition('=')[2].split(','):
                make_dataset(tmp_path / (path if path.endswith('.zip') else f'{path.rstrip("/")}.zip'), num=num, res=64,
                             num_classes=3 if '--cond=1' in arguments else 0)
    arguments = [word if word.endswith('.zip') or not word.startswith('--data=') else f'{word.rstrip("/")}.zip'
                 for word in arguments]
    dry = ['--dry-run', '--device=cpu', '--log=none']
    result = CliRunner().invoke(train.main, [*arguments, *dry])
    if '--metrics' in result.output and 'detector' in result.output and result.exit_code == 2:
        result = CliRunner().invoke(train.main, [*arguments, '--metrics=none', *dry])       # Without its weights.
    assert result.exit_code == 0, result.output
