"""Times the augmentation: drawing, transforming, and its first and second derivative
with respect to the images.

    OMP_NUM_THREADS=1 python benchmarks/augment.py                                    # bgc at 64 and 256 pixels, CPU.
    OMP_NUM_THREADS=1 python benchmarks/augment.py --pipe=bgcfnc --res=64 --p=1
    python benchmarks/augment.py --res=256 --batch=32 --device=cuda

Prints the shortest of several runs in milliseconds (of processor time on a CPU),
and how many times its own area the images were padded to,
which rules the cost and depends on the draw (seed 1).
"""
import sys
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import seconds  # noqa: E402
from dnnlib.computing import measured_device_option  # noqa: E402
from training.augment import PIPES, AugmentPipe  # noqa: E402


@click.command()
@click.option('--pipe', type=click.Choice(list(PIPES)), default='bgc', show_default=True)
@click.option('--res', type=int, multiple=True, default=[64, 256], show_default=True)
@click.option('--p', type=float, multiple=True, default=[0, 0.5], show_default=True, help='Strength')
@click.option('--batch', type=int, default=16, show_default=True)
@click.option('--runs', type=int, default=5, show_default=True)
@measured_device_option
def main(pipe, res, p, batch, runs, device):
    """Prints one line per resolution and strength."""
    for size in res:
        for strength in p:
            measure(pipe, size, strength, batch, runs, torch.device(device))


def measure(name, res, p, batch, runs, device):
    """Prints the times of one setting."""
    pipe = AugmentPipe(**PIPES[name]).to(device)
    pipe.p.fill_(p)
    images = torch.randn(batch, 3, res, res, device=device, requires_grad=True)
    draw = pipe.draw(images, generator=torch.Generator(device).manual_seed(1))

    def first():
        return torch.autograd.grad(pipe.transform(images, draw).square().sum(), images, create_graph=True)[0]

    steps = {
        'draw': lambda: pipe.draw(images),
        'transform': lambda: pipe.transform(images.detach(), draw),
        '+ first derivative': lambda: torch.autograd.grad(pipe.transform(images, draw).square().sum(), images),
        '+ second derivative': lambda: torch.autograd.grad(first().square().sum(), images),
    }
    times = [f'{what} {shortest(step, runs, device):.2f}' for what, step in steps.items()]
    left, right, top, bottom = draw.warp.padding() if draw.warp else (0, 0, 0, 0)
    area = (res + left + right) * (res + top + bottom) / res ** 2
    print(f'{name} p={p:g} {batch}x3x{res}x{res} ({area:.1f} times the area), ms: ' + ', '.join(times),
          flush=True)


def shortest(step, runs, device):
    """Milliseconds of the fastest of `runs` executions, after one that does not count."""
    return min([seconds(step, device.type) for _ in range(runs + 1)][1:]) * 1000


if __name__ == '__main__':
    main()
