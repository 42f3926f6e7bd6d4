"""What TDGAN between sites costs beside computation: the time of an exchange by size, and the share of an iteration.

    python benchmarks/sites.py                        # On loopback, with mutual TLS; needs the extra "sites".
    python benchmarks/sites.py --only=exchange --rounds=50

Exchange: so many bytes there and back between two processes, by messages as centres send them (gRPC,
digests, checks), and over a plain TLS socket with the same certificates. Rounds alternate, so that a
machine that gets slower matters to both; medians, and the best of each, for which nobody had to wait.
Share: the part of the time of a run in which neither end computes: the generator's site sends or waits, and
the centre is not at an answer. On loopback, and over a line that has 10 ms each way and 100 Mbit/s,
emulated by a process that holds bytes back (`tc netem` needs a kernel module that is often missing).
"""
import json
import os
import queue
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


SIZES = (2 ** 16, 2 ** 20, 24 * 2 ** 20)
PIECE, ON_WAY = 2 ** 14, 64
DELAY_SEC, BYTES_PER_SEC = 0.01, 100e6 / 8
TIMED = ROOT / 'benchmarks' / 'sites_timed.py'
DATA = ROOT / 'datasets' / 'emoji-faces-noto-32.zip'
RECIPES = {'two-stage': [], 'one-stage': ['--loss=osgan']}


# An exchange.


def forms_of(num):
    """What was agreed: one tensor of so many bytes."""
    import torch

    from torch_utils.wire.message import TensorForm
    return lambda header: dict(x=TensorForm(torch.float32, (num // 4,)))


def echo(folder, sizes):
    """The other process: sends everything back, over gRPC and over a socket. Prints both ports."""
    from torch_utils.allocator import keep_freed_memory
    from torch_utils.wire import certificates, grpc_channel
    from torch_utils.wire.channel import Closed
    keep_freed_memory()             # As both programs do.

    def serve(channel):
        with suppress(Closed):
            while True:
                channel.send(channel.receive(lambda header: forms_of(sizes[header.kind])(header)))

    listener = grpc_channel.Listener('localhost:0', certificates.load(folder / 'generator'), serve)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    configure(context, folder / 'generator')
    with socket.create_server(('localhost', 0)) as server:
        print(listener.port, server.getsockname()[1], flush=True)
        plain, _ = server.accept()
        with context.wrap_socket(plain, server_side=True) as end, suppress(EOFError, OSError):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                end.sendall(received(end, sizes[received(end, 1)[0]]))


def configure(context, folder):
    """Mutual TLS 1.3 with the certificates of one end."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / 'authority.pem')
    context.load_cert_chain(folder / 'own.pem', folder / 'own.key')


def received(end, num):
    """So many bytes of a socket. Raises EOFError."""
    data, view, filled = bytearray(num), None, 0
    view = memoryview(data)
    while filled < num:
        got = end.recv_into(view[filled:])
        if got == 0:
            raise EOFError
        filled += got
    return data


def exchange(folder, rounds):
    """[{bytes, grpc_ms, tls_ms, ratio}], medians over rounds."""
    import torch

    from torch_utils.allocator import keep_freed_memory
    from torch_utils.wire import certificates, grpc_channel
    from torch_utils.wire.message import Header, Message
    keep_freed_memory()
    certificates.make_authority(folder, 'generator', ['localhost'], ['north'])
    other = subprocess.Popen([sys.executable, __file__, '--echo', str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        grpc_port, tls_port = map(int, other.stdout.readline().split())
        channel = grpc_channel.connect(f'localhost:{grpc_port}', certificates.load(folder / 'north'))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        configure(context, folder / 'north')
        found = []
        with socket.create_connection(('localhost', tls_port)) as plain, \
                context.wrap_socket(plain, server_hostname='localhost') as end:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for kind, num in enumerate(SIZES):
                tensor, raw = torch.rand(num // 4), os.urandom(num)

                def by_message(kind=kind, num=num, tensor=tensor):
                    channel.send(Message(Header(kind), {}, dict(x=tensor)))
                    channel.receive(forms_of(num))

                def by_socket(kind=kind, num=num, raw=raw):
                    end.sendall(bytes([kind]) + raw)
                    received(end, num)

                both = [(timed(by_message, other.pid), timed(by_socket, other.pid))
                        for _ in range(rounds + 2)][2:]
                found.append(dict(bytes=num, **compared(both)))
                click.echo(f'{num / 2 ** 20:8.2f} MiB each way: ' + sentence_of(found[-1]))
        channel.close()
        return found
    finally:
        other.kill()
        other.wait()


def timed(function, pid):
    """(seconds, seconds of processors that this process and another one took; 0 where Linux is not)."""
    clock = (~pid << 3) | 2                 # clock_getcpuclockid(3).

    def now():
        cpu = time.process_time() + time.clock_gettime(clock) if sys.platform == 'linux' else 0
        return time.perf_counter(), cpu

    begin = now()
    function()
    return tuple(end - before for end, before in zip(now(), begin))


def compared(both):
    """What rounds [(timed by messages, timed by the socket)] come to, in milliseconds."""
    (grpc, grpc_cpu), (tls, tls_cpu) = (zip(*column) for column in zip(*both))
    found = dict(grpc_ms=statistics.median(grpc), tls_ms=statistics.median(tls),
                 best_ms=min(grpc), tls_best_ms=min(tls),
                 grpc_cpu_ms=statistics.mean(grpc_cpu), tls_cpu_ms=statistics.mean(tls_cpu))
    return dict({name: round(sec * 1000, 2) for name, sec in found.items()},
                ratio=round(statistics.median(a / b for a, b in zip(grpc, tls)), 2))


def sentence_of(row):
    """The same, for people."""
    return (f'{row["grpc_ms"]:8.2f} ms by messages, {row["tls_ms"]:8.2f} ms by a TLS socket, '
            f'{row["ratio"]:.2f} times; best {row["best_ms"]:.2f} and {row["tls_best_ms"]:.2f}; '
            f'of processors {row["grpc_cpu_ms"]:.2f} and {row["tls_cpu_ms"]:.2f} ms')


# A share of an iteration.


class Line:
    """Carries what comes at a port to another one: after a while, and not faster than so many bytes a second."""

    def __init__(self, target):
        self.target, self.server = target, socket.create_server(('localhost', 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with suppress(OSError):
            while True:
                here, _ = self.server.accept()
                try:
                    there = socket.create_connection(('localhost', self.target))
                except OSError:
                    here.close()
                    continue
                for ends in ((here, there), (there, here)):
                    threading.Thread(target=self.carry, args=ends, daemon=True).start()

    def carry(self, source, target):
        """One direction: a byte leaves when the line is free, and arrives after the delay."""
        on_way, free = queue.Queue(ON_WAY), 0.0
        threading.Thread(target=deliver, args=(on_way, target), daemon=True).start()
        with suppress(OSError):
            while data := source.recv(PIECE):
                free = max(free, time.monotonic()) + len(data) / BYTES_PER_SEC
                on_way.put((free + DELAY_SEC, data))
        on_way.put((0.0, b''))


def deliver(on_way, target):
    """At the other end of the line."""
    with suppress(OSError):
        while (item := on_way.get())[1]:
            time.sleep(max(item[0] - time.monotonic(), 0))
            target.sendall(item[1])
        target.shutdown(socket.SHUT_RDWR)


def spans_of(folder, kimg, batch, recipe, is_far):
    """(when the generator's site waited for the line or the centre, when the centre answered), [(begin, end)]."""
    with closing(socket.create_server(('localhost', 0))) as probe:
        port = probe.getsockname()[1]
    generator = ['train.py', '--reg_type=tdgan', '--cfg=tiny', '--device=cpu', '--metrics=none', '--log=none', '--workers=0',
                 '--aug=noaug', f'--batch={batch}', f'--tdgan_schedule=0:{kimg:g}', f'--tick={kimg:g}', f'--outdir={folder}',
                 *recipe, '--tdgan_mode=remote', '--tdgan_centres=north', f'--tdgan_listen=localhost:{port}', '--tdgan_res=32',
                 '--tdgan_insecure=1']
    centre = ['tdgan_centre.py', f'--data={DATA}', f'--private={folder / "private"}',
              f'--connect=localhost:{Line(port).port if is_far else port}', '--name=north', '--insecure', '--device=cpu']
    both = [subprocess.Popen([sys.executable, TIMED, folder / f'{program[0]}.json', *program], cwd=ROOT,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for program in (centre, generator)]
    try:
        for process in both[::-1]:
            if process.wait():
                raise click.ClickException(f'{process.args[3]} ended with status {process.returncode}')
    finally:
        for process in both:
            process.kill()
    waiting, answering = (json.loads((folder / f'{program[0]}.json').read_text())[kind]
                          for program, kind in ((generator, 'waiting'), (centre, 'answering')))
    num = len(waiting)
    return waiting[num * 4 // 10:num * 9 // 10], answering


def shares_of(waiting, answering):
    """What happened from the first of these waits to the last, {generator, centre, nobody}: shares of that time in which each
    computed. (While the generator's site computes, the centre may, too: that counts as the former.)"""
    whole = waiting[-1][1] - waiting[0][0]
    waited = sum(end - begin for begin, end in waiting)
    centre = sum(max(min(end, other_end) - max(begin, other), 0) for begin, end in waiting for other, other_end in answering)
    return dict(generator=1 - waited / whole, centre=centre / whole, nobody=(waited - centre) / whole, sec=whole)


def share(kimg, batch):
    """[{recipe, where, generator, centre, nobody}]."""
    found = []
    for name, recipe in RECIPES.items():
        for where in ('loopback', 'line'):
            with tempfile.TemporaryDirectory() as folder:
                row = dict(recipe=name, where=where,
                           **shares_of(*spans_of(Path(folder), kimg, batch, recipe, where == 'line')))
            found.append(row)
            click.echo(f'{name}, {where}: in {row["nobody"]:.1%} of the time neither end computed (the generator\'s site in '
                       f'{row["generator"]:.1%}, the centre in {row["centre"]:.1%}; {row["sec"]:.1f} s).')
    return found


@click.command()
@click.option('--only', type=click.Choice(['exchange', 'share']), help='Measure this alone.')
@click.option('--rounds', default=20, show_default=True, help='Of each exchange.')
@click.option('--kimg', default=0.8, show_default=True, help='Thousands of images of each run.')
@click.option('--batch', default=16, show_default=True, help='Of each run.')
@click.option('--out', type=click.Path(path_type=Path), help='Write the numbers as JSON.')
@click.option('--echo', 'echo_folder', type=click.Path(path_type=Path), hidden=True)
def main(only, rounds, kimg, batch, out, echo_folder):
    """Measure what TDGAN between sites costs beside computation."""
    if echo_folder:
        return echo(echo_folder, SIZES)
    click.echo(f'Load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.')
    found = dict(load=os.getloadavg()[0])
    if only != 'share':
        with tempfile.TemporaryDirectory() as folder:
            found['exchange'] = exchange(Path(folder), rounds)
    if only != 'exchange':
        found['share'] = share(kimg, batch)
    if out:
        out.write_text(json.dumps(found, indent=2))


if __name__ == '__main__':
    main()
