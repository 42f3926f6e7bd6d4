"""How long a training run will take, and how much memory, before it starts: some of its iterations are measured.

A lazy phase, or a method that acts now and then, makes some iterations longer. One iteration of each kind is measured at
least, and the mean is that of a whole period:

    seconds = sum over kinds of (share of the kind) * (mean of its measured times)

The measuring is done in a process of its own, which runs the code of training itself and is thrown away.
"""
import json
import math
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from typing import Any

import click

from training.config.options import GroupedHelp, given, with_options, with_whole_paths

GB = 1e9
ENOUGH_SEC = 20         # Kinds are measured again and again until so much time has passed ...
MAX_ROUNDS = 5          # ... or so often.
ADAPTED_P = 0.3         # A strength that adaptive augmentation often comes to; it begins with 0, which costs less.


@dataclass(frozen=True)
class Measured:
    """What was measured. Times are of one process; bytes are peaks.

    secs: {kind of iteration: its times}, the first iteration of all not among them. shares: {kind: how often it comes}.
    """
    device: str
    secs: dict[str, list[float]]
    shares: dict[str, float]
    first_sec: float
    host_bytes: int
    device_bytes: int | None
    device_total: int | None
    weight_bytes: int

    def iteration(self, pick=lambda secs: sum(secs) / len(secs)) -> float:
        """Seconds of an iteration, over a whole period; `pick` makes one number of the times of a kind."""
        return sum(share * pick(self.secs[kind]) for kind, share in self.shares.items())


@click.command(cls=GroupedHelp, context_settings=dict(max_content_width=110), epilog='''
\b
Example:
  loss-zoo estimate --outdir=runs --data=photos.zip --mirror=1
''')
@with_options
def main(**options: Any) -> None:
    """Measure how long a training run will take, and how much memory.

    Takes the options of `train`. Some iterations of that very run are done in a process of its own; nothing is written.
    """
    from train import config_of_run
    from training.config.going_on import kimg_of
    config = config_of_run(with_whole_paths(given_but_for_file(options)))
    done = kimg_of(config)
    measured = measure_apart(of_one_process(config))
    for line in sentences(config, measured, max(config['kimg'] - done, 0)):
        click.echo(line)
    click.echo(json.dumps(numbers(config, measured, max(config['kimg'] - done, 0))))


def given_but_for_file(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, here or in --config."""
    from training.config.config_file import with_file
    return with_file(given(options))


def of_one_process(config: Any) -> Any:
    """The share of the first of its processes."""
    return replace(config, gpus=1, batch=config['batch'] // config['gpus'])


def measure_apart(config: Any) -> Measured:
    """Measures in a process of its own. Raises click.ClickException if that does not survive it."""
    from torch_utils.launcher import end_with_parent
    pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn'), initializer=end_with_parent)
    try:
        with pool:
            return pool.submit(measure, config).result()
    except BrokenProcessPool:
        raise click.ClickException('the process that measured was killed, most likely because memory ran out: give a smaller '
                                   '--batch, --batch-gpu or --cbase, or fewer --workers') from None


def measure(config: Any) -> Measured:
    """Measures iterations of a configuration of one process, in this process."""
    import torch

    from torch_utils import distributed
    from torch_utils.allocator import keep_freed_memory, let_segments_grow
    from training import setup
    let_segments_grow()
    device = distributed.pick_device(config['device'])
    keep_freed_memory()
    run = setup.build(config, device)
    if run.ada is not None:
        run.game.augment.p.fill_(ADAPTED_P)
        run.ada.speed = 0
    run.enter_stage(0)
    kinds = dict(kinds_of_iterations(run))
    first_sec = timed_iteration(run, 0)                 # Builds operators, tries convolutions, starts the loaders.
    if device.type == 'cuda':
        timed_iteration(run, 0)                         # The second time, phases are captured as graphs.
    secs: dict[str, list[float]] = {kind: [] for kind in kinds}
    begin = time.perf_counter()
    for number in range(MAX_ROUNDS):
        if number and time.perf_counter() - begin > ENOUGH_SEC:
            break
        for kind, (batch_idx, _) in kinds.items():
            secs[kind].append(timed_iteration(run, batch_idx))
    is_cuda = device.type == 'cuda'
    weights = sum(t.numel() * t.element_size() for player in run.game.players for t in player.module.state_dict().values())
    return Measured(torch.cuda.get_device_name(device) if is_cuda else str(device), secs,
                    {kind: share for kind, (_, share) in kinds.items()}, first_sec, peak_of_host(),
                    torch.cuda.max_memory_reserved(device) if is_cuda else None,
                    torch.cuda.get_device_properties(device).total_memory if is_cuda else None, weights)


def kinds_of_iterations(run: Any) -> Iterator[tuple[str, tuple[int, float]]]:
    """(name, (number of the first iteration of this kind, share of all iterations)) by what is due in them."""
    actors = {**{phase.name: phase.interval for phase in run.phases},
              **{type(regularizer).__name__: regularizer.interval for regularizer in run.game.regularizers}}
    period = math.lcm(*actors.values())
    kinds = [' '.join(name for name, interval in actors.items() if idx % interval == 0) for idx in range(period)]
    for kind, count in Counter(kinds).items():
        yield kind, (kinds.index(kind), count / period)


def timed_iteration(run: Any, batch_idx: int) -> float:
    """Seconds of the iteration of that number."""
    import torch

    from training.training_loop import run_iteration
    run.batch_idx, run.nimg = batch_idx, batch_idx * run.batch_size
    begin = time.perf_counter()
    run_iteration(run, Stopwatch(run.device))
    if run.device.type == 'cuda':
        torch.cuda.synchronize(run.device)
    elif run.device.type == 'mps':
        torch.mps.synchronize()
    return time.perf_counter() - begin


class Stopwatch:
    """What an iteration asks of `Ticks`."""

    def __init__(self, device: Any):
        from training.run.health import Health
        from training.run.status import PhaseTimer
        self.timer, self.health = PhaseTimer(device), Health()


def peak_of_host() -> int:
    """The most memory that this process has had, in bytes."""
    if sys.platform == 'win32':
        import psutil
        return psutil.Process().memory_info().peak_wset
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


# ---------------------------------------------------------------------------------------------------------------------
# What is said.

def numbers(config: Any, measured: Measured, kimg: float) -> dict[str, Any]:
    """The same as `sentences`, for programs."""
    per_kimg = 1000 / config['batch']
    return {'device': measured.device, 'sec_per_kimg': measured.iteration() * per_kimg,
            'sec_per_kimg_range': [measured.iteration(min) * per_kimg, measured.iteration(max) * per_kimg], 'kimg': kimg,
            'sec': measured.iteration() * per_kimg * kimg,
            **{key: value for key, value in asdict(measured).items() if key.endswith('_bytes')}}


def sentences(config: Any, measured: Measured, kimg: float) -> Iterator[str]:
    """What was measured, and what follows of it."""
    per_kimg = 1000 / config['batch']
    mean, least, most = (measured.iteration(*pick) for pick in ((), (min,), (max,)))
    num = sum(map(len, measured.secs.values()))
    processes = f', of one of {config["gpus"]} processes, without what they exchange' if config['gpus'] > 1 else ''
    yield (f'Measured on {measured.device}: {num} iterations of {config["batch"]} images{processes}, after a first one of '
           f'{measured.first_sec:.1f} s.')
    yield (f'Time: {mean * per_kimg:.3g} s per kimg ({least * per_kimg:.3g} to {most * per_kimg:.3g}), '
           f'{config["batch"] / mean:.3g} images per s.')
    yield (f'{kimg:g} kimg: {in_words(mean * per_kimg * kimg)} ({in_words(least * per_kimg * kimg)} to '
           f'{in_words(most * per_kimg * kimg)}, if the machine stays as busy as it is now).')
    if 'target' in config and config['target'] is not None:
        yield f'Augmentation was at p = {ADAPTED_P}; where the run needs more, it takes longer.'
    ticks = math.ceil(kimg / config['tick']) // max(config['snap'], 1)
    metrics = f', {ticks} times the metrics {", ".join(config["metrics"])}' if config['metrics'] and ticks else ''
    yield f'Not measured: pictures, snapshots and states of {math.ceil(kimg / config["tick"])} ticks{metrics}.'
    if measured.device_bytes is not None:
        yield (f'GPU memory: {measured.device_bytes / GB:.1f} of {measured.device_total / GB:.0f} GB, beside what the driver '
               'takes.')
    yield (f'Memory: {measured.host_bytes / GB:.1f} GB for each process, beside {config["data_loader_kwargs"]["num_workers"]} '
           'that load images.')
    yield f'Disk: about {5 * measured.weight_bytes / GB:.2g} GB for a state, with its snapshot.'


def in_words(seconds: float) -> str:
    """'3 h 20 min'."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    if minutes < 90:
        return f'{minutes} min'
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f'{hours} h {minutes} min'
    return f'{hours / 24:.1f} days'


if __name__ == '__main__':
    main()
