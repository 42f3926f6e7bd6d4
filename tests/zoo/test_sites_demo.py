"""The demo of TDGAN between sites, stopped by Ctrl-C and started again."""
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
STOPPED = 75


def states_in(folder):
    """Numbers of images of the states below a folder."""
    return {path.name for path in folder.rglob('training-state-*.safetensors')}


@pytest.mark.slow
def test_ctrl_c_saves_both_sides_of_the_demo_and_ends_all_and_the_same_command_goes_on(tmp_path):
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
    command = [sys.executable, 'benchmarks/sites_demo.py', f'--outdir={tmp_path}', '--kimg=0.2',
               f'--port={port}']
    with open(tmp_path / 'said.txt', 'w') as said:
        demo = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)
    try:
        while demo.poll() is None and not states_in(tmp_path / 'generator'):
            time.sleep(0.2)
        processes = psutil.Process(demo.pid).children(recursive=True)
        os.killpg(demo.pid, signal.SIGINT)              # As a terminal does.
        assert demo.wait(120) == STOPPED
    finally:
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
    text = (tmp_path / 'said.txt').read_text()
    assert text.rstrip().endswith('The same command goes on.') and 'Traceback' not in text
    assert len(processes) >= 3 and not any(process.is_running() for process in processes)
    newest = max(states_in(tmp_path / 'generator'))
    assert newest in states_in(tmp_path / 'north')
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f'Continuing at {int(newest[15:24]) / 1000:.1f} kimg' in ended.stdout
    assert (tmp_path / 'centres.png').exists()
