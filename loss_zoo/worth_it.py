"""Says whether pictures of a generator help a classifier of a data set.

    loss-zoo worth-it cells.zip --network=runs/00000-cells-cond --test=cells-unseen.zip
"""
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from dnnlib.computing import device_option
from dnnlib.numbers import PSI, Real, Whole
from dnnlib.program import Maker

if TYPE_CHECKING:
    from loss_zoo.classifier import Judgement, Labelled

LEAST_OF_CLASS = 4          # Pictures, of which one is for the test.
TEST_SHARE = 4              # One in so many, if no test set is given.
LEAST_ADDED = 1000
MAX_PICTURES = 200_000
MAX_BYTES = 2 ** 32         # Of pictures that are held at once.
SPLIT_SEED = 0
ANSWERS = {
    'helps': 'They help',
    'does not': 'They do not help',
    'cannot tell': 'It cannot be told whether they help'}


@click.command(cls=Maker, epilog='''
\b
Examples:
  loss-zoo worth-it cells.zip --network=runs/00000-cells-cond --test=cells-unseen.zip
  loss-zoo worth-it cells.zip --images=more-cells.zip --test=cells-unseen.zip
''')
@click.argument('data', metavar='DATA')
@click.option('--network', metavar='FILE|URL|DIR', help='A network with the classes of DATA: its pictures are added.')
@click.option('--images', metavar='PATH', help='Pictures with the same classes that are added, instead of a network.')
@click.option('--test', metavar='PATH',
              help='Pictures with classes that the generator never saw.  [default: one in four of DATA]')
@click.option('--labels-from', type=click.Choice(['json', 'folders']), default='json', show_default=True,
              help='Where classes come from, of all sets.')
@click.option('--num', type=Whole('[1, 200000]'), help='Pictures of the network.  [default: as many as train, at least 1000]')
@click.option('--trunc', 'psi', type=Real(PSI), default=1.0, show_default=True, help='Truncation of the network.')
@click.option('--size', type=Whole('[8, 128]'), default=32, show_default=True, help='Of the pictures that the classifier sees.')
@click.option('--repetitions', type=Whole('[3, 100]'), default=5, show_default=True, help='Trainings of each kind.')
@click.option('--steps', type=Whole('[10, 100000]'), default=600, show_default=True, help='Of a training, of 64 pictures each.')
@click.option('--margin', type=Real('(0, 0.5]'), default=0.01, show_default=True,
              help='A gain in accuracy below which one may say that they do not help.')
@device_option
def main(data: str, network: str | None, images: str | None, test: str | None, num: int | None, psi: float, size: int,
         repetitions: int, steps: int, margin: float, device: str, labels_from: str) -> None:
    """Say whether pictures of a generator help a classifier of DATA.

    A small classifier is trained on DATA with flips, and with standard augmentation; with the pictures and without them,
    in the same number of steps, several times. The answer is: they help, they do not, or it cannot be told; with a 95 %
    interval of what they add to the balanced accuracy. Without --test the generator may have seen the test pictures, so that
    the answer is never that they help.
    """
    if (network is None) == (images is None):
        raise click.UsageError('give either --network or --images: what shall be added?')
    from training.dataset import DatasetError
    try:
        real = labelled(data, 'DATA', size, labels_from)
        unseen = labelled(test, '--test', size, labels_from) if test is not None else None
        num_classes = int(real.classes.max()) + 1
        train, held_out = (real, unseen) if unseen else split(real)
        require_classes(held_out, num_classes, 'DATA' if test is None else '--test')
        added = (labelled(images, '--images', size, labels_from) if images is not None else
                 drawn(network, train, num_classes, num or max(len(train.classes), LEAST_ADDED), psi, size, device))
        require_classes(added, num_classes, '--images')
    except DatasetError as error:
        raise click.ClickException(str(error)) from error
    verdict, better, table = measured(train, added, held_out, num_classes, repetitions, steps, device, margin)
    for line in lines_of(verdict, better, table, len(held_out.classes), test is not None):
        click.echo(line)
    numbers = dict(asdict(verdict), gain=verdict.gain, answer=answer_of(verdict, test is not None), augmentation=better,
                   num_train=len(train.classes), num_added=len(added.classes), num_test=len(held_out.classes))
    click.echo(json.dumps(numbers))


def measured(train: 'Labelled', added: 'Labelled', test: 'Labelled', num_classes: int, repetitions: int, steps: int,
             device: str, margin: float) -> tuple['Judgement', str, dict[str, 'Judgement']]:
    """(the verdict that counts, its augmentation, all of them), with a progress bar on terminals."""
    import sys

    from tqdm import tqdm

    from loss_zoo.classifier import AUGMENTATIONS, compare
    from torch_utils.distributed import pick_device
    total = 2 * repetitions * len(AUGMENTATIONS)
    with tqdm(total=total, desc='trainings', disable=not sys.stderr.isatty()) as bar:
        table, better = compare(train, added, test, num_classes, repetitions, steps, pick_device(device), margin, told=bar.update)
    return table[better], better, table


def answer_of(verdict: 'Judgement', is_unseen: bool) -> str:
    """The answer; that something helps is only said of test pictures that the generator never saw."""
    return 'cannot tell' if verdict.answer == 'helps' and not is_unseen else verdict.answer


def lines_of(verdict: 'Judgement', better: str, table: dict[str, 'Judgement'], num_test: int, is_unseen: bool) -> list[str]:
    """What is said."""
    lines = [f'{name:9} without {100 * each.without:5.1f} %   with {100 * each.with_added:5.1f} %   '
             f'difference {100 * each.gain:+.1f}, {100 * each.low:+.1f} to {100 * each.high:+.1f} points'
             for name, each in table.items()]
    answer = answer_of(verdict, is_unseen)
    interval = f'{100 * verdict.low:+.1f} to {100 * verdict.high:+.1f} points'
    lines.append(f'{ANSWERS[answer]}: beside {better} augmentation, the better one without them, they change the balanced '
                 f'accuracy by {100 * verdict.gain:+.1f} points (95 % interval {interval}; {num_test} test pictures).')
    if not verdict.is_learnt:
        lines.append('Note: with the pictures or without them, the classifier is no better than guessing '
                     f'({100 * verdict.chance:.1f} %), so that it says nothing of them. Give it more pictures in DATA, '
                     'more --steps, or a larger --size.')
    if verdict.answer == 'helps' and not is_unseen:
        lines.append('Note: the gain may come from test pictures that the generator has learnt. Give --test=PATH, pictures that '
                     'it never saw, for an answer.')
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# Pictures with classes.

def labelled(path: str, option: str, size: int, labels_from: str) -> 'Labelled':
    """The pictures of a set, as the classifier sees them; a usage error if they have no classes."""
    import os

    from training.dataset import ImageFolderDataset
    if not os.path.exists(path):
        raise click.BadParameter(f'{path}: no such folder or zip', param_hint=option)
    dataset = ImageFolderDataset(path=path, use_labels=True, labels_from=labels_from)
    if not dataset.has_labels or not dataset.has_onehot_labels:
        raise click.BadParameter(f'{path} has no classes; put them in its dataset.json, or images of each class in a subfolder '
                                 'and give --labels-from=folders', param_hint=option)
    if len(dataset) > MAX_PICTURES:
        raise click.BadParameter(f'{path} has {len(dataset)} pictures; at most {MAX_PICTURES} are held at once',
                                 param_hint=option)
    require_memory(len(dataset), size, option)
    return seen((dataset[number][0] for number in range(len(dataset))),
                [int(dataset.get_details(number).raw_label) for number in range(len(dataset))], size)


def require_memory(num: int, size: int, option: str) -> None:
    """A usage error unless so many pictures can be held as the classifier sees them."""
    if num * 3 * size ** 2 > MAX_BYTES:
        raise click.BadParameter(
            f'{num} pictures of {size}x{size} pixels are more than the {MAX_BYTES // 2 ** 30} GiB that are held at '
            f'once: at most {MAX_BYTES // (3 * size ** 2)}, or give a smaller --size', param_hint=option)


def seen(images: Iterable[Any], classes: list[int], size: int) -> 'Labelled':
    """Pictures [C, H, W], of any size and one at a time, and classes as the classifier sees them:
    in colour, of one size."""
    import torch
    import torch.nn.functional as F

    from loss_zoo.classifier import Labelled
    small = []
    for image in images:
        pixels = torch.as_tensor(image)[None].float().expand(-1, 3, -1, -1)
        pixels = F.adaptive_avg_pool2d(pixels, size) if pixels.shape[2] >= size else F.interpolate(pixels, size=[size, size])
        small.append(pixels.round().to(torch.uint8))
    return Labelled(torch.cat(small), torch.tensor(classes))


def split(real: 'Labelled') -> tuple['Labelled', 'Labelled']:
    """(those to learn from, one in four of each class to test)."""
    import torch
    stream = torch.Generator().manual_seed(SPLIT_SEED)
    learnt, tested = [], []
    for number in range(int(real.classes.max()) + 1):
        of_class = (real.classes == number).nonzero()[:, 0]
        of_class = of_class[torch.randperm(len(of_class), generator=stream)]
        if 0 < len(of_class) < LEAST_OF_CLASS:
            raise click.BadParameter(f'class {number} has {len(of_class)} pictures; it takes {LEAST_OF_CLASS} to keep one for '
                                     'the test; or give --test', param_hint='DATA')
        tested.append(of_class[:len(of_class) // TEST_SHARE])
        learnt.append(of_class[len(of_class) // TEST_SHARE:])
    return real.part(torch.cat(learnt)), real.part(torch.cat(tested))


def require_classes(found: 'Labelled', num_classes: int, option: str) -> None:
    """A usage error for classes that DATA does not have, and for a single class."""
    most = int(found.classes.max()) + 1
    if most > num_classes:
        raise click.BadParameter(f'it has class {most - 1}; DATA has classes 0 to {num_classes - 1}', param_hint=option)
    if num_classes < 2:
        raise click.BadParameter('there is only one class; it takes two to tell them apart', param_hint='DATA')


def drawn(network: str, train: 'Labelled', num_classes: int, num: int, psi: float, size: int, device: str) -> 'Labelled':
    """Pictures of a network, of each class as many as the training pictures have, in proportion."""
    import torch

    from drawing.named import load_generator
    from drawing.pictures import images_of_seeds
    require_memory(num, size, '--num')
    G = load_generator(network, device)
    if G.c_dim != num_classes:
        takes = f'its labels have {G.c_dim} numbers' if G.c_dim else 'it is not conditional'
        raise click.BadParameter(f'{network} does not draw the {num_classes} classes of DATA: {takes}', param_hint='--network')
    shares = train.classes.bincount(minlength=num_classes).double().cumsum(0) / len(train.classes)
    classes = torch.searchsorted(shares, (torch.arange(num) + 0.5) / num).clamp(max=num_classes - 1)
    pictures = images_of_seeds(G, range(num), torch.eye(num_classes)[classes], truncation_psi=psi)
    return seen((picture.transpose(2, 0, 1) for picture in pictures), classes.tolist(), size)


if __name__ == '__main__':
    main()
