"""generate.py: the pictures a seed promises, and one clear sentence for every mistake."""
import importlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from network_files import SMALL, assert_picture, expected_picture, make_generator, run, write_networks
from PIL import Image
from reference_files import reference_pickle

import generate
import legacy
from drawing.named import labels_of_seeds
from drawing.tool_options import Label, SeedList
from torch_utils import checkpoint
from training.networks import Discriminator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp('networks'))


@pytest.mark.parametrize('psi, noise_mode', [(1, 'const'), (0.5, 'none')])
def test_a_seed_is_the_specified_picture(folder, tmp_path, psi, noise_mode):
    status, output = run(generate.main, '--network', folder / 'run', '--seeds=3,12', '--outdir',
                         tmp_path / 'a/b', '--batch=1', f'--trunc={psi}', f'--noise-mode={noise_mode}')
    assert status == 0 and 'seed0003.png (1/2)' in output and 'seed0012.png (2/2)' in output
    G = make_generator(seed=100)        # The newest by number, not by name.
    assert sorted(p.name for p in (tmp_path / 'a/b').iterdir()) == ['seed0003.png', 'seed0012.png']
    for seed in (3, 12):
        assert_picture(tmp_path / f'a/b/seed{seed:04d}.png', expected_picture(G, seed, None, psi, noise_mode),
                       1)


def test_a_seed_is_the_same_picture_in_any_batch(folder, tmp_path):
    run(generate.main, '--network', folder / 'run', '--seeds=0-6', '--outdir', tmp_path, '--batch=4')
    G = make_generator(seed=100)
    for seed in range(7):
        assert_picture(tmp_path / f'seed{seed:04d}.png', expected_picture(G, seed), 1)


def test_random_noise_differs_from_run_to_run(folder, tmp_path):
    for name in 'ab':
        run(generate.main, '--network', folder / 'run', '--seeds=5', '--outdir', tmp_path / name,
            '--noise-mode=random')
    assert (tmp_path / 'a/seed0005.png').read_bytes() != (tmp_path / 'b/seed0005.png').read_bytes()


def test_a_conditional_grey_network_draws_the_class(folder, tmp_path):
    for c in (0, 2):
        assert run(generate.main, '--network', folder / 'grey.safetensors', '--seeds=1', f'--class={c}',
                   '--outdir', tmp_path)[0] == 0
        assert_picture(tmp_path / 'seed0001.png', expected_picture(make_generator(3, 1), 1, c), 1)


def test_a_label_that_is_a_vector(folder, tmp_path):
    """Written out, or in a file: the picture of that label, which is no class."""
    label = torch.tensor([[0.5, -2.0, 0.25]])
    np.save(tmp_path / 'label.npy', label[0].numpy())
    G = make_generator(3, 1)
    z = torch.from_numpy(np.random.RandomState(1).randn(1, 8)).float()
    img = G(z, label, noise_mode='const')[0].permute(1, 2, 0).numpy()
    for number, text in enumerate(['0.5,-2,0.25', tmp_path / 'label.npy']):
        out = tmp_path / str(number)
        assert run(generate.main, '--network', folder / 'grey.safetensors', '--seeds=1', f'--label={text}',
                   '--outdir', out)[0] == 0
        assert_picture(out / 'seed0001.png', np.clip(img * 127.5 + 128, 0, 255).astype(np.uint8), 1)


def test_pictures_are_written_over_those_of_before_and_over_nothing_else(folder, tmp_path):
    args = ['--network', folder / 'run', '--seeds=1', '--outdir', tmp_path]
    assert run(generate.main, *args)[0] == run(generate.main, *args)[0] == 0
    Image.new('RGB', (4, 4)).save(tmp_path / 'seed0001.png')
    status, output = run(generate.main, *args)
    assert status == 2 and 'was not written by this program' in ' '.join(output.split())
    assert Image.open(tmp_path / 'seed0001.png').size == (4, 4)


def test_grids_hold_the_pictures_in_order_and_are_black_beyond(folder, tmp_path):
    assert run(generate.main, '--network', folder / 'run', '--seeds=0-7', '--grid=3x2', '--outdir', tmp_path)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ['grid00.png', 'grid01.png']
    G = make_generator(seed=100)
    for idx in range(12):
        grid = np.asarray(Image.open(tmp_path / f'grid{idx // 6:02d}.png')).astype(int)
        assert grid.shape == (32, 48, 3)
        row, col = idx % 6 // 3, idx % 3
        expected = expected_picture(G, idx) if idx < 8 else np.zeros([16, 16, 3], int)
        assert np.abs(grid[row * 16:row * 16 + 16, col * 16:col * 16 + 16] - expected).max() <= 1


@pytest.mark.parametrize('shape, value, message', [
    ([1 << 31, 6, 8], None, '2147483648 are too many at once'),
    ([1, 6, 8], np.nan, 'is not finite everywhere'),
    ([1, 6, 8], 1e300, 'is not finite everywhere, as float32')])
def test_latents_of_a_file_are_bounded_and_finite(folder, tmp_path, shape, value, message):
    """The header of an array may say any size; what it says is compared before memory is taken."""
    header = {'descr': '<f8', 'fortran_order': False, 'shape': tuple(shape)}
    with zipfile.ZipFile(tmp_path / 'w.npz', 'w') as archive, archive.open('w.npy', 'w') as file:
        np.lib.format.write_array_header_1_0(file, header)
        if value is not None:
            file.write(np.full(shape, value).tobytes())
    status, output = run(generate.main, '--network', folder / 'run', '--projected-w', tmp_path / 'w.npz',
                         '--outdir', tmp_path)
    assert status == 2 and message in ' '.join(output.split()), output


def test_projected_latents_are_drawn_row_by_row(folder, tmp_path):
    G = make_generator(seed=100)
    ws = np.random.RandomState(0).randn(3, G.num_ws, 8)
    np.savez(tmp_path / 'w.npz', w=ws)
    for option in ('--projected-w', '--projected_w'):
        status, output = run(generate.main, '--network', folder / 'run', option, tmp_path / 'w.npz',
                             '--seeds=1', '--outdir', tmp_path / 'out')
        assert status == 0 and 'Note: --seeds' in output
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['proj00.png', 'proj01.png', 'proj02.png']
    img = G.synthesis(torch.from_numpy(ws).float(), noise_mode='const').permute(0, 2, 3, 1).numpy()
    for idx in range(3):
        expected = np.clip(img[idx] * 127.5 + 128, 0, 255).astype(np.uint8)
        assert_picture(tmp_path / f'out/proj{idx:02d}.png', expected, 1)


def test_the_truncation_sheet_has_a_row_per_seed_and_a_column_per_psi(folder, tmp_path):
    status, output = run(generate.main, '--network', folder / 'run', '--seeds=4,2', '--trunc-sheet=-1,0,0.5',
                         '--outdir', tmp_path)
    assert status == 0, output
    assert [path.name for path in tmp_path.iterdir()] == ['truncation.png']
    sheet = np.asarray(Image.open(tmp_path / 'truncation.png')).astype(int).reshape(2, 16, 3, 16, 3)
    for row, seed in enumerate([4, 2]):
        for column, psi in enumerate([-1, 0, 0.5]):
            expected = expected_picture(make_generator(seed=100), seed, psi=psi).astype(int)
            assert np.abs(sheet[row, :, column] - expected).max() <= 1


def test_a_class_without_effect_is_said_so(folder, tmp_path):
    status, output = run(generate.main, '--network', folder / 'run', '--seeds=1', '--class=1', '--outdir',
                         tmp_path)
    assert status == 0 and '--class has no effect' in output


@pytest.mark.parametrize('text, seeds',
                         [('0-3', [0, 1, 2, 3]), ('7', [7]), ('5, 1,5', [5, 1, 5]), ('2-2', [2]),
                                         ('0-3,7,9-11', [0, 1, 2, 3, 7, 9, 10, 11]), ('3, 1 - 2', [3, 1, 2])])
def test_seed_lists(text, seeds):
    assert list(SeedList().convert(text, None, None)) == seeds


BAD = [
    (['--seeds=1-3-5'], "'1-3-5' is no list of numbers and ranges like 1,5,9 or 0-3,7,9-11"),
    (['--seeds=1,3-2'], "'3-2' is empty"),
    (['--seeds=0-4294967295'], "'0-4294967295' are 4294967296 numbers, at most 1000000 are taken at once"),
    (['--seeds=0-99999999999999999999999'], 'is too large: at most 4294967295'),
    (['--seeds=1', '--grid=9999x9999'],
     '9999 x 9999 pictures make one of 159984x159984 pixels; at most 1048576 of 16x16 fit'),
    (['--seeds=0-999999', '--trunc-sheet=0,1'], '2 x 1000000 pictures make one of'),
    (['--seeds=1', '--trunc=nan'], '--trunc=nan: must be a number'),
    (['--seeds=1', '--trunc-sheet=0,1e308'], '--trunc-sheet=1e+308: must be at least -100 and at most 100'),
    (['--seeds=1', '--network={}/grey.safetensors', '--label=1,0'],
     '2 numbers, this network takes labels of 3, as 0.5,0.5,0.5'),
    (['--seeds=1', '--network={}/grey.safetensors', '--label=1,0,0', '--class=0'],
     '--class and --label exclude each other'),
    (['--seeds=1', '--network={}/grey.safetensors', '--label=1,nan,0'], '--label=nan: must be a number'),
    (['--seeds=1', '--network={}/grey.safetensors', '--label={}/../w.npy'],
     'w.npy is not an .npy file with one vector'),
    (['--seeds=1', '--centre=mix'], 'this network knows of no data centres'),
    (['--seeds=-1'], 'is no list of numbers and ranges'),
    (['--seeds=a'], 'is no list of numbers and ranges'),
    (['--seeds='], "'--seeds': its value is empty"),
    (['--seeds=5-3'], "'5-3' is empty"),
    (['--seeds=4294967296'], '4294967296 is too large'),
    ([], '--seeds is missing'),
    (['--seeds=1', '--grid=3'], "'3' is not a size like 8x4"),
    (['--seeds=1', '--grid=0x3'], "'0x3' is not a size like 8x4"),
    (['--seeds=1', '--trunc-sheet=a'], "'a' is not a list of numbers like 0,0.5,1"),
    (['--seeds=1', '--trunc-sheet=1', '--grid=1x1'], '--trunc-sheet is a sheet of seeds: leave out --grid'),
    (['--projected-w=w.npz', '--trunc-sheet=1'],
     '--trunc-sheet is a sheet of seeds: leave out --projected-w'),
    (['--seeds=1', '--batch=0'], '--batch=0: must be at least 1'),
    (['--seeds=1', '--noise-mode=loud'], "'--noise-mode'"),
    (['--seeds=1', '--network={}/grey.safetensors'],
     '--class is missing: this network is conditional, choose from 0'),
    (['--seeds=1', '--network={}/grey.safetensors', '--class=3'], '3 is not a class of this network: 0 to 2'),
    (['--seeds=1', '--network={}/grey.safetensors', '--class=-1'], '--class=-1: must be at least 0'),
    (['--seeds=1', '--network={}/two.safetensors'], 'makes images of 2 channels; only 1 and 3'),
    (['--seeds=1', '--network={}/empty.safetensors'], 'has no averaged generator (G_ema)'),
    (['--seeds=1', '--network={}/nowhere'], 'No such file'),
    (['--seeds=1', '--network={}'], 'no network-snapshot-*.safetensors in this directory'),
    (['--seeds=1', '--network={}/../test_file'], 'not a'),
    (['--projected-w={}/nowhere.npz'], 'cannot be read: No such file'),
    (['--projected-w={}/../test_file'], 'is not an .npz file with an array "w"'),
    (['--projected-w={}/../other.npz'], 'is not an .npz file with an array "w"'),
    (['--projected-w={}/../pickled.npz'], 'is not an .npz file with an array "w"'),
    (['--projected-w={}/../shape.npz'], '"w" is float64 [2, 8], this network takes floats [K, 6, 8]'),
    (['--projected-w={}/../ints.npz'], '"w" is int64 [1, 6, 8], this network takes floats'),
    (['--seeds=1', '--outdir={}/grey.safetensors'], 'cannot be created'),
    (['--seeds=1', '--outdir={}/grey.safetensors/below'], 'cannot be created: Not a directory'),
]


@pytest.mark.parametrize('args, message', BAD, ids=[message for _, message in BAD])
def test_a_mistake_is_answered_in_a_sentence_with_status_2(folder, args, message):
    (folder.parent / 'test_file').write_text('I am a poem.')
    np.savez(folder.parent / 'other.npz', x=np.zeros(2))
    np.savez(folder.parent / 'pickled.npz', w=np.array([{}], dtype=object))
    np.savez(folder.parent / 'shape.npz', w=np.zeros([2, 8]))
    np.save(folder.parent / 'w.npy', np.zeros([2, 3]))
    np.savez(folder.parent / 'ints.npz', w=np.zeros([1, 6, 8], dtype=np.int64))
    defaults = ['--network={}/run', '--outdir={}/../out']
    status, output = run(generate.main, *(arg.format(folder) for arg in defaults + args))
    assert status == 2
    assert message in ' '.join(output.split()).replace('│ ', '')


@pytest.mark.skipif(os.name != 'posix', reason='special files are those of POSIX')
@pytest.mark.parametrize('kind', ['pipe', 'endless', 'pickle'])
def test_a_label_that_is_no_small_file_is_refused(tmp_path, kind):
    path = tmp_path / 'label.npy'
    if kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'endless':
        path.symlink_to('/dev/zero')
    else:
        np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(click.BadParameter) as refused:
        Label().convert(str(path), None, None)
    assert ('cannot be read' in str(refused.value)) == (kind != 'pickle') and 'allow_pickle' not in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has what is asked for')
def test_a_device_that_is_not_there_is_refused(folder, tmp_path):
    status, output = run(generate.main, '--network', folder / 'run', '--seeds=1', '--outdir', tmp_path,
                         '--device=cuda')
    assert status == 2 and '--device' in output


def test_a_picture_that_cannot_be_written_is_an_error(folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Image.Image, 'save', fail)
    status, output = run(generate.main, '--network', folder / 'run', '--seeds=1', '--outdir', tmp_path)
    assert status == 1 and 'seed0001.png cannot be written: No space left on device' in output
    assert 'seed0001.png (1/1)' not in output and list(tmp_path.iterdir()) == []


FAILING = {'generate': ['--seeds=1'], 'style_mixing': ['--rows=1', '--cols=2', '--styles=0'], 'export': ['--format=pt2'],
           'video': ['--seeds=1,2', '--format=gif'], 'directions': ['--seeds=1'], 'projector': ['--target=none.png']}


@pytest.mark.parametrize('script', FAILING)
def test_a_program_that_fails_leaves_no_empty_folder(folder, tmp_path, script):
    (tmp_path / 'network').write_text('I am a poem.')
    main = importlib.import_module(script).main
    assert run(main, '--network', tmp_path / 'network', '--outdir', tmp_path / 'a/b', *FAILING[script])[0] == 2
    (tmp_path / 'theirs').mkdir()
    assert run(main, '--network', tmp_path / 'network', '--outdir', tmp_path / 'theirs', *FAILING[script])[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ['network', 'theirs']       # What was there stays.


@pytest.mark.parametrize('script', ['generate', 'style_mixing'])
def test_help_loads_nothing_heavy_and_shows_an_example(script):
    code = f'import sys, {script}; print([m for m in ("torch", "numpy", "PIL", "scipy") if m in sys.modules])'
    assert subprocess.check_output([sys.executable, '-c', code], cwd=ROOT, text=True).strip() == '[]'
    output = subprocess.check_output([sys.executable, f'{script}.py', '--help'], cwd=ROOT, text=True)
    assert f'Example: python {script}.py' in ' '.join(output.split())


# ---------------------------------------------------------------------------------------------------------------------
# legacy.load_network_pkl on native files.

def test_load_network_pkl_reads_native_files(tmp_path):
    G, D = make_generator(), Discriminator(0, 16, 3, **SMALL)
    path = tmp_path / 'network-snapshot-000001.safetensors'
    checkpoint.save_networks(path, {'G': G, 'D': D, 'G_ema': G}, training_set_kwargs={'path': 'x'})
    for source in (path, str(path), io.BytesIO(path.read_bytes())):
        data = legacy.load_network_pkl(source)
        assert {'G', 'D', 'G_ema', 'training_set_kwargs', 'augment_pipe'} <= set(data)
        assert data['augment_pipe'] is None and data['training_set_kwargs'] == {'path': 'x'}
        for name, module in (('G', G), ('D', D), ('G_ema', G)):
            state = data[name].state_dict()
            assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize('write', [
    lambda path, networks: checkpoint.save_networks(path, networks),
    lambda path, networks: path.write_bytes(reference_pickle(networks))], ids=['native', 'reference'])
def test_networks_that_are_not_asked_for_are_not_built(tmp_path, write):
    G = make_generator()
    write(tmp_path / 'a', {'G': G, 'D': Discriminator(0, 16, 3, **SMALL), 'G_ema': G})
    data = legacy.load_network_pkl(tmp_path / 'a', only=['G_ema'])
    assert data['G'] is None and data['D'] is None and data['G_ema'].z_dim == 8


def test_a_native_file_that_begins_like_a_pickle_is_read(tmp_path):
    for padding in range(0, 256, 8):        # The first byte is that of the header's length.
        checkpoint.save_networks(tmp_path / 'a', {'G_ema': make_generator()}, note='x' * padding)
        if (tmp_path / 'a').read_bytes()[0] == 0x80:
            break
    assert (tmp_path / 'a').read_bytes()[0] == 0x80
    assert legacy.load_network_pkl(tmp_path / 'a')['G_ema'].z_dim == 8


def test_force_fp16_keeps_weights_and_reduces_the_highest_resolutions(tmp_path):
    G, D = make_generator(), Discriminator(0, 16, 3, **SMALL)
    checkpoint.save_networks(tmp_path / 'a', {'G': G, 'D': D, 'G_ema': G})
    data = legacy.load_network_pkl(tmp_path / 'a', force_fp16=True)
    for name, options in (('G', lambda net: net.init_kwargs['synthesis_kwargs']),
                          ('D', lambda net: net.init_kwargs),
                          ('G_ema', lambda net: net.init_kwargs['synthesis_kwargs'])):
        assert options(data[name])['num_fp16_res'] == 4 and options(data[name])['conv_clamp'] == 256
    assert torch.equal(data['G'].synthesis.b16.conv1.weight, G.synthesis.b16.conv1.weight)
    img = torch.randn(2, 3, 16, 16)
    assert data['D'].b16.use_fp16 and not D.b16.use_fp16
    torch.testing.assert_close(data['D'](img, None, force_fp32=True), D(img, None))


# Networks of several data centres.

def centres_file(path, num_classes):
    """A generator that knows two centres: the first has 30 images, the second 10;
    codes come behind the classes."""
    labels = ([[0, 30]], [[1, 5], [2, 5]]) if num_classes else ([[[], 30]], [[[], 10]])
    centres = [dict(index=i, code=[float(i == j) for j in range(2)], num=num, labels=labels[i])
               for i, num in enumerate((30, 10))]
    checkpoint.save_networks(path, {'G_ema': make_generator(c_dim=num_classes + 2)}, centre_labels=centres)
    return make_generator(c_dim=num_classes + 2), centres


def test_a_centre_of_pictures_without_classes(tmp_path):
    G, _ = centres_file(tmp_path / 'net.safetensors', 0)
    for option, code in (('--centre=0', 0), ('--centre=1', 1), ('--class=1', 1)):
        assert run(generate.main, '--network', tmp_path / 'net.safetensors', '--seeds=5', option, '--outdir', tmp_path)[0] == 0
        assert_picture(tmp_path / 'seed0005.png', expected_picture(G, 5, code), 1)


def test_labels_follow_the_data_of_the_centre(tmp_path):
    G, centres = centres_file(tmp_path / 'net.safetensors', 3)
    c = labels_of_seeds(G, range(400), None, '1', centres)
    assert (c[:, 3:] == torch.tensor([0.0, 1])).all() and (c[:, 0] == 0).all() and 0.4 < c[:, 1].mean() < 0.6
    c = labels_of_seeds(G, range(400), None, 'mix', centres)
    assert torch.equal(c[:, 0], c[:, 3]) and 0.7 < c[:, 3].mean() < 0.8 and (c.sum(1) == 2).all()
    assert torch.equal(labels_of_seeds(G, [7], None, 'mix', centres), c[[7]])      # Whatever else is drawn.
    c = labels_of_seeds(G, [1, 2], 2, '0', centres)
    assert c.tolist() == [[0, 0, 1, 1, 0]] * 2


@pytest.mark.parametrize('num_classes, options, sentence', [
    (3, [], '--centre: missing: choose from 0, 1, mix'),
    (3, ['--class=1'], '--centre: missing: choose from 0, 1, mix'),
    (0, ['--centre=2'], '--centre: 2: choose from 0, 1, mix'),
    (3, ['--centre=0', '--class=3'], '--class: 3 is not a class of this network: 0 to 2')])
def test_a_centre_that_is_not_there_is_refused(tmp_path, num_classes, options, sentence):
    centres_file(tmp_path / 'net.safetensors', num_classes)
    status, output = run(generate.main, '--network', tmp_path / 'net.safetensors', '--seeds=5', '--outdir',
                         tmp_path, *options)
    assert status == 2 and sentence in ' '.join(output.split())


def test_a_network_without_centres_is_asked_for_one(folder, tmp_path):
    status, output = run(generate.main, '--network', folder / 'run', '--seeds=5', '--outdir', tmp_path,
                         '--centre=0')
    assert status == 2 and 'this network knows of no data centres' in ' '.join(output.split())
