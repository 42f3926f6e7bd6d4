"""A centre in a process of its own, for tests: site_worker.py PORT NAME DATA PRIVATE CERTIFICATES [RECORD].

The one that is called north shares moments of features of a tiny detector.
"""
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from metric_tools import TinyDetector

from losses_ext.sites import take_part
from losses_ext.sites.take_part import Centre, Participant, Refused
from metrics import images_elsewhere
from metrics.images_elsewhere import moments_for
from torch_utils.wire import certificates
from torch_utils.wire.grpc_channel import connect
from torch_utils.wire.record import recorded


def main(port, name, data, private, folder, record=None):
    """Takes part in one run after the other, until nobody listens any more."""
    torch.set_num_threads(1)
    images_elsewhere.load_detector = lambda metric, *how: TinyDetector(metric.detector)
    images_elsewhere.MIN_SHARED = 20
    take_part.RETRY_SEC = 0.1
    identity = certificates.load(folder) if folder else None
    dial = recorded(partial(connect, f'localhost:{port}', identity, timeout=60), record)
    share = moments_for if name == 'north' else None
    participant = Participant(Centre(name, data, Path(private), 'cpu', share=share))
    while True:
        try:
            if not participant.take_part(dial, 1000):
                return
        except Refused as error:
            print(error)
            time.sleep(1)


if __name__ == '__main__':
    main(*sys.argv[1:])
