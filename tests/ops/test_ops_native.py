"""The compiled operators on CPUs against the plain ones (values, both derivatives,
dtypes, layouts, sizes), their registration, and how they are built and chosen.
"""
import errno
import itertools
import multiprocessing
import os
import platform
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from fixture_data import case_ids
from test_ops_upfirdn2d import GEOMETRIES
from torch.autograd import gradcheck, gradgradcheck

from torch_utils.ops import backend, build, trial
from torch_utils.ops import upfirdn2d as resampling
from torch_utils.ops.__main__ import main as ops_main
from torch_utils.ops.bias_act import activation_funcs, bias_act
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d

# Of the largest result. Sums are taken in another order; plain operators
# round taps to bfloat16, which compiled ones do not, up to three times
# in a second derivative; for float64 images both take taps in float32.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-6, torch.bfloat16: 3e-2}
LAYOUTS = {'contiguous': torch.contiguous_format, 'channels_last': torch.channels_last}
layouts = pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
dtypes = pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
geometries = pytest.mark.parametrize('geometry', GEOMETRIES.values(), ids=GEOMETRIES)
FILTERS = [(4, 4), (3, 5), (1, 1), (9,)]


@pytest.fixture(scope='session')
def native():
    """The compiled operators; one build for all tests."""
    reason = backend.why_not('cpu', torch.float32)
    if reason is not None:
        pytest.skip(reason)
    return torch.ops.stylegan2_loss_zoo


def both(op, *tensors):
    """[results of impl='ref', those of impl='native']: value, first and second derivatives."""
    results = []
    for impl in ('ref', 'native'):
        y = op(*tensors, impl=impl)
        v = torch.empty_like(y).copy_(torch.linspace(-1, 1, y.numel()).reshape(y.shape)).requires_grad_()
        first = torch.autograd.grad(y, tensors, v, create_graph=True)
        second = torch.autograd.grad(sum(d.square().sum() for d in first), [*tensors, v], allow_unused=True,
                                     materialize_grads=True)
        results.append([y, *first, *second])
    return results


def assert_close(expected, obtained, tolerance):
    for a, b in zip(expected, obtained):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert (a - b).abs().max() <= tolerance * max(a.abs().max(), 1e-3)


@layouts
@dtypes
@geometries
def test_upfirdn2d_equals_the_plain_one(native, geometry, dtype, layout):
    shapes = [(2, 3, 12, 13), (1, 70, 9, 11), (3, 17, 10, 70)]
    for shape, taps in itertools.product(shapes, FILTERS):
        x = torch.randn(shape).to(dtype).contiguous(memory_format=layout).requires_grad_()
        f = torch.randn(taps)
        expected, obtained = both(lambda x, impl, f=f: upfirdn2d(x, f, impl=impl, **geometry), x)
        tolerance = TOLERANCE[dtype] * (4 if f.ndim == 1 else 1)        # Two passes, and their derivatives two each.
        assert_close(expected, obtained, tolerance)
        assert obtained[0].is_contiguous(memory_format=layout) and obtained[1].is_contiguous(memory_format=layout)


@geometries
def test_derivatives_of_upfirdn2d(native, geometry):
    x, f = torch.randn(1, 2, 6, 7, dtype=torch.float64, requires_grad=True), torch.randn(3, 4)
    assert gradcheck(lambda x: upfirdn2d(x, f, impl='native', **geometry), x)
    assert gradgradcheck(lambda x: upfirdn2d(x, f, impl='native', **geometry), x)


@pytest.mark.parametrize('case', case_ids('01b_upfirdn2d'))
def test_upfirdn2d_agrees_with_the_fixture(native, case):
    options = {key: value for key, value in case.config.items() if key != 'filter'}
    case.check('y', upfirdn2d(case.input('x'), case.input('f'), impl='native', **options))


def test_integer_filters_are_exact(native):
    """Also where a filter is split into column and row."""
    x = torch.randint(-9, 9, (2, 3, 10, 11)).float()
    for f in (torch.tensor([[1., 3, 3, 1]]), torch.tensor([[1., 2, 3], [2, 4, 6]]), torch.tensor([[1., 2], [3, 4]])):
        assert torch.equal(upfirdn2d(x, f, padding=2, impl='native'), upfirdn2d(x, f, padding=2, impl='ref'))
    y = resampling.downsample2d(torch.ones(1, 1, 4, 4), setup_filter([1, 3, 3, 1]), impl='native')
    assert (y == 0.765625).all()


@pytest.mark.parametrize('shape', [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (1, 1, 1, 1), (1, 2, 1, 7)], ids=str)
@pytest.mark.parametrize('geometry', [{'padding': 3}, {'up': 2, 'padding': 3}, {'down': 2, 'padding': 3}], ids=str)
def test_upfirdn2d_of_empty_and_tiny_images(native, shape, geometry):
    x, f = torch.randn(shape, requires_grad=True), torch.randn(4, 4)
    expected, obtained = (upfirdn2d(x, f, impl=impl, **geometry) for impl in ('ref', 'native'))
    torch.testing.assert_close(obtained, expected, rtol=1e-5, atol=1e-5)


def test_filters_of_zeros_and_what_is_not_a_number(native):
    x = torch.randn(1, 2, 6, 6)
    assert (upfirdn2d(x, torch.zeros(3, 3), impl='native') == 0).all()
    x[0, 0, 3, 3] = float('nan')
    for layout in LAYOUTS.values():
        y = upfirdn2d(x.contiguous(memory_format=layout), torch.ones(2, 2), impl='native')
        assert y.isnan().sum() == 4 and not y[0, 1].isnan().any()


@layouts
@dtypes
@pytest.mark.parametrize('act', activation_funcs)
def test_bias_act_equals_the_plain_one(native, act, dtype, layout):
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 8e-2}[dtype]    # Plain rounds often.
    for shape, options in itertools.product([(2, 3, 4, 5), (3, 70, 3, 3)], [{}, {'gain': 0.9, 'clamp': 30}]):
        x = torch.randn(shape).to(dtype).contiguous(memory_format=layout).requires_grad_()
        b = torch.randn(shape[1]).to(dtype).requires_grad_()
        with torch.no_grad():
            x += x == -b[:, None, None]         # At 0 some activations have a kink, where each may choose a slope.
        expected, obtained = both(lambda *t, impl, options=options: bias_act(*t, act=act, impl=impl, **options), x, b)
        assert_close(expected, obtained, tolerance)
        assert obtained[0].is_contiguous(memory_format=layout) and obtained[1].is_contiguous(memory_format=layout)


@pytest.mark.parametrize('clamp', [None, 0.7])
@pytest.mark.parametrize('act', activation_funcs)
def test_derivatives_of_bias_act(native, act, clamp):
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    b = torch.randn(5, dtype=torch.float64, requires_grad=True)

    def op(x, b):
        return bias_act(x, b, dim=2, act=act, gain=1.3, clamp=clamp, impl='native')
    assert gradcheck(op, (x, b))
    assert gradgradcheck(op, (x, b))


@pytest.mark.parametrize('clamp', [0.7, 256 * 0.5 ** 0.5, 0.71])        # In bfloat16 below, below and above.
@pytest.mark.parametrize('act', ['linear', 'lrelu', 'swish'])
def test_nothing_passes_back_through_what_was_clamped(native, act, clamp):
    for dtype in TOLERANCE:
        x = torch.full([1, 2, 3, 3], 1000, dtype=dtype, requires_grad=True)
        y = bias_act(x, act=act, clamp=clamp, impl='native')
        assert torch.equal(y, torch.full_like(y, clamp))
        assert not torch.autograd.grad(y.sum(), x)[0].any()


@pytest.mark.parametrize('case', case_ids('02_bias_act'))
def test_bias_act_agrees_with_the_fixture(native, case):
    options = {key: value for key, value in case.config.items() if key != 'bias'}
    tensors = {name: case.input(name).requires_grad_() for name in case.inputs}
    x, b, v = tensors['x'], tensors.get('b'), tensors['v']
    y = bias_act(x, b, impl='native', **options)
    dx, = torch.autograd.grad((v * y).sum(), x, create_graph=True)
    d2x, d2v = torch.autograd.grad(dx.square().sum(), [x, v], allow_unused=True, materialize_grads=True)
    for name, value in {'y': y, 'dx': dx, 'd2x': d2x, 'd2v': d2v}.items():
        case.check(name, value)


@pytest.mark.parametrize('shape, dim', [((0, 3), 1), ((3, 0), 1), ((5,), 0), ((2, 3, 0, 4), 1), ((4, 3), 0)], ids=str)
def test_bias_act_of_empty_tensors_and_odd_ranks(native, shape, dim):
    x, b = torch.randn(shape, requires_grad=True), torch.randn(shape[dim], requires_grad=True)
    expected, obtained = both(lambda x, b, impl: bias_act(x, b, dim=dim, act='lrelu', impl=impl), x, b)
    torch.testing.assert_close(obtained, expected)


def test_tensors_that_are_dense_in_no_order(native):
    x = torch.randn(4, 6, 8, 10)[::2, 1:5, ::2, 1::3]
    b, f = torch.randn(4), torch.randn(3, 3)
    torch.testing.assert_close(bias_act(x, b, act='lrelu', impl='native'), bias_act(x, b, act='lrelu', impl='ref'))
    torch.testing.assert_close(upfirdn2d(x, f, impl='native'), upfirdn2d(x, f, impl='ref'), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('act', ['linear', 'relu', 'lrelu'])
def test_what_is_not_a_number_stays_that(native, act):
    x = torch.tensor([[float('nan'), float('inf'), -float('inf'), 1.]], requires_grad=True)
    for clamp in (None, 2):
        y, expected = (bias_act(x, act=act, clamp=clamp, impl=impl) for impl in ('native', 'ref'))
        torch.testing.assert_close(y, expected, equal_nan=True)


def test_one_thread_and_two_give_the_same_bits(native):
    x, b, f = torch.randn(8, 32, 40, 40), torch.randn(32), setup_filter([1, 3, 3, 1])
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append([upfirdn2d(x, f, up=2, impl='native'), bias_act(x, b, act='lrelu', impl='native')])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_registration_passes_torchs_own_check(native):
    """Schemas, shapes without data, autograd, tracing: torch.compile and export can pass through."""
    x, f = torch.randn(2, 3, 6, 7, requires_grad=True), torch.randn(3, 4)
    for layout in LAYOUTS.values():
        image = x.detach().contiguous(memory_format=layout).requires_grad_()
        torch.library.opcheck(native.upfirdn2d.default, (image, f, [2, 1], [1, 2], [2, 1, 1, 0], False, 2.0))
    b = torch.randn(3, requires_grad=True)
    for act in (0, 2, 3, 8):
        options = (1, act, 0.2, 1.5, 0.8)
        torch.library.opcheck(native.bias_act.default, (x, b, *options))
        torch.library.opcheck(native.bias_act_grad.default, (torch.randn_like(x), x, b, *options))
        torch.library.opcheck(native.bias_act_grad2.default, (x.detach(), x.detach(), x.detach(), None, *options))


def test_a_third_derivative_is_refused(native):
    x = torch.randn(2, 3, requires_grad=True)
    d, = torch.autograd.grad(bias_act(x, act='tanh', impl='native').sum(), x, create_graph=True)
    d2, = torch.autograd.grad(d.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no third derivative; use impl='ref'"):
        torch.autograd.grad(d2.sum(), x)


def test_negative_slopes_take_the_plain_operator(native):
    """There the sign of the result does not tell that of the argument."""
    x = torch.tensor([[-1., 2.]], requires_grad=True)
    y = bias_act(x, act='lrelu', alpha=-0.5, gain=1, impl='auto')
    assert y.tolist() == [[0.5, 2]] and torch.autograd.grad(y.sum(), x)[0].tolist() == [[-0.5, 1]]


@pytest.mark.parametrize('arguments, message', [
    ((torch.ones(2, 3), torch.ones(2), 1, 0, 0., 1., None), r'b \[2\]: must be \[3\]'),
    ((torch.ones(2, 3), torch.ones(3), 2, 0, 0., 1., None), 'dim=2: x has 2 axes'),
    ((torch.ones(2, 3), torch.ones(3).double(), 1, 0, 0., 1., None), 'b is Double, x is Float'),
    ((torch.ones(2, 3), None, 1, 9, 0., 1., None), r'act=9: must be 0 \.\.\. 8'),
    ((torch.ones(2, 3), None, 1, 0, 0., 1., -1.), 'clamp=-1: must be None, or 0 or more'),
    ((torch.ones(2, 3).half(), None, 1, 0, 0., 1., None), 'x is Half: on CPUs it must be'),
])
def test_compiled_bias_act_checks_its_arguments(native, arguments, message):
    with pytest.raises(RuntimeError, match=message):
        native.bias_act(*arguments)


@pytest.mark.parametrize('change, message', [
    ({'x': torch.ones(4, 4)}, 'x has 2 axes'),
    ({'f': torch.ones(2)}, r'f is Float \[2\]: must be float32 \[fh, fw\]'),
    ({'f': torch.ones(2, 2).double()}, 'f is Double'),
    ({'up': [0, 1]}, 'x axis: up=0, down=1: must be positive'),
    ({'down': [1]}, 'must be pairs'),
    ({'padding': [1, 1]}, 'must be .left, right, top, bottom'),
    ({'padding': [0, 0, -2, -1]}, 'y axis: no output from 4 samples with up=1, padding -2 and -1, and 2 taps'),
    ({'padding': [2 ** 40, 0, 0, 0]}, 'numbers beyond 1073741824'),
])
def test_compiled_upfirdn2d_checks_its_arguments(native, change, message):
    good = {'x': torch.ones(1, 1, 4, 4), 'f': torch.ones(2, 2), 'up': [1, 1], 'down': [1, 1], 'padding': [0, 0, 0, 0]}
    with pytest.raises(RuntimeError, match=message):
        native.upfirdn2d(*(good | change).values(), False, 1.0)


# Choosing and building.

@pytest.fixture
def fresh_backend(monkeypatch):
    """The module's memory of what was loaded and said, emptied for a test."""
    memories = (backend.load, backend.say_once)
    for function in memories:
        function.cache_clear()
    yield monkeypatch
    for function in memories:
        function.cache_clear()


def test_without_a_compiler_auto_says_so_once_and_native_refuses(fresh_backend):
    def no_compiler(library):
        raise build.Unavailable('no C++ compiler: c++ not found')
    fresh_backend.setattr(backend, 'load_library', no_compiler)
    x = torch.ones(2, 3)
    with pytest.warns(RuntimeWarning, match='plain tensor operations instead of compiled operators: no C.. compiler'):
        assert torch.equal(bias_act(x), x)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        bias_act(x)
    for impl in ('native', 'cuda'):
        with pytest.raises(RuntimeError, match='no compiled operator: no C.. compiler'):
            bias_act(x, impl=impl)


def test_the_trial_of_compiled_operators_passes(native):
    trial.try_operators('cpu', backend.COMPILED_DTYPES['cpu'])
    trial.try_layers('cpu', backend.COMPILED_DTYPES['cpu'])
    assert backend.has_layer_act.__wrapped__('cpu')


def test_the_trial_knows_where_its_tensors_lie(native):
    """Whatever device torch makes them on by default: that of the caller's program, for one."""
    with torch.device('meta'):
        trial.try_operators('cpu', [torch.float32])
        trial.try_layers('cpu', [torch.float32])


@pytest.mark.parametrize('name', ['layer_act', 'layer_act_grad', 'layer_act_grad2', 'act_filter', 'act_filter_grad',
                                  'filter_layer_act', 'filter_add'])
def test_the_operator_for_layers_can_be_wrong_for_itself(native, monkeypatch, name):
    right = getattr(native, name)

    def wrong(*args):
        result = right(*args)
        return result * 1.1 if isinstance(result, torch.Tensor) else [part if part is None else part * 1.1 for part in result]
    monkeypatch.setattr(native, name, wrong)
    with pytest.warns(RuntimeWarning, match=f'by several kernels instead of one: the compiled {name[:9]}.* is wrong on cpu, by'):
        assert not backend.has_layer_act.__wrapped__('cpu')
    trial.try_operators('cpu', [torch.float32])


@pytest.mark.parametrize('name', ['upfirdn2d', 'bias_act', 'bias_act_grad'])
def test_operators_that_compute_something_else_are_not_used(native, monkeypatch, name):
    right = getattr(native, name)
    monkeypatch.setattr(native, name, lambda *args: right(*args) * 1.1)
    with pytest.raises(build.Unavailable, match=f'the compiled {name[:8]}.* is wrong on cpu, by'):
        trial.try_operators('cpu', [torch.float32])
    monkeypatch.setattr(native, name, lambda *args: torch.ones(2) @ torch.ones(3))
    with pytest.raises(build.Unavailable, match=f'the compiled {name[:8]}.* fails on cpu: '):
        trial.try_operators('cpu', [torch.float32])


def test_operators_for_gpus_are_tried_before_they_are_used(fresh_backend):
    def fail(device, dtypes):
        raise build.Unavailable(f'tried on {device}')
    fresh_backend.setattr(backend, 'load_library', lambda library: None)
    fresh_backend.setattr(backend, 'try_operators', fail)
    assert backend.why_not('cuda', torch.float16) == 'tried on cuda' and backend.why_not('cpu', torch.float32) is None


def test_half_precision_on_cpus_has_no_compiled_operator():
    with pytest.raises(RuntimeError, match='there are none for float16 on cpu'):
        bias_act(torch.ones(2, 3).half(), impl='native')


def test_the_default_can_be_set():
    backend.set_default('reference')
    assert not backend.use_native('auto', torch.ones(1))
    with pytest.raises(AssertionError, match="'fast': must be one of auto, native, reference"):
        backend.set_default('fast')


def build_in(directory, queue):
    os.environ['DNNLIB_CACHE_DIR'] = directory
    build.LIBRARIES['cpu'] = ('upfirdn2d_cpu.cpp',)         # Any library will do, so a quick one.
    queue.put(str(build.build('cpu')))


@pytest.fixture
def compiler():
    try:
        return build.find_toolchain('cpu')
    except build.Unavailable as reason:
        pytest.skip(str(reason))


def test_processes_that_build_at_once_build_one_library(compiler, tmp_path, capfd):
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    processes = [context.Process(target=build_in, args=(str(tmp_path), queue)) for _ in range(2)]
    for process in processes:
        process.start()
    paths = {queue.get(timeout=900) for _ in processes}
    for process in processes:
        process.join()
    assert len(paths) == 1 and [p.suffix for p in sorted((tmp_path / 'ops').iterdir())] == ['.lock', '.so']
    assert capfd.readouterr().out.count('Building the cpu operators') == 1


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path):
    code = ('import os, sys; from pathlib import Path; from torch_utils.ops import build\n'
            'with build.lock(Path(sys.argv[1])): os._exit(1)')
    subprocess.run([sys.executable, '-c', code, tmp_path / 'lock'], cwd=build.SOURCE_DIR.parents[2])
    with build.lock(tmp_path / 'lock'):
        pass


@pytest.fixture
def small_library(compiler, tmp_path, monkeypatch):
    """Source of a library that takes no time to build, kept
    in a cache of its own; returns the source's path."""
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path))
    source = tmp_path / 'small_cpu.cpp'
    source.write_text('int f() { return 1; }')
    monkeypatch.setattr(build, 'LIBRARIES', {'cpu': (str(source),)})
    return source


def test_a_compiler_error_is_told_and_kept(small_library, tmp_path):
    small_library.write_text('int f() { return nonsense; }')
    with pytest.raises(build.Unavailable, match="building the cpu operators fails: .*error: .*nonsense"):
        build.build('cpu')
    assert 'nonsense' in next((tmp_path / 'ops').glob('*.log')).read_text()
    assert not list((tmp_path / 'ops').glob('*.so'))


def test_a_build_that_failed_is_tried_again_only_if_asked_for(small_library, capfd):
    right = small_library.read_text()
    small_library.write_text('int f() { return nonsense; }')
    with pytest.raises(build.Unavailable):
        build.build('cpu')
    small_library.write_text(right)                 # Sources named by a path of their own are not part of the name.
    with pytest.raises(build.Unavailable, match='has failed before: .*nonsense.*to try again: python -m torch_utils.ops build'):
        build.build('cpu')
    assert capfd.readouterr().out.count('Building the cpu operators') == 1
    assert build.is_whole(build.build('cpu', again=True)) and build.failure_of(build.build('cpu')) is None


@pytest.mark.parametrize('output', [
    'fatal error: Killed signal terminated program cc1plus', 'error: No space left on device',
    'ninja: build stopped: interrupted by user.', 'fatal error: Terminated signal terminated program cc1plus'])
def test_what_may_pass_is_not_remembered(small_library, monkeypatch, output):
    run = subprocess.run

    def fail(command, **kwargs):
        is_build = '-C' in command
        return subprocess.CompletedProcess(command, 1, output, '') if is_build else run(command, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, 'run', fail)
        with pytest.raises(build.Unavailable, match=output):
            build.build('cpu')
    assert build.is_whole(build.build('cpu'))


@pytest.mark.parametrize('damage', [lambda content: content[:-1], lambda content: content[:5000], lambda content: b'',
                                    lambda content: content[:3000] + b'?' + content[3001:]], ids=range(4))
def test_a_damaged_library_is_built_again(small_library, damage):
    """The loader maps it as it is; what is missing would end the process by SIGBUS."""
    path = build.build('cpu')
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert not build.is_whole(path)
    assert build.is_whole(build.build('cpu')) and len(path.read_bytes()) == len(content)
    torch.ops.load_library(str(path))


def refused(*args, **kwargs):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), '/home/me/.cache')


@pytest.mark.parametrize('place, replacement, message', [
    ('pathlib.Path.mkdir', refused, r"cannot be built or kept: .* Read-only file system: .*"),
    ('fcntl.flock', refused, r'\.lock cannot be locked: Read-only file system.*'),
    ('tempfile.TemporaryDirectory', refused, 'cannot be built or kept: .* Read-only file system.*'),
    ('os.replace', refused, 'cannot be built or kept: .* Read-only file system.*'),
    ('pathlib.Path.read_bytes', refused, 'cannot be built or kept: .* Read-only file system.*'),
])
def test_a_cache_that_cannot_be_used_leaves_plain_operators(fresh_backend, small_library, place, replacement, message):
    pytest.importorskip(place.partition('.')[0])
    backend.load_library.cache_clear()
    with fresh_backend.context() as patch:
        patch.setattr(place, replacement)
        with pytest.warns(RuntimeWarning, match=f'{message}; DNNLIB_CACHE_DIR may name a folder') as warned:
            assert torch.equal(bias_act(torch.ones(2, 3)), torch.ones(2, 3))
        assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')              # Said and tried once.
        bias_act(torch.ones(2, 3))
    with pytest.raises(RuntimeError, match=f'no compiled operator: .*{message}'):
        bias_act(torch.ones(2, 3), impl='native')


def test_a_library_that_anybody_could_have_put_there_is_not_loaded(small_library, tmp_path):
    (tmp_path / 'ops').mkdir()
    (tmp_path / 'ops').chmod(0o777)
    with pytest.raises(build.Unavailable, match='anybody may write to .*/ops, and what is there would be executed'):
        build.build('cpu')
    assert not list((tmp_path / 'ops').iterdir())


def test_a_library_is_its_owners_whatever_the_umask(small_library):
    before = os.umask(0)
    try:
        path = build.build('cpu')
        assert build.build('cpu') == path
    finally:
        os.umask(before)


def test_a_home_that_is_a_file_leaves_plain_operators(compiler, tmp_path):
    (tmp_path / 'home').touch()
    code = ('import torch; from torch_utils.ops.bias_act import bias_act\n'
            'assert torch.equal(bias_act(torch.ones(2, 3)), torch.ones(2, 3))')
    environment = {name: value for name, value in os.environ.items() if name != 'DNNLIB_CACHE_DIR'}
    answer = subprocess.run([sys.executable, '-c', code], cwd=build.SOURCE_DIR.parents[2], capture_output=True, text=True,
                            env={**environment, 'HOME': str(tmp_path / 'home')}, check=True)
    assert answer.stderr.count('plain tensor operations instead of compiled operators: the cpu operators cannot') == 1


def test_what_nvcc_complains_of_is_told(compiler, tmp_path, monkeypatch):
    """Its own errors are called fatal, and come without a file and a line."""
    nvcc = tmp_path / 'nvcc'
    nvcc.write_text('#!/bin/sh\necho "nvcc fatal   : Unsupported gpu architecture \'compute_120\'"\n[ $1 = --version ]\n')
    nvcc.chmod(0o755)
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path))
    monkeypatch.setenv('CXX', str(nvcc))
    with pytest.raises(build.Unavailable, match="nvcc fatal   : Unsupported gpu architecture 'compute_120'"):
        build.build('cpu')


def test_nvcc_takes_the_host_compiler_that_the_rest_is_built_with(compiler, monkeypatch):
    monkeypatch.setattr(build, 'gencode', list)
    monkeypatch.setattr(build, 'cuda_home', lambda nvcc: '/toolkit')
    commands = build.commands('cuda', replace(compiler, cxx='/usr/bin/g++-12', nvcc='/toolkit/bin/nvcc'))
    assert 'command = /toolkit/bin/nvcc -ccbin /usr/bin/g++-12 ' in ''.join(commands)


ARCH = '-gencode=arch=compute_'


@pytest.mark.parametrize(('listed', 'options'), [
    ('8.0', [f'{ARCH}80,code=sm_80']), ('7.5;9.0a', [f'{ARCH}75,code=sm_75', f'{ARCH}90a,code=sm_90a']),
    (' 8.0 12.0+PTX;', [f'{ARCH}80,code=sm_80', f'{ARCH}120,code=sm_120', f'{ARCH}120,code=compute_120'])])
def test_torch_cuda_arch_list_says_what_to_build_for(monkeypatch, listed, options):
    """As on a login node, which has no GPU."""
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', listed)
    assert build.gencode() == options


@pytest.mark.parametrize(('listed', 'message'), [('Ampere', "'Ampere' is not of the form 8.0"), ('8', "'8' is not of the"),
                                                 ('', 'no GPU to build for; TORCH_CUDA_ARCH_LIST may name some')])
def test_what_to_build_for_must_be_known(monkeypatch, listed, message):
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', listed)
    with pytest.raises(build.Unavailable, match=message):
        build.gencode()


def test_the_cuda_library_is_built_without_a_gpu_but_not_tried(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '8.0')
    monkeypatch.setattr(build, 'build', lambda library, again: tmp_path / library)
    monkeypatch.setattr(backend, 'why_not', lambda library, dtype: library == 'cuda' and 'tried' or None)
    result = CliRunner().invoke(ops_main, ['build'])
    assert result.exit_code == 0 and 'cuda: not tried, there is no GPU here' in result.output


def test_a_library_for_another_processor_is_no_concern_of_this_one(compiler, monkeypatch):
    monkeypatch.setenv('DNNLIB_OPS_MARCH', 'x86-64-v3')
    name = build.path_of('cpu', compiler)
    monkeypatch.setattr(platform, 'processor', lambda: 'another')
    monkeypatch.setattr(Path, 'read_text', refuse_cpuinfo(Path.read_text))
    assert build.path_of('cpu', compiler) == name
    assert '-march=x86-64-v3 ' in ''.join(build.commands('cpu', compiler))


def refuse_cpuinfo(read_text):
    def read(path, *args, **kwargs):
        if path.name == 'cpuinfo':
            raise OSError
        return read_text(path, *args, **kwargs)
    return read


def test_the_cuda_library_takes_the_runtime_of_torch(compiler, monkeypatch):
    """An image has the one that torch's wheels bring, and perhaps no other."""
    monkeypatch.setenv('TORCH_CUDA_ARCH_LIST', '8.0')
    monkeypatch.setattr(build, 'cuda_home', lambda nvcc: '/toolkit')
    link = next(rule for rule in build.commands('cuda', replace(compiler, nvcc='/toolkit/bin/nvcc')) if 'rule link' in rule)
    assert '-lc10_cuda' in link and 'cudart' not in link


def test_the_library_is_named_by_everything_it_is_made_of(compiler, monkeypatch, tmp_path):
    names = {build.path_of('cpu', compiler).name}
    for attribute, value in [('KERNEL_FLAGS', ('-O2',)), ('_cpu', lambda: 'another')]:
        with monkeypatch.context() as patch:
            patch.setattr(build, attribute, value)
            names.add(build.path_of('cpu', compiler).name)
    with monkeypatch.context() as patch:
        for path in build.SOURCE_DIR.iterdir():
            (tmp_path / path.name).write_text(path.read_text() + ('//' if path.name == 'portable.h' else ''))
        patch.setattr(build, 'SOURCE_DIR', tmp_path)
        names.add(build.path_of('cpu', compiler).name)
    with monkeypatch.context() as patch:
        patch.setattr(torch, '__version__', '9.9')
        names.add(build.path_of('cpu', compiler).name)
    assert len(names) == 5


def test_importing_the_operators_builds_and_loads_nothing():
    code = ('import torch_utils.ops.upfirdn2d, torch_utils.ops.bias_act, torch\n'
            'assert not hasattr(torch.ops.stylegan2_loss_zoo, "bias_act")')
    subprocess.run([sys.executable, '-c', code], cwd=build.SOURCE_DIR.parents[2], check=True)


def test_doctor_tells_what_each_operator_will_use(tmp_path):
    command = [sys.executable, '-m', 'torch_utils.ops', 'doctor']
    answer = subprocess.run(command, cwd=build.SOURCE_DIR.parents[2], capture_output=True, text=True, check=True).stdout
    for library in ('cpu', 'cuda'):
        section = answer.split(f'\n{library}\n')[1].split('\n\n')[0]
        for name in ('upfirdn2d', 'bias_act'):
            line = next(line for line in section.splitlines() if name in line)
            assert 'native: ' in line or 'reference: ' in line
