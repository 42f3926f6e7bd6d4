"""What torch.compile is worth for the parts that need first derivatives only.

    OMP_NUM_THREADS=1 python benchmarks/compile.py                              # `tiny`, 32 pixels, batch 16, CPU.
    OMP_NUM_THREADS=1 python benchmarks/compile.py --res=64 --channel-base=4096 --channel-max=256 --batch=8
    python benchmarks/compile.py --res=256 --channel-base=16384 --channel-max=512 --batch=16 --device=cuda

For compiled and for plain operators: drawing (G in inference mode),
and forward with backward of G (constant noise) and of D. `eager` and `compiled` are medians of alternating
runs in milliseconds (on a CPU: of processor time, for one thread); `first call` is what compiling takes in
seconds of processor time, with nothing kept from earlier runs.
"""
import os
import resource
import statistics
import sys
import tempfile
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import seconds  # noqa: E402
from dnnlib.computing import OPERATORS, measured_device_option  # noqa: E402


def make_works(res, channel_base, channel_max, batch, device):
    """{name: (module, arguments, does it learn?)}."""
    import torch

    from training.networks import Discriminator, Generator
    width = dict(channel_base=channel_base, channel_max=channel_max)
    G = Generator(64, 0, 64, res, 3, dict(num_layers=2), width).to(device)
    D = Discriminator(0, res, 3, **width).to(device)
    ws, img = torch.randn([batch, G.num_ws, 64], device=device), torch.randn([batch, 3, res, res], device=device)
    return {'drawing': (G.synthesis, (ws,), False), 'G learns': (G.synthesis, (ws,), True),
            'D learns': (D, (img, None), True)}


def make_step(call, inputs, learns):
    """A function that runs a network, forward or also backward."""
    import torch

    def draw():
        with torch.inference_mode():
            call(*inputs)

    def learn():
        call(*inputs).square().mean().backward()

    return learn if learns else draw


def processor_seconds():
    """Of this process and its children, which compile."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measure(module, inputs, learns, device, runs):
    """(eager ms, compiled ms, seconds of the first call)."""
    import torch
    torch.compiler.reset()
    module.train(learns).requires_grad_(learns)
    # G draws no noise: it is to be the same work.
    options = {} if inputs[-1] is None else dict(noise_mode='const')

    def call(*inputs):
        return module(*inputs, **options)

    eager, compiled = make_step(call, inputs, learns), make_step(torch.compile(call, fullgraph=True), inputs, learns)
    eager()
    begin = processor_seconds()
    compiled()
    first = processor_seconds() - begin
    times = [(1000 * seconds(eager, device), 1000 * seconds(compiled, device)) for _ in range(runs)]
    return *(statistics.median(column) for column in zip(*times)), first


@click.command()
@click.option('--res', type=int, default=32, show_default=True, help='Resolution.')
@click.option('--channel-base', type=int, default=1024, show_default=True)
@click.option('--channel-max', type=int, default=64, show_default=True)
@click.option('--batch', type=int, default=16, show_default=True)
@measured_device_option
@click.option('--runs', type=int, default=15, show_default=True)
@click.option('--ops', type=click.Choice(OPERATORS[1:]), multiple=True, default=OPERATORS[1:],
              show_default=True, help='Operators, compiled (native) and plain.')
def main(res, channel_base, channel_max, batch, device, runs, ops):
    """Print a table of times."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ.update(TORCHINDUCTOR_CACHE_DIR=cache, TORCHINDUCTOR_COMPILE_THREADS='1')
        import torch

        from torch_utils.allocator import keep_freed_memory
        from torch_utils.ops import backend
        keep_freed_memory()
        torch.manual_seed(0)
        print(f'{"operators":<11}{"":<10}{"eager":>9}{"compiled":>10} ms{"first call":>12}')
        for name in ops:
            for work, arguments in make_works(res, channel_base, channel_max, batch, device).items():
                with backend.default(name):
                    eager, compiled, first = measure(*arguments, device, runs)
                print(f'{name:<11}{work:<10}{eager:9.1f}{compiled:10.1f}{first:13.1f} s   {eager / compiled:5.2f}x', flush=True)


if __name__ == '__main__':
    main()
