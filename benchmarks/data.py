"""Times the data pipeline: images per second that reach the training loop, on its own.

    python benchmarks/data.py
    python benchmarks/data.py --data=photos.zip --batch=32 --workers=3

One epoch at least, after the first batch. The loop never waits if this is more than its own images per
second.
"""
import json
import sys
import time
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


@click.command()
@click.option('--data', default=str(ROOT / 'datasets' / 'emoji-faces-noto-32.zip'), show_default=True,
              help='Folder or zip of images.')
@click.option('--batch', type=click.IntRange(min=1), default=16, show_default=True, help='Images in a batch.')
@click.option('--workers', 'all_workers', type=click.IntRange(min=0), multiple=True, default=(0, 1),
              show_default=True, help='Processes that load; once for each figure.')
@click.option('--json', 'json_path', help='Also write the figures here.')
def main(data, batch, all_workers, json_path):
    """Time the loading of images."""
    import torch

    from training.data.stages import RealStream
    from training.dataset import ImageFolderDataset
    torch.set_num_threads(1)
    dataset = ImageFolderDataset(data, xflip=True)
    rates = {}
    for workers in all_workers:
        stream = RealStream(dataset, batch, 0, 1, 0, dict(num_workers=workers), torch.device('cpu'))
        stream.next_batch()
        num_batches = -(-len(dataset) // batch)
        begin = time.perf_counter()
        for _ in range(num_batches):
            stream.next_batch()
        rates[workers] = num_batches * batch / (time.perf_counter() - begin)
        print(f'{dataset.resolution} px, batch {batch}, {workers} workers: {rates[workers]:.0f} img/s')
    if json_path:
        Path(json_path).write_text(json.dumps(rates))


if __name__ == '__main__':
    main()
