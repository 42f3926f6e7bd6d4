"""Runs single phases on the stored networks, as the fixtures of categories 06 and 07 describe them."""
import numpy as np
import torch
from fixture_data import load_net

from losses_ext.path_length import PathLength
from losses_ext.r1 import R1
from torch_utils import training_stats
from training.loss import Game, StepContext
from training.networks import Discriminator, Generator
from training.player import Player


class FixtureContext(StepContext):
    """A micro-batch whose path-length noise is given, and
    whose other draws come from torch's global generator."""
    pl_noise = None

    def rng(self, use):
        return torch.default_generator

    def randn_like(self, tensor, use):
        assert use == 'pl_noise'
        return self.pl_noise


def network(name):
    """A stored network, in training mode."""
    description, state = load_net(name)
    module = {'generator': Generator, 'discriminator': Discriminator}[description['kind']](**description['config'])
    module.load_state_dict(state)
    return module.train().requires_grad_(False)


def build_game(nets, *, r1_gamma=0, pl_weight=0, pl_decay=0.01, pl_batch_shrink=2, pl_mean=0.0, intervals=(4, 16),
               make_optimizer=None, style_mixing_prob=0, augment=None):
    """G and D of a case with R1 and path length as the case wants them."""
    make_G, make_D = make_optimizer or (None, None)
    G = Player('G', lambda: network(nets['G']), make_G, intervals[0])
    D = Player('D', lambda: network(nets['D']), make_D, intervals[1])
    game = Game(G, D, augment=augment, style_mixing_prob=style_mixing_prob)
    path_length = PathLength(game, PathLength.Options(pl_weight, pl_decay, pl_batch_shrink))
    path_length.load_state_dict(dict(mean=torch.tensor(pl_mean)))
    game.regularizers = [path_length, R1(game, R1.Options(r1_gamma))]
    return game


def reals(case):
    """8-bit reals as networks see them."""
    real = case.input('real_u8', torch.float32)
    return None if real is None else real / 127.5 - 1


def run_phase(game, phase, **context):
    """One micro-batch of a phase; gradients stay on the players. Returns the context."""
    for player in game.players:
        player.module.zero_grad(set_to_none=True)
        player.module.requires_grad_(player in phase.players)
    ctx = FixtureContext(game, phase, None, **{k: v for k, v in context.items() if k != 'pl_noise'})
    ctx.pl_noise = context.get('pl_noise')
    phase.step(game, ctx)
    return ctx


def grad_norms(module, names):
    """L2 norm of each named parameter's gradient; a missing one counts as zero."""
    grads = {name: parameter.grad for name, parameter in module.named_parameters()}
    return np.array([0.0 if grads[name] is None else grads[name].norm().item() for name in names], np.float32)


class Reports:
    """Records what is reported, per sample, while it is active."""

    def __enter__(self):
        self.values = {}
        self._functions = training_stats.report, training_stats.report0
        training_stats.report = training_stats.report0 = self._record
        return self

    def __exit__(self, *_):
        training_stats.report, training_stats.report0 = self._functions

    def _record(self, name, value):
        self.values.setdefault(name, []).append(torch.as_tensor(value).detach().flatten().clone())
        return value

    def all(self, name):
        """Every value reported under a name, in order."""
        return torch.cat(self.values[name])
