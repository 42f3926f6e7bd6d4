"""Times the phases of a training iteration and prints images per second and peak memory.

    python benchmarks/train_step.py   # Small networks with all phases, 32 pixels.
    python benchmarks/train_step.py --res=64 --channel-base=4096 --channel-max=256 --batch=8 --threads=1
    python benchmarks/train_step.py --share --precision=bf16 --threads=2
    python benchmarks/train_step.py --reg_type=ggdr --aug=noaug --json=out.json

Times are medians over the iterations, of processor time on one thread, else on the wall;
a lazy phase counts with its share of an iteration. With `--share`, behind them is the time that counted
convolutions and matrix products would take at the attainable rate, measured in the same run, as a share, and
how many operations are called. Images are random: what the loader does is not in the figures.
"""
import json
import resource
import statistics
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import SMALL  # noqa: E402


class Noise:
    """Random images in place of a data set."""
    label_dim = 0
    has_labels = False
    num_channels = 3

    def __init__(self, resolution):
        import numpy as np
        self.resolution = resolution
        self._images = np.random.RandomState(0).randint(0, 256, [64, 3, resolution, resolution],
                                                        dtype=np.uint8)
        self._label = np.zeros([0], np.float32)

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index], self._label


class Stopwatch:
    """Seconds of every execution of every phase."""

    def __init__(self, clock):
        self.seconds = {}
        self._clock = clock

    @contextmanager
    def timer(self, name):
        """Times one execution."""
        begin = self._clock()
        yield
        self.seconds.setdefault(name, []).append(self._clock() - begin)


def iterate(run, timer):
    """One iteration, with all of the phases, so that lazy ones are timed as often as the rest."""
    from training.ema import ema_decay, update_ema
    from training.training_loop import run_phase
    reals = [run.reals[0].next_batch()]
    shared = {}
    for phase in run.phases:
        with timer(phase.name):
            run_phase(run, phase, reals, shared)
    with timer('average'):
        update_ema(run.G_ema, run.game.G.module,
                   ema_decay(run.batch_size, run.nimg, run.config['ema_kimg'], run.config['ema_rampup']))
    run.nimg += run.batch_size
    run.batch_idx += 1


def count(run):
    """({phase: FlopCount of one execution}, sizes of the 3x3 convolutions) of a run."""
    import torch
    from rates import FlopCount
    counts = {}

    @contextmanager
    def counter(name):
        with FlopCount() as counts[name]:
            yield
    iterate(run, counter)
    G, D = run.game.G.module, run.game.D.module
    with torch.no_grad(), FlopCount() as layers:
        z, c = torch.zeros([run.micro_batch, G.z_dim]), torch.zeros([run.micro_batch, G.c_dim])
        D(G(z.to(run.device), c.to(run.device)), c.to(run.device))
    return counts, list(layers.sizes)


def measure(run, iterations, warmup, clock, share):
    """{phase: (median seconds, times per iteration, attainable seconds, calls)}, None where not wanted, and
    {dtype: AttainableRate}.
    """
    from rates import AttainableRate, attainable_seconds
    watch = Stopwatch(clock)
    counts, rates = {}, {}
    if share:
        counts, sizes = count(run)
        rates = {dtype: AttainableRate(sizes, dtype, clock, run.device)
                 for dtype in {key[1] for count in counts.values() for key in count.flops}}
    for i in range(warmup + iterations):
        if i == warmup:
            watch.seconds.clear()
            for rate in rates.values():
                rate.measure()
        iterate(run, watch.timer)
    for rate in rates.values():         # A second time: machines get slower and faster.
        rate.measure()
    often = {phase.name: 1 / phase.interval for phase in run.phases}
    return {name: (statistics.median(seconds), often.get(name, 1),
                   *((attainable_seconds(counts[name].flops, rates), counts[name].calls) if share
                     else (None, None)))
            for name, seconds in watch.seconds.items()}, rates


def peak_memory_gib(device):
    """The most memory so far: of the device, on a CPU of this process."""
    import torch
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def config_for(res, arguments):
    """The configuration that train.py makes of these arguments for images of that size,
    of which one black one is enough."""
    import PIL.Image

    import train
    with tempfile.TemporaryDirectory() as folder:
        PIL.Image.new('RGB', (res, res)).save(Path(folder, 'black.png'))
        return train.config_from_args([f'--data={folder}', *arguments])


def build(res, channel_base, channel_max, arguments):
    """A run on random images at its start, from arguments of train.py."""
    from torch_utils import distributed
    from training import setup
    config = {**config_for(res, arguments), 'data_loader_kwargs': dict(num_workers=0)}
    for kwargs in (config['G_kwargs']['synthesis_kwargs'], config['D_kwargs']):
        kwargs.update({key: value for key, value in dict(channel_base=channel_base, channel_max=channel_max).items() if value})
    run = setup.build(config, distributed.pick_device(config['device']), Noise(res))
    run.enter_stage(0)
    return run


def print_table(phases, rates, batch_size):
    """The figures for people."""
    total = sum(seconds * often for seconds, often, *_ in phases.values())
    attainable = sum(best * often for _, often, best, _ in phases.values()) if rates else None
    for dtype, rate in rates.items():
        print(f'  attainable in {str(dtype).removeprefix("torch.")}: convolutions {rate.convolution / 1e9:.0f} GFLOP/s '
              f'(the fastest of them {rate.fastest / 1e9:.0f}), matrices {rate.matrix / 1e9:.0f}')
    for name, (seconds, often, best, calls) in phases.items():
        print(f'  {name:<10} {seconds * 1000:9.1f} ms   every {round(1 / often):>2}   {seconds * often / total:6.1%}'
              + (f'   {best / seconds:6.1%} of attainable, {calls} calls' if rates else ''))
    print(f'  iteration  {total * 1000:9.1f} ms   {batch_size / total:.1f} img/s'
          + (f'          {attainable / total:6.1%} of attainable' if rates else ''))


@click.command(context_settings=dict(ignore_unknown_options=True, allow_extra_args=True))
@click.option('--res', type=int, default=32, show_default=True, help='Resolution.')
@click.option('--channel-base', type=int,
              help='Channels at resolution r: min(channel_base / r, channel_max) [default: by --cfg]')
@click.option('--channel-max', type=int, help='[default: by --cfg]')
@click.option('--threads', type=int, default=1, show_default=True, help='Threads of torch on the CPU.')
@click.option('--iterations', type=int, default=10, show_default=True, help='Iterations to time.')
@click.option('--warmup', type=int, default=3, show_default=True, help='Iterations before.')
@click.option('--share', is_flag=True,
              help='Also say which share of the attainable rate is reached (see rates.py).')
@click.option('--json', 'json_path', help='Also write the figures here.')
@click.pass_context
def main(ctx, res, channel_base, channel_max, threads, iterations, warmup, share, json_path):
    """Further options are those of train.py (--cfg, --batch, --aug, --reg_type, --loss, --precision, ...)."""
    import torch
    from rates import clock_of

    from torch_utils.allocator import keep_freed_memory
    torch.set_num_threads(threads)
    keep_freed_memory()         # As train.py does.
    arguments = ctx.args if any(arg.startswith('--cfg') for arg in ctx.args) else [*SMALL, *ctx.args]
    run = build(res, channel_base, channel_max, arguments)
    phases, rates = measure(run, iterations, warmup, clock_of(threads, run.device), share)
    peak = peak_memory_gib(run.device)
    print(f'{res} px, batch {run.batch_size}, {run.device}, {threads} thread(s), torch {torch.__version__}, '
          f'peak memory {peak:.2f} GiB')
    print_table(phases, rates, run.batch_size)
    if json_path:
        Path(json_path).write_text(json.dumps(dict(
            phases=phases, batch=run.batch_size, peak_gib=peak,
            gflops={str(dtype): (rate.convolution / 1e9, rate.matrix / 1e9) for dtype, rate in rates.items()})))


if __name__ == '__main__':
    main()
