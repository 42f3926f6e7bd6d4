"""The first hour on a GPU, on a stand-in for one: no step
of training mixes devices or types, or makes the host wait.

What the stand-in checks and what it cannot is said in `fake_cuda.py`.
"""
from contextlib import contextmanager, nullcontext
from functools import wraps

import click
import network_files
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fake_cuda import CUDA, CudaTensor, FakeCuda, Violation, strict, tensors_in
from metric_tools import TinyDetector, dataset_kwargs
from PIL import Image
from tiny import ALL_PHASES, Silent, assert_same_bits, make_dataset

import directions
import generate
import projector
import style_mixing
import train
import video
from losses_ext import apa, daco
from metrics import features
from metrics.features import FeatureOptions, feature_rows
from metrics.generator_inputs import DatasetLabels, GeneratorInputs, Labels
from metrics.image_streams import GeneratedImages, open_dataset
from metrics.overfitting import overfitting_gap
from metrics.perceptual_path_length import path_distances
from torch_utils import distributed, launcher, misc
from torch_utils.checkpoint import load_networks
from torch_utils.ops import backend, build, upfirdn2d
from torch_utils.state_file import load_state
from training import setup, training_loop
from training.run import launch, ticks
from training.run.states import saved_states

FIRST_STEPS = ['--aug=noaug', '--batch=4', '--cuda-graphs=off']      # There is nothing that captures.
FUNCTIONS = {name: getattr(torch.cuda, name) for name in ('is_available', 'device_count', 'get_device_capability', 'Event')}
CASES = {
    'two-stage': [],
    'two-stage, fp32': ['--precision=fp32'],
    'channels-first': ['--nhwc=0'],
    'cifar': ['--cfg=cifar', '--aug=ada'],
    'conditional, ADA': ['--cond=1', '--aug=ada', '--batch=8', '--batch-gpu=4'],
    'DiffAugment': ['--aug=diffaug', '--reg_type=ggdr'],
    'relativistic': ['--loss=relativistic'],
    'wgan, gp': ['--loss=wgan', '--reg_type=gp', '--gamma=0'],
    'osgan': ['--loss=osgan', '--aug=fixed', '--p=0.5'],
    'osgan, simple': ['--loss=osgan', '--osgan_form=simple', '--osgan_force=1'],
    'osgan, full': ['--loss=osgan', '--osgan_form=full', '--osgan_force=1'],
    'osgan, relativistic': ['--loss=osgan', '--osgan_game=relativistic'],
    'everything': ['--cond=1', '--reg_type=ggdr,diggan,genco,lecam,apa,r2', '--diggan_interval=1', '--lecam_start=0',
                   '--lecam_weight=0.1'],
    'tdgan': ['--cond=1', '--reg_type=tdgan,ggdr,weco', '--tdgan_schedule=0:0.004,0+1:0.004'],
}

SLOW = ('cifar', 'relativistic', 'osgan, simple', 'osgan, relativistic')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    return [make_dataset(folder / f'{i}.zip', num=12, num_classes=3, seed=i) for i in range(2)]


@contextmanager
def a_gpu(monkeypatch):
    """This machine has a GPU, it seems, for which no operators
    are compiled: nvcc may be here, a driver is not."""
    with backend.default('reference'), FakeCuda():
        yield CUDA
        monkeypatch.undo()                      # First what tests have put in the place of the stand-in's own functions.


@pytest.fixture
def gpu(monkeypatch):
    """Within a test."""
    with a_gpu(monkeypatch) as device:
        yield device


def config_of(data, *args):
    """The configuration that `train.py` makes of options, for networks of a few thousand weights."""
    where = [f'--tdgan_data={",".join(data)}'] if any('tdgan' in arg for arg in args) else [f'--data={data[0]}']
    config = train.config_from_args(['--cfg=tiny', *ALL_PHASES, '--device=cuda', '--ops=reference', '--workers=0',
                                     *FIRST_STEPS, *where, *args])
    for channels in (config['G_kwargs']['synthesis_kwargs'], config['D_kwargs']):
        channels.update(channel_base=256, channel_max=16)
    return {**config, 'metrics': [], 'log': []}


@pytest.mark.parametrize('options, is_last', [
    ([], True), (['--precision=bf16'], True), (['--precision=fp32'], False), (['--nhwc=0'], False)])
def test_reduced_precision_is_channels_last_on_a_gpu_unless_told_otherwise(data, gpu, options, is_last):
    config = config_of(data, *options)
    for kwargs in (config['G_kwargs']['synthesis_kwargs'], config['D_kwargs']['block_kwargs']):
        assert kwargs.get('fp16_channels_last', False) is is_last
    assert config['allow_tf32'] is ('--precision=fp32' not in options)
    assert config_of(data, *options, '--allow-tf32=0')['allow_tf32'] is False


def strictly(function, value=True):
    """The function under the rules for steps, or without them."""
    @wraps(function)
    def wrapped(*args, **kwargs):
        with strict(value):
            return function(*args, **kwargs)
    return wrapped


@pytest.fixture
def rules(monkeypatch):
    """Iterations are strict, but for what may wait: margins of
    a warp, adaptation between steps, constants made once."""
    monkeypatch.setattr(training_loop, 'run_iteration', strictly(training_loop.run_iteration))
    for owner, name in [(training_loop, 'adapt_augmentation'), (apa.APA, '_adapt'), (misc, '_constant'), (daco, 'band_map')]:
        cached = getattr(owner, name)
        relaxed = strictly(cached, False)
        relaxed.cache_clear = getattr(cached, 'cache_clear', None)
        monkeypatch.setattr(owner, name, relaxed)


def run_iterations(config, num):
    """A run on the GPU after some iterations."""
    run = setup.build(config, distributed.pick_device(config['device']))
    training_loop.training_loop(run, Silent(num * config['batch']))
    return run


@pytest.mark.parametrize('args', [pytest.param(args, id=name, marks=[pytest.mark.slow] * (name in SLOW))
                                  for name, args in CASES.items()])
def test_every_phase_keeps_to_the_rules_of_a_gpu(data, gpu, rules, args):
    run = run_iterations(config_of(data, *args), 2)
    modules = [run.G_ema, *run.game.frozen.values(), *(player.module for player in run.game.players)]
    assert all(isinstance(x, CudaTensor) for module in modules for x in module.state_dict().values())
    assert all(x.dtype == torch.float32 and x.isfinite().all() for module in modules for x in module.parameters())
    assert all(player.optimizer.state for player in run.game.players)
    assert not any(isinstance(x, CudaTensor) for x in tensors_in(run.local_state_dict()))


def test_every_augmentation_keeps_to_the_rules_of_a_gpu(tmp_path, gpu, rules):
    large = make_dataset(tmp_path / 'large.zip', num=12, res=32)
    run_iterations(config_of([large], '--aug=fixed', '--p=0.5', '--augpipe=bgcfnc', '--reg_type=ggdr', '--batch=2'), 1)


def test_compiled_operators_keep_to_the_rules_of_a_gpu(data, gpu, rules, monkeypatch):
    """Their schemas, shapes and derivatives are those of the CUDA operators; the CPU's kernels compute."""
    try:
        build.find_toolchain('cpu')
    except build.Unavailable as reason:
        pytest.skip(str(reason))
    why_not = backend.why_not
    monkeypatch.setattr(backend, 'why_not', lambda device, dtype: why_not('cpu', dtype))
    monkeypatch.setattr(backend, 'has_layer_act', lambda device: True)
    run_iterations(config_of(data, '--precision=bf16', '--aug=fixed', '--p=0.5', '--ops=native'), 1)


def test_filters_that_enlarge_leave_the_search_for_algorithms_to_others(gpu, monkeypatch):
    """Under augmentation they meet a new size nearly every
    time, and each would be timed with all algorithms."""
    searches, stock = [], torch.nn.functional.conv_transpose2d

    def spy(*args, **kwargs):
        searches.append(torch.backends.cudnn.benchmark)
        return stock(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, 'conv_transpose2d', spy)
    monkeypatch.setattr(torch.backends.cudnn, 'benchmark', True)
    for device in (CUDA, torch.device('cpu')):
        upfirdn2d.upsample2d(torch.ones(1, 32, 4, 4).to(device), upfirdn2d.setup_filter([1, 3, 3, 1], device), impl='ref')
        assert torch.backends.cudnn.benchmark
    assert searches == [False, True]


# All that surrounds the steps.


def test_options_are_read_without_taking_a_gpu(data, gpu, monkeypatch):
    """The process that starts the ranks would hold some of its memory as long as they run."""
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: pytest.fail(f'{device} is taken'))
    assert config_of(data)['G_kwargs']['synthesis_kwargs']['num_fp16_res'] == 4


def test_operators_of_several_gpus_are_tried_by_a_process_that_ends(data, gpu, monkeypatch):
    """The one that starts the ranks would hold memory of the first GPU as long as they run."""
    asked = []
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(backend, 'load', lambda device: pytest.fail('loaded here'))
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: pytest.fail('asked here'))
    answers = {'why_none': None, '_capabilities': [('GPU', (8, 0))] * 2}
    monkeypatch.setattr(launcher, 'in_child', lambda function, *args: asked.append(args) or answers[function.__name__])
    config_of(data, '--gpus=2', '--ops=native', '--precision=bf16')
    assert asked == [(2,), ('cuda', [torch.float32, torch.bfloat16])]


@pytest.mark.parametrize(('capability', 'is_refused'), [((7, 5), True), ((8, 0), False), ((12, 0), False)])
def test_a_gpu_without_bfloat16_is_refused(data, gpu, monkeypatch, capability, is_refused):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    with pytest.raises(click.UsageError, match=r'--precision=bf16: device 0 \(GPU, compute capability 7.5\) does not') \
            if is_refused else nullcontext():
        config_of(data, '--precision=bf16')


def test_sums_of_half_precision_are_formed_in_float32(data, gpu):
    run_iterations(config_of(data), 1)
    matmul = torch.backends.cuda.matmul
    assert not matmul.allow_fp16_reduced_precision_reduction and not matmul.allow_bf16_reduced_precision_reduction


@pytest.mark.parametrize('value', ['0', '1'])
def test_sums_are_formed_in_one_order_when_bits_must_repeat(data, gpu, monkeypatch, value):
    backward, dtypes = torch.ops.aten.grid_sampler_2d_backward, []

    def noted(grad, *args):
        dtypes.append(grad.dtype)
        return backward(grad, *args)
    noted.default = backward.default
    monkeypatch.setattr(torch.ops.aten, 'grid_sampler_2d_backward', noted)
    run_iterations(config_of(data, '--aug=fixed', '--p=0.5', f'--deterministic={value}'), 1)
    assert torch.are_deterministic_algorithms_enabled() == (value == '1') != torch.backends.cudnn.benchmark
    assert set(dtypes) == {torch.float64 if value == '1' else torch.float32}


@pytest.fixture
def small_grid(monkeypatch):
    monkeypatch.setattr(ticks, 'MOST_IMAGES', (8, 4))


def train_in(run_dir, config, num=None):
    """The last saved state of a run in a directory, which
    is trained in to its end, or for some iterations."""
    run_dir.mkdir(exist_ok=True)
    asked = iter(range(1, 1000))
    failing = launch.train({**config, 'run_dir': str(run_dir)}, run_dir, CUDA, lambda: next(asked) == num, {})
    assert failing == {}
    return load_state(saved_states(run_dir)[0])[0]


def test_a_run_saves_and_continues_exactly(data, gpu, small_grid, tmp_path):
    config = {**config_of(data, '--cond=1', '--nhwc=1', '--aug=ada', '--reg_type=lecam,apa', '--apa_p=0.5'), 'kimg': 0.012}
    straight = train_in(tmp_path / 'straight', config)
    train_in(tmp_path / 'halves', config, 2)
    halves = train_in(tmp_path / 'halves', config)
    for part in ('run', 'ranks'):
        assert_same_bits(halves[part], straight[part])
    names = {path.name for path in (tmp_path / 'halves').iterdir()}
    assert {'reals.png', 'fakes_init.png', 'fakes000000.png', 'network-snapshot-000000.safetensors', 'stats.jsonl'} <= names


def test_fine_tuning_starts_on_the_gpu(data, gpu, small_grid, tmp_path):
    config = {**config_of(data), 'kimg': 0.004}
    train_in(tmp_path / 'first', config)
    file = next((tmp_path / 'first').glob('network-snapshot-*'))
    run, _ = launch.start_or_continue({**config, 'init_from': str(file), 'allow_partial': False}, tmp_path, CUDA, 0)
    weight = run.game.D.module.b8.conv0.weight
    assert isinstance(weight, CudaTensor)
    assert torch.equal(weight.inner, load_networks(file)['D'].b8.conv0.weight)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return network_files.write_networks(tmp_path_factory.mktemp('networks'))


def on_gpu(script, folder, *options):
    """Runs a script that draws on the GPU."""
    result = CliRunner().invoke(script.main, ['--network', str(folder / 'run'), '--device=cuda', '--ops=reference', *options])
    assert result.exit_code == 0, repr(result.exception)


def test_pictures_drawn_on_the_gpu_are_the_same(folder, gpu, tmp_path):
    on_gpu(generate, folder, '--seeds=0-2', '--batch=2', '--trunc=0.7', f'--outdir={tmp_path}')
    expected = network_files.expected_picture(network_files.make_generator(seed=100), 2, psi=0.7)
    assert np.abs(np.asarray(Image.open(tmp_path / 'seed0002.png')).astype(int) - expected).max() <= 1


@pytest.mark.parametrize('script, options', [
    (generate, ['--seeds=0', '--noise-mode=random']),
    (style_mixing, ['--rows=0,1', '--cols=2', '--styles=0-2']),
    (directions, ['--seeds=0', '--count=2', '--steps=3']),
    (video, ['--seeds=0,1', '--frames=2', '--format=gif'])], ids=['generate', 'style_mixing', 'directions', 'video'])
def test_other_scripts_draw_on_the_gpu(folder, gpu, tmp_path, script, options):
    on_gpu(script, folder, *options, f'--outdir={tmp_path}')


def test_pictures_are_projected_on_the_gpu(gpu):
    target = torch.full([3, 16, 16], 200, dtype=torch.uint8)
    ws = projector.project(network_files.make_generator(), target, num_steps=2, w_avg_samples=10, device='cuda',
                           embed=lambda img: img.flatten(1))
    assert isinstance(ws, CudaTensor) and ws.isfinite().all() and not torch.equal(ws[0].inner, ws[1].inner)


def test_metrics_are_computed_on_the_gpu(data, gpu, monkeypatch):
    monkeypatch.setattr(features, 'ahead', iter)        # Other threads have no stand-in.
    kwargs = dataset_kwargs(data[0], use_labels=True)
    G = network_files.make_generator(c_dim=3).to(CUDA)
    inputs = GeneratorInputs(0, G.z_dim, Labels(3, [DatasetLabels(open_dataset(kwargs))]), CUDA)
    detector = TinyDetector()
    detector.w1, detector.w2, detector.w3 = (w.to(CUDA) for w in (detector.w1, detector.w2, detector.w3))
    rows = feature_rows(GeneratedImages(G, inputs, 6), detector, ['pool'], FeatureOptions(CUDA, 4))
    z, c, t = inputs.latents(range(3), per_image=2)
    paths = path_distances(G, detector.embed, z, c, t, inputs.noise(G.synthesis, range(3)))
    D = setup.build(config_of(data, '--cond=1'), CUDA).game.D.module
    gap = overfitting_gap(D, kwargs, dataset_kwargs(data[1], use_labels=True), G, batch_size=4, device=CUDA)
    assert rows['pool'].shape == (6, 6) and isinstance(paths, CudaTensor) and np.isfinite(list(gap.values())).all()


# The stand-in itself.

@pytest.mark.parametrize('break_a_rule', [
    lambda x: x + torch.ones(3), lambda x: torch.cat([x, torch.ones(3)]),
    lambda x: torch.where(x > 0, x, torch.ones(3)), lambda x: x.outer(torch.ones(3)),
    lambda x: torch.randn([3], device=CUDA, generator=torch.Generator()),
    lambda x: torch.randn([3], generator=torch.Generator(CUDA)), lambda x: x.random_(generator=torch.Generator())])
def test_what_a_gpu_refuses_is_refused(gpu, break_a_rule):
    with pytest.raises(Violation):
        break_a_rule(torch.ones(3).to(CUDA))


@pytest.mark.parametrize('break_a_rule', [
    lambda x: x.sum().item(), lambda x: bool(x.sum() > 0), lambda x: float(x[0]), lambda x: x.tolist(), lambda x: x.cpu(),
    lambda x: x.to('cpu'), lambda x: x[x > 0], lambda x: x[[0]], lambda x: x.nonzero(), lambda x: x.masked_select(x > 0),
    lambda x: x.unique(),
    lambda x: torch.ones(3).to(CUDA), lambda x: torch.ones(3).cuda(), lambda x: torch.ones(3).to(x),
    lambda x: torch.ones(3).to(CUDA, non_blocking=True), lambda x: torch.ones(3).pin_memory().to(CUDA),
    lambda x: x.copy_(torch.zeros(3)), lambda x: torch.tensor([1.0], device=CUDA), lambda x: torch.randn_like(x),
    lambda x: torch.rand([3], device=CUDA), lambda x: x.random_(), lambda x: x + x.half(), lambda x: x.half() @ x,
    lambda x: torch.cat([x, x]).double().exp(), lambda x: torch.equal(x, x), lambda x: torch.allclose(x, x)])
def test_what_a_step_should_not_do_is_refused(gpu, break_a_rule):
    x = torch.ones(3).to(CUDA)
    with pytest.raises(Violation), strict():
        break_a_rule(x)
    with strict():
        x = x + torch.zeros(3).pin_memory().to(CUDA, non_blocking=True)
        assert (x * 2 + torch.ones([], device=CUDA) + x.to(CUDA)).sum().device == CUDA


def test_copies_arrive_when_they_are_waited_for(gpu):
    copy, event = torch.ones(3).to(CUDA).to('cpu', non_blocking=True), torch.cuda.Event()
    event.record()
    assert copy.isnan().all()
    event.synchronize()
    assert copy.tolist() == [1, 1, 1]


def test_nothing_of_the_stand_in_stays_behind():
    with pytest.MonkeyPatch.context() as patch, a_gpu(patch):
        patch.setattr(torch.cuda, 'device_count', lambda: 2)
        misc.constant([1.0], device=CUDA)
    assert {name: getattr(torch.cuda, name) for name in FUNCTIONS} == FUNCTIONS
    assert misc._constant.cache_info().currsize == 0
