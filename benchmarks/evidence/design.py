"""The cells of a two-level fractional factorial experiment, and which effects it cannot tell apart.

Every run of such an experiment says something about every method:
an effect is the mean of the half of the runs that have the method less the mean of the half that has not.
Source: Box, Hunter & Hunter, Statistics for Experimenters (2nd edition, 2005), chapter 6.
"""
from collections.abc import Mapping
from itertools import combinations, product
from math import prod

Levels = dict[str, int]             # {factor: -1 or 1}.


def cells(basic: list[str], generators: Mapping[str, str]) -> list[Levels]:
    """All cells of a 2^(k-p) design in standard order, the first basic factor changing fastest.

    Args:
        basic: Names of the factors that take all combinations.
        generators: {further factor: the basic factors whose product it is, separated by spaces}.
    """
    found = []
    for signs in product((-1, 1), repeat=len(basic)):
        levels = dict(zip(basic, reversed(signs)))
        found.append(levels | {name: prod(levels[part] for part in parts.split())
                               for name, parts in generators.items()})
    return found


def folded(design: list[Levels]) -> list[Levels]:
    """The fold-over: every sign turned.

    With the design itself it frees interactions of two factors from one another.
    """
    return [{name: -sign for name, sign in levels.items()} for levels in design]


def contrast(design: list[Levels], effect: tuple[str, ...]) -> tuple[int, ...]:
    """The sign of an effect (one factor, or the product of several) in every cell."""
    return tuple(prod(levels[name] for name in effect) for levels in design)


def aliased_pairs(design: list[Levels]) -> list[list[tuple[str, str]]]:
    """The interactions of two factors, in groups that this design cannot tell apart."""
    groups: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for pair in combinations(design[0], 2):
        signs = contrast(design, pair)
        groups.setdefault(max(signs, tuple(-sign for sign in signs)), []).append(pair)
    return list(groups.values())
