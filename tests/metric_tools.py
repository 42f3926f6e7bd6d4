"""What the tests of the metrics share: a detector of a few
thousand weights, a tiny generator, small image sets."""
import json
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tiny import make_dataset

from dnnlib.util import make_cache_dir_path
from metrics.detector import Detector, embedding_of_maps
from training.networks import Generator


def own_cache(folder, monkeypatch):
    """An empty cache for everything but the compiled
    operators, which would be compiled anew for each test."""
    ops = make_cache_dir_path('ops')
    os.makedirs(ops, exist_ok=True)
    os.makedirs(f'{folder}/cache')
    os.symlink(ops, f'{folder}/cache/ops')
    monkeypatch.setenv('DNNLIB_CACHE_DIR', f'{folder}/cache')


class TinyDetector(Detector):
    """Two random convolutions under the name of a real detector; counts how many images it was shown."""
    taps = {'s4': 4, 'pool': 6, 'logits': 5}
    main_tap = 'pool'
    fd_taps = ('s4', 'pool')

    def __init__(self, name='efflite0', seed=0):
        super().__init__()
        self.name, self.sha256, self.resize_rule = name, f'{seed:064x}', 'none'
        rng = torch.Generator().manual_seed(seed)
        self.w1 = torch.randn(4, 3, 3, 3, generator=rng)
        self.w2 = torch.randn(6, 4, 3, 3, generator=rng)
        self.w3 = torch.randn(5, 6, generator=rng)
        self.num_seen = 0

    def forward(self, images, taps):
        assert images.dtype == torch.uint8 and images.shape[1] == 3
        self.num_seen += len(images)
        maps = self._maps(images.float())
        pool = maps[1].mean(dim=(2, 3))
        features = {'s4': maps[0].mean(dim=(2, 3)), 'pool': pool, 'logits': F.linear(pool, self.w3)}
        return {tap: features[tap] for tap in taps}

    def embed(self, images):
        return embedding_of_maps(self._maps(images), [1.0, 2.0])

    def _maps(self, images):
        x = F.conv2d((images - 127) / 128, self.w1, stride=2).relu()
        return [x, F.conv2d(x, self.w2, stride=2).relu()]


def make_generator(res=16, channels=3, c_dim=0, seed=0):
    """A generator with noise of visible strength."""
    torch.manual_seed(seed)
    G = Generator(z_dim=8, c_dim=c_dim, w_dim=8, img_resolution=res, img_channels=channels,
                  mapping_kwargs={'num_layers': 2}, synthesis_kwargs={'channel_base': 128, 'channel_max': 8})
    with torch.no_grad():
        for name, parameter in G.named_parameters():
            if name.endswith('noise_strength'):
                parameter.fill_(0.3)
    return G.eval()


def dataset_kwargs(path, **changes):
    """Arguments of the data set at a path."""
    return {'class_name': 'training.dataset.ImageFolderDataset', 'path': str(path), 'use_labels': False, **changes}


def image_sets(folder, num=24, **options):
    """Arguments of two image sets of a different look."""
    return [dataset_kwargs(make_dataset(f'{folder}/set{seed}.zip', num=num, seed=seed, **options)) for seed in (1, 2)]


def read_images(kwargs):
    """All images of a set, uint8 [N, C, H, W], and their labels."""
    import dnnlib.util
    dataset = dnnlib.util.construct_class_by_name(**kwargs)
    items = [dataset[i] for i in range(len(dataset))]
    return torch.from_numpy(np.stack([item[0] for item in items])), np.stack([item[1] for item in items])


# The same arrays that tests/metrics_external.json was made with.

def external():
    """The numbers that other programs gave."""
    return json.loads((Path(__file__).parent / 'metrics_external.json').read_text(encoding='utf-8'))


def features(num, dim, seed, scale=1.0, shift=0.0):
    """Features like those of a network: correlated, not negative; float32 [num, dim]."""
    mix = np.random.default_rng(99).standard_normal((dim, dim)) / dim ** 0.5
    x = np.random.default_rng(seed).standard_normal((num, dim)) @ mix * scale + shift
    return torch.from_numpy(np.round(np.maximum(x, 0), 3).astype(np.float32))


def random_state(shapes, seed=0):
    """A state dict of random tensors {name: shape}; activations keep their size through the layers."""
    rng = np.random.default_rng(seed)
    state = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith(('running_var', 'bn.weight')):
            values = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            values = rng.standard_normal(shape, dtype=np.float32) * (2 / np.prod(shape[1:])) ** 0.5
        else:
            values = 0.1 * rng.standard_normal(shape)
        state[name] = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return state


def random_images(seed, num, height, width):
    """uint8 [num, 3, height, width]."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (num, 3, height, width), dtype=np.uint8))
