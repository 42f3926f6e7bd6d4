"""Calculates metrics by name and reports them.

A metric is an entry of `metrics.names`: a kind of distance, a detector, counts.
`calc_metric` puts the three together, `report_metric` writes what came out and everything it depends on,
`evaluate` does both for a training run and never ends it.
"""
from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

import dnnlib
import dnnlib.util
from dnnlib import writing
from metrics import plots
from metrics.detector import Detector
from metrics.detectors import load_detector
from metrics.features import FeatureOptions, feature_moments, feature_rows
from metrics.generator_inputs import DatasetLabels, GeneratorInputs, Labels
from metrics.image_streams import DatasetImages, GeneratedImages, frozen_copy, open_dataset
from metrics.images_elsewhere import ImagesElsewhere, images_of
from metrics.kinds import KINDS
from metrics.moments import Moments
from metrics.names import (
    Metric,
    MetricError,
    find_metric,
    full_name,
    is_valid_metric,
    list_valid_metrics,
    register_metric,
)
from metrics.sharding import StopAsked, on_main, stoppable, together
from metrics.weights import WeightOptions
from torch_utils import distributed

__all__ = [
    'Centre', 'MetricError', 'MetricOptions', 'calc_metric', 'evaluate', 'is_valid_metric',
    'list_valid_metrics', 'register_metric', 'report_metric',
]


class Centre(NamedTuple):
    """A data centre of federated training: its images, and the code appended to its labels
    for the generator."""
    dataset_kwargs: Mapping[str, Any]
    code: Sequence[float] = ()


class Scores(NamedTuple):
    """What became of several metrics: {result name: value}, and {metric: why it could not be calculated,
    or recorded}."""
    values: dict[str, float]
    failures: dict[str, str]
    unrecorded: dict[str, str]


@dataclass(frozen=True)
class MetricOptions:
    """What a metric is calculated on, and how.

    Attributes:
        G: The generator: G(z, c) -> images in -1..1, z_dim, c_dim, img_resolution, img_channels.
        dataset_kwargs: Class name and arguments of the data set of real images.
        images_kwargs: The same of a set of generated images, instead of G.
        centres: {name: Centre, or its two fields} instead of dataset_kwargs.
            A metric is scored against the union of all, or with '@name' at its end against one of them, with
            labels (and codes) to match.
        G_kwargs: Further arguments of G's call, for example truncation_psi.
        device: Where to compute; None: where G's parameters are.
        num_gpus, rank: Accepted for compatibility and not used: the process group has both.
        detector: This detector instead of loading the one that the metric names; must have its name.
        weights: Where the detector's weights are.
        seed: Of latents, labels, noise and subsets.
        batch_gen: Images per call of the generator.
        batch_size: Images per call of the detector; rounded up to a multiple of batch_gen,
            so that it and the number of processes change no bit of a generated image.
        num_workers: Processes that decode real images.
        cache, cache_dir: See `FeatureOptions`.
        progress: Show a progress bar?
        shared: Features are kept here, and found here by later metrics of the same generator:
            `shared_by` of all metrics that follow, so that each image is looked at once.
    """
    G: torch.nn.Module | None = None
    dataset_kwargs: Mapping[str, Any] | None = None
    images_kwargs: Mapping[str, Any] | None = None
    centres: Mapping[str, Centre | tuple] | None = None
    G_kwargs: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device | str | None = None
    num_gpus: int = 1
    rank: int = 0
    detector: Detector | None = None
    weights: WeightOptions = WeightOptions()
    seed: int = 0
    batch_size: int = 64
    batch_gen: int = 4
    num_workers: int = 3
    cache: bool = True
    cache_dir: str | None = None
    progress: bool = False
    shared: dict = field(default_factory=dict)


def calc_metric(metric: str, **kwargs: Any) -> dnnlib.EasyDict:
    """Calculates a metric; with a process group, all processes call this together.

    Args:
        metric: Its name.
        **kwargs: See `MetricOptions`.

    Returns:
        results {name: float}, metric, total_time (seconds), total_time_str, num_gpus,
        and what the numbers depend on: detector, detector_sha256, resize, dataset, num_real, num_gen, seed,
            params, and std_err where there is one.

    Raises:
        MetricError: On all processes, with one sentence for the user.
    """
    start = time.time()
    metric, options = full_name(metric), MetricOptions(**kwargs)
    definition = find_metric(metric)
    _, at, centre = metric.partition('@')
    facts: dict[str, Any] = {}
    with _the_same_every_time():
        if isinstance(definition, Metric):
            work = Evaluation(definition, options, centre)
            results, errors = KINDS[definition.kind](work)
            facts = on_main(work.facts)
            if errors:
                facts['std_err'] = {f'{name}{at}{centre}': value for name, value in errors.items()}
        else:
            results = distributed.broadcast_object(definition(options))
    total_time = time.time() - start
    return dnnlib.EasyDict(
        results=dnnlib.EasyDict({f'{name}{at}{centre}': float(value) for name, value in results.items()}),
        metric=metric, total_time=total_time, total_time_str=dnnlib.util.format_time(total_time),
        num_gpus=distributed.world_size(), **facts)


def report_metric(result_dict: Mapping[str, Any], run_dir: str | None = None,
                  snapshot_pkl: str | None = None) -> str | None:
    """Prints a result as a line of JSON, appends it to `metric-<name>.jsonl` of the run,
    and redraws the run's plot.

    Args:
        result_dict: From `calc_metric`.
        run_dir: Where to write; None writes nothing.
        snapshot_pkl: The network file, recorded relative to run_dir.

    Returns:
        Why it could not be written there; None if it was, or was not to be.
    """
    if run_dir is not None and snapshot_pkl is not None:
        snapshot_pkl = os.path.relpath(snapshot_pkl, run_dir)
    line = json.dumps({**result_dict, 'snapshot_pkl': snapshot_pkl, 'timestamp': time.time()})
    print(line, flush=True)
    if run_dir is not None and os.path.isdir(run_dir):
        try:
            with writing.append(os.path.join(run_dir, f'metric-{result_dict["metric"]}.jsonl')) as file:
                file.write(f'{line}\n'.encode())
            plots.plot_run(run_dir)
        # The result is printed above already. The run that continues is worth more than this file.
        except OSError as error:
            reason = error.strerror or str(error)
            print(f'Note: {result_dict["metric"]} is not recorded in {run_dir}: {reason}', file=sys.stderr,
                  flush=True)
            return reason
    return None


def evaluate(
    metrics: Sequence[str], run_dir: str | None = None, snapshot_pkl: str | None = None,
    wants_stop: Callable[[], bool] = lambda: False, **kwargs: Any,
) -> Scores:
    """Calculates and reports metrics of a run; one that fails costs a printed sentence, never the run.

    With a process group, all processes call this together. With data centres,
    each metric is taken on their union and on every one of them.

    Args:
        metrics: Their names.
        run_dir, snapshot_pkl: See `report_metric`.
        wants_stop: Asked all the time; once it is true on any process,
            what is not calculated yet fails on all.
        **kwargs: See `MetricOptions`.

    Returns:
        What came out, and what failed.
    """
    scores = Scores({}, {}, {})
    metrics = of_all_centres(metrics, kwargs.get('centres'))
    kwargs.setdefault('shared', shared_by(metrics))
    for metric in metrics:
        try:
            with stoppable(wants_stop):
                result = calc_metric(metric, **kwargs)
            reason = on_main(lambda result=result: report_metric(result, run_dir, snapshot_pkl))
        except StopAsked:
            scores.failures[metric] = 'broken off, as asked'
        except Exception as error:      # No error of a metric may end a training run.
            scores.failures[metric] = str(error) or type(error).__name__
            _print_failure(metric, error)
        else:
            scores.values.update(result.results)
            if reason is not None:
                scores.unrecorded[metric] = reason
    return scores


def of_all_centres(metrics: Sequence[str], centres: Mapping[str, Any] | None) -> list[str]:
    """Each metric, followed by the same on every data centre, if there are several."""
    names = centres if centres and len(centres) > 1 else ()
    return [name for metric in metrics for name in (metric, *(f'{metric}@{centre}' for centre in names))]


def shared_by(metrics: Sequence[str]) -> dict:
    """What these metrics, calculated one after another on one generator, share. At first only their names."""
    return {'metrics': [name for name in metrics
                        if is_valid_metric(name) or is_valid_metric(name, needs_images=True)]}


def _print_failure(metric: str, error: Exception):
    """Prints one sentence for what a user can mend, and the traceback of defects and of memory that ran out."""
    if not isinstance(error, MetricError | OSError):
        print(f'{metric} could not be calculated:\n{"".join(traceback.format_exception(error))}', flush=True)
    elif distributed.rank() == 0:
        print(f'{metric} could not be calculated: {error}', flush=True)


class Evaluation:
    """One metric on one generator or image set: the images on both sides,
    and the detector that looks at them.

    Raises:
        MetricError: On all processes, before any work is done, if something is missing or does not fit.
    """

    def __init__(self, metric: Metric, options: MetricOptions, centre: str = ''):
        self.metric, self.options, self.centre = metric, options, centre
        together(self._prepare)

    def _prepare(self):
        metric, options = self.metric, self.options
        self.device = options.device if options.device is not None else _device_of(options.G)
        self.features = FeatureOptions(
            self.device, -(-options.batch_size // options.batch_gen) * options.batch_gen, options.cache,
            options.cache_dir, options.progress)
        self.detector = options.detector or load_detector(metric, options.weights, self.device)
        assert self.detector.name == metric.detector, f'{metric.name} through the detector {self.detector.name}'
        centres = self._centres(self.centre)
        self.real = []
        if metric.kind in ('fd', 'kid', 'pr', 'prdc'):
            self.real = [images_of(c.dataset_kwargs, metric, options.num_workers) for c in centres]
        self.num_real = sum(images.num for images in self.real)
        self._prepare_fakes(centres)
        self._check()

    def _centres(self, name):
        """The real side as a list of centres: one, all, or the single data set."""
        options = self.options
        if options.centres is None and name:
            raise MetricError(f'{self.metric.name}@{name}: there are no data centres')
        if options.centres is None:
            return [Centre(options.dataset_kwargs)] if options.dataset_kwargs is not None else []
        if name and name not in options.centres:
            raise MetricError(f'{self.metric.name}@{name}: there is no centre {name}; there are '
                              f'{", ".join(options.centres)}')
        return [Centre(*options.centres[name])] if name else [Centre(*centre) for centre in options.centres.values()]

    def _prepare_fakes(self, centres):
        metric, options = self.metric, self.options
        if options.images_kwargs is not None:
            self.fake = DatasetImages(options.images_kwargs, metric.num_gen, num_workers=options.num_workers)
            return
        if options.G is None:
            raise MetricError(f'{metric.name} needs a generator or a set of generated images')
        if metric.num_gen is None:
            raise MetricError(f'{metric.name} compares two image sets; for a generator say how many images it shall '
                              f'make, as in {metric.kind}5k_{metric.detector}')
        self.G = frozen_copy(options.G, self.device)
        labels = Labels(self.G.c_dim, [DatasetLabels(d) for d in self._label_sources(centres)],
                        [c.code for c in centres])
        self.inputs = GeneratorInputs(options.seed, self.G.z_dim, labels, self.device)
        self.fake = GeneratedImages(self.G, self.inputs, metric.num_gen, options.batch_gen, options.G_kwargs)

    def _label_sources(self, centres):
        """The data sets that labels are drawn from: those of the real images;
        for path lengths those trained on."""
        if self.real:
            return [images.dataset for images in self.real]
        changes = {} if self.metric.kind == 'ppl' else {'max_size': None, 'xflip': False}
        return [c.dataset_kwargs if hasattr(c.dataset_kwargs, 'get_label') else open_dataset(c.dataset_kwargs, **changes)
                for c in centres if self.G.c_dim]

    def _check(self):
        """One sentence about what does not fit, before any image is made."""
        metric, needed = self.metric, self.metric.params.get('k', 1) + 1
        if metric.kind in ('fd', 'kid', 'pr', 'prdc') and not self.real:
            raise MetricError(f'{metric.name} needs a data set of real images')
        if self.real and self.num_real < needed:
            raise MetricError(f'{metric.name} needs at least {needed} real images, there are {self.num_real}')
        if self.options.images_kwargs is not None:
            self._check_image_set(needed)
            return
        for images in self.real:
            channels, height, width = images.dataset.image_shape
            size = self.G.img_resolution
            if (channels, height, width) != (self.G.img_channels, size, size):
                raise MetricError(f'the generator makes {size}x{size} images with {self.G.img_channels} channels, '
                                  f'{images.name} has {width}x{height} with {channels}')

    def _check_image_set(self, needed):
        metric, num = self.metric, self.fake.num
        if metric.kind == 'ppl':
            raise MetricError(f'{metric.name} needs a generator, not a set of images')
        if num < (metric.num_gen or needed):
            raise MetricError(f'{metric.name} needs {metric.num_gen or needed} generated images, {self.fake.name} has '
                              f'{num}; {metric.kind}_{metric.detector} takes all there are')

    def fake_rows(self) -> dict[str, torch.Tensor] | None:
        """{tap: features} of the generated images on process 0; made once for all metrics that share them."""
        key = (self.detector.name, self.centre, self.fake.num)
        if key not in self.options.shared:
            self.options.shared[key] = feature_rows(self.fake, self.detector, self.detector.fd_taps,
                                                    self.features)
        return self.options.shared[key]

    def real_moments(self, images: DatasetImages, taps: Sequence[str]) -> dict[str, Moments] | None:
        """{tap: moments} of real images on process 0; from their features
        where some metric needs these anyway."""
        if isinstance(images, ImagesElsewhere):
            return images.moments(self.detector, taps)
        if all(tap in self._known_rows(images) for tap in taps) or self._is_shared_with('kid', 'pr', 'prdc'):
            rows = self.real_rows(images, taps)
            return rows and {tap: Moments.of(rows[tap]) for tap in taps}
        return feature_moments(images, self.detector, taps, self.features)

    def real_rows(self, images: DatasetImages, taps: Sequence[str]) -> dict[str, torch.Tensor] | None:
        """{tap: features} of real images on process 0; made once for all metrics that share them."""
        known = self._known_rows(images)
        missing = [tap for tap in taps if tap not in known]
        if missing and self._is_shared_with('fd'):
            missing = [tap for tap in dict.fromkeys([*taps, *self.detector.fd_taps]) if tap not in known]
        if missing:
            known.update(feature_rows(images, self.detector, missing, self.features)
                         or dict.fromkeys(missing))
        return {tap: known[tap] for tap in taps} if distributed.rank() == 0 else None

    def _known_rows(self, images):
        return self.options.shared.setdefault((self.detector.name, *images.key), {})

    def _is_shared_with(self, *kinds):
        """Does a metric of these kinds, among those that share,
        look at the same real images through the same detector?"""
        others = [find_metric(name) for name in self.options.shared.get('metrics', ())]
        return any(isinstance(other, Metric) and other.kind in kinds and other.detector == self.detector.name
                   and (other.max_real or self.num_real) >= self.num_real
                   and other.keep_xflip == self.metric.keep_xflip
                   for other in others)

    def on_rows(self, function: Callable[[torch.Tensor, torch.Tensor], Any]) -> Any:
        """What `function` makes of the features [N, d] of real and generated images; process 0 calls it,
        all get it."""
        tap = self.detector.main_tap
        real = [self.real_rows(images, [tap]) for images in self.real]
        fake = self.fake_rows()
        return on_main(lambda: function(torch.cat([part[tap] for part in real])[:self.metric.max_real],
                                        fake[tap]))

    def named(self, names: str, values: Sequence[float]) -> tuple[dict[str, float], dict]:
        """Several values under the metric's name and theirs, without standard errors."""
        return {f'{self.metric.name}_{name}': value for name, value in zip(names.split(), values)}, {}

    def facts(self) -> dict[str, Any]:
        """What the numbers depend on, for the record."""
        facts = {
            'detector': self.detector.name, 'detector_sha256': self.detector.sha256,
            'resize': self.detector.resize_rule, 'params': dict(self.metric.params),
            'num_real': self.num_real, 'num_gen': self.fake.num, 'seed': self.options.seed,
        }
        if isinstance(self.fake, GeneratedImages):
            facts['batch_gen'] = self.options.batch_gen
        if self.real:
            sets = [{'name': images.name, 'fingerprint': images.fingerprint()} for images in self.real]
            facts['dataset'] = sets[0] if len(sets) == 1 else sets
        if isinstance(self.fake, DatasetImages):
            facts['images'] = {'name': self.fake.name, 'fingerprint': self.fake.fingerprint()}
        if self.options.G_kwargs:
            facts['G_kwargs'] = dict(self.options.G_kwargs)
        return facts


@contextlib.contextmanager
def _the_same_every_time():
    """No TF32 and no search for the fastest algorithm, whatever the training run uses: a score must not depend on either.

    Every process that searches may find another algorithm, which rounds in another way: scores of one network
    on a GPU differed by 5e-5 of themselves.
    """
    cudnn = torch.backends.cudnn
    settings = [(torch.backends.cuda.matmul, 'allow_tf32', False), (cudnn, 'allow_tf32', False),
                (cudnn, 'benchmark', False), (cudnn, 'deterministic', True)]
    before = [getattr(place, name) for place, name, _ in settings]
    try:
        for place, name, value in settings:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(settings, before):
            setattr(place, name, value)


def _device_of(module):
    tensor = next(iter(module.parameters()), None) if module is not None else None
    return tensor.device if tensor is not None else torch.device('cpu')
