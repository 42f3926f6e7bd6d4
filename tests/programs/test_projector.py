"""projector.py: the search is the specified one step by step, and its files are what other scripts read."""
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from network_files import assert_picture, make_generator, run, write_networks
from PIL import Image

import generate
import projector
from drawing.named import load_generator

NUM_STEPS, SAMPLES = 20, 50


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp('networks'))


def blocks(images):
    """A stand-in for the perceptual network: means of 4x4 pixels, [N, 48]."""
    return torch.nn.functional.avg_pool2d(images, 4).flatten(1) / 50


def target_of(G, seed=5):
    img = G(torch.from_numpy(np.random.RandomState(seed).randn(1, G.z_dim)), None, noise_mode='const')
    return ((img + 1) * 127.5).clamp(0, 255)[0]


def specified_projection(G, target, shape_of_w):
    """The algorithm written out for one picture: w after every step [steps, num_ws, w_dim]."""
    z = torch.from_numpy(np.random.RandomState(123).randn(SAMPLES, G.z_dim)).float()
    w = G.mapping(z, None)[:, 0]
    mean = w.mean(dim=0)
    sigma = math.sqrt(((w - mean) ** 2).sum() / SAMPLES)
    w_opt = mean.expand(shape_of_w).clone().requires_grad_()
    layers = [G.synthesis.b4.conv1, G.synthesis.b8.conv0, G.synthesis.b8.conv1, G.synthesis.b16.conv0,
              G.synthesis.b16.conv1]
    noises = [torch.randn(layer.noise_const.shape).requires_grad_() for layer in layers]
    for layer, noise in zip(layers, noises):
        layer.noise_const = noise
    adam = torch.optim.Adam([w_opt, *noises], betas=(0.9, 0.999), lr=0.1)
    wanted, result = blocks(target[None]), []
    for k in range(NUM_STEPS):
        t = k / NUM_STEPS
        ramp = 0.5 - 0.5 * math.cos(math.pi * min(1, (1 - t) / 0.25))
        for group in adam.param_groups:
            group['lr'] = 0.1 * ramp * min(1, t / 0.05)
        noisy = w_opt + torch.randn(shape_of_w) * (sigma * 0.05 * max(0, 1 - t / 0.75) ** 2)
        img = G.synthesis(noisy.expand(1, G.num_ws, -1), noise_mode='const')
        loss = ((wanted - blocks((img + 1) * 127.5)) ** 2).sum()
        for noise in noises:
            pyramid = [noise]
            while len(pyramid[-1]) > 8:
                pyramid.append(torch.nn.functional.avg_pool2d(pyramid[-1][None, None], 2)[0, 0])
            for n in pyramid:
                loss = loss + 1e5 * ((n * n.roll(1, 1)).mean() ** 2 + (n * n.roll(1, 0)).mean() ** 2)
        adam.zero_grad()
        loss.backward()
        adam.step()
        result.append(w_opt.detach().expand(1, G.num_ws, -1)[0].clone())
        with torch.no_grad():
            for noise in noises:
                noise.sub_(noise.mean())
                noise.div_(noise.square().mean().sqrt())
    return torch.stack(result)


@pytest.mark.parametrize('space, num_ws', [('w', 1), ('w+', 6)])
def test_every_step_is_the_specified_one(space, num_ws):
    G = make_generator()
    target = target_of(G)
    torch.manual_seed(1)
    ws = projector.project(G, target, num_steps=NUM_STEPS, w_avg_samples=SAMPLES, device='cpu', space=space,
                           embed=blocks)
    torch.manual_seed(1)
    expected = specified_projection(G, target, [1, num_ws, 8])
    assert ws.shape == (NUM_STEPS, 6, 8)
    torch.testing.assert_close(ws, expected, atol=1e-4, rtol=1e-4)      # Adam divides small differences by small roots.
    assert torch.equal(ws[0], ws[0, :1].expand(6, -1)) and not torch.equal(ws[5], ws[1])


def test_the_schedule_at_its_corners():
    """From the formulas: lr 0 at first, full from 5 % to 75 %, half in the middle of the fall."""
    schedule = projector.Schedule()
    rates = [schedule.learning_rate(t) for t in (0, 0.025, 0.05, 0.5, 0.75, 0.875, 1)]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.1, 0.1, 0.05, 0], atol=1e-12)
    np.testing.assert_allclose([schedule.noise_scale(t) for t in (0, 0.375, 0.75, 0.9)], [0.05, 0.0125, 0, 0])


def test_the_regulariser_of_stripes():
    """Columns of +1 and -1 correlate with -1 across and +1 down; averages of 2x2 are 0."""
    stripes = torch.ones(2, 1, 16, 16)
    stripes[0, 0, :, ::2] = -1
    assert projector.noise_regulariser(stripes).tolist() == [2, 4]      # The second: 1 + 1 at 16x16, and at 8x8.


def test_the_generator_comes_back_as_it_was():
    G = make_generator()
    before = {name: value.clone() for name, value in G.state_dict().items()}
    projector.project(G, target_of(G), num_steps=2, w_avg_samples=SAMPLES, device='cpu', embed=blocks)
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())


def test_pictures_of_a_batch_do_not_know_each_other(monkeypatch):
    """With the same random numbers for all, a batch finds what each picture alone finds."""
    G = make_generator()
    targets = torch.stack([target_of(G, seed) for seed in (5, 6)])
    original = torch.randn
    fixed = {}

    def randn(shape, **kwargs):
        if tuple(shape[1:]) not in fixed:
            fixed[tuple(shape[1:])] = original([1, *shape[1:]])
        return fixed[tuple(shape[1:])].repeat(shape[0], *[1] * (len(shape) - 1))

    monkeypatch.setattr(torch, 'randn', randn)
    monkeypatch.setattr(torch, 'randn_like', lambda x: randn(x.shape))
    options = dict(num_steps=10, w_avg_samples=SAMPLES, device='cpu', embed=blocks)
    together = projector.project(G, targets, **options)
    assert together.shape == (10, 2, 6, 8)
    for idx in range(2):
        alone = projector.project(G, targets[idx], **options)
        torch.testing.assert_close(together[:, idx], alone, atol=1e-4, rtol=1e-4)


def test_large_pictures_are_averaged_to_256():
    image = torch.arange(512.0).expand(1, 3, 512, 512)
    torch.testing.assert_close(projector.shrink(image)[0, 0, 0], torch.arange(256.0) * 2 + 0.5)
    assert projector.shrink(image[:, :, :256, :256]).shape == (1, 3, 256, 256)


def test_a_picture_of_the_generator_is_found_again():
    G = make_generator()
    for name, parameter in G.named_parameters():
        if name.endswith('noise_strength'):
            parameter.data.fill_(0.01)      # As after training: noise is detail.
    target = target_of(G)
    torch.manual_seed(0)
    ws = projector.project(G, target, num_steps=150, w_avg_samples=SAMPLES, device='cpu', embed=blocks)
    error = [(((G.synthesis(ws[[k]], noise_mode='const')[0] + 1) * 127.5).clamp(0, 255) - target).abs().mean()
             for k in (0, -1)]
    assert error[1] < error[0] / 4, error      # Grey levels.


def test_it_stops_when_near():
    G = make_generator()
    ws = projector.project(G, target_of(G), num_steps=50, w_avg_samples=SAMPLES, device='cpu', embed=blocks,
                           stop_distance=1e9)
    assert len(ws) == 1


# ---------------------------------------------------------------------------------------------------------------------
# The script.

def test_the_files_fit_together(folder, tmp_path):
    """A wide target with the offline network: what is written can be drawn by generate.py."""
    pixels = np.random.RandomState(0).randint(0, 256, [20, 41, 3], dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'wide.png')
    out = tmp_path / 'out'
    status, output = run(projector.main, '--network', folder / 'run', '--target', tmp_path / 'wide.png',
                         '--outdir', out, '--num-steps=3', '--features=efflite0', '--video-format=webp')
    assert status == 0 and 'Distances by EfficientNet-Lite0' in output and 'step    3/3' in output
    expected = Image.fromarray(pixels[:, 10:30]).resize((16, 16), Image.Resampling.LANCZOS)
    assert_picture(out / 'target.png', np.asarray(expected))
    w = np.load(out / 'projected_w.npz')['w']
    assert w.shape == (1, 6, 8) and w.dtype == np.float32
    G = make_generator(seed=100)
    img = G.synthesis(torch.from_numpy(w), noise_mode='const')[0].permute(1, 2, 0).numpy()
    assert_picture(out / 'proj.png', np.clip((img + 1) * 127.5, 0, 255).astype(np.uint8))
    with Image.open(out / 'proj.webp') as video:
        assert (video.n_frames, video.size) == (3, (32, 16))
    run(generate.main, '--network', folder / 'run', '--projected-w', out / 'projected_w.npz', '--outdir', out)
    assert_picture(out / 'proj00.png', np.clip(img * 127.5 + 128, 0, 255).astype(np.uint8))


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_search_that_is_broken_off_is_saved(folder, tmp_path, monkeypatch, number):
    """A signal in the second step: its latents are those of the
    undisturbed search, the status is that of the signal."""
    Image.new('RGB', (16, 16), (9, 9, 9)).save(tmp_path / 'a.png')
    args = ['--network', folder / 'run', '--target', tmp_path / 'a.png', '--features=efflite0', '--video-format=webp']
    regulariser, calls = projector.noise_regulariser, []

    def interrupted(noise):
        calls.append(noise)
        if len(calls) == 7:         # Five layers have noise.
            os.kill(os.getpid(), number)
        return regulariser(noise)

    monkeypatch.setattr(projector, 'noise_regulariser', interrupted)
    before = signal.getsignal(number)
    status, output = run(projector.main, *args, '--outdir', tmp_path / 'out', '--num-steps=50')
    assert status == 128 + number and 'Stopped after 2 of 50 steps; what they found is saved' in output, output
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['proj.png', 'projected_w.npz', 'target.png']
    assert np.load(tmp_path / 'out/projected_w.npz')['w'].shape == (1, 6, 8) and signal.getsignal(number) == before


def test_several_targets_of_a_grey_class(folder, tmp_path):
    for name, value in (('a', 10), ('b', 200)):
        Image.new('RGB', (16, 16), (value, value, value)).save(tmp_path / f'{name}.png')
    status, output = run(projector.main, '--network', folder / 'grey.safetensors', '--class=1', '--target',
                         tmp_path / 'a.png', '--target', tmp_path / 'b.png', '--outdir', tmp_path / 'out',
                         '--num-steps=2', '--features=efflite0', '--space=w+', '--save-video=no')
    assert status == 0, output
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'proj00.png', 'proj01.png', 'projected_w.npz', 'target00.png', 'target01.png']
    assert np.load(tmp_path / 'out/projected_w.npz')['w'].shape == (2, 6, 8)
    assert Image.open(tmp_path / 'out/target01.png').mode == 'L'


@pytest.mark.parametrize('args, message', [
    ([], "Missing option '--target'"),
    (['--target={}/nowhere.png'], 'nowhere.png cannot be read: No such file'),
    (['--target={}/empty.safetensors'], 'empty.safetensors cannot be read'),
    (['--target={}/../a.png', '--network={}/grey.safetensors'], '--class is missing'),
    (['--target={}/../a.png', '--num-steps=0'], '--num-steps=0: must be at least 1'),
    (['--target={}/../a.png', '--features=vgg16'], '--features=vgg16 needs the VGG16 weights'),
])
def test_a_mistake_is_answered_in_a_sentence(folder, args, message, monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr('metrics.weights.detector_dir', lambda: tmp_path)
    Image.new('RGB', (16, 16)).save(folder.parent / 'a.png')
    status, output = run(projector.main, *(arg.format(folder) for arg in [
        '--network={}/run', '--outdir={}/../out', '--video-format=webp', *args]))
    assert status == 2 and message in ' '.join(output.split()), output


@pytest.mark.slow
def test_a_picture_of_the_demo_network_is_found_again():
    """Within the bounds that benchmarks/projector.py states."""
    from benchmarks.projector import MAX_CPU_SEC, is_found, measure
    runs = sorted((Path(__file__).parents[2] / 'demo-out').glob('0*'))
    if not runs:
        pytest.skip('no network of the demo: make demo')
    before, after, sec = measure(load_generator(str(runs[-1]), 'cpu'), [3], num_steps=100)
    assert is_found(before, after) and not is_found(before, before) and sec < MAX_CPU_SEC, (before, after, sec)
