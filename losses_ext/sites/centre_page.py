"""What a centre shows of itself: its images, its critic, how far it is. All of it stays in its private directory."""
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dnnlib import writing
from losses_ext.sites.agreement import Kind
from losses_ext.sites.seat import Seat
from torch_utils import training_stats
from torch_utils.wire.message import Message
from training.run.image_grid import grid_indices, grid_size, save_picture, to_grid
from training.run.status import progress_bar

STATUS_SEC = 10.0
COLUMNS = 16
OPTIONS_FILE = 'training_options.json'


class Page:
    """The status line, the progress bar, `reals.png`, the last fakes that came, `stats.jsonl`, and a page of all that, which
    `refresh` (of report.py) writes."""

    def __init__(self, centre: Any, refresh: Callable[[Path], None] = lambda folder: None):
        self._folder, self._refresh = Path(centre.private), refresh
        self._name = centre.name
        self._said = 0.0
        self._bar = None
        self._num_steps = 0

    def begin_stage(self, seat: Seat) -> None:
        """A picture of the reals, once."""
        import numpy as np
        self._bar = self._bar or progress_bar(seat.run.total_nimg, seat.run.nimg)
        print(f'On line in stage {seat.place.stage}, at {seat.run.nimg / 1000:.1f} kimg.', flush=True)
        path = self._folder / 'reals.png'
        dataset = seat.run.stage.sources[seat.source].dataset
        if not path.exists():
            columns, rows = grid_size(*dataset.image_shape[1:], (16, 8))
            images = np.stack([dataset[i][0] for i in grid_indices(dataset, columns, rows)])
            save_picture(to_grid(images, (0, 255), columns), path)
        if self._num_steps == 0:
            self._collector = training_stats.Collector('.*')

    def after(self, seat: Seat, request: Message) -> None:
        """Says now and then where the run is; keeps statistics with every saved state."""
        self._num_steps += 1
        if self._bar is not None:
            self._bar.update(max(min(seat.run.nimg / 1000, self._bar.total) - self._bar.n, 0))
        if request.header.kind == Kind.SAVE:
            self._write(seat)
            self._show(seat)
        if time.monotonic() - self._said > STATUS_SEC:
            self._said = time.monotonic()
            if self._bar is not None:
                self._bar.clear()
            print(f'kimg {seat.run.nimg / 1000:<8.1f} iteration {seat.place.batch_idx:<8d} '
                  f'requests {self._num_steps}', flush=True)

    def _show(self, seat: Seat) -> None:
        """The page; training is worth more than it."""
        try:
            writing.write_text(self._folder / OPTIONS_FILE, json.dumps(seat.config, default=str), 'any')
            if seat.mailbox.img is not None:
                images = seat.mailbox.img.detach().float().cpu().numpy()
                path = self._folder / f'fakes{seat.place.nimg // 1000:06d}.png'
                save_picture(to_grid(images, (-1, 1), min(len(images), COLUMNS)), path)
            self._refresh(self._folder)
        except Exception as error:          # noqa: BLE001 (Whatever is wrong with a picture or page.)
            print(f'Warning: the page in {self._folder} could not be written: {error}.', file=sys.stderr, flush=True)

    def _write(self, seat: Seat) -> None:
        training_stats.report0('Progress/tick', seat.place.batch_idx)
        training_stats.report0('Progress/kimg', seat.place.nimg / 1000)
        self._collector.update()
        row = json.dumps({**self._collector.as_dict(), 'timestamp': time.time()})
        with writing.append(self._folder / 'stats.jsonl') as file:
            file.write(row.encode() + b'\n')
