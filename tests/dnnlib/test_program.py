"""What all programs have in common: Ctrl-C at any moment is one sentence and status 130, and an empty value is none."""
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dnnlib.program import Program
from loss_zoo.command import PROGRAMS, group

ROOT = Path(__file__).parents[2]
HEARD = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)'
# Runs a program, to which Ctrl-C comes when a module is about to be imported; the importing code may swallow exceptions.
AT_IMPORT = '''
import builtins, os, runpy, signal, sys
moment, program, *sys.argv[1:] = sys.argv[1:]
sys.path.insert(0, os.getcwd())
signal.signal(signal.SIGINT, signal.default_int_handler)        # The tests may run where it is ignored.

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                sum(range(9999))
            except BaseException:
                print('lost')

sys.meta_path.insert(0, Finder())
sys.argv[0] = program
(runpy.run_module if program == 'loss_zoo' else runpy.run_path)(program, run_name='__main__')
print('not ended')
'''


def interrupted(moment, program, *args):
    done = subprocess.run([sys.executable, '-c', AT_IMPORT, moment, program, *args], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(os.name == 'nt', reason='such signals are of POSIX systems')
@pytest.mark.parametrize('moment, program, args', [
    ('click', 'train.py', ['--help']),
    ('training.config.methods', 'train.py', ['--help']),
    ('dnnlib.download', 'generate.py', ['--network=nothing', '--seeds=0', '--outdir=nothing']),
    ('numpy', 'generate.py', ['--network=nothing.pkl', '--seeds=0', '--outdir=nothing']),
    ('torch', 'generate.py', ['--network=nothing.pkl', '--seeds=0', '--outdir=nothing']),
    ('PIL.Image', 'dataset_tool.py', ['--source=datasets', '--check']),
    ('click', 'loss_zoo', ['generate', '--help']),
    ('generate', 'loss_zoo', ['generate', '--help'])])
def test_ctrl_c_while_modules_are_imported_is_one_sentence(moment, program, args):
    assert interrupted(moment, program, *args) == (130, '', '\nEnded by Ctrl-C.\n')


@pytest.mark.skipif(os.name == 'nt', reason='such signals are of POSIX systems')
def test_a_second_ctrl_c_does_not_wait_for_an_import(tmp_path):
    (tmp_path / 'slow.py').write_text('import os, signal\nfor _ in range(2): os.kill(os.getpid(), signal.SIGINT)\nprint("late")')
    code = f'{HEARD}; from dnnlib import ctrl_c; ctrl_c.hear(); import sys; sys.path.insert(0, {str(tmp_path)!r}); import slow'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, '', '\nEnded by Ctrl-C.\n')


def test_ctrl_c_that_is_ignored_stays_so():
    code = 'import signal; from dnnlib import ctrl_c; ctrl_c.hear(); signal.raise_signal(signal.SIGINT); print("on")'
    done = subprocess.run(['sh', '-c', 'trap "" INT; exec "$0" -c "$1"', sys.executable, code], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b'on\n')


def test_ctrl_c_within_a_command_is_one_sentence():
    @click.command(cls=Program)
    def command():
        raise KeyboardInterrupt

    result = CliRunner().invoke(command, [])
    assert (result.exit_code, result.output) == (130, '\nEnded by Ctrl-C.\n')


def test_every_program_hears_ctrl_c_before_it_imports_anything_else():
    begin = "if __name__ == '__main__':\n    from dnnlib import ctrl_c\n    ctrl_c.hear()\n"
    programs = [path for path in ROOT.glob('*.py') if "__name__ == '__main__'" in path.read_text() and path.stem != 'legacy']
    assert len(programs) == 15
    for path in programs:
        head, found, _ = path.read_text().partition(begin)
        assert found and 'import ' not in head.rpartition('"""')[2].replace('from __future__ import annotations', ''), path


@pytest.mark.parametrize('name', PROGRAMS)
def test_an_empty_value_of_any_option_is_refused(name):
    with click.Context(group) as ctx:
        command = group.get_command(ctx, name)
    assert isinstance(command, Program)
    for param in command.params:
        if isinstance(param, click.Option) and not param.is_flag:
            result = CliRunner().invoke(command, [f'{max(param.opts, key=len)}='])
            assert result.exit_code == 2 and result.output.count('Error: ') == 1, (param.name, result.output)
            assert f'{max(param.opts, key=len)}' in result.output.split('Error: ')[1], (param.name, result.output)


@pytest.mark.parametrize('args, says', [
    (['report', 'runs', '--out='], "'--out': its value is empty; leave it out, or give one"),
    (['report', 'runs', ''], "'RUN_DIR...': its value is empty; give one"),
    (['audit', ' '], "'DIR': its value is empty; give one"),
    (['train', '--outdir=runs', '--data='], "'--data': its value is empty"),
    (['generate', '--network=', '--seeds=0', '--outdir=out'], "'--network': its value is empty; give one")])
def test_an_empty_value_is_told_as_such(args, says):
    result = CliRunner().invoke(group, args)
    assert result.exit_code == 2 and says in ' '.join(result.output.split())


@pytest.mark.parametrize('error, sentence', [
    (MemoryError(), 'Error: there is not enough memory; a smaller --batch needs less\n'),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes\nTrace"),
     "Error: there is not enough memory (DefaultCPUAllocator: can't allocate memory: 8 bytes); a smaller --batch needs less\n")])
def test_memory_that_runs_out_is_one_sentence(error, sentence):
    """With advice where there is some."""
    def work(batch=1):
        raise error

    done = CliRunner().invoke(click.command('x', cls=Program)(click.option('--batch')(work)), [])
    assert done.exit_code == 1 and done.output == sentence
    assert ';' not in CliRunner().invoke(click.command('x', cls=Program)(work), []).output


def test_other_errors_of_the_program_stay_what_they_are():
    """With where they come from, for those who mend them."""
    def work():
        raise RuntimeError('a fault')

    assert str(CliRunner().invoke(click.command('x', cls=Program)(work), []).exception) == 'a fault'
