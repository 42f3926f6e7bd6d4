"""What happens between iterations now and then: status, pictures, snapshots, metrics, statistics,
and stopping.

A tick is `--tick` thousand images. The first one ends after the first iteration,
so that everything periodic is seen to work at once.
"""
import math
import os
import time
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib import commands, writing
from torch_utils import checkpoint, distributed, training_stats
from torch_utils.foreign import reference
from training.ada import follow_held_out
from training.config.schema import with_names_of_now
from training.data.stages import WithoutBad
from training.run import states
from training.run.health import Health, diversity, require_finite
from training.run.image_grid import append_row, grid_indices, grid_size, save_picture, to_grid
from training.run.keep import Keep, best_of
from training.run.logs import Logs
from training.run.scores import Scores, scored_set
from training.run.services import Services
from training.run.status import PhaseTimer, StatsWriter, progress_bar, resources, status_line
from training.setup import Run

MOST_IMAGES = 32, 32    # Columns and rows of the grids of reals and fakes.
MOST_IMAGES_ON_CPU = 16, 8      # There a thousand images take as long as a tick.
STRIP_IMAGES = 12       # In a row of `fakes_over_time.png`.
HELD_OUT_IMAGES = 512   # At most so many are looked at for the overfitting gap, of each kind.
FAKES, NETWORKS = 'fakes{:06d}.png', 'network-snapshot-{:06d}.safetensors'      # By thousands of images.
STATE_SEC = 600         # The state is saved at the end of a tick if it has not been for so long.


class Ticks:
    """The periodic part of one run, of this rank.

    Args:
        config: Of the run.
        run_dir: Where everything goes.
        device: Of this rank.
        wants_stop: Asked after every iteration on every rank; if it is true on any,
            all stop after a last tick.
        resumed: What `state_dict` said when the run was saved; None at its start.
        evaluate: Calculates metrics, `metrics.metric_main.evaluate`; None: there are none.
        higher_is_better: Is a metric? `metrics.names.higher_is_better`.
        overfitting_gap: Compares the critic's scores, `metrics.overfitting.overfitting_gap`; None: not
        measured.
        report: Writes a page about the run into its directory, `report.refresh`; None: there is none.
    """

    def __init__(self, config: dict, run_dir: str | os.PathLike, device: torch.device,
                 wants_stop: Callable[[], bool] = lambda: False, resumed: dict | None = None,
                 evaluate: Callable[..., Any] | None = None,
                 higher_is_better: Callable[[str], bool] = lambda metric: False,
                 overfitting_gap: Callable[..., dict[str, float]] | None = None,
                 report: Callable[[Path], None] | None = None):
        self.config = config
        self.run_dir = Path(run_dir)
        self.device = device
        self.wants_stop = wants_stop
        self._stop_flag = distributed.LateFlag()
        self.stopped = False
        self.timer = PhaseTimer(device)
        self.health = Health()
        self.services = Services()
        self.is_main = distributed.rank() == 0
        self._evaluate = evaluate
        self._higher_is_better = higher_is_better
        self._overfitting_gap = overfitting_gap
        self._report = report
        self._state = resumed
        self.tick = 0

    def begin(self, run: Run) -> None:
        """Opens the logs."""
        self._collector = training_stats.Collector(regex='.*')
        self._metrics: dict[str, float] = {}
        self._diversity = None
        # Where the tick began, and how long it took before `_tick_time`.
        self._tick_nimg, self._tick_sec = run.nimg, 0.0
        total_sec, unwritten = 0, []
        if self._state is not None:
            self._restore_statistics(self._state)
            self.tick, self._metrics = self._state['tick'], self._state['metrics']
            total_sec, unwritten = self._state['total_sec'], self._state.get('unwritten', [])
            self._tick_nimg = self._state.get('tick_nimg', run.nimg)  # Older states are of ends of ticks.
            self._tick_sec = self._state.get('tick_sec', 0.0)
        self._tick_time = self._save_time = time.time()
        self._start_time = self._tick_time - total_sec
        self._maintenance_sec = 0.0
        if self.is_main:
            self._stats = StatsWriter(self.run_dir, self.tick, unwritten)
            self._scores = Scores(self.run_dir, run.nimg)
            self._metrics.update(self._scores.metrics(run.nimg))
            if states.saved_states(self.run_dir)[:1] == [states.state_path(self.run_dir, run.nimg)]:
                self.services.run('removing old states', partial(       # A killed process may have left some.
                    states.prune, self.run_dir, Keep(**self.config['keep']), self._scores.scores))
            self._logs = Logs(self.config.get('log', ()), self.run_dir, with_names_of_now(self.config), run.nimg,
                              self.services)
            self._bar = progress_bar(run.total_nimg, run.nimg)

    def begin_stage(self, run: Run) -> None:
        """Saves the reals of the stage as a picture, and the fakes before the first."""
        if self.is_main:
            self._grid = Grid(run)
            stage = f'-stage{run.stage_idx}' if len(run.stages) > 1 else ''
            reals, fakes = self.run_dir / f'reals{stage}.png', self.run_dir / 'fakes_init.png'
            if not reals.exists() and self._grid.has_reals:
                self.services.run(reals.name, partial(self._save_reals, reals, run.nimg))
            if run.nimg == 0:
                self.services.run(fakes.name, partial(self._grid.save_fakes, run.G_ema, fakes, run.nimg))
        self._maintenance_sec = time.time() - self._tick_time

    def after_iteration(self, run: Run) -> None:
        """Ends a tick if it is time."""
        if self.is_main:
            # The last batch may exceed it.
            self._bar.update(min(run.nimg / 1000, self._bar.total) - self._bar.n)
        done = run.nimg >= run.stage.end_nimg
        if self._stop_flag.any(self.wants_stop()):
            self.stopped = True
        kimg = (run.nimg - self._tick_nimg) / 1000
        if done or self.tick == 0 or kimg >= self.config['tick']:
            self._end_tick(run, done or self.stopped)
        elif self.stopped:
            self._interrupt_tick(run)

    def stop(self, run: Run) -> None:
        """Saves what there is, as after a signal: the run cannot go on now. Between two iterations only."""
        self.stopped = True
        if run.nimg > self._tick_nimg:
            self._interrupt_tick(run)
        elif run.nimg > 0:
            self._save_state(run)

    def end(self, run: Run) -> None:
        """Closes the logs, when everything is written."""
        self.services.wait()
        if self.is_main:
            self._bar.close()
            self._logs.close()

    def _end_tick(self, run: Run, last: bool) -> None:
        now = time.time()
        image_due = self._image_due()
        self._print_status(self._report_values(run, now))
        if self.is_main and (last or image_due):
            self._save_fakes(run)
        snapshot_due = last or self.tick % self.config['snap'] == 0
        overdue = now - self._save_time > STATE_SEC or self.services.is_failing('saving the state')
        state_due = snapshot_due or distributed.any(self.is_main and overdue)
        if state_due:
            require_finite({**run.state_dict(), **run.local_state_dict()})
        if snapshot_due:
            path = self.save_networks(run)
        score_due = snapshot_due and not self.stopped and self._evaluate is not None and bool(self.config['metrics'])
        by_held_out = self.config.get('ada_signal') == 'heldout'
        if by_held_out or snapshot_due and not self.stopped:
            r_v = self._report_gap(run, by_held_out)
        if by_held_out:
            follow_held_out(run.game.augment.p, r_v, run.nimg - self._tick_nimg, self.config)
        self._end_statistics(run, {} if score_due else self._metrics)
        self.tick, self._tick_nimg, self._tick_time, self._tick_sec = self.tick + 1, run.nimg, time.time(), 0.0
        if state_due:
            self._save_state(run)
        if score_due:           # Last, since it may take long and be interrupted.
            self.score(run, path)
        if self.is_main and self._report is not None and (snapshot_due or image_due):
            self.services.run('report.html', partial(self._report, self.run_dir))
        if last:                # Before another stage starts its processes, or everything ends.
            self.services.wait()
        self._tick_time = time.time()
        self._maintenance_sec = self._tick_time - now

    def _interrupt_tick(self, run: Run) -> None:
        """Saves everything for a run that stops inside a tick, which ends when the run continues: no row is written now.
        Files are named by whole kimg: what the end of the last tick has left under such a name stays."""
        self._print_status(self._values(run, time.time()))
        names_a_tick = self._tick_nimg > 0 and self._tick_nimg // 1000 == run.nimg // 1000
        if self.is_main:
            if not (names_a_tick and self._path(FAKES, run).exists()):
                self._save_fakes(run)
            self._diversity = None
        require_finite({**run.state_dict(), **run.local_state_dict()})
        if not (names_a_tick and distributed.any(self.is_main and self._path(NETWORKS, run).exists())):
            self.save_networks(run)
        self._print_warnings(self.health.end_tick({}))
        self.timer.report()
        self._save_state(run)
        if self.is_main and self._report is not None:
            self.services.run('report.html', partial(self._report, self.run_dir))
        self.services.wait()

    def _print_status(self, values: dict[str, float]) -> None:
        if self.is_main:
            self._bar.clear()
            print(status_line(values), flush=True)

    def _print_warnings(self, warnings: Iterable[str]) -> None:
        for warning in list(warnings):          # On every rank: it may raise.
            if self.is_main:
                print(f'Warning: {warning}.', flush=True)

    def _report_values(self, run: Run, now: float) -> dict[str, float]:
        """The values of `_values`, which become statistics."""
        values = self._values(run, now)
        for name, value in values.items():
            training_stats.report0(name, value)
        for unit, seconds in (('hours', 3600), ('days', 86400)):
            training_stats.report0(f'Timing/total_{unit}', values['Timing/total_sec'] / seconds)
        return values

    def _values(self, run: Run, now: float) -> dict[str, float]:
        sec = now - self._tick_time + self._tick_sec
        total_sec = now - self._start_time
        p = getattr(run.game.augment, 'p', None)
        return {
            'Progress/tick': self.tick,
            'Progress/kimg': run.nimg / 1000,
            'Timing/total_sec': total_sec,
            'Timing/sec_per_tick': sec,
            'Timing/sec_per_kimg': sec / max(run.nimg - self._tick_nimg, 1) * 1000,
            'Timing/maintenance_sec': self._maintenance_sec,
            'Progress/augment': float(p) if p is not None else 0.0,
            **resources(self.device)}

    def _image_due(self) -> bool:
        """On schedule, and early: also at ticks 1, 2, 4, 8, ..."""
        return self.tick % self.config['snap'] == 0 or self.tick & (self.tick - 1) == 0

    def _save_reals(self, path: Path, nimg: int) -> None:
        self._logs.grid('Reals', self._grid.save_reals(path), (0, 255), self._grid.columns, nimg)

    def _path(self, name: str, run: Run) -> Path:
        return self.run_dir / name.format(run.nimg // 1000)

    def _save_fakes(self, run: Run) -> None:
        path = self._path(FAKES, run)

        def save():
            images = self._grid.save_fakes(run.G_ema, path, run.nimg)
            self._diversity = self._grid.diversity(images)
            self._logs.grid('Fakes', images, (-1, 1), self._grid.columns, run.nimg)

        self.services.run('the picture of fakes', save)

    def save_networks(self, run: Run) -> Path:
        """The networks for others to use; returns where they are."""
        networks = {**{player.name: player.module for player in run.game.main_players}, 'G_ema': run.G_ema}
        distributed.check_equal(networks)
        path = self._path(NETWORKS, run)
        data = checkpoint.without_place(self.config['training_set_kwargs'])

        def save():
            size = sum(states.num_bytes(module.state_dict()) for module in networks.values())
            states.require_space(self.run_dir, size, path.name)
            checkpoint.save_networks(
                path, {**networks, 'augment_pipe': run.game.augment}, nimg=run.nimg,
                training_set_kwargs=data, label_dim=self.config['data_shape']['c_dim'],
                **{name: value for r in run.game.having('describe') for name, value in r.describe().items()})
            if 'pkl' in self.config.get('snapshot_format', ()):
                with writing.atomic(path.with_suffix('.pkl'), 'any', sync=True) as file:
                    reference.write(file, networks, data, run.game.augment)

        if self.is_main:
            self.services.run('the network snapshot', save)
        return path

    def score(self, run: Run, path: Path) -> None:
        """Calculates the metrics of a snapshot whose state is on the disk; a signal breaks them off,
        and ends the run.

        Of several data centres those that are on line count: the others stay closed.
        """
        self.services.wait()
        metrics = self.config['metrics']
        values, failures, unrecorded = self._evaluate(
            metrics, run_dir=str(self.run_dir), snapshot_pkl=str(path), G=run.G_ema, device=self.device,
            batch_gen=run.batch_gpu, dataset_kwargs=scored_set(self.config),
            centres=dict(source.centre for source in run.stage.sources if source.centre) or None,
            wants_stop=self.wants_stop)
        self.stopped = distributed.any(self.wants_stop())
        self._metrics.update(values)
        if not self.is_main:
            return
        if self.stopped and failures:
            print(f'Stopped while metrics were calculated. {commands.call_of("calc_metrics")} --network={path} '
                  f'--metrics={",".join(metrics)} calculates them.', flush=True)
        else:
            for metric in metrics:
                reasons = [reason for name, reason in failures.items() if name.partition('@')[0] == metric]
                self.services.note(metric, reasons[0] if reasons else None)
        if values:
            self.services.note('recording metrics', next(iter(unrecorded.values()), None))
        score = math.nan if metrics[0] in failures else next(iter(values.values()), math.nan)
        self._note_score(run.nimg, metrics[0], score, values)

    def _note_score(self, nimg: int, metric: str, score: float, values: dict[str, float]) -> None:
        """Writes down the value of the first metric, which decides on the best state, and all others."""
        def save():
            self._scores.set(nimg, None if math.isnan(score) else self._sign(metric) * score, values)
            states.prune(self.run_dir, Keep(**self.config['keep']), self._scores.scores)

        self._logs.scalars({}, self._metrics, nimg)
        self.services.run('scores.json', save)
        best = best_of(self._scores.scores, self._scores.scores)
        if best is not None:
            value = self._sign(metric) * self._scores.scores[best]
            print(f'Best so far by {metric}: {value:.5g} at {best / 1000:.1f} kimg', flush=True)
        elif not math.isnan(score):
            print(f'Best so far by {metric}: none, while it is still on the way up from the untrained network.', flush=True)

    def _sign(self, metric: str) -> int:
        """The factor, 1 or -1, that makes a lower score the better one."""
        return -1 if self._higher_is_better(metric) else 1

    def _report_gap(self, run: Run, to_the_end: bool = False) -> float:
        """Reports how the first critic rates images that it does not learn from, if the run has any; returns r_v, the same
        on all ranks, NaN if there is none. A signal breaks it off, unless it is wanted `to_the_end`."""
        held_out = self.config.get('held_out')
        if self._overfitting_gap is None or held_out is None:
            return math.nan
        found = {}

        def compare():
            train = self.config['training_set_kwargs']
            rest = None if held_out == 'rest' else {**train, 'path': held_out, 'max_size': None}
            found.update(self._overfitting_gap(run.game.D.module, train, rest, run.G_ema,
                                               max_num=HELD_OUT_IMAGES,
                                               batch_size=run.batch_gpu, device=self.device,
                                               wants_stop=(lambda: False) if to_the_end else self.wants_stop))

        if self.is_main:
            self.services.run('the overfitting gap', compare)
        for name in ('train', 'held_out', 'generated', 'gap', 'gap_std_err', 'r_v'):
            training_stats.report0(f'Overfitting/{name}', found.get(name, []))
        return distributed.gather_objects(found.get('r_v', math.nan))[0]

    def _end_statistics(self, run: Run, metrics: dict[str, float]) -> None:
        """Statistics of the tick and the latest metrics, for all logs,
        and what they say about the run's health."""
        self.timer.report()
        self._collector.update()
        stats = self._collector.as_dict()
        p = getattr(run.game.augment, 'p', None)
        warnings = [*self.health.end_tick(stats), *self.health.warnings(
            stats, float(p) if p is not None else 0, self._diversity, run.game.adversarial.zero_decides,
            run.game.shares.watched if run.game.shares is not None else ())]
        self._diversity = None
        self._print_warnings(warnings)
        if self.is_main:
            self._stats.add(stats)
            self.services.run('stats.jsonl', self._stats.write)
            self._logs.scalars(stats, metrics, run.nimg)

    def _save_state(self, run: Run) -> None:
        """The whole state to go on from: a copy is made at once, and written while training goes on."""
        for regularizer in run.game.having('before_save'):
            regularizer.before_save(run.nimg)
        local_states = distributed.gather_objects(run.local_state_dict())
        state = dict(run=run.state_dict(), ranks=local_states, ticks=self.state_dict())
        meta = dict(nimg=run.nimg, finished=run.nimg >= run.total_nimg, config=with_names_of_now(self.config))
        if self.is_main:
            self._save_time = time.time()
            self.services.run('syncing stats.jsonl', self._stats.sync)
            self.services.run_beside('saving the state', partial(
                states.write_state, self.run_dir, states.copy_of(state), meta, Keep(**self.config['keep']),
                self._scores.scores))
            if self.tick == 1:      # Once it is on the disk, the run can be continued whenever it ends.
                self.services.wait()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to write the same statistics. To be called by all ranks alike."""
        unwritten, now = self._stats.unwritten if self.is_main else [], time.time()
        reported = distributed.gather_objects(training_stats.reported())  # Before the collector sums it up.
        return dict(tick=self.tick, tick_nimg=self._tick_nimg,
                    tick_sec=now - self._tick_time + self._tick_sec,
                    collector=self._collector.state_dict(), reported=reported, metrics=self._metrics,
                    total_sec=now - self._start_time, unwritten=unwritten,
                    num_rows=self.tick - len(unwritten))

    def _restore_statistics(self, state: dict[str, Any]) -> None:
        """Restores what was reported in the unfinished tick, as sums of each rank, so that later values are
        rounded in the same way. If the number of ranks has changed, or the state is an older one, the total
        over the former ranks is restored.
        """
        reported = state.get('reported', [])
        if len(reported) != distributed.world_size():
            self._collector.load_state_dict(state['collector'])
            return
        self._collector.load_state_dict({**state['collector'], 'unread': {}})
        training_stats.report_again(reported[distributed.rank()])


class Grid:
    """The same latents and labels again and again, so that pictures can be compared over time."""

    def __init__(self, run: Run):
        source = run.stage.sources[0]
        self.has_reals = source.dataset is not None         # Else they are elsewhere, and are not shown here.
        self._dataset, self._batch = WithoutBad(source.dataset), run.batch_gpu
        height, width = source.dataset.image_shape[1:] if self.has_reals else [run.config['data_shape']['img_resolution']] * 2
        self.columns, rows = grid_size(height, width, MOST_IMAGES_ON_CPU if run.device.type == 'cpu' else MOST_IMAGES)
        self._indices = grid_indices(source.dataset, self.columns, rows) if self.has_reals else []
        by_row = run.stage.grid_sources
        c = source.with_code(np.stack([source.dataset.get_label(i) for i in self._indices])) if by_row is None else \
            np.concatenate([by_row[row % len(by_row)].draw_labels(self.columns, run.randomness.numpy(row, 'grid'))[0]
                            for row in range(rows)])
        self._c = torch.from_numpy(c).to(run.device)
        self._z = torch.randn([len(c), run.G_ema.z_dim], device=run.device,
                              generator=run.randomness.generator(0, 'grid'))
        num_kinds = len(by_row or [source])         # The film strip shows each row's kind in turn.
        self._strip = [i % num_kinds * self.columns + i for i in range(min(self.columns, STRIP_IMAGES))]

    @cached_property
    def _reals(self) -> np.ndarray:
        """[N,C,H,W], 0..255."""
        return np.stack([self._dataset[i][0] for i in self._indices])

    def save_reals(self, path: Path) -> np.ndarray:
        """The grid of training images, [N,C,H,W] in 0..255, which are returned."""
        save_picture(to_grid(self._reals, (0, 255), self.columns), path)
        return self._reals

    @torch.no_grad()
    def save_fakes(self, G_ema: torch.nn.Module, path: Path, nimg: int) -> np.ndarray:
        """The grid of what G_ema makes of the latents, with constant noise;
        its first images join the film strip.

        Returns the images, [N,C,H,W] in -1..1.
        """
        images = torch.cat([G_ema(z, c, noise_mode='const').cpu()
                            for z, c in zip(self._z.split(self._batch), self._c.split(self._batch))]).numpy()
        save_picture(to_grid(images, (-1, 1), self.columns), path)
        row = to_grid(images[self._strip], (-1, 1), len(self._strip))
        row.thumbnail((STRIP_IMAGES * 128, 128))
        append_row(row, path.with_name('fakes_over_time.png'), nimg)
        return images

    def diversity(self, images: np.ndarray) -> float | None:
        """How much fakes [N,C,H,W] in -1..1 differ from each other, relative to the reals; None without reals."""
        return None if not self.has_reals else diversity(images, self._reals / np.float32(127.5))
