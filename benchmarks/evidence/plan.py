"""A frozen plan: a JSON file that says what is run, on what, and how it is judged, before the first run.

    {"name": ..., "about": ..., "base": [options of every run], "kimg": 20, "snapshots": 10, "window": 5,
     "metrics": [...], "factors": {method: [options with it]}, "data": {name: {"file",
     "fingerprint", "images"}}, "stages": [{"name", "about", "cells": {cell: {"options": [...], "levels":
     {...}}}, "blocks": [[data, n, seed], ...]}]}

The SHA-256 of the file stands in every result, so that results of a plan
that was changed afterwards do not mix with it.
"""
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

PLANS = Path(__file__).parent / 'plans'


class Block(NamedTuple):
    """What all cells of a comparison share: the data, how many images of it,
    and the seed of everything random."""
    data: str
    num_images: int
    seed: int

    def __str__(self):
        return f'{self.data}-{self.num_images}-{self.seed}'


@dataclass(frozen=True)
class Cell:
    """One run of a plan."""
    stage: str
    name: str
    options: tuple[str, ...]            # Of train.py, besides those of every run.
    block: Block

    @property
    def key(self) -> str:
        """Names the run within its plan, also as a folder."""
        return f'{self.stage}/{self.block}/{self.name}'


@dataclass(frozen=True)
class Plan:
    """A plan as it lies in its file."""
    contents: dict[str, Any]
    sha256: str

    @classmethod
    def load(cls, path: str | Path) -> 'Plan':
        """Reads a plan file, or one of the plans that come with the project by its name.

        Raises ValueError, in one sentence, if it is none.
        """
        path = Path(path)
        if not path.suffix:
            path = PLANS / f'{path}.json'
        try:
            data = path.read_bytes()
            plan = cls(json.loads(data), hashlib.sha256(data).hexdigest())
            names = [cell.key for cell in plan.cells()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path} is no plan: {error}') from error
        if len(set(names)) < len(names):
            raise ValueError(f'{path}: a run is named twice')
        return plan

    def __getitem__(self, key: str) -> Any:
        return self.contents[key]

    @property
    def short_sha(self) -> str:
        """The beginning of the hash, for people and folders."""
        return self.sha256[:12]

    @property
    def stages(self) -> dict[str, dict]:
        """{name: stage}."""
        return {stage['name']: stage for stage in self.contents['stages']}

    def cells(self) -> Iterator[Cell]:
        """All runs in the order in which they are to be made: block by block,
        so that wherever the time runs out, what is there is complete blocks and a part of one.
        """
        for stage in self.contents['stages']:
            for block in stage['blocks']:
                for name, cell in stage['cells'].items():
                    yield Cell(stage['name'], name, tuple(cell['options']), Block(*block))
