"""Finds the latent whose picture looks like a given one [Karras et al. 2020, arXiv:1912.04958, appendix D].

    minimise over w and the noise maps n:   |f(target) - f(G(w + noise))|^2 + weight * regulariser(n)

f is a perceptual embedding, the noise on w fades out, and the regulariser keeps the picture from hiding in n.
"""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

import copy
import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from dnnlib import output
from dnnlib.computing import device_option
from dnnlib.numbers import SEED, Real, Whole
from dnnlib.program import Maker
from drawing.named import class_label, load_with_styles, output_folder
from drawing.output_files import ImageWriter, require_free, require_room, save_arrays
from drawing.pictures import device_of
from drawing.sizes import check_latents, check_video
from drawing.tool_options import class_option, label_option, ops_option
from drawing.video_writer import VIDEO_FILES, VideoWriter, pick_format

if TYPE_CHECKING:       # Loaded inside the functions that use them, so that --help answers at once.
    from pathlib import Path

    import numpy as np
    import torch

ADAM_BETAS = (0.9, 0.999)
Z_SEED = 123                # Of the latents whose w are averaged.
MAX_FEATURE_RES = 256       # Larger pictures are shrunk before f sees them.
MIN_NOISE_RES = 8           # Where the regulariser's pyramid ends.
VIDEO_FPS = 10


@dataclass(frozen=True)
class Schedule:
    """What depends on t, the share of the steps that are done."""
    initial_learning_rate: float = 0.1
    initial_noise_factor: float = 0.05
    lr_rampdown_length: float = 0.25
    lr_rampup_length: float = 0.05
    noise_ramp_length: float = 0.75

    def learning_rate(self, t: float) -> float:
        """Linear at the start, half a cosine at the end; 0 at t = 0."""
        down = min(1.0, (1 - t) / self.lr_rampdown_length)
        up = min(1.0, t / self.lr_rampup_length)
        return self.initial_learning_rate * (0.5 - 0.5 * math.cos(math.pi * down)) * up

    def noise_scale(self, t: float) -> float:
        """Standard deviation of the noise on w, as a multiple of that of w itself."""
        return self.initial_noise_factor * max(0.0, 1 - t / self.noise_ramp_length) ** 2


@dataclass(frozen=True)
class Step:
    """Where the search stands after a step."""
    ws: 'torch.Tensor'          # [N, num_ws, w_dim]
    distance: 'torch.Tensor'    # [N], before the step, with the noise on w.
    regulariser: 'torch.Tensor'     # [N], before the step.


# ---------------------------------------------------------------------------------------------------------------------
# The search.

def project(
    G: 'torch.nn.Module',
    target: 'torch.Tensor',                     # [C, H, W] or [N, C, H, W], any dtype, values 0..255.
    *,
    num_steps: int = 1000,
    w_avg_samples: int = 10000,                 # Latents that mean and spread of w are taken from.
    initial_learning_rate: float = 0.1,
    initial_noise_factor: float = 0.05,
    lr_rampdown_length: float = 0.25,           # Shares of the steps, here and below.
    lr_rampup_length: float = 0.05,
    noise_ramp_length: float = 0.75,
    regularize_noise_weight: float = 1e5,
    verbose: bool = False,
    device: 'torch.device | str',
    space: str = 'w',                           # 'w': one w for all layers; 'w+': one per layer.
    c: 'torch.Tensor | None' = None,            # Label [1, c_dim] of all pictures, if G is conditional.
    embed: 'Callable[[torch.Tensor], torch.Tensor] | None' = None,  # f. None = what `load_embedding` finds.
    stop_distance: float | None = None,         # Stop once every picture is as near. None = never.
    # Asked after each step; once it is true, the steps so far are all.
    wants_stop: Callable[[], bool] = lambda: False,
) -> 'torch.Tensor':
    """The latents [num_steps, num_ws, w_dim] after each step; [num_steps, N, num_ws, w_dim] for a batch of
    targets.

    `embed` maps float pictures [N, C, H, W] in 0..255, at most 256 pixels high, to [N, D]. Every picture of a
    batch has noise maps of its own and is searched for as if alone, but for the random numbers. With
    `stop_distance` and `wants_stop` there may be fewer steps. G is left alone; random numbers come from
    torch's default generator. Computes in float32.
    """
    import torch
    assert target.shape[-3:] == (G.img_channels, G.img_resolution, G.img_resolution), \
        f'target {list(target.shape)}, this network makes [{G.img_channels}, {G.img_resolution}, {G.img_resolution}]'
    schedule = Schedule(initial_learning_rate, initial_noise_factor, lr_rampdown_length, lr_rampup_length,
                        noise_ramp_length)
    if embed is None:
        embed = load_embedding('auto', device)[1]
    G = copy.deepcopy(G).eval().requires_grad_(False).to(device)
    targets = target[None] if target.ndim == 3 else target
    result = []
    for step in search(G, targets.to(device), num_steps, w_avg_samples, schedule, regularize_noise_weight,
                       space, c, embed):
        result.append(step.ws)
        worst = step.distance.max()
        if verbose:
            print(f'step {len(result):>4d}/{num_steps}: distance {float(worst):<8.4f} '
                  f'regulariser {float(step.regulariser.max()):<8.2g}', flush=True)
        if wants_stop() or (stop_distance is not None and worst <= stop_distance):
            break
    result = torch.stack(result)
    return result[:, 0] if target.ndim == 3 else result


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Lists the signals that asked for an end, Ctrl-C and SIGTERM.
    A second one of the same kind ends the process at once."""
    asked: list[int] = []

    def ask(number, frame):
        asked.append(number)
        signal.signal(number, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def search(G: 'torch.nn.Module', targets: 'torch.Tensor', num_steps: int, w_avg_samples: int,
           schedule: Schedule, regularize_noise_weight: float, space: str, c: 'torch.Tensor | None',
           embed: Callable) -> Iterator[Step]:
    """The steps, one by one; the noise constants of G are replaced.
    Arguments as in `project`, targets [N, C, H, W]."""
    import torch

    from torch_utils.optimizers import untraced
    w_mean, w_std = w_statistics(G, w_avg_samples, c)
    with torch.no_grad():
        target_features = embed(shrink(targets.float()))
    w = w_mean.repeat(len(targets), 1 if space == 'w' else G.num_ws, 1).requires_grad_()
    noises = replace_noise(G, len(targets))
    optimizer = untraced(torch.optim.Adam)([w, *noises], betas=ADAM_BETAS)
    for k in range(num_steps):
        t = k / num_steps
        optimizer.param_groups[0]['lr'] = schedule.learning_rate(t)
        noisy = w + torch.randn_like(w) * (w_std * schedule.noise_scale(t))
        img = G.synthesis(noisy.expand(-1, G.num_ws, -1), noise_mode='const', force_fp32=True)
        features = embed(shrink((img + 1) * 127.5))
        distance = (target_features - features).square().sum(dim=1)     # [N]
        regulariser = sum(noise_regulariser(noise) for noise in noises)     # [N]
        optimizer.zero_grad(set_to_none=True)
        (distance + regularize_noise_weight * regulariser).sum().backward()
        optimizer.step()
        normalize_(noises)
        yield Step(w.detach().repeat(1, G.num_ws // w.shape[1], 1), distance.detach(), regulariser.detach())


def w_statistics(G: 'torch.nn.Module', num_samples: int,
                 c: 'torch.Tensor | None') -> 'tuple[torch.Tensor, float]':
    """Mean [1, 1, w_dim] of w over random latents, and the root of the mean squared distance from it."""
    import numpy as np
    import torch
    device = device_of(G)
    z = torch.from_numpy(np.random.RandomState(Z_SEED).randn(num_samples, G.z_dim)).to(device, torch.float32)
    with torch.no_grad():
        w = G.mapping(z, None if c is None else c.to(device).expand(num_samples, -1))[:, 0]     # [num_samples, w_dim]
    mean = w.mean(dim=0)
    return mean[None, None], float((w - mean).square().sum(dim=1).mean().sqrt())


def replace_noise(G: 'torch.nn.Module', num_images: int) -> 'list[torch.Tensor]':
    """Gives every layer with noise standard normal maps [N, 1, res, res] that can be learned;
    returns them in order."""
    import torch
    noises = []
    for layer in G.synthesis.modules():
        if 'noise_const' in dict(layer.named_buffers(recurse=False)):
            layer.noise_const = torch.randn([num_images, 1, *layer.noise_const.shape],
                                            device=layer.noise_const.device).requires_grad_()
            noises.append(layer.noise_const)
    return noises


def noise_regulariser(noise: 'torch.Tensor') -> 'torch.Tensor':
    """[N] from maps [N, 1, res, res]: squared correlations with the
    next pixel across and down, at all scales."""
    import torch
    total = 0
    while True:
        for dim in (2, 3):
            total = total + (noise * torch.roll(noise, 1, dims=dim)).mean(dim=(1, 2, 3)).square()
        if noise.shape[2] <= MIN_NOISE_RES:
            return total
        noise = torch.nn.functional.avg_pool2d(noise, 2)


def normalize_(noises: 'list[torch.Tensor]') -> None:
    """Brings every map [N, 1, res, res] to mean 0 and mean square 1, in place."""
    import torch
    with torch.no_grad():
        for noise in noises:
            noise -= noise.mean(dim=(1, 2, 3), keepdim=True)
            noise *= noise.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()


def shrink(images: 'torch.Tensor') -> 'torch.Tensor':
    """Images [N, C, H, W] by area averaging to at most 256x256."""
    import torch
    if images.shape[2] <= MAX_FEATURE_RES:
        return images
    return torch.nn.functional.interpolate(images, size=(MAX_FEATURE_RES, MAX_FEATURE_RES), mode='area')


# ---------------------------------------------------------------------------------------------------------------------
# What distances are measured in.

EMBEDDINGS = {      # name: (metric that needs the same weights, in words)
    'vgg16': ('ppl2_wend', 'VGG16 with LPIPS heads'),
    'efflite0': ('ppl1k_efflite0', 'EfficientNet-Lite0 at 128x128'),
}


def load_embedding(name: str, device: 'torch.device | str') -> 'tuple[str, Callable]':
    """(what it is in words, f) of `EMBEDDINGS`; 'auto' is VGG16 where its weight files are found, else
    EfficientNet.

    Raises metrics.names.MetricError if the weights are not there.
    """
    from dataclasses import replace

    from metrics.detectors import load_detector
    from metrics.names import MetricError, find_metric
    from metrics.weights import WeightOptions, find_all_weights
    if name == 'auto':
        try:
            find_all_weights(find_metric(EMBEDDINGS['vgg16'][0]), WeightOptions())
            name = 'vgg16'
        except MetricError:
            name = 'efflite0'
    metric, title = EMBEDDINGS[name]
    detector = load_detector(replace(find_metric(metric), name=f'--features={name}'), WeightOptions(), device)
    return title, lambda images: detector.embed(images if images.shape[1] == 3
                                                else images.expand(-1, 3, -1, -1))


# ---------------------------------------------------------------------------------------------------------------------
# The script.

@click.command(cls=Maker, epilog='Example: python projector.py --network=runs/00000-cats --target=cat.png --outdir=out')
@click.option('--network', required=True, metavar='FILE|URL|DIR',
              help='Network file, its URL, or a run directory (its newest snapshot is taken).')
@click.option('--target', 'targets', multiple=True, required=True, metavar='FILE',
              help='Picture to look for; can be repeated.')
@click.option('--num-steps', type=Whole('[1, 1000000]'), default=1000, show_default=True,
              help='Steps of the search.')
@click.option('--space', type=click.Choice(['w', 'w+']), default='w', show_default=True,
              help='w: one latent for all layers; w+: one per layer, nearer to the picture, worse to edit.')
@click.option('--features', type=click.Choice(['auto', *EMBEDDINGS]), default='auto', show_default=True,
              help='Network that compares; auto: vgg16 where its weights are found, else efflite0.')
@click.option('--stop-distance', type=Real('[0, inf)'), metavar='FLOAT',
              help='Stop once all pictures are as near [default: never]')
@class_option
@label_option
@click.option('--seed', type=Whole(SEED), default=303, show_default=True, help='Of all noise.')
@click.option('--save-video', type=bool, default=True, show_default=True, help='Write the search as a video?')
@click.option('--video-format', type=click.Choice(['auto', *VIDEO_FILES]), default='auto', show_default=True,
              help='auto: mp4 if the extra "video" is installed, else webp.')
@click.option('--outdir', required=True, metavar='DIR', help='Where files go; created if missing.')
@device_option
@ops_option
def main(network: str, targets: tuple[str, ...], num_steps: int, space: str, features: str,
         stop_distance: float | None, class_idx: int | None, label: list[float] | None, seed: int,
         save_video: bool, video_format: str, outdir: str, device: str) -> None:
    """Find the latents of given pictures.

    Writes target.png (the picture as the network could show it), proj.png (what was found), proj.mp4 (the way
    there) and projected_w.npz, which generate.py and video.py take as --projected-w. Of several targets the
    pictures are numbered (target00.png, proj00.png, ...); the latents are in the one file. Ctrl-C ends the
    search; what it has found by then is saved.
    """
    import numpy as np
    import torch

    from metrics.names import MetricError
    video_format = pick_format(video_format) if save_video else 'none'
    folder = output_folder(outdir)
    G = load_with_styles(network, device)
    check_latents(num_steps * len(targets), G, '--num-steps')
    if save_video:
        check_video(video_format, 2 * G.img_resolution, G.img_resolution, num_steps, '--video-format',
                    '--num-steps')
    c = class_label(G, class_idx, label)
    pictures = np.stack([load_target(path, G) for path in targets])             # [N, H, W, C]
    try:
        title, embed = load_embedding(features, device_of(G))
    except MetricError as error:
        raise click.UsageError(str(error)) from None
    click.echo(f'Distances by {title}.')
    numbers = [''] if len(targets) == 1 else [f'{idx:02d}' for idx in range(len(targets))]
    kinds = ['target{}.png', 'proj{}.png', *[f'proj{{}}.{video_format}'] * save_video]
    require_free(folder, ['projected_w.npz', *(kind.format(number) for kind in kinds for number in numbers)])
    require_room(folder / 'projected_w.npz', 4 * len(targets) * G.num_ws * G.w_dim + 1024)

    torch.manual_seed(seed)
    with stop_on_signals() as asked:
        ws = project(G, torch.from_numpy(pictures).permute(0, 3, 1, 2), num_steps=num_steps, verbose=True,
                     space=space, c=c,
                     embed=embed, stop_distance=stop_distance, wants_stop=lambda: bool(asked),
                     device=device_of(G)).cpu()
    if asked:
        click.echo(f'Stopped after {len(ws)} of {num_steps} steps; what they found is saved, without a video.', err=True)
        save_video = False
    save_arrays(folder / 'projected_w.npz', w=ws[-1].numpy())  # First: it is what the search was for.
    click.echo('projected_w.npz')
    write_pictures(folder, G, ws, pictures, numbers, video_format if save_video else 'none')
    if asked:
        sys.exit(128 + asked[0])        # As a shell says it of a program that a signal has ended.


def write_pictures(folder: 'Path', G: 'torch.nn.Module', ws: 'torch.Tensor', pictures: 'np.ndarray',
                   numbers: list[str], video_format: str) -> None:
    """Writes each target, what was found of it, and the way there, ws [steps, N, num_ws, w_dim],
    as a video unless 'none'."""
    import numpy as np
    for idx, (picture, number) in enumerate(zip(pictures, numbers)):
        with ImageWriter() as writer:
            writer.write(folder / f'target{number}.png', picture)
            writer.write(folder / f'proj{number}.png', next(pictures_of_ws(G, ws[-1:, idx])))
        if video_format != 'none':
            with VideoWriter(folder / f'proj{number}', video_format, VIDEO_FPS) as video:
                video.add_all(np.concatenate([picture, image], axis=1)
                              for image in pictures_of_ws(G, ws[:, idx]))
            click.echo(video.path.name)


def pictures_of_ws(G: 'torch.nn.Module', ws: 'torch.Tensor', batch: int = 8) -> 'Iterator[np.ndarray]':
    """One uint8 picture [H, W, C] per row of ws [K, num_ws, w_dim],
    by the rounding of the search: (x + 1) * 127.5."""
    import torch
    for rows in ws.split(batch):
        with torch.inference_mode():
            img = G.synthesis(rows.to(device_of(G)), noise_mode='const', force_fp32=True)
        yield from ((img + 1) * 127.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def load_target(path: str, G: 'torch.nn.Module') -> 'np.ndarray':
    """The middle square of a picture as the network could show it: uint8 [H, W, C].
    A usage error if there is none."""
    from dnnlib.picture_files import read_picture_file
    from training.data.images import decode
    from training.data.transforms import make_transform
    try:
        pixels = decode(read_picture_file(path))
    except OSError as error:
        raise click.BadParameter(f'{path} cannot be read: {error.strerror or error}', param_hint='--target') from None
    res = G.img_resolution
    return make_transform('center-crop', res, res, color='gray' if G.img_channels == 1 else 'rgb')(pixels)


if __name__ == '__main__':
    output.prepare()
    main()
