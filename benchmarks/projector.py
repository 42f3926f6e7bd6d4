"""How near the projector comes to pictures that the generator itself has made, and how long it takes.

    make demo
    python benchmarks/projector.py demo-out/00000-emoji-faces-noto-32-mirror-tiny-kimg36-noaug --seeds=3

Two distances, of what is found and, to compare, of the average picture: the projector's own (perceptual),
and the mean absolute difference in grey levels. Both are of the picture with the stored noise. The bounds are
those that the projector is held to on the network of the demo; beyond them the exit status is 1. Networks
that have hardly been trained do worse: much of their pictures is noise.
"""
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from dnnlib.computing import device_option  # noqa: E402
from drawing.named import class_label, load_generator  # noqa: E402
from drawing.pictures import seeds_to_z, to_ws  # noqa: E402
from drawing.tool_options import SeedList  # noqa: E402
from projector import load_embedding, project, shrink  # noqa: E402

MAX_PERCEPTUAL_SHARE = 0.2      # Of the average picture's distance ...
MAX_GREY_LEVELS = 12            # ... and of pixels, on average; pictures span 255.
MAX_CPU_SEC = 240               # Two minutes on two cores.


@dataclass(frozen=True)
class Distances:
    """Of pictures to their targets, [N] each."""
    perceptual: torch.Tensor
    grey_levels: torch.Tensor


def distances(embed, targets: torch.Tensor, images: torch.Tensor) -> Distances:
    """Between targets and images [N, C, H, W] in 0..255."""
    with torch.no_grad():
        features = [embed(shrink(batch)) for batch in (targets, images)]
    return Distances((features[0] - features[1]).square().sum(dim=1),
                     (targets - images).abs().mean(dim=(1, 2, 3)))


def measure(G: torch.nn.Module, seeds: Sequence[int], num_steps: int) -> tuple[Distances, Distances, float]:
    """(of the average picture, of what is found, seconds of CPU time)
    for targets that G makes of these seeds."""
    def draw(ws):
        with torch.no_grad():
            return ((G.synthesis(ws, noise_mode='const', force_fp32=True) + 1) * 127.5).clamp(0, 255)

    device = next(G.parameters()).device
    _, embed = load_embedding('auto', device)
    targets = draw(to_ws(G, seeds_to_z(seeds, G), class_label(G, None))).round()
    average = draw(G.mapping.w_avg.expand(1, G.num_ws, -1)).expand(len(seeds), -1, -1, -1)
    torch.manual_seed(303)
    start = time.process_time()
    ws = project(G, targets, num_steps=num_steps, device=device, embed=embed)[-1]
    sec = time.process_time() - start
    return distances(embed, targets, average), distances(embed, targets, draw(ws)), sec


def is_found(before: Distances, after: Distances) -> bool:
    """Is every picture within the bounds?"""
    return bool((after.perceptual < MAX_PERCEPTUAL_SHARE * before.perceptual).all()
                and (after.grey_levels < MAX_GREY_LEVELS).all())


@click.command()
@click.argument('network')
@click.option('--seeds', type=SeedList(), default='3', show_default=True,
              help='Pictures to find again, all at once.')
@click.option('--steps', default=100, show_default=True, help='Of the search.')
@device_option
def main(network: str, seeds: Sequence[int], steps: int, device: str) -> None:
    """Let the projector find pictures that NETWORK has made."""
    before, after, sec = measure(load_generator(network, device), seeds, steps)
    for idx, seed in enumerate(seeds):
        print(f'seed {seed:<4d} perceptual {before.perceptual[idx]:.3f} -> {after.perceptual[idx]:.3f}   '
              f'grey levels {before.grey_levels[idx]:.1f} -> {after.grey_levels[idx]:.1f}')
    print(f'{steps} steps in {sec:.0f} s of CPU time')
    sys.exit(not is_found(before, after))


if __name__ == '__main__':
    main()
