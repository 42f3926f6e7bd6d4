"""Vision-aided critics: formulas written out, what is frozen, what is saved, and scores by the same network."""
import copy
import json
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from test_zoo import zoo_config
from tiny import assert_same_bits, make_dataset, run_iterations, tensors
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from zoo_game import STREAMS, make_batch, make_game

import calc_metrics
import train
from losses_ext.vision import Eyes, Head, Options, Vision, cross_entropy
from metrics.resize import area, resize
from metrics.weights import WEIGHTS, WeightOptions, biased_metric, find_weights
from torch_utils import checkpoint, training_stats
from training import setup
from training.config.resolve import resolve
from training.config.rules import UserError
from training.loss import StepContext, g_main
from training.run.ticks import Ticks
from training.training_loop import run_phase

BATCH = make_batch()
SMALL = dict(size=64, aug='run', smooth=0.8, warmup=0.0)
PHOTOS = find_weights('efflite0', 'these tests', WeightOptions()).path
NETWORK = Eyes(Options(**SMALL)).network


@pytest.fixture
def data(tmp_path):
    return [make_dataset(tmp_path / 'data.zip', num=12)]


def game_with(**options):
    """A game whose method has begun."""
    game = make_game()
    method = Vision(game, Options(**{**SMALL, **options}))
    game.regularizers = [method]
    method.begin_stage(None, 5, resumed=False)
    for player in game.players:
        player.module.requires_grad_(True)
    return game, method, game.helpers['Dvision']


def step(game, phase, **context):
    ctx = StepContext(game, phase, STREAMS, **BATCH, **context)
    game.take_reals(ctx, ctx.real_img, ctx.real_c)
    phase.step(game, ctx)
    return ctx


# Formulas.

def test_the_cross_entropy_is_the_one_computed_by_hand():
    found = cross_entropy(torch.tensor([-2.0, 0.0, 1.0, 2.0]), 0.8)
    torch.testing.assert_close(found, torch.tensor([1.726928, 0.693147, 0.513262, 0.526928]), rtol=0, atol=2e-6)
    a = torch.randn([50]) * 5
    for target in (0.0, 0.8, 1.0):
        expected = binary_cross_entropy_with_logits(a, torch.full_like(a, target), reduction='none')
        torch.testing.assert_close(cross_entropy(a, target), expected)


@pytest.mark.parametrize(('size_in', 'size_out'), [(32, 224), (48, 224), (256, 224), (100, 64), (7, 14)])
def test_images_are_resized_by_the_area_that_pixels_cover(size_in, size_out):
    img = torch.randn([2, 3, size_in, size_in])
    torch.testing.assert_close(resize(img, size_out, area), interpolate(img, size=(size_out, size_out), mode='area'))


def test_the_head_has_the_published_number_of_weights():
    """For the features of Swin-T at 224 pixels."""
    assert sum(p.numel() for p in Head(768, 7).parameters()) == 2360065
    for size in (2, 3, 4, 5, 7, 8):
        assert Head(16, size)(torch.zeros([2, 16, size, size])).shape == (2, 1)


def logits_by_hand(head, img):
    """h(B(img)), with the parts of others: torch's resizing, the input range of the network, its last stage."""
    large = interpolate(img, size=(64, 64), mode='area')
    maps = NETWORK.maps(255 * (large / 2 + 0.5))[-1]
    assert maps.shape[1:] == (320, 2, 2)
    return head.module(maps)[:, 0]


def test_the_head_learns_what_the_formula_says():
    game, method, head = game_with()
    phase, = method.phases()
    ctx = step(game, phase)
    found = [p.grad.clone() for p in head.module.parameters()]
    head.module.zero_grad()
    real, fake = (logits_by_hand(head, img) for img in (BATCH['real_img'], ctx.gen.img))
    loss = (real.exp() + 1).log() - 0.8 * real + (fake.exp() + 1).log()
    loss.mean().backward()
    for grad, p in zip(found, head.module.parameters()):
        torch.testing.assert_close(grad, p.grad, rtol=1e-3, atol=1e-5)
    assert all(p.grad is None for player in (game.G, game.D) for p in player.module.parameters())


@pytest.mark.parametrize('weight', [1.0, 0.25])
def test_the_generator_learns_through_the_frozen_network(weight):
    game, method, head = game_with(weight=weight)
    head.module.requires_grad_(False)
    game.D.module.requires_grad_(False)
    phase = setup.Phase('Gmain', g_main, [game.G])
    grads = []
    for method_is_there in (True, False):
        game.regularizers = [method] * method_is_there
        game.G.module.zero_grad()
        step(game, phase)
        grads.append([p.grad.clone() for p in game.G.module.parameters()])
    img = game.G.module(BATCH['gen_z'], BATCH['gen_c'])
    logits = logits_by_hand(head, img)
    loss = (weight * ((logits.exp() + 1).log() - 0.8 * logits)).mean()
    own = torch.autograd.grad(loss, list(game.G.module.parameters()), allow_unused=True)
    assert any(grad is not None and grad.abs().max() > 0 for grad in own)
    for name, both, base, grad in zip(dict(game.G.module.named_parameters()), *grads, own):
        if not name.endswith('noise_strength'):             # The noise is another one.
            expected = torch.zeros_like(both) if grad is None else grad
            # Rounding can move a sample across a kink of ReLU6, which is up to a hundredth of its gradient.
            torch.testing.assert_close(both - base, expected, rtol=1e-2, atol=2e-5, msg=name)
    assert not [*NETWORK.parameters()] and not any(weights.requires_grad for weights in NETWORK.buffers())


def test_the_run_s_augmentation_or_its_own_is_in_front(data):
    """With draws of its own in either case: the same images are not seen twice in the same way."""
    seen = []
    for aug in ('run', 'diffaug'):
        game, method, head = game_with(aug=aug)
        game.augment = setup.build_augment(dict(augment_kwargs=dict(class_name='training.augment.AugmentPipe', xflip=1), p=1.0),
                                           torch.device('cpu'))
        judged = []
        judge = game.judge

        def judging(*args, judge=judge, judged=judged, **kwargs):
            judged.append(judge(*args, **kwargs))
            return judged[-1]
        game.judge = judging
        step(game, next(method.phases()))
        seen.append([type(verdict.draw).__module__ for verdict in judged])
    assert seen == [['training.augment'] * 2, ['training.diffaugment'] * 2]


def test_grey_images_are_looked_at_as_grey_colours():
    eyes, grey = Eyes(Options(**SMALL)), torch.randn([2, 1, 16, 16])
    torch.testing.assert_close(eyes(grey), eyes(grey.expand(-1, 3, -1, -1)))


# When it acts, what is saved.

def test_before_the_warm_up_is_over_it_is_the_base_bit_for_bit(data):
    """And after it, G is another."""
    _, (base, _) = run_iterations(zoo_config(data), 3)
    config = zoo_config(data, ['vision'])
    states = []
    for warmup in (0.012, 0.008):           # In thousand images: 3 iterations, or 2.
        config['regularizers']['vision']['warmup'] = warmup
        _, (state, _) = run_iterations(config, 3)
        states.append(state)
    for player in 'GD':
        assert_same_bits(states[0]['players'][player], base['players'][player])
    assert not torch.equal(tensors(states[1]['players']['G'])['/module/mapping.fc0.weight'],
                           tensors(base['players']['G'])['/module/mapping.fc0.weight'])
    steps = [len(state['players']['Dvision']['optimizer']['state']) > 0 for state in states]
    assert steps == [False, True]


def test_a_run_that_was_saved_in_its_warm_up_goes_on(data):
    config = zoo_config(data, ['vision'])
    config['regularizers']['vision']['warmup'] = 0.008
    _, straight = run_iterations(config, 3)
    _, half = run_iterations(config, 1)
    _, resumed = run_iterations(config, 2, state=copy.deepcopy(half))
    assert_same_bits(resumed, straight)


def test_frozen_weights_are_neither_in_states_nor_in_snapshots(data, tmp_path):
    """A snapshot says whom G has learnt to please."""
    config = zoo_config(data, ['vision'])
    run, (state, local) = run_iterations(config, 1)
    frozen = [tensor for tensor in NETWORK.buffers() if tensor.numel() > 1000]
    assert len(frozen) > 20
    shapes = {tuple(leaf.shape) for leaf in tensors(dict(state=state, local=local)).values() if isinstance(leaf, torch.Tensor)}
    assert not [tensor for tensor in frozen if tuple(tensor.shape) in shapes]
    ticks = Ticks(config, tmp_path, torch.device('cpu'))
    path = ticks.save_networks(run)
    assert checkpoint.load_networks(path)['learnt_from'] == ['efflite0']
    with safe_open(path, 'pt') as file:
        assert not [key for key in file.keys() if 'vision' in key]      # noqa: SIM118


def test_a_run_does_not_go_on_with_other_weights(data):
    config = zoo_config(data, ['vision'])
    _, (state, local) = run_iterations(config, 1)
    local['regularizers']['Vision']['sha256'] = 'another'
    with pytest.raises(ValueError, match='weights of efflite0 are others'):
        run_iterations(config, 1, state=(state, local))


def test_no_other_method_acts_on_the_head(data):
    """Its game is its own."""
    config = zoo_config(data, ['vision', 'r2', 'lecam', 'diggan', 'cr', 'genco', 'ggdr'])
    run = setup.build(config, torch.device('cpu'))
    assert 'Dvision' not in run.game.critics and 'Dvision' in [player.name for player in run.game.players]
    assert [phase.name for phase in run.phases if run.game.helpers['Dvision'] in phase.players] == ['Dvisionmain']
    assert run.game.helpers['Dvision'].grafts == []


@pytest.mark.parametrize('loss', ['logistic', 'osgan'])
def test_fakes_that_a_critic_has_made_are_not_made_again(data, loss):
    run = setup.build(zoo_config(data, ['vision'], loss, 'logistic'), torch.device('cpu'))
    run.enter_stage(0)
    passes = []
    run.game.G.module.synthesis.register_forward_hook(lambda *_: passes.append(True))
    reals, shared = [stream.next_batch() for stream in run.reals], {}
    for phase in run.phases:
        if phase.interval == 1:
            run_phase(run, phase, reals, shared)
    assert len(passes) == 2


# Refusals.

@pytest.mark.parametrize(('options', 'channels', 'words'), [
    (dict(size=100), 3, ['--vision_size=100', 'multiple of 32']),
    (dict(), 4, ['--reg_type=vision', '4 channels', '1 or 3']),
    (dict(warmup=1.0), 3, ['--vision_warmup=1', 'ends before, at 1 kimg']),
    (dict(file='/nowhere/weights.pth'), 3, ['--vision_file=/nowhere/weights.pth', 'no such file']),
    (dict(network='vgg16'), 3, ['--vision_network=vgg16', '--vision_file=FILE']),
])
def test_what_cannot_work_is_refused(data, monkeypatch, tmp_path, options, channels, words):
    for name in ('HOME', 'XDG_CACHE_HOME', 'TORCH_HOME', 'DNNLIB_CACHE_DIR', 'LOSS_ZOO_DETECTOR_DIR'):
        monkeypatch.setenv(name, str(tmp_path))
    config = zoo_config(data)
    config['data_shape']['img_channels'] = channels
    with pytest.raises(ValueError) as refused:
        Vision.configure(config, replace(Options(**SMALL), **options))
    assert all(word in str(refused.value) for word in words), refused.value


def test_weights_of_something_else_are_refused(data, tmp_path):
    path = tmp_path / 'other.pth'
    torch.save(dict(weight=torch.zeros([3])), path)
    with pytest.raises(ValueError, match=f'{path} does not have its weights'):
        game_with(file=str(path))


def vgg16_file(path, **changes):
    """Saves what torchvision's `vgg16().state_dict()` has: its keys and shapes, every number of a tensor the same."""
    widths = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
              17: (256, 512),
              **dict.fromkeys((19, 21, 24, 26, 28), (512, 512))}
    shapes = {f'features.{i}': (width_out, width_in, 3, 3) for i, (width_in, width_out) in widths.items()}
    shapes |= {'classifier.0': (4096, 25088), 'classifier.3': (4096, 4096), 'classifier.6': (1000, 4096)}
    state = OrderedDict()
    for layer, shape in shapes.items():
        state[f'{layer}.weight'] = torch.full([1], 2 / (shape[1] * 9)).expand(shape)
        state[f'{layer}.bias'] = torch.full([1], 0.01).expand(shape[0])
    assert sum(tensor.numel() for tensor in state.values()) == 138357544        # As published.
    torch.save({key: value for key, value in {**state, **changes}.items() if value is not None}, path)
    return str(path)


def test_a_file_of_torchvision_s_vgg16_will_do(tmp_path, data):
    """Its dense layers, nine tenths of it, are not kept; a step is done."""
    options = dict(network='vgg16', file=vgg16_file(tmp_path / 'vgg16.pth'))
    eyes = Eyes(Options(**{**SMALL, **options}))
    assert eyes(torch.randn([2, 3, 16, 16])).shape == (2, 512, 2, 2)
    assert sum(tensor.numel() for tensor in eyes.network.buffers()) == 14714688 + 6
    game, method, head = game_with(**options)
    step(game, next(method.phases()))
    assert all(p.grad.isfinite().all() for p in head.module.parameters())
    assert sum(p.numel() for p in Head(512, 7).parameters()) == 1770241


@pytest.mark.parametrize(('changes', 'words'), [
    ({'features.28.weight': None}, "it has no 'features.28.weight'"),
    ({'features.28.weight': torch.zeros([256, 512, 3, 3]), 'features.28.bias': torch.zeros([256])}, r'are \[256, 2, 2\]'),
    ({'features.28.bias': torch.full([512], float('nan'))}, 'not finite'),
    ({'features.5.weight': torch.zeros([128, 3, 3, 3])}, 'its tensors have other shapes'),
    ({'features': 'a word'}, 'something other than named tensors')])
def test_a_file_that_is_none_of_vgg16_is_refused_before_the_run(tmp_path, data, changes, words):
    path = vgg16_file(tmp_path / 'vgg16.pth', **changes)
    arguments = [*ARGUMENTS, f'--data={data[0]}', '--vision_network=vgg16', f'--vision_file={path}']
    with pytest.raises(UserError, match=f'--vision_network=vgg16: {path} does not have its weights: .*{words}'):
        train.config_from_args(arguments)


def test_a_local_file_of_weights_will_do(tmp_path):
    """Fine-tuned ones, for example."""
    state = torch.load(PHOTOS, weights_only=True)
    state['_conv_stem.weight'] *= 2
    torch.save(state, tmp_path / 'mine.pth')
    eyes, usual = (Eyes(Options(**SMALL, file=file)) for file in (str(tmp_path / 'mine.pth'), None))
    img = torch.randn([1, 3, 16, 16])
    assert not torch.allclose(eyes(img), usual(img))
    assert eyes.sha256 != usual.sha256 == WEIGHTS['efflite0'].files[0].sha256


def test_a_path_is_in_no_name_of_a_run(data):
    name, config = resolve(dict(data=data[0], cfg='tiny', reg_type='vision', vision_file=str(PHOTOS), vision_size=64))
    assert '/' not in name and name.endswith('-vision-vision_size64')
    assert config['regularizers']['vision']['file'] == str(PHOTOS)


# Scores by the same network.

ARGUMENTS = ['--cfg=tiny', '--reg_type=vision', '--outdir=runs']


def test_a_run_does_not_score_with_the_network_that_it_learns_from(data):
    config = train.config_from_args([*ARGUMENTS, f'--data={data[0]}', '--metrics=fd5k_lite'])
    with pytest.raises(UserError, match='--metrics: fd5k_efflite0 .* of --reg_type=vision .*--vision_biased=1'):
        train.measurable_metrics(config)
    config = train.config_from_args([*ARGUMENTS, f'--data={data[0]}', '--metrics=fd5k_lite', '--vision_biased=1'])
    assert train.measurable_metrics(config) == ['fd5k_efflite0']
    config = train.config_from_args(['--cfg=tiny', '--outdir=runs', f'--data={data[0]}', '--metrics=fd5k_lite'])
    assert train.measurable_metrics(config) == ['fd5k_efflite0']


def test_nor_does_the_metric_that_needs_no_download_take_a_place(data, monkeypatch, tmp_path, capsys):
    for name in ('HOME', 'XDG_CACHE_HOME', 'TORCH_HOME', 'DNNLIB_CACHE_DIR', 'LOSS_ZOO_DETECTOR_DIR'):
        monkeypatch.setenv(name, str(tmp_path))
    config = train.config_from_args([*ARGUMENTS, '--cfg=low_shot', f'--data={data[0]}'])
    assert config['metrics'] == ['fid50k_full']
    assert train.measurable_metrics(config) == []
    assert 'there are no metrics, since G learns to please the network of fd5k_efflite0' in capsys.readouterr().err


def test_the_same_network_is_found_by_its_weights():
    assert biased_metric(['fid50k_full', 'kid5k_efflite0_64px'], ['efflite0']) == 'kid5k_efflite0_64px'
    assert biased_metric(['pr50k3_full'], ['vgg16']) == 'pr50k3_full'
    assert biased_metric(['fid50k_full', 'pr50k3_full'], ['efflite0']) is None
    assert biased_metric(['fd5k_efflite0'], ()) is None


@pytest.mark.parametrize('learnt_from', [['efflite0'], None, 'efflite0', {'efflite0': 1}], ids=json.dumps)
def test_a_snapshot_is_not_scored_by_it_either(data, tmp_path, learnt_from):
    """What a stranger's file says otherwise counts for nothing."""
    run = setup.build(zoo_config(data), torch.device('cpu'))
    path = tmp_path / 'net.safetensors'
    checkpoint.save_networks(path, dict(G_ema=run.G_ema), training_set_kwargs=None, learnt_from=learnt_from)
    arguments = [f'--network={path}', f'--data={data[0]}', '--metrics=fd5k_efflite0', '--device=cpu', '--verbose=0']
    asked = []
    for more in ([], ['--biased']):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(calc_metrics, 'score', lambda *args: asked.append(args) or {})
            answer = CliRunner().invoke(calc_metrics.main, [*arguments, *more])
        if isinstance(learnt_from, list) and not more:
            assert answer.exit_code != 0 and not asked
            assert 'fd5k_efflite0' in answer.output and 'of net.safetensors' in answer.output and '--biased' in answer.output
        else:
            assert answer.exit_code == 0, answer.output


def test_statistics_have_names():
    training_stats.reset()
    game, method, _ = game_with()
    step(game, next(method.phases()))
    names = {name for name in training_stats.reported() if name.startswith('Loss/vision/')}
    assert names == {f'Loss/vision/{name}' for name in ('real', 'fake', 'sign_real', 'sign_fake')}
