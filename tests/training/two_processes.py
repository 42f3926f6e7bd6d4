"""What the processes of `test_two_processes.py` run; spawned processes import it by name."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from tiny import Silent, make_config, run_iterations
from tqdm import tqdm

from torch_utils import distributed, training_stats
from training import exchange, setup
from training.data.stages import WithoutBad
from training.data.storage import DatasetError
from training.loss import StepContext
from training.run import ticks
from training.run.launch import train
from training.run.states import saved_states
from training.run.ticks import Ticks
from training.training_loop import finish_phase, training_loop


def gradients(config, z, real, rank, num_ranks):
    """{phase: gradients after the exchange} of one iteration on this rank's part of z and real [N,...]."""
    run = setup.build(config, torch.device('cpu'))
    part = slice(rank * len(z) // num_ranks, (rank + 1) * len(z) // num_ranks)
    grads = {}
    for phase in run.phases:
        if phase.name == 'Greg':        # Its mean and its half batch are per rank.
            continue
        c = torch.zeros([len(z[part]), 0])
        ctx = StepContext(run.game, phase, run.randomness, real_img=real[part], real_c=c, gen_z=z[part], gen_c=c)
        player, = phase.players
        player.optimizer.zero_grad()
        player.module.requires_grad_(True)
        phase.step(run.game, ctx)
        finish_phase([player])
        grads[phase.name] = [parameter.grad.clone() for parameter in player.module.parameters()]
    return grads


def gradient_config(data, num_gpus):
    """No minibatch statistics, no noise, no style mixing: nothing that couples samples or draws per rank."""
    config = make_config(data, batch_gpu=4 // num_gpus, gpus=num_gpus)
    config['loss_kwargs'].update(style_mixing_prob=0)
    config['G_kwargs']['synthesis_kwargs']['use_noise'] = False
    config['D_kwargs']['epilogue_kwargs']['mbstd_num_channels'] = 0
    return config


class OneIsAsked(Silent):
    """Only the second rank is asked to stop; the real ticks decide what that means."""
    after_iteration = Ticks.after_iteration

    def __init__(self):
        super().__init__(None)
        self.wants_stop = lambda: distributed.rank() == 1
        self._bar, self._tick_nimg, self._stop_flag = tqdm(total=0, disable=True), 0, distributed.LateFlag()

    def _end_tick(self, run, last):
        pass


def images_until_one_is_asked(config):
    """How far a run of three iterations comes if one rank is asked to stop in the first."""
    run = setup.build(config, torch.device('cpu'))
    run.stages[-1].end_nimg = 3 * config['batch']
    training_loop(run, OneIsAsked())
    return run.nimg


def end_without_images(config, run_dir, num_workers):
    """What a run says whose second rank has no images after two
    iterations, and the states that the first has then saved."""
    real = WithoutBad.__getitem__

    def broken(self, idx):
        loaded.append(idx)
        if distributed.rank() == 1 and len(loaded) > 4:
            raise DatasetError('set: more than 10 images cannot be read') from ValueError('a cause')
        return real(self, idx)

    loaded = []
    WithoutBad.__getitem__ = broken
    ticks.grid_size = lambda *args: (4, 2)
    Path(run_dir).mkdir(exist_ok=True)
    training_stats.init_multiprocessing(distributed.rank(), torch.device('cpu'))
    try:
        config = {**config, 'run_dir': str(run_dir), 'log': [], 'data_loader_kwargs': dict(num_workers=num_workers)}
        train(config, run_dir, torch.device('cpu'), lambda: False, {})
    except DatasetError as error:
        return str(error), [path.name for path in saved_states(run_dir)]
    finally:
        WithoutBad.__getitem__ = real


def worker(rank, data, folder, z, real):
    """Everything that two processes are asked to show, in one start."""
    torch.set_num_threads(1)
    grads = gradients(gradient_config(data, 2), z, real, rank, 2)
    config = make_config(data, gpus=2, batch_gpu=1)
    exchange.BUCKET_BYTES = 2 ** 10
    run, straight = run_iterations(config, 6)
    num_early = run.exchange.num_early
    distributed.check_equal({'G': run.game.G.module, 'D': run.game.D.module, 'G_ema': run.G_ema})
    _, half = run_iterations(config, 3)
    _, resumed = run_iterations(config, 3, state=half)
    _, rounded = run_iterations({**config, 'exchange': 'bf16'}, 6)
    setup.build_exchange = lambda config: None
    _, in_the_end = run_iterations(config, 6)
    found = dict(grads=grads, straight=straight, in_the_end=in_the_end, num_early=num_early, resumed=resumed,
                 rounded=rounded,
                 stopped=images_until_one_is_asked(config),
                 without_images=[end_without_images(config, Path(folder) / f'run{num}', num) for num in (0, 1)])
    torch.save(found, Path(folder) / f'rank{rank}.pt')
