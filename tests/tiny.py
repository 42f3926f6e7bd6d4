"""Runs small enough for tests: a made-up data set of
16-pixel images, and networks of a few thousand weights."""
import copy
import io
import json
import zipfile

import numpy as np
import PIL.Image
import torch

from training import setup
from training.run.ticks import Ticks
from training.training_loop import training_loop

# What `--cfg=tiny` leaves out and a test of the whole loop should see: path length and style mixing.
ALL_PHASES = ['--pl_weight=2', '--mixing-prob=0.9']


def make_dataset(path, num=24, res=16, channels=3, num_classes=0, seed=0):
    """A zip of soft random blobs; with classes, their brightness follows the class."""
    rng = np.random.RandomState(seed)
    labels = []
    with zipfile.ZipFile(path, 'w') as archive:
        for i in range(num):
            small = rng.randint(0, 256, [4, 4, channels]).astype(np.uint8)
            label = i % num_classes if num_classes else None
            if num_classes:
                small = (small // 2 + 127 * label // num_classes).astype(np.uint8)
            image = PIL.Image.fromarray(small.squeeze()).resize((res, res), PIL.Image.BICUBIC)
            data = io.BytesIO()
            image.save(data, 'png')
            archive.writestr(f'img{i:04d}.png', data.getvalue())
            labels.append([f'img{i:04d}.png', label])
        archive.writestr('dataset.json', json.dumps(dict(labels=labels if num_classes else None)))
    return str(path)


def make_config(data, res=16, **changes):
    """A configuration as `train.py` makes it, with tiny networks, no workers and no augmentation."""
    channels = dict(channel_base=16 * res, channel_max=16, num_fp16_res=0, conv_clamp=None)
    adam = dict(class_name='torch.optim.Adam', lr=0.002, betas=[0, 0.99], eps=1e-8)
    config = dict(
        data_shape=dict(c_dim=0, img_resolution=res, img_channels=3),
        gpus=1, snap=50, metrics=[], seed=0,
        training_set_kwargs=dict(class_name='training.dataset.ImageFolderDataset', path=data, use_labels=False,
                                 max_size=None, xflip=False, resolution=res),
        data_loader_kwargs=dict(num_workers=0),
        G_kwargs=dict(class_name='training.networks.Generator', z_dim=16, w_dim=16, mapping_kwargs=dict(num_layers=2),
                      synthesis_kwargs=dict(channels)),
        D_kwargs=dict(class_name='training.networks.Discriminator', block_kwargs={}, mapping_kwargs=dict(num_layers=2),
                      epilogue_kwargs=dict(mbstd_group_size=2), **channels),
        G_opt_kwargs=adam, D_opt_kwargs=dict(adam),
        loss_kwargs=dict(game='logistic', r1_gamma=1.0, style_mixing_prob=0.9, pl_weight=2, pl_decay=0.01,
                         pl_batch_shrink=2),
        G_reg_interval=4, D_reg_interval=16, kimg=1, batch=4, batch_gpu=4, ema_kimg=0.01, ema_rampup=0.05,
        tick=1, ada_interval=4, ada_kimg=500, loss='logistic', regularizers={}, device='cpu',
        cudnn_benchmark=False, allow_tf32=False, keep=dict(newest=2, best=True, every_kimg=None), log=['tensorboard'])
    config.update(changes)
    return config


def run_iterations(config, num, state=None):
    """(run, its state after `num` more iterations), from the start or from a (state, local state)."""
    run = setup.build(config, torch.device('cpu'))
    if state is not None:
        run.load_state_dict(*state)
    run.stages[-1].end_nimg = max(run.stages[-1].end_nimg, 10 ** 6)
    training_loop(run, Silent(run.nimg + num * config['batch']))
    return run, (run.state_dict(), run.local_state_dict())


class Silent(Ticks):
    """No output at all; stops after so many images."""

    def __init__(self, end_nimg):
        super().__init__({}, '.', torch.device('cpu'))
        self._end_nimg = end_nimg

    def begin(self, run):
        pass

    def begin_stage(self, run):
        pass

    def after_iteration(self, run):
        self.stopped = run.nimg >= self._end_nimg

    def end(self, run):
        pass


def tensors(state, prefix=''):
    """{path: tensor or value} of a nested state."""
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        state = torch.from_numpy(state) if isinstance(state, np.ndarray) else state
        return {prefix: state.clone() if isinstance(state, torch.Tensor) else state}
    return {path: leaf for key, value in items for path, leaf in tensors(value, f'{prefix}/{key}').items()}


def assert_resumes_exactly(config, num=3, stop=1):
    """A run that was saved after `stop` iterations goes on
    as if nothing had happened. Returns one that was not."""
    run, straight = run_iterations(config, num)
    _, half = run_iterations(config, stop)
    _, resumed = run_iterations(config, num - stop, state=copy.deepcopy(half))
    assert_same_bits(resumed, straight)
    return run


def assert_same_bits(state, expected, but=()):
    """Both nested states have the same leaves with the same bits."""
    state, expected = tensors(state), tensors(expected)
    assert state.keys() == expected.keys(), state.keys() ^ expected.keys()
    for path, leaf in expected.items():
        if path.split('/')[1] in but:
            continue
        same = torch.equal(state[path], leaf) if isinstance(leaf, torch.Tensor) else state[path] == leaf
        assert same, f'{path} differs'
