"""States are saved before they are scored: whatever happens while metrics run, nothing of the run is lost."""
import json
import os
import signal
from pathlib import Path

import pytest
from forked import final_state, finish, printed, run_config
from tiny import assert_same_bits

from torch_utils.state_file import load_meta
from training.run.keep import Keep, best_of
from training.run.scores import SCORES_FILE, Scores
from training.run.states import images_shown, saved_states


def at(nimg, act):
    """A calculation of metrics that writes down where it is called and does something at one snapshot."""
    def evaluate(metrics, run_dir, snapshot_pkl, wants_stop, **kwargs):
        shown = images_shown(Path(run_dir))
        with open(Path(run_dir, 'calls'), 'a') as file:
            file.write(f'{shown} ')
        if shown == nimg:
            act()
        if wants_stop():
            return {}, dict.fromkeys(metrics, 'broken off'), {}
        return dict.fromkeys(metrics, 1 / shown), {}, {}
    return evaluate


def calls(config):
    return [int(word) for word in Path(config['run_dir'], 'calls').read_text().split()]


def signals(*names):
    return lambda: [os.kill(os.getpid(), getattr(signal, name)) for name in names]


@pytest.mark.parametrize(('names', 'status'),
                         [(['SIGKILL'], -signal.SIGKILL), (['SIGTERM', 'SIGTERM'], -signal.SIGTERM),
                                               (['SIGINT', 'SIGINT'], -signal.SIGINT), (['SIGTERM'], 0),
                                               (['SIGINT'], 0)])
def test_a_signal_while_metrics_run_loses_nothing(data, undisturbed, tmp_path, names, status):
    config = run_config(data, tmp_path / 'run', metrics=['made_up'])
    assert finish(config, evaluate=at(28, signals(*names))) == status, printed(config)[-3000:]
    assert images_shown(tmp_path / 'run') == 28 and calls(config) == [4, 16, 28]
    if status == 0:
        assert 'Stopped while metrics were calculated. python calc_metrics.py --network=' in printed(config)
    assert finish(config, evaluate=at(None, None)) == 0, printed(config)[-3000:]
    assert_same_bits(final_state(config), final_state(undisturbed))


def test_after_a_signal_nothing_is_scored(data, tmp_path):
    config = run_config(data, tmp_path / 'run', metrics=['made_up'])

    def prepare():
        import training.training_loop
        real = training.training_loop.run_iteration

        def signalled(run, ticks):
            if run.batch_idx == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            real(run, ticks)

        training.training_loop.run_iteration = signalled

    assert finish(config, prepare, evaluate=at(None, None)) == 0, printed(config)[-3000:]
    assert calls(config) == [4, 16] and images_shown(tmp_path / 'run') == 20


def test_a_signal_during_the_last_metric_leaves_a_finished_run(data, tmp_path):
    config = run_config(data, tmp_path / 'run', metrics=['made_up'], kimg=0.028)
    assert finish(config, evaluate=at(28, signals('SIGTERM'))) == 0
    assert load_meta(saved_states(tmp_path / 'run')[0])['finished']


def test_the_real_thing_is_broken_off_between_two_batches(data, tmp_path):
    """A metric that would take for ever, and the overfitting gap before it."""
    from metrics import overfitting
    from metrics.metric_main import evaluate, register_metric
    from metrics.names import registry
    from metrics.sharding import in_order

    def endless(options):
        def compute(batches):
            for batch in batches:
                if batch.start == 20:
                    os.kill(os.getpid(), signal.SIGTERM)
                assert batch.start < 100
                yield options.G(options.G.synthesis.b4.const.new_zeros([2, 16]), None)
        list(in_order(10 ** 4, 2, compute))

    config = run_config(data, tmp_path / 'run', metrics=['endless'], held_out='rest',
                        training_set_kwargs={**run_config(data, tmp_path / 'run')['training_set_kwargs'],
                                             'max_size': 8, 'random_seed': 0})
    assert finish(config, lambda: registry.pop('endless', None) or register_metric(endless), evaluate=evaluate,
                  overfitting_gap=overfitting.overfitting_gap) == 0, printed(config)[-3000:]
    assert images_shown(tmp_path / 'run') == 4 and 'Stopped while metrics were calculated' in printed(config)


def test_the_overfitting_gap_is_broken_off(data):
    import torch

    from metrics.overfitting import overfitting_gap
    asked = []

    def D(img, c):
        asked.append(len(img))
        return img.mean([1, 2, 3])[:, None]

    module = torch.nn.Module()
    module.forward = D
    kwargs = dict(class_name='training.dataset.ImageFolderDataset', path=data, max_size=8, random_seed=0)
    assert overfitting_gap(module, kwargs, batch_size=2, wants_stop=lambda: len(asked) >= 2) == {} and len(asked) == 2


# Scores, and the best.


def test_scores_that_come_later_decide_on_what_is_kept(data, tmp_path):
    """Of the six snapshots the third is the best, and the untrained network's would be better still."""
    values = {4: 1.0, 16: 9.0, 28: 3.0, 40: 5.0, 52: 6.0, 64: 7.0, 76: 6.5, 80: 6.0}

    def evaluate(metrics, run_dir, **kwargs):
        return {metrics[0]: values[images_shown(Path(run_dir))]}, {}, {}

    config = run_config(data, tmp_path / 'run', metrics=['made_up'], keep=dict(newest=1))
    assert finish(config, evaluate=evaluate) == 0, printed(config)[-3000:]
    assert [load_meta(path)['nimg'] for path in saved_states(tmp_path / 'run')] == [80, 28]
    assert Scores(tmp_path / 'run').scores == values
    assert 'Best so far by made_up: none, while it is still on the way up from the untrained network.' in printed(config)
    assert 'Best so far by made_up: 3 at 0.0 kimg' in printed(config)


def test_the_best_of_a_metric_of_which_higher_is_better(data, tmp_path):
    """By what the metric says, whatever its name begins with."""
    values = {4: 1.0, 16: 9.0, 28: 3.0, 40: 2.0}

    def evaluate(metrics, run_dir, **kwargs):
        return {metrics[0]: values[images_shown(Path(run_dir))]}, {}, {}

    config = run_config(data, tmp_path / 'run', metrics=['sharpness'], keep=dict(newest=1), kimg=0.04)
    assert finish(config, evaluate=evaluate, higher_is_better=lambda name: name == 'sharpness') == 0, printed(config)[-3000:]
    assert [load_meta(path)['nimg'] for path in saved_states(tmp_path / 'run')] == [40, 16]
    assert 'Best so far by sharpness: 9 at 0.0 kimg' in printed(config)


@pytest.mark.parametrize(('scores', 'best'), [
    ([1, 5, 9, 8, 7], 4), ([1, 5, 9, 8, 7, 20, 30], 4), ([1, 5, 9], None), ([1], None), ([], None),
    ([9, 5, 6], 1), ([1, 5, 4, 0.5], 3)])
def test_the_ramp_does_not_count(scores, best):
    scores = {400 + 1000 * i: float(score) for i, score in enumerate(scores)}
    assert best_of(scores, scores) == (None if best is None else 400 + 1000 * best)
    later = {nimg + 1000: score for nimg, score in scores.items()}        # No untrained network among them.
    assert best_of(later, later) == min(later, key=lambda nimg: (later[nimg], nimg), default=None)


def test_scores_of_states_that_are_gone_tell_where_the_ramp_ends():
    from training.run.keep import Saved
    states = [Saved(400, 1.0), Saved(5000, 7.0), Saved(6000, 8.0), Saved(7000, 9.0)]
    assert Keep(1).choose(states) == {7000}
    assert Keep(1).choose(states, {400: 1.0, 1000: 9.0, 2000: 8.0}) == {5000, 7000}


@pytest.mark.parametrize('text', ['', '[1]', '{"a": {}}', '{"4": {"score": "low", "metrics": {}}}', '{"4": 1}', '[' * 10 ** 5,
                                  '{"4": {"score": NaN, "metrics": {}}}',
                                  '{"4": {"score": 1, "metrics": {"x": "y"}}}'])
def test_a_damaged_file_of_scores_costs_no_more_than_the_scores(tmp_path, text):
    (tmp_path / SCORES_FILE).write_text(text)
    scores = Scores(tmp_path)
    assert scores.scores == {} and scores.metrics(4) == {}
    scores.set(8, 2.0, dict(fid=2.0))
    assert Scores(tmp_path).scores == {8: 2.0} and Scores(tmp_path).metrics(8) == dict(fid=2.0)
    assert Scores(tmp_path, 4).scores == {}
    assert json.loads((tmp_path / SCORES_FILE).read_text()) == {'8': dict(score=2.0, metrics=dict(fid=2.0))}
