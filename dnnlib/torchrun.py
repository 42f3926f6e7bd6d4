"""Was this process started by torchrun, as one of several? Asks the environment, and imports no torch.

Only all of torchrun's variables together count. A single one may be left over in a shell, or set by another
program.
"""
import os
from typing import NamedTuple

import click

VARIABLES = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')


class RankPlace(NamedTuple):
    """Where this process stands among those of torchrun."""
    rank: int               # Among all.
    world_size: int         # All, on all machines.
    local_rank: int         # Among those on this machine.
    local_world_size: int   # Those on this machine.


def place() -> RankPlace | None:
    """Where this process stands; None if torchrun did not start it.

    Raises click.UsageError if the variables contradict each other or are no numbers.
    """
    if not all(os.environ.get(name) for name in VARIABLES):
        return None
    numbers = {name: os.environ.get(name, '1')
               for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE')}
    for name, value in numbers.items():
        if not (value.isascii() and value.isdigit()):
            raise click.UsageError(f'{name}={value} in the environment is no number; torchrun sets it, where there is none '
                                   f'remove it (unset {" ".join(VARIABLES)})')
    found = RankPlace(*map(int, numbers.values()))
    if found.rank >= found.world_size or found.local_rank >= found.world_size:
        raise click.UsageError(f'RANK={found.rank}, WORLD_SIZE={found.world_size} and LOCAL_RANK={found.local_rank} in '
                               f'the environment do not fit together; torchrun sets them, where there is none remove '
                               f'them (unset {" ".join(VARIABLES)})')
    return found


def is_main_process() -> bool:
    """Is this the process that speaks and writes? Under torchrun there are several from the start."""
    here = place()
    return here is None or here.rank == 0


def world_size(default: int) -> int:
    """The number of torchrun's processes, `default` if it did not start this one."""
    here = place()
    return here.world_size if here else default
