"""Optional logs beside stats.jsonl, `train.py --log`: TensorBoard, Weights & Biases, MLflow, Trackio.

All get the statistics and metrics of every tick and a part of every grid.
A log that fails is a service that fails: it is named, and training goes on.
"""
import os
import re
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from dnnlib import writing
from dnnlib.reading import read_file
from training.run.image_grid import corner, to_grid
from training.run.services import Services

LOGGED_TILES = (8, 5)       # Columns and rows of a grid that are shown.
LOGGED_RES = 64             # Of a tile there, in pixels, at most.
WANDB_PROJECT = 'stylegan2-loss-zoo'        # Unless the environment variable of that name says otherwise.
MLFLOW_ID_FILE = 'mlflow-id'
MAX_ID = 1000               # Bytes.
WANDB_ID_FILE = 'wandb-id'                  # In the run directory: a continued run goes on there, too.


class TensorBoard:
    """Event files in the run directory, which `tensorboard --logdir=runs` shows; what was logged beyond
    `nimg` before is removed."""
    title = 'TensorBoard'

    def __init__(self, run_dir: Path, config: dict[str, Any], nimg: int):
        from torch.utils.tensorboard import SummaryWriter
        self._start = time.time()
        self._writer = SummaryWriter(os.fspath(run_dir), purge_step=nimg // 1000 + 1 if nimg else None)

    def scalars(self, values: dict[str, float], nimg: int) -> None:
        """{name: value} after `nimg` images."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, nimg // 1000, walltime=time.time() - self._start)
        self._writer.flush()

    def picture(self, name: str, picture: PIL.Image.Image, nimg: int) -> None:
        """A picture after `nimg` images."""
        self._writer.add_image(name, np.asarray(picture.convert('RGB')), nimg // 1000,
                               walltime=time.time() - self._start, dataformats='HWC')

    def close(self) -> None:
        """Writes what is not yet written."""
        self._writer.close()


class WeightsAndBiases:
    """A run on wandb.ai, of the name of the run directory;
    it is told the configuration and sent all that is logged."""
    title = 'Weights & Biases'

    def __init__(self, run_dir: Path, config: dict[str, Any], nimg: int):
        import wandb
        id_file = run_dir / WANDB_ID_FILE
        if not id_file.exists():
            writing.write_text(id_file, uuid.uuid4().hex, 'any')
        self._make_image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get('WANDB_PROJECT', WANDB_PROJECT), name=run_dir.name, dir=os.fspath(run_dir),
            id=read_file(id_file, MAX_ID).decode(), resume='allow', config=config,
            settings=wandb.Settings(console='off'))
        # Their own step cannot go back, a continued run can.
        self._run.define_metric('*', step_metric='kimg')

    def scalars(self, values: dict[str, float], nimg: int) -> None:
        """{name: value} after `nimg` images."""
        self._run.log({**values, 'kimg': nimg / 1000})

    def picture(self, name: str, picture: PIL.Image.Image, nimg: int) -> None:
        """A picture after `nimg` images."""
        self._run.log({name: self._make_image(picture), 'kimg': nimg / 1000})

    def close(self) -> None:
        """Waits until everything is sent."""
        self._run.finish()


class MLflow:
    """A run of MLflow, of the name of the run directory: on this machine, or where MLFLOW_TRACKING_URI says."""
    title = 'MLflow'

    def __init__(self, run_dir: Path, config: dict[str, Any], nimg: int):
        import mlflow
        self._make_metric, self._client = mlflow.entities.Metric, mlflow.MlflowClient()
        id_file = run_dir / MLFLOW_ID_FILE
        if not id_file.exists():
            name = os.environ.get('MLFLOW_EXPERIMENT_NAME', WANDB_PROJECT)
            known = self._client.get_experiment_by_name(name)
            experiment = known.experiment_id if known else self._client.create_experiment(name)
            run = self._client.create_run(experiment, run_name=run_dir.name).info.run_id
            self._client.log_dict(run, config, 'training_options.json')
            writing.write_text(id_file, run, 'any')
        self._run = read_file(id_file, MAX_ID).decode()
        self._client.update_run(self._run, status='RUNNING')

    def scalars(self, values: dict[str, float], nimg: int) -> None:
        """{name: value} after `nimg` images; the step is their thousands."""
        now = int(time.time() * 1000)
        metrics = [self._make_metric(re.sub(r'[^\w. /-]', '.', name), value, now, nimg // 1000)
                   for name, value in values.items()]
        self._client.log_batch(self._run, metrics)

    def picture(self, name: str, picture: PIL.Image.Image, nimg: int) -> None:
        """A picture after `nimg` images."""
        self._client.log_image(self._run, picture, artifact_file=f'{name}-{nimg // 1000:06d}.png')

    def close(self) -> None:
        """Says that the run is over, for now."""
        self._client.set_terminated(self._run)


class Trackio:
    """A run of Trackio, of the name of the run directory, kept on this machine unless TRACKIO_SPACE_ID names a Space."""
    title = 'Trackio'

    def __init__(self, run_dir: Path, config: dict[str, Any], nimg: int):
        import trackio
        self._make_image = trackio.Image
        self._run = trackio.init(
            project=os.environ.get('TRACKIO_PROJECT', WANDB_PROJECT), name=run_dir.name, config=config, resume='allow')

    def scalars(self, values: dict[str, float], nimg: int) -> None:
        """{name: value} after `nimg` images; the step is their thousands."""
        self._run.log({**values, 'kimg': nimg / 1000}, step=nimg // 1000)

    def picture(self, name: str, picture: PIL.Image.Image, nimg: int) -> None:
        """A picture after `nimg` images."""
        self._run.log({name: self._make_image(picture)}, step=nimg // 1000)

    def close(self) -> None:
        """Waits until everything is written."""
        self._run.finish()


# By the name of the option, the package, the extra.
LOGS = {'tensorboard': TensorBoard, 'wandb': WeightsAndBiases, 'mlflow': MLflow, 'trackio': Trackio}


class Logs:
    """The logs of a run, of its first process. Nothing here raises: failures are noted by the services.

    Args:
        names: Of LOGS.
        run_dir: Where files go.
        config: Of the run.
        nimg: Where the run goes on.
        services: Run everything.
    """

    def __init__(self, names: Sequence[str], run_dir: Path, config: dict[str, Any], nimg: int,
                 services: Services):
        self._services = services
        self._logs: list[Any] = []
        for name in names:
            log = LOGS[name]
            if not _is_utf8(run_dir):
                print(f'Note: {log.title} gets nothing: it takes no folder whose name is not UTF-8. stats.jsonl has it all.',
                      flush=True)
                continue
            services.run(f'opening {log.title}', partial(self._open, log, run_dir, config, nimg), tries=1)

    def _open(self, log, run_dir, config, nimg):
        self._logs.append(log(run_dir, config, nimg))

    def scalars(self, stats: dict[str, Any], metrics: dict[str, float], nimg: int) -> None:
        """Statistics {name: {num, mean, std}} and the latest metrics {name: value} after `nimg` images."""
        values = {**{name: value['mean'] for name, value in stats.items()},
                  **{f'Metrics/{name}': value for name, value in metrics.items()}}
        self._each('statistics for', lambda log: log.scalars(values, nimg))

    def grid(self, name: str, images: np.ndarray, value_range: tuple[float, float], columns: int,
             nimg: int) -> None:
        """The upper left corner of a grid of images [N,C,H,W], as `to_grid` takes it, after `nimg` images."""
        across = min(columns, LOGGED_TILES[0])

        def draw(log):
            picture = to_grid(corner(images, columns, LOGGED_TILES), value_range, across)
            picture.thumbnail((across * LOGGED_RES, picture.height))
            log.picture(name, picture, nimg)

        self._each('pictures for', draw)

    def close(self) -> None:
        """Ends all of them."""
        self._each('closing', lambda log: log.close())

    def _each(self, what: str, action: Callable[[Any], None]) -> None:
        for log in self._logs:
            self._services.run(f'{what} {log.title}', partial(action, log), tries=1)


def _is_utf8(path: Path) -> bool:
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True
