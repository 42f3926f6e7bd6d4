"""InsGen and FakeCLR: the contrast by hand, gradients against
the formulas written out, queues, copies, private data."""
import copy
import math

import pytest
import torch
from safetensors import safe_open
from test_zoo import VIEWS, zoo_config
from tiny import assert_same_bits, make_dataset, run_iterations
from torch.nn.functional import log_softmax, normalize
from zoo_game import STREAMS, assert_sum, fakes, loss_gradients, make_batch, make_game, step_gradients

from losses_ext import contrast as module
from losses_ext.contrast import Queue, contrast, queue_length, require_entries
from losses_ext.fakeclr import FakeCLR, newest, perturbed
from losses_ext.insgen import InsGen
from torch_utils import training_stats
from training import setup
from training.data.stages import Source, Stage
from training.loss import Phase, StepContext, d_main, g_main
from training.run.ticks import Ticks
from training.training_loop import run_phase

BATCH = make_batch()
METHODS = pytest.mark.parametrize('name', ['insgen', 'fakeclr'])


@pytest.fixture
def data(tmp_path):
    return [make_dataset(tmp_path / 'data.zip', num=12)]


def game_with(method, **options):
    """A game whose method has begun; its momentum copy is another network than D."""
    game = make_game()
    game.regularizers = [method(game, method.Options(**options))]
    game.regularizers[0].begin_stage(Stage(1, [Source(None)]), 5, resumed=False)
    for parameter in game.frozen[f'{method.__module__.split(".")[1]}_D'].parameters():
        parameter.mul_(0.9)
    return game, game.regularizers[0]


# The contrast.

QUERY = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
KEY = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
ENTRIES = torch.stack([torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 2.0]) / math.sqrt(5)])


def test_the_contrast_is_the_one_computed_by_hand():
    query = QUERY.clone().requires_grad_()
    loss = contrast(normalize(query), KEY, ENTRIES, 0.2)
    torch.testing.assert_close(loss, torch.tensor([0.857496, 0.263915]), rtol=0, atol=2e-6)
    loss.mean().backward()
    torch.testing.assert_close(query.grad, torch.tensor([[-0.101450, 0.076088], [0.0, 0.934303]]), rtol=0, atol=2e-6)
    torch.testing.assert_close(contrast(normalize(7 * QUERY), KEY, ENTRIES.flip(0), 0.2), loss.detach())


def test_what_age_does_is_the_one_computed_by_hand():
    query, written = normalize(QUERY), torch.tensor([10.0, 20.0, 30.0])
    for offsets, expected in ((1.0, [5.310413, 3.824792]), (newest(written), [4.979191, 3.725651])):
        loss = contrast(query, KEY, ENTRIES, 0.2, offsets)
        torch.testing.assert_close(loss, torch.tensor(expected), rtol=0, atol=2e-6)
    late = newest(torch.arange(997.0, 1001))
    torch.testing.assert_close(late, torch.tensor([0.231547, 0.243437, 0.255937, 0.269080]), rtol=0, atol=1e-4)


def test_large_latents_move_more_up_to_a_limit():
    z = torch.tensor([[-4.0, -1.0, 0.0, 0.5, 3.5]])
    step = perturbed(z, torch.ones_like(z), 0.1, 3.0) - z
    torch.testing.assert_close(step, torch.tensor([[0.3, 0.1, 0.0, 0.05, 0.3]]), rtol=0, atol=1e-6)


# Terms in a step.

def unit(D, name, img, c):
    """What a head makes of a critic's maps at 4x4, written out."""
    head = getattr(D, name)
    e = D(img, c, return_feats=True)[1][4].float().mean([2, 3])
    y = torch.relu(e @ head.hidden.weight.T + head.hidden.bias) @ head.out.weight.T + head.out.bias
    return y / y.norm(dim=1, keepdim=True)


def cross(q, k, entries, T, t=0.0):
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ entries.T + t], 1) / T
    return -log_softmax(logits, 1)[:, 0].mean()


def test_the_gradients_of_the_critic_are_the_formula_of_insgen():
    game, method = game_with(InsGen, queue_real=5, queue_fake=6, weight_real=3.0, weight_fake=2.0, perturb=0.5, temperature=0.3)
    ctx = StepContext(game, Phase('D', d_main, [game.D], critic=game.D), STREAMS, **BATCH)
    near = fakes(game, {**BATCH, 'gen_z': BATCH['gen_z'] + 0.5 * ctx.randn_like(BATCH['gen_z'], 'insgen')})
    total = step_gradients(game, d_main, BATCH)
    D, other, far, c = game.D.module, game.frozen['insgen_D'], fakes(game, BATCH), BATCH['gen_c']
    Q = {kind: method._queues[f'D/{kind}'].entries for kind in ('real', 'fake')}
    real = BATCH['real_img'], BATCH['real_c']
    loss = 3 * cross(unit(D, 'insgen_real', *real), unit(other, 'insgen_real', *real), Q['real'], 0.3)
    loss = loss + 2 * cross(unit(D, 'insgen_fake', far, c), unit(other, 'insgen_fake', near, c), Q['fake'], 0.3)
    terms = loss_gradients(game, loss)
    game.regularizers = []
    assert_sum(total, step_gradients(game, d_main, BATCH), terms)
    assert all(terms[f'b4.{name}'].abs().max() == 0 for name in ('conv.weight', 'fc.weight', 'out.weight'))
    assert all(p.grad is None for p in other.parameters())
    # What goes into the queues: keys of reals, of fakes the query's maps under the head of the copy.
    torch.testing.assert_close(method._seen['D', 'real', 0], unit(other, 'insgen_real', *real))
    maps = D(far, c, return_feats=True)[1][4].mean([2, 3])
    torch.testing.assert_close(method._seen['D', 'fake', 0], normalize(other.insgen_fake(maps)))


@pytest.mark.parametrize('forget', ['constant', 'age', 'none'])
def test_the_gradients_of_the_critic_are_the_formula_of_fakeclr(forget):
    game, method = game_with(FakeCLR, queue=6, weight_fake=2.0, perturb=0.5, clamp=1.0, forget=forget)
    ctx, z = StepContext(game, Phase('D', d_main, [game.D], critic=game.D), STREAMS, **BATCH), BATCH['gen_z']
    near = fakes(game, {**BATCH, 'gen_z': z + 0.5 * z.abs().clamp(max=1) * ctx.randn_like(z, 'fakeclr')})
    total = step_gradients(game, d_main, BATCH)
    D, other, c, queue = game.D.module, game.frozen['fakeclr_D'], BATCH['gen_c'], method._queues['D/fake']
    l = queue.written / queue.written.max()
    t = {'constant': 1.0, 'none': 0.0, 'age': (100 * l / l.square().sum().sqrt()).softmax(0)}[forget]
    key = unit(other, 'fakeclr_fake', near, c)
    terms = loss_gradients(game, 2 * cross(unit(D, 'fakeclr_fake', fakes(game, BATCH), c), key, queue.entries, 0.2, t))
    game.regularizers = []
    assert_sum(total, step_gradients(game, d_main, BATCH), terms)
    torch.testing.assert_close(method._seen['D', 'fake', 0], key)


def test_the_generators_part_is_the_formula_and_reaches_nobody_else():
    game, method = game_with(InsGen, queue_real=5, queue_fake=6, weight_g=3.0)
    G, D, other, grads = game.G.module.requires_grad_(True), game.D.module, game.frozen['insgen_D'], []
    for regularizers in ([method], []):
        game.regularizers = regularizers
        G.zero_grad()
        g_main(game, StepContext(game, Phase('Gmain', g_main, [game.G]), STREAMS, **BATCH))
        grads.append({name: p.grad.clone() for name, p in G.named_parameters()
                      if p.grad is not None and 'noise_strength' not in name})
    G.zero_grad()
    img = G(BATCH['gen_z'], BATCH['gen_c'])
    query, key = (unit(net, 'insgen_fake', x, BATCH['gen_c']) for net, x in ((D, img), (other, img.detach())))
    (3 * cross(query, key, method._queues['D/fake'].entries, 0.2)).backward()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name] + dict(G.named_parameters())[name].grad, rtol=1e-4, atol=1e-5, msg=name)
    assert not method._seen and all(p.grad is None for net in (D, other) for p in net.parameters())


# Queues and copies.

def test_a_queue_is_a_ring():
    queue, vectors = Queue(5, torch.Generator().manual_seed(0), torch.device('cpu')), torch.randn([20, module.DIM])
    positions = []
    for k in range(4):
        queue.write(vectors[2 * k:2 * k + 2], k)
        positions.append(queue.position)
    assert positions == [2, 4, 1, 3]
    assert torch.equal(queue.entries, vectors[[5, 6, 7, 3, 4]]) and queue.written.tolist() == [2, 3, 3, 1, 2]
    queue.write(vectors[10:17], 9)
    assert torch.equal(queue.entries, vectors[10:15]) and queue.position == 3


def test_what_is_not_finite_never_enters_a_queue():
    queue = Queue(4, torch.Generator().manual_seed(0), torch.device('cpu'))
    before = queue.entries.clone()
    queue.write(torch.stack([torch.full([module.DIM], float('nan')), torch.ones(module.DIM)]), 1)
    assert torch.equal(queue.entries[[0, 2, 3]], before[[0, 2, 3]]) and queue.entries[1].eq(1).all()


def test_the_copy_follows_once_an_iteration():
    game, method = game_with(FakeCLR, queue=6, momentum=0.75)
    before = copy.deepcopy(game.frozen['fakeclr_D'].state_dict())
    for k in range(2):
        method.end_iteration(4, k + 1)
    for name, tensor in game.frozen['fakeclr_D'].named_parameters():
        there = game.D.module.state_dict()[name]
        torch.testing.assert_close(tensor - there, 0.75 ** 2 * (before[name] - there), rtol=1e-4, atol=1e-6, msg=name)


@METHODS
def test_copy_and_queues_are_saved_with_the_run_and_are_in_no_snapshot(data, tmp_path, name):
    config = zoo_config(data, [name])
    run, (state, local) = run_iterations(config, 2)
    queues = state['regularizers'][type(run.game.regularizers[-1]).__name__]
    assert {entry['entries'].shape for entry in queues.values()} == {(6, 128)} and state['frozen_of'] == {f'{name}_D': 'D'}
    assert not local['regularizers'][type(run.game.regularizers[-1]).__name__] and not run.game.regularizers[-1].describe()
    Ticks(config, str(tmp_path), torch.device('cpu')).save_networks(run)
    with safe_open(next(tmp_path.glob('*.safetensors')), 'pt') as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}     # noqa: SIM118
    assert any(f'{name}_fake.out.weight' in key for key in tensors)     # Heads, as all that is grafted; no copy, no queue.
    assert not any(f'{name}_D' in key or tensor.shape == (6, 128) for key, tensor in tensors.items())


@METHODS
def test_critics_elsewhere_are_refused(name):
    assert not {'insgen': InsGen, 'fakeclr': FakeCLR}[name].works_apart


@pytest.mark.parametrize('method', [InsGen, FakeCLR], ids=['insgen', 'fakeclr'])
def test_a_head_that_would_learn_nothing_rewards_nobody(data, method):
    name = method.__module__.split('.')[1]
    config, queues = zoo_config(data, [name]), dict(queue=5) if method is FakeCLR else dict(queue_real=5, queue_fake=5)
    with pytest.raises(ValueError, match=f'--{name}_weight_fake=0: the head .* give --{name}_weight_g=0, too'):
        method.configure(config, method.Options(weight_fake=0.0, **queues))
    method.configure(config, method.Options(weight_fake=0.0, weight_g=0.0, **queues))


def test_a_queue_is_a_twentieth_of_the_images():
    assert [queue_length(num) for num in (4000, 140000, 200)] == [200, 7000, 10]
    few = dict(data_num_images=[9], training_set_kwargs=dict(max_size=9, xflip=True))
    with pytest.raises(ValueError, match='--insgen_queue_real: 5 % of 18 images are less than one; give a number'):
        require_entries('--insgen_queue_real', None, few)
    require_entries('--insgen_queue_real', 4, few)
    require_entries('--insgen_queue_real', None, dict(data_num_images=[10], training_set_kwargs=dict(max_size=10, xflip=True)))


# What they leave alone.

@METHODS
def test_statistics_of_the_logits_and_the_average_of_w_are_those_of_the_base(data, name):
    """What drives --aug=ada and the truncation: bit for
    bit. One first step of D, in which G has not moved."""
    found = []
    for names in ([], [name]):
        run = setup.build(zoo_config(data, names, augment_kwargs=VIEWS, p=0), torch.device('cpu'))
        run.enter_stage(0)
        collector = training_stats.Collector('Loss/(scores|signs)/.*')
        collector.update()
        for phase in [phase for phase in run.phases if phase.name == 'Dmain']:
            run_phase(run, phase, [stream.next_batch() for stream in run.reals], {})
        collector.update()
        found.append((run.game.D.real_signs.tolist(), run.game.G.module.mapping.w_avg.tolist(),
                      {key: collector.mean(key) for key in collector.names()}))
    assert found[0] == found[1]


def test_only_the_first_critic_of_a_source_has_heads(data):
    run = setup.build(zoo_config(data, ['weco', 'insgen']), torch.device('cpu'))
    assert run.game.critics['D'].grafts == ['insgen_real', 'insgen_fake'] and run.game.critics['D2'].grafts == []


def test_an_unperturbed_neighbour_of_the_same_styles_is_the_fake_itself():
    game, method = game_with(FakeCLR, queue=6, perturb=0.0, mixing='shared')
    game.style_mixing_prob, made, generate = 0.9, [], game.generate
    game.generate = lambda *args, **kwargs: (made.append(generate(*args, **kwargs)), made[-1])[1]
    step_gradients(game, d_main, BATCH)
    assert len(made) == 2 and torch.equal(made[0].img, made[1].img)


def test_a_run_that_goes_on_has_the_same_copy(data):
    config = zoo_config(data, ['insgen'])
    _, half = run_iterations(config, 1)
    run = setup.build(config, torch.device('cpu'))
    run.load_state_dict(*copy.deepcopy(half))
    assert_same_bits(run.state_dict()['frozen'], half[0]['frozen'])
