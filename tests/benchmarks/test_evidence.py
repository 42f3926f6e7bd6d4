"""benchmarks/evidence: designs, statistics on made-up results
with known effects, the runner under kills, the page."""
import gc
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip('statsmodels', reason='the extra "evidence" is not installed')

from benchmarks.evidence import effects, responses, run  # noqa: E402
from benchmarks.evidence.__main__ import main  # noqa: E402
from benchmarks.evidence.analyse import analyse  # noqa: E402
from benchmarks.evidence.controls import known_effect, weight_zero  # noqa: E402
from benchmarks.evidence.design import aliased_pairs, cells, contrast, folded  # noqa: E402
from benchmarks.evidence.memorised import share_below_quantile  # noqa: E402
from benchmarks.evidence.page import page, verdict  # noqa: E402
from benchmarks.evidence.plan import Block, Plan  # noqa: E402
from benchmarks.evidence.results import Result, append_result, read_results  # noqa: E402
from benchmarks.evidence.write_plan import BASIC, GENERATORS  # noqa: E402

ROOT = Path(__file__).parents[2]
DESIGN = cells(BASIC, GENERATORS)
LEVELS = {f'cell{i}': levels for i, levels in enumerate(DESIGN)}
TRUE = dict(ada=-0.3, ggdr=-0.1, diggan=0.0, lecam=0.0, apa=0.1, daco=0.0, r2=0.0, osgan=-0.05)


def made_up(seed, num_blocks=6, noise=0.15, between_blocks=0.05):
    """Responses with the effects TRUE, which differ a little from block to block."""
    rng = np.random.default_rng(seed)
    values = {}
    for b in range(num_blocks):
        here = {name: value + between_blocks * rng.standard_normal() for name, value in TRUE.items()}
        level = rng.standard_normal()
        for cell, signs in LEVELS.items():
            values[cell, Block('set', 100, b)] = (
                level + sum(here[name] * signs[name] / 2 for name in here) + noise * rng.standard_normal())
    return values


class TestDesign:
    def test_every_method_is_in_half_of_the_cells_and_clear_of_every_pair(self):
        for name in TRUE:
            signs = contrast(DESIGN, (name,))
            assert sum(signs) == 0
            for pair in combinations(TRUE, 2):
                assert np.dot(signs, contrast(DESIGN, pair)) == (0 if name not in pair else 0)

    def test_the_28_pairs_fall_into_seven_groups_of_four(self):
        assert sorted(map(len, aliased_pairs(DESIGN))) == [4] * 7

    def test_a_fold_over_turns_every_sign(self):
        assert all(a[name] == -b[name] for a, b in zip(DESIGN, folded(DESIGN)) for name in TRUE)


class TestEffects:
    def test_intervals_cover_the_truth_as_often_as_they_say(self, monkeypatch):
        monkeypatch.setattr(effects, 'RESAMPLES', 100)
        monkeypatch.setattr(gc, 'collect', lambda: 0)       # The library collects garbage each time, nine tenths of the time.
        covered = [effect.low <= TRUE[effect.name] <= effect.high
                   for seed in range(200) for effect in effects.factorial_effects(made_up(seed), LEVELS, seed)]
        # 1600 intervals, eight of an experiment together: the share scatters by less than 0.01.
        assert 0.93 <= np.mean(covered) <= 0.995

    def test_a_large_effect_is_found_and_none_is_not(self):
        found = {effect.name: effect for effect in effects.factorial_effects(made_up(1, noise=0.1), LEVELS)}
        assert found['ada'].value == pytest.approx(-0.3, abs=0.1)
        assert found['ada'].is_clear and found['ada'].p_holm < 0.05
        assert not found['r2'].is_clear

    def test_without_noise_the_effects_are_exact(self):
        for effect in effects.factorial_effects(made_up(0, 4, noise=1e-9, between_blocks=0), LEVELS):
            assert effect.value == pytest.approx(TRUE[effect.name], abs=1e-6)

    def test_an_interaction_appears_in_its_group(self):
        values = {key: value + 0.4 * LEVELS[key[0]]['ada'] * LEVELS[key[0]]['ggdr'] / 2
                  for key, value in made_up(2, noise=0.05).items()}
        clear = [effect for effect in effects.interactions(values, LEVELS) if effect.is_clear]
        assert any('ada x ggdr' in effect.name for effect in clear)
        assert max(clear, key=lambda e: abs(e.value)).value == pytest.approx(0.4, abs=0.1)

    def test_lenths_error_of_pure_noise_is_its_spread(self):
        noise = np.random.default_rng(0).standard_normal(4000)
        assert effects.pseudo_error(noise) == pytest.approx(1, abs=0.05)

    def test_a_cell_that_is_the_base_differs_by_exactly_nothing(self):
        values = {(cell, Block('set', 100, b)): float(b) for cell in ('base', 'same') for b in range(4)}
        comparison = effects.compare(values, 'same', 'base')
        assert (comparison.value, comparison.low, comparison.high, comparison.improvement) == (0, 0, 0, 0.5)

    def test_a_better_cell_is_better_on_every_block(self):
        rng = np.random.default_rng(0)
        values = {('base', Block('set', 100, b)): rng.standard_normal() for b in range(8)}
        values |= {('good', block): value - 0.2 + 0.02 * rng.standard_normal() for (_, block), value in values.items()}
        comparison = effects.compare(values, 'good', 'base')
        assert comparison.high < 0 and comparison.p < 0.01 and comparison.improvement == 1

    def test_one_block_has_a_difference_and_no_interval(self):
        values = {('base', Block('set', 100, 0)): 1.0, ('good', Block('set', 100, 0)): 0.5}
        comparison = effects.compare(values, 'good', 'base')
        assert (comparison.num_blocks, comparison.value, comparison.improvement) == (1, -0.5, 1)
        assert comparison.low == -math.inf and comparison.high == math.inf and math.isnan(comparison.p)

    def test_interactions_are_not_guessed_from_one_block(self, recwarn):
        assert effects.interactions(made_up(0, num_blocks=1), LEVELS) == [] and not recwarn.list

    def test_ranks_and_nemenyis_distance(self):
        values = {(cell, Block(f'set{s}', 100, 0)): float(i) for s in range(5) for i, cell in enumerate('abc')}
        found = effects.ranks(values)
        assert found.mean == {'a': 1, 'b': 2, 'c': 3}
        # Demsar 2006, table 5: q = 2.343 for three classifiers at 0.05.
        assert found.critical == pytest.approx(2.343 * math.sqrt(3 * 4 / (6 * 5)), rel=1e-3)


def result(cell='base', seed=0, status='finished', values=(8.0, 4.0, 2.0), cost=1.0, stage='alone', plan='p'):
    """A result with the curve `values` at 1, 2, 3 kimg."""
    curve = [(float(i + 1), {'fd': value}) for i, value in enumerate(values)]
    return Result(plan, stage, cell, Block('faces', 100, seed), status, curve=curve if status == 'finished' else [],
                  sec_per_kimg=cost, memorised=0.01)


class TestResponses:
    def test_mean_of_the_last_snapshots_not_the_best(self):
        assert responses.window_mean(result(values=(1.0, 4.0, 16.0)), 'fd', 2) == pytest.approx(math.log(8))

    def test_what_failed_is_the_worst_of_its_block(self):
        found = responses.responses([result(), result('bad', values=(9.0, 9.0, 9.0)), result('dead', status='failed')],
                                    lambda r: responses.window_mean(r, 'fd', 1))
        assert found['alone', 'dead', Block('faces', 100, 0)] == math.log(9)

    def test_at_equal_seconds_a_method_of_twice_the_cost_has_half_the_images(self):
        slow = result('slow', cost=2.0, values=(8.0, 4.0, 2.0))
        found = responses.equal_seconds([result(), slow], 'fd', 1, 'base')
        block = Block('faces', 100, 0)
        assert found['alone', 'base', block] == pytest.approx(math.log(2))
        assert found['alone', 'slow', block] == pytest.approx((math.log(8) + math.log(4)) / 2)

    def test_images_until_a_value_is_reached(self):
        assert responses.kimg_to(result(), 'fd', 4.0) == pytest.approx(2)
        assert responses.kimg_to(result(), 'fd', math.sqrt(8.0)) == pytest.approx(2.5)
        assert responses.kimg_to(result(), 'fd', 1.0) is None

    def test_share_of_fakes_below_the_quantile_of_held_out_images(self):
        import torch
        held_out = torch.linspace(1, 2, 101, dtype=torch.float64)
        found = share_below_quantile(torch.tensor([0.5, 0.9, 1.5, 3.0], dtype=torch.float64), held_out)
        assert found['share'] == 0.5 and found['limit'] == pytest.approx(1.01)


class TestResults:
    def test_a_run_is_recorded_once(self, tmp_path):
        path = tmp_path / 'results.jsonl'
        assert append_result(path, result())
        assert not append_result(path, result())
        assert append_result(path, result(seed=1))
        assert read_results(path) == [result(), result(seed=1)]

    def test_a_line_that_was_cut_costs_only_itself(self, tmp_path):
        path = tmp_path / 'results.jsonl'
        append_result(path, result())
        with path.open('a') as file:
            file.write(result(seed=1).line()[:40])
        append_result(path, result(seed=2))
        assert read_results(path) == [result(), result(seed=2)]

    @pytest.mark.parametrize('line', [
        b'{}', b'null', b'[' * 10 ** 5, b'\xff\xfe', b'{"block": ["faces", 100, 0], "curve": []}',
        result(seed=7).line().replace('8.0', '"8"').encode(), result(seed=7).line().replace('"facts": {}', '"facts": 3').encode(),
        result(seed=7).line().replace('"facts": {}', '"facts": {"commit": [1]}').encode(),
        result(seed=7).line().replace('"finished"', '"best"').encode(), result().line().replace('8.0', '0.1').encode()])
    def test_a_line_that_is_no_result_or_says_a_run_again_changes_nothing(self, tmp_path, line):
        path = tmp_path / 'results.jsonl'
        append_result(path, result())
        with path.open('ab') as file:
            file.write(line + b'\n')
        assert read_results(path) == [result()] and append_result(path, result(seed=1))


PLAN = dict(
    name='test', about='A test.', base=[], base_cell='base', kimg=3, snapshots=3, window=2, metrics=['fd', 'kid', 'cov'],
    metrics_of_page=['fd', 'kid', 'cov'], coverage='cov', controls=dict(stage='alone', weight_zero='zero-', positive='ada'),
    factors={}, data=dict(faces=dict(about='faces', images=3, fingerprint='f')),
    stages=[dict(name='screen', about='effects', cells={name: dict(options=[], levels=levels)
                                                         for name, levels in LEVELS.items()},
                 blocks=[['faces', 100, 0], ['faces', 100, 1]]),
            dict(name='alone', about='controls', cells=dict(base=dict(options=[]), zero_=dict(options=[])),
                 blocks=[['faces', 100, seed] for seed in range(4)])])


def write_plan(folder, **changes):
    """A plan file of its own."""
    path = folder / 'test.json'
    path.write_text(json.dumps(PLAN | changes))
    return Plan.load(path)


def made_up_results(plan, base_jump=0.0):
    """A result for every run of the plan."""
    values, rng = made_up(3, 2), np.random.default_rng(4)
    for cell in plan.cells():
        log = values.get((cell.name, Block('set', 100, cell.block.seed)), 0.05 * rng.standard_normal())
        log += base_jump * (cell.block.seed % 2) * (cell.stage == 'alone')
        curve = [(float(k), dict(fd=math.exp(5 - k / 10 + log), kid=log, cov=0.5 - log / 10)) for k in (1, 2, 3)]
        yield Result(plan.sha256, cell.stage, cell.name, cell.block, 'finished', curve=curve, sec_per_kimg=1.0,
                     memorised=0.01 + rng.random() / 100)


class TestPage:
    def test_the_same_results_give_the_same_page(self, tmp_path):
        plan = write_plan(tmp_path)
        results = list(made_up_results(plan))
        assert page(analyse(plan, results), 'x.svg') == page(analyse(plan, results[::-1]), 'x.svg')

    def test_a_control_that_fails_is_the_first_thing_it_says(self, tmp_path):
        plan = write_plan(tmp_path)
        answer = analyse(plan, list(made_up_results(plan, base_jump=3.0)))
        assert verdict(answer).startswith('**Do not trust this page: A/A')

    def test_what_fails_to_see_a_known_help_says_that_it_is_too_small(self, tmp_path):
        answer = analyse(write_plan(tmp_path), list(made_up_results(write_plan(tmp_path))))
        itself, zero = (replace(control, holds=True) for control in answer.controls[:2])
        unseen = replace(answer.controls[2], holds=False, sentence='ada changes it by -1 % (-9 to +8)')
        head = '**Too small to see what is known to help: ada changes it by -1 % (-9 to +8).**'
        assert verdict(replace(answer, controls=[itself, zero, unseen])).startswith(head)
        other = replace(itself, holds=False)
        assert 'Do not trust' in verdict(replace(answer, controls=[other, zero, unseen]))

    def test_weights_that_differ_fail_the_control_though_the_scores_do_not(self):
        same = [replace(result(cell), facts=dict(weights=weights)) for cell, weights in (('base', 'a'), ('zero-x', 'a'))]
        other = [same[0], replace(same[1], facts=dict(weights='b'))]
        assert weight_zero(same, 'base', 'zero-', 'fd').holds and not weight_zero(other, 'base', 'zero-', 'fd').holds

    def test_how_far_a_run_with_weight_0_is_from_the_base_is_told(self):
        found = weight_zero([result(), result('zero-x', values=(8.0, 4.4, 2.0))], 'base', 'zero-', 'fd')
        assert not found.holds and 'by 0.1 of a distance at most' in found.sentence

    def test_a_help_that_is_not_seen_yet_is_no_failure_before_all_runs_are_done(self):
        weak = effects.Effect('ada', -0.1, -0.3, 0.1, 0.3, 0.2)
        assert known_effect(weak, 'ada', is_complete=False).holds is None
        assert known_effect(weak, 'ada', is_complete=True).holds is False

    def test_a_positive_control_may_be_a_cell_of_its_own(self, tmp_path):
        base, better, zero = ({name: dict(options=[])} for name in ('base', 'better', 'zero-x'))
        seeds = [['faces', 100, seed] for seed in range(4)]
        stages = [dict(name='alone', about='', cells=base | better, blocks=seeds),
                  dict(name='zero', about='', cells=base | zero, blocks=[['faces', 100, 9]])]
        plan = write_plan(tmp_path, stages=stages, controls=PLAN['controls'] | dict(positive='better'))
        factor = {'base': 1, 'better': 0.2, 'zero-x': 1}
        results = [replace(r, curve=[(kimg, scores | dict(fd=scores['fd'] * factor[r.cell])) for kimg, scores in r.curve])
                   for r in made_up_results(plan)]
        zero = [replace(results[-1], cell=cell) for cell in ('base', 'zero-x')]
        found = {c.name: c for c in analyse(plan, results[:-2] + zero).controls}
        assert found['positive'].holds and 'better changes the distance' in found['positive'].sentence
        assert found['weight 0'].holds          # In a stage of its own.
        assert analyse(plan, results[:2]).controls[2].holds is None

    @pytest.mark.parametrize('plan, path', [('gpu32', 'docs/evidence.md'), ('small', 'docs/evidence-small.md'),
                                            ('quick32', 'docs/evidence-quick.md'),
                                            ('demo32', 'docs/evidence-demo.md')])
    def test_pages_are_those_of_the_results(self, plan, path):
        plan = Plan.load(plan)
        answer = analyse(plan, read_results(ROOT / f'benchmarks/evidence/results/{plan["name"]}.jsonl', plan))
        assert (ROOT / path).read_text(encoding='utf-8') == page(answer, Path(path).with_suffix('.svg').name)

    def test_the_place_of_the_base_in_its_block(self, tmp_path):
        plan = write_plan(tmp_path)
        results = [replace(run, curve=[(kimg, dict(scores, fd=9e9)) for kimg, scores in run.curve]) if run.cell == 'base' else run
                   for run in made_up_results(plan)]
        answer = analyse(plan, results)
        num = len(plan.stages['alone']['cells'])
        assert set(answer.places_of_base['alone'].values()) == {(num, num)}
        assert f': {num} of {num}' in page(answer, 'x.svg')

    def test_how_soon_a_method_is_where_the_base_ends(self, tmp_path):
        plan = write_plan(tmp_path)
        plan.stages['alone']['cells'].update(soon=dict(options=[]), never=dict(options=[]))
        values = dict(base=(8.0, 4.0, 4.0), zero_=(8.0, 4.0, 4.0), soon=(4.0, 2.0, 2.0), never=(9.0, 9.0, 9.0))
        results = [replace(result(cell, cost=2.0 if cell == 'soon' else 1.0, plan=plan.sha256),
                           curve=[(i + 1.0, dict(fd=value, kid=value, cov=value)) for i, value in enumerate(curve)])
                   for cell, curve in values.items()]
        answer = analyse(plan, results)
        assert answer.images_to_base == {
            'alone/zero_': (1.0, 1, 1), 'alone/soon': (0.5, 1, 1), 'alone/never': (None, 0, 1)}
        text = page(answer, 'x.svg')
        assert '| 0.50 times (1 of 1 runs) | 1.00 times |' in text and '| not reached | not reached |' in text

    def test_what_was_not_run_is_named(self, tmp_path):
        plan = write_plan(tmp_path)
        text = page(analyse(plan, list(made_up_results(plan))[:10]), 'x.svg')
        assert '22 runs of screen, 8 runs of alone' in text and 'Preliminary' in text

    def test_what_results_of_others_say_stays_in_its_line(self, tmp_path):
        plan = write_plan(tmp_path)
        first, *others = made_up_results(plan)
        hostile = '|x|\n# No <script>alert(1)</script> [here](http://a)'
        result = replace(first, status='failed', reason=hostile, facts=dict(commit=hostile, processor=hostile))
        text = page(analyse(plan, [result, *others]), 'x.svg')
        assert '<script' not in text and '\n# No' not in text and '[here]' not in text and 'alert(1)' in text

    def test_a_page_of_nothing(self, tmp_path):
        assert 'Nothing has been run yet' in page(analyse(write_plan(tmp_path), []), 'x.svg')

    def test_the_picture_is_the_same_twice(self, tmp_path):
        pytest.importorskip('matplotlib', reason='the extra "evidence" is not installed')
        from benchmarks.evidence.picture import save_picture
        plan = write_plan(tmp_path)
        answer = analyse(plan, list(made_up_results(plan)))
        for name in 'ab':
            save_picture(answer, tmp_path / name)
        assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


FAKE_WORK = '''
import json, sys, time, pathlib
folder = pathlib.Path(sys.argv[1]); (folder / 'begun').open('a').write('x')
time.sleep(0.1); sys.exit(0)
'''

DRIVER = f'''
import sys
from pathlib import Path
from benchmarks.evidence import run
from benchmarks.evidence.plan import Plan

class Quick(run.Runner):
    def result_of(self, cell, folder, claim):
        status, _ = self._child([sys.executable, '-c', {FAKE_WORK!r}, str(folder)], folder / 'train.txt', claim)
        if status:
            raise run.Interrupted
        return run.Result(self.plan.sha256, cell.stage, cell.name, cell.block, 'finished')

run.check_data = lambda *_: None
Quick(Plan.load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), {{}}).run(2)
'''


class TestRunner:
    def test_kills_lose_nothing_and_repeat_nothing(self, tmp_path):
        plan = write_plan(tmp_path, stages=PLAN['stages'][1:])
        results = tmp_path / 'results.jsonl'
        command = [sys.executable, '-c', DRIVER, str(tmp_path / 'test.json'), str(results), str(tmp_path / 'work')]
        for _ in range(3):
            worker = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
            deadline = time.monotonic() + 60
            before = len(read_results(results))
            while len(read_results(results)) < before + 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(worker.pid, signal.SIGKILL)             # Its children live on, and hold their claims.
            worker.wait()
        deadline = time.monotonic() + 60
        while len(read_results(results)) < 8 and time.monotonic() < deadline:
            subprocess.run(command, cwd=ROOT, check=True)
        found = read_results(results, plan)
        assert len(found) == 8 == len({(r.cell, r.block) for r in found})

    def test_what_it_trains_stops_with_it_also_behind_a_shell_that_ignores_interrupts(self, tmp_path):
        write_plan(tmp_path, stages=PLAN['stages'][1:])
        started = tmp_path / 'started'
        work = f'import time; open({str(started)!r}, "w").close(); time.sleep(600)'
        command = [sys.executable, '-c', DRIVER.replace(repr(FAKE_WORK), repr(work)), str(tmp_path / 'test.json'),
                   str(tmp_path / 'results.jsonl'), str(tmp_path / 'work')]
        runner = subprocess.Popen(command, cwd=ROOT, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
                                  stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        runner.terminate()
        assert runner.wait(timeout=120) != 0 and not read_results(tmp_path / 'results.jsonl')

    def test_a_run_that_train_refuses_is_told(self, tmp_path, monkeypatch):
        plan = write_plan(tmp_path)
        monkeypatch.setattr(run, 'check_data', lambda *_: None)
        monkeypatch.setattr(run, 'train_command', lambda *_: [sys.executable, '-c', 'import sys; print("no"); sys.exit(2)'])
        with pytest.raises(run.PlanError, match='refuses.*no$'):
            run.Runner(plan, tmp_path / 'r.jsonl', tmp_path / 'work', {}).run(1)

    def test_a_run_that_diverges_counts_as_failed(self, tmp_path, monkeypatch):
        plan = write_plan(tmp_path, stages=[dict(PLAN['stages'][1], blocks=[['faces', 100, 0]])])
        monkeypatch.setattr(run, 'check_data', lambda *_: None)
        monkeypatch.setattr(run, 'train_command', lambda *_: [
            sys.executable, '-c', 'import sys; print("the run diverges at 1 kimg"); sys.exit(1)'])
        run.Runner(plan, tmp_path / 'r.jsonl', tmp_path / 'work', {}).run(1)
        assert [r.status for r in read_results(tmp_path / 'r.jsonl')] == ['failed', 'failed']

    def test_only_cells_that_are_asked_for_run(self, tmp_path, monkeypatch):
        plan = write_plan(tmp_path, stages=PLAN['stages'][1:])
        monkeypatch.setattr(run, 'check_data', lambda *_: None)
        monkeypatch.setattr(run.Runner, 'result_of', lambda self, cell, *_: run.Result(
            self.plan.sha256, cell.stage, cell.name, cell.block, 'finished'))
        run.Runner(plan, tmp_path / 'r.jsonl', tmp_path / 'work', {}, names=('zero_',)).run(1)
        found = [r.cell for r in read_results(tmp_path / 'r.jsonl')]
        assert found and {*found} == {'zero_'} and len(found) == sum(cell.name == 'zero_' for cell in plan.cells())
        refused = CliRunner().invoke(main, ['run', f'--plan={tmp_path / "test.json"}', '--cell=zero'])
        assert refused.exit_code == 2 and '--cell=zero: the plan has ' in refused.output and 'base, zero_' in refused.output

    @pytest.mark.parametrize('num_images', [921, 100])
    def test_what_is_memorised_is_asked_where_images_are_held_out(self, tmp_path, monkeypatch, num_images):
        plan = write_plan(tmp_path, data=dict(faces=dict(images=921)),
                          stages=[dict(PLAN['stages'][1], blocks=[['faces', num_images, 0]])])
        called = []

        def call(_, command, *rest):
            called.append('memorised' if 'benchmarks.evidence.memorised' in command else 'scored')
            (tmp_path / 'memorised.json').write_text('{"share": 0.25}')
        for name, value in dict(curve_of=[], weights_of='', clean_up=None, facts_of_here={}, run_dir_in=tmp_path).items():
            monkeypatch.setattr(run, name, lambda *_, value=value: value)
        monkeypatch.setattr(run.Runner, 'call', call)
        monkeypatch.setattr(run.Runner, 'train', lambda *_: (1.0, ''))
        result = run.Runner(plan, tmp_path / 'r.jsonl', tmp_path, dict(faces=tmp_path)).result_of(
            next(iter(plan.cells())), tmp_path, 0)
        assert called == ['scored', 'memorised'][:1 if num_images == 921 else 2]
        assert result.memorised == (None if num_images == 921 else 0.25)

    def test_other_data_than_the_plans_is_refused(self, tmp_path):
        plan = write_plan(tmp_path)
        faces = ROOT / 'datasets' / 'emoji-faces-noto-32.zip'
        with pytest.raises(run.PlanError, match='is not the data set of the plan'):
            run.check_data(plan, dict(faces=faces))
        with pytest.raises(run.PlanError, match='give --data faces=PATH'):
            run.check_data(plan, {})

    @pytest.mark.slow
    def test_a_whole_small_experiment(self, tmp_path):
        stages = [dict(name='alone', about='a test', blocks=[['faces', 20, 0]], cells={
            'base': dict(options=['--aug=noaug']), 'zero-ggdr': dict(options=['--aug=noaug', '--reg_type=ggdr',
                                                                               '--ggdr_weight=0'])})]
        small = json.loads((ROOT / 'benchmarks/evidence/plans/small.json').read_text())
        path = tmp_path / 'tiny.json'
        path.write_text(json.dumps(small | dict(
            name='tiny', kimg=1, snapshots=2, window=1, stages=stages, base=['--cfg=tiny', '--mirror=1', '--batch=32'])))
        for command in (['run', '--workers=1', f'--workdir={tmp_path / "work"}'], ['page', f'--out={tmp_path / "page.md"}']):
            subprocess.run([sys.executable, '-m', 'benchmarks.evidence', command[0], f'--plan={path}',
                            f'--outdir={tmp_path}', *command[1:]], cwd=ROOT, check=True)
        found = read_results(tmp_path / 'tiny.jsonl')
        assert [r.status for r in found] == ['finished'] * 2
        assert found[0].curve == found[1].curve and found[0].curve
        assert 'give exactly the scores of the base' in (tmp_path / 'page.md').read_text()
