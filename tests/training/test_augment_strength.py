"""Adaptive strength of the augmentation."""
import numpy as np
import pytest
import torch
from fixture_data import case_ids

from training.ada import AdaptiveStrength


@pytest.mark.parametrize('case', case_ids('10c_ada_strength'))
def test_strength_follows_the_fixture_s_signs(case):
    config = case.config
    interval = config['ada_interval']
    ada = AdaptiveStrength(config['ada_target'], config['ada_kimg'], interval, config['batch'])
    p, strengths = torch.tensor(config['p_initial']), []
    for k, _ in enumerate(case.inputs['signs'], start=1):
        if k % interval == 0:
            p = ada.step(p, float(np.mean(case.inputs['signs'][k - interval : k])))
        strengths.append(p.item())
    assert p.dtype == torch.float32
    case.check('p', np.array(strengths, dtype=np.float32))


def test_a_mean_on_the_target_moves_nothing():
    assert AdaptiveStrength(0.5, 1, 4, 8).step(torch.tensor(0.25), 0.5) == 0.25


@pytest.mark.parametrize('mean_sign, expected', [(0.500001, 0.282), (0.499999, 0.218), (-1, 0.218)])
def test_a_step_has_one_size_whatever_the_distance(mean_sign, expected):
    p = AdaptiveStrength(target=0.5, kimg=1, interval=4, batch_size=8).step(torch.tensor(0.25), mean_sign)
    assert p.item() == pytest.approx(expected, rel=1e-6)


def test_strength_moves_by_one_in_kimg_thousand_images():
    ada, p = AdaptiveStrength(0.6, kimg=2, interval=5, batch_size=10), torch.tensor(0.0)
    for _ in range(2000 // 50):
        p = ada.step(p, 0.9)
    assert p.item() == pytest.approx(1, rel=1e-5)


def test_a_mean_that_is_no_number_leaves_the_strength_and_is_counted():
    ada, p = AdaptiveStrength(0.6, 500, 4, 32), torch.tensor(0.25)
    for count in (1, 2):
        with pytest.warns(RuntimeWarning, match=f'occurrence {count}'):
            assert ada.step(p, float('nan')) == 0.25
    assert ada.num_skipped == 2
    assert ada.step(p, 1.0) > 0.25


def test_step_does_not_write_into_its_argument():
    p = torch.tensor(0.25)
    AdaptiveStrength(0.6, 500, 4, 32).step(p, 1.0)
    assert p == 0.25


@pytest.mark.parametrize('name', ['kimg', 'interval', 'batch_size'])
def test_settings_that_make_no_sense_are_refused_by_name(name):
    with pytest.raises(ValueError, match=name):
        AdaptiveStrength(**{'target': 0.6, 'kimg': 500, 'interval': 4, 'batch_size': 32, name: 0})
