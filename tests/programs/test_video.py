"""video.py: the way between pictures, its frames, its files."""
import sys

import numpy as np
import pytest
import torch
from network_files import assert_picture, expected_picture, make_generator, run, write_networks
from PIL import Image

import video
from drawing import video_writer


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp('networks'))


def keys_of(num_keys, *shape):
    return np.random.RandomState(0).randn(2, num_keys, *shape)


@pytest.mark.parametrize('loop', [False, True])
@pytest.mark.parametrize('kind', video.PATHS)
def test_every_picture_is_passed_and_a_loop_returns(kind, loop):
    keys = keys_of(4, 6)
    times = video.frame_times(4, 10, loop)
    assert len(times) == (40 if loop else 31)
    latents = video.along(keys, times, kind, loop)
    np.testing.assert_allclose(latents[:31:10], keys.swapaxes(0, 1), atol=1e-12)
    end = video.along(keys, np.array([3.999999]), kind, loop)[0] if loop else latents[-1]
    np.testing.assert_allclose(end, keys[:, 0 if loop else -1], atol=1e-4)


def test_a_line_is_straight_and_an_arc_has_constant_speed():
    keys = np.array([[[3.0, 0], [0, 1.0]]])
    t = np.array([0, 1 / 3, 0.5, 1])
    np.testing.assert_allclose(video.along(keys, t, 'linear', False)[:, 0], [[3, 0], [2, 1 / 3], [1.5, 0.5], [0, 1]],
                               atol=1e-12)
    arc = video.along(keys, t, 'spherical', False)[:, 0]
    np.testing.assert_allclose(np.linalg.norm(arc, axis=1), 3 - 2 * t)
    np.testing.assert_allclose(np.degrees(np.arctan2(arc[:, 1], arc[:, 0])), 90 * t, atol=1e-6)


def test_an_arc_between_equal_latents_stays_there():
    key = keys_of(1, 6)
    both = np.concatenate([key, key], axis=1)
    np.testing.assert_allclose(video.along(both, np.array([0.3]), 'spherical', False)[0], key[:, 0])


@pytest.mark.parametrize('loop', [False, True])
def test_a_spline_has_no_corners(loop):
    h = 1e-5
    at = np.array([1, 2] + [0] * loop)

    def slope(t):
        return (video.along(keys_of(4, 6), t + h, 'spline', loop) - video.along(keys_of(4, 6), t, 'spline', loop)) / h
    before = np.where(at == 0, 4, at) - h
    np.testing.assert_allclose(slope(at), slope(before), atol=1e-3)


def test_easing_rests_at_pictures():
    times = video.frame_times(3, 100, loop=False, easing=True)
    assert times[0] == 0 and times[100] == 1 and times[200] == 2 and times[50] == 0.5
    assert np.all(np.diff(times) > 0) and max(np.diff(times)[[0, 99, 100, 199]]) < 0.0005


def test_walks_take_their_shares_in_order():
    assert video.split_walks(np.arange(6), 2).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_frames_are_the_pictures_of_a_grid_of_walks(folder, tmp_path):
    status, output = run(video.main, '--network', folder / 'run', '--seeds=1,2,3,4', '--grid=2x1', '--frames=2',
                         '--trunc=0.5', '--format=png', '--path=linear', '--outdir', tmp_path)
    assert status == 0 and '(3 frames)' in output
    G = make_generator(seed=100)
    frames = [np.asarray(Image.open(tmp_path / f'frame{idx:05d}.png')) for idx in range(3)]
    assert len(list(tmp_path.iterdir())) == 3
    for frame, seeds in ((frames[0], (1, 3)), (frames[2], (2, 4))):
        expected = np.concatenate([expected_picture(G, seed, psi=0.5) for seed in seeds], axis=1)
        assert np.abs(frame.astype(int) - expected).max() <= 1
    z = torch.from_numpy(np.stack([np.random.RandomState(seed).randn(8) for seed in (1, 2)])).float()
    w = G.mapping(z, None, truncation_psi=0.5).mean(dim=0, keepdim=True)
    img = G.synthesis(w, noise_mode='const')[0].permute(1, 2, 0).numpy()
    expected = np.clip(img * 127.5 + 128, 0, 255).astype(int)
    assert np.abs(frames[1][:, :16].astype(int) - expected).max() <= 1


def test_a_walk_in_z_is_mapped_frame_by_frame(folder, tmp_path):
    assert run(video.main, '--network', folder / 'grey.safetensors', '--class=2', '--seeds=1,2', '--space=z',
               '--path=linear', '--frames=2', '--format=png', '--outdir', tmp_path, '--batch=2')[0] == 0
    G = make_generator(3, 1)
    z = torch.from_numpy(np.stack([np.random.RandomState(seed).randn(8) for seed in (1, 2)])).float()
    img = G(z.mean(dim=0, keepdim=True), torch.eye(3)[[2]], noise_mode='const')[0].permute(1, 2, 0).numpy()
    assert_picture(tmp_path / 'frame00001.png', np.clip(img * 127.5 + 128, 0, 255).astype(np.uint8), 1)


def test_projected_latents_can_be_passed_through(folder, tmp_path):
    G = make_generator(seed=100)
    w = np.random.RandomState(0).randn(2, G.num_ws, 8)
    np.savez(tmp_path / 'w.npz', w=w)
    assert run(video.main, '--network', folder / 'run', '--projected-w', tmp_path / 'w.npz', '--frames=3',
               '--format=gif', '--outdir', tmp_path)[0] == 0
    with Image.open(tmp_path / 'video.gif') as gif:
        assert gif.n_frames == 4 and gif.info['loop'] == 0
        first = np.asarray(gif.convert('RGB')).astype(int)
    img = G.synthesis(torch.from_numpy(w[:1]).float(), noise_mode='const')[0].permute(1, 2, 0).numpy()
    assert np.abs(first - np.clip(img * 127.5 + 128, 0, 255)).mean() < 4       # 256 colours.


@pytest.mark.parametrize('channels', [1, 3])
def test_webp_holds_the_frames_for_their_time(tmp_path, channels):
    with video_writer.VideoWriter(tmp_path / 'a', 'webp', 20) as writer:
        writer.add_all(np.full([16, 32, channels], value, np.uint8) for value in (10, 120, 240))
    with Image.open(writer.path) as webp:
        for idx, value in enumerate((10, 120, 240)):
            webp.seek(idx)
            webp.load()
            assert webp.info['duration'] == 50
            assert abs(np.asarray(webp.convert('RGB')).mean() - value) < 3


@pytest.mark.parametrize('channels', [1, 3])
def test_mp4_holds_the_frames(tmp_path, channels):
    ffmpeg = pytest.importorskip('imageio_ffmpeg', reason='the extra "video" is not installed')
    with video_writer.VideoWriter(tmp_path / 'a', 'mp4', 10) as writer:
        writer.add_all(np.full([16, 32, channels], value, np.uint8) for value in (10, 120, 240))
    assert writer.path == tmp_path / 'a.mp4'
    reader = ffmpeg.read_frames(str(writer.path))
    meta = next(reader)
    assert meta['size'] == (32, 16) and meta['fps'] == 10 and meta['codec'] == 'h264'
    means = [np.frombuffer(frame, np.uint8).mean() for frame in reader]
    np.testing.assert_allclose(means, [10, 120, 240], atol=4)


@pytest.mark.parametrize('script', ['cat >/dev/null; exit 1', 'cat >/dev/null; echo No space left on device >&2',
                                    'echo Too wide >&2; exit 1'])
def test_an_mp4_that_ffmpeg_fails_to_write_is_an_error_and_leaves_nothing(folder, tmp_path, monkeypatch, script):
    pytest.importorskip('imageio_ffmpeg', reason='the extra "video" is not installed')
    (tmp_path / 'ffmpeg').write_text(f'#!/bin/sh\nfor file; do :; done; echo cut >"${{file#file:}}"\n{script}\n')
    (tmp_path / 'ffmpeg').chmod(0o755)
    monkeypatch.setattr('imageio_ffmpeg.get_ffmpeg_exe', lambda: str(tmp_path / 'ffmpeg'))
    status, output = run(video.main, '--network', folder / 'run', '--seeds=1,2', '--frames=50', '--format=mp4', '--outdir',
                         tmp_path / 'out')
    assert status == 1 and 'video.mp4 cannot be written: ffmpeg ended with status' in output and 'frames)' not in output
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('video_format', video_writer.VIDEO_FILES)
def test_a_video_is_written_over_one_of_before_and_over_nothing_else(tmp_path, video_format):
    pytest.importorskip('imageio_ffmpeg', reason='the extra "video" is not installed')

    def write():
        with video_writer.VideoWriter(tmp_path / 'a', video_format, 10) as writer:
            writer.add_all(np.full([16, 32, 3], value, np.uint8) for value in (10, 120, 240))
        return writer.path
    path = write()
    write()
    path.write_bytes(b'a stranger')
    with pytest.raises(video.click.ClickException, match='was not written by this program'):
        write()
    assert path.read_bytes() == b'a stranger' and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_frames_do_not_depend_on_how_many_are_computed_at_once():
    keys = keys_of(4, 6)
    times = video.frame_times(4, 10, False)
    whole = video.along(keys, times, 'spline', False)
    latents = video.way(keys, 'spline', False)
    np.testing.assert_array_equal(np.concatenate([latents(part) for part in np.array_split(times, 7)]), whole)


def test_nothing_is_written_of_a_video_that_fails(tmp_path):
    with pytest.raises(RuntimeError), video_writer.VideoWriter(tmp_path / 'a', 'webp', 10) as writer:
        writer.add(np.zeros([16, 16, 3], np.uint8))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('args, message', [
    ([], 'give either --seeds or --projected-w'),
    (['--seeds=1-4', '--projected-w=x.npz'], 'give either --seeds or --projected-w'),
    (['--seeds=1'], 'a walk needs at least two pictures, and only one was named'),
    (['--seeds=1-5', '--grid=2x1'], '5 pictures cannot be passed through by 2 walks'),
    (['--seeds=1-4', '--path=spherical'], '--path=spherical needs --space=z'),
    (['--seeds=0-4099', '--grid=2050x1', '--format=webp'], 'frames of 32800x16 pixels do not fit into webp, which ends at 16383'),
    (['--seeds=0-4099', '--grid=2050x1', '--format=mp4'], 'frames of 32800x16 pixels do not fit into mp4, which ends at 16384'),
    (['--seeds=0-1', '--grid=9999x9999'], 'do not fit into png'),
    (['--seeds=0-1', '--grid=600x600', '--format=mp4'], 'mp4, which ends at 35651584 pixels'),
    (['--seeds=0-999', '--frames=100000'], 'frames in all are too many: at most 1000000'),
    (['--seeds=0-63', '--grid=4x4', '--frames=100000', '--format=gif'], 'gif keeps them until the end'),
    (['--seeds=0-1', '--frames=1000000'], '--frames=1000000: must be at least 1 and at most 100000'),
    (['--seeds=0-999999', '--space=z'], 'frames in all are too many'),
    (['--projected-w=x.npz', '--space=z'], '--space=z needs --seeds'),
    (['--projected-w=x.npz'], 'x.npz cannot be read: No such file'),
    (['--seeds=1-4', '--grid=0x1'], 'is not a size like 8x4'),
    (['--seeds=1-4', '--network={}/empty.safetensors'], 'has no averaged generator'),
    (['--seeds=1-4', '--network={}/grey.safetensors'], '--class is missing'),
])
def test_a_mistake_is_answered_in_a_sentence(folder, args, message, tmp_path):
    status, output = run(video.main, *(arg.format(folder) for arg in [
        '--network={}/run', f'--outdir={tmp_path}', '--format=png', *args]))
    assert status == 2 and message in ' '.join(output.split()), output


def test_a_missing_extra_is_named_and_replaced_only_on_auto(monkeypatch):
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert video_writer.pick_format('auto') == 'webp' and video_writer.pick_format('gif') == 'gif'
    with pytest.raises(video.click.UsageError, match='the extra "video"'):
        video_writer.pick_format('mp4')
