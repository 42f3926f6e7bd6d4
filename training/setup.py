"""From a configuration to everything that a run consists of: data, players, regularizers, phases,
average, state.

The configuration is plain data (`training_options.json`); `build` is the only reader of most of it.
"""
import copy
from dataclasses import dataclass
from typing import Any

import torch

import dnnlib
from torch_utils import distributed, misc, precision, training_stats
from torch_utils.cuda_graphs import CudaRecorder
from torch_utils.nested import map_tensors
from torch_utils.ops import backend
from torch_utils.optimizers import untraced
from torch_utils.randomness import Streams
from training import transfer
from training.ada import AdaptiveStrength
from training.config.methods import methods_of, recipe_of, rules_of
from training.data.stages import RealStream, Source, Stage
from training.exchange import GradientExchange
from training.graphs import MARGINS, PhaseGraphs, why_not
from training.loss import Game, Phase
from training.player import Player
from training.regularizer import SITES
from training.run.shares import Shares, name_of


@dataclass
class Run:
    """A run in progress: what learns, from what, and how far it is."""
    config: dict
    device: torch.device
    randomness: Streams
    game: Game
    phases: list[Phase]
    stages: list[Stage]
    ada: AdaptiveStrength | None
    nimg: int = 0                       # Reals shown so far, by all ranks.
    batch_idx: int = 0                  # Iterations so far.
    stage_idx: int = 0
    stage_begun: bool = False           # Has the current stage's `begin_stage` been called?
    rollbacks: int = 0                  # How often the run went back to a saved state; the reals' order depends on it.
    micro_batch: int = 0                # Images at once on one rank: `batch_gpu`, or less after running out of memory.
    reals: list[RealStream] | None = None   # Of the current stage's sources, once it is entered.
    graphs: PhaseGraphs | None = None   # CUDA graphs of the phases, if it has any.
    exchange: GradientExchange | None = None    # Of gradients, with several processes.

    @property
    def G_ema(self) -> torch.nn.Module:
        """The moving average of the generator."""
        return self.game.G_ema

    @property
    def stage(self) -> Stage:
        """The current stage."""
        return self.stages[self.stage_idx]

    @property
    def batch_size(self) -> int:
        """Images per iteration, of all ranks."""
        return self.config['batch']

    @property
    def batch_gpu(self) -> int:
        """Images per micro-batch of one rank."""
        return self.config['batch_gpu']

    def __post_init__(self):
        self.micro_batch = self.batch_gpu

    @property
    def total_nimg(self) -> int:
        """Images that the whole run shows."""
        return self.stages[-1].end_nimg

    def enter_stage(self, stage_idx: int) -> None:
        """Makes a stage the current one: calls `begin_stage` of the regularizers, and opens its data."""
        if stage_idx != self.stage_idx:
            self.stage_idx, self.stage_begun, self.reals = stage_idx, False, None
        self.forget_graphs()
        seed = Streams(self.config['seed']).seed_of(self.nimg, 'stage')      # The same on all ranks.
        for regularizer in self.game.having('begin_stage'):
            regularizer.begin_stage(self.stage, seed, resumed=self.stage_begun)
        self.stage_begun = True
        if self.reals is None:
            def make(dataset):
                return open_reals(self.config, dataset, self.device, self.nimg, self.rollbacks)
            self.reals = [source.open_reals(make, self.config, self.device, self.nimg, self.rollbacks)
                          for source in self.stage.sources]

    def forget_graphs(self) -> None:
        """To be called when tensors that steps use are replaced by others."""
        if self.graphs is not None:
            self.graphs.forget()

    def state_dict(self) -> dict:
        """What a resumed run needs to continue exactly, as far as it is equal on all ranks."""
        augment = self.game.augment
        return dict(
            players={player.name: player.state_dict() for player in self.game.players},
            G_ema=self.G_ema.state_dict(),
            frozen={name: module.state_dict() for name, module in self.game.frozen.items()},
            frozen_of={name: self.game.frozen_of.get(name, 'G') for name in self.game.frozen},
            augment=augment.state_dict() if augment is not None else None,
            regularizers={type(r).__name__: r.shared_state_dict() for r in self.game.having('shared_state_dict')},
            nimg=self.nimg, batch_idx=self.batch_idx, stage_idx=self.stage_idx, stage_begun=self.stage_begun,
            rollbacks=self.rollbacks)

    def local_state_dict(self) -> dict:
        """The rest of it, which differs between ranks: plain data and CPU tensors."""
        return dict(
            w_avg=self.game.G.module.mapping.w_avg.cpu(),
            real_signs={name: critic.real_signs.cpu() for name, critic in self.game.critics.items()},
            regularizers={type(r).__name__: map_tensors(torch.Tensor.cpu, r.state_dict()) for r in self.game.regularizers},
            statistics=training_stats.state_dict())

    def load_state_dict(self, state: dict, local: dict) -> None:
        """Restores what `state_dict` and this rank's `local_state_dict` returned."""
        self.forget_graphs()
        for player in self.game.players:
            player.load_state_dict(state['players'][player.name])
        self.G_ema.load_state_dict(state['G_ema'])
        self.game.frozen.clear()
        self.game.frozen_of.clear()
        players = {player.name: player for player in self.game.players}
        for name, weights in state['frozen'].items():           # Earlier versions had copies of G only.
            self.game.keep_copy(name, players[state.get('frozen_of', {}).get(name, 'G')]).load_state_dict(weights)
        if self.game.augment is not None:
            self.game.augment.load_state_dict(state['augment'])
        self.nimg, self.batch_idx = state['nimg'], state['batch_idx']
        self.stage_idx, self.stage_begun, self.reals = state['stage_idx'], state['stage_begun'], None
        self.rollbacks = state['rollbacks']
        self.game.G.module.mapping.w_avg.copy_(local['w_avg'])
        for name, critic in self.game.critics.items():
            signs = local['real_signs'][name]
            # Earlier versions could save a sum that was not finite.
            critic.real_signs.copy_(signs if signs.isfinite().all() else torch.zeros_like(signs))
        for regularizer in self.game.regularizers:
            regularizer.load_state_dict(local['regularizers'][type(regularizer).__name__])
            if type(regularizer).__name__ in state.get('regularizers', {}):  # Earlier versions had none.
                regularizer.load_shared_state_dict(state['regularizers'][type(regularizer).__name__])
        training_stats.load_state_dict(local['statistics'])


def build(config: dict, device: torch.device, dataset: Any = None) -> Run:
    """A run at its start, on the configured data set or a given one.

    The order fixes which random numbers go into which weights.

    Raises ValueError, in the user's words, for what does not fit together.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    torch.manual_seed(config['seed'] * world_size + rank)
    backend.set_default(config.get('ops', 'auto'))
    precision.search_or_determinism(config['cudnn_benchmark'], config.get('deterministic', False))
    precision.allow_tf32(config['allow_tf32'])
    precision.sum_in_float32()

    if config['training_set_kwargs'] is not None:       # Else a method opens its own, stage by stage.
        dataset = dataset or dnnlib.util.construct_class_by_name(**config['training_set_kwargs'])
    # The reference's data loader draws one number here; the same
    # draw makes a seed give the weights that it gives there.
    torch.empty([], dtype=torch.int64).random_()
    game = build_game(config, device)
    game.G_ema = copy.deepcopy(game.G.module).eval()
    for module in [*(player.module for player in game.players), game.G_ema]:
        distributed.broadcast_module_(module)

    phases = build_phases(config, game)
    stages = [stage for regularizer in game.having('stages') for stage in regularizer.stages(config)]
    streams = Streams(config['seed'], rank, device)
    return Run(config, device, streams, game, phases, stages or [Stage(config['kimg'] * 1000, [Source(dataset)])],
               build_ada(config), graphs=build_graphs(config, game, streams, device),
               exchange=build_exchange(config) if world_size > 1 else None)


def build_exchange(config: dict) -> GradientExchange:
    """The exchange of gradients between processes."""
    return GradientExchange(travels_as=torch.bfloat16 if config.get('exchange') == 'bf16' else None)


def open_reals(config: dict, dataset: Any, device: torch.device, start_nimg: int = 0, order: int = 0) -> RealStream:
    """The endless stream of this rank's reals of a data set, from image
    `start_nimg` of the run on; each `order` is another order of the images."""
    return RealStream(dataset, config['batch'], distributed.rank(), distributed.world_size(),
                      config['seed'] + order, config['data_loader_kwargs'], device, start_nimg)


def build_game(config: dict, device: torch.device) -> Game:
    """Players, augmentation and regularizers, in registry order."""
    shape = config['data_shape']
    G = build_player('G', {**shape, **config['G_kwargs']}, config['G_opt_kwargs'], config['G_reg_interval'], device)
    D = build_player('D', {**shape, **config['D_kwargs']}, config['D_opt_kwargs'], config['D_reg_interval'], device)
    loss = config['loss_kwargs']
    game = Game(G, D, rules_of(loss['game']), build_augment(config, device), loss['style_mixing_prob'],
                config['seed'])
    for cls, options in methods_of(config):
        if not cls.is_off(options):
            game.regularizers.append(cls(game, options))
    acting = [name_of(r) for r in game.regularizers if r.sites and name_of(r) in config['regularizers']]
    if acting:
        game.shares = Shares(watched=acting)
    return game


def build_player(name: str, kwargs: dict, opt_kwargs: dict, reg_interval: int | None, device: torch.device) -> Player:
    """A player whose optimizer has the rates that its lazy regularization asks for."""
    opt_kwargs = lazy_rates(opt_kwargs, reg_interval)
    return Player(
        name, reg_interval=reg_interval,
        make_module=lambda: build_network(kwargs, device),
        make_optimizer=lambda parameters: build_optimizer(parameters, **opt_kwargs))


def build_optimizer(parameters: list[torch.nn.Parameter], class_name: str, **kwargs: Any) -> torch.optim.Optimizer:
    """An optimizer of the class of that name."""
    return untraced(dnnlib.util.get_obj_by_name(class_name))(parameters, **kwargs)


def build_network(kwargs: dict, device: torch.device) -> torch.nn.Module:
    """A network on its device. On a CPU its kernels have the memory format of the activations."""
    network = dnnlib.util.construct_class_by_name(**kwargs).to(device)
    return network.to(memory_format=torch.channels_last) if device.type == 'cpu' else network


def lazy_rates(opt_kwargs: dict, reg_interval: int | None) -> dict:
    """Optimizer arguments for k main steps and one regularization step: lr * m, beta ** m, m = k / (k + 1).

    Source: Karras et al. 2020, arXiv:1912.04958, appendix B, "Lazy regularization".
    """
    betas = [float(beta) for beta in opt_kwargs['betas']]
    if reg_interval is None:
        return {**opt_kwargs, 'betas': betas}
    m = reg_interval / (reg_interval + 1)
    return {**opt_kwargs, 'lr': opt_kwargs['lr'] * m, 'betas': [beta ** m for beta in betas]}


def build_augment(config: dict, device: torch.device) -> torch.nn.Module | None:
    """The augmentation; None if nothing in this run can ever switch it on."""
    if config.get('augment_kwargs') is None:
        return None
    augment = dnnlib.util.construct_class_by_name(**config['augment_kwargs']).train().requires_grad_(False).to(device)
    if hasattr(augment, 'p'):
        augment.p.copy_(torch.as_tensor(float(config.get('p', 0))))
    return augment


def build_ada(config: dict) -> AdaptiveStrength | None:
    """The controller of the augmentation's strength, if there is a target."""
    if config.get('target') is None or config.get('ada_signal') == 'heldout':       # Then ticks adapt it (run/ticks.py).
        return None
    return AdaptiveStrength(config['target'], config['ada_kimg'], config['ada_interval'], config['batch'])


def build_graphs(config: dict, game: Game, streams: Streams, device: torch.device) -> PhaseGraphs | None:
    """The CUDA graphs of the phases; None if they are switched off or not possible,
    which is said with the reason on CUDA devices, or if they were asked for."""
    wanted = config.get('cuda_graphs', 'auto')
    if wanted == 'off':
        return None
    reason = 'its learning rates change from step to step' if 'lr' in (config.get('ramps') or {}) else why_not(game, device)
    if reason:
        if (wanted == 'on' or device.type == 'cuda') and distributed.rank() == 0:
            print(f'Without CUDA graphs, which this run cannot have: {reason}.', flush=True)
        return None
    if hasattr(game.augment, 'margin_shares'):
        game.augment.margin_shares = MARGINS
    return PhaseGraphs(streams, CudaRecorder(device))


def build_phases(config: dict, game: Game) -> list[Phase]:
    """The phases of an iteration: those of the recipe, then those that methods add.

    Raises ValueError if a method acts where no phase has a place for it.
    """
    phases = list(recipe_of(config)(game))
    phases += [phase for regularizer in game.regularizers for phase in regularizer.phases()]
    for regularizer in game.having('recast'):
        phases = list(regularizer.recast(phases))
    check_sites(game, phases, config['loss'])
    return phases


def check_sites(game: Game, phases: list[Phase], loss: str) -> None:
    """Refuses a regularizer that acts where the recipe has no place for it. Raises ValueError."""
    offered = {site for phase in phases for site in phase.step.sites}
    for regularizer in game.regularizers:
        for site in SITES:
            if site in regularizer.sites and site not in offered:
                raise ValueError(f'{type(regularizer).__name__} acts at {site}, which --loss={loss} does not offer')


def init_from(run: Run, networks: dict[str, Any], allow_partial: bool = False) -> None:
    """Copies players and G_ema, by name, from the networks of a file on rank 0, then makes all ranks equal.

    What the file lacks keeps its fresh values. A tensor of another shape raises ValueError, with its name,
    before anything of that network is copied; with `allow_partial` it keeps its fresh values, too.
    """
    if distributed.rank() == 0:
        mine = {**{player.name: player.module for player in run.game.players}, 'G_ema': run.G_ema}
        for name, module in mine.items():
            source = transfer.source_of(name, networks)
            if source is not None and allow_partial:
                transfer.copy_matching(source, module)
            elif source is not None:
                misc.copy_params_and_buffers(source, module)
        for player in run.game.players:
            init_grafts_from(player, networks.get('grafts', {}).get(player.name, {}))
        for critic in run.game.critics.values():
            if critic.is_here and transfer.source_of(critic.name, networks) is None:
                critic.copy_frozen(run.game.D.module)       # Frozen layers never learn: fresh ones would stay noise.
    for player in run.game.players:
        distributed.broadcast_module_(player.module)
    distributed.broadcast_module_(run.G_ema)


def init_grafts_from(player: Player, tensors: dict[str, torch.Tensor]) -> None:
    """Copies the layers grafted on a player from `tensors`, as
    far as they are there, and prints which ones start fresh."""
    state, fresh = player.module.state_dict(), []
    for name in player.grafts:
        keys = [key for key in state if key.startswith(f'{name}.')]
        if all(key in tensors for key in keys):
            for key in keys:
                state[key].copy_(tensors[key])
        else:
            fresh.append(name)
    if fresh:
        print(f'{player.name}: no weights for {", ".join(fresh)}, which start fresh.')
