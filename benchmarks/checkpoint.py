"""Time and size of a saved state against a plain torch.save of the same state, in one run.

    python benchmarks/checkpoint.py --res=256 --repeats=3

The state is that of a run after a step of Adam: G, D, both moments of each, G_ema.
Both files go into the same directory. `torch.save + fsync` is what it takes with torch alone to have the file
on the disk when the call returns. A run waits for the copy only; `save_state` works beside it.
"""
import copy
import os
import sys
import tempfile
import time
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from torch_utils.state_file import load_state, save_state  # noqa: E402
from training.run.states import copy_of  # noqa: E402


def make_state(res: int) -> dict:
    """The state of players and average as `Run.state_dict` has it, for the networks of `--cfg=paper256`."""
    from training.networks import Discriminator, Generator
    kwargs = dict(img_resolution=res, img_channels=3, c_dim=0)
    G = Generator(z_dim=512, w_dim=512, synthesis_kwargs=dict(channel_base=16384), **kwargs)
    D = Discriminator(channel_base=16384, **kwargs)
    players = {}
    for name, module in (('G', G), ('D', D)):
        optimizer = torch.optim.Adam(module.parameters())
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        players[name] = dict(module=module.state_dict(), optimizer=optimizer.state_dict())
    return dict(players=players, G_ema=copy.deepcopy(G).state_dict())


def plain_save(state: dict, path: Path, sync: bool) -> None:
    """torch.save, with the file on the disk when it returns if `sync`."""
    with open(path, 'wb') as file:
        torch.save(state, file)
        if sync:
            file.flush()
            os.fsync(file.fileno())


@click.command()
@click.option('--res', default=256, show_default=True, help='Image resolution.')
@click.option('--repeats', default=3, show_default=True, help='The best of so many counts.')
@click.option('--folder', type=click.Path(exists=True), help='Where to write [default: the directory for temporary files]')
def main(res: int, repeats: int, folder: str | None) -> None:
    """Prints a table."""
    state = make_state(res)
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        path = Path(directory, 'state')
        ways = {
            'torch.save': lambda: plain_save(state, path, sync=False),
            'torch.save + fsync': lambda: plain_save(state, path, sync=True),
            'save_state (synced, checked)': lambda: save_state(path, state, nimg=0),
            'copy (training waits for it)': lambda: copy_of(state),
            'load_state (checked)': lambda: load_state(path)}
        seconds = {name: [] for name in ways}
        sizes = {}
        for _ in range(repeats):            # In turn, so that a busy moment of the machine meets all alike.
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
                sizes[name] = path.stat().st_size
        for name in ways:
            print(f'{name:30s} {min(seconds[name]):7.2f} s {sizes[name] / 2**20:8.1f} MiB')


if __name__ == '__main__':
    main()
