"""What the iterations of a run will be, as tables: its players, methods and phases.

They are made by the code that makes those of the run itself, with networks that have shapes but no numbers.
"""
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch

from training import setup
from training.config.methods import switched_off
from training.loss import Game, Phase
from training.player import Player
from training.regularizer import LAZY_SITES, SITES, Regularizer, overrides


def plan(config: dict) -> str:
    """The tables of a configuration.

    Raises ValueError, in the user's words, for what does not fit together.
    """
    device = torch.device('meta')
    with device:
        game = setup.build_game(config, device)
    phases = setup.build_phases(config, game)
    loss = f'Loss: {config["loss"]} {_settings(config.get("loss_options", {}))}'.rstrip()
    return '\n\n'.join([
        loss,
        _table('Player', 'parameters', 'lr', 'betas', 'lazy ratio', rows=map(_player_row, game.players)),
        _table('Method', 'acts at', 'every', 'gain', 'settings', rows=_method_rows(config, game, phases)),
        _table('Phase', 'every', 'gain', 'trains', rows=map(_phase_row, phases))])


def _player_row(player: Player) -> tuple:
    group = player.optimizer.param_groups[0]
    k = player.reg_interval
    return (player.name, f'{sum(p.numel() for p in player.module.parameters()):,}', f'{group["lr"]:.6g}',
            ', '.join(f'{beta:.6g}' for beta in group['betas']), 'none' if k is None else f'{k}/{k + 1}')


def _phase_row(phase: Phase) -> tuple:
    return phase.name, phase.interval, phase.interval, ', '.join(player.name for player in phase.players)


def _method_rows(config: dict, game: Game, phases: list[Phase]) -> Iterator[tuple]:
    for regularizer in game.regularizers:
        yield type(regularizer).__name__, *_where(regularizer, phases), _settings(shown(regularizer.options))
    for cls, options in switched_off(config):
        yield cls.__name__, 'nowhere: off', '', '', _settings(shown(options))


def _where(regularizer: Regularizer, phases: list[Phase]) -> tuple[str, int | str, float | str]:
    """(sites or hooks, every how many iterations the method acts, the factor of its term then)."""
    sites = [site for site in SITES if site in regularizer.sites]
    hooks = [hook for hook in ('reals', 'phases', 'stages') if overrides(regularizer, hook)]
    if not sites:
        return ', '.join(hooks) or '-', '', ''
    phase = next(phase for phase in phases if sites[0] in phase.step.sites)
    every, gain = (1, 1) if sites[0] in LAZY_SITES else (regularizer.interval, regularizer.gain)
    return ', '.join(sites + hooks), phase.interval * every, phase.interval * gain


def shown(options: Any) -> dict[str, Any]:
    """The options of a method, without those that a configuration need not name and does not."""
    return {field.name: value for field in fields(options)
            if (value := getattr(options, field.name)) is not None or not field.metadata.get('left_out')}


def _settings(options: dict[str, Any]) -> str:
    return ' '.join(f'{name}={value:g}' if isinstance(value, float) else f'{name}={value}'
                    for name, value in options.items())


def _table(*headings: str, rows: Iterator[tuple]) -> str:
    """Lines with columns aligned to the left, two spaces apart."""
    lines = [headings, *([str(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    return '\n'.join('  '.join(text.ljust(width) for text, width in zip(line, widths)).rstrip()
                     for line in lines)
