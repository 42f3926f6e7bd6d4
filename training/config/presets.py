"""The bundles of options that `train.py --preset` names: where to begin, by the number of images and the
resolution.

Starting points from the papers of the methods, not results measured here; docs/choosing.md says of each line where it comes
from. Plain data; imports nothing.
"""
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A bundle of options, by their names in `train.py`."""
    min_images: int                     # Meant for at least so many images ...
    max_images: int | None              # ... and fewer than so many; None: without end.
    options: dict[str, Any]
    # When fine-tuning, D's highest blocks stay as they are [FreezeD, arXiv:2002.10964].
    freezes: bool = False


PRESETS = {
    'few-shot': Preset(0, 500,
                       dict(mirror=True, aug='ada', reg_type='lecam', kimg=1000, snap=10), freezes=True),
    'limited': Preset(500, 50_000, dict(mirror=True, aug='ada', reg_type='ggdr', kimg=5000)),
    'large': Preset(50_000, None, dict(mirror=False, aug='noaug')),
}

# An option that is given settles these as well.
SETTLES = {'cfg': ('kimg', 'snap'), 'diffaugment': ('aug',)}


def added_options(name: str, resolution: int, given: dict[str, Any]) -> dict[str, Any]:
    """What a preset adds to the options that are given; those win."""
    preset = PRESETS[name]
    options = dict(preset.options)
    if preset.freezes and is_fine_tuning(given):
        options['freezed'] = num_frozen_layers(resolution)
    settled = {*given, *(other for option, others in SETTLES.items() if option in given for other in others)}
    return {option: value for option, value in options.items() if option not in settled}


def is_fine_tuning(given: dict[str, Any]) -> bool:
    """Does the run start from a trained network?"""
    return 'init_from' in given or given.get('resume', 'noresume') != 'noresume'


def num_frozen_layers(resolution: int) -> int:
    """D's layers above 64 pixels, at least those of its highest block: four in that, three in each other."""
    num_blocks = max(resolution.bit_length() - 7, 1)
    return 1 + 3 * num_blocks


def fitting_preset(num_images: int) -> str:
    """The name of the preset that is meant for so many images."""
    return next(name for name, preset in PRESETS.items()
                if preset.max_images is None or num_images < preset.max_images)
