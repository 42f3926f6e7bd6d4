"""A centre in a process of its own, for tests: site_worker.py PORT NAME DATA PRIVATE CERTIFICATES [RECORD]."""
import sys
import time
from functools import partial
from pathlib import Path

import torch

from losses_ext.sites import take_part
from losses_ext.sites.take_part import Centre, Participant, Refused
from torch_utils.wire import certificates
from torch_utils.wire.grpc_channel import connect
from torch_utils.wire.record import recorded


def main(port, name, data, private, folder, record=None):
    """Takes part in one run after the other, until nobody listens any more."""
    torch.set_num_threads(1)
    take_part.RETRY_SEC = 0.1
    identity = certificates.load(folder) if folder else None
    dial = recorded(partial(connect, f'localhost:{port}', identity, timeout=60), record)
    participant = Participant(Centre(name, data, Path(private), 'cpu'))
    while True:
        try:
            if not participant.take_part(dial, 100):
                return
        except Refused as error:
            print(error)
            time.sleep(1)


if __name__ == '__main__':
    main(*sys.argv[1:])
