"""What happens between iterations now and then: status, pictures, snapshots, metrics, statistics, and stopping.

A tick is `kimg_per_tick` thousand images. The first one ends after the first iteration, so that everything periodic is
seen to work at once.
"""
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from torch_utils import checkpoint, distributed, training_stats
from torch_utils.state_file import save_state
from training.image_grid import append_row, grid_indices, grid_size, save_picture, to_grid
from training.setup import Run
from training.status import PhaseTimer, StatsWriter, progress_bar, resources, status_line

STATE_NAME = 'training-state-{:06d}.safetensors'
STRIP_IMAGES = 12       # In a row of `fakes_over_time.png`.


class Ticks:
    """The periodic part of one run, of this rank.

    `wants_stop()` is asked after every iteration on every rank; if it is true on any, all stop after a last tick.
    """

    def __init__(self, config: dict, run_dir: str | os.PathLike, device: torch.device,
                 wants_stop: Callable[[], bool] = lambda: False, resumed: bool = False):
        self.config = config
        self.run_dir = Path(run_dir)
        self.device = device
        self.wants_stop = wants_stop
        self.resumed = resumed
        self.stopped = False
        self.tick = 0
        self.timer = PhaseTimer(device)
        self.is_main = distributed.rank() == 0

    def begin(self, run: Run) -> None:
        """Opens the logs, draws the first pictures."""
        self._collector = training_stats.Collector(regex='.*')
        self._start_time = self._tick_time = time.time()
        self._tick_nimg = run.nimg
        self._maintenance_sec = 0.0
        self._metrics: dict[str, float] = {}
        if self.is_main:
            self._stats = StatsWriter(self.run_dir, append=self.resumed)
            self._bar = progress_bar(run.total_nimg, run.nimg)
        if self.resumed:
            self.tick = 1

    def begin_stage(self, run: Run) -> None:
        """Draws the reals of the stage, and the fakes before the first."""
        if self.is_main:
            self._grid = Grid(run)
            stage = f'-stage{run.stage_idx}' if len(run.stages) > 1 else ''
            if not (self.run_dir / f'reals{stage}.png').exists():
                self._grid.save_reals(self.run_dir / f'reals{stage}.png')
            if run.nimg == 0:
                self._grid.save_fakes(run.G_ema, self.run_dir / 'fakes_init.png')
        self._maintenance_sec = time.time() - self._tick_time

    def after_iteration(self, run: Run) -> None:
        """Ends a tick if it is time."""
        if self.is_main:
            self._bar.update(run.nimg / 1000 - self._bar.n)
        done = run.nimg >= run.stage.end_nimg
        if distributed.any(self.wants_stop()):
            self.stopped = True
        kimg = (run.nimg - self._tick_nimg) / 1000
        if done or self.stopped or self.tick == 0 or kimg >= self.config['kimg_per_tick']:
            self._end_tick(run, done or self.stopped)

    def end(self, run: Run) -> None:
        """Closes the logs."""
        if self.is_main:
            self._bar.close()
            self._stats.close()

    def _end_tick(self, run: Run, last: bool) -> None:
        now = time.time()
        status = status_line(self._values(run, now))
        if self.is_main:
            self._bar.clear()
            print(status, flush=True)
            if last or self._image_due():
                self._grid.save_fakes(run.G_ema, self.run_dir / f'fakes{run.nimg // 1000:06d}.png')
        if last or self.tick % self.config['network_snapshot_ticks'] == 0:
            self._snapshot(run)
        self._write_stats(run)
        self.tick += 1
        self._tick_nimg, self._tick_time = run.nimg, time.time()
        self._maintenance_sec = self._tick_time - now

    def _values(self, run: Run, now: float) -> dict[str, float]:
        sec = now - self._tick_time
        total_sec = now - self._start_time
        training_stats.report0('Timing/total_hours', total_sec / 3600)
        training_stats.report0('Timing/total_days', total_sec / 86400)
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
        return self.tick % self.config['image_snapshot_ticks'] == 0 or self.tick & (self.tick - 1) == 0

    def _snapshot(self, run: Run) -> None:
        """The networks for others to use, and the whole state to go on from."""
        networks = {player.name: player.module for player in run.game.players}
        distributed.check_equal({**networks, 'G_ema': run.G_ema})
        local_states = distributed.gather_objects(run.local_state_dict())
        if not self.is_main:
            return
        kimg = run.nimg // 1000
        checkpoint.save_networks(
            self.run_dir / f'network-snapshot-{kimg:06d}.safetensors',
            {**networks, 'G_ema': run.G_ema, 'augment_pipe': run.game.augment},
            training_set_kwargs=self.config['training_set_kwargs'], nimg=run.nimg,
            label_dim=self.config['data_shape']['c_dim'])
        state = dict(run=run.state_dict(), ranks=local_states)
        save_state(self.run_dir / STATE_NAME.format(kimg), state, nimg=run.nimg, finished=run.nimg >= run.total_nimg)

    def _write_stats(self, run: Run) -> None:
        self.timer.report()
        self._collector.update()
        if self.is_main:
            self._stats.write(self._collector.as_dict(), self._metrics, run.nimg)


class Grid:
    """The same latents and labels again and again, so that pictures can be compared over time."""

    def __init__(self, run: Run):
        source = run.stage.sources[0]
        self._dataset, self._device, self._batch = source.dataset, run.device, run.batch_gpu
        _, height, width = source.dataset.image_shape
        self.columns, rows = grid_size(height, width)
        self._indices = grid_indices(source.dataset, self.columns, rows)
        by_row = run.stage.grid_sources
        c = np.stack([source.dataset.get_label(i) for i in self._indices])
        c = source.with_code(c) if by_row is None else np.concatenate([
            by_row[row % len(by_row)].draw_labels(self.columns, run.randomness.numpy(row, 'grid'))[0] for row in range(rows)])
        self._c = torch.from_numpy(c).to(run.device)
        self._z = torch.randn([len(self._indices), run.G_ema.z_dim], device=run.device,
                              generator=run.randomness.generator(0, 'grid'))
        num_kinds = len(by_row or [source])         # The film strip shows each row's kind in turn.
        self._strip = [i % num_kinds * self.columns + i for i in range(min(self.columns, STRIP_IMAGES))]

    def save_reals(self, path: Path) -> None:
        """The grid of training images."""
        images = np.stack([self._dataset[i][0] for i in self._indices])
        save_picture(to_grid(images, (0, 255), self.columns), path)

    @torch.no_grad()
    def save_fakes(self, G_ema: torch.nn.Module, path: Path) -> None:
        """The grid of what G_ema makes of the latents, with constant noise; its first images join the film strip."""
        images = torch.cat([G_ema(z, c, noise_mode='const').cpu()
                            for z, c in zip(self._z.split(self._batch), self._c.split(self._batch))]).numpy()
        save_picture(to_grid(images, (-1, 1), self.columns), path)
        row = to_grid(images[self._strip], (-1, 1), len(self._strip))
        row.thumbnail((STRIP_IMAGES * 128, 128))
        append_row(row, path.with_name('fakes_over_time.png'))
