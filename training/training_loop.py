"""The loop: which phase is due, its micro-batches, the
optimizer step, the generator average, adaptive augmentation.

What a phase does is `loss.py`; how a run is put together is
`setup.py`; what is periodic or for humans is `ticks.py`.
"""
import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from torch_utils import distributed, misc, training_stats
from torch_utils.optimizers import step_unless
from torch_utils.out_of_memory import is_out_of_memory
from training.data.stages import OutOfImagesError, Source
from training.data.storage import DatasetError
from training.ema import ema_decay, update_ema
from training.exchange import GradientExchange
from training.graphs import NOT_DONE
from training.loss import Phase, StepContext
from training.player import Player, in_layout_of
from training.ramp import follow_ramps, ramp, ramped
from training.run.ticks import Ticks
from training.setup import Run


def training_loop(run: Run, ticks: Ticks) -> None:
    """Trains until the last stage is through, or `ticks` says stop."""
    ticks.begin(run)
    for stage_idx in range(run.stage_idx, len(run.stages)):
        if ticks.stopped:
            break
        run.enter_stage(stage_idx)
        ticks.begin_stage(run)
        while run.nimg < run.stage.end_nimg and not ticks.stopped:
            run_iteration(run, ticks)
            ticks.after_iteration(run)
    ticks.end(run)


def run_iteration(run: Run, ticks: Ticks) -> None:
    """One batch of reals: every phase that is due, then all that follows them."""
    reals = next_reals(run)
    shared: dict = {}
    follow_ramps(run)
    for phase in run.phases:
        if run.batch_idx % phase.interval == 0:
            with ticks.timer(phase.name):
                is_broken = run_phase(run, phase, reals, shared)
            ticks.health.note_step(phase.name, is_broken)
    half_life = ramped(run.config, 'ema_kimg', run.nimg, run.config['ema_kimg'])
    decay = ema_decay(run.batch_size, run.nimg, half_life, run.config['ema_rampup'])
    update_ema(run.game.G_ema, run.game.G.module, decay)
    run.nimg += run.batch_size
    run.batch_idx += 1
    if run.game.shares is not None:
        run.game.shares.end_iteration()
    for regularizer in run.game.having('end_iteration'):
        regularizer.end_iteration(run.nimg, run.batch_idx)
    if run.ada is not None and run.batch_idx % run.config['ada_interval'] == 0:
        adapt_augmentation(run)


def next_reals(run: Run) -> list[tuple[Tensor, Tensor]]:
    """A batch of reals of each source. If one rank cannot load its
    part, all raise OutOfImagesError, save and end together."""
    reals, problem = [], None
    try:
        reals = [stream.next_batch() for stream in run.reals]
    except DatasetError as error:
        problem = str(error)
    if distributed.any(problem is not None):
        raise OutOfImagesError(next(text for text in distributed.gather_objects(problem) if text is not None))
    return reals


def run_phase(run: Run, phase: Phase, reals: list[tuple[Tensor, Tensor]], shared: dict) -> Tensor | None:
    """Accumulates the gradients of the phase's players over
    its micro-batches, then does their optimizers' step.

    Returns what `finish_phase` returns. If the device runs out of memory, the phase is repeated with smaller
    micro-batches. In a run with CUDA graphs the phase is replayed from its graph, once there is one.
    """
    if run.graphs is not None:
        done = run.graphs.run(run, phase, list(micro_batches(run, phase, reals, shared)), learn)
        if done is not NOT_DONE:
            return done
    while not accumulate_gradients(run, phase, reals, shared):
        if run.graphs is None or not run.graphs.give_up(run.phases):
            shrink_micro_batch(run)
        shared.clear()      # What phases share has the former size.
    return take_step(run, phase)


def learn(run: Run, phase: Phase, contexts: Iterable[StepContext]) -> Tensor | None:
    """All that a phase does with its micro-batches; returns what `finish_phase` returns."""
    back_propagate(run, phase, contexts)
    return take_step(run, phase)


def accumulate_gradients(run: Run, phase: Phase, reals: list[tuple[Tensor, Tensor]], shared: dict) -> bool:
    """Accumulates the gradients of the phase's players; False if memory ran out."""
    try:
        back_propagate(run, phase, micro_batches(run, phase, reals, shared))
    except RuntimeError as error:
        if run.micro_batch == 1 or not is_out_of_memory(error):
            raise
        # The tensors of the failed step are freed when this function returns; then the caller repeats it.
        return False
    return True


def back_propagate(run: Run, phase: Phase, contexts: Iterable[StepContext]) -> None:
    """Runs the phase's step on all its micro-batches."""
    for player in phase.players:
        player.optimizer.zero_grad(set_to_none=True)
        player.module.requires_grad_(True)
    with nullcontext() if run.exchange is None else run.exchange.watching(kind_of(run, phase), parameters_of(phase.players)):
        for ctx in contexts:
            phase.step(run.game, ctx)
            if run.game.shares is not None:
                run.game.shares.note_step(ctx)


def kind_of(run: Run, phase: Phase) -> tuple | None:
    """A key: phases that have the same one add to each parameter's gradient equally often, so that it is
    known when a gradient is complete. None if regularizers may still add to gradients after the last
    micro-batch.
    """
    if run.game.having('end_phase'):
        return None
    acting = run.game.acting_in(phase)
    return (phase.name, run.stage_idx, run.micro_batch, tuple((run.batch_idx % r.interval == 0, r.variant()) for r in acting))


def parameters_of(players: list[Player]) -> list[Tensor]:
    """The parameters of some players."""
    return [parameter for player in players for parameter in player.module.parameters()]


def take_step(run: Run, phase: Phase) -> Tensor | None:
    """Ends a phase after its last micro-batch; returns what `finish_phase` returns."""
    for regularizer in run.game.having('end_phase'):
        regularizer.end_phase(phase)
    return finish_phase(phase.players, run.exchange)


def shrink_micro_batch(run: Run) -> None:
    """Halves, for the rest of the run, the images that are computed
    at once. Gradients stay those of the configured micro-batches."""
    group = run.config['D_kwargs']['epilogue_kwargs']['mbstd_group_size']
    before = run.micro_batch
    run.micro_batch = max(num for num in range(1, before // 2 + 1) if run.batch_gpu % num == num % min(group, num) == 0)
    if run.device.type == 'cuda':
        torch.cuda.empty_cache()
    print(f'Out of memory with {before} images at once: going on with {run.micro_batch}; batches stay as they are.',
          flush=True)


def micro_batches(run: Run, phase: Phase, reals: list[tuple[Tensor, Tensor]], shared: dict) -> Iterator[StepContext]:
    """The contexts of a phase: reals, latents and labels
    of each of its sources, in pieces of `micro_batch`."""
    for index in sources_of(run, phase):
        source = run.stage.sources[index]
        if phase.critic is None and not phase.every_source:
            source = run.stage.reg_source or source
        real_img, real_c = reals[index]
        for round_idx, (img, c) in enumerate(zip(real_img.split(run.micro_batch), real_c.split(run.micro_batch))):
            ctx = StepContext(
                run.game, phase, run.randomness, run.nimg, run.batch_idx, remaining=1 - run.nimg / run.total_nimg,
                ramp=ramp(run.config, run.nimg),
                round=round_idx, source=index, iteration=shared,
                share=run.micro_batch / run.batch_gpu)
            run.game.take_reals(ctx, img, c)
            ctx.gen_z = torch.randn([len(img), run.game.G.module.z_dim], device=img.device, generator=ctx.rng('z'))
            ctx.gen_c, ctx.fake_c = fake_labels(run, source, ctx)
            if run.graphs is None and run.device.type != 'cpu':
                ctx.draw_ahead()
            yield ctx


def sources_of(run: Run, phase: Phase) -> list[int]:
    """Indices of the stage's sources that a phase learns from; a critic whose source is not on line rests."""
    on_line = range(len(run.stage.sources))
    if phase.critic is not None:
        return [index for index in on_line if index == phase.critic.source]
    return list(on_line) if phase.every_source else [0]


def fake_labels(run: Run, source: Source, ctx: StepContext) -> tuple[Tensor, Tensor]:
    """Labels of the fakes of a micro-batch, for G and for
    critics. In a paired game they are those of the reals."""
    if run.game.adversarial.paired and source is run.stage.sources[ctx.source]:
        return source.with_code(ctx.real_c), ctx.real_c
    labels = source.draw_labels(len(ctx.real_img), ctx.numpy_rng('labels'))
    return tuple(misc.to_device(torch.from_numpy(c), ctx.real_img.device) for c in labels)


def finish_phase(players: list[Player], exchange: GradientExchange | None = None) -> Tensor | None:
    """Averages the gradient over all ranks and takes one optimizer step; none if nothing was back-propagated.

    Returns, as a boolean on the device, whether the gradient, or the sum of its squares, is not finite: then
    the step is left out, which the device decides without making the host wait. Returns None if there was
    nothing to step with.
    """
    for player in players:
        player.module.requires_grad_(False)
    parameters = parameters_of(players)
    if all(parameter.grad is None for parameter in parameters):
        return None
    for parameter in parameters:            # To Adam no gradient and a zero gradient are not the same.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad = in_layout_of(parameter, parameter.grad)
    if exchange is None:
        distributed.all_reduce_mean_([parameter.grad for parameter in parameters])
    else:
        exchange.finish()
    grads = [parameter.grad for parameter in parameters]
    is_broken = ~torch.nn.utils.get_total_norm(grads).isfinite()
    training_stats.report0('Progress/nonfinite_grads', is_broken)
    for player in players:
        step_unless(is_broken, player.optimizer)
    return is_broken


def adapt_augmentation(run: Run) -> None:
    """Moves the strength of the augmentation towards the point
    where the first critic's reals look as real as asked."""
    signs = run.game.D.real_signs           # [2]: sum, count.
    distributed.all_reduce_mean_([signs])
    p = run.ada.step(run.game.augment.p, (signs[0] / signs[1]).item())
    run.game.augment.p.copy_(p.clamp(max=getattr(run.game.augment, 'most_p', math.inf)))
    signs.zero_()
