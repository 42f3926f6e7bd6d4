"""Says whether a trained generator copies its training pictures, and shows the worst pairs.

    python copied.py runs/00000-cats

Of a run the answer is kept beside its network, for its page and its model card (`training/run/copies.py`).
"""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

import json
import os
import time
from dataclasses import asdict
from typing import Any

import click

import calc_metrics
import report
from dnnlib import output, writing
from dnnlib.computing import device_option
from dnnlib.numbers import SEED, WORKERS, Whole
from dnnlib.program import Maker
from metrics.names import MetricError
from training.run import copies


@click.command(cls=Maker, epilog='Example: python copied.py runs/00000-cats')
@click.argument('run_dir', metavar='[RUN_DIR]', required=False)
@click.option('--network', metavar='FILE|URL|DIR', help='Network file, its URL, or a run directory.')
@click.option('--images', metavar='PATH', help='A folder or zip of generated images instead of a network.')
@click.option('--data', metavar='PATH', help='The training images [default: what the run was trained on]')
@click.option('--held-out', metavar='PATH',
              help='Images like them that were not trained on [default: what --subset of the run '
              'left out, else each training image is compared with the others]')
@click.option('--num', type=Whole('[100, 1000000]'), default=1000, show_default=True,
              help='Images to generate.')
@click.option('--out', metavar='FILE', help='A picture of the nearest pairs: .png or .jpg.')
@device_option
@click.option('--workers', type=Whole(WORKERS), default=3, show_default=True,
              help='Processes that decode images.')
@click.option('--seed', type=Whole(SEED), default=0, show_default=True, help='Of the generated images.')
def main(run_dir: str | None, network: str | None, images: str | None, data: str | None, held_out: str | None, num: int,
         out: str | None, device: str, workers: int, seed: int) -> None:
    """Say whether a generator copies its training pictures.

    Compares the distance of generated pictures to the nearest training picture with that of pictures the
    generator never saw. Prints a sentence and, as JSON, its numbers. Of a run, named by its directory or as
    --network, they are kept there with the worst pairs, and shown in its report.html.
    """
    if run_dir is not None and network is not None:
        raise click.UsageError(f'{run_dir} and --network={network} both name a network; give one')
    network = network if run_dir is None else run_dir
    if out:
        calc_metrics.check_picture(out, '--out')
    options = dict(network=network, images=images, data=data, device=device, workers=workers, seed=seed)
    arguments = [f'--{key}={value}' for key, value in options.items() if value is not None]
    job = calc_metrics.resolve(calc_metrics.main.make_context('copied.py', ['--metrics=none', *arguments]).params)
    held_out_kwargs = calc_metrics.image_set(held_out, '--held-out') if held_out else None
    try:
        look(job, held_out_kwargs, num, out)
    except MetricError as error:
        raise click.ClickException(str(error)) from error


def look(job: calc_metrics.Job, held_out_kwargs: dict | None, num: int, out: str | None) -> None:
    """Does the work, and says what was found. Raises MetricError."""
    from metrics.copied_share import find_copies
    from metrics.metric_main import MetricOptions
    from metrics.nearest import failure_to_write, sheet_of
    verdict, pairs = find_copies(MetricOptions(**target_of(job), **job.options), held_out_kwargs, num)
    click.echo(str(verdict))
    click.echo(json.dumps(asdict(verdict)))
    if job.snapshots:
        record(verdict, pairs, job.snapshots[-1])
    if out:
        failure = failure_to_write(out, sheet_of(pairs.fakes, [image[None] for image in pairs.train]))
        if failure:
            raise click.ClickException(f'--out: {out} cannot be written: {failure}')
        click.echo(f'{out}: generated pictures, and beside each the training picture nearest to it; the nearest pair first.')


def record(verdict: Any, pairs: Any, snapshot: str) -> None:
    """Keeps the answer and the worst pairs in the directory of the network's run, if any, and on its page."""
    run_dir = calc_metrics.run_dir_of(snapshot)
    if run_dir is None:
        return
    name = os.path.basename(snapshot)
    row = json.dumps({**asdict(verdict), 'snapshot_pkl': name, 'timestamp': time.time()})
    try:
        writing.write_picture(copies.pairs_of(run_dir, name), rows_of_pairs(pairs))
        with writing.append(os.path.join(run_dir, copies.RECORD)) as file:
            file.write(f'{row}\n'.encode())
        report.refresh(run_dir)
    except (OSError, report.NotARun) as error:
        reason = getattr(error, 'strerror', None) or error
        raise click.ClickException(f'all is printed, but not recorded in {run_dir} ({reason})') from error
    click.echo(f'{os.path.join(run_dir, report.PAGE)} shows it, with the worst pairs.')


def rows_of_pairs(pairs: Any) -> Any:
    """A picture of two rows: those of the generator, below each the training picture nearest to it."""
    import numpy as np
    from PIL import Image
    rows = [images.cpu().permute(2, 0, 3, 1).flatten(1, 2) for images in (pairs.fakes, pairs.train)]    # [H, N * W, C]
    return Image.fromarray(np.concatenate([row.numpy() for row in rows]))


def target_of(job: calc_metrics.Job) -> dict:
    """Generator and training set, as options of a metric."""
    from torch_utils.distributed import pick_device
    device = pick_device(job.device)
    calc_metrics.choose_ops(job, device.type)
    if not job.snapshots:
        return dict(device=device, dataset_kwargs=job.dataset_kwargs)
    path = job.snapshots[-1]
    networks = calc_metrics.load_networks(path, ['G_ema'])
    G = networks['G_ema']
    if job.dataset_kwargs is None and networks.get('centres'):
        raise click.UsageError(f'{os.path.basename(path)} was trained on several data centres; give --data, one of them')
    return dict(G=G, device=device,
                dataset_kwargs=calc_metrics.dataset_of_network(job, G, networks['training_set_kwargs'], path))


if __name__ == '__main__':
    output.prepare()
    main()
