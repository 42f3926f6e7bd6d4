"""`train.py --preset`: what each stands for, that given
options win, and that the run is one that can be continued."""
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import make_dataset

import train
from training.config.presets import added_options, fitting_preset, num_frozen_layers
from training.run.states import saved_states

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp('data') / 'plain.zip', num=16)


def invoke(*args):
    return CliRunner().invoke(train.main, [*map(str, args), '-n', '--device=cpu'])


def config_of(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.output[result.output.index('{'):result.output.rindex('}') + 1])


@pytest.mark.parametrize('preset, options', [
    ('few-shot', '--mirror=1 --aug=ada --reg_type=lecam --kimg=1000 --snap=10'),
    ('limited', '--mirror=1 --aug=ada --reg_type=ggdr --kimg=5000'),
    ('large', '--mirror=0 --aug=noaug'),
])
def test_a_preset_is_the_options_of_docs_choosing(tmp_path, data, preset, options):
    """The same configuration, directory and recorded command as when they are typed; and they are printed."""
    begin = [f'--outdir={tmp_path}', f'--data={data}']
    short, long = invoke(*begin, f'--preset={preset}'), invoke(*begin, *options.split())
    assert config_of(short) == config_of(long)
    assert f'--preset={preset} stands for: {options}\n' in short.output
    assert f'`{options}`' in (ROOT / 'docs/choosing.md').read_text(encoding='utf-8')


@pytest.mark.parametrize('given, missing', [
    ('--reg_type=none --kimg=7', '--reg_type=lecam --kimg=1000'),
    ('--reg_type=ggdr', '--reg_type=lecam'),
    ('--DiffAugment=color', '--aug=ada'),
    ('--cfg=tiny', '--kimg=1000 --snap=10'),
])
def test_given_options_win(tmp_path, data, given, missing):
    result = invoke(f'--outdir={tmp_path}', f'--data={data}', '--preset=few-shot', *given.split())
    everything = ['--mirror=1', '--aug=ada', '--reg_type=lecam', '--kimg=1000', '--snap=10']
    left = ' '.join(word for word in everything if word not in missing.split())
    assert f'stands for: {left}\n' in result.output
    typed = invoke(f'--outdir={tmp_path}', f'--data={data}', *left.split(), *given.split())
    assert config_of(result) == config_of(typed)


def test_fine_tuning_freezes_what_is_above_64_pixels():
    """b1024, b512, b256, b128: a layer that reads the image, then three each."""
    assert [num_frozen_layers(res) for res in (32, 64, 128, 256, 512, 1024)] == [4, 4, 4, 7, 10, 13]
    assert added_options('few-shot', 256, {'init_from': 'cats.pkl'})['freezed'] == 7
    assert added_options('few-shot', 256, {'resume': 'ffhq256'})['freezed'] == 7
    assert added_options('few-shot', 256, {'resume': 'ffhq256', 'freezed': 2}).get('freezed') is None
    assert 'freezed' not in added_options('few-shot', 256, {'resume': 'noresume'})
    assert 'freezed' not in added_options('limited', 256, {'init_from': 'cats.pkl'})


def test_a_preset_for_another_number_of_images_is_warned_of(tmp_path, data):
    assert [fitting_preset(num) for num in (1, 499, 500, 49_999, 50_000, 10 ** 6)] == [
        'few-shot', 'few-shot', 'limited', 'limited', 'large', 'large']
    warned = invoke(f'--outdir={tmp_path}', f'--data={data}', '--preset=limited', '--subset=9')
    assert warned.exit_code == 0
    assert 'Warning: --preset=few-shot is meant for 9 images, --preset=limited is not.' in warned.output
    assert 'Warning' not in invoke(f'--outdir={tmp_path}', f'--data={data}', '--preset=few-shot').output


@pytest.mark.parametrize('args, sentence', [
    (['--preset=huge'], "'huge' is not one of"),
    (['--preset=large', '--target=0.5'], '--target has no effect without --aug=ada'),
    (['--preset=few-shot', '--loss=relativistic'], '--aug=ada cannot follow --loss=relativistic'),
])
def test_what_does_not_go_together_is_refused(tmp_path, data, args, sentence):
    result = invoke(f'--outdir={tmp_path}', f'--data={data}', *args)
    assert result.exit_code == 2 and sentence in ' '.join(result.output.split())


def test_the_same_command_continues_the_run(tmp_path, data):
    args = [f'--outdir={tmp_path}', f'--data={data}', '--preset=few-shot', '--cfg=tiny', '--batch=8', '--workers=0',
            '--device=cpu', '--tick=0.1', '--snap=1']
    process = subprocess.Popen([sys.executable, 'train.py', *args], cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1'},
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + 600
    while not [path for run in tmp_path.iterdir() for path in saved_states(run)]:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=600)[0].count('stands for') == 1 and process.returncode == 75
    run_dir, = tmp_path.iterdir()
    assert run_dir.name == '00000-plain-mirror-tiny-batch8-ada-lecam'
    assert f'Output directory:   {run_dir}\n' in invoke(*args).output
    again = invoke(f'--resume={run_dir}', '--preset=large')
    assert again.exit_code == 2 and '--preset is for the start of a run' in again.output
    longer = config_of(invoke(f'--resume={run_dir}', '--kimg=300'))     # The preset's options are still there.
    assert list(longer['regularizers']) == ['lecam'] and longer['kimg'] == 300
    assert 'preset' not in shlex.join(longer['command'])
