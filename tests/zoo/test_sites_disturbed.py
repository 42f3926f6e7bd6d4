"""TDGAN between sites over a line that delays, cuts, duplicates and changes what it carries.

Without certificates, so that changed bytes arrive: TLS would end
the connection. SITES_DISTURBANCES=100 disturbs so often.
"""
import os
import random
import socket
import threading
import time
from contextlib import suppress

import pytest
from site_runs import NAMES, Sites, assert_equal_runs

from losses_ext.sites import hub

NUM_DISTURBANCES = int(os.environ.get('SITES_DISTURBANCES', '12'))
KINDS = ('cut', 'change', 'duplicate', 'leave out', 'delay')
PIECE = 2 ** 14


class Line:
    """Carries what comes at a port to another one, and disturbs it now and then."""

    def __init__(self, target, seed, between):
        self.target, self.rng, self.between = target, random.Random(seed), between
        self.done = dict.fromkeys(KINDS, 0)
        self.lock = threading.Lock()
        self.left = rng_bytes(self.rng, between)
        self.server = socket.create_server(('localhost', 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                here, _ = self.server.accept()
            except OSError:
                return
            try:
                there = socket.create_connection(('localhost', self.target))
            except OSError:
                here.close()
                continue
            for ends in ((here, there), (there, here)):
                threading.Thread(target=self.carry, args=ends, daemon=True).start()

    def carry(self, source, target):
        """One direction of a connection, until either end closes it."""
        with suppress(OSError, EOFError):
            while data := source.recv(PIECE):
                target.sendall(self.disturbed(data))
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def disturbed(self, data):
        """What goes on of a piece of data. Raises EOFError for a cut."""
        with self.lock:
            self.left -= len(data)
            if self.left > 0 or sum(self.done.values()) >= NUM_DISTURBANCES:
                return data
            self.left = rng_bytes(self.rng, self.between)
            kind, place = self.rng.choice(KINDS), self.rng.randrange(len(data))
            self.done[kind] += 1
        if kind == 'cut':
            raise EOFError
        if kind == 'delay':
            time.sleep(1)
        if kind == 'change':
            data = data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1:]
        if kind == 'leave out':
            data = data[:place] + data[place + 1:]
        return data + data[place:] if kind == 'duplicate' else data

    def close(self):
        self.server.close()


def rng_bytes(rng, mean):
    """How much crosses until the next disturbance."""
    return rng.expovariate(1 / mean)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize('recipe, between', [([], 4e5), (['--loss=osgan'], 1e5)], ids=['two-stage', 'one-stage'])
def test_a_run_over_a_disturbed_line_ends_where_an_undisturbed_one_ends(tmp_path, monkeypatch, recipe, between):
    monkeypatch.setattr(hub, 'ANSWER_SEC', 10)
    sites = Sites(tmp_path, secure=False, start=False)
    lines = [Line(sites.port, seed, between) for seed in range(len(NAMES))]
    try:
        for name, line in zip(NAMES, lines):
            sites.start(name, line.port)
        kimg = 0.012 * NUM_DISTURBANCES
        assert_equal_runs(sites, f'--tdgan_schedule=0:{kimg:g},0+1:{kimg:g}', *recipe)
        done = {kind: sum(line.done[kind] for line in lines) for kind in KINDS}
        print(f'Disturbed: {done}.')
        assert sum(done.values()) >= NUM_DISTURBANCES
    finally:
        sites.close()
        for line in lines:
            line.close()
