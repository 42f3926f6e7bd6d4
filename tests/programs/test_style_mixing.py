"""style_mixing.py: which layers come from whom, which files are written, and what is refused."""
import numpy as np
import pytest
import torch
from network_files import assert_picture, expected_picture, make_generator, run, write_networks
from PIL import Image

import style_mixing


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp('networks'))


def mixed_picture(G, row, col, styles, psi, c=None):
    z = torch.from_numpy(np.stack([np.random.RandomState(seed).randn(G.z_dim) for seed in (row, col)])).float()
    c = torch.zeros(2, G.c_dim) if c is None else torch.eye(G.c_dim)[[c, c]]
    ws = G.mapping.w_avg + psi * (G.mapping(z, c) - G.mapping.w_avg)
    for layer in styles:
        ws[0, layer] = ws[1, layer]
    img = G.synthesis(ws[:1], noise_mode='const')
    return np.clip(img[0].permute(1, 2, 0).numpy() * 127.5 + 128, 0, 255).astype(np.uint8)


@pytest.mark.parametrize('batch', [1, 3])
def test_each_picture_has_the_listed_layers_of_its_column(folder, tmp_path, batch):
    status, output = run(style_mixing.main, '--network', folder / 'run', '--rows=1,2', '--cols=2-4', '--styles=1,4',
                         '--trunc=0.7', '--outdir', tmp_path, f'--batch={batch}')
    assert status == 0, output
    expected_names = {f'{s}-{s}.png' for s in (1, 2, 3, 4)} | {f'{r}-{c}.png' for r in (1, 2) for c in (2, 3, 4)}
    assert {path.name for path in tmp_path.iterdir()} == expected_names | {'grid.png'}
    G = make_generator(seed=100)
    for name in expected_names:
        row, col = map(int, name[:-4].split('-'))
        assert_picture(tmp_path / name, mixed_picture(G, row, col, [1, 4], 0.7), 1)


def test_the_grid_has_own_pictures_at_the_borders_and_a_black_corner(folder, tmp_path):
    run(style_mixing.main, '--network', folder / 'run', '--rows=1,2', '--cols=2-4', '--styles=3', '--outdir', tmp_path)
    grid = np.asarray(Image.open(tmp_path / 'grid.png'))
    assert grid.shape == (3 * 16, 4 * 16, 3)
    tiles = grid.reshape(3, 16, 4, 16, 3).transpose(0, 2, 1, 3, 4)
    names = [[None, '2-2', '3-3', '4-4'], ['1-1', '1-2', '1-3', '1-4'], ['2-2', '2-2', '2-3', '2-4']]
    for i, row in enumerate(names):
        for j, name in enumerate(row):
            expected = np.zeros([16, 16, 3]) if name is None else np.asarray(Image.open(tmp_path / f'{name}.png'))
            assert np.array_equal(tiles[i, j], expected), name


def test_conditional_networks_mix_within_a_class(folder, tmp_path):
    args = ['--network', folder / 'grey.safetensors', '--rows=1', '--cols=2', '--styles=0,1', '--outdir', tmp_path]
    assert run(style_mixing.main, *args, '--class=1')[0] == 0
    assert_picture(tmp_path / '1-2.png', mixed_picture(make_generator(3, 1), 1, 2, [0, 1], 1, c=1), 1)
    assert_picture(tmp_path / '1-1.png', expected_picture(make_generator(3, 1), 1, c=1), 1)
    status, output = run(style_mixing.main, *args)
    assert status == 2 and '--class is missing' in output


def test_small_networks_mix_the_layers_that_they_have(folder, tmp_path):
    status, output = run(style_mixing.main, '--network', folder / 'run', '--rows=1', '--cols=2', '--outdir', tmp_path)
    assert status == 0, output
    G = make_generator(seed=100)
    assert_picture(tmp_path / '1-2.png', mixed_picture(G, 1, 2, range(6), 1), 1)        # All six.


def test_a_table_that_nobody_could_open_is_refused(folder, tmp_path):
    status, output = run(style_mixing.main, '--network', folder / 'run', '--rows=0-9999', '--cols=0-9999', '--outdir', tmp_path)
    assert status == 2 and '10001 x 10001 pictures make one of 160016x160016 pixels' in ' '.join(output.split())


@pytest.fixture
def projected(tmp_path):
    """A file as projector.py writes it, of two latents, and the latents."""
    w = np.random.RandomState(0).randn(2, 6, 8).astype(np.float32)
    np.savez(tmp_path / 'projected_w.npz', w=w)
    return tmp_path / 'projected_w.npz', w


def test_projected_pictures_are_mixed_with_seeds(folder, tmp_path, projected):
    """As rows: their coarse layers, those of the column in 2 to 5. --trunc moves the seeds only."""
    path, w = projected
    out = tmp_path / 'out'
    status, output = run(style_mixing.main, '--network', folder / 'run', '--projected-w', path, '--cols=3', '--styles=2-5',
                         '--trunc=0.5', '--outdir', out)
    assert status == 0, output
    assert {path.name for path in out.iterdir()} == {
        'proj00-proj00.png', 'proj01-proj01.png', '3-3.png', 'proj00-3.png', 'proj01-3.png', 'grid.png'}
    G = make_generator(seed=100)
    z = torch.from_numpy(np.random.RandomState(3).randn(1, 8)).float()
    mixed = torch.from_numpy(w[1:]).clone()
    mixed[:, 2:] = (G.mapping.w_avg + 0.5 * (G.mapping(z, None) - G.mapping.w_avg))[:, 2:]
    img = G.synthesis(mixed, noise_mode='const')[0].permute(1, 2, 0).numpy()
    assert_picture(out / 'proj01-3.png', np.clip(img * 127.5 + 128, 0, 255).astype(np.uint8), 1)
    assert Image.open(out / 'grid.png').size == (2 * 16, 3 * 16)


def test_projected_pictures_are_mixed_with_each_other_whatever_their_class(folder, tmp_path, projected):
    path, w = projected
    out = tmp_path / 'out'
    status, output = run(style_mixing.main, '--network', folder / 'grey.safetensors', '--projected_w', path, '--styles=0',
                         '--outdir', out)
    assert status == 0, output
    mixed = torch.from_numpy(w[:1]).clone()
    mixed[0, 0] = torch.from_numpy(w[1, 0])
    img = make_generator(3, 1).synthesis(mixed, noise_mode='const')[0].permute(1, 2, 0).numpy()
    assert_picture(out / 'proj00-proj01.png', np.clip(img * 127.5 + 128, 0, 255).astype(np.uint8), 1)
    assert Image.open(out / 'grid.png').size == (3 * 16, 3 * 16)


@pytest.mark.parametrize('args, message', [
    (['--rows=1'], '--cols is missing: which pictures shall be mixed? For example --cols=0-3, or --projected-w=FILE'),
    (['--cols=1'], '--rows is missing'),
    (['--rows=1', '--cols=1', '--projected-w=w.npz'], '--projected-w has no effect'),
    (['--rows=1', '--projected-w={}/run'], 'cannot be read'),
    (['--rows=1', '--projected-w={}/grey.safetensors'], 'is not an .npz file with an array "w"'),
])
def test_rows_and_columns_are_asked_for_once(folder, tmp_path, args, message):
    status, output = run(style_mixing.main, '--network', folder / 'run', '--styles=0-2', '--outdir', tmp_path,
                         *(arg.format(folder) for arg in args))
    assert status == 2 and message in ' '.join(output.split()), output


@pytest.mark.parametrize('args, message', [
    (['--styles=0-6'], 'layer 6 does not exist: this network has 0 to 5'),
    (['--styles=a'], "'a' is no list of numbers"),
    (['--rows='], "'--rows': its value is empty"),
    (['--network={}/nowhere'], 'No such file'),
    (['--outdir={}/grey.safetensors'], 'cannot be created'),
])
def test_a_mistake_is_answered_in_a_sentence_with_status_2(folder, args, message):
    defaults = ['--network={}/run', '--rows=1', '--cols=2', '--styles=0-2', '--outdir={}/../mixed']
    status, output = run(style_mixing.main, *(arg.format(folder) for arg in defaults + args))
    assert status == 2 and message in ' '.join(output.split())
