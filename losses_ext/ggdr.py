"""Generator-guided discriminator regularization, GGDR [Lee et al. 2022, arXiv:2207.13320].

From a fake x alone, the critic must tell the feature map F that the generator made it of:

    L = weight * (1 - cos(P(x), F))         cosine over channels, mean over positions and samples

F, a constant, is what the generator's block of resolution R hands to its ToRGB layer.
P is a linear decoder on the critic's features E_r, the output of its block that ends at resolution r:

    y_8  = U_8(E_4)
    y_2r = U_2r(concat[y_r, E_r])           for r = 8 ... R/2;  P = y_R

Every U is a 1x1 convolution, then upsampling by 2. One draw of the augmentation moves both x and F.
"""
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.compiler import is_compiling
from torch.nn.functional import cosine_similarity

from losses_ext.option import option
from torch_utils import training_stats
from training.loss import Game, StepContext
from training.networks import Conv2dLayer
from training.player import Player
from training.regularizer import Regularizer, Term

PUBLISHED = dict(res='64', warp='official')
EPS = 1e-6      # Floor of the norms in the cosine. Positions where F is shorter lie outside the moved image: they do not count.


@dataclass(frozen=True)
class Options:
    """Options of GGDR."""
    weight: float = option(10.0, 'Strength of GGDR.', within='[0, inf)')
    res: str | None = option(None,
                             'Resolution of the feature map to tell, or a comma list of several, averaged; '
                             'none: 64, or a quarter of the image below 256 pixels.')
    warp: str | None = option(None, 'How the feature map follows the augmented image: exactly (aligned), or with shifts '
                              'rounded at its own size, as published (official); none: aligned.',
                              choices=('aligned', 'official'))
    published: bool = option(False,
                             'As in the official code at every size: --ggdr_res=64 --ggdr_warp=official.')


class GGDR(Regularizer):
    """Adds the decoder to the first critic of every source, and the term to its step on fakes."""
    Options = Options
    works_apart = True
    through_fakes = True

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options)
        for player, network in ((game.G, game.G.module.synthesis), (game.D, game.D.module)):
            if not hasattr(network, 'channels'):
                raise ValueError(f'--reg_type=ggdr needs feature maps, which a {type(player.module).__name__} does not hand out: '
                                 f'leave out ggdr, or give another --{player.name}')
        if options.warp == 'official':
            self.no_graphs = 'with --ggdr_warp=official the host reads margins within a step'
        self._resolutions = [int(res) for res in options.res.split(',')]
        game.tap_G.update(self._resolutions)
        game.tap_D = True
        for critic in game.first_critics:
            _graft_decoder(critic, game.G.module.synthesis.channels, max(self._resolutions))

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        size = config['data_shape']['img_resolution']
        options = as_published(options) if options.published else with_defaults(options, size)
        res = options.res
        valid = [str(r) for r in decoder_resolutions(size)]
        if not set(res.split(',')) <= set(valid):
            raise ValueError(f'--ggdr_res={res}: must be among {", ".join(valid)} (powers of two from 8 to the size of '
                             f'the images), or a comma list of them')
        if options.warp == 'official' and 'DiffAugment' in (config.get('augment_kwargs') or {}).get('class_name', ''):
            raise ValueError('--ggdr_warp=official is defined for --aug=ada and --aug=fixed, not for --aug=diffaug; '
                             'leave it out')
        return options

    def d_fake(self, ctx: StepContext) -> Term:
        if 'b8_dec' not in ctx.critic.grafts:
            return None
        predictions = decode(ctx.critic.module, ctx.fake.feats, decoder_resolutions(max(self._resolutions)))
        distances = []
        for res in self._resolutions:
            target = self.game.warp(ctx.gen.feats[res].detach(), ctx.fake.draw,
                                    self.options.warp or 'aligned')
            uncut = None if ctx.fake.draw is None else ctx.fake.draw.keep_mask(res)
            distances.append(cosine_distance(predictions[res], target, uncut))
        distance = torch.stack(distances).mean(0)                                   # [N]
        training_stats.report(f'Loss/ggdr/cosine{ctx.critic.suffix}', 1 - distance)
        return self.options.weight * distance


def as_published(options: Options) -> Options:
    """With the resolution and the warp of the official code. Raises ValueError for others."""
    for name, value in PUBLISHED.items():
        given = getattr(options, name)
        if given not in (None, value):
            raise ValueError(f'--ggdr_published=1 is --ggdr_{name}={value}: leave it or --ggdr_{name}={given} out')
    return replace(options, **PUBLISHED)


def with_defaults(options: Options, size: int) -> Options:
    """With what was not given, for images of this size; says where that is not what was published."""
    found = replace(options, res=options.res or str(64 if size >= 256 else max(size // 4, 8)),
                    warp=options.warp or 'aligned')
    if options.res is None and found.res != PUBLISHED['res']:
        print(f'Note: --ggdr_res={found.res} --ggdr_warp={found.warp} below 256 pixels; the official code has '
              f'{PUBLISHED["res"]} and {PUBLISHED["warp"]} at every size: --ggdr_published=1.',
              file=sys.stderr)
    return found


def decoder_resolutions(res: int) -> list[int]:
    """8, 16, ..., res."""
    return [2 ** i for i in range(3, res.bit_length())]


def _graft_decoder(critic: Player, G_channels: dict[int, int], res: int) -> None:
    """Gives a critic the layers `b{r}_dec`, U_r, for r = 8 ...
    res, with the generator's numbers of channels as outputs."""
    assert critic.view is None, f'GGDR asks {critic.name} for a feature map of images that its view hides from it'
    for name, make_layer in decoder_layers(G_channels, critic.module.channels, decoder_resolutions(res)).items():
        critic.graft(name, make_layer)


def decoder_layers(G_channels: Mapping[int, int], D_channels: Mapping[int, int],
                   resolutions: Sequence[int]) -> dict[str, Callable[..., torch.nn.Module]]:
    """{'b{r}_dec': what makes U_r} for each resolution; the first begins the decoder."""
    layers = {}
    for r in resolutions:
        num_inputs = D_channels[r // 2] + (0 if r == resolutions[0] else G_channels[r // 2])
        layers[f'b{r}_dec'] = partial(_decoder_layer, num_inputs=num_inputs, num_outputs=G_channels[r])
    return layers


def _decoder_layer(_, num_inputs: int, num_outputs: int) -> torch.nn.Module:
    """U: [N,num_inputs,r/2,r/2] -> [N,num_outputs,r,r]."""
    return Conv2dLayer(num_inputs, num_outputs, kernel_size=1, up=2)


def decode(owner: torch.nn.Module, feats: Mapping[int, Tensor],
           resolutions: Sequence[int]) -> dict[int, Tensor]:
    """{r: y_r [N,C_r,r,r]} from the critic's maps E, in float32, by the decoder layers that `owner` has."""
    y: dict[int, Tensor] = {}
    for r in resolutions:
        E = feats[r // 2].float()
        y[r] = getattr(owner, f'b{r}_dec')(torch.cat([y[r // 2], E], dim=1) if y else E)
    return y


def cosine_distance(prediction: Tensor, target: Tensor, keep: Tensor | None = None) -> Tensor:
    """1 - cos of maps [N,C,r,r] over channels, [N]: the mean over
    positions that `keep` [N,r,r] marks and that have a target."""
    length = target.norm(dim=1)                                                     # [N,r,r]
    shown = length >= EPS
    shown = shown if keep is None else shown & keep
    if prediction.is_cuda and not target.requires_grad and not is_compiling():
        cosine = CosineToConstant.apply(prediction, target, length)
    else:
        cosine = cosine_similarity(prediction, target, dim=1, eps=EPS)
    distance = (1 - cosine) * shown
    return distance.sum([1, 2]) / shown.sum([1, 2]).clamp(min=1)


class CosineToConstant(torch.autograd.Function):
    """cos = <x, y> / (|x| |y|) over channels of maps [N,C,r,r], with the lengths of y [N,r,r], which are known; y is a constant.

    Its gradient is y / (|x| |y|) - cos x / |x|^2: two passes over memory, where stock derivatives, of each quotient and length
    by itself, take a dozen. Equal to them but for rounding; where x is shorter than EPS, which it is taken for, the second
    term is no more than that of the length EPS.
    """
    @staticmethod
    def forward(ctx, x, y, y_length):
        x_length = torch.linalg.vector_norm(x, dim=1).clamp_(min=EPS)                       # [N,r,r]
        scale = (x_length * y_length.clamp(min=EPS)).reciprocal_()
        cosine = (x * y).sum(1).mul_(scale)
        ctx.save_for_backward(x, y, x_length, scale, cosine)
        return cosine

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, y, x_length, scale, cosine = ctx.saved_tensors
        along = (grad * cosine).div_(x_length.square())
        return (y * (grad * scale)[:, None]).addcmul_(x, along[:, None], value=-1), None, None
