"""The package and command `loss-zoo`: what a wheel holds, beside what it can live, and what it draws."""
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from network_files import expected_picture, make_generator, write_networks

import loss_zoo
from loss_zoo import command, programs
from loss_zoo.network import Network

ROOT = Path(__file__).parents[2]
FOREIGN = ('training', 'torch_utils', 'dnnlib', 'metrics', 'train', 'legacy')   # As in every repository of this family.


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp('networks'))


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """A folder with the wheel and the source distribution."""
    pytest.importorskip('hatchling', reason='hatchling, which builds the wheel, is not installed')
    folder = tmp_path_factory.mktemp('dist')
    subprocess.run([sys.executable, '-m', 'hatchling', 'build', '-d', folder], cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope='module')
def site(built, tmp_path_factory):
    """A folder of installed packages: our wheel, and modules of
    another program under the names that ours have in the tree."""
    site = tmp_path_factory.mktemp('site')
    with zipfile.ZipFile(next(built.glob('*.whl'))) as wheel:
        wheel.extractall(site)
    for name in FOREIGN:
        assert not (site / name).exists() and not (site / f'{name}.py').exists()
        (site / f'{name}.py').write_text(f'WHOSE = "of another program: {name}"\n')
    return site


def in_site(site, cwd, *args):
    """(exit status, output) of Python that sees this folder first, and not the checkout."""
    env = {**os.environ, 'PYTHONPATH': str(site)}
    done = subprocess.run([sys.executable, *map(str, args)], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    return done.returncode, done.stdout


def test_a_wheel_and_a_program_with_modules_of_the_same_names_work_side_by_side(site, folder, tmp_path):
    theirs = f'import {", ".join(FOREIGN)}; print(*(m.WHOSE for m in ({", ".join(FOREIGN)})), sep="; ")'
    status, output = in_site(site, tmp_path, '-c', theirs)
    assert status == 0 and output.count('of another program') == len(FOREIGN)
    status, output = in_site(site, tmp_path, '-m', 'loss_zoo', 'generate', '--network', folder / 'run', '--seeds=3',
                             '--outdir', tmp_path / 'out', '--ops=reference')
    assert status == 0, output
    assert (tmp_path / 'out/seed0003.png').is_file()
    status, output = in_site(site, tmp_path, '-c', 'import loss_zoo.network, training; print(training.__path__[0])')
    assert status == 0 and Path(output.strip()) == site / 'loss_zoo/_programs/training'


def test_a_process_that_uses_the_other_program_is_told_so(site, tmp_path):
    status, output = in_site(site, tmp_path, '-c', 'import training, loss_zoo; loss_zoo.load("net.pkl")')
    assert status == 1
    assert output.splitlines()[-1] == (
        f"loss_zoo.programs.NameTaken: a module named 'training' of another program is in use in this process "
        f"({site / 'training.py'}); use loss_zoo in a process of its own")


def test_a_wheel_holds_everything_that_the_programs_need(site):
    inside = site / 'loss_zoo/_programs'
    for name in programs.PACKAGES:
        of_tree = {path.relative_to(ROOT) for path in (ROOT / name).rglob('*')
                   if path.is_file() and '__pycache__' not in path.parts}
        of_wheel = {path.relative_to(inside) for path in (inside / name).rglob('*')
                    if path.is_file() and '__pycache__' not in path.parts}
        assert of_wheel == of_tree
    assert {path.name for path in inside.glob('*.py')} == {path.name for path in ROOT.glob('*.py')} - {'hatch_build.py'}


def test_a_source_distribution_holds_the_tests_and_the_pages(built):
    with tarfile.open(next(built.glob('*.tar.gz'))) as archive:
        names = {name.partition('/')[2] for name in archive.getnames()}
    assert {'README.md', 'Makefile', 'docs/formats.md', 'tests/programs/test_train.py', 'torch_utils/ops/csrc/operators.cpp',
            'train.py', 'LICENSE'} <= names


def test_help_of_no_subcommand_waits_for_anything_heavy():
    modules = ', '.join(program.module for program in command.PROGRAMS.values())
    heavy = '("torch", "numpy", "PIL", "scipy", "requests", "grpc", "huggingface_hub")'
    code = f'import sys, {modules}; print([name for name in {heavy} if name in sys.modules])'
    assert subprocess.check_output([sys.executable, '-c', code], cwd=ROOT, text=True).strip() == '[]'


def test_every_program_of_a_checkout_is_a_subcommand():
    modules = {program.module for program in command.PROGRAMS.values()}
    assert {path.stem for path in ROOT.glob('*.py')} - modules == {'legacy', 'hatch_build'}


def test_the_help_names_every_subcommand_and_imports_none():
    code = ('import sys; from click.testing import CliRunner; from loss_zoo import command; '
            'print(CliRunner().invoke(command.group, ["--help"]).output); '
            'print([name for name in ("train", "torch", "numpy", "dnnlib") if name in sys.modules])')
    output = subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name, program in command.PROGRAMS.items():
        assert f'  {name} ' in output and program.about in output
    assert output.splitlines()[-1] == '[]'


@pytest.mark.parametrize('name', command.PROGRAMS)
def test_the_help_of_a_subcommand_speaks_of_it(name):
    result = CliRunner().invoke(command.group, [name, '--help'], prog_name='loss-zoo')
    assert result.exit_code == 0
    assert result.output.startswith(f'Usage: loss-zoo {name} ')
    assert f'loss-zoo {name}' in result.output.partition('xample')[2]
    assert 'python ' not in result.output.rpartition('xample')[2]


def test_options_and_exit_status_are_those_of_the_program(tmp_path):
    result = CliRunner().invoke(command.group, ['generate', '--network=none.pkl', '--outdir', str(tmp_path), '--seeds=1'])
    assert result.exit_code == 2 and 'none.pkl' in result.output
    result = CliRunner().invoke(command.group, ['paint'])
    assert result.exit_code == 2 and "No such command 'paint'" in result.output


def test_a_shell_can_complete_subcommands_and_options():
    env = {**os.environ, '_LOSS_ZOO_COMPLETE': 'bash_complete', 'COMP_WORDS': 'loss-zoo generate --tr', 'COMP_CWORD': '2'}
    code = 'import sys; sys.argv[0] = "loss-zoo"; from loss_zoo.command import main; main()'
    output = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=env, capture_output=True, text=True).stdout
    assert {'plain,--trunc', 'plain,--trunc-sheet'} <= set(output.split())


@pytest.mark.parametrize('place, writable', [('not/there/yet', True), ('file', False), ('dangling', False)])
def test_the_doctor_says_whether_the_cache_can_be_written(tmp_path, monkeypatch, place, writable):
    from loss_zoo.doctor import disks
    (tmp_path / 'file').touch()
    (tmp_path / 'dangling').symlink_to('nowhere')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('DNNLIB_CACHE_DIR', place)
    line = list(disks())[1]
    assert f': {place}, ' in line and ('NOT WRITABLE' not in line) == writable


def test_the_doctor_says_what_there_is():
    result = CliRunner().invoke(command.group, ['doctor'])
    assert result.exit_code == 0, result.output
    for words in (f'torch {torch.__version__}', 'cpu: ', '--device=auto takes ', 'upfirdn2d', 'efflite0', ' GB free'):
        assert words in result.output


class TestLoad:
    def test_a_run_draws_what_generate_draws(self, folder):
        net = loss_zoo.load(folder / 'run', device='cpu')
        G = make_generator(seed=100)
        assert (net.resolution, net.label_dim) == (16, 0)
        assert net.z([3, 4]).shape == (2, G.z_dim) and net.w([3, 4]).shape == (2, G.num_ws, G.w_dim)
        images = net.image([3, 4], psi=0.5)
        assert images.shape == (2, 16, 16, 3) and images.dtype == np.uint8
        for seed, image in zip((3, 4), images):
            assert np.abs(image.astype(int) - expected_picture(G, seed, None, 0.5)).max() <= 1
        assert np.array_equal(net.image(w=net.w([3], psi=0.5)), net.image([3], psi=0.5))
        assert np.array_equal(net.image(z=net.z([3])), net.image([3]))

    def test_a_class_or_a_vector_is_a_label(self, folder):
        net = loss_zoo.load(str(folder / 'grey.safetensors'), device='cpu')
        assert np.array_equal(net.image([1], label=2), net.image([1], label=[0, 0, 1]))
        assert not np.array_equal(net.image([1], label=2), net.image([1], label=0))

    @pytest.mark.parametrize('name, label, takes', [
        ('grey.safetensors', None, 'a class from 0 to 2, or 3 numbers'), ('grey.safetensors', 3, 'a class'),
        ('grey.safetensors', [1, 0], 'a class'), ('run', 0, 'no label')])
    def test_another_label_is_refused(self, folder, name, label, takes):
        with pytest.raises(ValueError, match=f'this network takes {takes}'):
            loss_zoo.load(folder / name, device='cpu').image([1], label=label)

    def test_a_file_without_a_generator_is_refused(self, folder):
        with pytest.raises(ValueError, match='has no averaged generator'):
            loss_zoo.load(folder / 'empty.safetensors', device='cpu')
        with pytest.raises(OSError):
            loss_zoo.load(folder / 'none.pkl', device='cpu')

    def test_the_package_alone_imports_nothing_heavy(self):
        code = 'import sys, loss_zoo; print("torch" in sys.modules, "training" in sys.modules)'
        assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True).stdout == 'False False\n'
        assert loss_zoo.Network is Network
