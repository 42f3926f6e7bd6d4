"""Every program, given a file of another kind than it asks for: one sentence that says what the file is."""
import importlib
import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tiny import make_dataset

from dnnlib.kinds_of_file import what_is
from torch_utils.checkpoint import save_networks
from torch_utils.state_file import save_state
from training.networks import Generator

CHANNELS = dict(channel_base=64, channel_max=8)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """{kind: a path of it}"""
    folder = tmp_path_factory.mktemp('kinds')
    run = folder / 'run'
    run.mkdir()
    (run / 'training_options.json').write_text('{}')
    (run / 'report.html').write_text('<!doctype html><title>A run</title>')
    Image.new('RGB', (64, 64)).save(run / 'fakes000000.png')
    G = Generator(8, 0, 8, 16, 3, synthesis_kwargs=CHANNELS)
    save_networks(run / 'network-snapshot-000000.safetensors', dict(G_ema=G))
    save_state(run / 'training-state-000000.safetensors', dict(a=torch.zeros(3)))
    (folder / 'folder').mkdir()
    Image.new('RGB', (16, 16)).save(folder / 'folder' / 'a.png')
    np.savez(folder / 'w.npz', w=np.zeros([1, G.num_ws, 8], np.float32))
    torch.save(dict(a=torch.zeros(3)), folder / 'weights.pth')
    make_dataset(folder / 'p.zip', num=12)
    return {'a data set': folder / 'p.zip', 'a folder of pictures': folder / 'folder',
            'the directory of a run': run,
            'a network': run / 'network-snapshot-000000.safetensors',
            'the saved state of a run': run / 'training-state-000000.safetensors',
            'a web page': run / 'report.html', 'a picture': run / 'fakes000000.png',
            'arrays of NumPy': folder / 'w.npz',
            'a file of torch.save': folder / 'weights.pth'}


def test_files_are_told_by_what_they_hold(files, tmp_path):
    for kind, path in files.items():
        assert what_is(path) == kind
        if path.is_file():                                  # Whatever their name.
            shutil.copy(path, tmp_path / 'file')
            assert what_is(tmp_path / 'file') == kind
    (tmp_path / 'broken.zip').write_bytes(b'PK\x03\x04 and nothing')
    (tmp_path / 'numbers.csv').write_text('1,2')
    for path in (tmp_path / 'broken.zip', tmp_path / 'numbers.csv', tmp_path / 'nothing', tmp_path):
        assert what_is(path) is None


def answer(program, *args):
    result = CliRunner().invoke(importlib.import_module(program).main, [*map(str, args)])
    assert result.exit_code in (1, 2), (program, args, result.output, result.exception)
    return ' '.join(result.output.split())


NETWORK = [('generate', '--seeds=0', '--outdir=OUT'), ('projector', '--target=a.png', '--outdir=OUT'),
           ('export', '--outdir=OUT'), ('convert', '--out=OUT.safetensors'),
           ('directions', '--seeds=0', '--outdir=OUT'),
           ('calc_metrics', '--metrics=fd1k_lite', '--data=DATA')]
DATA = [('train', '--data', '--outdir=OUT', '--cfg=tiny', '-n'),
        ('dataset_tool', '--source', '--dest=OUT.zip'),
        ('train', '--held-out', '--data=DATA', '--outdir=OUT', '--cfg=tiny', '-n'),
        ('calc_metrics', '--data', '--metrics=fd1k_lite', '--network=NETWORK'),
        ('copied', '--data', '--network=NETWORK')]


def filled(args, files, tmp_path):
    places = {'OUT': tmp_path / 'out', 'DATA': files['a data set'], 'NETWORK': files['a network']}
    for name, path in places.items():
        args = [arg.replace(f'={name}', f'={path}') for arg in args]
    return args


@pytest.mark.parametrize(('program', 'args'), [(program, args) for program, *args in NETWORK],
                         ids=[program for program, *_ in NETWORK])
def test_what_is_no_network_is_called_by_its_name(files, tmp_path, program, args):
    for kind in ('a data set', 'a folder of pictures', 'the saved state of a run', 'a web page', 'a picture',
                 'arrays of NumPy'):
        said = answer(program, f'--network={files[kind]}', *filled(args, files, tmp_path))
        assert f'is {kind}, not a network' in said, said
        assert ('train.py --data=' in said) == (kind in ('a data set', 'a folder of pictures'))
        assert ('--resume=' in said) == (kind == 'the saved state of a run')


@pytest.mark.parametrize(('program', 'option', 'args'),
                         [(program, option, args) for program, option, *args in DATA],
                         ids=[f'{program}{option}' for program, option, *_ in DATA])
def test_what_is_no_data_set_is_called_by_its_name(files, tmp_path, program, option, args):
    for kind in ('the directory of a run', 'a network', 'the saved state of a run', 'a web page', 'a picture',
                 'arrays of NumPy', 'a file of torch.save'):
        said = answer(program, f'{option}={files[kind]}', *filled(args, files, tmp_path))
        assert f'is {kind}, not a data set' in said, said


def test_what_is_no_run_is_called_by_its_name(files, tmp_path):
    for kind in ('a data set', 'a folder of pictures', 'a network', 'a web page', 'a picture'):
        said = answer('report', files[kind], f'--out={tmp_path}/out.html')
        assert f'is {kind}, not the directory of a run' in said, said
        assert ('such as the one it lies in' in said) == (kind in ('a network', 'a web page', 'a picture'))
    assert not (tmp_path / 'out.html').exists()
    said = answer('train', f'--resume={files["a folder of pictures"]}', '-n')
    assert 'is a folder of pictures, not the directory of a run' in said and '--init-from' not in said
    (tmp_path / 'empty').mkdir()
    said = answer('train', f'--resume={tmp_path / "empty"}', '-n')
    assert 'is not the directory of a run' in said and '--init-from' not in said


def test_weights_that_cannot_be_read_are_named_in_our_own_words(files, tmp_path):
    from metrics.detectors import read_state_dict
    from metrics.names import MetricError
    (tmp_path / 'half.pth').write_bytes(files['a file of torch.save'].read_bytes()[:300])
    (tmp_path / 'text.pth').write_text(json.dumps({}))
    for path, what in ((files['a data set'], 'it is a data set'), (files['a web page'], 'it is a web page'),
                       (tmp_path / 'half.pth', 'it is damaged, or holds more than tensors'),
                       (tmp_path / 'text.pth', 'it is damaged, or holds more than tensors')):
        with pytest.raises(MetricError) as refused:
            read_state_dict(path)
        assert str(refused.value) == f'{path} cannot be read as a file of weights (.pth): {what}'
