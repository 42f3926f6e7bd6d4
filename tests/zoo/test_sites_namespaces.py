"""TDGAN between five hosts: four centres and a generator's
site, each in a network namespace with an address of its own.

The centres are four vendors of emoji if their archives are beside the project, else made up. One
holds an image that is nowhere else; at the end it is looked for wherever it must not be.
"""
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from tiny import make_dataset

from torch_utils.wire import certificates

ROOT = Path(__file__).parents[2]
VENDORS = ('fluent', 'noto', 'openmoji', 'twemoji')
SET_UP = '''
set -eu
ip link set lo up
mount -t tmpfs none /run && mkdir -p /run/netns
for k in 0 1 2 3; do
    ip netns add c$k
    ip link add here$k type veth peer name there$k
    ip link set there$k netns c$k
    ip addr add 10.77.$k.1/24 dev here$k && ip link set here$k up
    ip netns exec c$k ip addr add 10.77.$k.2/24 dev there$k
    ip netns exec c$k ip link set there$k up
done
'''


def in_namespace(script):
    """Runs a script in namespaces of its own, of the network and of mounts."""
    return subprocess.run(['unshare', '-n', '-m', 'sh', '-c', script], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})


def archive_of(vendor, folder, seed):
    """A copy of a vendor's archive, or a made-up one of the same size."""
    path, given = folder / f'{vendor}.zip', ROOT.parent / f'shared/data/emoji-faces-{vendor}-32.zip'
    if given.exists():
        shutil.copyfile(given, path)
        path.chmod(0o600)
    else:
        make_dataset(path, num=48, res=32, seed=seed)
    return path


def planted(path):
    """An image of noise that joins an archive, [H,W,C]."""
    image = np.random.RandomState(77).randint(0, 256, [32, 32, 3]).astype(np.uint8)
    data = io.BytesIO()
    PIL.Image.fromarray(image).save(data, 'png')
    with zipfile.ZipFile(path, 'a') as archive:
        archive.writestr('planted.png', data.getvalue())
    return image


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_four_vendors_train_one_generator_from_four_hosts(tmp_path):
    if not all(map(shutil.which, ('unshare', 'ip', 'mount'))):
        pytest.skip('unshare, ip and mount are needed')
    probe = in_namespace(SET_UP)
    if probe.returncode:
        pytest.skip(f'namespaces cannot be made here: {probe.stderr.strip()[-200:]}')
    paths = [archive_of(vendor, tmp_path, seed) for seed, vendor in enumerate(VENDORS)]
    canary = planted(paths[1])
    certificates.make_authority(tmp_path / 'certs', 'generator', [f'10.77.{k}.1' for k in range(4)], VENDORS)
    centres = '\n'.join(
        f'ip netns exec c{k} {sys.executable} tdgan_centre.py --data={paths[k]} --private={tmp_path}/private-{name} '
        f'--connect=10.77.{k}.1:7300 --name={name} --tls={tmp_path}/certs/{name} --record-wire={tmp_path}/wire-{name} '
        f'--device=cpu > {tmp_path}/{name}.txt 2>&1 & pids="$pids $!"' for k, name in enumerate(VENDORS))
    generator = (f'{sys.executable} train.py --outdir={tmp_path}/generator --reg_type=tdgan --tdgan_mode=remote '
                 f'--tdgan_centres={",".join(VENDORS)} --tdgan_listen=0.0.0.0:7300 --tdgan_tls={tmp_path}/certs/generator '
                 '--tdgan_res=32 --cfg=tiny --cbase=64 --cmax=4 --batch=4 --device=cpu --metrics=none --log=none --workers=0 '
                 '--tdgan_schedule=0:0.04,1:0.04,2:0.04,0+1+2+3:0.04 --tick=0.04 --snap=1')
    done = in_namespace(f'{SET_UP}\npids=\n{centres}\n{generator}\nfor pid in $pids; do wait $pid; done')
    said = ''.join((tmp_path / f'{name}.txt').read_text() for name in VENDORS if (tmp_path / f'{name}.txt').exists())
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + said[-3000:]
    assert said.count('The run is finished.') == 4
    look_for(canary, tmp_path, paths[1])


def look_for(canary, folder, archive):
    """Fails if an image of a centre is in what has left it,
    or at the generator's site, by bytes or by likeness."""
    import tdgan_audit
    from torch_utils.wire import record
    chw = canary.transpose(2, 0, 1)
    forms = [form.tobytes()[:200] for form in (canary, chw, chw.astype(np.float32), chw.astype(np.float32) / 127.5 - 1)]
    files = [path for where in ('generator', *(f'wire-{name}' for name in VENDORS)) for path in (folder / where).rglob('*')
             if path.is_file()]
    assert len(files) > 50
    for path in files:
        data = path.read_bytes()
        assert not any(form in data for form in forms) and str(archive).encode() not in data, path
    found = tdgan_audit.nearest(list(record.read(folder / 'wire-noto')), chw[None].astype(np.float32))
    assert set(found) == {'grad'} and found['grad']['images'] > 10 and found['grad']['correlation'] < 0.5, json.dumps(found)
    for path in (folder / 'generator').rglob('*.png'):
        picture = np.asarray(PIL.Image.open(path).convert('RGB'), np.float32)
        for y in range(0, picture.shape[0] - 31, 32):
            for x in range(0, picture.shape[1] - 31, 32):
                part = picture[None, y:y + 32, x:x + 32].transpose(0, 3, 1, 2)
                assert np.abs(tdgan_audit.correlations(part, chw[None].astype(np.float32))).max() < 0.5, path
