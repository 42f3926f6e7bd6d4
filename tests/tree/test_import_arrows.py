"""Imports go one way, dangerous or private things are not used, and every file says what it is.

    scripts -> training -> (registry) -> losses_ext -> training.loss -> torch_utils -> dnnlib; metrics know no loop,
    drawing knows no training
"""
import ast
import re
from types import ModuleType

import pytest
from source_files import ROOT, project_files

import losses_ext

SCRIPTS = {path.stem for path in ROOT.glob('*.py')} - {'legacy', 'hatch_build'}

# What of this project the files of a package may import besides their own
# package. `legacy` is the reference's name for torch_utils.network_file and,
# as a command, for convert; scripts and benchmarks may import everything.
MAY_IMPORT = {
    'dnnlib': set(),
    'torch_utils': {'dnnlib'},
    'legacy': {'dnnlib', 'torch_utils', 'convert'},
    'drawing': {'dnnlib', 'torch_utils'},
    'training': {'dnnlib', 'torch_utils'},
    'losses_ext': {'dnnlib', 'torch_utils', 'training'},
    'metrics': {'dnnlib', 'torch_utils', 'training'},
}
# Who in training/ asks the registry, for all others there.
REGISTRY_READER = 'training/config/methods.py'
# The method whose critics see through the network of a detector.
USES_A_DETECTOR = 'losses_ext/vision.py'
OURS = {*MAY_IMPORT, *SCRIPTS, 'benchmarks', 'loss_zoo', 'tests'}
# What names files of methods: the registry, and the list of their formulas for loops of others.
NAMES_METHODS = {'losses_ext/__init__.py', 'loss_zoo/terms.py'}
LOOP = {'training.training_loop', 'training.loss', 'training.setup', 'training.run.launch', 'training.run.ticks'}
# Files of losses_ext that are not methods.
SHARED_BY_METHODS = {'centres', 'consistency', 'contrast', 'option', 'ramped', 'running_mean', 'sites'}
UNSAFE = {'pickle', 'cPickle', '_pickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal', 'torchvision'}
UNSAFE_BUT_CHECKED = {('training/data/cifar10.py', 'pickle')}    # An Unpickler that finds nothing but arrays.
PRIVATE_BUT_NEEDED = {('torch_utils/cuda_graphs.py', 'torch._C')}      # Without it goes on all the same; see there.


def imported_names(tree):
    """Full names of all modules, or objects in them, that
    are imported anywhere in the file; '.' if relative."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield '.' if node.level else node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def dotted_names(tree):
    """All chains of attributes, like 'torch.nn.functional.conv2d'."""
    for node in ast.walk(tree):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name):
            yield '.'.join([node.id, *reversed(parts)])


def violations(file, source):
    """Sentences about what this file should not do."""
    tree = ast.parse(source)
    names = sorted(set(imported_names(tree)))
    yield from arrow_violations(file, names)
    yield from method_violations(file, tree, names)
    yield from unsafe_violations(file, tree, names)
    if file.split('/')[0] != 'benchmarks':
        yield from private_torch(file, tree, names)
    if not ast.get_docstring(tree):
        yield 'has no docstring'


def arrow_violations(file, names):
    package = file.split('/')[0].removesuffix('.py')
    may_import = MAY_IMPORT.get(package, OURS) | {package}
    if file == REGISTRY_READER:
        may_import = may_import | {'losses_ext'}
    if file == USES_A_DETECTOR:
        may_import = may_import | {'metrics'}
    for name in names:
        top = name.split('.')[0]
        if name == '.':
            yield 'imports by a relative name'
        if top in OURS and top not in may_import:
            yield f'imports {name}'
        if package == 'dnnlib' and top == 'torch':
            yield f'imports {name}'
        if package == 'metrics' and any(name == loop or name.startswith(f'{loop}.') for loop in LOOP):
            yield f'imports {name}'


def method_violations(file, tree, names):
    """Only lists of methods name them; methods may name the files that they share."""
    if file in NAMES_METHODS:
        return
    shared = SHARED_BY_METHODS if file.startswith('losses_ext/') else set()
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    for name in re.findall(r'\blosses_ext[./](\w+)', ' '.join([*names, *strings])):
        of_registry = hasattr(losses_ext, name) and not isinstance(getattr(losses_ext, name), ModuleType)
        if name not in {'__init__', *shared} and not of_registry:
            yield f'names losses_ext.{name}'


def unsafe_violations(file, tree, names):
    for name in names:
        top = name.split('.')[0]
        if top in UNSAFE and (file, top) not in UNSAFE_BUT_CHECKED:
            yield f'imports {name}'
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == 'torch.load' and not only_weights(node):
            yield 'calls torch.load'
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == 'allow_pickle' and ast.unparse(node.value) != 'False':
            yield 'allows pickles in NumPy files'


def only_weights(call):
    """Does this call of torch.load refuse everything but tensors?"""
    return any(keyword.arg == 'weights_only' and ast.unparse(keyword.value) == 'True' for keyword in call.keywords)


def private_torch(file, tree, names):
    """Only the public interface, and the same whatever the version (a report or a cache may name it)."""
    for name in {*names, *dotted_names(tree)}:
        if re.match(r'torch\.(.+\.)?_(?!_)', name) and (file, name) not in PRIVATE_BUT_NEEDED:
            yield f'uses {name}'
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and '__version__' in ast.unparse(node):
            yield 'compares versions'


@pytest.mark.parametrize(('file', 'source'), [pytest.param(*item, id=item[0]) for item in project_files().items()])
def test_file_keeps_the_rules(file, source):
    assert list(violations(file, source)) == []


@pytest.mark.parametrize('path', [pytest.param(path, id=path.name) for path in sorted((ROOT / 'tests').rglob('*.py'))])
def test_test_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))


def test_rules_are_applied_to_all_packages():
    assert {file.split('/')[0] for file in project_files() if '/' in file} >= {*MAY_IMPORT} - {'legacy', 'hatch_build'}
    assert {'train.py', 'generate.py', 'training/loss.py', 'torch_utils/ops/bias_act.py'} <= project_files().keys()


@pytest.mark.parametrize(('file', 'line', 'expected'), [
    ('dnnlib/a.py', 'import torch.nn', 'imports torch.nn'),
    ('dnnlib/a.py', 'from torch_utils import misc', 'imports torch_utils.misc'),
    ('dnnlib/a.py', 'from . import util', 'imports by a relative name'),
    ('torch_utils/a.py', 'def f():\n  import training.networks', 'imports training.networks'),
    ('torch_utils/ops/a.py', 'import generate', 'imports generate'),
    ('legacy.py', 'import training.networks', 'imports training.networks'),
    ('training/a.py', 'import metrics.names', 'imports metrics.names'),
    ('training/a.py', 'import train', 'imports train'),
    ('training/a.py', 'import legacy', 'imports legacy'),
    ('training/loss.py', 'import losses_ext', 'imports losses_ext'),
    ('training/config/resolve.py', 'import losses_ext', 'imports losses_ext'),
    ('training/setup.py', 'import losses_ext', 'imports losses_ext'),
    ('training/setup.py', 'from losses_ext.some_method import Method', 'names losses_ext.some_method'),
    ('training/setup.py', 'x = load("losses_ext.some_method:Method")', 'names losses_ext.some_method'),
    ('train.py', '"""See losses_ext/some_method.py."""', 'names losses_ext.some_method'),
    ('losses_ext/a.py', 'from losses_ext import some_method', 'names losses_ext.some_method'),
    ('training/a.py', 'from losses_ext.running_mean import RunningMeans', 'names losses_ext.running_mean'),
    ('losses_ext/a.py', 'import metrics', 'imports metrics'),
    ('losses_ext/a.py', 'import train', 'imports train'),
    ('metrics/a.py', 'from training import training_loop', 'imports training.training_loop'),
    ('metrics/a.py', 'from training.loss import Game', 'imports training.loss'),
    ('metrics/a.py', 'import losses_ext', 'imports losses_ext'),
    ('generate.py', 'import pickle', 'imports pickle'),
    ('generate.py', 'from torchvision.utils import make_grid', 'imports torchvision.utils'),
    ('generate.py', 'torch.load(f, weights_only=False)', 'calls torch.load'),
    ('generate.py', 'torch.load(f)', 'calls torch.load'),
    ('generate.py', 'np.load(f, allow_pickle=True)', 'allows pickles in NumPy files'),
    ('training/a.py', 'torch._C._set_something()', 'uses torch._C._set_something'),
    ('training/a.py', 'if torch.__version__ > "2": pass', 'compares versions'),
    ('training/a.py', 'new = [int(x) for x in torch.__version__.split(".")] >= [2, 6]', 'compares versions'),
    ('training/a.py', 'from torch.nn.functional import _pad', 'uses torch.nn.functional._pad'),
    ('training/a.py', '', 'has no docstring'),
])
def test_rules_find_what_they_forbid(file, line, expected):
    assert expected in list(violations(file, line))


@pytest.mark.parametrize(('file', 'line'), [
    ('dnnlib/a.py', 'import dnnlib.util'),
    ('torch_utils/a.py', 'import dnnlib, torch'),
    ('training/config/methods.py', 'import losses_ext; losses_ext.load(losses_ext.REG_TYPES["x"])'),
    ('losses_ext/a.py', 'from training.loss import Game; from losses_ext import LOSSES'),
    ('losses_ext/a.py', 'from losses_ext.option import option'),
    ('losses_ext/__init__.py', 'REG_TYPES = {"ggdr": "losses_ext.ggdr:GGDR"}'),
    ('metrics/a.py', 'from training import dataset'),
    ('metrics/a.py', 'torch.load(f, weights_only=True)'),
    ('style_mixing.py', 'import generate, losses_ext, training.setup'),
    ('training/data/cifar10.py', 'import pickle'),
    ('generate.py', 'np.load(f, allow_pickle=False)'),
    ('torch_utils/ops/a.py', 'key = [torch.__version__, torch.__file__]'),
])
def test_rules_allow_the_rest(file, line):
    assert list(violations(file, f'"""What it is."""\n{line}')) == []
