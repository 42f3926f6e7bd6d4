"""`loss-zoo worth-it`: more real pictures help, pictures with
made-up classes do not, and the interval is that of its formula."""
import gc
import json
import math
import weakref

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from network_files import make_generator
from PIL import Image
from scipy.stats import t

from loss_zoo import classifier, command
from loss_zoo.classifier import Judgement, Labelled, compare, judge
from torch_utils import checkpoint

CPU = torch.device('cpu')


def bars(num, seed, classes=None):
    """Noisy pictures of a bar, lying or standing, anywhere: few of them do not say what the classes are."""
    rng = np.random.default_rng(seed)
    images = rng.normal(128, 40, [num, 3, 8, 8])
    truth = rng.integers(0, 2, num)
    for image, is_standing in zip(images, truth):
        at, start = rng.integers(0, 8), rng.integers(0, 4)
        rows = (slice(start, start + 4), slice(at, at + 1))
        image[(slice(None), *(rows if is_standing else rows[::-1]))] += 90
    return Labelled(torch.from_numpy(images.clip(0, 255).astype(np.uint8)),
                    torch.from_numpy(truth if classes is None else classes))


def measured(added, **options):
    verdicts, better = compare(bars(40, 0), added, bars(400, 1), 2, 3, 60, CPU, 0.01, width=8, **options)
    return verdicts[better]


def test_more_real_pictures_help():
    verdict = measured(bars(2000, 2))
    assert verdict.answer == 'helps' and verdict.gain > 0.05


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['noise', 'same'])
def test_pictures_that_say_nothing_new_are_not_said_to_help(kind):
    if kind == 'noise':
        verdict = measured(bars(2000, 3, np.random.default_rng(4).integers(0, 2, 2000)))
        assert verdict.answer == 'does not'
    else:
        assert measured(bars(40, 0)).answer != 'helps'


def test_the_interval_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    without, with_added = rng.random([4, 50]) < 0.5, rng.random([4, 50]) < 0.8
    classes = np.array([0] * 40 + [1] * 10)
    verdict = judge(torch.from_numpy(without), torch.from_numpy(with_added), torch.from_numpy(classes), 0.01)
    balanced = [np.mean([side[:, classes == c].mean() for c in (0, 1)]) for side in (without, with_added)]
    assert (verdict.without, verdict.with_added) == pytest.approx(tuple(balanced))
    d = (with_added.astype(float) - without) * np.where(classes == 0, 50 / 80, 50 / 20)
    half = t.ppf(0.975, 3) * math.sqrt(d.mean(1).var(ddof=1) / 4 + d.mean(0).var(ddof=1) / 50)
    assert (verdict.low, verdict.high) == pytest.approx((d.mean() - half, d.mean() + half))


@pytest.mark.parametrize('low, high, answer', [(0.001, 0.2, 'helps'), (-0.2, 0.009, 'does not'), (-0.01, 0.02, 'cannot tell')])
def test_an_answer_is_one_of_three(low, high, answer):
    assert Judgement(0.5, 0.6, low, high, 0.01).answer == answer


@pytest.mark.parametrize('low, high', [(0.001, 0.2), (-0.2, 0.009)])
def test_where_the_classifier_guesses_nothing_can_be_told(low, high):
    from loss_zoo.worth_it import lines_of
    verdict = Judgement(0.5, 0.5, low, high, 0.01, is_learnt=False, chance=0.5)
    assert verdict.answer == 'cannot tell'
    lines = lines_of(verdict, 'flips', {'flips': verdict}, 9, True)
    assert lines[1].startswith('It cannot be told whether they help: ')
    assert lines[2].startswith('Note: with the pictures or without them, the classifier is no better than guessing (50.0 %)')


def test_a_classifier_has_learnt_if_either_side_is_surely_better_than_guessing():
    """With 100 test pictures of two classes, a share p of each right has the standard error sqrt(p (1 - p) / 100)."""
    classes = torch.arange(100) % 2

    def right(*percent):
        return torch.stack([torch.arange(100) % 50 < num // 2 for num in percent])

    for without, with_added, is_learnt in (((50, 52, 48), (50, 48, 52), False), ((54, 54, 54), (56, 56, 56), False),
                                           ((50, 52, 48), (80, 82, 78), True), ((90, 90, 90), (50, 50, 50), True),
                                           ((100, 100, 100), (100, 100, 100), True), ((0, 0, 0), (0, 0, 0), False)):
        verdict = judge(right(*without), right(*with_added), classes, 0.01)
        assert (verdict.is_learnt, verdict.chance) == (is_learnt, 0.5), (without, with_added)


def test_a_perfect_classifier_of_few_pictures_has_learnt():
    everything = torch.ones([3, 9], dtype=torch.bool)
    assert judge(everything, everything, torch.tensor([0] * 8 + [1]), 0.01).is_learnt


def test_augmentation_without_strength_leaves_a_picture(monkeypatch):
    """What is moved by nothing is the picture, mirrored or not."""
    images = classifier.to_float(bars(6, 0).images)
    monkeypatch.setattr(torch, 'rand', lambda shape, generator: torch.full(shape, 0.5))
    torch.testing.assert_close(classifier.augmented(images, 'standard', None), images, atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(torch, 'rand', lambda shape, generator: torch.full(shape, 0.5) - (shape == [6]) * 1e-9)
    assert torch.equal(classifier.augmented(images, 'flips', None), images)


def write(path, pictures, with_classes=True):
    path.mkdir()
    labels = []
    for number, (image, of_class) in enumerate(zip(pictures.images, pictures.classes)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path / f'{number:03d}.png')
        labels.append([f'{number:03d}.png', int(of_class)])
    if with_classes:
        (path / 'dataset.json').write_text(json.dumps(dict(labels=labels)))
    return path


def run(*args):
    quick = '--device=cpu', '--repetitions=3', '--steps=10', '--size=8'
    result = CliRunner().invoke(command.group, ['worth-it', *map(str, args), *quick])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.exit_code, result.output


def test_a_network_of_the_classes_is_measured(tmp_path):
    data = write(tmp_path / 'bars', bars(24, 0))
    checkpoint.save_networks(tmp_path / 'net.safetensors', {'G_ema': make_generator(c_dim=2)})
    checkpoint.save_networks(tmp_path / 'other.safetensors', {'G_ema': make_generator()})
    status, output = run(data, f'--network={tmp_path / "net.safetensors"}', '--num=20')
    assert status == 0, output
    found = json.loads(output.splitlines()[-1])
    assert (found['num_train'], found['num_added']) == (24 - found['num_test'], 20) and found['answer'] != 'helps'
    assert 'balanced accuracy by ' in output and 'flips     without ' in output
    status, output = run(data, f'--network={tmp_path / "other.safetensors"}')
    assert status == 2 and 'does not draw the 2 classes of DATA: it is not conditional' in ' '.join(output.split())


def test_without_unseen_pictures_it_never_says_that_they_help():
    from loss_zoo.worth_it import answer_of, lines_of
    verdict = Judgement(0.5, 0.9, 0.3, 0.5, 0.01)
    assert (answer_of(verdict, True), answer_of(verdict, False)) == ('helps', 'cannot tell')
    lines = lines_of(verdict, 'flips', {'flips': verdict}, 9, False)
    assert lines[1].startswith('It cannot be told whether they help: ') and 'Give --test=PATH' in lines[2]


def test_pictures_are_made_small_one_at_a_time(tmp_path):
    """However large they are, and however many, one of them is held."""
    from loss_zoo.worth_it import seen
    alive = []

    def pictures():
        for number in range(4):
            image = np.full([1, 16, 16], number, np.uint8)
            alive.append(weakref.ref(image))
            yield image
            del image
            gc.collect()
            assert sum(reference() is not None for reference in alive) <= 1

    found = seen(pictures(), [0, 1, 0, 1], 8)
    assert found.images.shape == (4, 3, 8, 8) and found.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_more_pictures_than_memory_holds_are_refused_before_they_are_made(tmp_path, monkeypatch):
    data = write(tmp_path / 'bars', bars(24, 0))
    monkeypatch.setattr('loss_zoo.worth_it.MAX_BYTES', 50 * 3 * 8 * 8)
    status, output = run(data, '--network=none', '--num=51')
    assert status == 2 and '--num: 51 pictures of 8x8 pixels are more than' in ' '.join(output.split())
    monkeypatch.setattr('loss_zoo.worth_it.MAX_BYTES', 20 * 3 * 8 * 8)
    status, output = run(data, f'--images={data}')
    assert status == 2 and 'DATA: 24 pictures of 8x8 pixels are more than' in ' '.join(output.split())


@pytest.mark.parametrize('args, words', [
    (['DATA'], 'give either --network or --images'),
    (['none', '--images=DATA'], 'none: no such folder or zip'),
    (['DATA', '--images='], "'--images': its value is empty"),
    (['DATA', '--images=DATA', '--test='], "'--test': its value is empty"),
    (['PLAIN', '--images=DATA'], 'has no classes; put them in its dataset.json'),
    (['ONE', '--images=DATA'], 'there is only one class; it takes two'),
    (['DATA', '--images=MORE'], 'it has class 2; DATA has classes 0 to 1'),
    (['FEW', '--images=DATA'], 'it takes 4 to keep one for the test')])
def test_what_does_not_do_is_one_sentence(tmp_path, args, words):
    sets = {'DATA': write(tmp_path / 'data', bars(24, 0)), 'PLAIN': write(tmp_path / 'plain', bars(8, 0), False),
            'MORE': write(tmp_path / 'more', bars(9, 0, np.arange(9) % 3)),
            'ONE': write(tmp_path / 'one', bars(8, 0, np.zeros(8, int))), 'FEW': write(tmp_path / 'few', bars(3, 0))}
    for name, path in sets.items():
        args = [arg.replace(name, str(path)) for arg in args]
    status, output = run(*args)
    assert status == 2 and words in ' '.join(output.split()), output
