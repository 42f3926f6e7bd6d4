"""The loop: resume, accumulation, what a phase computes and what it does not."""
import copy

import numpy as np
import pytest
import torch
from tiny import assert_same_bits, make_config, make_dataset, run_iterations

from torch_utils import training_stats
from torch_utils.state_file import load_state, save_state
from training import setup
from training.player import Player
from training.regularizer import Regularizer
from training.training_loop import finish_phase, micro_batches, run_phase

ADA = dict(target=0.6, ada_kimg=0.1, augment_kwargs=dict(class_name='training.augment.AugmentPipe', xflip=1, scale=1,
                                                             brightness=1, noise=1))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp('data') / 'plain.zip')


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp('data') / 'labelled.zip', num_classes=3)


@pytest.mark.parametrize('changes', [{}, ADA, dict(batch_gpu=2), dict(data_loader_kwargs=dict(num_workers=2))],
                         ids=['plain', 'ada', 'accumulation', 'workers'])
def test_resume_is_exact(data, tmp_path, changes):
    config = make_config(data, **changes)
    _, straight = run_iterations(config, 9)
    _, half = run_iterations(config, 5)
    save_state(tmp_path / 'half', list(half))
    _, resumed = run_iterations(config, 4, state=load_state(tmp_path / 'half')[0])
    assert_same_bits(resumed, straight)


def test_resume_is_exact_in_channels_last_memory(data, tmp_path):
    """A file has tensors in row-major order, and the fused Adam reads them in the order in which they lie."""
    config = make_config(data)
    for channels in (config['G_kwargs']['synthesis_kwargs'], config['D_kwargs']):
        channels.update(num_fp16_res=2, reduced_dtype='bfloat16')
    for kwargs in (config['G_kwargs']['synthesis_kwargs'], config['D_kwargs']['block_kwargs']):
        kwargs['fp16_channels_last'] = True
    for player in 'GD':
        config[f'{player}_opt_kwargs']['fused'] = True
    _, straight = run_iterations(config, 3)
    _, half = run_iterations(config, 1)
    save_state(tmp_path / 'half', list(half))
    _, resumed = run_iterations(config, 2, state=load_state(tmp_path / 'half')[0])
    assert_same_bits(resumed, straight)


def test_another_seed_gives_another_run(data):
    _, first = run_iterations(make_config(data), 1)
    _, second = run_iterations(make_config(data, seed=1), 1)
    with pytest.raises(AssertionError, match='differs'):
        assert_same_bits(first, second)


def counting(module, counts, name):
    module.register_forward_hook(lambda *_: counts.__setitem__(name, counts.get(name, 0) + 1))


def test_no_network_runs_more_often_than_needed(data):
    """One pass where one will do: Gmain G 1, D 1; Greg G 1; Dmain G 1, D 2; Dreg D 1."""
    run = setup.build(make_config(data), torch.device('cpu'))
    run.enter_stage(0)
    reals = [run.reals[0].next_batch()]
    counts = {}
    counting(run.game.G.module.synthesis, counts, 'G')
    counting(run.game.D.module, counts, 'D')
    seen = {}
    for phase in run.phases:
        counts.clear()
        run_phase(run, phase, reals, {})
        seen[phase.name] = dict(counts)
    assert seen == dict(Gmain=dict(G=1, D=1), Greg=dict(G=1), Dmain=dict(G=1, D=2), Dreg=dict(D=1))


def test_main_phases_equal_a_step_written_by_hand(data):
    config = make_config(data)
    run = setup.build(config, torch.device('cpu'))
    run.enter_stage(0)
    reals = [run.reals[0].next_batch()]
    G, D = copy.deepcopy(run.game.G.module), copy.deepcopy(run.game.D.module)
    G_opt = torch.optim.Adam(G.parameters(), lr=0.002 * 4 / 5, betas=[0.0, 0.99 ** (4 / 5)], eps=1e-8)
    D_opt = torch.optim.Adam(D.parameters(), lr=0.002 * 16 / 17, betas=[0.0, 0.99 ** (16 / 17)], eps=1e-8)
    softplus = torch.nn.functional.softplus

    def fakes(phase):
        z = torch.randn([4, 16], generator=run.randomness.generator(0, f'{phase}/0/0/z'))
        rng = run.randomness.generator(0, f'{phase}/0/0/gen')
        c = torch.zeros([4, 0])
        ws = G.mapping(z, c)
        cutoff = torch.empty([], dtype=torch.int64).random_(1, ws.shape[1], generator=rng)
        mixes = torch.rand([], generator=rng) < 0.9
        other = G.mapping(torch.randn(z.shape, generator=rng), c, skip_w_avg_update=True)
        if mixes:
            ws = torch.cat([ws[:, :cutoff], other[:, cutoff:]], dim=1)
        return G.synthesis(ws, noise_generator=rng), c

    G.requires_grad_(True)
    img, c = fakes('Gmain')
    softplus(-D(img, c)).mean().backward()
    G_opt.step()
    G.requires_grad_(False)

    D.requires_grad_(True)
    with torch.no_grad():
        img, c = fakes('Dmain')
    softplus(D(img, c)).mean().backward()
    softplus(-D(reals[0][0], c)).mean().backward()
    D_opt.step()

    for phase in run.phases:
        if phase.name in ('Gmain', 'Dmain'):
            run_phase(run, phase, reals, {})
    assert_same_bits(run.game.G.module.state_dict(), G.state_dict())
    assert_same_bits(run.game.D.module.state_dict(), D.state_dict())


def test_accumulation_sums_micro_batches(data):
    """Two micro-batches of the same size give the sum of their gradients, not the mean."""
    z = torch.randn([4, 16])

    def gradient(batch_gpu):
        config = make_config(data, batch_gpu=batch_gpu)
        config['loss_kwargs'].update(style_mixing_prob=0)
        config['G_kwargs']['synthesis_kwargs']['use_noise'] = False
        config['D_kwargs']['epilogue_kwargs']['mbstd_num_channels'] = 0
        run = setup.build(config, torch.device('cpu'))
        run.enter_stage(0)
        phase = next(phase for phase in run.phases if phase.name == 'Dmain')
        run.game.D.module.requires_grad_(True)
        for ctx in micro_batches(run, phase, [run.reals[0].next_batch()], {}):
            ctx.gen_z = z[ctx.round * batch_gpu:][:batch_gpu]
            phase.step(run.game, ctx)
        return [parameter.grad for parameter in run.game.D.module.parameters()]

    for whole, accumulated in zip(gradient(4), gradient(2)):
        torch.testing.assert_close(accumulated, 2 * whole, rtol=1e-4, atol=1e-6)


def test_a_phase_without_terms_takes_no_step(data):
    """With path length off (`cifar`) G keeps 4/5 of its rate but has no lazy phase."""
    config = make_config(data)
    config['loss_kwargs'].update(pl_weight=0, r1_gamma=0)
    run = setup.build(config, torch.device('cpu'))
    assert [phase.name for phase in run.phases] == ['Gmain', 'Dmain']
    assert run.game.G.optimizer.param_groups[0]['lr'] == pytest.approx(0.002 * 4 / 5)


def test_missing_gradients_count_as_zero_but_an_empty_phase_takes_no_step():
    def player():
        torch.manual_seed(0)
        return Player('D', lambda: torch.nn.Linear(3, 1), lambda p: torch.optim.Adam(p, betas=(0.5, 0.9)))
    one, two = player(), player()
    for each in (one, two):
        each.module.requires_grad_(True)
        each.module(torch.ones([1, 3])).sum().backward()
        finish_phase([each])
        each.optimizer.zero_grad()
    before = one.module.bias.clone()
    one.module.weight.grad = torch.ones([1, 3])
    finish_phase([one])
    assert one.module.bias.item() != before.item()      # Momentum moves it on.
    finish_phase([two])
    assert two.module.bias.item() == before.item()


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf'), 1e20])    # Adam cannot square the last.
def test_a_step_with_a_gradient_that_is_not_finite_is_skipped_and_counted(value):
    torch.manual_seed(0)
    D = Player('D', lambda: torch.nn.Linear(4, 1, bias=False), lambda p: torch.optim.Adam(p, betas=(0.0, 0.99)))
    before = D.module.weight.clone()
    D.module.weight.grad = torch.tensor([[1.0, value, value, 3e7]])
    collector = training_stats.Collector('Progress/nonfinite_grads')
    assert finish_phase([D])
    assert torch.equal(D.module.weight, before)
    collector.update()
    assert collector['Progress/nonfinite_grads'] == 1
    D.module.weight.grad = torch.tensor([[1.0, 2.0, 3.0, 3e7]])     # A large one is none of them.
    assert not finish_phase([D])
    assert (D.module.weight != before).all()


def test_labels_of_fakes_follow_the_data(labelled):
    config = make_config(labelled)
    config['training_set_kwargs']['use_labels'] = True
    run = setup.build(config, torch.device('cpu'))
    labels, same = run.stage.sources[0].draw_labels(3000, np.random.default_rng(0))
    assert same is labels or (same == labels).all()
    assert labels.shape == (3000, 3) and abs(labels.mean(0) - 1 / 3).max() < 0.03
    run_iterations(config, 1)


def test_a_misspelt_hook_is_refused_when_the_class_is_made():
    with pytest.raises(TypeError, match='d_fakes is no hook'):
        type('Wrong', (Regularizer,), dict(d_fakes=lambda self, ctx: None))


def test_a_site_that_the_recipe_lacks_is_refused_by_name(data):
    run = setup.build(make_config(data), torch.device('cpu'))
    phases = [phase for phase in run.phases if phase.name != 'Greg']
    with pytest.raises(ValueError, match='PathLength acts at g_reg, which --loss=logistic does not offer'):
        setup.check_sites(run.game, phases, 'logistic')


def test_a_resumed_run_opens_its_images_once_and_at_the_right_place(data, monkeypatch):
    opened = []
    real = setup.RealStream
    monkeypatch.setattr(setup, 'RealStream', lambda *args: opened.append(args[-1]) or real(*args))
    config = make_config(data)
    _, half = run_iterations(config, 3)
    run_iterations(config, 1, state=half)
    assert opened == [0, 3 * config['batch']]
