"""Adaptive pseudo augmentation, APA [Jiang et al. 2021, arXiv:2111.06849].

With probability p a fake takes the place of a real. p rises
while the critic is too sure of reals, and falls else:

    p <- p + sign(r - target) * nimg / (1000 * kimg),   0 <= p <= 1,    r = mean of sign(D(real))

nimg: images since the last step of p. The fakes are those of the generator's step of the iteration
before: they exist already, and no critic meets an image as a fake and as a real in the same iteration.

Beside adaptive augmentation there is one p for both: the strength of the augmentation, at most 1.
"""
import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import losses_ext
from losses_ext.option import option
from torch_utils import distributed, misc, training_stats
from torch_utils.cuda_graphs import Kept
from training.ada import AdaptiveStrength
from training.loss import Game, StepContext
from training.regularizer import Regularizer, Term

INTERVAL = 4        # Iterations between two steps of p.
SHARED = 'shared'   # A p that is the strength of the augmentation.


@dataclass(frozen=True)
class Options:
    """Options of APA."""
    target: float | None = option(None, 'What to hold the mean sign of the logits of reals at; none: 0.6.',
                                  within='[-1, 1]')
    kimg: float | None = option(None,
                                'Thousands of images in which p moves by 1; none: 500, when fine-tuning 100.',
                                within='(0, inf)')
    p: float | str | None = option(None, 'A fixed probability, or shared: the strength of --aug=ada or --aug=fixed; none: '
                                   'shared with --aug=ada, else adaptive.', choices=('shared',),
                                   within='[0, 1]')


class APA(Regularizer):
    """Changes the reals that all critics see, in all phases of an iteration alike."""
    Options = Options
    strength = 'p'
    works_apart = True              # Fakes are kept where the critics are, p is found where G is.

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options)
        self._is_adaptive, self._is_shared = options.p is None, options.p == SHARED
        self._first_p = 0.0 if self._is_adaptive or self._is_shared else options.p
        self._p = torch.full([], self._first_p, device=next(game.G.module.parameters()).device)
        # Of the iteration before, by source: images [N,C,H,W], the mask [N] of finite ones, labels [N,c_dim].
        self._fakes: dict[int, list[Tensor]] = {}
        self._made = Kept()                             # Of this one, by (source, micro-batch).

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        if 'lecam' in config['regularizers']:
            print('Warning: --reg_type=lecam,apa: both weaken the critic; start with one.', file=sys.stderr)
        if (config.get('augment_kwargs') or {}).get('class_name', '').endswith('.Diffusion') and options.p in (None, SHARED):
            raise ValueError('--reg_type=apa beside --aug=diffusion: two controllers would follow the same logits, and their '
                             'strengths mean different things; give a fixed --apa_p')
        has_ada = config.get('target') is not None
        options = replace(options, p=SHARED) if options.p is None and has_ada else options
        if options.p == SHARED and not has_ada and 'p' not in config:
            raise ValueError('--apa_p=shared needs an augmentation whose strength it can be: give --aug=ada or --aug=fixed')
        for name in ('target', 'kimg'):
            if options.p is not None and getattr(options, name) is not None:
                whose = 'is that of the augmentation' if options.p == SHARED else 'is fixed'
                raise ValueError(f'--apa_{name} has no effect with --apa_p={options.p}, whose p {whose}'
                                 f'{"; give --target" if options.p == SHARED and name == "target" and has_ada else ""}')
        if options.p is not None:
            return options
        game = config['loss_kwargs']['game']
        if not losses_ext.rules_of(game).zero_decides:
            raise ValueError(f'--reg_type=apa cannot adapt to --loss={config["loss"]}: the logits of the {game} game '
                             f'have no zero that separates real from fake; give a fixed --apa_p')
        target = 0.6 if options.target is None else options.target
        kimg = float(config['ada_kimg']) if options.kimg is None else options.kimg
        return replace(options, target=target, kimg=kimg)

    def g_main(self, ctx: StepContext) -> Term:
        if self.game.D.is_here:
            self._made[ctx.source, ctx.round] = *only_finite(ctx.gen.img.detach()), ctx.fake_c

    def reals(self, ctx: StepContext, img: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        part = slice(ctx.round * len(img), (ctx.round + 1) * len(img))
        fake_img, is_sound, fake_c = (fakes[part]
                                      for fakes in self._fakes.get(ctx.source, (img[:0], img[:0], c[:0])))
        if len(fake_img) < len(img):  # In the first iteration, or after a restart with fewer processes.
            return img, c
        replaced = draw_replaced(is_sound, self._probability(), ctx.shared_rng('apa'))
        return torch.where(replaced[:, None, None, None], fake_img, img), torch.where(replaced[:, None], fake_c, c)

    def end_iteration(self, nimg: int, batch_idx: int) -> None:
        sources = {source: [made for (of, _), made in self._made.items() if of == source] for source, _ in self._made}
        self._fakes = {source: [torch.cat(parts) for parts in zip(*rounds)] for source, rounds in sources.items()}
        self._made.clear()
        if self.game.G.is_here:
            if self._is_adaptive and batch_idx % INTERVAL == 0:
                self._adapt(nimg // batch_idx)        # Images of one iteration.
            training_stats.report0('Progress/apa_p', self._probability())

    def tell_critics(self) -> dict[str, float]:
        return dict(p=self._p.item()) if self._is_adaptive else {}

    def hear_from_generator(self, told: dict[str, float]) -> None:
        if 'p' in told:
            self._p.fill_(told['p'])

    def _probability(self) -> Tensor:
        """p, []: of its own, or what the strength of the augmentation is now."""
        return self.game.augment.p.clamp(max=1) if self._is_shared else self._p

    def _adapt(self, batch_size: int) -> None:
        """One step of p by what the first critic said of reals since the last one."""
        signs = self.game.D.real_signs  # [2]: sum, count. Only one controller may read and clear it.
        distributed.all_reduce_mean_([signs])
        controller = AdaptiveStrength(self.options.target, self.options.kimg, INTERVAL, batch_size)
        self._p.copy_(controller.step(self._p, (signs[0] / signs[1]).item()).clamp(max=1))
        signs.zero_()

    def begin_stage(self, stage: Any, seed: int, resumed: bool) -> None:
        if not resumed:
            self._p.fill_(self._first_p)
            self._fakes = {}

    def state_dict(self) -> dict:
        return dict(p=self._p, fakes={source: [img, c] for source, (img, _, c) in self._fakes.items()},
                    sound={source: is_sound for source, (_, is_sound, _) in self._fakes.items()})

    def load_state_dict(self, state: dict) -> None:
        self._p.copy_(misc.finite_or(state['p'].to(self._p.device), self._p))
        self._fakes = {}
        for source, (img, c) in state['fakes'].items():
            img, is_sound = only_finite(img.to(self._p.device))
            is_sound &= state.get('sound', {}).get(source, is_sound).to(self._p.device)
            self._fakes[source] = [img, is_sound, c.to(self._p.device)]
        self._made.clear()


def only_finite(img: Tensor) -> tuple[Tensor, Tensor]:
    """Images [N,C,H,W], all zeros where one held a NaN or Inf, and the mask [N] of those that held none."""
    is_sound = img.isfinite().flatten(1).all(1)                                     # [N]
    return img.where(is_sound[:, None, None, None], 0), is_sound


def draw_replaced(is_sound: Tensor, p: Tensor | float, rng: torch.Generator | None = None) -> Tensor:
    """The mask [N] of reals that a fake replaces: each with
    probability p [], but none by a fake that is not finite."""
    return (torch.rand(is_sound.shape, device=is_sound.device, generator=rng) < p) & is_sound
