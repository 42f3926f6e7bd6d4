"""Runs a program of TDGAN between sites, and writes down when its main thread sent, waited and answered (benchmarks/sites.py).

    python benchmarks/sites_timed.py times.json train.py OPTIONS...

Times are those of the machine's monotonic clock, so that those of both ends can be held beside each other.
"""
import atexit
import functools
import json
import runpy
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def noted(function, spans):
    """The same function; when it began and ended in the main thread is added to a list."""
    @functools.wraps(function)
    def run(*args, **kwargs):
        begin = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            if threading.current_thread() is threading.main_thread():
                spans.append((begin, time.monotonic()))
    return run


def main() -> None:
    dest, program, *sys.argv[1:] = sys.argv[1:]
    sys.argv[0] = program
    sys.path.insert(0, str(ROOT))
    import losses_ext
    from torch_utils.wire.channel import Channel
    spans = dict(waiting=[], answering=[])
    Channel.send, Channel.receive = noted(Channel.send, spans['waiting']), noted(Channel.receive, spans['waiting'])
    seat = losses_ext.centre_program().Seat
    seat.answer = noted(seat.answer, spans['answering'])
    atexit.register(lambda: Path(dest).write_text(json.dumps(spans)))
    runpy.run_path(str(ROOT / program), run_name='__main__')


if __name__ == '__main__':
    main()
