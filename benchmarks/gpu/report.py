"""What a part of gpu_check.py has found, and what all parts need."""
import contextlib
import json
import threading
import time
import traceback
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / 'datasets' / 'emoji-faces-noto-32.zip'


class Report:
    """Rows for people and data for programs, written after every entry: a part may be stopped at any moment."""

    def __init__(self, path, seconds, device, reduced, work):
        self.path, self.rows, self.data = Path(path), [], {}
        self.deadline = time.monotonic() + seconds - 3
        self.device = torch.device(device)
        self.reduced = reduced
        self._lock = threading.Lock()
        self.work = Path(work)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        if device == 'cpu':
            torch.set_num_threads(1)

    def row(self, name, mark, text=''):
        """Adds a row; a mark that is true or false stands for ok or FAIL."""
        mark = mark if isinstance(mark, str) else 'ok' if mark else 'FAIL'
        self.rows.append([name, mark, str(text).replace('\n', ' ')[:240]])
        print(*self.rows[-1], flush=True)
        with self._lock:
            partial = self.path.with_suffix('.partial')
            partial.write_text(json.dumps(dict(rows=self.rows, data=self.data), default=str))
            partial.replace(self.path)

    def left(self):
        """Seconds until the part is stopped."""
        return self.deadline - time.monotonic()

    def has_time(self, name, seconds=5):
        """Is there time for more? If not, a row says so."""
        if self.left() < seconds:
            self.row(name, 'skip', 'no time left')
        return self.left() >= seconds

    @contextlib.contextmanager
    def trying(self, name):
        """What raises within becomes a row."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.row(name, 'FAIL', f'{type(error).__name__}: {error}')

    def dtypes(self):
        """Those that the device computes in."""
        return [torch.float32, torch.bfloat16] + ([torch.float16] if self.device.type == 'cuda' else [])

    def sync(self):
        """Waits for the device."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)

    def seconds_of(self, function, least=0.15):
        """Median seconds of a call; calls are timed in groups that the host can run ahead in."""
        function()
        self.sync()
        begin = time.perf_counter()
        function()
        self.sync()
        group, times = max(1, int(0.02 / max(time.perf_counter() - begin, 1e-6))), []
        while sum(times) * group < least or len(times) < 3:
            begin = time.perf_counter()
            for _ in range(group):
                function()
            self.sync()
            times.append((time.perf_counter() - begin) / group)
        return sorted(times)[len(times) // 2]


def name_of(dtype):
    """float32 and the like."""
    return str(dtype).removeprefix('torch.')


def last_line(text):
    """The last line of what a program printed."""
    return (text.strip().splitlines() or [''])[-1][:200]
