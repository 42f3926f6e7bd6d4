"""What a command prints: any name on any terminal, and output that cannot be written."""
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = ('calc_metrics', 'convert', 'copied', 'dataset_tool', 'directions', 'export', 'generate', 'projector', 'report',
            'style_mixing', 'tdgan_audit', 'tdgan_authority', 'tdgan_centre', 'train', 'video')
MAKERS = ('convert', 'copied', 'directions', 'export', 'generate', 'loss_zoo.push', 'loss_zoo.worth_it', 'projector', 'report',
          'style_mixing', 'video')
BEGIN = 'import sys; from dnnlib import output; output.prepare(may_fail=MAY); '
LATER = 'print("late"); print("late", file=sys.stderr); sys.exit(3)'


def python(code, may_fail=True, shell='', **environment):
    """The finished process; `shell` are redirections."""
    command = f'exec "$0" -c "$1" {shell}'
    return subprocess.run(['sh', '-c', command, sys.executable, BEGIN.replace('MAY', str(may_fail)) + code], cwd=ROOT,
                          env={**os.environ, **environment}, capture_output=True)


@pytest.mark.parametrize('encoding', ['ascii', 'utf-8', 'latin-1'])
def test_every_name_can_be_printed(encoding):
    done = python(r'print("caf\udce9 \u4f60"); print("\udce9", file=sys.stderr)', may_fail=False, PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and done.stdout.startswith(b'caf\\udce9 ') and done.stderr == b'\\udce9\n'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no such device')
@pytest.mark.parametrize('shell', ['> /dev/full', '2> /dev/full', '> /dev/full 2>&1', '>&-', '2>&-', '<&- >&- 2>&-'])
def test_output_that_cannot_be_written_changes_no_exit_status(shell):
    done = python(f'print("x" * 100000, flush=True); assert output.problem(); {LATER}' if '>' in shell.split('2>')[0]
                  else LATER, shell=shell)
    assert done.returncode == 3 and b'Error' not in done.stderr + done.stdout


def test_a_pipe_that_nobody_reads_changes_no_exit_status():
    code = BEGIN.replace('MAY', 'True') + f'[print("x" * 1000, flush=True) for _ in range(999)]; {LATER}'
    process = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b'late\n' and process.wait() == 3


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no such device')
def test_a_command_whose_output_is_its_result_tells_that_it_is_lost():
    done = python('print("result", flush=True)', may_fail=False, shell='> /dev/full')
    assert done.returncode == 1 and done.stderr == b'Error: stdout: No space left on device\n'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no such device')
@pytest.mark.parametrize('may_fail', [False, True])
def test_output_that_is_lost_ends_no_work_that_is_worth_more(tmp_path, may_fail):
    """May it fail, as that of processes that another one has started, it is told all the same."""
    code = f'import click\ntry:\n with output.finishing(): print("step", flush=True); open({str(tmp_path / "made")!r}, "w")\n'
    done = python(f'exec({code + "except click.ClickException as error: error.show()"!r})', may_fail, '> /dev/full')
    assert (tmp_path / 'made').exists() and done.stderr == b'Error: stdout: No space left on device\n'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no such device')
def test_warnings_that_are_lost_end_no_command():
    done = python('print("Warning", file=sys.stderr, flush=True); print("result")', may_fail=False, shell='2> /dev/full')
    assert done.returncode == 0 and done.stdout == b'result\n'


@pytest.mark.parametrize('name', MAKERS)
def test_commands_that_make_files_finish_them(name):
    """A search or a walk of minutes is not lost with a line about its progress."""
    from dnnlib.program import Maker
    assert isinstance(importlib.import_module(name).main, Maker)


def test_other_errors_are_told_as_ever():
    done = python('open("/nowhere/at/all")', may_fail=False)
    assert done.returncode == 1 and b'Traceback' in done.stderr and b'/nowhere/at/all' in done.stderr


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no such device')
def test_lost_output_is_one_sentence_that_names_the_stream(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'no picture')
    dry_run = f'train.py --outdir="$1" --data={ROOT}/datasets/emoji-faces-noto-32.zip --cfg=tiny --dry-run'
    for command in ('dataset_tool.py --source="$1" --check', '-m loss_zoo doctor', dry_run):
        done = subprocess.run(['sh', '-c', f'exec "$0" {command} > /dev/full', sys.executable, tmp_path],
                              cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr == 'Error: stdout: No space left on device\n'


def test_a_closed_stream_leaves_its_number_to_no_other_file(tmp_path):
    code = f'file = open({str(tmp_path / "file")!r}, "w"); assert file.fileno() > 2; import os; os.write(1, b"stray")'
    assert python(code, shell='<&- >&- 2>&-').returncode == 0
    assert (tmp_path / 'file').read_text() == ''


@pytest.mark.parametrize('name', COMMANDS)
def test_every_command_prepares_its_output(name):
    lines = (ROOT / f'{name}.py').read_text().split("if __name__ == '__main__':\n")[-1].splitlines()
    assert lines[0].strip() == f'output.prepare({"may_fail=True" if name in ("train", "tdgan_centre") else ""})'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='there is no such device')
@pytest.mark.parametrize('command', ['legacy.py', '-m torch_utils.ops'])
def test_what_forwards_to_a_command_prepares_it_too(command):
    done = subprocess.run(['sh', '-c', f'exec "$0" {command} --help > /dev/full', sys.executable], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == 'Error: stdout: No space left on device\n'


def test_there_is_no_other_command():
    assert {path.stem for path in ROOT.glob('*.py') if "__name__ == '__main__'" in path.read_text()} <= {*COMMANDS, 'legacy'}


def test_the_log_has_what_stdout_lost_and_says_why(tmp_path, monkeypatch):
    from dnnlib import output, util

    class Broken:
        encoding = 'utf-8'

        def write(self, text):
            raise BrokenPipeError(32, 'Broken pipe')

        flush = lambda self: self.write('')         # noqa: E731

    monkeypatch.setattr(output, '_problem', None)
    monkeypatch.setattr(sys, 'stdout', Broken())
    with util.Logger(tmp_path / 'log.txt'):
        print('one', flush=True)
        print('caf\udce9')
    text = (tmp_path / 'log.txt').read_text()
    assert text.count('cannot be written to standard output (Broken pipe)') == 1
    assert text.endswith('caf\\udce9\n') and 'one' in text


def test_a_log_that_is_no_file_is_refused(tmp_path):
    from dnnlib import util
    (tmp_path / 'log.txt').symlink_to('elsewhere')
    with pytest.raises(OSError, match='is a link'):
        util.Logger(tmp_path / 'log.txt', 'a')
    assert not (tmp_path / 'elsewhere').exists()
