"""One iteration comes to the same however its batch is split into micro-batches, for every method and scheme.

The critics have no minibatch statistics, which couple the images of a micro-batch; augmentation
is off. Path length is left out: as published its mean moves with every micro-batch.
"""
import pytest
import torch
from test_zoo import METHODS, zoo_config
from tiny import make_dataset, tensors

from training import setup
from training.loss import StepContext
from training.training_loop import run_phase

BATCH = 8
CASES = [(name, {}, 'logistic', None) for name in METHODS] + [
    ('diggan', dict(pair='mean'), 'logistic', None),
    ('diggan', dict(pair='mean', ema=0.5), 'osgan', 'logistic'),
    ('weco', dict(both=True), 'osgan', 'logistic'), ('r2', dict(interval=1), 'relativistic', None),
    ('lecam', dict(weight=0.1, start=0), 'osgan', 'saturating')]

LIMITS = dict(vision=5e-3)     # Rounding pushes pixels over the kinks of the frozen network.


class OneStream:
    """Generators of random numbers, each of which goes on where that of the micro-batch before has stopped.

    What is drawn sample by sample is then the same for every split.
    """

    def __init__(self, streams):
        self._streams, self._drawn = streams, {}

    def __call__(self, ctx, key):
        generator = self._streams.generator(ctx.nimg, key)
        if ctx.round > 0:
            generator.set_state(self._drawn[ctx.nimg, key, ctx.round - 1].get_state())
        self._drawn[ctx.nimg, key, ctx.round] = generator
        return generator


def two_iterations(config, micro_batch, monkeypatch):
    """{phase, player, parameter: gradient} and {state of a
    method}, of two iterations in which no weight moves."""
    run = setup.build(config, torch.device('cpu'))
    stream = OneStream(run.randomness)
    monkeypatch.setattr(StepContext, 'rng', lambda ctx, use: stream(ctx, f'{ctx.phase.name}/{ctx.source}/{use}'))
    monkeypatch.setattr(StepContext, 'shared_rng', lambda ctx, use: stream(ctx, f'{ctx.phase.name}/{ctx.source}/{use}'))
    for stage_idx in range(len(run.stages)):            # With centres: the last, in which G is reminded.
        run.enter_stage(stage_idx)
        for parameter in run.game.G.module.parameters():
            parameter.add_(0.1)
    for player in run.game.players:
        player.optimizer = torch.optim.SGD(player.module.parameters(), lr=0.0)
    run.micro_batch, grads = micro_batch, {}
    for batch_idx in range(2):
        reals, shared = [stream.next_batch() for stream in run.reals], {}
        for phase in run.phases:
            if batch_idx % phase.interval == 0:
                run_phase(run, phase, reals, shared)
                grads |= {f'{batch_idx}/{phase.name}/{player.name}/{name}': parameter.grad.clone()
                          for player in phase.players for name, parameter in player.module.named_parameters()}
        run.nimg += BATCH
        run.batch_idx += 1
        for regularizer in run.game.having('end_iteration'):
            regularizer.end_iteration(run.nimg, run.batch_idx)
    return grads, {type(r).__name__: r.state_dict() for r in run.game.regularizers}


@pytest.mark.parametrize(('name', 'options', 'loss', 'game'), CASES)
def test_an_iteration_is_the_same_for_every_split_of_the_batch(tmp_path, monkeypatch, name, options, loss, game):
    data = [make_dataset(tmp_path / f'{i}.zip', seed=i) for i in range(2)]
    config = zoo_config(data, [name], loss, game, batch=BATCH, batch_gpu=BATCH)
    config['regularizers'][name].update(options)
    config['loss_kwargs'].update(style_mixing_prob=0, pl_weight=0)
    config['D_kwargs']['epilogue_kwargs'].update(mbstd_num_channels=0)
    config['G_kwargs']['synthesis_kwargs'].update(use_noise=False)
    expected, state = two_iterations(config, BATCH, monkeypatch)
    for micro_batch in (4, 1):
        grads, its_state = two_iterations(config, micro_batch, monkeypatch)
        assert grads.keys() == expected.keys()
        for key, grad in grads.items():
            limit = LIMITS.get(name, 1e-3) * expected[key].abs().max().item() + 1e-7
            torch.testing.assert_close(grad, expected[key], rtol=0, atol=limit,
                                       msg=lambda text, where=f'{key} in parts of {micro_batch}': f'{where}: {text}')
        for path, value in tensors(its_state).items():
            if isinstance(value, str):
                assert value == tensors(state)[path], path
            else:
                torch.testing.assert_close(value, tensors(state)[path], rtol=1e-4, atol=1e-5, msg=path)
