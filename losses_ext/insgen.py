"""Instance discrimination, InsGen [Yang et al. 2021, NeurIPS, arXiv:2106.04566].

The critic must also tell every single image from all others, of reals and of fakes; the generator is rewarded when its
images can be told apart:

    L_D += weight_real * C(A x_r, A x_r; H_r, Q_r) + weight_fake * C(A G(z), A G(z + perturb * n); H_f, Q_f)
    L_G += weight_g * C(A G(z), A G(z); H_f, Q_f)                                   n ~ N(0, 1)

C, the heads H, the queues Q: contrast.py; A: the augmentation of the run, drawn anew for each view. Q_r takes the keys; Q_f
takes fakes G(z), seen by D and projected by the head of the momentum copy.
"""
import sys
from dataclasses import dataclass

from losses_ext.contrast import Contrast, require_entries, require_trained_head, require_views
from losses_ext.option import option
from training.loss import Game, StepContext
from training.regularizer import Term


@dataclass(frozen=True)
class Options:
    """Options of InsGen."""
    weight_real: float = option(1.0, "Strength of the critic's contrast of reals.", within='[0, inf)')
    weight_fake: float = option(1.0, "Strength of the critic's contrast of fakes.", within='[0, inf)')
    weight_g: float = option(0.1, "Strength of the generator's contrast of fakes.", within='[0, inf)')
    temperature: float = option(0.2, 'T: the smaller, the more the nearest others count.', within='(0, inf)')
    momentum: float = option(0.999, 'Share of the old weights in the momentum copy of the critic.', within='[0, 1]')
    queue_real: int | None = option(None, 'Length of the queue of reals; none: 5 % of the images, mirrored ones counted.',
                                    within='[1, 1000000]')
    queue_fake: int | None = option(None, 'The same for fakes.', within='[1, 1000000]')
    perturb: float = option(0.15, 'Standard deviation of what is added to latents.', within='[0, inf)')
    mixing: str = option('official', 'Has the neighbour of a fake styles mixed in by a draw of its own (official), or the '
                         'same ones (shared)?', choices=('official', 'shared'))


class InsGen(Contrast):
    """Adds one part to each step of the critic, one to that of the generator."""
    Options = Options

    def __init__(self, game: Game, options: Options):
        kinds = dict(real=options.queue_real) if options.weight_real else {}
        if options.weight_fake or options.weight_g:
            kinds['fake'] = options.queue_fake
        super().__init__(game, options, kinds)

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        if 'fakeclr' in config['regularizers']:
            raise ValueError('--reg_type=insgen,fakeclr: fakeclr is insgen without its real part, at the same place: choose one')
        require_views('insgen', config)
        require_trained_head('insgen', options)
        require_entries('--insgen_queue_real', options.queue_real, config)
        require_entries('--insgen_queue_fake', options.queue_fake, config)
        if 'apa' in config['regularizers']:
            print('Warning: --reg_type=apa,insgen: fakes that apa passes off as reals enter the queue of reals.', file=sys.stderr)
        return options

    @classmethod
    def is_off(cls, options: Options) -> bool:
        return options.weight_real == options.weight_fake == options.weight_g == 0

    def d_real(self, ctx: StepContext) -> Term:
        term = self._contrast_reals(ctx)
        return None if term is None else self.options.weight_real * term

    def d_fake(self, ctx: StepContext) -> Term:
        z = ctx.gen_z + self.options.perturb * ctx.randn_like(ctx.gen_z, 'insgen')
        term = self._contrast_fakes(ctx, z, keep='query')
        return None if term is None else self.options.weight_fake * term
