"""Saved states that are damaged, foreign or incomplete: the previous one is used,
or the run refuses in one sentence."""
import random
import shutil
from pathlib import Path

import pytest
import torch
from forked import finish, printed, run_config
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import assert_same_bits

from torch_utils import checkpoint
from torch_utils.checkpoint import CheckpointError
from torch_utils.state_file import load_meta, load_state, save_state
from training.run.keep import Keep, Saved
from training.run.states import prune, readable_states, restore_newest, saved_states, state_path, write_state

PIECES = 64


@pytest.fixture
def run_dir(undisturbed, tmp_path):
    """A directory with the two newest states of a run."""
    for path in saved_states(undisturbed['run_dir'])[:2]:
        shutil.copy(path, tmp_path)
    return tmp_path


def restored(run_dir):
    """(state, meta) of what a run would go on from."""
    found = []
    restore_newest(run_dir, lambda *args: found.append(args))
    return found[-1]


def assert_previous_is_used(run_dir, capsys):
    newest, previous = saved_states(run_dir)
    state, meta = restored(run_dir)
    assert meta == load_meta(previous)
    assert f'Skipped a state: {newest}' in capsys.readouterr().out
    return state


def test_the_newest_sound_one_is_used(run_dir, capsys):
    newest, _ = saved_states(run_dir)
    state, meta = restored(run_dir)
    assert meta == load_meta(newest) and 'Skipped' not in capsys.readouterr().out
    assert_same_bits(state, load_state(newest)[0])


def test_truncation_at_every_64th_of_its_length(run_dir, capsys):
    newest, _ = saved_states(run_dir)
    data = newest.read_bytes()
    for piece in range(PIECES):
        newest.write_bytes(data[:len(data) * piece // PIECES])
        assert_previous_is_used(run_dir, capsys)


@pytest.mark.parametrize('num_flips', [100, pytest.param(5000, marks=pytest.mark.slow)])
def test_bit_flips(run_dir, capsys, num_flips):
    """Anywhere; a quarter of them in the header, which is small."""
    newest, _ = saved_states(run_dir)
    data = newest.read_bytes()
    header = 8 + int.from_bytes(data[:8], 'little')
    rng = random.Random(0)
    for i in range(num_flips):
        at = rng.randrange(header if i % 4 == 0 else len(data))
        newest.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:])
        assert_previous_is_used(run_dir, capsys)


@given(junk=st.binary(max_size=200), keep=st.integers(0, 400))
@settings(max_examples=200, deadline=None)
def test_junk_is_refused_by_the_reader(undisturbed, junk, keep):
    """Any bytes, alone or behind the beginning of a real file: a CheckpointError, nothing else."""
    import io
    start = saved_states(undisturbed['run_dir'])[0].read_bytes()[:keep]
    with pytest.raises(CheckpointError):
        checkpoint.load(io.BytesIO(start + junk))


def rewrite(path, change):
    """The same file after a change of its document: what a sound
    writer of another version would have written."""
    tensors, document = checkpoint.load(path)
    change(document)
    checkpoint.save(path, tensors, document)


@pytest.mark.parametrize('change', [
    lambda document: document.update(version=99),
    lambda document: document.update(version='1'),
    lambda document: document.update(format='something/else'),
    lambda document: document.pop('meta'),
    lambda document: document.pop('state'),
    lambda document: document.update(state={'tensor': 'no such tensor'}),
    lambda document: document.update(state={'dict': 7})],
    ids=['newer', 'text as version', 'foreign', 'no meta', 'no state', 'missing tensor', 'malformed'])
def test_a_wrong_schema(run_dir, capsys, change):
    rewrite(saved_states(run_dir)[0], change)
    assert_previous_is_used(run_dir, capsys)


@pytest.mark.parametrize('member',
                         ['run', 'ranks', 'ticks', 'run/players', 'run/players/G/optimizer', 'run/G_ema',
                                    'run/nimg', 'ranks/0/w_avg', 'ranks/0/regularizers/PathLength'])
def test_a_missing_member(undisturbed, tmp_path, member, capsys):
    """The file is sound, what it holds is not: nothing but the whole run can tell,
    and it takes the previous one."""
    from training.run.launch import start_or_continue
    config = {**undisturbed, 'run_dir': str(tmp_path)}
    newest, previous = [shutil.copy(path, tmp_path) for path in saved_states(undisturbed['run_dir'])[:2]]
    state, meta = load_state(newest)
    *way, name = member.split('/')
    place = state
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    del place[name]
    save_state(newest, state, **meta)
    run, _ = start_or_continue(config, tmp_path, torch.device('cpu'), 0)
    assert f'Skipped a state: {newest}' in capsys.readouterr().out
    expected, _ = load_state(previous)
    assert_same_bits(run.state_dict(), expected['run'])


@pytest.mark.parametrize(('entry', 'value', 'complaint'), [
    ('run/stage_idx', 7, 'stage_idx is 7, this run has 1 stages'),
    ('run/stage_idx', -1, 'stage_idx is -1, not a whole'),
    ('run/nimg', 'x', "nimg is 'x', not a whole"), ('run/batch_idx', 0.5, 'batch_idx is 0.5, not a whole'),
    ('run/rollbacks', None, 'rollbacks is None, not a whole'),
    ('run/stage_begun', 1, 'stage_begun is 1, not true or false'),
    ('ticks/num_rows', 10 ** 9, 'num_rows is 1000000000, more than'),
    ('ticks/tick', True, 'tick is True, not a whole'),
    ('ticks/total_sec', float('nan'), 'total_sec is nan, not a finite number'),
    ('ticks/metrics', {'a': 'b'}, 'metrics is dict'),
    ('ticks/collector', {'unread': {}, 'visible': {'a': [1]}},
     'visible is dict, not an object of three numbers'),
    ('ticks/tick_nimg', 10 ** 9, 'tick_nimg is 1000000000, more than'),
    ('ticks/tick_sec', 'x', "tick_sec is 'x', not a finite"),
    ('ticks/reported', [{'a': [1]}], 'reported is list, not a list of objects of three numbers'),
    ('ticks', [], 'list stands where an object must'), ('ranks', [], 'not hold the state of every process')])
def test_numbers_that_cannot_be(undisturbed, tmp_path, capsys, entry, value, complaint):
    """The file is sound, but what it says of the run would make it loop, end at once, or fail much later."""
    from training.run.launch import start_or_continue
    config = {**undisturbed, 'run_dir': str(tmp_path)}
    newest, previous = [shutil.copy(path, tmp_path) for path in saved_states(undisturbed['run_dir'])[:2]]
    state, meta = load_state(newest)
    *way, name = entry.split('/')
    (state[way[0]] if way else state)[name] = value
    save_state(newest, state, **meta)
    run, _ = start_or_continue(config, tmp_path, torch.device('cpu'), 0)
    told = capsys.readouterr().out
    assert f'Skipped a state: {newest}' in told and complaint in told
    assert run.nimg == load_state(previous)[0]['run']['nimg']


@pytest.mark.parametrize('nimg', [None, 'x', -1, True, [], 10 ** 400])
def test_a_state_that_does_not_say_how_far_it_is_is_passed_over(run_dir, nimg):
    """And never removed for it."""
    newest, previous = saved_states(run_dir)[:2]
    state, meta = load_state(newest)
    save_state(newest, state, **{**meta, 'nimg': nimg})
    assert [path for path, _ in readable_states(run_dir)][:1] == [previous] and newest.exists()


def test_without_any_sound_state_it_refuses(run_dir):
    for path in saved_states(run_dir):
        path.write_bytes(b'')
    with pytest.raises(CheckpointError,
                       match='none of its 2 saved states can be used; --new .* --init-from='):
        restored(run_dir)


def test_a_run_goes_on_from_the_previous_state_and_ends_the_same(undisturbed, data, tmp_path):
    """The whole way: the newest of an unfinished run is cut short, the run starts again."""
    from test_kill import assert_same_run
    config = run_config(data, tmp_path / 'run', kimg=0.044)
    assert finish(config) == 0, printed(config)[-3000:]
    newest = saved_states(config['run_dir'])[0]
    newest.write_bytes(newest.read_bytes()[:-1])
    config['kimg'] = undisturbed['kimg']
    assert finish(config) == 0, printed(config)[-3000:]
    assert f'Skipped a state: {newest}' in printed(config)
    assert_same_run(config, undisturbed)


# Order and pruning.


def test_order_is_numeric(tmp_path):
    for nimg in (9, 100, 10):
        (tmp_path / f'training-state-{nimg}.safetensors').touch()
    (tmp_path / 'training-state-x.safetensors').touch()
    assert [path.stem for path in saved_states(tmp_path)] == [f'training-state-{nimg}' for nimg in (100, 10, 9)]


def save_many(folder, scores, keep):
    """Saves states after 1000, 2000, ... images with these scores, pruning each time;
    returns the kimg that are left."""
    for i, score in enumerate(scores):
        write_state(folder, dict(weight=torch.zeros(3)), dict(nimg=1000 * (i + 1), score=score), keep)
    return sorted(load_meta(path)['nimg'] // 1000 for path in saved_states(folder))


@pytest.mark.parametrize('keep, expected', [
    (Keep(2, best=False), [11, 12]), (Keep(2, best=True), [3, 11, 12]), (Keep(1, best=True), [3, 12]),
    (Keep(1, best=False, every_kimg=5), [5, 10, 12]), (Keep(3, every_kimg=5), [3, 5, 10, 11, 12])])
def test_what_is_kept(tmp_path, keep, expected):
    scores = [None, 9, 2, 7, None, 8, 3, 2, 5, 6, 4, None]              # Of equal ones the earlier counts.
    assert save_many(tmp_path, scores, keep) == expected


@given(states=st.lists(st.tuples(st.integers(1000, 10 ** 6), st.none() | st.floats(-1e3, 1e3)), min_size=1,
                       unique_by=lambda state: state[0]),
       newest=st.integers(1, 4), every=st.none() | st.floats(0.1, 1000))
def test_pruning_never_removes_the_best_or_the_last(states, newest, every):
    kept = Keep(newest, True, every).choose(Saved(*state) for state in states)
    assert max(nimg for nimg, _ in states) in kept
    scored = [state for state in states if state[1] is not None]
    assert not scored or min(score for _, score in scored) in [score for nimg, score in scored if nimg in kept]


@pytest.mark.parametrize('damage', [lambda data: b'damaged', lambda data: data[:-1]],
                         ids=['foreign', 'truncated'])
def test_a_damaged_file_does_not_count_as_one_of_the_newest(tmp_path, damage):
    save_many(tmp_path, [1, 2, 3], Keep(3))
    state_path(tmp_path, 3000).write_bytes(damage(state_path(tmp_path, 3000).read_bytes()))
    prune(tmp_path, Keep(1, best=False))
    assert [path.name for path in saved_states(tmp_path)] == [
        'training-state-000003000.safetensors', 'training-state-000002000.safetensors']


def test_a_folder_with_the_name_of_a_half_written_state_is_left_alone(tmp_path):
    (tmp_path / '.training-state-000000100.safetensors.1.tmp').mkdir()
    path = write_state(tmp_path, {'a': torch.zeros([1])}, dict(nimg=100, finished=False), Keep(1, best=False))
    assert saved_states(tmp_path) == [path]


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    left = Path(tmp_path, '.training-state-000001000.safetensors.123.tmp')
    left.touch()
    save_many(tmp_path, [None], Keep())
    assert not left.exists()
