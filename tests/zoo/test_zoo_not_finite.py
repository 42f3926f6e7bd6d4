"""One NaN or Inf, wherever it comes from, costs a few steps: no method keeps it."""
import math
from dataclasses import dataclass

import pytest
from test_zoo import METHODS, zoo_config
from tiny import make_dataset, run_iterations

import losses_ext
import training.training_loop
from losses_ext.option import option
from losses_ext.running_mean import WithRunningMeans
from training import networks
from training.run.health import not_finite

KEEPS_MEANS = dict(diggan=dict(ema=0.9, weight=5.0, interval=1), lecam=dict(weight=0.1, start=1),
                   apa=dict(p=None, target=0.6, kimg=1.0))
PLACES = dict(logits=networks.Discriminator, images=networks.SynthesisNetwork, latents=networks.MappingNetwork)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    return [make_dataset(folder / f'{i}.zip', num=12, seed=i) for i in range(2)]


def spoilt_run(monkeypatch, config, place, bad, batch_idx):
    """Four iterations; in one, everything of a kind of
    network is bad. (run, its state, which steps were bad)."""
    current, steps, cls = [], [], PLACES[place]
    forward, iterate, finish = cls.forward, training.training_loop.run_iteration, training.training_loop.finish_phase

    def run_iteration(run, ticks):
        current[:] = [run.batch_idx]
        iterate(run, ticks)
        current.clear()

    def finish_phase(*args):
        is_broken = finish(*args)
        steps.extend([] if is_broken is None else [bool(is_broken)])
        return is_broken

    def spoilt(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        if current != [batch_idx]:
            return out
        return (out[0] * bad, *out[1:]) if isinstance(out, tuple) else out * bad

    monkeypatch.setattr(cls, 'forward', spoilt)
    monkeypatch.setattr(training.training_loop, 'run_iteration', run_iteration)
    monkeypatch.setattr(training.training_loop, 'finish_phase', finish_phase)
    run, (state, local) = run_iterations(config, 4)
    return run, {**state, **local}, steps


def check(monkeypatch, config, place, bad, batch_idx):
    _, state, steps = spoilt_run(monkeypatch, config, place, bad, batch_idx)
    assert not_finite(state) == []
    assert any(steps) and not any(steps[-2:]), steps


def with_options(data, names, **kwargs):
    config = zoo_config(data, names, **kwargs)
    for name in set(names) & KEEPS_MEANS.keys():
        config['regularizers'][name].update(KEEPS_MEANS[name])
    return config


@pytest.mark.filterwarnings('ignore:augmentation strength stays')
@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('name', [None, *METHODS])
def test_no_method_keeps_what_is_not_finite(data, monkeypatch, name, place):
    bad = math.inf if place == 'images' else math.nan
    check(monkeypatch, with_options(data, [name] if name else []), place, bad, batch_idx=1)


@pytest.mark.filterwarnings('ignore:augmentation strength stays')
@pytest.mark.parametrize('names, kwargs', [
    (['lecam', 'diggan', 'apa', 'weco', 'daco'], {}), ([], dict(loss='osgan', game='logistic')),
    ([], dict(loss='relativistic')), ([], dict(target=0.6, augment_kwargs=dict(
        class_name='training.augment.AugmentPipe', xflip=1, brightness=1), p=0.2))])
@pytest.mark.parametrize('batch_idx', [0, 1])
def test_no_combination_does(data, monkeypatch, names, kwargs, batch_idx):
    check(monkeypatch, with_options(data, names, **kwargs), 'logits', math.nan, batch_idx)


@dataclass(frozen=True)
class Options:
    """Options of the method below."""
    weight: float = option(1.0, 'Strength.')


class Follower(WithRunningMeans):
    """A method of a stranger: holds the logits of fakes at their running mean."""
    Options = Options

    def __init__(self, game, options):
        super().__init__(game, options, 0.9)

    def d_fake(self, ctx):
        self._means.add(ctx.critic.name, ctx.round, ctx.fake.logits)
        mean = self._means.get(ctx.critic.name)
        return None if mean is None else (ctx.fake.logits - mean).square()


@pytest.mark.parametrize('place', PLACES)
def test_a_new_method_with_running_means_does_not_either(data, monkeypatch, place):
    monkeypatch.setitem(losses_ext.REG_TYPES, 'follower', f'{__name__}:Follower')
    check(monkeypatch, zoo_config(data, ['follower']), place, math.nan, batch_idx=2)
