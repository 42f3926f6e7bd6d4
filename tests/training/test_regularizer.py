"""training/regularizer.py: when a method is off, and that it is then not built at all."""
from dataclasses import dataclass

import pytest
import torch
from tiny import make_config

import losses_ext
from training import setup
from training.config.methods import methods_of, switched_off
from training.regularizer import Regularizer

# By hand: all that is added to the losses has a factor of
# 0; any one of these changes and there is something to do.
OFF = {
    'pl': dict(weight=0), 'r1': dict(gamma=0), 'ggdr': dict(weight=0), 'diggan': dict(weight=0),
    'weco': dict(weight=0), 'lecam': dict(weight=0), 'apa': dict(p=0.0), 'r2': dict(gamma=0), 'gp': dict(weight=0),
    'cr': dict(weight=0), 'bcr': dict(weight_real=0, weight_fake=0), 'zcr': dict(weight_d=0, weight_g=0),
    'insgen': dict(weight_real=0, weight_fake=0, weight_g=0), 'fakeclr': dict(weight_fake=0, weight_g=0),
    'vision': dict(weight=0),
}
ALWAYS_ON = {'tdgan', 'daco', 'genco'}      # They change who plays, not only what is added.
TARGETS = {**losses_ext.BASE_TYPES, **losses_ext.REG_TYPES}


@pytest.mark.parametrize('name', OFF)
def test_a_method_is_off_when_nothing_of_it_counts(name):
    cls = losses_ext.load(TARGETS[name])
    assert cls.is_off(cls.Options(**OFF[name]))
    for option in OFF[name]:
        assert not cls.is_off(cls.Options(**{**OFF[name], option: 0.5}))


def test_all_methods_say_when_they_are_off():
    assert {*OFF} | ALWAYS_ON == {*TARGETS}
    for name in ALWAYS_ON:
        cls = losses_ext.load(TARGETS[name])
        assert not cls.is_off(cls.Options())


def test_a_twin_without_push_is_kept_when_asked_for():
    cls = losses_ext.load(TARGETS['weco'])
    assert not cls.is_off(cls.Options(weight=0, twin=True))


@dataclass(frozen=True)
class Options:
    """Of a method whose strength has a name of its own."""
    power: float = 1.0


class Pull(Regularizer):
    """One that may not be built."""
    Options, strength = Options, 'power'

    def __init__(self, game, options):
        super().__init__(game, options)
        if options.power == 0:
            raise AssertionError('built although it is off')

    def g_main(self, ctx):
        return ctx.gen.img.mean()


@pytest.mark.parametrize('power', [0, 1.0])
def test_a_method_that_is_off_is_not_built(power, monkeypatch):
    monkeypatch.setitem(losses_ext.REG_TYPES, 'pull', f'{__name__}:Pull')
    config = make_config('-', regularizers=dict(pull=dict(power=power)))
    with torch.device('meta'):
        game = setup.build_game(config, torch.device('meta'))
    assert [type(r).__name__ for r in game.regularizers if isinstance(r, Pull)] == ['Pull'] * (power > 0)
    assert [cls.__name__ for cls, _ in switched_off(config)] == ['Pull'] * (power == 0)
    assert Pull in [cls for cls, _ in methods_of(config)]
