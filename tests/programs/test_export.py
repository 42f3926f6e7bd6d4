"""export.py: exported programs make the network's pictures,
for any batch, and need nothing of this project."""
import subprocess
import sys

import numpy as np
import pytest
import torch
from network_files import make_generator, run, write_networks

import export
from torch_utils import checkpoint
from training.r3gan import R3Generator


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp('networks'))


def run_elsewhere(tmp_path, code):
    """Runs Python code in another folder, where this project cannot be imported."""
    subprocess.run([sys.executable, '-c', f'import sys; sys.path = [p for p in sys.path if p]\n{code}'], cwd=tmp_path,
                   check=True, timeout=900)


PT2 = '''
import numpy as np, torch
program = torch.export.load('generator.pt2').module()
np.save('out.npy', program(**{k: torch.from_numpy(v) for k, v in np.load('in.npz').items()}).detach().numpy())
'''
ONNX = '''
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession('generator.onnx')
np.save('out.npy', session.run(['img'], dict(np.load('in.npz').items()))[0])
'''
NEEDS_ONNX = [name for name in ('onnx', 'onnxscript', 'onnxruntime') if not export.has_module(name)]
if torch.torch_version.TorchVersion(torch.__version__) < '2.8':
    NEEDS_ONNX += ['torch 2.8']


@pytest.mark.parametrize('export_format, code, network, options', [
    ('pt2', PT2, 'grey.safetensors', ['--trunc=0.5']),
    pytest.param('pt2', PT2, 'run', ['--input=w'], marks=pytest.mark.slow),
    pytest.param('onnx', ONNX, 'grey.safetensors', ['--trunc=0.5'],
                 marks=pytest.mark.skipif(bool(NEEDS_ONNX), reason=f'not installed: {NEEDS_ONNX}')),
], ids=['pt2', 'pt2-w', 'onnx'])
def test_the_program_makes_the_pictures_of_the_network(folder, tmp_path, export_format, code, network, options):
    status, output = run(export.main, '--network', folder / network, f'--format={export_format}', *options,
                         '--outdir', tmp_path)
    assert status == 0 and 'differs from the network by' in output, output
    assert [p.name for p in tmp_path.iterdir()] == [f'generator.{export_format}']
    G = make_generator(3, 1) if network == 'grey.safetensors' else make_generator(seed=100)
    values = {'latents': torch.randn([5, 6, 8] if '--input=w' in options else [5, 8])}
    if G.c_dim:
        values['c'] = torch.eye(3)[[0, 1, 2, 1, 1]]
    np.savez(tmp_path / 'in.npz', **values)
    run_elsewhere(tmp_path, code)
    if '--input=w' in options:
        expected = G.synthesis(values['latents'], noise_mode='const')
    else:
        expected = G(values['latents'], values.get('c'), truncation_psi=0.5 if options else 1, noise_mode='const')
    assert np.abs(np.load(tmp_path / 'out.npy') - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize('export_format', ['pt2', pytest.param('onnx', marks=pytest.mark.skipif(
    bool(NEEDS_ONNX), reason=f'not installed: {NEEDS_ONNX}'))])
def test_networks_without_styles_are_exported_too(tmp_path, export_format):
    """R3GAN's, with labels. It is compared with the network before it is kept."""
    channels = dict(channel_base=128, channel_max=16)
    G = R3Generator(z_dim=8, c_dim=3, img_resolution=16, img_channels=3, synthesis_kwargs=channels, blocks_per_stage=1)
    for parameter in G.parameters():                # Its blocks begin as the identity.
        torch.nn.init.normal_(parameter, std=0.2)
    checkpoint.save_networks(tmp_path / 'r3.safetensors', dict(G_ema=G), training_set_kwargs=None)
    status, output = run(export.main, '--network', tmp_path / 'r3.safetensors', f'--format={export_format}', '--trunc=0.5',
                         '--outdir', tmp_path / 'out')
    assert status == 0 and f'generator.{export_format} (differs from the network by' in output, output


def test_a_program_that_differs_is_not_kept(folder, tmp_path, monkeypatch):
    saved = []

    def save(program, path):
        path.touch()
        saved.append(program)

    monkeypatch.setattr(export, 'save_pt2', save)
    monkeypatch.setattr(export, 'load_pt2', lambda path: lambda **values: saved[0](**values) + 2e-4)
    status, output = run(export.main, '--network', folder / 'run', '--outdir', tmp_path)
    assert status == 1 and 'differs from the network by 0.0002' in output and list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export, 'has_module', lambda name: name != 'onnxscript')
    status, output = run(export.main, '--network', folder / 'run', '--format=onnx', '--outdir', tmp_path)
    assert status == 2 and 'needs the extra "onnx" (pip install onnxscript)' in ' '.join(output.split())


def test_a_torch_that_cannot_write_onnx_is_named(folder, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.onnx.OnnxExporterError('Failed to decompose the graph')
    monkeypatch.setattr(export, 'require_onnx', lambda: None)
    monkeypatch.setattr(export, 'exported_program', fail)
    status, output = run(export.main, '--network', folder / 'run', '--format=onnx', '--outdir', tmp_path)
    assert status == 1 and f'torch {torch.__version__} cannot write this network' in ' '.join(output.split())
    assert list(tmp_path.iterdir()) == []


def test_truncation_of_w_is_refused(folder, tmp_path):
    status, output = run(export.main, '--network', folder / 'run', '--input=w', '--trunc=0.5', '--outdir', tmp_path)
    assert status == 2 and '--trunc has no effect with --input=w' in output
