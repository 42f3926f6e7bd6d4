"""TDGAN: stages, critics, codes and reminding of centres, resuming, and the fixture 08g."""
import copy

import numpy as np
import pytest
import torch
from fixture_data import case_ids
from step_fixtures import Reports
from tiny import Silent, assert_same_bits, make_config, make_dataset, run_iterations

import losses_ext
from losses_ext.tdgan import TDGAN, TEACHER, Options, default_schedule, parse_schedule, remind_distance
from torch_utils.checkpoint import load_networks
from torch_utils.state_file import load_state, save_state
from training import setup
from training.loss import StepContext
from training.run.ticks import Ticks
from training.training_loop import fake_labels, micro_batches, run_iteration, run_phase, training_loop


@pytest.fixture(scope='module')
def centres(tmp_path_factory):
    folder = tmp_path_factory.mktemp('centres')
    return [make_dataset(folder / f'{i}.zip', num=num, seed=i) for i, num in enumerate((24, 12, 16))]


def tdgan_config(centres, c_dim=0, kimg=0.048, **options):
    """Stages of 4 iterations of 4 images each, unless a schedule says otherwise."""
    config = make_config(centres[0], kimg=kimg, regularizers=dict(tdgan=dict(data=','.join(centres), **options)))
    config['training_set_kwargs']['use_labels'] = c_dim > 0
    config['data_shape']['c_dim'] = c_dim
    losses_ext.configure(config, {})
    return config


def build(config):
    return setup.build(config, torch.device('cpu'))


class Counted(Silent):
    """Runs to the end of the schedule, or to a number of images."""

    def after_iteration(self, run):
        self.stopped = run.nimg >= self._end_nimg


def train(run, nimg=10 ** 9):
    training_loop(run, Counted(nimg))
    return run


@pytest.mark.parametrize('case', case_ids('08g_reminding_digesting'))
def test_reminding_equals_the_fixture(case):
    num = case.config['earlier_tasks']
    if num == 0:
        assert 'remind_L1' not in case.outputs
        return
    now = [case.input(f'remind_cur_{i}').requires_grad_() for i in range(num)]
    terms = torch.stack([remind_distance(img, case.input(f'remind_prev_{i}')).mean() for i, img in enumerate(now)])
    case.check('remind_L1', terms)
    case.check('remind_L1_all', terms.sum())
    total = terms.sum() * case.config['lambda_remind'] * case.config['lambda_G']
    for i, grad in enumerate(torch.autograd.grad(total, now)):
        case.check(f'grad_remind_cur_{i}', grad)


def test_one_centre_is_the_base_bit_for_bit(centres):
    _, base = run_iterations(make_config(centres[0]), 5)
    run = build(tdgan_config(centres[:1]))
    run.stages[0].end_nimg = 10 ** 6
    training_loop(run, Silent(20))
    assert_same_bits(run.state_dict()['players'], base[0]['players'])
    assert_same_bits(run.state_dict()['G_ema'], base[0]['G_ema'])
    assert run.game.frozen == {} and run.game.G.module.c_dim == 0


def at_second_stage(config):
    """A run at the first iteration of its second stage."""
    run = train(build(config), 16)
    run.enter_stage(1)
    return run


def remind(run, nimg=0):
    """(per-sample reminding term, its gradient of G)."""
    phase = run.phases[0]
    tdgan = run.game.regularizers[0]
    tdgan = next(r for r in run.game.regularizers if isinstance(r, TDGAN))
    ctx = next(micro_batches(run, phase, [run.reals[0].next_batch()], {}))
    run.game.G.module.requires_grad_(True)
    run.game.G.optimizer.zero_grad()
    value = tdgan.g_main(ctx)
    value.mean().backward()
    run.game.G.module.requires_grad_(False)
    return value.detach(), {name: p.grad for name, p in run.game.G.module.named_parameters() if p.grad is not None}


def test_rho_is_0_at_a_switch_and_grows_after_a_step(centres):
    run = at_second_stage(tdgan_config(centres))
    value, grads = remind(run)
    assert (value == 0).all() and all((grad == 0).all() for grad in grads.values())
    run_iteration(run, Counted(0))
    assert (remind(run)[0] > 0).all()


def test_the_teacher_does_not_change(centres):
    run = at_second_stage(tdgan_config(centres))
    teacher = run.game.frozen[TEACHER]
    before = copy.deepcopy(teacher.state_dict())
    train(run, 28)
    assert run.game.frozen[TEACHER] is teacher
    assert_same_bits(teacher.state_dict(), before)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_off_line_centres_are_not_opened(centres, monkeypatch):
    opened = []
    from training.dataset import ImageFolderDataset
    init = ImageFolderDataset.__init__
    monkeypatch.setattr(ImageFolderDataset, '__init__',
                        lambda self, path, **kw: (opened.append(centres.index(path)), init(self, path, **kw))[1])
    run = build(tdgan_config(centres, schedule='1:0.016,0+2:0.016'))
    assert opened == []
    train(run, 16)
    assert opened == [1]
    run.enter_stage(1)
    assert opened == [1, 0, 2]
    assert 'dataset' not in run.stages[0].sources[0].__dict__


def test_the_critic_of_a_centre_that_is_not_there_rests(centres):
    run = train(build(tdgan_config(centres, schedule='0:0.016,1+2:0.016')), 16)
    second = run.game.critics['D_1']
    assert second.source == 1 and all(p.grad is None for p in second.module.parameters())
    assert second.weight == 0
    run.enter_stage(1)
    run_iteration(run, Counted(0))
    assert any(p.grad is not None for p in second.module.parameters())


def test_metrics_look_at_the_centres_on_line_alone(centres, tmp_path):
    scored = []
    config = tdgan_config(centres, schedule='1:0.004,0+2:0.004')
    config['metrics'] = ['fd5k_efflite0']
    run = build(config)
    ticks = Ticks(config, tmp_path, torch.device('cpu'),
                  evaluate=lambda *args, centres, **kwargs: (scored.append(list(centres)), ({}, {}, {}))[1])
    ticks.begin(run)
    for stage in range(2):
        run.enter_stage(stage)
        ticks.score(run, tmp_path)
    assert scored == [['centre-1'], ['centre-0', 'centre-2']]


def test_two_equal_centres_weigh_as_one(centres):
    """Equal data, critics, latents and weights that sum to
    1: the generator's gradient is that of one centre."""
    twice = [centres[0], centres[0]]
    grads = []
    for schedule in ('0:1', '0+1:1'):
        run = build(tdgan_config(twice, schedule=schedule, code='off', weights='uniform'))
        run.enter_stage(0)
        if 'D_1' in run.game.critics:
            run.game.critics['D_1'].module.load_state_dict(run.game.D.module.state_dict())
        z = torch.randn([4, 16], generator=torch.Generator().manual_seed(3))
        run.game.style_mixing_prob = 0
        for layer in run.game.G.module.modules():
            if hasattr(layer, 'use_noise'):
                layer.use_noise = False
        run.game.G.module.requires_grad_(True)
        for ctx in micro_batches(run, run.phases[0], [stream.next_batch() for stream in run.reals], {}):
            ctx.gen_z = z
            run.phases[0].step(run.game, ctx)
        grads.append([p.grad for p in run.game.G.module.parameters()])
    for one, two in zip(*grads):
        if one is not None:
            torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-7)


def test_codes_not_in_use_get_no_gradient(centres):
    run = at_second_stage(tdgan_config(centres, code_init='random'))
    for parameter in run.game.G.module.parameters():       # Away from the teacher, so that there is a gradient at all.
        parameter.data.mul_(1.01)
    _, grads = remind(run)
    columns = grads['mapping.embed.weight'].abs().sum(0)
    assert columns[0] > 0 and columns[1] == columns[2] == 0

    tdgan = next(r for r in run.game.regularizers if isinstance(r, TDGAN))
    tdgan.sites = set()
    run.game.G.optimizer.zero_grad()
    run_phase(run, run.phases[0], [run.reals[0].next_batch()], {})
    columns = run.game.G.module.mapping.embed.weight.grad.abs().sum(0)
    assert columns[1] > 0 and columns[0] == columns[2] == 0


@pytest.mark.parametrize('stop', [8, 20])
@pytest.mark.parametrize('options', [{}, dict(schedule='0:0.016,1+2:0.016,0:0.016', d='keep', prev='ema', warmup=0.008)],
                         ids=['in turn', 'joint and revisited'])
def test_resume_is_exact_across_a_stage(centres, tmp_path, options, stop):
    config = tdgan_config(centres, **options)
    straight = train(build(config))
    half = train(build(config), stop)
    save_state(tmp_path / 'half', [half.state_dict(), half.local_state_dict()])
    resumed = build(config)
    resumed.load_state_dict(*load_state(tmp_path / 'half')[0])
    train(resumed)
    assert resumed.nimg == straight.nimg == 48
    assert_same_bits(resumed.state_dict(), straight.state_dict())


def test_a_new_centre_starts_from_the_images_of_the_previous_one(centres):
    run = at_second_stage(tdgan_config(centres))
    z = torch.randn([3, 16])
    for G in (run.game.G.module, run.game.G_ema):
        with torch.no_grad():
            images = [G(z, torch.eye(3)[[code] * 3], noise_mode='const') for code in range(3)]
        assert torch.equal(images[0], images[1]) and not torch.equal(images[1], images[2])


def test_a_new_stage_has_fresh_critics_and_strength(centres):
    config = tdgan_config(centres)
    config.update(augment_kwargs=dict(class_name='training.augment.AugmentPipe', xflip=1), target=0.6, ada_kimg=0.01,
                  ada_interval=1)
    run = train(build(config), 16)
    run.game.augment.p.fill_(0.5)
    before = run.game.D.module
    run.enter_stage(1)
    assert run.game.augment.p == 0 and run.game.D.module is not before and not run.game.D.optimizer.state
    assert not run.game.G.optimizer.state


def test_a_fixed_strength_stays(centres):
    config = tdgan_config(centres)
    config.update(augment_kwargs=dict(class_name='training.augment.AugmentPipe', xflip=1), p=0.3)
    assert at_second_stage(config).game.augment.p == torch.tensor(0.3)


def test_a_centre_that_comes_back_finds_its_kept_critic_whoever_else_is_there(centres):
    """With its optimizer; the strength of augmentation
    follows the first critic. New centres get fresh ones."""
    config = tdgan_config(centres, schedule='0:0.008,1:0.008,2+0:0.008,0:0.008', d='keep')
    config.update(augment_kwargs=dict(class_name='training.augment.AugmentPipe', xflip=1), target=0.6)
    run, ends = build(config), []
    for nimg in (8, 16, 24):
        train(run, nimg)
        run.game.augment.p.fill_(nimg / 100)
        ends.append({name: copy.deepcopy(critic.state_dict()) for name, critic in run.game.critics.items()})
        run.enter_stage(run.stage_idx + 1)
        now = {name: critic.state_dict() for name, critic in run.game.critics.items()}
        if nimg == 16:
            assert_same_bits(now['D_1'], ends[0]['D'])
            assert run.game.augment.p == 0 and not now['D']['optimizer']['state']
    assert_same_bits(now['D'], ends[2]['D_1'])
    assert run.game.augment.p == torch.tensor(0.24)


@pytest.mark.parametrize('version', ['now', 'before'])
def test_kept_critics_are_saved_once_for_all_ranks(centres, version):
    config = tdgan_config(centres, schedule='0:0.008,1:0.008,0:0.008', d='keep')
    run = train(build(config), 8)
    end = copy.deepcopy(run.game.D.state_dict())
    run.enter_stage(1)
    state, local = copy.deepcopy(run.state_dict()), run.local_state_dict()
    assert 'kept' not in local['regularizers']['TDGAN']
    if version == 'before':                         # Each rank kept them for itself.
        local['regularizers']['TDGAN'].update(state.pop('regularizers')['TDGAN'])
    resumed = build(config)
    resumed.load_state_dict(state, local)
    train(resumed, 16)
    resumed.enter_stage(2)
    assert_same_bits(resumed.game.D.state_dict(), end)


def test_statistics_say_the_stage_and_who_is_there(centres):
    run = build(tdgan_config(centres, schedule='0:0.008,2+0:0.008'))
    for stage, expected in enumerate([[0, 1, 0, 0], [1, 1, 0, 1]]):
        with Reports() as reports:
            run.enter_stage(stage)
        names = ['Progress/tdgan_stage', *(f'Progress/tdgan_centre_{i}' for i in range(3))]
        assert [reports.all(name).item() for name in names] == expected


def test_during_warmup_new_critics_learn_and_g_is_reminded_only(centres):
    """From the second stage on."""
    config = tdgan_config(centres, schedule='0:0.016,1:0.016', warmup=0.008, remind=0.0)
    config['loss_kwargs']['pl_weight'] = 0
    run = train(build(config), 8)
    before = [p.clone() for p in run.game.G.module.parameters()]
    run = train(run, 16)
    assert not all(torch.equal(p, q) for p, q in zip(run.game.G.module.parameters(), before))   # The first stage has none.
    run.enter_stage(1)
    for nimg, moves in ((20, False), (24, False), (28, True)):
        before = {player.name: [p.clone() for p in player.module.parameters()] for player in run.game.players}
        run_iteration(run, Counted(0))
        assert run.nimg == nimg
        same = {player.name: all(torch.equal(p, q) for p, q in zip(player.module.parameters(), before[player.name]))
                for player in run.game.players}
        assert same == {'G': not moves, 'D': False}


def test_weights_follow_the_sizes(centres):
    for weights, expected in (('size', [24 / 36, 12 / 36]), ('uniform', [0.5, 0.5]), ('sum', [1, 1])):
        run = build(tdgan_config(centres, schedule='0+1:1', weights=weights))
        run.enter_stage(0)
        assert [critic.weight for critic in run.game.critics.values()] == pytest.approx(expected)


def test_labels_are_remembered_when_the_data_is_gone(tmp_path):
    centres = [make_dataset(tmp_path / f'{i}.zip', num=12, num_classes=3, seed=i) for i in range(2)]
    run = at_second_stage(tdgan_config(centres, c_dim=3, kimg=0.032))
    run.stages[1].memory[0].close()
    gen_c, c = run.stages[1].memory[0].draw_labels(300, np.random.default_rng(0))
    assert gen_c.shape == (300, 5) and (gen_c[:, 3:] == [1, 0]).all() and abs(c.mean(0) - 1 / 3).max() < 0.1
    run_iteration(run, Counted(0))
    assert run.game.D.module.c_dim == 3 and run.game.G.module.c_dim == 5


def test_snapshots_say_what_labels_each_centre_had_but_not_where_its_data_are(tmp_path):
    """Nor anything of the labels of centres to come."""
    centres = [make_dataset(tmp_path / f'{i}.zip', num=num, num_classes=3, seed=i) for i, num in enumerate((12, 10, 9))]
    config = tdgan_config(centres, c_dim=3, schedule='0:0.004,1:0.004,2:0.004')
    run = setup.build(config, torch.device('cpu'))
    ticks = Ticks(config, tmp_path / 'run', torch.device('cpu'))
    (tmp_path / 'run').mkdir()
    ticks.begin(run)
    run.enter_stage(0)
    train(run, 8)
    ticks.save_networks(run)
    path = tmp_path / 'run/network-snapshot-000000.safetensors'
    snapshot = load_networks(path)
    assert tmp_path.name.encode() not in path.read_bytes()
    assert {name: code for name, (_, code) in snapshot['centres'].items()} == {
        'centre-0': [1, 0, 0], 'centre-1': [0, 1, 0], 'centre-2': [0, 0, 1]}
    assert snapshot['centre_labels'] == [
        dict(index=0, code=[1, 0, 0], num=12, labels=[[2, 4], [1, 4], [0, 4]]),
        dict(index=1, code=[0, 1, 0], num=10, labels=[[2, 3], [1, 3], [0, 4]])]


def test_path_length_sees_both_sides(centres):
    run = at_second_stage(tdgan_config(centres))
    gen_c, _ = run.stage.reg_source.draw_labels(400, np.random.default_rng(0))
    assert abs(gen_c.mean(0) - [0.5, 0.5, 0]).max() < 0.1
    phase = next(phase for phase in run.phases if phase.name == 'Greg')
    ctx = StepContext(run.game, phase, run.randomness, real_img=torch.zeros([40, 3, 16, 16]), real_c=torch.zeros([40, 0]))
    assert fake_labels(run, run.stage.reg_source, ctx)[0][:, 0].mean() < 1


def test_schedules():
    options = Options(data='a,b,c', schedule=default_schedule(3, 300))
    assert parse_schedule(options) == [([0], 100), ([1], 100), ([2], 100)]
    options = Options(data='a,b,c', schedule='0:500,1+2:500,0:250')
    assert parse_schedule(options) == [([0], 500), ([1, 2], 500), ([0], 250)]


@pytest.mark.parametrize('options, sentence', [
    (dict(schedule='3:10'), 'centres are 0 to 2'),
    (dict(schedule='0'), 'is not of the form'),
    (dict(schedule='0:ten'), 'is not of the form'),
    (dict(schedule='0+0:10'), 'at most once'),
    (dict(schedule='0:0'), 'KIMG must be more than 0'),
    (dict(schedule='0:1,1:nan'), 'KIMG must be more than 0'),
    (dict(schedule='0:inf'), 'KIMG must be more than 0 and at most 1000000000'),
    (dict(schedule='0:1e308'), 'KIMG must be more than 0 and at most 1000000000'),
    (dict(schedule='0:1e-308'), 'KIMG must be 0, or further from 0'),
    (dict(slots=2), '--tdgan_slots=2: there are 3 centres'),
    (dict(slots=4, code='off'), '--tdgan_slots=4 has no effect .* --tdgan_code=on'),
])
def test_refusals(centres, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        tdgan_config(centres, **options)


def test_with_codes_both_gaussians_without_something_between():
    """Why codes: a G that learns N(3, 1) (squared Wasserstein distance) while
    it is reminded, at the same latents, of N(-3, 1) ends between the two
    unless the label tells it which one is asked for. In one dimension."""
    z = torch.randn(2000, generator=torch.Generator().manual_seed(0))

    def learn(with_code):
        mean = torch.full([2], -3.0, requires_grad=True)        # What G adds to z for the codes 0 and 1.
        optimizer = torch.optim.Adam([mean], lr=0.05)
        for _ in range(600):
            new, old = mean[1 if with_code else 0] + z, mean[0] + z
            digest = (new.sort().values - (3 + z).sort().values).square().mean()
            remind = (old - (z - 3)).square().mean()
            optimizer.zero_grad()
            (digest + remind).backward()
            optimizer.step()
        return mean.detach()
    both = learn(True)
    assert abs(both[0] + 3) < 0.1 and abs(both[1] - 3) < 0.1
    assert abs(learn(False)[0]) < 0.2


def test_command_line(centres, tmp_path):
    from click.testing import CliRunner

    import train as program

    def invoke(*args):
        result = CliRunner().invoke(program.main, ['--outdir', str(tmp_path / 'runs'), '--device=cpu', '-n', *args])
        return result.exit_code, result.output
    data = f'--tdgan_data={centres[0]},{centres[1]}'
    code, output = invoke('--reg_type=tdgan', data, '--cfg=tiny')
    assert code == 0 and '0+1-tiny-tdgan' in output and 'Warning' not in output, output
    code, output = invoke('--reg_type=tdgan', data, '--cfg=tiny', '--kimg=9', '--tdgan_schedule=0:1,1:2')
    assert code == 0 and 'overrules --kimg=9' in output and 'duration:  3 kimg' in output, output
    for args, sentence in (
            (['--reg_type=tdgan'], '--reg_type=tdgan needs --tdgan_data'),
            (['--reg_type=tdgan', data, f'--data={centres[0]}'], 'exclude each other'),
            ([data, f'--data={centres[0]}'], 'has no effect without --reg_type=tdgan'),
            (['--reg_type=tdgan', f'--tdgan_data={centres[0]},{tmp_path}/none.zip'], 'no such file')):
        code, output = invoke(*args)
        assert code == 2 and sentence in output, output
    odd = make_dataset(tmp_path / 'odd.zip', res=32)
    code, output = invoke('--reg_type=tdgan', f'--tdgan_data={centres[0]},{odd}')
    assert code == 2 and 'odd.zip' in output and 'one shape' in output
