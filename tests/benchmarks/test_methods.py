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


def test_the_least_time_of_each_iteration_counts():
    base = [[1.0, 1.0, 2.0], [1.0, 9.0, 2.0]]
    assert methods.ratio([[2.0, 8.0, 4.0], [7.0, 2.0, 5.0]], base) == 2.0
    assert methods.figure([[2.0, 2.0, 4.0], [2.0, 2.0, 4.0]], base) == '2.00 (0.67 to 2.00)'
    assert methods.figure(base[:1], base[:1]) == '1.00'


def test_runs_do_their_iterations_in_turn(monkeypatch):
    order = []
    monkeypatch.setattr(methods, 'iteration_sec', lambda run: order.append(run) or len(order))
    assert methods.one_round(dict(base='a', ggdr='b')) == dict(base=[*range(1, 32, 2)], ggdr=[*range(2, 33, 2)])
    assert order == ['a', 'b'] * methods.ROUND


def test_what_ends_it_early_leaves_the_figures_of_the_rounds_before(tmp_path, monkeypatch, capsys):
    page = tmp_path / 'docs' / 'methods' / 'some.md'
    page.parent.mkdir(parents=True)
    page.write_text('Measured: <!-- time: ggdr -->not yet<!-- end -->.')
    monkeypatch.setattr(methods, 'ROOT', tmp_path)
    report = methods.Report('--cfg=tiny', into_docs=True, batch_size=4)
    report.add(dict(base=[2.0] * 16, ggdr=[3.0] * 16))
    assert page.read_text() == 'Measured: <!-- time: ggdr -->1.50 times the base<!-- end -->.'
    report.add(dict(base=[2.0] * 16, ggdr=[2.5] * 16))
    assert page.read_text() == 'Measured: <!-- time: ggdr -->1.25 (1.25 to 1.50) times the base<!-- end -->.'
    assert 'base 2.0 images per sec; 2 round(s)' in capsys.readouterr().out


def test_tdgan_is_timed_where_g_learns_from_its_new_critic_and_is_reminded():
    options = ['--cfg=tiny', '--batch=4', '--cbase=64', '--cmax=4', *methods.METHODS['tdgan reminded']]
    run = methods.build(options, torch.device('cpu'))
    assert run.stage_idx == 1 and [critic.weight for critic in run.game.critics_of(0)] == [1.0]
