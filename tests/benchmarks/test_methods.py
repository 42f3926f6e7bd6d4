"""benchmarks/methods.py: which methods it times, and when it stops."""
import sys
from pathlib import Path

import torch

import losses_ext

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import methods  # noqa: E402


def test_every_method_of_the_registry_is_timed():
    timed = {name for options in methods.METHODS.values() for option in options
             for name in option.removeprefix('--reg_type=').split(',')}
    assert {*losses_ext.REG_TYPES} - timed == set()
    assert {'--loss=osgan', '--loss=relativistic', '--aug=diffusion'} <= timed


def test_no_round_begins_that_would_end_too_late():
    assert methods.another_fits(began=100, now=300, num_done=4, minutes=5)
    assert not methods.another_fits(began=100, now=360, num_done=4, minutes=5)


def test_a_figure_has_its_spread():
    assert methods.figure([1.0, 1.2, 1.1, 1.3, 1.4]) == '1.20 (1.10 to 1.30)'
    assert methods.figure([1.2]) == '1.20'


def test_a_method_is_divided_by_the_base_in_turn_with_it(monkeypatch):
    monkeypatch.setattr(methods, 'iteration_sec', lambda took: next(took))
    runs = dict(base=iter([1.0, 1.0] * methods.ROUND + [2.0] * methods.ROUND), ggdr=iter([5.0] * methods.ROUND))
    assert methods.one_round(runs) == (dict(base=1.0, ggdr=2.5), [1.0 * methods.ROUND, 2.0 * methods.ROUND])


def test_what_ends_it_early_leaves_the_figures_of_the_rounds_before(tmp_path, monkeypatch, capsys):
    page = tmp_path / 'docs' / 'methods' / 'some.md'
    page.parent.mkdir(parents=True)
    page.write_text('Measured: <!-- time: ggdr -->not yet<!-- end -->.')
    monkeypatch.setattr(methods, 'ROOT', tmp_path)
    report = methods.Report('--cfg=tiny', into_docs=True)
    report.round({'base': 1.0, 'ggdr': 1.1}, [16.0], batch_size=4)
    assert page.read_text() == 'Measured: <!-- time: ggdr -->1.10 times the base<!-- end -->.'
    report.round({'base': 1.0, 'ggdr': 1.3}, [32.0], batch_size=4)
    assert page.read_text() == 'Measured: <!-- time: ggdr -->1.20 (1.15 to 1.25) times the base<!-- end -->.'
    assert 'base 2.7 images per sec; 2 round(s)' in capsys.readouterr().out


def test_tdgan_is_timed_where_g_learns_from_its_new_critic_and_is_reminded():
    options = ['--cfg=tiny', '--batch=4', '--cbase=64', '--cmax=4', *methods.METHODS['tdgan reminded']]
    run = methods.build(options, torch.device('cpu'))
    assert run.stage_idx == 1 and [critic.weight for critic in run.game.critics_of(0)] == [1.0]
