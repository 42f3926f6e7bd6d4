"""Times the phases of a training iteration and prints images per second and peak memory.

    python benchmarks/train_step.py                                  # The `tiny` configuration at 32 pixels.
    python benchmarks/train_step.py --res=64 --channel-base=4096 --channel-max=256 --batch=8 --threads=1
    python benchmarks/train_step.py --reg_type=ggdr --aug=noaug --json=out.json

Times are medians over the iterations; a lazy phase counts with its share of an iteration. Images are random: what the
loader does is not in the figures.
"""
import json
import resource
import statistics
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent.parent))


class Noise:
    """Random images in place of a data set."""
    label_dim = 0
    has_labels = False
    num_channels = 3

    def __init__(self, resolution):
        import numpy as np
        self.resolution = resolution
        self._images = np.random.RandomState(0).randint(0, 256, [64, 3, resolution, resolution], dtype=np.uint8)
        self._label = np.zeros([0], np.float32)

    def __len__(self):
        return len(self._images)

    def __getitem__(self, index):
        return self._images[index], self._label


class Stopwatch:
    """Seconds of every execution of every phase."""

    def __init__(self, device):
        self.seconds = {}
        self._device = device

    @contextmanager
    def timer(self, name):
        """Times one execution."""
        begin = self._now()
        yield
        self.seconds.setdefault(name, []).append(self._now() - begin)

    def _now(self):
        if self._device.type == 'cuda':
            import torch
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def measure(config, res, device, iterations, warmup):
    """{phase: (median seconds, share of an iteration)} and the peak memory in GiB."""
    import torch

    from training import setup
    from training.training_loop import run_phase
    run = setup.build(config, device, Noise(res))
    run.enter_stage(0)
    watch = Stopwatch(device)
    for i in range(warmup + iterations):
        if i == warmup:
            watch.seconds.clear()
        reals = [run.reals[0].next_batch()]
        shared = {}
        for phase in run.phases:        # All of them, so that lazy ones are timed as often as the rest.
            with watch.timer(phase.name):
                run_phase(run, phase, reals, shared)
        run.nimg += run.batch_size
        run.batch_idx += 1
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == 'cuda' else \
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {phase.name: (statistics.median(watch.seconds[phase.name]), 1 / phase.interval) for phase in run.phases}, peak


@click.command(context_settings=dict(ignore_unknown_options=True, allow_extra_args=True))
@click.option('--res', type=int, default=32, show_default=True, help='Resolution.')
@click.option('--channel-base', type=int, help='Channels at resolution r: min(channel_base / r, channel_max) [default: by --cfg]')
@click.option('--channel-max', type=int, help='[default: by --cfg]')
@click.option('--threads', type=int, default=1, show_default=True, help='Threads of torch on the CPU.')
@click.option('--iterations', type=int, default=10, show_default=True, help='Iterations to time.')
@click.option('--warmup', type=int, default=3, show_default=True, help='Iterations before.')
@click.option('--json', 'json_path', help='Also write the figures here.')
@click.pass_context
def main(ctx, res, channel_base, channel_max, threads, iterations, warmup, json_path):
    """Further options are those of train.py (--cfg, --batch, --aug, --reg_type, --loss, --precision, ...)."""
    import torch

    import train
    from torch_utils import distributed
    torch.set_num_threads(threads)
    extra = list(ctx.args)
    if not any(arg.startswith('--cfg') for arg in extra):
        extra.append('--cfg=tiny')
    options = train.main.make_context('train.py', ['--outdir=.', '--data=-', *extra]).params
    train.resolve_data = lambda o, names: dict(
        training_set_kwargs=dict(path='-'), data_shape=dict(c_dim=0, img_resolution=res, img_channels=3))
    _, config = train.resolve(train.given(options))
    config['data_loader_kwargs'] = dict(num_workers=0)
    for kwargs in (config['G_kwargs']['synthesis_kwargs'], config['D_kwargs']):
        kwargs.update({key: value for key, value in dict(channel_base=channel_base, channel_max=channel_max).items() if value})
    device = distributed.pick_device(config['device'])
    phases, peak = measure(config, res, device, iterations, warmup)
    total = sum(seconds * share for seconds, share in phases.values())
    print(f'{res} px, batch {config["batch_size"]}, {device}, {threads} thread(s), torch {torch.__version__}')
    for name, (seconds, share) in phases.items():
        print(f'  {name:<10} {seconds * 1000:9.1f} ms   every {round(1 / share):>2}   {seconds * share / total:6.1%}')
    print(f'  iteration  {total * 1000:9.1f} ms   {config["batch_size"] / total:.1f} img/s   peak memory {peak:.2f} GiB')
    if json_path:
        Path(json_path).write_text(json.dumps(dict(phases=phases, img_per_sec=config['batch_size'] / total, peak_gib=peak)))


if __name__ == '__main__':
    main()
