"""No files of the project import each other in a circle, be it from inside functions.

Imports that only annotations need are left out: a game has methods, which know their game.
"""
import ast

import pytest
from source_files import project_files

FILES = {file.removesuffix('.py').removesuffix('/__init__').replace('/', '.'): source for file, source in project_files().items()}


def for_types_alone(tree):
    """All nodes below `if TYPE_CHECKING`."""
    return {id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
            for inner in ast.walk(node)}


def imports(source, files):
    """The files among `files` that this one imports."""
    tree = ast.parse(source)
    aside = for_types_alone(tree)
    for node in ast.walk(tree):
        if id(node) in aside:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom):
            names = [f'{node.module}.{alias.name}' for alias in node.names]
            yield from (name if name in files else node.module for name in names if {name, node.module} & files.keys())


def circles(files):
    """Names of files that remain when again and again those
    go that import no remaining one, or that none imports."""
    arrows = {(name, other) for name, source in files.items() for other in imports(source, files) if other != name}
    while True:
        starts, ends = {a for a, _ in arrows}, {b for _, b in arrows}
        kept = {(a, b) for a, b in arrows if a in ends and b in starts}
        if kept == arrows:
            return sorted(starts)
        arrows = kept


def test_there_are_no_circles():
    assert circles(FILES) == []


@pytest.mark.parametrize(('sources', 'expected'), [
    (dict(a='import b', b='from c import x', c='def f():\n    import a', d='import a'), ['a', 'b', 'c']),
    (dict(a='import b', b='if TYPE_CHECKING:\n    import a'), []),
    (dict(a='import b, c', b='import c', c=''), []),
])
def test_circles_are_found(sources, expected):
    assert circles(sources) == expected
