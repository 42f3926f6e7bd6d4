"""R3GAN: its networks by their published sizes and first values,
its schedule by numbers, and whole steps of its recipe."""
import importlib
import math

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_zoo import METHODS, check_that_it_runs, zoo_config
from tiny import assert_resumes_exactly, make_dataset, run_iterations
from zoo_game import STREAMS

import losses_ext
from losses_ext.ramped import ramped as ramped_weight
from torch_utils.checkpoint import load_networks, save_networks
from training import setup
from training.config.resolve import resolve
from training.config.rules import UserError
from training.loss import Phase, StepContext, d_both, g_both
from training.r3gan import DownStage, R3Critic, R3Generator, UpStage
from training.ramp import follow_ramps, ramp, ramped

SMALL = dict(channel_base=256, channel_max=16)


def num_parameters(cls, **kwargs):
    with torch.device('meta'):
        return sum(p.numel() for p in cls(img_channels=3, **kwargs).parameters())


@pytest.mark.parametrize(('res', 'c_dim', 'expected'), [
    (32, 10, (20781952, 21280512)), (32, 0, (20732160, 20683776)), (64, 0, (22429824, 22381440)), (256, 0, (23057952, 23009568))])
def test_networks_are_as_large_as_the_published_ones(res, c_dim, expected):
    shape = dict(c_dim=c_dim, img_resolution=res)
    assert (num_parameters(R3Generator, z_dim=64, **shape), num_parameters(R3Critic, **shape)) == expected


def test_at_the_start_g_is_linear_in_z_and_d_in_the_image():
    torch.manual_seed(0)
    G, D = R3Generator(16, 0, 16, 3, synthesis_kwargs=SMALL), R3Critic(0, 16, 3, **SMALL)
    a, b = torch.randn([2, 4, 16])
    torch.testing.assert_close(G(a - 2 * b, None), G(a, None) - 2 * G(b, None), rtol=1e-4, atol=1e-5)
    x, y = torch.randn([2, 4, 3, 16, 16])
    torch.testing.assert_close(D(x - 2 * y, None), D(x, None) - 2 * D(y, None), rtol=1e-4, atol=1e-5)


def test_first_weights_have_the_published_sizes():
    torch.manual_seed(0)
    D = R3Critic(0, 32, 3, channel_base=8192, channel_max=256)
    block = D.s16.blocks[0]
    gain = math.sqrt(2 / 1.04) * 8 ** -0.25
    assert gain == pytest.approx(0.824567, abs=1e-6)
    assert block.expand.weight.std().item() == pytest.approx(gain / math.sqrt(256), rel=0.02)
    assert block.mix.weight.shape == (512, 16, 3, 3)                # 32 groups of 16 channels.
    assert block.mix.weight.std().item() == pytest.approx(gain / math.sqrt(16 * 9), rel=0.02)
    assert block.reduce.weight.abs().max() == 0 and block.act1.bias.abs().max() == 0


@pytest.mark.parametrize('cls', [UpStage, DownStage])
def test_a_constant_stays_constant_away_from_the_border(cls):
    y = cls(4, 4, 0, 1, torch.float32)(torch.ones([1, 4, 16, 16]))
    torch.testing.assert_close(y[:, :, 2:-2, 2:-2], torch.ones_like(y[:, :, 2:-2, 2:-2]))


def test_the_critic_compares_images_with_their_labels():
    torch.manual_seed(0)
    D, img, c = R3Critic(3, 16, 3, **SMALL), torch.randn([3, 3, 16, 16]), torch.eye(3)
    order = [2, 0, 1]
    torch.testing.assert_close(D(img[order], c[order]), D(img, c)[order])
    assert not torch.allclose(D(img[order], c), D(img, c)[order])


def test_maps_are_handed_out():
    G, D = R3Generator(16, 0, 32, 3, synthesis_kwargs=SMALL), R3Critic(0, 32, 3, **SMALL)
    _, feats = G.synthesis(G.mapping(torch.randn([2, 16]), None), return_feats=(8, 32))
    assert {res: f.shape for res, f in feats.items()} == {8: (2, 16, 8, 8), 32: (2, 8, 32, 32)}
    _, feats = D(torch.randn([2, 3, 32, 32]), None, return_feats=True)
    assert {res: tuple(f.shape[1:]) for res, f in feats.items()} == {r: (D.channels[r], r, r) for r in (16, 8, 4)}


def test_reduced_precision_is_that_of_the_highest_resolutions():
    D = R3Critic(0, 32, 3, num_fp16_res=2, **{**SMALL, 'reduced_dtype': 'bfloat16'})
    assert [getattr(D, f's{r}').dtype for r in D.resolutions] == [torch.bfloat16] * 2 + [torch.float32] * 2
    assert D(torch.randn([2, 3, 32, 32]), None).dtype == torch.float32
    with pytest.raises(ValueError, match='float16 overflows: give --precision=bf16'):
        R3Critic(0, 32, 3, num_fp16_res=2, reduced_dtype='float16', **SMALL)


# The schedule.

def test_the_schedule_is_the_published_one():
    config = dict(ramps=dict(lr=[1, 0.25], beta2=[0.9, 0.99], p=[0, 0.3], ema_kimg=[0, 500]), ramp_kimg=20000)
    expected = {0: (2e-4, 150, 0.9, 0, 0), 5: (1.78033e-4, 130.229708, 0.913180, 0.043934, 73.2233),
                10: (1.25e-4, 82.5, 0.945, 0.15, 250), 15: (7.1967e-5, 34.770292, 0.976820, 0.256066, 426.7767),
                20: (5e-5, 15, 0.99, 0.3, 500), 30: (5e-5, 15, 0.99, 0.3, 500)}
    for millions, (lr, gamma, beta2, p, ema_kimg) in expected.items():
        nimg = millions * 10 ** 6
        ctx = StepContext(None, Phase('D', None, []), STREAMS, ramp=ramp(config, nimg))
        found = (2e-4 * ramped(config, 'lr', nimg, 0), ramped_weight(150, 15, ctx), ramped(config, 'beta2', nimg, 0),
                 ramped(config, 'p', nimg, 0), ramped(config, 'ema_kimg', nimg, 0))
        assert found == pytest.approx((lr, gamma, beta2, p, ema_kimg), rel=1e-5, abs=1e-9)
    assert ramp({}, 10) == 0 and ramped({}, 'p', 10, 0.7) == 0.7 and ramped_weight(3.0, None, ctx) == 3.0


def r3_config(data, names=(), **changes):
    """The recipe on 16 pixels."""
    config = zoo_config(data, names, 'relativistic', **changes)
    config['G_kwargs'] = dict(class_name='training.r3gan.R3Generator', z_dim=16, synthesis_kwargs=SMALL)
    config['D_kwargs'] = dict(class_name='training.r3gan.R3Critic', block_kwargs={}, **SMALL,
                              epilogue_kwargs=dict(mbstd_group_size=1, mbstd_num_channels=0))
    config['loss_kwargs'].update(style_mixing_prob=0, pl_weight=0, pl_interval=1, r1_interval=1, r1_gamma=1.0, r1_final=0.1)
    config.update(ramps=dict(lr=[1, 0.25], beta2=[0.9, 0.99], p=[0, 0.5], ema_kimg=[0, 0.1]), ramp_kimg=0.016,
                  augment_kwargs=dict(class_name='training.augment.AugmentPipe', xflip=1, scale=1), p=0)
    if 'r2' in config['regularizers']:
        config['regularizers']['r2'] = {}               # Whose gammas are those of R1.
    losses_ext.configure(config, {})
    return config


@pytest.fixture
def data(tmp_path):
    return [make_dataset(tmp_path / 'data.zip', num=12)]


def test_optimizers_and_augmentation_follow(data):
    run = setup.build(r3_config(data, ['r2']), torch.device('cpu'))
    run.nimg = 8                                                            # Half way.
    follow_ramps(run)
    for player in run.game.players:
        group, = player.optimizer.param_groups
        assert (group['lr'], group['betas']) == (pytest.approx(0.002 * 0.625), (0, pytest.approx(0.945)))
    assert run.game.augment.p.item() == pytest.approx(0.25)


def test_the_steps_are_those_of_the_recipe(data):
    """R1 and R2 in every step, without lazy phases; a step's
    gradients are those of the formula at the weights half way."""
    run = setup.build(r3_config(data, ['r2']), torch.device('cpu'))
    assert [(phase.name, phase.step, phase.interval) for phase in run.phases] == [('Gboth', g_both, 1), ('Dboth', d_both, 1)]
    game, D = run.game, run.game.D.module.requires_grad_(True)
    game.augment = None
    for parameter in D.parameters():
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    real, c = torch.randn([4, 3, 16, 16]), torch.zeros([4, 0])
    ctx = StepContext(game, run.phases[1], run.randomness, gen_z=torch.randn([4, 16]), gen_c=c, ramp=0.5)
    game.take_reals(ctx, real, c)
    d_both(game, ctx)
    total = {name: p.grad.clone() for name, p in D.named_parameters()}
    fake, real = game.G.module(ctx.gen_z, c).detach().requires_grad_(), real.requires_grad_()
    a_r, a_f = D(real, c).squeeze(1), D(fake, c).squeeze(1)
    slopes = [torch.autograd.grad(a.sum(), x, create_graph=True)[0] for a, x in ((a_r, real), (a_f, fake))]
    penalties = [slope.square().sum([1, 2, 3]) for slope in slopes]
    D.zero_grad()
    (torch.log1p(torch.exp(a_f - a_r)) + 0.55 / 2 * (penalties[0] + penalties[1])).mean().backward()
    for name, p in D.named_parameters():
        torch.testing.assert_close(total[name], p.grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize('names', [['r2', 'ggdr', 'insgen'], ['r2', 'weco', 'bcr'], ['r2', 'apa', 'diggan', 'zcr']], ids=','.join)
def test_it_goes_with_methods(data, names):
    check_that_it_runs(r3_config(data, names))


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in METHODS if name != 'tdgan'])        # Its sets are two.
def test_it_goes_with_every_method_or_refuses_it_by_name(data, name):
    try:
        config = r3_config(data, [name])
    except ValueError as error:
        assert f'--reg_type={name}' in str(error)
        return
    check_that_it_runs(config)


def test_resume_is_exact(data):
    assert_resumes_exactly(r3_config(data, ['r2']), 4, 2)


def test_networks_come_back_from_a_snapshot(data, tmp_path):
    run, _ = run_iterations(r3_config(data, ['r2']), 2)
    save_networks(tmp_path / 'net.safetensors', dict(G_ema=run.G_ema, D=run.game.D.module))
    networks, z = load_networks(tmp_path / 'net.safetensors'), torch.randn([2, 16])
    torch.testing.assert_close(networks['G_ema'](z, None), run.G_ema(z, None))      # Layouts in memory differ.
    assert not torch.allclose(networks['G_ema'](z, None), networks['G_ema'](z, None, truncation_psi=0.5))


@pytest.mark.parametrize(('program', 'options'), [
    ('style_mixing', ['--rows=0', '--cols=1']), ('directions', ['--seeds=0']), ('projector', ['--target=a.png'])])
def test_tools_of_styles_refuse_it(tmp_path, program, options):
    G = R3Generator(16, 0, 16, 3, synthesis_kwargs=SMALL)
    save_networks(tmp_path / 'net.safetensors', dict(G_ema=G))
    Image.new('RGB', (16, 16)).save(tmp_path / 'a.png')
    options = [option.replace('a.png', str(tmp_path / 'a.png')) for option in options]
    main = importlib.import_module(program).main
    result = CliRunner().invoke(main, [f'--network={tmp_path / "net.safetensors"}', f'--outdir={tmp_path / "out"}', *options])
    assert result.exit_code == 2 and 'which has no styles, and so no W' in result.output, result.output


# Options.

def test_the_base_configuration_is_the_recipe(tmp_path):
    path = make_dataset(tmp_path / 'data.zip', num=12, res=64)
    name, config = resolve(dict(data=path, cfg='r3gan', gpus=8))
    assert name == 'data-r3gan-r2'
    assert (config['loss'], list(config['regularizers']), config['loss_kwargs']['r1_gamma']) == ('relativistic', ['r2'], 2.0)
    assert config['regularizers']['r2']['final'] == pytest.approx(0.2)
    assert (config['G_reg_interval'], config['D_reg_interval']) == (None, None)
    assert (config['batch'], config['batch_gpu'], config['G_opt_kwargs']['lr'], config['kimg']) == (256, 32, 2e-4, 20000)
    assert config['ramps'] == dict(lr=[1, 0.25], beta2=[0.9, 0.99], p=[0, 0.3], ema_kimg=[0, 500])
    assert config['training_set_kwargs']['xflip'] is True and config['augment_kwargs']['hue'] == 0.5
    others = dict(aug='noaug', mirror=False, gamma=8.0, batch=16, batch_gpu=16, r1_interval=16)
    name, config = resolve(dict(data=path, cfg='r3gan', **others))
    assert 'p' not in config['ramps'] and config['training_set_kwargs']['xflip'] is False
    assert config['loss_kwargs']['r1_final'] == 0.8 and config['D_reg_interval'] == 16 and 'noaug' in name


@pytest.mark.parametrize(('options', 'words'), [
    (dict(cfg='r3gan', mixing_prob=0.5), '--mixing-prob=0'),
    (dict(cfg='r3gan', pl_weight=2.0), '--pl_weight=0'),
    (dict(cfg='r3gan', map_depth=4), '--map-depth has no effect'),
    (dict(cfg='r3gan', mbstd_group=4), '--mbstd-group=0'),
    (dict(cfg='r3gan', freezed=2), '--freezed'),
    (dict(cfg='r3gan', snapshot_format='native,pkl'), '--snapshot-format'),
    (dict(cfg='r3gan', precision='fp16'), '--precision=bf16'),
    (dict(ramp_kimg=10.0), '--ramp-kimg has no effect without'),
    (dict(G='R3Generator'), '--mixing-prob=0'), (dict(cfg='r3gan', aug='ada'), '--aug=ada cannot follow')])
def test_what_it_has_not_is_refused(tmp_path, options, words):
    with pytest.raises(UserError, match=words):
        resolve(dict(data=make_dataset(tmp_path / 'data.zip', num=12, res=32), batch=16, batch_gpu=16, **options))


def test_critics_elsewhere_would_not_follow_its_schedule():
    with pytest.raises(UserError, match='--tdgan_mode=remote: learning rates and weights that change on the way are not told'):
        resolve(dict(cfg='r3gan', reg_type='tdgan', tdgan_mode='remote', tdgan_centres='a,b', tdgan_insecure=True,
                     tdgan_listen='localhost:7300', tdgan_res=32, metrics='none', batch=8, batch_gpu=8))
