"""The terms of the zoo for a training loop of one's own, on any generator and critic: docs/anywhere.md.

    from loss_zoo import terms
    real.requires_grad_()
    loss_D = loss_D + terms.r1(D(real), real, gamma=10).mean()

Each formula is that of the method of the same name in `losses_ext/`, in one place. Terms are per sample, [N],
and have their weights. What they ask of networks is `Critic`, `Maps` and images with `requires_grad`, no
more.
"""
from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from loss_zoo import programs

programs.make_importable()

from losses_ext import apa as _apa
from losses_ext import daco as _daco
from losses_ext import diggan as _diggan
from losses_ext import ggdr as _ggdr
from losses_ext import gp as _gp
from losses_ext import lecam as _lecam
from losses_ext import osgan as _osgan
from losses_ext import rules_of as game
from losses_ext import weco as _weco
from losses_ext.option import check_ranges
from losses_ext.running_mean import RunningMeans
from torch_utils import misc
from training.ada import AdaptiveStrength

__all__ = ['APA', 'GGDR', 'Critic', 'DaCo', 'LeCam', 'Maps', 'Taps', 'diggan', 'game', 'gp', 'input_grad',
           'one_stage', 'per_image', 'r1', 'r2', 'weco']


# ---------------------------------------------------------------------------------------------------------------------
# What a term needs of networks.

class Critic(Protocol):
    """A critic: images [N,C,H,W] to logits, one of each image, [N] or [N,1], or one of each patch, [N,1,h,w].

    A network that also takes a condition is made one by `lambda img: D(img, condition)`.
    """

    def __call__(self, img: Tensor) -> Tensor:
        """Logits; differentiable twice by img wherever a term asks for input gradients."""


Maps = Mapping[int, Tensor]     # Feature maps of one pass, {resolution r: [N,C,r,r]}.


class Taps:
    """Keeps feature maps of a network that does not hand them out: those of its latest pass are in `maps`."""

    def __init__(self, layers: Iterable[nn.Module]):
        self.maps: dict[int, Tensor] = {}
        self._handles = [layer.register_forward_hook(self._keep) for layer in layers]

    def _keep(self, layer, inputs, output):
        if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[2] != output.shape[3]:
            found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f'the output of {type(layer).__name__} is no square feature map [N,C,r,r]: {found}')
        self.maps[output.shape[2]] = output

    def remove(self) -> None:
        """Listens no longer."""
        for handle in self._handles:
            handle.remove()


def per_image(logits: Tensor) -> Tensor:
    """The verdict on each image, [N]: that of a critic of patches is the mean of its patches."""
    if logits.ndim == 0:
        raise ValueError('these logits are one number for all images; give the verdict on each, before any mean is taken')
    return logits.flatten(1).mean(1) if logits.ndim > 1 else logits


def input_grad(logits: Tensor, img: Tensor) -> Tensor:
    """d (sum of verdicts) / d img, [N,C,H,W], differentiable.
    Raises ValueError if img was made without `requires_grad`."""
    if not img.requires_grad:
        raise ValueError('the images need requires_grad before the critic sees them: img = '
                         'img.detach().requires_grad_()')
    grad = None
    if logits.ndim and len(logits) != len(img):
        raise ValueError(f'{len(img)} images have logits {list(logits.shape)}; give the verdict on each, [N] or [N, ...]')
    if logits.requires_grad:        # Not of a critic that ran under no_grad.
        grad, = torch.autograd.grad(per_image(logits).sum(), [img], create_graph=True, allow_unused=True)
    if grad is None:
        raise ValueError('these logits do not depend on these images: give the very tensor that the critic saw, outside of '
                         'torch.no_grad')
    return grad


# ---------------------------------------------------------------------------------------------------------------------
# Input gradients.

def r1(logits: Tensor, real: Tensor, gamma: float) -> Tensor:
    """R1 [N] of the logits on reals, which had `requires_grad`."""
    return misc.squared_norms(input_grad(logits, real)) * (gamma / 2)


def r2(logits: Tensor, fake: Tensor, gamma: float) -> Tensor:
    """R2 [N]: the same of the logits on fakes, as constants: `fake.detach().requires_grad_()`."""
    return misc.squared_norms(input_grad(logits, fake)) * (gamma / 2)


def gp(D: Critic, real: Tensor, fake: Tensor, weight: float = 10,
       generator: torch.Generator | None = None) -> Tensor:
    """Gradient penalty [N] between reals and fakes; runs the critic once more."""
    if real.shape != fake.shape:
        raise ValueError(f'reals and fakes must have one shape: {list(real.shape)}, {list(fake.shape)}')
    u = torch.rand([len(real), 1, 1, 1], device=real.device, generator=generator)
    img = _gp.between(fake, real.detach(), u).requires_grad_()
    return weight * _gp.distance_to_one(_diggan.gradient_norms(input_grad(D(img), img)))


def diggan(real_logits: Tensor, real: Tensor, fake_logits: Tensor, fake: Tensor, weight: float) -> Tensor:
    """DigGAN's gap [N] between the lengths of input gradients; both kinds of images had `requires_grad`.

    Published weight: 5 times gamma of R1, every fourth iteration, counted fourfold.
    """
    n_r, n_f = (_diggan.gradient_norms(input_grad(logits, img))
                for logits, img in ((real_logits, real), (fake_logits, fake)))
    return weight * _diggan.squared_gap(n_r, n_f)


# ---------------------------------------------------------------------------------------------------------------------
# Logits.

class LeCam:
    """LeCam [N] of one critic. It follows means of the logits: call it once for each of the critic's steps.

    device: that of the logits, for `load_state_dict`.
    """

    def __init__(self, weight: float = 0.01, decay: float = 0.99, start: int = 1000,
                 device: torch.device | str = 'cpu'):
        self.options = _checked(_lecam, weight=weight, decay=decay, start=start)
        self._means = RunningMeans(decay, torch.device(device))

    def __call__(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        terms = []
        for kind, logits in (('fake', per_image(fake_logits)), ('real', per_image(real_logits))):
            anchor = _lecam.follow(self._means, 'D', kind, logits, self.options.start)
            terms.append(torch.zeros_like(logits) if anchor is None else _lecam.drift(kind, logits, anchor))
        self._means.update()
        return self.options.weight * (terms[0] + terms[1])

    def state_dict(self) -> dict:
        """The means, for a checkpoint."""
        return self._means.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` returned."""
        self._means.load_state_dict(state)


# ---------------------------------------------------------------------------------------------------------------------
# What the critic sees.

class APA:
    """Some fakes shown as reals, the more of them the surer the critic is.

    target, kimg: as of --apa_target, --apa_kimg. p: a probability that stays, instead.
    """

    def __init__(self, target: float = 0.6, kimg: float = 500, p: float | None = None):
        self.options = _checked(_apa, target=target, kimg=kimg, p=p)
        self.p = 0.0 if p is None else p
        self._signs: list[Tensor] = []

    def mix(self, real: Tensor, fake: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Reals [N,C,H,W] of which some have given way to the fakes of the same number,
        better of the iteration before."""
        fake, is_sound = _apa.only_finite(fake.detach())
        replaced = _apa.draw_replaced(is_sound, self.p, generator)
        return torch.where(replaced[:, None, None, None], fake, real)

    def update(self, real_logits: Tensor) -> None:
        """Takes the logits on what `mix` returned; every fourth time p moves, and the host waits for them."""
        if self.options.p is not None:
            return
        self._signs.append(per_image(real_logits).detach().sign())
        if len(self._signs) == _apa.INTERVAL:
            signs, self._signs = torch.cat(self._signs), []
            rule = AdaptiveStrength(self.options.target, self.options.kimg, 1, len(signs))
            self.p = min(rule.step(torch.tensor(self.p, dtype=torch.float64), signs.nanmean().item()).item(),
                         1.0)

    def state_dict(self) -> dict:
        """p, for a checkpoint."""
        return dict(p=self.p)

    def load_state_dict(self, state: dict) -> None:
        """Restores what `state_dict` returned."""
        self.p, self._signs = float(state['p']), []


class DaCo:
    """Random frequency bands of images, for a further critic that sees nothing else.
    Options as of --daco_..."""

    def __init__(self, bands: int = 64, drop_low: int = 8, keep: float = 0.8, mask: str = 'hermitian'):
        self.options = _checked(_daco, bands=bands, drop_low=drop_low, keep=keep, mask=mask)
        if drop_low >= bands or _daco.num_kept(self.options) < 1:
            raise ValueError(f'keep={keep:g} of {bands} bands without the lowest {drop_low} leaves the critic nothing to see')

    def draw(self, num: int, device: torch.device | None = None,
             generator: torch.Generator | None = None) -> Tensor:
        """Which bands each of `num` images keeps, [num, bands]:
        one draw for the i-th real and the i-th fake."""
        return _daco.draw_bands(num, self.options, device, generator)

    def __call__(self, img: Tensor, draw: Tensor) -> Tensor:
        """What is left of images [N,C,H,W]."""
        return _daco.keep_bands(img, draw, self.options.mask)


# ---------------------------------------------------------------------------------------------------------------------
# Weights and maps.

def weco(D: nn.Module, twin: nn.Module, weight: float = 0.01, progress: float = 0,
         mode: str = 'global') -> Tensor:
    """WeCo's push [] of a second critic, which learns, away from the first; progress:
    share of the run that is done."""
    return _weco.push(_weco.weight_cosine(_weco.parameter_pairs(D, twin), mode), weight, 1 - progress)


class GGDR(nn.Module):
    """GGDR with its decoder, whose parameters belong to the critic's optimizer.

    G_maps: of one pass of the generator, from twice the critic's lowest resolution up to the one that is to
        be told.
    D_maps: of one pass of the critic, from its lowest resolution up to half of that.
    """

    def __init__(self, G_maps: Maps, D_maps: Maps, weight: float = 10):
        super().__init__()
        self.weight = weight
        self.resolutions = [2 * res for res in sorted(D_maps) if 2 * res in G_maps]
        whole = [2 ** i * self.resolutions[0] for i in range(len(self.resolutions))] if self.resolutions else []
        if self.resolutions != whole or not whole:
            raise ValueError(f'the critic has maps of {sorted(D_maps)} pixels, the generator of {sorted(G_maps)}: there must be '
                             'G_maps of 2 r, 4 r, ... and D_maps of r, 2 r, ..., half of each')
        channels = [{res: maps.shape[1] for res, maps in each.items()} for each in (G_maps, D_maps)]
        for name, make_layer in _ggdr.decoder_layers(*channels, self.resolutions).items():
            self.add_module(name, make_layer(None).to(D_maps[min(D_maps)].device))

    def forward(self, G_maps: Maps, D_maps: Maps, warp=None) -> Tensor:
        """The term [N] of the critic's maps of fakes, and the generator's own of the same.

        warp(maps): moves maps [N,C,r,r] as augmentation moved the fakes, if it did.
        """
        res = self.resolutions[-1]
        target = G_maps[res].detach()
        prediction = _ggdr.decode(self, D_maps, self.resolutions)[res]
        return self.weight * _ggdr.cosine_distance(prediction, target if warp is None else warp(target))


# ---------------------------------------------------------------------------------------------------------------------
# One stage.

def one_stage(fake: Tensor, seen: Tensor, loss_G: Tensor, loss_D: Tensor, D: nn.Module) -> None:
    """Both players' gradients of one pass of each: OSGAN's exact step.

    fake: G's images, with graph. seen: `fake.detach().requires_grad_()`, which the critic saw. loss_G,
    loss_D: what G and D minimise of these logits, each mean or [N]. Afterwards step both optimizers.
    """
    image_grad = _osgan.image_gradient(loss_G.mean(), seen)
    loss_D.mean().backward(inputs=[p for p in D.parameters() if p.requires_grad])
    fake.backward(image_grad)


def _checked(method, **options):
    """The options of a method, each in its range. Raises ValueError."""
    checked = method.Options(**options)
    check_ranges(f'{method.__name__.rpartition(".")[2]}', checked)
    return checked
