"""Data centres: sources that are open only while they are on line, and of which the labels are remembered."""
from functools import cached_property

import numpy as np

import dnnlib
from training.data.stages import Source, centre_name


class Centre(Source):
    """A source whose data set is open only while it is on line; its labels and size are remembered."""

    def __init__(self, index: int, kwargs: dict, code: np.ndarray | None):
        self.index = index
        self.code = code
        self.centre = centre_name(index), (kwargs, [] if code is None else code.tolist())
        self.num = 0                    # Images.
        self.labels = None              # (values [m,c_dim], counts [m]) once it has been on line.
        self._kwargs = kwargs

    @cached_property
    def dataset(self):
        """The data set; asking opens it."""
        return dnnlib.util.construct_class_by_name(**self._kwargs)

    @property
    def dataset_kwargs(self) -> dict:
        """What opens its data set."""
        return self._kwargs

    def note_contents(self) -> None:
        """Counts the images and labels, which are remembered when the data set is closed."""
        self.num = len(self.dataset)
        labels = [self.dataset.get_label(i) for i in range(self.num)] if self.dataset.label_dim else [np.zeros(0, np.float32)]
        self.labels = np.unique(np.stack(labels), axis=0, return_counts=True)

    def close(self) -> None:
        """Closes the data set."""
        if 'dataset' in self.__dict__:
            self.__dict__.pop('dataset').close()

    def without_path(self) -> tuple[str, tuple[dict, list[float]]]:
        """`centre` without the path of the data: what may be published with a network."""
        name, (kwargs, code) = self.centre
        return name, ({key: value for key, value in kwargs.items() if key != 'path'}, code)

    def describe(self) -> dict:
        """What its labels can be drawn from without its data. One-hot labels become the number of their
        class."""
        labels = [(int(c.argmax()) if sorted(c) == [0] * (len(c) - 1) + [1] else c.tolist(), int(count))
                  for c, count in zip(*self.labels)]
        return dict(index=self.index, code=self.code.tolist(), num=self.num, labels=labels)

    def draw_labels(self, num, rng):
        """Labels as often as its data set has them: [num,G.c_dim]
        with its code, for G, and [num,c_dim] without, for critics."""
        values, counts = self.labels
        c = values[rng.choice(len(values), size=num, p=counts / counts.sum())]
        return self.with_code(c), c


class Absent(Centre):
    """Another centre, in the process of a centre: of its data and labels there is nothing here."""
    dataset = None

    def note_contents(self) -> None:
        """Nothing is known of it."""

    def close(self) -> None:
        """Nothing is open."""


class Mixed(Source):
    """Labels of several centres, without images: each sample is
    of a random group, and of a random centre of that group."""

    def __init__(self, groups: list[list[Centre]]):
        self.code = None
        self._groups = [group for group in groups if group]

    def draw_labels(self, num, rng):
        picks = [group[rng.integers(len(group))]
                 for group in (self._groups[rng.integers(len(self._groups))] for _ in range(num))]
        pairs = [centre.draw_labels(1, rng) for centre in picks]
        return tuple(np.concatenate(side) for side in zip(*pairs))
