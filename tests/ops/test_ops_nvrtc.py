"""The way by NVRTC without a GPU: kernels compile, and what Python starts is what the compiled binding would
start, with the results of plain operators. Nothing here has run on a GPU; see docs/operators.md."""
import ctypes
import errno
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from declared_in_python import kernels_needed

from torch_utils.ops import __main__ as commands
from torch_utils.ops import backend, build, declared, driver, kernels, launched, nvrtc
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.upfirdn2d import upfirdn2d

HERE = Path(__file__).parent
LAYOUTS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
layouts = pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
# Of the largest result: one rounding, and what adding in float32 costs.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 3e-6, torch.bfloat16: 6e-3, torch.float16: 1e-3}
SOME_TYPES = torch.float32, torch.float64
ONLY_ON_CPUS = {'scale_bias_act', 'scale_bias_act_grad', 'filter_act', 'filter_act_grad'}
ELF = b'\x7fELF machine code'


def fake_driver(folder, names, *flags):
    """fake_driver.cpp as a library, with these kernels."""
    try:
        cxx = build.find_compiler()
    except build.Unavailable as reason:
        pytest.skip(str(reason))
    (folder / 'kernels.inc').write_text(kernels.source(names))
    includes = [f'-I{build.SOURCE_DIR}', f'-I{folder}']
    subprocess.run([cxx, '-std=c++20', '-fPIC', '-shared', *flags, *includes, HERE / 'fake_driver.cpp',
                    '-o', folder / 'driver.so'], check=True)
    return folder / 'driver.so'


@pytest.fixture(scope='session')
def some_kernels(tmp_path_factory):
    return fake_driver(tmp_path_factory.mktemp('driver'), kernels_needed(), '-O0')


class Starts:
    """Starts kernels by a fake driver, and notes their names."""

    def __init__(self, path, names):
        self.driver, self.names = driver.Driver(str(path)), set()
        self.handles = self.driver.functions(ELF, list(names))

    def __call__(self, launch, device):
        self.names.add(launch.name)
        self.driver.start(self.handles[launch.name], launch, 7, 3)


@pytest.fixture
def start(some_kernels):
    return Starts(some_kernels, kernels_needed())


FILTERS = [((4, 4), {'up': (2, 2), 'padding': (2, 1, 2, 1)}),
           ((4, 4), {'down': (2, 2), 'padding': (1, 1, 1, 2)}),
           ((4, 4), {'padding': (2, 1, -1, 3)}),
           ((1, 12), {'up': (2, 1), 'padding': (6, 5, 0, 0)}),
           ((12, 1), {'up': (1, 2), 'padding': (0, 0, 6, 5)}),
           ((1, 12), {'down': (2, 1), 'padding': (6, 6, 0, 0)}),
           ((12, 1), {'down': (1, 2), 'padding': (0, 0, 6, 6)}),
           ((3, 2), {'up': (3, 1), 'down': (1, 2), 'padding': (2, 2, 2, 2)})]
SHAPES = [(2, 3, 7, 9), (2, 8, 6, 12), (1, 64, 5, 5), (3, 1, 2, 2), (0, 3, 4, 4)]


def check(obtained, expected):
    assert obtained.shape == expected.shape
    if expected.numel():
        largest = max(expected.abs().max(), 1e-3)
        assert (obtained.double() - expected).abs().max() <= TOLERANCE[obtained.dtype] * largest


def check_filters(start, dtypes, layout):
    for dtype, shape, (taps, options) in itertools.product(dtypes, SHAPES, FILTERS):
        x, f = torch.randn(shape).to(dtype).contiguous(memory_format=layout), torch.randn(taps)
        options = {'up': (1, 1), 'down': (1, 1), 'flip_filter': False, 'gain': 1.5} | options
        y = launched.upfirdn2d(start, x, f, **options)
        expected = upfirdn2d(x.double(), f, impl='ref', **options)
        check(y, expected)
        assert y.is_contiguous(memory_format=layout)
        check(launched.filter_add(start, x, f, **options, base=y), expected + y.double())


def check_bias_act(start, dtypes, layout, acts):
    for dtype, shape, act, clamp in itertools.product(dtypes, SHAPES, acts, (None, 0.9)):
        x, b, dy = (torch.randn(size).to(dtype) for size in (shape, shape[1], shape))
        x, options = x.contiguous(memory_format=layout), (1, kernels.ACTS.index(act), 0.2, 1.3, clamp)
        wide = x.double().requires_grad_()
        expected = bias_act(wide, b.double(), act=act, alpha=0.2, gain=1.3, clamp=clamp, impl='ref')
        y = launched.bias_act(start, 0, x, b, *options)
        check(y, expected.detach())
        if dtype == torch.float64:
            ref = (x, b) if act == 'swish' else (y, None)
            check(launched.bias_act(start, 1, dy, *ref, *options), torch.autograd.grad(expected, wide, dy)[0])


def check_layers(start, dtypes, layout):
    for dtype, shape, act, own_noise in itertools.product(dtypes, SHAPES, kernels.LAYER_ACTS, (True, False)):
        x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
        wide = launched.compute_type(x)
        sizes = shape[:2], (shape[0] if own_noise else 1, 1, *shape[2:]), (), shape[1:2]
        scale, noise, strength, b = (torch.randn(size, dtype=wide) for size in sizes)
        options = kernels.ACTS.index(act), 0.2, 1.3, None
        t = x.double() * scale.double()[:, :, None, None] + noise.double() * strength.double()
        y = launched.layer_act(start, x, scale, noise, strength, b, None, *options)
        expected = bias_act(t, b.double(), act=act, gain=1.3, impl='ref')
        check(y, expected)
        check(launched.layer_act(start, x, scale, noise, strength, b, x, *options), expected + x.double())
        slope = torch.where(y > 0, 1.3, 1.3 if act == 'linear' else 1.3 * 0.2)
        d = x.double() * slope
        expected = torch.stack([(d * other).sum([2, 3]) for other in (x.double(), 1, noise.double())])
        for told in ((y, x), (None, x)):
            dx, sums = launched.layer_act_grad(start, x, *told, scale, noise, strength, b, *options)
            check(dx, d * scale.double()[:, :, None, None])
            torch.testing.assert_close(sums, expected.to(wide), rtol=1e-4, atol=1e-4)
        r = torch.randn_like(sums)
        d_dy, d_x, d_scale = launched.layer_act_grad2(
            start, x, r, x, y, x, scale, noise, strength, b, *options
        )
        first, second, third = r.double()[:, :, :, None, None]
        check(
            d_dy,
            slope
            * (x.double() * (scale.double()[:, :, None, None] + first) + second + third * noise.double()),
        )
        check(d_x, first * d)
        torch.testing.assert_close(d_scale, (x.double() * d).sum([2, 3]).to(wide), rtol=1e-4, atol=1e-4)


def check_joint(start, dtypes, layout):
    """Filters with an activation, for which there is a kernel or two."""
    place = [2, 1, 2, 2], False, 1.5
    for dtype, shape, act, clamp in itertools.product(dtypes, SHAPES, kernels.LAYER_ACTS, (None, 0.9)):
        x, f = torch.randn(shape).to(dtype).contiguous(memory_format=layout), torch.randn(4, 4)
        wide, options = launched.compute_type(x), (kernels.ACTS.index(act), 0.2, 1.3, clamp)
        filtered = partial(upfirdn2d, f=f, padding=place[0], gain=place[2], impl='ref')
        activated = partial(bias_act, act=act, gain=1.3, clamp=clamp, impl='ref')
        b = torch.randn(shape[1], dtype=wide)
        check(
            launched.act_filter(start, x, b, f, *place, *options), filtered(activated(x.double(), b.double()))
        )
        dy = torch.randn(filtered(x).shape).to(dtype)
        way = [1, 2, 1, 1], True, 1.5                   # As `place` leads here.
        slope = activated(x.double(), b.double())
        slope = (
            1.3 * torch.where((slope > 0) | (act == 'linear'), 1, 0.2) * (slope.abs() < (clamp or torch.inf))
        )
        expected = upfirdn2d(dy.double(), f, padding=way[0], flip_filter=True, gain=1.5, impl='ref') * slope
        dx, sums = launched.act_filter_grad(start, dy, x, b, f, *way, *options)
        check(dx, expected)
        torch.testing.assert_close(sums, expected.sum([2, 3]).to(wide), rtol=1e-4, atol=1e-4)
        t = filtered(x.double())
        scale, noise, strength = (
            torch.randn(size, dtype=wide) for size in (shape[:2], (1, 1, *t.shape[2:]), ())
        )
        y = launched.filter_layer_act(start, x, f, *place, scale, noise, strength, b, *options)
        assert y.is_contiguous(memory_format=layout)
        check(
            y,
            activated(t * scale.double()[:, :, None, None] + noise.double() * strength.double(), b.double()),
        )


@layouts
def test_filters_started_from_python_are_those_of_the_compiled_binding(start, layout):
    """The driver compares kernel, every byte of its argument and the number of blocks with the C++ choice."""
    check_filters(start, SOME_TYPES, layout)
    assert {name.split('_')[0] for name in start.names} == {'strip', 'gather'}


@layouts
def test_bias_act_started_from_python_is_that_of_the_compiled_binding(start, layout):
    check_bias_act(start, SOME_TYPES, layout, ('linear', 'lrelu', 'swish', 'tanh'))


@layouts
def test_layer_act_started_from_python_is_that_of_the_compiled_binding(start, layout):
    check_layers(start, SOME_TYPES, layout)
    assert len(start.names) >= 24           # Types, packs, activations, value and derivatives of both orders.


@layouts
def test_kernels_that_filter_and_activate_started_from_python_are_those_of_the_compiled_binding(
    start, layout
):
    check_joint(start, SOME_TYPES, layout)
    assert {name.split('_float')[0] for name in start.names} >= {*kernels.JOINT, 'act_filter_grad'}


@pytest.mark.slow
def test_every_kernel_started_from_python_is_that_of_the_compiled_binding(tmp_path):
    start = Starts(fake_driver(tmp_path, kernels.all_kernels(), '-O1'), kernels.all_kernels())
    for layout in LAYOUTS.values():
        check_filters(start, TOLERANCE, layout)
        check_bias_act(start, TOLERANCE, layout, kernels.ACTS)
        check_layers(start, TOLERANCE, layout)
        check_joint(start, TOLERANCE, layout)
    left = set(kernels.all_kernels()) - start.names
    assert [name for name in left if not name.startswith('bias_act')] == []


def test_operators_declared_in_python(some_kernels):
    """Schemas, shapes, derivatives of both orders, torch's own check; and no library can bring its own after."""
    answer = subprocess.run([sys.executable, HERE / 'declared_in_python.py', some_kernels], cwd=HERE.parents[1],
                            capture_output=True, text=True, env=os.environ | {'PYTHONPATH': str(HERE.parents[1])})
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == 'this process has declared the operators in Python\n'


PLAIN = 1, 0, 0., 1., None                  # dim, act, alpha, gain, clamp.
ONES, IMAGE, LAYER = torch.ones(2, 3), torch.ones(1, 1, 4, 4), torch.ones(1, 2, 4, 4)
TAPS, ONCE, NONE = torch.ones(2, 2), [1, 1], [0, 0, 0, 0]


@pytest.mark.parametrize(('function', 'arguments', 'message'), [
    ('bias_act', (0, ONES, torch.ones(2), *PLAIN), r'b \[2\]: must be \[3\]'),
    ('bias_act', (0, ONES, torch.ones(3), 2, *PLAIN[1:]), 'dim=2: x has 2 axes'),
    ('bias_act', (0, ONES, torch.ones(3).double(), *PLAIN), 'b is torch.float64, x is torch.float32'),
    ('bias_act', (0, ONES, None, 1, 9, *PLAIN[2:]), r'act=9: must be 0 \.\.\. 8'),
    ('bias_act', (0, ONES, None, *PLAIN[:-1], -1.), 'clamp=-1.0: must be None, or 0 or more'),
    ('bias_act', (0, ONES.int(), None, *PLAIN), 'x is torch.int32: must be float32, float64,'),
    ('bias_act', (1, ONES.T, ONES, None, *PLAIN), r'dy \[3, 2\]: must be \[2, 3\]'),
    ('upfirdn2d', (ONES, TAPS, ONCE, ONCE, NONE, False, 1.), 'x has 2 axes'),
    ('upfirdn2d', (IMAGE, TAPS[0], ONCE, ONCE, NONE, False, 1.), r'f is torch.float32 \[2\]'),
    ('upfirdn2d', (IMAGE, TAPS, [0, 1], ONCE, NONE, False, 1.), 'x axis: up=0, down=1'),
    ('upfirdn2d', (IMAGE, TAPS, ONCE, [1], NONE, False, 1.), 'must be pairs'),
    ('upfirdn2d', (IMAGE, TAPS, ONCE, ONCE, [0, 0, -2, -1], False, 1.), 'y axis: no output from 4'),
    ('upfirdn2d', (IMAGE, TAPS, ONCE, ONCE, [2 ** 40, 0, 0, 0], False, 1.), 'numbers beyond'),
    ('layer_act', (LAYER, torch.ones(2, 1), None, None, None, None, *PLAIN[1:]), r'scale \[2, 1\]: must be \[1, 2\]'),
    ('layer_act', (LAYER, None, torch.ones(3, 1, 4, 4), None, None, None, *PLAIN[1:]), 'noise .*: must be .N or 1'),
    ('layer_act', (LAYER, None, None, None, torch.ones(2).half(), None, *PLAIN[1:]), 'b is torch.float16 on cpu: must'),
    ('layer_act', (LAYER, None, None, None, None, None, 3, *PLAIN[2:]), 'act=3: must be linear or lrelu'),
    ('layer_act', (LAYER, None, None, None, None, LAYER[:, :1], *PLAIN[1:]), r'base \[1, 1, 4, 4\]: must be \[1, 2, 4, 4\]'),
    ('layer_act_grad2', (LAYER, torch.ones(1), LAYER, LAYER, LAYER, *[None] * 4, *PLAIN[1:]), r'r \[1\]: must be \[3, 1, 2\]'),
    ('filter_add', (IMAGE, TAPS, ONCE, ONCE, NONE, False, 1., IMAGE), r'base \[1, 1, 4, 4\]: must be \[1, 1, 3, 3\]'),
    ('filter_layer_act', (IMAGE, TAPS, NONE, False, 1., None, IMAGE, None, None, *PLAIN[1:]), r'noise \[1, 1, 4, 4\]: must be'),
])
def test_arguments_are_checked_before_memory_is_touched(function, arguments, message):
    def never(launch, device):
        raise AssertionError(launch)
    with pytest.raises(RuntimeError, match=message):
        getattr(launched, function)(never, *arguments)


def test_schemas_are_those_of_the_library():
    if backend.why_not('cpu', torch.float32) is None:
        for name, schema in declared.schemas().items():
            registered = str(getattr(torch.ops.stylegan2_loss_zoo, name).default._schema)
            assert registered.partition('::')[2] == schema
    assert set(declared.SHAPES) == set(declared.schemas()) - ONLY_ON_CPUS


@pytest.mark.parametrize(('where', 'name', 'value'), [
    (kernels, 'THREAD_ELEMENTS', 8), (kernels, 'TILE_ROUNDS', 8),
    (kernels, 'STRIP_WIDTHS', {False: 2, True: 2}),
    (kernels.Activation, None, None)], ids=['elements', 'rounds', 'widths', 'structure'])
def test_what_differs_from_the_kernels_is_not_compiled(monkeypatch, tmp_path, where, name, value):
    """Numbers and structures that Python repeats are compared by the compiler."""
    try:
        cxx = build.find_compiler()
    except build.Unavailable as reason:
        pytest.skip(str(reason))
    if name:
        monkeypatch.setattr(where, name, value)
    else:
        class Swapped(ctypes.Structure):
            _fields_ = [('size', ctypes.c_int64), ('channels', ctypes.c_int64), ('inner', ctypes.c_int64)]
        monkeypatch.setattr(kernels, 'BiasAct', Swapped)
    (tmp_path / 'kernels.inc').write_text(kernels.source(['gather_float32']))
    code = ('#include "cuda_kernels.h"\n#define KERNEL(...)\n'
            '#define OFFSET(field, ...) __builtin_offsetof(__VA_ARGS__, field)\n'
            'namespace zoo {\n#include "kernels.inc"\n}\n')
    command = [cxx, '-std=c++20', '-fsyntax-only', f'-I{build.SOURCE_DIR}', f'-I{tmp_path}', '-x', 'c++', '-']
    answer = subprocess.run(command, input=code, capture_output=True, text=True)
    assert answer.returncode and 'static assertion failed' in answer.stderr


# The driver.

def test_a_thread_without_a_context_gets_one(some_kernels):
    """As that of a backward pass may be."""
    path, name = some_kernels, 'bias_act_float32_0_linear'
    fake = driver.Driver(str(path))
    handle = fake.functions(ELF, [name])[name]
    library = ctypes.CDLL(str(path))
    has_context = ctypes.c_bool.in_dll(library, 'thread_has_context')
    has_context.value = False
    x = torch.randn(5)
    def start(launch, device):
        fake.start(handle, launch, 7, 3)
    y = launched.bias_act(start, 0, x, None, 0, 0, 0., 2., None)
    assert torch.equal(y, 2 * x) and has_context.value


def test_a_kernel_that_is_not_started_is_an_error(some_kernels):
    fake = driver.Driver(str(some_kernels))
    with pytest.raises(RuntimeError, match='the kernel was not started: named symbol not found'):
        fake.functions(ELF, ['nonsense'])
    with pytest.raises(RuntimeError, match='the kernel was not started: no kernel image is available'):
        fake.functions(b'something else', [])
    name = 'bias_act_float32_0_linear'
    handle = fake.functions(ELF, [name])[name]
    with pytest.raises(RuntimeError, match='the kernel was not started: another grid'):
        launched.bias_act(lambda launch, device: fake.start(handle, launch, 8, 3), 0, torch.ones(2), None, 0, 0, 0., 1., None)
    with pytest.raises(RuntimeError, match='more blocks than a grid can have'):
        fake.start(handle, kernels.Launch(name, kernels.BiasAct(), 2 ** 31), 7, 3)


def test_kernels_are_loaded_once_on_each_device_and_started_on_its_stream(monkeypatch):
    """Also from a thread, and on a device that is not the current one."""
    codes, current, events = [], [0], []

    class Device:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            self.before, current[0] = current[0], self.device.index

        def __exit__(self, *error):
            current[0] = self.before

    class Fake:
        def functions(self, code, names):
            return {name: f'{name} on {current[0]}' for name in names}

        def start(self, handle, launch, stream, device):
            events.append((handle, stream, device))
    for name, value in dict(current_device=lambda: current[0], device=Device, synchronize=lambda: codes.append(current[0]),
                            current_stream=lambda device: SimpleNamespace(cuda_stream=11)).items():
        monkeypatch.setattr(torch.cuda, name, value)
    starter = driver.Starter(Fake(), lambda device: [(ELF, ['a', 'b'])])
    launch = kernels.Launch('b', kernels.BiasAct(), 1)
    for index in (0, 1, 1, 0):
        thread = threading.Thread(target=starter, args=(launch, torch.device('cuda', index)))
        thread.start()
        thread.join()
    assert events == [(f'b on {index}', 11, index) for index in (0, 1, 1, 0)] and codes == [0, 1] and current == [0]


# Compiling, and what may fail.

@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A program in the place of NVRTC's; returns a function that says what it does, in Python."""
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
    library, program = tmp_path / 'libnvrtc.so.13', tmp_path / 'program.py'
    library.touch()
    monkeypatch.setattr(nvrtc, 'find_nvrtc', lambda: library)
    monkeypatch.setattr(nvrtc, 'PROGRAM', program)

    def does(code):
        program.write_text(f'import sys\n{code}\n')
    does("sys.stdout.write('machine code')")
    return does


def test_machine_code_is_kept_under_the_names_of_what_it_is_made_of(stand_in, capfd):
    paths = nvrtc.build_kernels('90')
    assert all(build.content_of(path) == b'machine code' for path in paths.values())
    assert nvrtc.build_kernels('90') == paths
    assert capfd.readouterr().out.count('Compiling the operators for sm_90 by NVRTC') == 1
    assert not set(nvrtc.build_kernels('80').values()) & set(paths.values())
    for path in paths.values():
        path.write_bytes(path.read_bytes()[:-3])                # Cut.
    assert all(map(build.is_whole, nvrtc.build_kernels('90').values()))


def test_every_kernel_is_in_one_group():
    names = [name for group in nvrtc.GROUPS for name in kernels.all_kernels() if name.startswith(nvrtc.GROUPS[group])]
    assert sorted(names) == sorted(kernels.all_kernels())


def test_what_nvrtc_complains_of_is_told_and_remembered(stand_in, tmp_path, capfd):
    stand_in("sys.exit('nvrtc: error: invalid value for --gpu-architecture (-arch)')")
    with pytest.raises(build.Unavailable, match='building the nvrtc operators fails: nvrtc: error: invalid value for --gpu-arch'):
        nvrtc.build_kernels('130')
    with pytest.raises(build.Unavailable, match='has failed before: nvrtc: error: invalid value .* to try again: '):
        nvrtc.build_kernels('130')
    assert len(list((tmp_path / 'cache' / 'ops').glob('*.log'))) == len(nvrtc.GROUPS)
    assert capfd.readouterr().err == ''


def test_a_compiler_that_was_killed_may_do_another_time(stand_in):
    stand_in('import os, signal; os.kill(os.getpid(), signal.SIGKILL)')
    for _ in range(2):
        with pytest.raises(build.Unavailable, match='building the nvrtc operators fails: error: Killed by signal 9$'):
            nvrtc.build_kernels('90')


@pytest.mark.parametrize('place', ['pathlib.Path.mkdir', 'fcntl.flock', 'os.replace', 'pathlib.Path.read_bytes'])
def test_a_cache_that_cannot_be_used_is_a_reason(stand_in, monkeypatch, place):
    def refused(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), '/home/me/.cache')
    monkeypatch.setattr(place, refused)
    with pytest.raises(build.Unavailable, match='Read-only file system.*; DNNLIB_CACHE_DIR may name a folder on another disk'):
        nvrtc.build_kernels('90')


def test_without_the_library_or_the_driver_the_reason_is_a_sentence(monkeypatch, tmp_path):
    with pytest.raises(build.Unavailable, match='^no CUDA driver: '):
        driver.Driver('libcuda-that-is-not-there.so.1')
    monkeypatch.setattr(torch.version, 'cuda', None)
    with pytest.raises(build.Unavailable, match='^this torch is built without CUDA$'):
        nvrtc.find_nvrtc()
    monkeypatch.setattr(torch.version, 'cuda', '99.0')
    with pytest.raises(build.Unavailable, match='^no libnvrtc.so.99: neither beside torch nor below .CUDA_HOME'):
        nvrtc.find_nvrtc()
    (tmp_path / 'lib64').mkdir()
    for name in ('libnvrtc-builtins.so.99.0', 'libnvrtc.alt.so.99', 'libnvrtc.so.99'):
        (tmp_path / 'lib64' / name).touch()
    monkeypatch.setenv('CUDA_HOME', str(tmp_path))
    assert nvrtc.find_nvrtc() == tmp_path / 'lib64' / 'libnvrtc.so.99'


# Which way.

def no_compiler(library):
    raise build.Unavailable('no CUDA compiler: nvcc is neither on PATH nor below $CUDA_HOME')


def test_where_nvcc_does_not_do_nvrtc_does_and_says_so(monkeypatch):
    loaded = []
    monkeypatch.setattr(backend, 'load_library', no_compiler)
    monkeypatch.setattr(nvrtc, 'load', lambda: loaded.append('nvrtc'))
    with pytest.warns(RuntimeWarning, match='compiled operators are those of NVRTC, started from Python: no CUDA compiler: nvcc'):
        backend.load_for_cuda()
    assert loaded == ['nvrtc']


def test_where_neither_does_both_reasons_are_told(monkeypatch):
    monkeypatch.setattr(backend, 'load_library', no_compiler)
    monkeypatch.setattr(nvrtc, 'load', partial(no_compiler, None))
    with pytest.raises(build.Unavailable, match='^no CUDA compiler: .*; and not by NVRTC: no CUDA compiler'):
        backend.load_for_cuda()


@pytest.mark.parametrize(('way', 'expected'), [
    ('nvcc', 'no CUDA compiler: nvcc.*HOME$'), ('cuda', 'DNNLIB_OPS_CUDA=cuda: must be one of')])
def test_the_environment_says_which_way(monkeypatch, way, expected):
    monkeypatch.setattr(backend, 'load_library', no_compiler)
    monkeypatch.setattr(nvrtc, 'load', lambda: None)
    monkeypatch.setenv('DNNLIB_OPS_CUDA', way)
    with pytest.raises(build.Unavailable, match=expected):
        backend.load_for_cuda()


def test_nvrtc_may_be_asked_for(monkeypatch):
    loaded = []
    monkeypatch.setattr(backend, 'load_library', loaded.append)
    monkeypatch.setattr(nvrtc, 'load', lambda: loaded.append('nvrtc'))
    monkeypatch.setenv('DNNLIB_OPS_CUDA', 'nvrtc')
    with pytest.warns(RuntimeWarning, match='those of NVRTC, started from Python: DNNLIB_OPS_CUDA=nvrtc'):
        backend.load_for_cuda()
    assert loaded == ['cpu', 'nvrtc']               # Schemas and derivatives are those of C++ where that can be compiled.


def test_a_driver_that_refuses_the_kernels_is_a_reason(monkeypatch, stand_in):
    """As one that is too old does."""
    monkeypatch.setattr(torch.cuda, 'current_device', lambda: 0)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: None)

    class Old:
        def functions(self, code, names):
            raise RuntimeError('the kernel was not started: device kernel image is invalid')
    monkeypatch.setattr(nvrtc, 'Driver', Old)
    with pytest.raises(build.Unavailable, match='^the kernels of NVRTC cannot be loaded: .*device kernel image is invalid$'):
        nvrtc.load()


def test_doctor_and_build_say_which_way_and_why(monkeypatch, stand_in):
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '8.0;9.0+PTX')
    monkeypatch.setenv('DNNLIB_OPS_CUDA', 'nvrtc')
    lines = commands.report_of('cuda')
    assert lines[0] == 'NVRTC is used: DNNLIB_OPS_CUDA=nvrtc' and 'for            sm_80, sm_90' in lines
    assert lines[-1] == 'layer_act      native by NVRTC: to be built at first use'
    monkeypatch.setattr(commands, 'libraries_here', lambda: ['cuda'])
    monkeypatch.setattr(backend, 'why_not', lambda device, dtype: None)
    output = CliRunner().invoke(commands.main, ['build']).output
    assert 'cuda: by NVRTC: DNNLIB_OPS_CUDA=nvrtc' in output and output.count('.cubin') == 6
    assert any('native by NVRTC: built ' in line for line in commands.report_of('cuda'))


# NVRTC itself.

def needs_nvrtc():
    try:
        return nvrtc.find_nvrtc()
    except build.Unavailable as reason:
        pytest.skip(str(reason))


def test_nvrtc_compiles_a_kernel(monkeypatch, tmp_path):
    """Machine code, for the oldest and the newest; and what it complains of."""
    needs_nvrtc()
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(nvrtc, 'GROUPS', {'filters': ('gather_float16',)})
    for architecture in ('75', '90'):
        path, = nvrtc.build_kernels(architecture).values()
        assert build.content_of(path).startswith(b'\x7fELF') and b'gather_float16' in path.read_bytes()
    with pytest.raises(build.Unavailable, match='building the nvrtc operators fails: .*arch'):
        nvrtc.build_kernels('13')


@pytest.mark.slow
@pytest.mark.parametrize('architecture', ['75', '80', '86', '89', '90', '100', '120'])
def test_nvrtc_compiles_every_kernel_without_spills(monkeypatch, tmp_path, architecture):
    """But for those of layer_act's derivatives that spill by nvcc, too."""
    needs_nvrtc()
    tool = shutil.which('cuobjdump') or pytest.skip('no cuobjdump on PATH')
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path))
    found = {}
    for group, path in nvrtc.build_kernels(architecture).items():
        (tmp_path / group).write_bytes(build.content_of(path))
        text = subprocess.run([tool, '-res-usage', tmp_path / group], capture_output=True, text=True, check=True).stdout
        found |= {name: int(stack) for name, stack in re.findall(r'Function (\w+):\s+REG:\d+ STACK:(\d+)', text)}
    assert set(found) == set(kernels.all_kernels())
    assert [name for name, stack in found.items() if stack and not re.match('layer_act_grad_.*_1$', name)] == []
