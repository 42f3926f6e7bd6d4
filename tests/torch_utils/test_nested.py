"""Walks over nested values: order, types of containers, what is no tensor."""
from dataclasses import dataclass, field

import torch

from torch_utils.nested import map_tensors, tensors_in

ONE, TWO, THREE = torch.tensor(1), torch.tensor(2), torch.tensor(3)
VALUE = {'b': [ONE, 'text', (TWO, None)], 'a': {'c': THREE}, 'd': ()}


def test_tensors_come_in_order():
    assert [int(tensor) for tensor in tensors_in(VALUE)] == [1, 2, 3]
    assert list(tensors_in('text')) == []


def test_a_mapped_value_keeps_its_form():
    assert map_tensors(int, VALUE) == {'b': [1, 'text', (2, None)], 'a': {'c': 3}, 'd': ()}
    assert map_tensors(int, ONE) == 1


@dataclass(frozen=True)
class Pair:
    """Some of what steps are given."""
    img: torch.Tensor
    share: float
    made: int = field(init=False, default=7)


def test_dataclasses_and_numbers_are_mapped_where_asked():
    pair = Pair(ONE, 0.5)
    assert map_tensors(int, [pair]) == [Pair(1, 0.5)]
    assert map_tensors(lambda x: 2 * int(2 * x), pair, numbers=True) == Pair(4, 2)
    assert map_tensors(int, Pair) is Pair
