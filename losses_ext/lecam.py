"""LeCam regularization [Tseng et al. 2021, arXiv:2104.03310].

The critic's logits of reals must not rise far above the mean
of those of fakes, nor fakes' fall far below that of reals:

    L = weight * ( max(a_r - e_f, 0)^2 + max(e_r - a_f, 0)^2 )

a_r, a_f: logits of reals and fakes; e_r, e_f: their running means, constants.
"""
import sys
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu

import losses_ext
from losses_ext.option import option
from losses_ext.running_mean import RunningMeans, WithRunningMeans
from torch_utils import training_stats
from training.loss import Game, StepContext
from training.regularizer import Term


@dataclass(frozen=True)
class Options:
    """Options of LeCam."""
    weight: float = option(0.01, 'Strength of LeCam.', within='[0, inf)')
    decay: float = option(0.99, 'Share of the old mean that an iteration leaves.', within='[0, 1)')
    start: int = option(1000, 'Iterations that only the means are followed.', within='[0, inf)')


class LeCam(WithRunningMeans):
    """Adds one part to each critic's step on fakes, the other to that on reals."""
    Options = Options
    works_apart = True
    through_fakes = True

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options, options.decay)

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        game = config['loss_kwargs']['game']
        if losses_ext.rules_of(game).paired:
            print(f'Warning: --reg_type=lecam with --loss={config["loss"]}: the {game} game compares logits with each other and '
                  'lets both drift, lecam holds them in place.', file=sys.stderr)
        num = int(config['kimg'] * 1000 / config['batch'])
        if num <= options.start:
            print(f'Warning: --lecam_start={options.start}: the run ends before, after {num} iterations of '
                  f'{config["batch"]} images; give less, or lecam does nothing.', file=sys.stderr)
        return options

    def variant(self) -> tuple[str, ...]:
        return self._means.names(max(self.options.start, 1))

    def d_fake(self, ctx: StepContext) -> Term:
        e_r = self._follow(ctx, 'fake', ctx.fake.logits)
        return None if e_r is None else self._term(ctx, 'fake', drift('fake', ctx.fake.logits, e_r))

    def d_real(self, ctx: StepContext) -> Term:
        e_f = self._follow(ctx, 'real', ctx.real.logits)
        return None if e_f is None else self._term(ctx, 'real', drift('real', ctx.real.logits, e_f))

    def _follow(self, ctx: StepContext, kind: str, logits: Tensor) -> Tensor | None:
        return follow(self._means, ctx.critic.name, kind, logits, self.options.start, ctx.round)

    def _term(self, ctx: StepContext, kind: str, term: Tensor) -> Tensor:
        training_stats.report(f'Loss/lecam/{kind}{ctx.critic.suffix}', term)
        return self.options.weight * term


def follow(means: RunningMeans, critic: str, kind: str, logits: Tensor, start: int,
           round_idx: int = 0) -> Tensor | None:
    """Adds logits [N] of a `kind`, 'fake' or 'real', to their running mean. Returns
    the mean [] of the other kind; None before it was moved `start` times."""
    means.add(f'{critic}/{kind}', round_idx, logits)
    other = f'{critic}/{"real" if kind == "fake" else "fake"}'
    return means.get(other) if means.num_updates(other) >= start else None


def drift(kind: str, logits: Tensor, mean_of_others: Tensor) -> Tensor:
    """One half of the term, [N], without its weight: by how
    much logits [N] pass the other kind's mean [], squared."""
    return relu(mean_of_others - logits if kind == 'fake' else logits - mean_of_others).square()
