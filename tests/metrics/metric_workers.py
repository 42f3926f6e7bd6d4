"""What the processes of `test_metrics_main.py` run; spawned processes import it by name."""
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from metric_tools import TinyDetector

from metrics import metric_main, names
from metrics.features import FeatureOptions, feature_rows
from metrics.image_streams import DatasetImages
from metrics.names import Metric, MetricError
from metrics.sharding import in_order
from torch_utils import distributed
from torch_utils.ops import backend

SCORED = [
    Metric('fd20_tiny', 'fd', 'efflite0', 20, params={'ddof': 1}),
    Metric('kid20_tiny', 'kid', 'efflite0', 20),
    Metric('kidsub20_tiny', 'kid', 'efflite0', 20, params={'num_subsets': 3, 'max_subset_size': 10}),
    Metric('pr20_tiny', 'pr', 'efflite0', 20, params={'k': 2}),
    Metric('prdc20_tiny', 'prdc', 'efflite0', 20, params={'k': 2}),
    Metric('is20_tiny', 'is', 'efflite0', 20, params={'num_splits': 2}),
    Metric('ppl6_tiny', 'ppl', 'efflite0', 6, params={'space': 'w', 'sampling': 'end', 'crop': False}),
    Metric('ppl6full_tiny', 'ppl', 'efflite0', 6, params={'space': 'w', 'sampling': 'full', 'crop': False}),
]


def score_all(options):
    """{result name: value} of all of them."""
    return {name: value for metric in SCORED
            for name, value in metric_main.calc_metric(metric.name, **options).results.items()}


class Broken(TinyDetector):
    """Fails on the second process, at its first batch."""

    def forward(self, images, taps):
        if distributed.rank() == 1:
            raise MetricError('broken on purpose')
        return super().forward(images, taps)


def worker(rank, options, folder):
    """All scores; a failure on one process only; a score after it;
    features of an image set in small batches."""
    torch.set_num_threads(1)
    # As in the test: one pixel that rounds in another way moves a score by 1e-4.
    backend.set_default('reference')
    names.registry.update({metric.name: metric for metric in SCORED})
    found = {'scores': score_all({**options, 'batch_size': 4})}
    try:
        metric_main.calc_metric('fd20_tiny', **{**options, 'detector': Broken(), 'batch_size': 4})
    except MetricError as error:
        found['error'] = str(error)
    after = metric_main.calc_metric('fd20_tiny', **{**options, 'batch_size': 4})
    found.update(after=after.results['fd20_tiny'], num_gpus=after.num_gpus)
    images = DatasetImages(options['dataset_kwargs'], num_workers=0)
    rows = feature_rows(images, TinyDetector(), ['pool'], FeatureOptions(batch_size=5, cache=False))
    pieces = list(in_order(6, 2, lambda batches: (torch.zeros(len(batch)) for batch in batches)))
    found['pieces'] = len(pieces)
    if rank == 0:
        torch.save(rows['pool'], Path(folder) / 'features.pt')
    (Path(folder) / f'rank{rank}.json').write_text(json.dumps(found))


def stopped_worker(rank, options, folder):
    """Two metrics, of which the second process soon wants no more."""
    torch.set_num_threads(1)
    names.registry.update({metric.name: metric for metric in SCORED})
    done = []

    def wants_stop():
        done.append(1)
        return rank == 1 and len(done) > 4

    values, failures, _ = metric_main.evaluate(['fd20_tiny', 'pr20_tiny'], wants_stop=wants_stop,
                                               **{**options, 'batch_size': 4})
    (Path(folder) / f'rank{rank}.json').write_text(json.dumps([list(values), failures]))
