"""directions.py: directions are the strongest changes of the styles, and the strips show them."""
import numpy as np
import pytest
import torch
from network_files import assert_picture, expected_picture, make_generator, run, write_networks
from PIL import Image

import directions


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp('networks'))


def styles(G, w, layers):
    """What these layers make of w [w_dim], taken from a run of the network."""
    heard = []
    modules = [G.synthesis.b4.conv1, G.synthesis.b8.conv0, G.synthesis.b8.conv1, G.synthesis.b16.conv0,
               G.synthesis.b16.conv1, G.synthesis.b16.torgb]
    hooks = [modules[i].affine.register_forward_hook(lambda *args: heard.append(args[2])) for i in layers]
    G.synthesis(w.expand(1, G.num_ws, -1), noise_mode='const')
    for hook in hooks:
        hook.remove()
    return torch.cat(heard, dim=1)[0]


@pytest.mark.parametrize('layers', [[0], [1, 4], [0, 1, 2, 3, 4, 5]])
def test_a_unit_step_changes_the_styles_by_the_root_of_the_eigenvalue(layers):
    G = make_generator()
    found, eigenvalues = directions.factorize(directions.style_weights(G, layers))
    torch.testing.assert_close(found @ found.T, torch.eye(8), atol=1e-5, rtol=0)
    w = torch.randn(8)
    for n, eigenvalue in zip(found, eigenvalues):
        change = styles(G, w + n, layers) - styles(G, w, layers)
        torch.testing.assert_close(change.square().sum(), eigenvalue, atol=1e-4, rtol=1e-4)
    assert torch.equal(eigenvalues, eigenvalues.sort(descending=True)[0])


def test_a_known_matrix_is_factorized():
    """Diagonal scales in a rotated basis come back, with
    the sign that makes the largest component positive."""
    basis = torch.tensor([[-0.8, 0.6], [0.6, 0.8]])
    found, eigenvalues = directions.factorize(torch.diag(torch.tensor([3.0, 5.0])) @ basis)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.8, -0.6]]))
    torch.testing.assert_close(eigenvalues, torch.tensor([25.0, 9.0]))


def test_strips_are_the_pictures_along_the_way(folder, tmp_path):
    status, _ = run(directions.main, '--network', folder / 'run', '--seeds=3,5', '--layers=2,3', '--count=2',
                    '--steps=3', '--strength=1.5', '--trunc=0.5', '--outdir', tmp_path)
    assert status == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ['direction00.png', 'direction01.png', 'directions.npz']
    G = make_generator(seed=100)
    saved = np.load(tmp_path / 'directions.npz')
    assert saved['layers'].tolist() == [2, 3] and saved['directions'].shape == (2, 8)
    z = torch.from_numpy(np.concatenate([np.random.RandomState(seed).randn(1, 8) for seed in range(1000)])).float()
    spread = (G.mapping(z, None)[:, 0].numpy() @ saved['directions'].T).std(axis=0, ddof=1)
    np.testing.assert_allclose(saved['spread'], spread, rtol=1e-3)
    strip = np.asarray(Image.open(tmp_path / 'direction01.png'))
    assert strip.shape == (32, 48, 3)
    Image.fromarray(strip[16:, 16:32]).save(tmp_path / 'middle.png')
    assert_picture(tmp_path / 'middle.png', expected_picture(G, 5, psi=0.5), 1)
    w = G.mapping(torch.from_numpy(np.random.RandomState(3).randn(1, 8)), None, truncation_psi=0.5)
    w[:, 2:4] += torch.from_numpy(1.5 * spread[1] * saved['directions'][1]).float()
    img = G.synthesis(w, noise_mode='const')[0].permute(1, 2, 0).numpy()
    assert np.abs(strip[:16, 32:] - np.clip(img * 127.5 + 128, 0, 255).astype(int)).max() <= 1


@pytest.mark.parametrize('args, message', [
    (['--layers=6'], 'layer 6 does not exist: this network has 0 to 5'),
    (['--count=9'], '9 directions: this network has 8'),
    (['--steps=1'], '--steps=1: must be at least 2'),
    (['--seeds=0-9999', '--steps=1000'], 'make one of 16000x160000 pixels'),
    (['--layers=0-99999999'], 'at most 1000000 are taken'),
    (['--strength=nan'], '--strength=nan: must be a number'),
    (['--seeds=x'], 'is no list of numbers and ranges'),
    (['--network={}/grey.safetensors'], '--class is missing'),
])
def test_a_mistake_is_answered_in_a_sentence(folder, tmp_path, args, message):
    status, output = run(directions.main, *(arg.format(folder) for arg in [
        '--network={}/run', '--seeds=1', f'--outdir={tmp_path}', *args]))
    assert status == 2 and message in ' '.join(output.split())


def test_a_full_disk_is_said_before_anything_is_computed(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    status, output = run(directions.main, '--network', folder / 'run', '--seeds=1', '--outdir', tmp_path)
    assert status == 2 and 'directions.npz cannot be written: No space left on device' in ' '.join(output.split())
    assert list(tmp_path.iterdir()) == []


def test_what_was_computed_is_not_lost_when_the_disk_fills_up(tmp_path, monkeypatch):
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'elsewhere'))
    save, calls = np.savez, []

    def full_at_first(file, **arrays):
        calls.append(file)
        if len(calls) == 1:
            file.write(b'half')
            raise OSError(28, 'No space left on device')
        save(file, **arrays)
    monkeypatch.setattr('numpy.savez', full_at_first)
    with pytest.raises(directions.click.ClickException) as error:
        directions.save_arrays(tmp_path / 'a.npz', w=np.arange(3))
    assert 'a.npz cannot be written: No space left on device; what was computed is in' in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ['elsewhere']
    assert np.load(str(error.value).split(' is in ')[1])['w'].tolist() == [0, 1, 2]
