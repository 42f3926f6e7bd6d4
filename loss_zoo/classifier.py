"""Are pictures worth adding to a training set? A small classifier is trained with and without them, several times.

The accuracy is balanced: each class counts the same. With d[j, i] the difference that the pictures make to test picture i
in repetition j (right, +; wrong, -; weighted by class), the mean difference has the 95 % interval

    mean(d) +- t(J - 1) * sqrt(s_J^2 / J + s_N^2 / N)

where s_J is the spread of the repetitions' means, s_N that of the test pictures' means: another draw of weights and order,
and another test set. (The training pictures are as they are.) Both sides take the same number of steps.

Where neither side is surely better than guessing, by the same interval around its accuracy (s_N: the spread within
classes), nothing can be told of the pictures.
"""
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONFIDENCE = 0.95
WIDTH = 32
BATCH = 64
RATE = 2e-3
AUGMENTATIONS = ('flips', 'standard')


@dataclass(frozen=True)
class Labelled:
    """Pictures, uint8 [N, 3, size, size], and their classes, int64 [N]."""
    images: Tensor
    classes: Tensor

    def part(self, numbers: Tensor) -> 'Labelled':
        """Those of these numbers."""
        return Labelled(self.images[numbers], self.classes[numbers])


@dataclass(frozen=True)
class Judgement:
    """What the added pictures did to the balanced accuracy, in shares of 1."""
    without: float
    with_added: float
    low: float
    high: float
    margin: float
    is_learnt: bool = True          # Is the classifier better than guessing, with the pictures or without them?
    chance: float = 0.0             # What guessing gets.

    @property
    def gain(self) -> float:
        """The mean difference."""
        return self.with_added - self.without

    @property
    def answer(self) -> str:
        """'helps', 'does not' (not by as much as the margin) or 'cannot tell'."""
        if not self.is_learnt:
            return 'cannot tell'
        if self.low > 0:
            return 'helps'
        return 'does not' if self.high < self.margin else 'cannot tell'


def judge(without: Tensor, with_added: Tensor, classes: Tensor, margin: float) -> Judgement:
    """From which test pictures were right, bool [J, N] each, of these classes [N]."""
    weights = (1 / classes.bincount().double())[classes]                    # [N]
    weights = weights * len(classes) / weights.sum()                        # Their mean is 1.
    right = [(side.double() * weights) for side in (without, with_added)]   # [J, N]
    d = right[1] - right[0]
    repetitions, num = d.shape
    variance = d.mean(1).var() / repetitions + d.mean(0).var() / num
    mean, half = float(d.mean()), half_interval(variance, repetitions)
    chance = 1 / len(classes.unique())
    is_learnt = any(is_above(side, classes, chance) for side in right)
    return Judgement(float(right[0].mean()), float(right[1].mean()), mean - half, mean + half, margin, is_learnt, chance)


def half_interval(variance: Tensor, repetitions: int) -> float:
    """Half of the 95 % interval of a mean with this variance."""
    from scipy.stats import t
    return float(t.ppf((1 + CONFIDENCE) / 2, repetitions - 1) * variance.sqrt())


def is_above(right: Tensor, classes: Tensor, chance: float) -> bool:
    """Is the accuracy surely above chance? `right` [J, N] is weighted by class."""
    repetitions, num = right.shape
    shares = right.mean(0)                                                  # [N]
    counts = classes.bincount()
    means = torch.zeros(len(counts), dtype=shares.dtype).index_add(0, classes, shares) / counts.clamp(min=1)
    within = (shares - means[classes]).square().sum() / max(num - int((counts > 0).sum()), 1)
    return float(right.mean()) - half_interval(right.mean(1).var() / repetitions + within / num, repetitions) > chance


def compare(train: Labelled, added: Labelled, test: Labelled, num_classes: int, repetitions: int, steps: int,
            device: torch.device, margin: float, width: int = WIDTH,
            told: Callable[[], None] = lambda: None) -> tuple[dict[str, Judgement], str]:
    """({augmentation: verdict}, the augmentation that is better without the pictures).

    told: called after each training.
    """
    verdicts = {}
    for augmentation in AUGMENTATIONS:
        sides = []
        for extra in (None, added):
            right = []
            for seed in range(repetitions):
                model = fit(train, extra, num_classes, augmentation, steps, seed, device, width)
                right.append(predict(model, test.images, device) == test.classes)
                told()
            sides.append(torch.stack(right))
        verdicts[augmentation] = judge(*sides, test.classes, margin)
    return verdicts, max(verdicts, key=lambda name: verdicts[name].without)


def fit(train: Labelled, added: Labelled | None, num_classes: int, augmentation: str, steps: int, seed: int,
        device: torch.device, width: int = WIDTH) -> nn.Module:
    """A classifier of the training pictures; with others, every second picture that it sees is one of those."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = classifier(num_classes, width).to(device)
    stream = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        parts = [train] if added is None else [train, added]
        chosen = [part.part(torch.randint(len(part.classes), [BATCH // len(parts)], generator=stream)) for part in parts]
        images = augmented(to_float(torch.cat([part.images for part in chosen])), augmentation, stream)
        loss = F.cross_entropy(model(images.to(device)), torch.cat([part.classes for part in chosen]).to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def classifier(num_classes: int, width: int) -> nn.Module:
    """Three stages of two convolutions, then the mean over positions."""
    layers: list[nn.Module] = []
    channels = 3
    for stage in range(3):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width << stage, 3, padding=1, bias=False), nn.BatchNorm2d(width << stage), nn.ReLU()]
            channels = width << stage
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """The class [N] of each picture, on the CPU."""
    return torch.cat([model(to_float(part).to(device)).argmax(1).cpu() for part in images.split(256)])


def to_float(images: Tensor) -> Tensor:
    """uint8 to -1..1."""
    return images.float() / 127.5 - 1


def augmented(images: Tensor, kind: str, stream: torch.Generator) -> Tensor:
    """Images [N, 3, H, W], half of them mirrored; 'standard': also moved by up to an eighth, turned by up to 10 degrees, scaled
    by up to a tenth, brighter or darker and of more or less contrast by up to a fifth."""
    num = len(images)

    def draw(most: float) -> Tensor:
        return (2 * torch.rand([num], generator=stream) - 1) * most                                     # [N]

    mirror = 1 - 2 * (torch.rand([num], generator=stream) < 0.5).float()
    if kind == 'flips':
        return torch.where(mirror.view(-1, 1, 1, 1) < 0, images.flip(3), images)
    angle, scale = draw(torch.pi / 18), 1 + draw(0.1)
    rows = [mirror * scale * angle.cos(), -scale * angle.sin(), draw(0.25), mirror * scale * angle.sin(), scale * angle.cos(),
            draw(0.25)]         # The grid reaches from -1 to 1: a quarter is an eighth of the side.
    grid = F.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode='border', align_corners=False)
    contrast, brightness = (1 + draw(0.2)).view(-1, 1, 1, 1), draw(0.2).view(-1, 1, 1, 1)
    return moved * contrast + brightness
