"""`--aug=linear`: the strength of the augmentation rises evenly, and nothing else follows."""
import pytest
import torch
from tiny import assert_resumes_exactly, make_config, make_dataset

import losses_ext
from training import setup
from training.config.resolve import resolve
from training.config.rules import UserError
from training.ramp import follow_ramps, ramp

PIPE = dict(class_name='training.augment.AugmentPipe', xflip=1, scale=1)


@pytest.fixture
def data(tmp_path):
    return make_dataset(tmp_path / 'data.zip', num=12)


def linear_config(data):
    config = make_config(data, augment_kwargs=PIPE, ramps=dict(p=[0, 0.6]), ramp_shape='linear',
                         ramp_kimg=0.1)
    losses_ext.configure(config, {})
    return config


def test_the_strength_rises_evenly_and_stays(data):
    run = setup.build(linear_config(data), torch.device('cpu'))
    groups = [group for player in run.game.players for group in player.optimizer.param_groups]
    rates = [dict(group) for group in groups]
    for nimg, p in ((0, 0), (25, 0.15), (50, 0.3), (100, 0.6), (10 ** 6, 0.6)):
        run.nimg = nimg
        follow_ramps(run)
        assert run.game.augment.p.item() == pytest.approx(p)
    assert all(group[name] == rate[name] for group, rate in zip(groups, rates) for name in ('lr', 'betas'))
    assert ramp(dict(ramps={}, ramp_kimg=0.1), 25) == pytest.approx((1 - 0.5 ** 0.5) / 2)    # The other shape.


def test_resume_is_exact(data):
    assert_resumes_exactly(linear_config(data), 4, 2)


def test_options(data):
    name, config = resolve(dict(data=data, aug='linear', kimg=300, target=0.5, augpipe='bg', loss='wgan'))
    assert name == 'data-auto1-kimg300-linear-target0.5-bg-wgan'
    assert (config['ramps'], config['ramp_shape'], config['ramp_kimg']) == (dict(p=[0, 0.5]), 'linear', 300)
    assert config.get('target') is None and 'p' not in config and config['augment_kwargs']['rotate'] == 1
    assert resolve(dict(data=data, aug='linear', kimg=300, ramp_kimg=100.0))[1]['ramp_kimg'] == 100
    for options, words in [
            (dict(aug='linear', p=0.5), '--p has no effect'),
            (dict(aug='linear', ada_kimg=5), '--ada-kimg has no effect'),
            (dict(aug='linear', ada_signal='heldout'), '--ada-signal has no effect'),
            (dict(aug='ada', ramp_kimg=5.0), '--ramp-kimg has no effect without --cfg=r3gan or --aug=linear'),
            (dict(aug='linear', cfg='r3gan', batch=16), '--aug=linear has no effect with --cfg=r3gan')]:
        with pytest.raises(UserError, match=words):
            resolve(dict(data=data, **options))
