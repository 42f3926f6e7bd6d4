"""Latent consistency regularization, zCR [Zhao et al. 2021, AAAI, arXiv:2002.04724].

For latents z and z + e, close to each other, the critic must give
the same logit, but the generator must not make the same image:

    L_D += weight_d * (D(G(z)) - D(G(z + e)))^2
    L_G -= weight_g * mean over channels and pixels of (G(z) - G(z + e))^2          e ~ N(0, noise^2)

Both images of a pair have the same styles mixed in, the same noise of G and the same draw of the
augmentation; in the critic's part both are constants. Together with bCR it is the paper's improved
consistency regularization, ICR.
"""
from dataclasses import dataclass

import torch
from torch import Tensor

from losses_ext.consistency import warn_without_scale
from losses_ext.option import option
from torch_utils import training_stats
from training.loss import StepContext
from training.regularizer import Regularizer, Term


@dataclass(frozen=True)
class Options:
    """Options of zCR."""
    weight_d: float = option(0.2, "Strength of the critic's part of zCR.", within='[0, inf)')
    weight_g: float = option(0.02, "Strength of the generator's part of zCR.", within='[0, inf)')
    noise: float = option(0.1, 'Standard deviation of what is added to latents.', within='(0, inf)')


class ZCR(Regularizer):
    """Adds one part to each critic's step on fakes, the other to the generator's step."""
    Options = Options

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        warn_without_scale('zcr', config)
        return options

    @classmethod
    def is_off(cls, options: Options) -> bool:
        return options.weight_d == options.weight_g == 0

    def d_fake(self, ctx: StepContext) -> Term:
        if self.options.weight_d == 0:
            return None
        img = self._shared_neighbours(ctx)
        near = self.game.judge(ctx, ctx.critic, img, ctx.fake_c, f'zcr/{ctx.critic.name}', draw=ctx.fake.draw)
        change = (ctx.fake.logits - near.logits).square()                           # [N]
        training_stats.report(f'Loss/zcr/critic{ctx.critic.suffix}', change)
        return self.options.weight_d * change

    def g_main(self, ctx: StepContext) -> Term:
        if self.options.weight_g == 0:
            return None
        change = (ctx.gen.img - self._neighbours(ctx)).square().mean([1, 2, 3])     # [N]
        training_stats.report('Loss/zcr/generator', change)
        return -self.options.weight_g * change

    def _shared_neighbours(self, ctx: StepContext) -> Tensor:
        """G(z + e) as constants, made once for all critics that
        learn from the same fakes: only the first has the draws."""
        key = ('zcr', ctx.source, ctx.round)
        if key in ctx.iteration:
            return ctx.iteration[key]
        with torch.no_grad():
            img = self._neighbours(ctx)
        if self.game.share_fakes and len(self.game.critics_of(ctx.source)) > 1:
            ctx.iteration[key] = img
        return img

    def _neighbours(self, ctx: StepContext) -> Tensor:
        """G(z + e), [N,C,H,W], with the draws that `ctx.gen` had."""
        z = ctx.gen_z + self.options.noise * ctx.randn_like(ctx.gen_z, 'zcr')
        return self.game.generate(ctx, z, ctx.gen_c, update_w_avg=False).img
