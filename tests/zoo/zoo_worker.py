"""What the processes of `test_zoo_processes.py` run; spawned processes import it by name."""
import sys
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import torch
from test_zoo import check_that_it_runs
from zoo_game import make_batch, make_game, step_gradients

from losses_ext import bcr, cr, diggan, fakeclr, ggdr, insgen, lecam, r2, weco, zcr
from torch_utils import distributed
from training.data.stages import Source, Stage
from training.loss import StepContext, d_main


def noise_of(ctx, tensor, use):
    """In the place of what is drawn at random, which each rank does for itself: a function of each sample alone."""
    return 2 * (1000 * tensor + len(use)).sin()


@patch.object(StepContext, 'randn_like', noise_of)
def gradients_of_two_iterations(rank=0, num_ranks=1):
    """[D's gradients after the exchange], of this rank's part
    of a batch of 4, for all that does not couple samples."""
    game = make_game(mbstd_num_channels=0)
    game.regularizers = [
        ggdr.GGDR(game, ggdr.Options(res='8')),
        diggan.DigGAN(game, diggan.Options(weight=50.0, interval=1, ema=0.5)),
        diggan.DigGAN(game, diggan.Options(weight=50.0, interval=1, pair='mean')),
        lecam.LeCam(game, lecam.Options(weight=0.5, start=0)),
        r2.R2(game, r2.Options(gamma=3.0, interval=1)),
        weco.WeCo(game, weco.Options(weight=5.0, both=True))]
    game.regularizers += [
        cr.CR(game, cr.Options(shift=0.0, flip=1.0)),       # What is random is drawn by each rank for itself.
        bcr.BCR(game, bcr.Options(shift=0.0, flip=1.0)),
        zcr.ZCR(game, zcr.Options(weight_d=20.0, noise=0.5)),
        insgen.InsGen(game, insgen.Options(queue_real=6, queue_fake=6)),
        fakeclr.FakeCLR(game, fakeclr.Options(queue=6, forget='age'))]
    for regularizer in game.regularizers[-2:]:
        regularizer.begin_stage(Stage(1, [Source(None)]), 5, resumed=False)
    game.critics['D2'].module = make_game(mbstd_num_channels=0, seed=2).D.module
    part = slice(rank * 4 // num_ranks, (rank + 1) * 4 // num_ranks)
    batch = {name: tensor[part] for name, tensor in make_batch(4).items()}
    result = []
    for k in range(2):                      # Running means count from the second iteration on.
        grads = step_gradients(game, d_main, batch, batch_idx=k)
        distributed.all_reduce_mean_(list(grads.values()))
        for regularizer in game.having('end_iteration'):
            regularizer.end_iteration(4 * (k + 1), k + 1)
        result.append(grads)
    return result


def worker(rank, folder, configs):
    """Saves what this rank found; raises ValueError if the
    networks of a run are not the same on all ranks."""
    torch.set_num_threads(1)
    torch.save(gradients_of_two_iterations(rank, 2), Path(folder) / f'rank{rank}.pt')
    for config in configs:
        check_that_it_runs(config)
