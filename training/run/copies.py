"""What `copied` found about the networks of a run: kept in its directory, for its report and its model card.

    copied.jsonl                            a row per answer, the latest last
    copied-network-snapshot-000020.png      the worst pairs: pictures of the generator, below each the
                                            training picture nearest to it
"""
import re
from pathlib import Path
from typing import Any

from training.run.run_files import finite, objects_of

RECORD = 'copied.jsonl'
BY_CHANCE = 0.01            # The share of pictures that are as near without copying.


def latest(run_dir: Path, snapshot: str | None = None) -> dict[str, Any] | None:
    """The last row that is whole, of one snapshot or of any; None if there is none."""
    last = None
    for row in objects_of(run_dir / RECORD):
        numbers = [finite(row.get(key)) for key in ('num_fakes', 'num_copies', 'num_unseen', 'low', 'high')]
        name = row.get('snapshot_pkl')
        if None in numbers or not isinstance(row.get('are_held_out'), bool) or not isinstance(name, str):
            continue
        if re.fullmatch(r'[\w.-]{1,100}', name) and snapshot in (None, name):
            last = row
    return last


def pairs_of(run_dir: Path, snapshot: str) -> Path:
    """Where the worst pairs of a snapshot are, or would be."""
    return Path(run_dir, f'copied-{Path(snapshot).stem}.png')


def answer(found: dict[str, Any]) -> str:
    """In three words."""
    return 'Training pictures are copied' if found['low'] > BY_CHANCE else 'No sign of copying'


def in_words(found: dict[str, Any]) -> str:
    """Rate, interval, and what they were compared with."""
    against = 'pictures held out from training'
    if not found['are_held_out']:
        against = 'training pictures, each compared with the others'
    share, low, high = (100 * value for value in (
        found['num_copies'] / max(found['num_fakes'], 1), found['low'], found['high']))
    return (f'{found["num_copies"]} of {found["num_fakes"]} pictures ({share:.1f} %, 95 % interval {low:.1f} to '
            f'{high:.1f} %) are nearer to a training picture than 99 % of {found["num_unseen"]} {against} are; '
            'chance gives 1 %. The comparison is by pixels: a copy in another pose or colour is not found')
