"""What the processes of `test_running_mean.py` run; spawned processes import it by name."""
from pathlib import Path

import torch

from training.running_mean import RunningMeans


def follow(rank, folder):
    """Two iterations, with values that differ between the ranks; saves the means."""
    means = RunningMeans(0.5, torch.device('cpu'))
    for values in ([1.0, 3.0], [5.0, 9.0]):
        means.add('a', torch.tensor([values[rank]]))
        means.update()
    torch.save(means.get('a'), Path(folder) / f'rank{rank}.pt')
