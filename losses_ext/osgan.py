"""One-stage training of both players [Shen et al. 2021, "Training Generative Adversarial Networks in One
Stage", CVPR, arXiv:2103.00430].

One batch of fakes x = G(z), one pass of the critic over it, and both players' gradients of it:

    critic       d/d theta_D  mean_i L_f(a_i) + L_r(D(x_r))            a_i = D(x_i)
    generator    sum_i (d x_i / d theta_G)^T (d a / d x_i)^T L_g'(a) / N

L_g, L_f, L_r: what the generator minimises, and the critic
on fakes and on reals, as functions of a logit. Forms:

`exact`   computes the generator's image gradient d mean L_g / d x in a backward pass of its own. That is right for every
          critic and every game.
`simple`  takes it from the critic's own backward pass, image i times gamma_i = L_g'(a_i) / L_f'(a_i). That is cheaper, and
          right if a_i depends on image i alone.
`full`    is the same with the loss (L_f - L_g) / (1 - gamma), the paper's decomposition.
"""
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

import losses_ext
from losses_ext.option import option
from torch_utils import training_stats
from torch_utils.ops.conv2d_gradfix import no_weight_gradients
from training.adversarial import Adversarial, opposite
from training.loss import Game, Generated, Phase, StepContext, d_reg_phase, g_reg_phase, offers


@dataclass(frozen=True)
class Options:
    """Options of one-stage training."""
    game: str = option('logistic', 'Adversarial game; any of --loss that has two stages.')
    form: str = option('exact', 'How G gets its gradient.', choices=('exact', 'simple', 'full'))
    gamma_max: float = option(1e4, 'Largest ratio of the simple and full forms.', within='(0, inf)')
    force: bool = option(False, 'Use a ratio form where it is not exact.')


def configure(config: dict, options: Options) -> Options:
    """Refuses forms that would give the generator a wrong gradient. Raises ValueError."""
    if options.game not in losses_ext.GAMES:
        raise ValueError(f'--osgan_game={options.game}: there is no such game; there are {", ".join(losses_ext.GAMES)}')
    adversarial = losses_ext.rules_of(options.game)
    config['loss_kwargs']['game'] = options.game
    if options.form == 'exact':
        return options
    form, remedy = f'--osgan_form={options.form}', 'give --osgan_form=exact'
    if adversarial.ratio is None:
        raise ValueError(f'{form} cannot be used with --osgan_game={options.game}: the ratio of the two losses has '
                         f'poles or is undefined; {remedy}')
    leaking = [name for name in config['regularizers']
               if losses_ext.load(losses_ext.REG_TYPES[name]).through_fakes]
    if leaking:
        raise ValueError(f'{form} cannot be combined with --reg_type={leaking[0]}: its term would leak into G through '
                         f'the scaled image gradient; {remedy}')
    if adversarial.ratio is opposite or options.force:
        return options
    if config['D_kwargs']['epilogue_kwargs'].get('mbstd_num_channels', 1) > 0:
        raise ValueError(f'{form} is wrong for a critic with minibatch statistics, which couples the images of a '
                         f'batch; {remedy}, --mbstd-group=0, or --osgan_force=1')
    if config['D_kwargs'].get('num_fp16_res', 0) > 0:
        raise ValueError(f'{form} loses small gradients in a critic of reduced precision; {remedy}, --fp32=1, or '
                         f'--osgan_force=1')
    return options


def one_stage(game: Game, options: Options) -> Iterator[Phase]:
    """--loss=osgan: both players learn from one batch, then the lazy phases as usual."""
    step = offers('g_main', 'd_fake', 'd_real', 'd_pair')(partial(gd_main, options=options))
    step.at_critics = partial(critics_learn, options=options)       # The part of it that critics elsewhere do.
    yield Phase('GDmain', step, game.main_players, every_source=True)
    yield from g_reg_phase(game)
    for critic in game.critics.values():
        yield from d_reg_phase(game, critic)


def gd_main(game: Game, ctx: StepContext, options: Options) -> None:
    """The critics' gradients of one batch, then the generator's of the same."""
    ctx.gen = game.generate(ctx, ctx.gen_z, ctx.gen_c)
    image_grad = critics_learn(game, ctx, options)                                  # [N,C,H,W]
    extra = game.extra(0, ctx, 'g_main')
    terms, grads = [ctx.gen.img], [image_grad]
    if isinstance(extra, torch.Tensor):
        terms.append(extra.mean() * ctx.share)
        grads.append(None)
    torch.autograd.backward(terms, grads, inputs=list(game.G.module.parameters()))


def critics_learn(game: Game, ctx: StepContext, options: Options) -> Tensor:
    """Accumulates the critics' gradients of `ctx.gen`; returns the generator's image gradient [N,C,H,W]."""
    gradients = exact_gradients if options.form == 'exact' else ratio_gradients
    critics = [gradients(game, replace(ctx, critic=critic, gen=without_graph(ctx.gen)), options)
               for critic in game.critics_of(ctx.source)]
    training_stats.report('Loss/G/loss', sum(loss for _, loss in critics))
    return sum(grad for grad, _ in critics)


def without_graph(gen: Generated) -> Generated:
    """The same fakes as constants: what a critic's terms make of them must not reach G."""
    return replace(gen, img=gen.img.detach(), ws=gen.ws.detach(),
                   feats={res: feat.detach() for res, feat in gen.feats.items()})


def exact_gradients(game: Game, ctx: StepContext, options: Options) -> tuple[Tensor, Tensor]:
    """Accumulates one critic's gradients; returns the
    generator's image gradient [N,C,H,W] and loss [N] by it."""
    adversarial, critic = game.adversarial, ctx.critic
    parameters = list(critic.module.parameters())
    pair = adversarial.paired or bool(game.due('d_pair', ctx.batch_idx))  # Need both graphs to exist at once?

    ctx.fake = game.judge_fakes(ctx, critic, leaf='img')
    if pair:
        ctx.real = game.judge_reals(ctx, critic, game.leaf(ctx, 'd_pair'))
    loss_G, loss_fake = losses_on_fakes(game, ctx)
    loss_G = loss_G * critic.weight
    image_grad = image_gradient(loss_G.mean() * ctx.share, ctx.fake.img)

    loss = game.extra(loss_fake, ctx, 'd_fake')
    if not pair:
        game.accumulate(ctx, loss, inputs=parameters)                               # Frees the fakes' graph.
        loss, ctx.real = 0, game.judge_reals(ctx, critic)
    loss_real = 0 if adversarial.paired else adversarial.D_real(ctx.real.logits)
    training_stats.report(f'Loss/{critic.name}/loss', loss_fake + loss_real)
    game.accumulate(ctx, game.extra(loss + loss_real, ctx, 'd_real', 'd_pair'), inputs=parameters)
    return image_grad, loss_G.detach()


def image_gradient(loss_G: Tensor, img: Tensor) -> Tensor:
    """d loss_G / d img, in a backward pass of its own that leaves the graph to the critic's loss."""
    with no_weight_gradients():
        return torch.autograd.grad(loss_G, [img], retain_graph=True)[0]


def ratio_gradients(game: Game, ctx: StepContext, options: Options) -> tuple[Tensor, Tensor]:
    """The same from the critic's own backward pass; terms on
    the pair get passes of their own, on constant fakes."""
    adversarial, critic = game.adversarial, ctx.critic
    parameters = list(critic.module.parameters())
    due, leaf = game.due('d_pair', ctx.batch_idx), game.leaf(ctx, 'd_pair')

    ctx.fake = game.judge_fakes(ctx, critic, leaf='img')
    if adversarial.paired:
        ctx.real = game.judge_reals(ctx, critic)
    loss_G, loss_fake = losses_on_fakes(game, ctx)
    gamma = ratio_of(adversarial, ctx.fake.logits, ctx.real.logits if adversarial.paired else None,
                     options.gamma_max, critic.suffix)
    loss = loss_fake if options.form == 'simple' else (loss_fake - loss_G) / (1 - gamma)
    terms = game.extra(0, ctx, *(('d_fake', 'd_real') if adversarial.paired else ('d_fake',)))
    game.accumulate(ctx, loss, inputs=[*parameters, ctx.fake.img], retain_graph=isinstance(terms, Tensor))
    game.accumulate(ctx, terms, inputs=parameters)      # Whatever methods ask of the critic must not reach G.
    image_grad = ctx.fake.img.grad * (critic.weight * gamma)[:, None, None, None]

    if due:
        ctx.fake = game.judge_fakes(ctx, critic, leaf, report=False)
    if due or not adversarial.paired:
        ctx.real = game.judge_reals(ctx, critic, leaf, report=not adversarial.paired)
    loss_real = 0 if adversarial.paired else adversarial.D_real(ctx.real.logits)
    training_stats.report(f'Loss/{critic.name}/loss', loss_fake + loss_real)
    sites = ('d_pair',) if adversarial.paired else ('d_real', 'd_pair')
    game.accumulate(ctx, game.extra(loss_real, ctx, *sites), inputs=parameters)
    return image_grad, loss_G.detach() * critic.weight


def losses_on_fakes(game: Game, ctx: StepContext) -> tuple[Tensor, Tensor]:
    """What G and the critic minimise on fakes, [N] each; a paired game's critic has its whole loss here."""
    adversarial, fake = game.adversarial, ctx.fake.logits
    if adversarial.paired:
        return adversarial.G(fake, ctx.real.logits), adversarial.D(fake, ctx.real.logits)
    return adversarial.G(fake, None), adversarial.D_fake(fake)


def ratio_of(rules: Adversarial, fake: Tensor, real: Tensor | None, gamma_max: float,
             suffix: str = '') -> Tensor:
    """gamma = L_g'(a) / L_f'(a), [N], a constant; in closed form, since the quotient over- and underflows.

    `suffix` tells the critic's statistics from those of others.
    """
    ratio = rules.ratio
    a = fake.detach() if real is None else fake.detach() - real.detach()
    if ratio is opposite:
        return ratio(a)
    training_stats.report(f'Loss/osgan/min_logit{suffix}', a.min())
    training_stats.report(f'Loss/osgan/median_logit{suffix}', a.median())
    gamma = ratio(a)
    training_stats.report(f'Loss/osgan/clamped{suffix}', (gamma < -gamma_max).float())
    return gamma.clamp(min=-gamma_max)
