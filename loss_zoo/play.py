"""A page to play with a network: seeds, truncation, style mixing and directions as sliders, in the browser of
this machine.

    loss-zoo play runs/00000-photos

The page is served to this machine alone (127.0.0.1), under an address that holds a secret; a request that
names another host, comes from another page, or asks for anything but the page and its pictures is refused. No
file is served.
"""
import io
import secrets
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import click

from dnnlib.computing import device_option
from dnnlib.numbers import PSI, SEED, Real, Whole, in_words, is_within
from dnnlib.program import Program
from loss_zoo import programs

if TYPE_CHECKING:
    from loss_zoo.network import Network

HOST = '127.0.0.1'
NUM_DIRECTIONS = 6
MOST_STEPS = 4.0                # Standard deviations of w to either side.
MAX_QUERY = 1000                # Characters.
TIMEOUT_SEC = 30                # For a request to arrive.
WALK_FRAMES, WALK_FPS = 32, 16  # Of a walk from the picture to the other seed's and back.
SMALL = 256                     # Pixels of a side; smaller pictures are saved as they are.
NUM_THUMBS = 8                  # Seeds that can be dragged onto the picture.


@click.command(cls=Program, epilog='Example: loss-zoo play runs/00000-photos')
@click.argument('network', metavar='NETWORK')
@click.option('--port', type=Whole('[0, 65535]'), default=0,
              help='Of the page on this machine.  [default: a free one]')
@click.option('--projected-w', metavar='FILE', help='Pictures of projector.py beside those of seeds: their .npz file.')
@device_option
def main(network: str, port: int, projected_w: str | None, device: str) -> None:
    """Play with a network in the browser: seeds, truncation, style mixing, directions.

    NETWORK is a file, an address or a run directory. The page is shown to this machine alone; Ctrl-C ends it.
    """
    from drawing.named import load_ws
    from loss_zoo.network import load
    try:
        net = load(network, device)
        painter = Painter(net, load_ws(projected_w, net.G) if projected_w is not None else None)
    except (OSError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint='NETWORK') from error
    try:
        server = Server(painter, port)
    except OSError as error:
        raise click.BadParameter(f'port {port} cannot be had ({error.strerror or error})', param_hint='--port') from error
    click.echo(f'{server.address}   (Ctrl-C ends it)')
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo('Ended.')


class Painter:
    """Draws what the sliders say."""

    def __init__(self, net: 'Network', projected: Any = None):
        """projected: latents [K, num_ws, w_dim] of pictures, or None."""
        self.net, self.projected = net, projected
        self.directions = self._directions()
        self._lock = threading.Lock()

    def _directions(self):
        """[count, w_dim], each of one standard deviation of w; none for networks without layers of styles."""
        programs.make_importable()
        import torch

        import directions as program
        G = self.net.G
        if not hasattr(G.synthesis, 'block_resolutions'):
            return []
        with torch.no_grad():
            found = program.factorize(program.style_weights(G, range(G.num_ws)))[0][:NUM_DIRECTIONS]
            return found * program.spread_along(G, found, torch.zeros([1, G.c_dim]))[:, None]

    @property
    def ranges(self) -> dict[str, tuple[str, float]]:
        """{parameter: (interval, default)} of all that a picture depends on;
        seeds and the like are whole numbers."""
        G = self.net.G
        classes = {'class': (f'[0, {G.c_dim - 1}]', 0)} if G.c_dim else {}
        steps = {f'd{number}': (f'[-{MOST_STEPS:g}, {MOST_STEPS:g}]', 0.0)
                 for number in range(len(self.directions))}
        mixing = {'other': (SEED, 1), 'layer': (f'[0, {G.num_ws}]', G.num_ws)}
        rows = {} if self.projected is None else {'row': (f'[-1, {len(self.projected) - 1}]', -1)}      # -1: the seed's.
        return {'seed': (SEED, 0), 'psi': (PSI, 0.7), **rows, **mixing, **classes, **steps}

    def png(self, asked: Mapping[str, str]) -> bytes:
        """The picture of these parameters. Raises ValueError with one sentence."""
        values = self.values(asked)
        with self._lock:
            return self._draw(values)

    def values(self, asked: Mapping[str, str]) -> dict[str, float]:
        """All parameters, checked. Raises ValueError."""
        unknown = asked.keys() - self.ranges.keys()
        if unknown:
            raise ValueError('there is no such parameter')
        values = {}
        for name, (within, default) in self.ranges.items():
            number = (Whole if isinstance(default, int) else Real)(within)
            try:
                values[name] = number.parse(str(asked.get(name, default)))
            except ValueError:
                raise ValueError(f'{name} must be {"a whole number" if isinstance(default, int) else "a number"}') from None
            if not is_within(values[name], within):
                raise ValueError(f'{name} must be {in_words(within)}')
        return values

    def latent(self, asked: Mapping[str, str]) -> bytes:
        """The picture's w [1, num_ws, w_dim] as an .npz file, which `generate --projected-w` takes. Raises ValueError."""
        import numpy as np
        values, data = self.values(asked), io.BytesIO()
        with self._lock:
            np.savez(data, w=self._ws(values).cpu().numpy())
        return data.getvalue()

    def walk(self, asked: Mapping[str, str]) -> bytes:
        """A WebP that walks from the picture to that of the other seed and back, without an end. Raises ValueError."""
        import math

        import torch
        values, data = self.values(asked), io.BytesIO()
        with self._lock:
            here, there = self._ws(values), self.net.w([values['other']], label=values.get('class'), psi=values['psi'])
            shares = [(1 - math.cos(2 * math.pi * number / WALK_FRAMES)) / 2 for number in range(WALK_FRAMES)]
            frames = [as_picture(self.net.image(w=torch.lerp(here, there, share))[0]) for share in shares]
        frames[0].save(data, 'webp', save_all=True, append_images=frames[1:], duration=1000 // WALK_FPS, loop=0, quality=90,
                       lossless=frames[0].width < SMALL)
        return data.getvalue()

    def _draw(self, values: dict[str, float]) -> bytes:
        data = io.BytesIO()
        as_picture(self.net.image(w=self._ws(values))[0]).save(data, 'png')
        return data.getvalue()

    def _ws(self, values: dict[str, float]) -> Any:
        """The latent [1, num_ws, w_dim] of the sliders."""
        import torch
        label = values.get('class')
        ws = self.net.w([values['seed']], label=label, psi=values['psi'])
        if values.get('row', -1) >= 0:
            ws = self.projected[values['row']:values['row'] + 1].to(ws)
        if values['layer'] < ws.shape[1]:           # From this layer on, the styles are another picture's.
            other = self.net.w([values['other']], label=label, psi=values['psi'])
            ws = torch.cat([ws[:, :values['layer']], other[:, values['layer']:]], dim=1)
        for number, direction in enumerate(self.directions):
            ws = ws + values[f'd{number}'] * direction
        return ws


def as_picture(image: Any) -> Any:
    """An array [height, width, 1 or 3] as a picture of Pillow."""
    import PIL.Image
    return PIL.Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)


ANSWERS = {                     # What can be asked for: (its kind, what of the painter makes it).
    'picture.png': ('image/png', 'png'), 'latent.npz': ('application/octet-stream', 'latent'),
    'walk.webp': ('image/webp', 'walk')}


class Server(ThreadingHTTPServer):
    """Serves the page and its pictures to this machine."""
    daemon_threads = True

    def __init__(self, painter: Painter, port: int = 0):
        self.painter, self.secret, self.nonce = painter, secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        super().__init__((HOST, port), Handler)
        names = HOST, 'localhost'
        self.hosts = {*(f'{name}:{self.server_port}' for name in names), *(names if self.server_port == 80 else ())}

    @property
    def address(self) -> str:
        """Of the page."""
        return f'http://{HOST}:{self.server_port}/{self.secret}/'

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line about a request that failed; nothing if the browser wanted no answer any longer."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            click.echo(f'A request failed: {type(error).__name__}: {error}', err=True)

    def page(self) -> str:
        """The HTML document, filled with plain data that its engine escapes."""
        import jinja2
        template = (programs.folder() / 'drawing' / 'play.html').read_text(encoding='utf-8')
        engine = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        G, projected = self.painter.net.G, self.painter.projected
        return engine.from_string(template).render(
            nonce=self.nonce, num_ws=G.num_ws, num_classes=G.c_dim, num_rows=0 if projected is None else len(projected),
            num_directions=len(self.painter.directions), most=MOST_STEPS, num_thumbs=NUM_THUMBS,
            resolution=G.img_resolution)


class Handler(BaseHTTPRequestHandler):
    """One request."""
    server: Server
    server_version, sys_version = 'loss-zoo', ''
    timeout = TIMEOUT_SEC

    def do_GET(self) -> None:
        """The page, a picture, or a refusal."""
        path, _, query = self.path.partition('?')
        home = f'/{self.server.secret}/'
        if not self.is_from_here():
            self.answer(403, 'text/plain', b'Only the page itself may ask, on this machine.')
        elif not secrets.compare_digest(path[:len(home)].encode(), home.encode()):
            self.answer(404, 'text/plain', b'Nothing is here; the address that was printed holds a secret.')
        elif path == home:
            self.answer(200, 'text/html; charset=utf-8', self.server.page().encode())
        elif path.removeprefix(home) in ANSWERS and len(query) <= MAX_QUERY:
            asked = parse_qs(query, keep_blank_values=True)
            self.draw(path.removeprefix(home), {name: values[-1] for name, values in asked.items()})
        else:
            self.answer(404, 'text/plain', b'Nothing is here.')

    def is_from_here(self) -> bool:
        """Was this machine asked by its own name, and by no other page?"""
        origin = self.headers.get('Origin')
        return (self.headers.get('Host') in self.server.hosts
                and (origin is None or origin.removeprefix('http://') in self.server.hosts)
                and self.headers.get('Sec-Fetch-Site', 'none') in ('none', 'same-origin'))

    def draw(self, name: str, asked: Mapping[str, str]) -> None:
        """Answers with a picture, or what can be saved of it."""
        kind, method = ANSWERS[name]
        try:
            picture = getattr(self.server.painter, method)(asked)
        except ValueError as error:
            self.answer(400, 'text/plain', str(error).encode())
        except RuntimeError as error:           # Memory of the device that ran out, for example.
            click.echo(f'No picture: {str(error).splitlines()[0]}', err=True)
            self.answer(500, 'text/plain', b'The picture could not be drawn; the terminal says why.')
        else:
            self.answer(200, kind, picture)

    def answer(self, status: int, kind: str, body: bytes) -> None:
        """Sends a whole answer that no other page can use."""
        self.send_response(status)
        nonce = f"'nonce-{self.server.nonce}'"
        for name, value in {
                'Content-Type': kind, 'Content-Length': str(len(body)), 'Cache-Control': 'no-store',
                'Content-Security-Policy': f"default-src 'none'; img-src 'self'; script-src {nonce}; style-src {nonce}; "
                                           "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
                'Cross-Origin-Resource-Policy': 'same-origin', 'Referrer-Policy': 'no-referrer',
                'X-Content-Type-Options': 'nosniff'}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Says nothing: the address is a secret."""


if __name__ == '__main__':
    main()
