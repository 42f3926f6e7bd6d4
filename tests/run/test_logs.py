"""The optional logs: what they are told, that they go
on with a continued run, and that they never end one."""
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from tiny import make_dataset

import train
from training.config import resolve
from training.run.image_grid import to_grid
from training.run.logs import LOGS, Logs
from training.run.services import Services

STATS = {'Loss/G/loss': {'num': 4, 'mean': 1.5, 'std': 0.5}}


class FakeWandB:
    """Stands in for the package: remembers everything; `broken` names a method that raises."""

    def __init__(self, broken=None):
        self.calls = []
        self._broken = broken

    def Settings(self, **kwargs):
        return kwargs

    def Image(self, picture):
        return np.asarray(picture)

    def init(self, **kwargs):
        self._called('init', kwargs)
        return SimpleNamespace(log=lambda values: self._called('log', values), finish=lambda: self._called('finish', None),
                               define_metric=lambda *args, **kwargs: self._called('define_metric', kwargs))

    def _called(self, name, values):
        if name == self._broken:
            raise RuntimeError('no network')
        self.calls.append((name, values))


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    monkeypatch.delenv('WANDB_PROJECT', raising=False)
    return fake


def grid(columns=10, rows=6, res=8):
    """Images [N,3,res,res] in 0..255, each of one value: its number."""
    values = np.arange(columns * rows, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], [len(values), 3, res, res])


def log_a_little(names, run_dir, nimg=0):
    services = Services()
    logs = Logs(names, run_dir, {'kimg': 9}, nimg, services)
    logs.scalars(STATS, {'fd5k': 30.0}, nimg + 4200)
    logs.grid('Fakes', grid(), (0, 255), 10, nimg + 4200)
    logs.close()
    return services


def test_weights_and_biases_is_told_scalars_grids_and_the_configuration(wandb, tmp_path):
    assert log_a_little(['wandb'], tmp_path).failing == {}
    names = [name for name, _ in wandb.calls]
    assert names == ['init', 'define_metric', 'log', 'log', 'finish']
    start = wandb.calls[0][1]
    assert (start['name'], start['project'], start['config']) == (tmp_path.name, 'stylegan2-loss-zoo', {'kimg': 9})
    assert wandb.calls[1][1] == {'step_metric': 'kimg'}
    assert wandb.calls[2][1] == {'Loss/G/loss': 1.5, 'Metrics/fd5k': 30.0, 'kimg': 4.2}
    shown = wandb.calls[3][1]
    assert shown['kimg'] == 4.2 and np.array_equal(shown['Fakes'][4::8, 4::8, 0],       # 8 columns and 5 rows of 10 x 6.
                                                   [[10 * row + column for column in range(8)] for row in range(5)])


def test_a_continued_run_goes_on_in_the_same_place(wandb, tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'b').mkdir()
    for run_dir in ('a', 'a', 'b'):
        log_a_little(['wandb'], tmp_path / run_dir)
    first, again, other = [values for name, values in wandb.calls if name == 'init']
    assert first['id'] == again['id'] != other['id'] and again['resume'] == 'allow'


def test_tensorboard_shows_scalars_and_grids_and_forgets_what_a_continued_run_does_again(tmp_path):
    reader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    log_a_little(['tensorboard'], tmp_path)
    log_a_little(['tensorboard'], tmp_path, nimg=1000)          # Continued at 1 kimg: that of 4 kimg is purged.
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars('Loss/G/loss')] == [(5, 1.5)]
    assert [event.value for event in events.Scalars('Metrics/fd5k')] == [30.0]
    image = events.Images('Fakes')[-1]
    assert (image.step, image.width, image.height) == (5, 64, 40)


def test_mlflow_has_one_run_for_a_continued_one(tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow', reason='the extra mlflow is not installed')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', (tmp_path / 'mlruns').as_uri())
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'run').mkdir()
    for nimg in (0, 1000):
        assert log_a_little(['mlflow'], tmp_path / 'run', nimg).failing == {}
    check_mlflow_run(mlflow, (tmp_path / 'run/mlflow-id').read_text())


def check_mlflow_run(mlflow, number):
    client = mlflow.MlflowClient()
    run = client.get_run(number)
    assert (run.info.run_name, run.info.status) == ('run', 'FINISHED')
    assert [(metric.step, metric.value) for metric in client.get_metric_history(number, 'Metrics/fd5k')] == [(4, 30), (5, 30)]
    files = {file.path for file in client.list_artifacts(number)}
    assert {'training_options.json', 'Fakes-000004.png', 'Fakes-000005.png'} <= files


class FakeMLflow:
    """Stands in for the package: remembers everything."""

    def __init__(self):
        self.calls, self.entities = [], SimpleNamespace(Metric=lambda *values: values)

    def MlflowClient(self):
        return self

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return None if name == 'get_experiment_by_name' else SimpleNamespace(info=SimpleNamespace(run_id='r1'))
        return call


def test_mlflow_is_told_scalars_grids_and_the_configuration(tmp_path, monkeypatch):
    fake = FakeMLflow()
    monkeypatch.setitem(sys.modules, 'mlflow', fake)
    services = Services()
    logs = Logs(['mlflow'], tmp_path, {'kimg': 9}, 0, services)
    logs.scalars(STATS, {'fd5k@a': 30.0}, 4200)
    logs.grid('Fakes', grid(), (0, 255), 10, 4200)
    logs.close()
    assert services.failing == {} and (tmp_path / 'mlflow-id').read_text() == 'r1'
    calls = {name: (args, kwargs) for name, args, kwargs in fake.calls}
    assert calls['log_dict'][0] == ('r1', {'kimg': 9}, 'training_options.json')
    assert [(name, value, step) for name, value, _, step in calls['log_batch'][0][1]] == [
        ('Loss/G/loss', 1.5, 4), ('Metrics/fd5k.a', 30.0, 4)]
    assert calls['log_image'][1] == {'artifact_file': 'Fakes-000004.png'} and calls['set_terminated'][0] == ('r1',)


class FakeTrackio:
    """Stands in for the package: remembers what a run is told."""

    def __init__(self):
        self.options, self.rows, self.finished = [], [], 0
        self.Image = np.asarray

    def init(self, **options):
        self.options.append(options)
        return self

    def log(self, values, step):
        self.rows.append((step, values))

    def finish(self):
        self.finished += 1


def test_trackio_goes_on_with_its_run(tmp_path, monkeypatch):
    fake = FakeTrackio()
    monkeypatch.setitem(sys.modules, 'trackio', fake)
    services = Services()
    logs = Logs(['trackio'], tmp_path / 'run', {'kimg': 9}, 0, services)
    logs.scalars(STATS, {'fd5k': 30.0}, 4200)
    logs.grid('Fakes', grid(), (0, 255), 10, 4200)
    logs.close()
    assert services.failing == {} and fake.finished == 1
    assert fake.options == [dict(project='stylegan2-loss-zoo', name='run', config={'kimg': 9}, resume='allow')]
    assert fake.rows[0] == (4, {'Loss/G/loss': 1.5, 'Metrics/fd5k': 30.0, 'kimg': 4.2})
    assert fake.rows[1][0] == 4 and fake.rows[1][1]['Fakes'].ndim == 3


def test_large_tiles_are_shrunk(wandb, tmp_path):
    Logs(['wandb'], tmp_path, {}, 0, Services()).grid('Fakes', grid(7, 4, 128), (0, 255), 7, 0)
    assert wandb.calls[-1][1]['Fakes'].shape == (256, 448, 3)
    assert to_grid(grid(7, 4, 128), (0, 255), 7).size == (896, 512)


@pytest.mark.parametrize('broken, failing', [
    ('init', ['opening Weights & Biases']), ('finish', ['closing Weights & Biases']),
    ('log', ['statistics for Weights & Biases', 'pictures for Weights & Biases']),
])
def test_a_log_that_fails_is_named_and_ends_nothing(monkeypatch, tmp_path, capsys, broken, failing):
    monkeypatch.setitem(sys.modules, 'wandb', FakeWandB(broken))
    services = log_a_little(['wandb'], tmp_path)
    assert f'Warning: {failing[0]} failed, training goes on: RuntimeError: no network' in capsys.readouterr().out
    assert list(services.failing) == failing


def test_nothing_is_sent_unless_asked_for(wandb, tmp_path):
    assert resolved_logs(tmp_path) == ['tensorboard'] and wandb.calls == []


def resolved_logs(tmp_path, *args):
    """What `train.py` makes of its options."""
    data = make_dataset(tmp_path / 'data.zip', num=4)
    return train.config_from_args([f'--data={data}', *args]).log


def test_logs_are_those_that_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, 'is_installed', lambda name: True)
    assert tuple(LOGS) == resolve.LOG_NAMES
    assert resolved_logs(tmp_path, '--log=none') == []
    assert resolved_logs(tmp_path, '--log=tensorboard,wandb') == ['tensorboard', 'wandb']
    monkeypatch.setattr(resolve, 'is_installed', lambda name: False)
    assert resolved_logs(tmp_path) == []


@pytest.mark.parametrize('log, sentence', [
    ('wandb', '--log=wandb needs the extra "wandb" (pip install wandb)'),
    ('tensorboard,mail', '--log=tensorboard,mail: there is no log mail; valid: none, tensorboard, wandb, mlflow, trackio'),
])
def test_what_cannot_be_logged_is_refused_at_the_start(tmp_path, monkeypatch, log, sentence):
    monkeypatch.setattr(resolve, 'is_installed', lambda name: name != 'wandb')
    data = make_dataset(tmp_path / 'data.zip', num=4)
    result = CliRunner().invoke(train.main, ['--outdir', str(tmp_path), '--data', data, f'--log={log}', '-n'])
    assert result.exit_code == 2 and sentence in result.output


def test_a_folder_whose_name_is_not_utf8_fails_no_log(tmp_path, capsys):
    """TensorBoard cannot write there; that must not make the whole run end with a failure."""
    pytest.importorskip('tensorboard')
    run_dir, services = tmp_path / os.fsdecode(b'caf\xe9'), Services()
    run_dir.mkdir()
    log = Logs(['tensorboard'], run_dir, {}, 0, services)
    log.scalars({'a': {'mean': 1.0}}, {}, 1000)
    log.close()
    assert services.failing == {} and 'Note: TensorBoard gets nothing' in capsys.readouterr().out
