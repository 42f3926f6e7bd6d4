"""TDGAN between sites as an app of NVFlare: its job has both ends, and carries what gRPC carries otherwise (docs/sites.md).

The job (loss_zoo/nvflare_job) names these two classes and nothing else: no code and no option crosses. Each site has the options
of its own program in a file, whose name is in the variable TDGAN_OPTIONS of its environment; `{site}` in it is the site's name.
"""
import os
import shlex
import sys
import threading
from pathlib import Path

import click
from nvflare.collab import collab

from loss_zoo import programs

CALL_SEC = 600.0            # In which a message must be taken.
END_SEC = 30.0              # That a centre may take to end.
VARIABLE = 'TDGAN_OPTIONS'
MAX_OPTIONS = 2 ** 20        # Bytes.


def options_of(site: str) -> list[str]:
    """What a site wants of its program. Raises ClickException."""
    programs.make_importable()
    from dnnlib.reading import read_file
    path = Path(os.environ.get(VARIABLE, '').replace('{site}', site))
    try:
        return shlex.split(read_file(path, MAX_OPTIONS).decode(), comments=True)
    except (OSError, ValueError) as error:
        raise click.ClickException(f'{VARIABLE}={os.environ.get(VARIABLE, "")}: must name a file with the options of {site}, '
                                   f'with {{site}} for the name of a site: {error}') from error


def start_post(sites: dict) -> None:
    """This process can be called, and can call these sites, {name: proxy}."""
    programs.make_importable()
    from torch_utils.wire.nvflare_channel import Post, set_post
    set_post(Post(lambda site, number, frames: sites[site](timeout=CALL_SEC).take(number, frames)))


def taken(number: int, frames: list) -> bool:
    """Hands on what another site has sent."""
    from torch_utils.wire.nvflare_channel import post
    try:
        return post().take(collab.caller, number, frames)
    except ValueError:              # The program here has not begun.
        return False


class Generator:
    """The generator's site: `train.py`, where NVFlare's server runs."""

    @collab.publish
    def take(self, number, frames):
        """What a centre has sent."""
        return taken(number, frames)

    @collab.main
    def train(self):
        """A run, from its start or last state to its end."""
        start_post({client.name: client for client in collab.clients})
        import train
        from losses_ext import centre_program
        try:
            train.main([*options_of('server'), '--reg_type=tdgan', '--tdgan_mode=remote', '--tdgan_listen=nvflare'],
                       standalone_mode=False)
        except SystemExit as error:         # 75: it was asked to stop, and can be continued.
            return error.code or 0
        finally:
            centre_program().close_hubs()
        return 0


class Centre:
    """A centre: `tdgan_centre.py`, where a client of NVFlare runs. Its name is that of the site."""

    @collab.init
    def begin(self):
        """Takes part from now on, in a thread beside NVFlare's."""
        start_post({'server': collab.server})
        args = [*options_of(collab.site_name), '--connect=nvflare', f'--name={collab.site_name}']
        self._thread = threading.Thread(target=self._take_part, args=(args,), daemon=True)
        self._thread.start()

    @collab.publish
    def take(self, number, frames):
        """What the generator's site has sent."""
        return taken(number, frames)

    @collab.final
    def end(self):
        """The job is over."""
        self._thread.join(END_SEC)

    def _take_part(self, args):
        import tdgan_centre
        try:
            tdgan_centre.main(args, standalone_mode=False)
        except SystemExit:
            pass
        except click.ClickException as error:
            print(f'Error: {error.format_message()}', file=sys.stderr, flush=True)
