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
from dnnlib.numbers import PSI, SEED, Whole, in_words, is_within
from loss_zoo import programs

if TYPE_CHECKING:
    from loss_zoo.network import Network

HOST = '127.0.0.1'
NUM_DIRECTIONS = 6
MOST_STEPS = 4.0                # Standard deviations of w to either side.
MAX_QUERY = 1000                # Characters.
TIMEOUT_SEC = 30                # For a request to arrive.


@click.command(epilog='Example: loss-zoo play runs/00000-photos')
@click.argument('network', metavar='NETWORK')
@click.option('--port', type=Whole('[0, 65535]'), default=0,
              help='Of the page on this machine.  [default: a free one]')
@device_option
def main(network: str, port: int, device: str) -> None:
    """Play with a network in the browser: seeds, truncation, style mixing, directions.

    NETWORK is a file, an address or a run directory. The page is shown to this machine alone; Ctrl-C ends it.
    """
    from loss_zoo.network import load
    try:
        painter = Painter(load(network, device))
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

    def __init__(self, net: 'Network'):
        self.net = net
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
        return {'seed': (SEED, 0), 'psi': (PSI, 0.7), **mixing, **classes, **steps}

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
            try:
                values[name] = type(default)(asked.get(name, default))
            except ValueError:
                raise ValueError(f'{name} must be {"a whole number" if isinstance(default, int) else "a number"}') from None
            if not is_within(values[name], within):
                raise ValueError(f'{name} must be {in_words(within)}')
        return values

    def _draw(self, values: dict[str, float]) -> bytes:
        import PIL.Image
        import torch
        label = values.get('class')
        ws = self.net.w([values['seed']], label=label, psi=values['psi'])
        if values['layer'] < ws.shape[1]:           # From this layer on, the styles are another picture's.
            other = self.net.w([values['other']], label=label, psi=values['psi'])
            ws = torch.cat([ws[:, :values['layer']], other[:, values['layer']:]], dim=1)
        for number, direction in enumerate(self.directions):
            ws = ws + values[f'd{number}'] * direction
        image, data = self.net.image(w=ws)[0], io.BytesIO()
        PIL.Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(data, 'png')
        return data.getvalue()


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
        G = self.painter.net.G
        return engine.from_string(template).render(
            nonce=self.nonce, num_ws=G.num_ws, num_classes=G.c_dim,
            num_directions=len(self.painter.directions), most=MOST_STEPS, resolution=G.img_resolution)


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
        elif path == f'{home}picture.png' and len(query) <= MAX_QUERY:
            self.draw({name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()})
        else:
            self.answer(404, 'text/plain', b'Nothing is here.')

    def is_from_here(self) -> bool:
        """Was this machine asked by its own name, and by no other page?"""
        origin = self.headers.get('Origin')
        return (self.headers.get('Host') in self.server.hosts
                and (origin is None or origin.removeprefix('http://') in self.server.hosts)
                and self.headers.get('Sec-Fetch-Site', 'none') in ('none', 'same-origin'))

    def draw(self, asked: Mapping[str, str]) -> None:
        """Answers with a picture."""
        try:
            picture = self.server.painter.png(asked)
        except ValueError as error:
            self.answer(400, 'text/plain', str(error).encode())
        except RuntimeError as error:           # Memory of the device that ran out, for example.
            click.echo(f'No picture: {str(error).splitlines()[0]}', err=True)
            self.answer(500, 'text/plain', b'The picture could not be drawn; the terminal says why.')
        else:
            self.answer(200, 'image/png', picture)

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
