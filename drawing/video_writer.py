"""Frames as a video: mp4 through ffmpeg, animated webp and gif, or a png per frame."""
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from dnnlib import writing
from drawing.output_files import answered, save_image

if TYPE_CHECKING:       # Loaded inside the functions that use them, so that --help answers at once.
    import numpy as np

VIDEO_FILES = ('mp4', 'webp', 'gif')
FORMATS = (*VIDEO_FILES, 'png')
MP4_BITRATE = '16M'
SOFTWARE = 0x0131           # Exif's tag of the program that has written a file.


def pick_format(name: str) -> str:
    """One of FORMATS for that or 'auto'; a usage error, naming the extra,
    if mp4 is asked for and cannot be written."""
    import importlib.util
    has_ffmpeg = importlib.util.find_spec('imageio_ffmpeg') is not None
    if name == 'auto':
        return 'mp4' if has_ffmpeg else 'webp'
    if name == 'mp4' and not has_ffmpeg:
        raise click.UsageError('mp4 needs the extra "video" (pip install imageio-ffmpeg); webp, gif and png do not')
    return name


class VideoWriter:
    """Writes frames to PATH.mp4, PATH.webp, PATH.gif, or as png to frame00000.png, ... beside PATH.

    mp4 and png frames are written as they come, webp and gif ones are kept
    in memory until the end of the `with` block. `path` is the file (png: the folder); it has its name once it
    is complete, and nothing is left of one that fails.
    """

    def __init__(self, path: Path, video_format: str, fps: int):
        assert video_format in FORMATS, f'{video_format!r}: must be one of {", ".join(FORMATS)}'
        self.path = path.parent if video_format == 'png' else path.with_name(f'{path.name}.{video_format}')
        self._format = video_format
        self._fps = fps
        self._frames: list = []
        self._num_frames = 0
        self._ffmpeg: _Ffmpeg | None = None
        self._file = ExitStack()            # What gives the file its name at the end.

    def add(self, image: 'np.ndarray') -> None:
        """One more frame: uint8 [H, W, C], C = 1 or 3, all of one size."""
        if self._num_frames == 0 and self._format != 'png':
            self._open()
        if self._format == 'png':
            save_image(self.path / f'frame{self._num_frames:05d}.png', image)
        elif self._format == 'mp4':
            if self._ffmpeg is None:
                self._ffmpeg = _Ffmpeg(self._temporary, self.path, image.shape[1], image.shape[0], self._fps)
            self._ffmpeg.write(image)
        else:
            from PIL import Image
            self._frames.append(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).convert('RGB'))
        self._num_frames += 1

    def add_all(self, images: Iterable['np.ndarray']) -> None:
        """Several more frames."""
        for image in images:
            self.add(image)

    def __enter__(self) -> 'VideoWriter':
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 tb: TracebackType | None) -> None:
        if kind is not None:
            if self._ffmpeg is not None:
                self._ffmpeg.kill()
            self._file.__exit__(kind, value, tb)
            return
        with self._file:
            if self._ffmpeg is not None:
                self._ffmpeg.close()
            elif self._frames:
                self._save_frames()

    def _open(self):
        self._file.enter_context(answered(self.path))
        self._temporary = self._file.enter_context(writing.atomic_path(self.path))

    def _save_frames(self):
        from PIL import Image
        exif = Image.Exif()
        exif[SOFTWARE] = writing.MARK
        options = {'webp': {'quality': 90, 'method': 2, 'exif': exif.tobytes()},
                   'gif': {'optimize': False, 'comment': writing.MARK.encode()}}[self._format]
        with answered(self.path):
            try:
                self._frames[0].save(self._temporary, save_all=True, append_images=self._frames[1:], loop=0,
                                     duration=round(1000 / self._fps), **options)
            except ValueError as error:         # The encoder's own words.
                raise OSError(str(error)) from None


class _Ffmpeg:
    """A process that encodes frames to an mp4 file; whatever it complains of is an error
    that names `path`."""

    def __init__(self, file: Path, path: Path, width: int, height: int, fps: int):
        import imageio_ffmpeg
        self._path, self._size = path, (height, width, 3)
        self._complaints = tempfile.TemporaryFile()         # noqa: SIM115 (a pipe that nobody reads would fill up)
        even = 'pad=ceil(iw/2)*2:ceil(ih/2)*2'              # For yuv420p.
        self._process = subprocess.Popen(
            [imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-y', '-f', 'rawvideo', '-pix_fmt', 'rgb24',
             '-s',
             f'{width}x{height}', '-r', str(fps), '-i', '-', '-an', '-vf', even, '-vcodec', 'libx264',
             '-pix_fmt', 'yuv420p', '-b:v', MP4_BITRATE, '-metadata', f'comment={writing.MARK}',
             f'file:{file}'],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._complaints, start_new_session=True)

    def write(self, image: 'np.ndarray') -> None:
        """One more frame."""
        import numpy as np
        try:
            self._process.stdin.write(np.ascontiguousarray(np.broadcast_to(image, self._size)))
        except OSError:  # ffmpeg has ended; `close` raises with what it said, if it said anything.
            self.close()
            raise click.ClickException(f'{self._path} cannot be written: ffmpeg ended early') from None

    def close(self) -> None:
        """Waits until the file is complete."""
        with suppress(OSError):                             # It has ended early.
            self._process.stdin.close()
        status = self._process.wait()
        self._complaints.seek(0)
        said = self._complaints.read(10000).decode(errors='replace').split('\n')
        self._complaints.close()
        said = [line.strip() for line in said if line.strip()]
        if status or said:
            raise click.ClickException(f'{self._path} cannot be written: ffmpeg ended with status {status}'
                                       + (f' and said: {said[-1]}' if said else ''))

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()
        self._complaints.close()
