"""TDGAN between sites as a job of NVFlare, in its simulator: a process for each centre, and the numbers of a local run."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from site_runs import newest_state
from tiny import assert_same_bits, make_dataset

from torch_utils.state_file import load_state

pytest.importorskip('nvflare', reason='the extra "nvflare" is not installed')

ROOT = Path(__file__).parents[2]
OPTIONS = ['--reg_type=tdgan', '--cfg=tiny', '--cbase=64', '--cmax=4', '--batch=8', '--device=cpu', '--metrics=none',
           '--log=none', '--workers=0', '--tick=0.08', '--snap=1', '--tdgan_schedule=0:0.08,0+1:0.08']
CLASSES = ['nvflare.collab.runtime.controller.CollabController', 'nvflare.collab.runtime.executor.CollabExecutor',
           'loss_zoo.nvflare_app.Generator', 'loss_zoo.nvflare_app.Centre']


def test_a_job_of_nvflare_ends_where_the_local_run_ends(tmp_path):
    data = [make_dataset(tmp_path / f'{name}.zip', num=num, seed=num) for name, num in (('north', 24), ('south', 12))]
    subprocess.run([sys.executable, 'train.py', f'--outdir={tmp_path / "local"}', *OPTIONS, f'--tdgan_data={",".join(data)}'],
                   cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    options = {'server': [f'--outdir={tmp_path / "remote"}', *OPTIONS, '--tdgan_centres=north,south', '--tdgan_res=16']}
    for name, path in zip(('north', 'south'), data):
        options[name] = [f'--data={path}', f'--private={tmp_path / name}', '--device=cpu']
    for name, args in options.items():
        (tmp_path / f'{name}.txt').write_text('\n'.join(args))
    (tmp_path / 'workspace/local').mkdir(parents=True)
    (tmp_path / 'workspace/local/resources.json').write_text(json.dumps(dict(format_version=2, class_allow_list=CLASSES)))
    done = subprocess.run(
        [sys.executable, '-m', 'nvflare.cli', 'simulator', ROOT / 'loss_zoo/nvflare_job', '-w', tmp_path / 'workspace',
         '-c', 'north,south', '-t', '2'], cwd=tmp_path, text=True, capture_output=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'TDGAN_OPTIONS': str(tmp_path / '{site}.txt')})
    assert done.returncode == 0 and 'The run is finished.' in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    local, remote = (load_state(newest_state(tmp_path / kind)[1])[0]['run'] for kind in ('local', 'remote'))
    for name in ('G_ema', 'frozen', 'nimg', 'batch_idx'):
        assert_same_bits({name: remote[name]}, {name: local[name]})
    assert_same_bits(remote['players']['G'], local['players']['G'])
    for name, critic in (('north', 'D'), ('south', 'D_1')):
        critics = load_state(newest_state(tmp_path / name)[1])[0]['critics']
        assert_same_bits(critics, {critic: local['players'][critic]})
