"""Which metrics there are, and what each name stands for. Imports no torch,
so that option parsing stays fast.

A name fixes everything a number depends on but the data and the network: the kind of distance,
the detector with its resize rule, the counts, the estimator. The reference's names keep the reference's
definitions. The project's own follow the pattern `<kind><count>_<detector>`, for example `fd5k_efflite0`;
without a count (`fd_efflite0`) they compare two image sets, all of both. `lite` is short for `efflite0`
(`fd5k_lite`, `fd_lite`); records have the full name. A name that starts with `fid` always means Inception
features at the reference's resize rule.
"""
from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


class MetricError(Exception):
    """A metric cannot be computed; the message is one sentence for the user.

    Never a reason to end a training run.
    """


@dataclass(frozen=True)
class Metric:
    """What a metric's name stands for."""
    name: str
    kind: str                            # fd, kid, pr, prdc, is, ppl: a key of `kinds.KINDS`.
    detector: str                        # A key of `weights.DETECTORS`.
    num_gen: int | None = None           # Generated images (ppl: paths). None: all of a given image set.
    max_real: int | None = None          # Real images, the first in data-set order. None: all.
    keep_xflip: bool = False  # Score against the mirrored images as well if the run trained on them?
    params: Mapping = field(default_factory=dict)    # Arguments of the estimator.

    @property
    def higher_is_better(self) -> bool:
        """Are its results better when they are higher?"""
        return self.kind in ('is', 'pr', 'prdc')


_REFERENCE_FD = {'ddof': 0}  # The reference divides covariances by n, the project's own metrics by n - 1.
_REFERENCE_KID = {'num_subsets': 100, 'max_subset_size': 1000}


def _ppl(name: str, space: str, sampling: str, crop: bool) -> Metric:
    return Metric(name, 'ppl', 'vgg16', 50_000, params={'space': space, 'sampling': sampling, 'crop': crop})


# The reference's metrics in the order it lists them, then the same with fewer generated images.
_TABLE = [
    Metric('fid50k_full', 'fd', 'inception', 50_000, params=_REFERENCE_FD),
    Metric('kid50k_full', 'kid', 'inception', 50_000, max_real=1_000_000, params=_REFERENCE_KID),
    Metric('pr50k3_full', 'pr', 'vgg16', 50_000, max_real=200_000, params={'k': 3}),
    _ppl('ppl2_wend', 'w', 'end', crop=False),
    Metric('is50k', 'is', 'inception', 50_000, params={'num_splits': 10}),
    Metric('fid50k', 'fd', 'inception', 50_000, max_real=50_000, keep_xflip=True, params=_REFERENCE_FD),
    Metric('kid50k', 'kid', 'inception', 50_000, max_real=50_000, keep_xflip=True, params=_REFERENCE_KID),
    Metric('pr50k3', 'pr', 'vgg16', 50_000, max_real=50_000, keep_xflip=True, params={'k': 3}),
    _ppl('ppl_zfull', 'z', 'full', crop=True),
    _ppl('ppl_wfull', 'w', 'full', crop=True),
    _ppl('ppl_zend', 'z', 'end', crop=True),
    _ppl('ppl_wend', 'w', 'end', crop=True),
    Metric('fid5k_full', 'fd', 'inception', 5_000, params=_REFERENCE_FD),
    Metric('kid5k_full', 'kid', 'inception', 5_000, max_real=1_000_000, params=_REFERENCE_KID),
    Metric('pr5k3_full', 'pr', 'vgg16', 5_000, max_real=200_000, params={'k': 3}),
]

_COUNTS = {'1k': 1_000, '2k': 2_000, '5k': 5_000, '10k': 10_000, '50k': 50_000}
_EFFLITE = ('efflite0', 'efflite0_64px', 'efflite0_224px')
_OWN = {    # kind: (detectors it can use, arguments of the estimator)
    'fd': ((*_EFFLITE, 'inception', 'inception_clean'), {'ddof': 1}),
    'kid': ((*_EFFLITE, 'inception', 'inception_clean'), {}),
    'pr': ((*_EFFLITE, 'vgg16', 'inception', 'inception_clean'), {'k': 3}),
    'prdc': ((*_EFFLITE, 'vgg16', 'inception', 'inception_clean'), {'k': 5}),
    'ppl': ((*_EFFLITE, 'vgg16'), {'space': 'w', 'sampling': 'end', 'crop': False}),
}


def _own_metrics():
    for kind, (detectors, params) in _OWN.items():
        for detector in detectors:
            if kind != 'ppl':
                yield Metric(f'{kind}_{detector}', kind, detector, params=params)
            for text, count in _COUNTS.items():
                yield Metric(f'{kind}{text}_{detector}', kind, detector, count, params=params)


# Metrics that are a function in a file of their own, 'name': 'module:function' (docs/own/metric.md).
# They are imported when they are asked for. What such a function is and returns: `register_metric`.
FUNCTIONS: dict[str, str] = {
}

# All metrics by name; tests add some of their own.
registry: dict[str, Metric | Callable] = {metric.name: metric for metric in [*_TABLE, *_own_metrics()]}


def register_metric(function: Callable) -> Callable:
    """Makes `function` a metric under its own name (a decorator), for this process.

    It is called with the `metric_main.MetricOptions` of the evaluation and returns {result name: float};
    the names begin with the metric's. With several processes it runs on all of them, and what rank 0 returns
    counts. Its results are better when they are lower, unless it has an attribute `higher_is_better`
    that is true.

    Raises:
        ValueError: If the name is taken.
    """
    if function.__name__ in (*registry, *FUNCTIONS):
        raise ValueError(f'there is a metric {function.__name__} already')
    registry[function.__name__] = function
    return function


def full_name(name: str) -> str:
    """The name as records have it: `fd5k_efflite0_64px@north` for `fd5k_lite_64px@north`."""
    return re.sub(r'_lite(?=_|@|$)', '_efflite0', name)


def parse_names(text: str, needs_images: bool | None = False) -> list[str]:
    """Full names from a comma list; nothing or 'none' is an empty list. `needs_images`: see
    `is_valid_metric`; None: both.

    Raises:
        MetricError: If there is no such metric.
    """
    names = [name.strip() for name in text.split(',') if name.strip()] if text.lower() != 'none' else []
    kinds = (False, True) if needs_images is None else (needs_images,)
    for name in names:
        if not any(is_valid_metric(name, kind) for kind in kinds):
            raise MetricError(f'there is no metric {name}; {valid_names_sentence()}')
    return [full_name(name) for name in names]


def find_metric(name: str) -> Metric | Callable:
    """The definition behind a name; what follows an '@' (a data centre) is left aside.

    Raises:
        MetricError: If there is none.
    """
    base = full_name(name).partition('@')[0]
    if base in FUNCTIONS:
        module, function = FUNCTIONS[base].split(':')
        return getattr(importlib.import_module(module), function)
    if base not in registry:
        raise MetricError(f'there is no metric {name}; {valid_names_sentence()}')
    return registry[base]


def higher_is_better(result: str) -> bool:
    """Is a result, as 'pr50k3_full_recall' or 'fd5k_efflite0@north',
    better when it is higher? Its metric says so.

    Of results whose metric is not known here, as in records of other programs, it is not.
    """
    name = full_name(result).partition('@')[0]
    while name and name not in registry and name not in FUNCTIONS:
        name = name.rpartition('_')[0]
    return bool(name) and getattr(find_metric(name), 'higher_is_better', False)


def is_valid_metric(metric: str, needs_images: bool = False) -> bool:
    """Is it a metric of a generator (or, with `needs_images`, of a set of generated images)?"""
    return full_name(metric).partition('@')[0] in list_valid_metrics(needs_images)


def list_valid_metrics(needs_images: bool = False) -> list[str]:
    """All metrics of a generator in the order of registration, the reference's first.

    With `needs_images`, those that compare two image sets instead: only images,
    no paths through a latent space.
    """
    def is_listed(entry):
        if not isinstance(entry, Metric):
            return not needs_images
        return entry.kind != 'ppl' if needs_images else entry.num_gen is not None
    listed = [name for name, entry in registry.items() if is_listed(entry)]
    return listed if needs_images else [*listed, *FUNCTIONS]


def valid_names_sentence() -> str:
    """The valid names in a sentence, the patterned ones by their pattern."""
    patterned = {metric.name for metric in _own_metrics()}
    plain = [name for name in (*registry, *FUNCTIONS) if name not in patterned]
    pattern = f'<{"|".join(_OWN)}><{"|".join(_COUNTS)}>_<detector>'
    return f'valid are {", ".join(plain)}, and {pattern} such as fd5k_efflite0 (detectors: {", ".join(detectors())})'


def detectors() -> list[str]:
    """The detectors of the patterned names."""
    return list(dict.fromkeys(detector for names, _ in _OWN.values() for detector in names))
