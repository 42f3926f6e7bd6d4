"""How long NVFlare takes to carry a message of some size to a centre and back, in its simulator: two centres, a process each.

    python benchmarks/nvflare_messages.py             # Needs the extra "nvflare".

The calls are those that carry TDGAN between sites (loss_zoo/nvflare_app.py), without what stands in the messages.
"""
import os
import statistics
import tempfile
import time
from pathlib import Path

import click
from nvflare.collab import CollabRecipe, collab
from nvflare.recipe import SimEnv

SIZES = (2 ** 16, 2 ** 20, 24 * 2 ** 20)
OUT = 'NVFLARE_MESSAGES_OUT'


class Server:
    """Asks every centre for the same bytes again and again."""

    @collab.main
    def run(self):
        """A line for each centre and size."""
        with open(os.environ[OUT], 'w') as file:
            for num in SIZES:
                data = os.urandom(num)
                for client in collab.clients:
                    times = []
                    for _ in range(22):
                        begin = time.perf_counter()
                        client(timeout=60.0).echo(data)
                        times.append(time.perf_counter() - begin)
                    median, best = (1000 * f(times[2:]) for f in (statistics.median, min))
                    print(f'{client.name}: {num / 2 ** 20:6.2f} MiB each way: {median:7.1f} ms, best {best:.1f}', file=file)
        return 0


class Centre:
    """Sends back what comes."""

    @collab.publish
    def echo(self, data):
        """The same."""
        return data


@click.command()
def main():
    """Measure how long a message takes in NVFlare's simulator."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ[OUT] = str(Path(folder, 'times.txt'))
        CollabRecipe('messages', Server(), Centre(), min_clients=2).execute(
            SimEnv(num_clients=2, num_threads=2, workspace_root=folder))
        click.echo(f'Load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.')
        click.echo(Path(os.environ[OUT]).read_text())


if __name__ == '__main__':
    main()
