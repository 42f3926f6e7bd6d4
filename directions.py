"""Directions in w that change the picture most, without training [SeFa: Shen & Zhou 2021, arXiv:2007.06600].

A layer's style is s = A w + b, so a step n of unit length changes it by A n. Wanted are the steps that change
it most:

    maximise |A n|^2 over |n| = 1        the eigenvectors of A^T A, largest eigenvalue first

A stacks the style weights of the chosen layers.
"""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from dnnlib import output
from dnnlib.numbers import Real, Whole
from dnnlib.program import Maker
from drawing.named import class_label, load_with_styles, output_folder
from drawing.output_files import ImageWriter, require_free, require_room, save_arrays
from drawing.pictures import images_of_ws, seeds_to_z, tile, to_ws
from drawing.sizes import check_latents, check_picture
from drawing.tool_options import SeedList, common_options

if TYPE_CHECKING:       # Loaded inside the functions that use them, so that --help answers at once.
    import torch

SPREAD_SEEDS = range(1000)      # Latents that the spread of w is measured on.


@click.command(cls=Maker, epilog='Example: python directions.py --network=runs/00000-cats --seeds=1-4 --layers=0-5 --trunc=0.7 '
                      '--outdir=out')
@common_options
@click.option('--seeds', type=SeedList(), required=True, metavar='A-B,C,..',
              help='Pictures to change, a row each.')
@click.option('--layers', type=SeedList(), metavar='A-B,C,..',
              help='Layers to look at and to change: first ones for shapes, last ones for colours [default: all]')
@click.option('--count', type=Whole('[1, inf)'), default=6, show_default=True, help='How many directions.')
@click.option('--strength', type=Real('[-1000, 1000]'), default=3, show_default=True,
              help='How far to go to both sides, in standard deviations of w along the direction.')
@click.option('--steps', type=Whole('[2, 1000]'), default=7, show_default=True, help='Pictures in a row.')
def main(network: str, seeds: Sequence[int], layers: Sequence[int] | None, count: int, strength: float,
         steps: int, truncation_psi: float, class_idx: int | None, label: list[float] | None, noise_mode: str,
         outdir: str, batch: int, device: str) -> None:
    """Find what a trained generator can change in its pictures, and show it.

    Writes direction00.png and so on, strongest first: each row is a seed's picture on its way from one side
    to the other. directions.npz holds the directions [count, w_dim], their eigenvalues, the spread of w along
    each, and the layers.
    """
    import torch
    folder = output_folder(outdir)
    G = load_with_styles(network, device)
    if not hasattr(G.synthesis, 'block_resolutions'):
        raise click.BadParameter(f'{network} holds a {type(G).__name__}, which has no layers of styles to take directions from',
                                 param_hint='--network')
    layers = list(range(G.num_ws)) if layers is None else list(dict.fromkeys(layers))
    if max(layers) >= G.num_ws:
        raise click.BadParameter(f'layer {max(layers)} does not exist: this network has 0 to {G.num_ws - 1}',
                                 param_hint='--layers')
    if count > G.w_dim:
        raise click.BadParameter(f'{count} directions: this network has {G.w_dim}', param_hint='--count')
    check_picture(steps, len(seeds), G, '--seeds')
    check_latents(steps * len(seeds), G, '--seeds')
    c = class_label(G, class_idx, label)
    names = [f'direction{idx:02d}.png' for idx in range(count)]
    require_free(folder, ['directions.npz', *names])
    require_room(folder / 'directions.npz', 4 * (count * (G.w_dim + 2) + 1024))
    directions, eigenvalues = factorize(style_weights(G, layers))
    directions, eigenvalues = directions[:count], eigenvalues[:count]
    spread = spread_along(G, directions, c)
    save_arrays(folder / 'directions.npz', directions=directions.cpu().numpy(),
                eigenvalues=eigenvalues.cpu().numpy(),
                spread=spread.cpu().numpy(), layers=torch.tensor(layers).numpy())
    ws = to_ws(G, seeds_to_z(seeds, G), c, truncation_psi)
    with ImageWriter(count) as writer:
        for idx, name in enumerate(names):
            way = torch.linspace(-strength, strength, steps).to(ws) * spread[idx]
            moved = move(ws, directions[idx], way, layers).flatten(0, 1)  # [seeds * steps, num_ws, w_dim]
            writer.write(folder / name, tile(images_of_ws(G, moved, batch, noise_mode), steps, len(seeds)))


def style_layers(G: 'torch.nn.Module') -> 'Iterator[torch.nn.Module]':
    """The layer that each w goes to first: all convolutions in order, and the last ToRGB."""
    for res in G.synthesis.block_resolutions:
        block = getattr(G.synthesis, f'b{res}')
        if block.in_channels > 0:
            yield block.conv0
        yield block.conv1
    yield block.torgb


def style_weights(G: 'torch.nn.Module', layers: Sequence[int]) -> 'torch.Tensor':
    """A [styles, w_dim] of these layers, as it acts: with the gain of each."""
    import torch
    affines = [layer.affine for layer in style_layers(G)]
    return torch.cat([affines[i].weight * affines[i].weight_gain for i in layers])


def factorize(A: 'torch.Tensor') -> 'tuple[torch.Tensor, torch.Tensor]':
    """(directions [w_dim, w_dim], a row each; eigenvalues [w_dim]) of A^T A, largest first.

    Signs are arbitrary; chosen here so that each direction's largest component is positive.
    """
    import torch
    exact = A.cpu().double()                                                # Not every device has float64.
    eigenvalues, vectors = torch.linalg.eigh(exact.T @ exact)               # Ascending; a column each.
    directions = vectors.T.flip(0)
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return (directions * largest.sign()).to(A), eigenvalues.flip(0).to(A)


def spread_along(G: 'torch.nn.Module', directions: 'torch.Tensor', c: 'torch.Tensor') -> 'torch.Tensor':
    """Standard deviation [count] of w, of random latents, along each direction [count, w_dim]."""
    w = to_ws(G, seeds_to_z(SPREAD_SEEDS, G), c)[:, 0]
    return (w @ directions.T).std(dim=0)


def move(ws: 'torch.Tensor', direction: 'torch.Tensor', way: 'torch.Tensor',
         layers: Sequence[int]) -> 'torch.Tensor':
    """[N, steps, num_ws, w_dim]: ws [N, num_ws, w_dim] with way
    [steps] times the direction added in these layers."""
    moved = ws[:, None].repeat(1, len(way), 1, 1)
    moved[:, :, list(layers)] += way[:, None, None] * direction
    return moved


if __name__ == '__main__':
    output.prepare()
    main()
