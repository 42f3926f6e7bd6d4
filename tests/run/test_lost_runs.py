"""Nothing of a run is lost by going on with it: what `train.py`
says when files, data or options are not as they were."""
import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny import make_dataset

import train
from torch_utils.state_file import save_state
from training.config import run_dirs as resume
from training.config.schema import Config
from training.run.states import saved_states, state_path

TINY = ['--cfg=tiny', '--batch=8', '--kimg=4', '--device=cpu', '--workers=0', '--aug=noaug', '-n']


def invoke(*args):
    result = CliRunner().invoke(train.main, [str(arg) for arg in args])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


def config_in(result):
    assert result.exit_code == 0, result.output
    return Config.from_json(json.loads(result.stdout[result.stdout.index('\n{') + 1:result.stdout.index('\n}') + 2]))


def refusal(*args):
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    return result.stderr.splitlines()[-1]


class Lab:
    """A data set and what is left of a run on it, made without training."""

    def __init__(self, folder, *args, res=8, **data):
        self.outdir, self.data = folder / 'runs', make_dataset(folder / 'set.zip', num=16, res=res, **data)
        self.args = [f'--outdir={self.outdir}', f'--data={self.data}', *TINY, *args]
        self.config = config_in(invoke(*self.args))
        self.run_dir = Path(self.config['run_dir'])
        self.run_dir.mkdir(parents=True)
        resume.write_options(self.config)
        self.add_state(2000)
        for nimg in (0, 1, 2):
            (self.run_dir / f'network-snapshot-{nimg:06d}.safetensors').touch()
            (self.run_dir / f'fakes{nimg:06d}.png').touch()
        (self.run_dir / 'stats.jsonl').write_text('{}\n' * 3)

    def add_state(self, nimg):
        meta = dict(nimg=nimg, finished=False, score=None, config=self.config.to_json())
        save_state(state_path(self.run_dir, nimg), dict(a=torch.zeros(1)), **meta)

    def options_file(self):
        return self.run_dir / resume.OPTIONS_FILE

    def goes_on(self, *args):
        return Path(config_in(invoke(*args or self.args))['run_dir']) == self.run_dir

    def change_data(self, num, **data):
        make_dataset(self.data, num=num, **data)


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


def routes(lab):
    return [lab.args, [f'--resume={lab.run_dir}', '-n'], [f'--resume={lab.run_dir}', '-n', '--kimg=5']]


# States and settings that are gone.


@pytest.mark.parametrize('left', ['network-snapshot-*', 'fakes*', 'stats.jsonl', '*'])
def test_a_run_without_its_states_is_not_begun_again_in_its_directory(lab, left):
    keep = {lab.options_file(), *lab.run_dir.glob(left)} - set(saved_states(lab.run_dir))
    for path in lab.run_dir.iterdir():
        if path not in keep:
            path.unlink()
    for args in routes(lab):
        sentence = refusal(*args)
        assert 'has no saved state to continue from' in sentence and '--new' in sentence
        assert f'--init-from={lab.run_dir}' in sentence and '(3)' in sentence
    assert '00001-' in config_in(invoke(*lab.args, '--new'))['run_dir']


def test_a_run_that_was_killed_in_its_first_tick_begins_again(lab):
    for path in lab.run_dir.iterdir():
        if path != lab.options_file() and '000000' not in path.name:
            path.unlink()
    (lab.run_dir / 'stats.jsonl').write_text('{}\n')
    assert all(lab.goes_on(*args) for args in routes(lab))


@pytest.mark.parametrize('damage', ['', '{"comm', None], ids=['empty', 'cut', 'gone'])
def test_settings_that_are_gone_are_taken_from_the_newest_state(lab, damage):
    lab.options_file().unlink()
    if damage is not None:
        lab.options_file().write_text(damage)
    for args in routes(lab):
        assert lab.goes_on(*args) and 'its newest saved state has the settings' in invoke(*args).stderr


def test_a_run_without_settings_and_states_is_neither_gone_on_with_nor_passed_over(lab):
    lab.options_file().write_text('')
    saved_states(lab.run_dir)[0].unlink()
    assert 'cannot be read' in refusal(*lab.args) and '--new' in refusal(*lab.args)
    assert f'--init-from={lab.run_dir}' in refusal(f'--resume={lab.run_dir}')


# Data that have changed.


@pytest.mark.parametrize('num, words', [(17, '1 image more (17 instead of 16)'), (14, '2 images fewer (14 instead of 16)'),
                                        (16, 'as many images (16), but not the same ones')])
@pytest.mark.parametrize('subset', [[], ['--subset=9'], ['--subset=16']], ids=['all', 'some', 'as many as there are'])
def test_other_data_are_named_on_every_way_and_taken_as_they_are_with_override(tmp_path, num, words, subset):
    lab = Lab(tmp_path, *subset)
    lab.change_data(num, seed=1, res=8)
    if subset == ['--subset=16'] and num < 16:
        return
    for args in routes(lab):
        assert f'the data of this run has changed: {words}' in refusal(*args)
        config = config_in(invoke(*args, '--override'))
        assert Path(config['run_dir']) == lab.run_dir and config['data_num_images'] == [num]
        assert config.subset == (num if not subset else 9 if subset == ['--subset=9'] else 16)


def test_data_of_another_shape_cannot_be_gone_on_with(tmp_path):
    lab = Lab(tmp_path, '--cond=1', num_classes=2)
    lab.change_data(17, num_classes=3, res=8)
    for args in routes(lab):
        for more in ([], ['--override']):
            sentence = refusal(*args, *more)
            assert '1 image more (17 instead of 16)' in sentence and 'data_shape.c_dim: 2 -> 3' in sentence
            assert 'do not fit these data' in sentence and '--init-from=' in sentence


def test_centres_whose_data_have_changed_are_named(tmp_path):
    first, second = (make_dataset(tmp_path / f'{name}.zip', num=8, res=8) for name in 'ab')
    args = [f'--outdir={tmp_path}/runs', *TINY, '--reg_type=tdgan', f'--tdgan_data={first},{second}']
    config = config_in(invoke(*args))
    Path(config['run_dir']).mkdir(parents=True)
    resume.write_options(config)
    make_dataset(second, num=9, res=8)
    for way in (args, [f'--resume={config["run_dir"]}', '-n'], [f'--resume={config["run_dir"]}', '-n', '--snap=3']):
        assert f'has changed: {second}: 1 image more (9 instead of 8)' in refusal(*way)
        assert config_in(invoke(*way, '--override'))['run_dir'] == config['run_dir']
    os.remove(first)
    assert '--tdgan_data=PATHS says where they lie now' in refusal(f'--resume={config["run_dir"]}', '-n')


def test_the_run_on_these_data_is_preferred_to_a_later_one_on_others(lab):
    before = Path(lab.data).read_bytes()
    lab.change_data(17, res=8)
    other = config_in(invoke(*lab.args, '--new'))
    Path(other['run_dir']).mkdir()
    resume.write_options(other)
    Path(lab.data).write_bytes(before)
    assert lab.goes_on()


def test_a_run_of_before_knows_how_many_images_it_had(lab):
    options = json.loads(lab.options_file().read_text())
    del options['data_num_images']
    lab.options_file().write_text(json.dumps(options))
    assert lab.goes_on()
    lab.change_data(17, res=8)
    assert '1 image more (17 instead of 16)' in refusal(*lab.args)


def test_paths_mean_the_same_in_every_directory(tmp_path, monkeypatch):
    make_dataset(tmp_path / 'set.zip', num=16, res=8)
    monkeypatch.chdir(tmp_path)
    config = config_in(invoke('--outdir=runs', '--data=set.zip', '--held-out=set.zip', *TINY, '--batch-gpu=4'))
    whole = str(tmp_path / 'set.zip')
    assert config.data == [whole] and config['training_set_kwargs']['path'] == whole
    assert config['command']['data'] == config['held_out'] == whole


def test_data_that_have_moved_are_asked_for(lab, tmp_path):
    moved = Path(lab.data).rename(tmp_path / 'moved.zip')
    for args in routes(lab)[1:]:
        assert f'{lab.data}: no such file or folder; --data=PATH says where it lies now' in refusal(*args)
    assert lab.goes_on(f'--resume={lab.run_dir}', '-n', f'--data={moved}')


def test_labels_that_are_not_learnt_are_mentioned(tmp_path):
    data = make_dataset(tmp_path / 'set.zip', num=16, res=8, num_classes=3)
    args = [f'--outdir={tmp_path}/runs', f'--data={data}', *TINY]
    line = 'Conditional model:  False (the data set has labels, 3 classes, which are not used; --cond=1 learns them)\n'
    assert line in invoke(*args).stdout
    assert 'Conditional model:  True\n' in invoke(*args, '--cond=1').stdout
    with zipfile.ZipFile(data, 'a') as archive, pytest.warns(UserWarning, match='Duplicate'):
        archive.writestr('dataset.json', '{"labels": [["img0000.png", "cat"]]}')
    assert 'labels of the data set are not used, nor could they be' in invoke(*args).stdout


# Options that mean nothing, or something else.


def test_a_run_that_is_beyond_its_end_is_finished(lab):
    for kimg in (1, 2):
        result = invoke(f'--resume={lab.run_dir}', f'--kimg={kimg}')
        assert result.exit_code == 0 and f'is finished: it has 2 kimg, {kimg} are asked for' in result.output
    assert invoke(f'--resume={lab.run_dir}', '--kimg=3', '-n').output.endswith('Dry run; nothing was written.\n')


@pytest.mark.parametrize('options', [[], ['--cfg=auto'], ['--batch-gpu=4'], ['--gpus=2']])
def test_the_number_of_processes_changes_at_once_and_nothing_else(tmp_path, options):
    lab = Lab(tmp_path, *options)
    for gpus in (1, 4, 2, 8):
        config = config_in(invoke(f'--resume={lab.run_dir}', '-n', f'--gpus={gpus}', '--snap=3'))
        assert config['gpus'] == gpus and config['batch'] == 8 >= config['batch_gpu'] * gpus
        same = ('loss_kwargs', 'ema_kimg', 'G_kwargs', 'D_kwargs', 'kimg')
        assert {key: config[key] for key in same} == {key: lab.config[key] for key in same}
        resume.write_options(config)        # And on from there.
    assert 'the batch of this run, 8, cannot be divided among them' in refusal(f'--resume={lab.run_dir}', '-n', '--gpus=16')


def test_weights_of_another_architecture_are_refused_before_anything_is_written(tmp_path):
    from training.networks import Generator
    lab = Lab(tmp_path)
    G = Generator(z_dim=8, c_dim=0, w_dim=8, img_resolution=8, img_channels=3, synthesis_kwargs=dict(channel_max=8))
    from torch_utils import checkpoint
    checkpoint.save_networks(tmp_path / 'net.safetensors', dict(G=G, G_ema=G))
    args = [arg for arg in lab.args if arg != '-n'] + ['--new', f'--resume={tmp_path}/net.safetensors']
    for dry in ([], ['-n']):
        sentence = refusal(*args, *dry)
        assert 'does not fit the networks of this run: G: ' in sentence and '--init-from=' in sentence
    assert os.listdir(lab.outdir) == [lab.run_dir.name]


@pytest.mark.parametrize('pipe', ['filter', 'bgcf', 'bgcfn', 'bgcfnc'])
def test_a_filter_that_is_wider_than_the_images_is_refused_before_anything_is_written(tmp_path, pipe):
    data = make_dataset(tmp_path / 'set.zip', num=8, res=16)
    args = [f'--outdir={tmp_path}/runs', f'--data={data}', '--cfg=tiny', '--device=cpu', f'--augpipe={pipe}']
    for dry in ([], ['-n']):
        assert f'--augpipe={pipe}: images are 16x16; pipes with a filter' in refusal(*args, *dry)
    assert not (tmp_path / 'runs').exists()


def test_without_options_an_example_is_given():
    assert 'For example: python train.py --outdir=runs --data=' in refusal()
    assert 'For example: python train.py --outdir=runs --data=' in refusal('--outdir=runs')


@pytest.mark.parametrize('place', ['', 'runs', 'linked/runs'])
def test_a_runs_own_pictures_do_not_join_its_data(tmp_path, place):
    images = tmp_path / 'images'
    zipfile.ZipFile(make_dataset(tmp_path / 'set.zip', num=16, res=8)).extractall(images)
    (tmp_path / 'linked').symlink_to(images)
    outdir = tmp_path / place if place.startswith('linked') else images / place
    assert f'--outdir={outdir} lies in the data set {images}' in refusal(f'--outdir={outdir}', f'--data={images}', *TINY)
    assert invoke(f'--outdir={tmp_path}', f'--data={images}', *TINY).exit_code == 0
