"""What share of a generator's images lies closer to a training image than images that it never saw do?

    memorised = share of fakes with d(fake) < q,    q = 1 % quantile of d(held out)

d: distance to the nearest training image in the features of the offline detector.
About 1 % is what a generator that copies nothing would get. Where held-out images have near copies among the
training images (one drawing in several skin tones), q is small and the share says less.

    python -m benchmarks.evidence.memorised RUN_DIR OUT.json DEVICE
"""
import json
import sys
from pathlib import Path

import torch

from metrics.features import feature_rows
from metrics.image_streams import DatasetImages
from metrics.metric_main import Evaluation, MetricOptions
from metrics.names import Metric
from metrics.neighbours import nearest
from metrics.overfitting import held_out_items
from torch_utils.network_file import load_network
from training.config.run_dirs import saved_options

QUANTILE = 0.01
NUM_FAKES = 1000
DETECTOR = 'efflite0_64px'


def memorised(run_dir: Path, num_fakes: int = NUM_FAKES, device: str = 'cpu') -> dict[str, float]:
    """The share for the last snapshot of a run, the quantile, and the number of held-out images."""
    networks = load_network(str(run_dir))
    kwargs = dict(saved_options(run_dir)['training_set_kwargs'])
    options = MetricOptions(G=networks['G_ema'], dataset_kwargs=kwargs, num_workers=0, device=torch.device(device))
    work = Evaluation(Metric('memorised', 'kid', DETECTOR, num_fakes), options)
    tap = work.detector.main_tap

    def rows(images):
        return feature_rows(images, work.detector, [tap], work.features)[tap]

    train, whole = (rows(DatasetImages(kwargs, whole=whole, num_workers=0)) for whole in (False, True))
    held_out = whole[held_out_items(kwargs)[1]]
    return share_below_quantile(*(nearest(probes, train, 1)[0][:, 0]
                                  for probes in (rows(work.fake), held_out)))


def share_below_quantile(fakes: torch.Tensor, held_out: torch.Tensor,
                         quantile: float = QUANTILE) -> dict[str, float]:
    """From the distances [N] of fakes and [M] of held-out images to their nearest training image."""
    limit = torch.quantile(held_out, quantile)
    return dict(share=float((fakes < limit).double().mean()), limit=float(limit), num_held_out=len(held_out))


if __name__ == '__main__':
    Path(sys.argv[2]).write_text(json.dumps(memorised(Path(sys.argv[1]), device=sys.argv[3])), encoding='utf-8')
