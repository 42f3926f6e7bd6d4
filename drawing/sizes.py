"""How large a picture, a video and what lies between may become; checked before any picture is made."""
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 2 ** 28            # Of a picture: 16384 x 16384, three quarters of a gigabyte.
MAX_NUMBERS = 2 ** 28           # Of latents that are held at once, a gigabyte in float32.
MAX_FRAMES = 1_000_000
MAX_KEPT_BYTES = 2 ** 31        # Of the frames of a video that is encoded at its end.
MAX_SIDES = {                   # Pixels that a format's header can state, or its decoders take.
    'webp': 16383, 'gif': 65535, 'mp4': 16384, 'png': 2 ** 31 - 1}
MAX_FRAME_PIXELS = {'mp4': 139264 * 256}        # Of H.264 at its highest level, as 8192 x 4352.


def check_picture(columns: int, rows: int, G: 'torch.nn.Module', option: str) -> None:
    """A usage error unless a picture of so many tiles can be held and opened."""
    width, height = columns * G.img_resolution, rows * G.img_resolution
    if width * height > MAX_PIXELS:
        most = MAX_PIXELS // G.img_resolution ** 2
        raise click.BadParameter(f'{columns} x {rows} pictures make one of {width}x{height} pixels; at most {most} of '
                                 f'{G.img_resolution}x{G.img_resolution} fit', param_hint=option)


def check_latents(num: int, G: 'torch.nn.Module', option: str) -> None:
    """A usage error unless so many latents can be held at once."""
    most = MAX_NUMBERS // max(G.num_ws * G.w_dim, G.z_dim)
    if num > most:
        raise click.BadParameter(f'{num} are too many at once: at most {most} of this network',
                                 param_hint=option)


def check_video(video_format: str, width: int, height: int, num_frames: int, size_option: str = '--grid',
                frames_option: str = '--frames') -> None:
    """A usage error unless a format can hold frames of this size, and memory those that it keeps."""
    side, pixels = MAX_SIDES[video_format], MAX_FRAME_PIXELS.get(video_format, MAX_PIXELS)
    if max(width, height) > side or width * height > pixels:
        limit = f'{side} pixels on a side' if max(width, height) > side else f'{pixels} pixels'
        raise click.BadParameter(f'frames of {width}x{height} pixels do not fit into {video_format}, which ends at {limit}; '
                                 'give fewer walks' + ', or --format=png' * (video_format != 'png'),
                                 param_hint=size_option)
    if num_frames > MAX_FRAMES:
        raise click.BadParameter(f'{num_frames} frames in all are too many: at most {MAX_FRAMES}',
                                 param_hint=frames_option)
    if video_format in ('webp', 'gif') and num_frames * width * height * 3 > MAX_KEPT_BYTES:
        raise click.BadParameter(
            f'{num_frames} frames of {width}x{height} pixels do not fit into memory, where {video_format} keeps them until the '
            'end; give fewer, or take mp4', param_hint=frames_option)
