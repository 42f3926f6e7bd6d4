"""Disks that are full, slow to recover, or closed to writing: training goes on,
old files stay, the end tells."""
import errno
import json
import os
import resource
import shutil
import tempfile
from pathlib import Path

import click
import pytest
import torch
from forked import final_state, finish, printed, run_config
from tiny import assert_same_bits

import training.run.states
from dnnlib import writing
from torch_utils.state_file import load_meta, load_state, save_state
from training.run.launch import start_or_continue
from training.run.scores import Scores
from training.run.services import Services
from training.run.states import NoSpaceError, require_space, saved_states, write_state
from training.run.status import StatsWriter


class FullDisk:
    """A file that takes some bytes and no more."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self._file.close()

    def write(self, data):
        self._room -= self._file.write(data[:self._room])
        if self._room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)


class NamedFull:
    """A file on a full disk that says another name."""

    def __init__(self, file, name):
        self._file, self.name = file, name

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize('room', [0, 100, 5000, 50000])
def test_a_disk_that_fills_up_while_saving_keeps_the_previous_file(tmp_path, monkeypatch, room):
    path = tmp_path / 'file'
    save_state(path, dict(a=torch.ones(20000)), nimg=1)
    before = path.read_bytes()
    real = os.fdopen
    monkeypatch.setattr(writing.os, 'fdopen', lambda *args: FullDisk(real(*args), room))
    with pytest.raises(OSError, match='No space left'):
        save_state(path, dict(a=torch.zeros(20000)), nimg=2)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ['file']


def test_a_run_whose_files_may_not_grow_ends_with_a_failure_and_keeps_its_states(undisturbed, data, tmp_path):
    """The system refuses every file above 64 KB, which is every state and snapshot; the rest goes on."""
    config = run_config(data, tmp_path / 'run', kimg=0.044)
    assert finish(config) == 0
    before = {path: path.read_bytes() for path in saved_states(config['run_dir'])}
    config['kimg'] = undisturbed['kimg']
    limit = 2 ** 16
    assert finish(config, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) == 1
    assert 'Warning: saving the state failed, training goes on' in printed(config)
    assert 'training itself went well, but not everything beside it: the network snapshot failed (' in printed(config)
    assert {path: path.read_bytes() for path in saved_states(config['run_dir'])} == before
    rows = Path(config['run_dir'], 'stats.jsonl').read_text().splitlines()
    assert json.loads(rows[-1])['Progress/kimg']['mean'] == pytest.approx(0.08)
    assert finish(config) == 0
    assert_same_bits(final_state(config), final_state(undisturbed))


def test_a_log_on_a_full_disk_ends_nothing(data, tmp_path):
    import dnnlib.logger

    def prepare():
        dnnlib.logger.open = lambda name, *args, **kwargs: NamedFull(open('/dev/full', *args, **kwargs), name)  # noqa: SIM115

    config = run_config(data, tmp_path / 'run', kimg=0.012)
    assert finish(config, prepare) == 0, printed(config)[-3000:]
    assert 'log.txt is not written any more: No space left on device' in printed(config)


def test_free_space_is_looked_at_before_the_run_and_before_each_save(undisturbed, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=2 ** 24 + 1000)
    monkeypatch.setattr(training.run.states.shutil, 'disk_usage', lambda folder: free)
    require_space(tmp_path, 1000, 'a file')
    with pytest.raises(NoSpaceError, match='16 MiB are free, a file needs 17 MiB'):
        require_space(tmp_path, 1001, 'a file')
    with pytest.raises(NoSpaceError, match='this run needs'):
        start_or_continue({**undisturbed, 'run_dir': str(tmp_path)}, tmp_path, torch.device('cpu'), 0)
    with pytest.raises(NoSpaceError, match='training-state-000000004.safetensors needs'):
        write_state(tmp_path, dict(a=torch.zeros(1000)), dict(nimg=4), None)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def read_only():
    """A directory that everybody can reach and nobody but root can write into."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    shutil.rmtree(folder)


def test_a_read_only_directory_is_refused_by_name(undisturbed, read_only):
    import metrics.metric_main  # noqa: F401 (Before the fork: afterwards the modules may be out of reach.)
    import train
    pid = os.fork()
    if pid == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            train.start({**undisturbed, 'run_dir': str(read_only / 'run')})
        except click.ClickException as error:
            os._exit(0 if f'--outdir: cannot write {read_only}/run: Permission denied' in error.message
                     else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# Services.


def test_a_service_is_tried_twice_named_and_remembered(capsys):
    services, calls = Services(), []

    def failing():
        calls.append(1)
        raise OSError(errno.ENOSPC, 'No space left', 'fakes.png')

    assert not services.run('pictures', failing)
    assert len(calls) == 2 and services.failing == {'pictures': "[Errno 28] No space left: 'fakes.png'"}
    assert "Warning: pictures failed, training goes on: [Errno 28] No space left: 'fakes.png'" in capsys.readouterr().out
    assert services.run('pictures', lambda: None) and services.failing == {}
    assert 'works again' in capsys.readouterr().out


def test_a_service_that_works_at_the_second_try_failed_not():
    services, calls = Services(), []
    assert services.run('pictures', lambda: calls.append(1) or 1 / (len(calls) - 1))
    assert services.failing == {}


def test_interrupts_pass_through_services():
    def interrupted():
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        Services().run('pictures', interrupted)


def test_pictures_and_events_that_always_fail_do_not_change_training(undisturbed, data, tmp_path):
    def prepare():
        import training.run.logs
        import training.run.ticks

        def broken(*args, **kwargs):
            raise RuntimeError('broken on purpose')

        training.run.ticks.save_picture = broken
        training.run.logs.TensorBoard.scalars = broken

    config = run_config(data, tmp_path / 'run')
    assert finish(config, prepare) == 1
    assert 'the picture of fakes failed (RuntimeError: broken on purpose)' in printed(config)
    assert 'TensorBoard failed (RuntimeError: broken on purpose)' in printed(config)
    assert_same_bits(final_state(config), final_state(undisturbed))


@pytest.mark.parametrize('recovers', [False, True])
def test_a_metric_that_fails_to_the_end_ends_the_run_with_a_failure(undisturbed, data, tmp_path, recovers):
    """At every snapshot, or at the first alone; training does not notice."""
    from metrics.metric_main import evaluate, register_metric
    from metrics.names import MetricError, registry

    def fussy(options):
        if recovers and calls:
            return dict(fussy=1.0)
        calls.append(1)
        raise MetricError('no detector on Sundays')

    calls, config = [], run_config(data, tmp_path / 'run', metrics=['fussy'])
    status = finish(config, lambda: registry.pop('fussy', None) or register_metric(fussy), evaluate=evaluate)
    assert status == (0 if recovers else 1)
    assert 'fussy could not be calculated: no detector on Sundays' in printed(config)
    last = 'fussy: works again' if recovers else 'not everything beside it: fussy failed (no detector on Sundays)'
    assert last in printed(config)
    assert_same_bits(final_state(config), final_state(undisturbed))


@pytest.mark.parametrize('recovers', [False, True])
def test_scores_that_cannot_be_recorded_end_the_run_with_a_failure(data, tmp_path, recovers):
    """They are known all the same: what is best follows them."""
    from metrics.metric_main import evaluate, register_metric
    from metrics.names import registry

    def made_up(options):
        if recovers and calls:
            shutil.rmtree(in_the_way, ignore_errors=True)
        calls.append(1)
        return dict(made_up=1.0)

    calls, config = [], run_config(data, tmp_path / 'run', metrics=['made_up'], kimg=0.016)
    in_the_way = tmp_path / 'run' / 'metric-made_up.jsonl'
    in_the_way.mkdir()
    status = finish(config, lambda: registry.pop('made_up', None) or register_metric(made_up),
                    evaluate=evaluate)
    assert status == (0 if recovers else 1), printed(config)[-3000:]
    assert 'Note: made_up is not recorded in ' in printed(config)
    last = 'recording metrics: works again' if recovers else 'not everything beside it: recording metrics failed (is a folder'
    assert last in printed(config) and Scores(tmp_path / 'run').scores == {4: 1.0, 16: 1.0}


def row(tick, **more):
    return json.dumps({'Progress/tick': dict(num=1, mean=tick, std=0), **more}) + '\n'


def ticks_in(path):
    return [json.loads(line)['Progress/tick']['mean'] for line in path.read_text().splitlines()]


def test_rows_that_could_not_be_written_are_written_later_or_are_in_the_state(tmp_path, monkeypatch, capsys):
    writer = StatsWriter(tmp_path)
    writer.add(json.loads(row(0)))
    writer.write()
    real = os.fdopen
    monkeypatch.setattr('training.run.status.os.fdopen', lambda *args: FullDisk(real(*args), 3))
    writer.add(json.loads(row(1)))
    with pytest.raises(OSError, match='No space'):
        writer.write()
    monkeypatch.undo()
    saved = writer.unwritten
    assert len(saved) == 1
    continued = StatsWriter(tmp_path, 2, saved)
    continued.add(json.loads(row(2)))
    continued.write()
    assert ticks_in(tmp_path / 'stats.jsonl') == [0, 1, 2] and 'Warning' not in capsys.readouterr().out
    writer.add(json.loads(row(2)))
    writer.write()
    assert ticks_in(tmp_path / 'stats.jsonl') == [0, 1, 2]


@pytest.mark.parametrize('content, num_ticks, kept, words', [
    ([row(0), row(1), row(2)], 2, [0, 1], None),
    ([row(0), row(1), '{"Progress/tick": {"me'], 2, [0, 1], None),
    ([], 0, [], None),
    ([row(0), row(2), row(2), row(3)[:20] + '\n', row(3)], 4, [0, 2, 3],
     '1 of 4 rows are missing, that of tick 1 first; 1 were there twice; 1 lines were no rows'),
    ([row(0), row(1)[:30], row(2)], 3, [0], '2 of 3 rows are missing, that of tick 1 first. The'),
    ([row(0), '{"Progress/tick": {"mean": "x"}}\n', '[1]\n', 'NaN\n', '\xff\n', row(1)], 2, [0, 1],
     '4 lines were no rows'),
    ([], 3, [], '3 of 3 rows are missing')])
def test_a_continued_run_keeps_the_rows_that_its_state_knows_and_tells_what_is_wrong(
        tmp_path, capsys, content, num_ticks, kept, words):
    path = tmp_path / 'stats.jsonl'
    path.write_bytes(''.join(content).encode('latin-1'))
    StatsWriter(tmp_path, num_ticks)
    out = capsys.readouterr().out
    assert ticks_in(path) == kept and (words in out if words else out == '')


def test_statistics_that_are_gone_are_told(tmp_path, capsys):
    writer = StatsWriter(tmp_path, 5)
    assert '5 of 5 rows are missing' in capsys.readouterr().out
    writer.add(json.loads(row(5)))
    writer.write()
    (tmp_path / 'stats.jsonl').unlink()
    writer.add(json.loads(row(6)))
    writer.write()
    assert ticks_in(tmp_path / 'stats.jsonl') == [6] and 'has lost rows' in capsys.readouterr().out


def test_statistics_that_nobody_could_write_are_not_lost(undisturbed, data, tmp_path):
    """For some ticks nobody can write them; then the run is stopped, and continued."""
    def prepare():
        import training.run.status
        import training.run.ticks
        real_write = training.run.status.StatsWriter.write

        def write(self):
            if len(self.unwritten) < 3 and self._end > 0:
                raise OSError(errno.ENOSPC, 'No space left')
            real_write(self)

        training.run.status.StatsWriter.write = write

    config = run_config(data, tmp_path / 'run', kimg=0.044)
    assert finish(config, prepare) in (0, 1)
    config['kimg'] = undisturbed['kimg']
    assert finish(config) == 0, printed(config)[-3000:]
    ticks = ticks_in(Path(config['run_dir'], 'stats.jsonl'))
    assert ticks == list(range(len(ticks))) and 'rows are missing' not in printed(config)


@pytest.mark.parametrize('name', ['log.txt', 'stats.jsonl'])
def test_a_log_that_cannot_be_written_at_the_start_is_refused(data, tmp_path, name):
    config = run_config(data, tmp_path / 'run')
    Path(config['run_dir'], name).mkdir()
    assert finish(config) == 1
    assert f'{name} cannot be written (is a folder' in printed(config)


def test_the_best_state_survives(tmp_path):
    """By its score, whatever was saved after it."""
    from training.run.keep import Keep
    scores = {}
    for nimg, score in ((4, 3.0), (8, 1.0), (12, 2.0), (16, None)):
        write_state(tmp_path, dict(a=torch.zeros(1)), dict(nimg=nimg), Keep(1), scores)
        scores.update({nimg: score} if score is not None else {})
    assert [load_meta(path)['nimg'] for path in saved_states(tmp_path)] == [16, 8]
    assert torch.equal(load_state(saved_states(tmp_path)[1])[0]['a'], torch.zeros(1))
