"""Tests look at what a user or a neighbour could look at: names
that begin with an underscore are the exception, listed here."""
import ast
import re

from source_files import ROOT, project_files

# File and name: why there is no public way.
ALLOWED = {
    ('benchmarks/test_rates.py', '_sample'): 'a clock, in whose place a test puts numbers',
    ('data/test_dataset.py', '_files'): 'that nothing is open any more shows only inside',
    ('data/test_dataset.py', '_zip'): 'the same',
    ('dnnlib/test_output.py', '_problem'): 'the memory of a process, which later tests must not inherit',
    ('fake_cuda.py', '_C'): "torch's own",
    ('faults/test_health.py', '_batches'): 'the processes of a loader, which torch gives no public name either',
    ('faults/test_health.py', '_open'): 'processes that are always killed are put in the place of those that load images',
    ('training/test_fake_cuda.py', '_constant'): 'a cache of tensors, which tests of one process share',
    ('zoo/test_contrast.py', '_queues'): 'what formulas of the test are applied to',
    ('zoo/test_contrast.py', '_seen'): 'the same',
    ('zoo/test_diggan.py', '_norms'): "the fixture's penalty is made of these norms by other arithmetic",
    ('zoo/test_genco.py', '_draw'): "the fixture's random numbers are put in its place",
    ('zoo/test_graphs.py', '_C'): "torch's own",
    ('zoo/test_sites.py', '_answer'): 'messages are counted on their way',
    ('zoo/test_sites.py', '_patience'): 'a limit that changes while the hub waits',
    ('zoo/test_sites.py', '_pending'): 'messages are counted on their way',
    ('zoo/test_sites_greedy.py', '_answer'): 'one answer of a centre, without a run around it',
    ('zoo/test_sites_greedy.py', '_resume'): 'the same',
    ('zoo/test_sites_greedy.py', '_take_statistics'): 'the same',
    ('zoo/test_sites_hostile.py', '_num_bad'): 'what an attacker could have changed',
    ('zoo/test_sites_hostile.py', '_put'): 'what an honest end never sends',
}


def defined(tree):
    """Names that a file gives to something of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.attr if isinstance(node, ast.Attribute) else node.id


def reached_for(tree):
    """Names that a file takes from others: attributes, imports, and what it replaces by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ('self', 'cls'):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('setattr') and isinstance(node.args[1], ast.Constant):
            yield node.args[1].value


def private_names():
    """All of the project."""
    names = {name for source in project_files().values() for name in defined(ast.parse(source))}
    return {name for name in names if re.match('_[a-zA-Z]', name)}


def test_tests_reach_for_no_private_names_but_these():
    private, found = private_names(), set()
    for path in (ROOT / 'tests').rglob('*.py'):
        tree, file = ast.parse(path.read_text(encoding='utf-8')), path.relative_to(ROOT / 'tests').as_posix()
        found |= {(file, name) for name in reached_for(tree) if name in private}
    assert sorted(found - {*ALLOWED}) == []
