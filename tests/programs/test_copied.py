"""copied.py: planted copies are found, pictures that are none are not, and what was found is said."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from network_files import make_generator
from PIL import Image, ImageEnhance
from scipy.stats import beta
from tiny import make_dataset

import copied
from metrics.copied_share import judge
from torch_utils import checkpoint
from training.dataset import ImageFolderDataset

ROOT = Path(__file__).parents[2]
FACES = ROOT / 'datasets/emoji-faces-noto-32.zip'

@pytest.fixture(scope='module')
def faces():
    dataset = ImageFolderDataset(str(FACES))
    return [Image.fromarray(dataset[i][0].transpose(1, 2, 0)) for i in range(len(dataset))]


def write(images, folder):
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f'{number:04d}.png')
    return folder


def run(*args):
    result = CliRunner().invoke(copied.main, [*map(str, args), '--device=cpu', '--workers=0'])
    assert result.exit_code == 0, result.output
    sentence, numbers = result.stdout.splitlines()[:2]
    return sentence, json.loads(numbers)


def spoilt(image, number):
    """A copy, as generators make them: mirrored, brighter, noisy, or as it is."""
    kind = number % 4
    if kind == 0:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if kind == 1:
        return ImageEnhance.Brightness(image).enhance(1.05)
    if kind == 2:
        return image
    noise = np.random.default_rng(number).normal(0, 3, (*image.size[::-1], 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def shifted(image):
    """A copy that lies half a pixel beside it, which blurs a drawing of 32 pixels a good deal."""
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, 0.5, 0, 1, 0), Image.Resampling.BILINEAR, fillcolor='white')


@pytest.mark.parametrize('held_out', [True, False])
def test_planted_copies_are_found_and_unseen_pictures_are_not_taken_for_copies(faces, tmp_path, held_out):
    order = np.random.default_rng(0).permutation(len(faces))
    train, others, unseen = (write([faces[i] for i in part], tmp_path / name) for part, name in (
        (order[:300], 'train'), (order[300:600], 'others'), (order[600:900], 'unseen')))
    copies = write([spoilt(faces[i], number) for number, i in enumerate(order[:300])], tmp_path / 'copies')
    args = [f'--data={train}', *([f'--held-out={others}'] if held_out else [])]
    sentence, found = run(f'--images={copies}', *args)
    assert sentence.startswith('Training pictures are copied: ')
    assert found['are_held_out'] == held_out and found['num_fakes'] == 300
    # Drawings of one face in several skin tones are nearer to one another than
    # held-out ones are: without held-out images more must pass for chance.
    assert found['num_copies'] >= (0.99 if held_out else 0.97) * 300
    beside = write([shifted(faces[i]) for i in order[:300]], tmp_path / 'beside')
    assert run(f'--images={beside}', *args)[1]['num_copies'] >= 0.85 * 300
    sentence, found = run(f'--images={unseen}', *args)
    assert sentence.startswith('No sign of copying: ') and found['num_copies'] <= 0.01 * 300


def test_a_verdict_is_a_share_with_an_interval():
    """Limit and interval written out: the interval of a share by quantiles of the beta distribution."""
    unseen = torch.arange(1, 201, dtype=torch.float64)
    verdict = judge(torch.cat([torch.zeros(30), torch.full([70], 500)]).double(), unseen, True)
    assert (verdict.num_copies, verdict.num_fakes, verdict.num_unseen) == (30, 100, 200)
    assert verdict.limit == 2 and verdict.copies            # One of 200 lies below: at most 1 %.
    assert verdict.low == pytest.approx(beta.ppf(0.025, 30, 71)) and verdict.high == pytest.approx(beta.ppf(0.975, 31, 70))
    assert str(verdict).startswith('Training pictures are copied: 30 of 100 pictures (30.0 %, 95 % interval 21.2 to 40.0 %)')
    assert not judge(torch.tensor([0.] * 2 + [500.] * 98).double(), unseen, True).copies      # As many as chance gives.


@pytest.mark.parametrize('out', ['pairs.png', None])
def test_a_network_is_compared_with_the_data_of_its_run(tmp_path, out):
    data = make_dataset(tmp_path / 'data.zip', num=40)
    checkpoint.save_networks(tmp_path / 'net.safetensors', {'G_ema': make_generator()})
    args = ['--num=100'] + ([f'--out={tmp_path / out}'] if out else [])
    sentence, found = run(f'--network={tmp_path / "net.safetensors"}', f'--data={data}', *args)
    assert sentence.startswith('No sign of copying: 0 of 100 ') and 'each compared with the others' in sentence
    assert found['num_unseen'] == 40 and not found['are_held_out']
    if out:
        assert Image.open(tmp_path / out).size == (2 * 16 + 4, 8 * 16)
    missing = CliRunner().invoke(copied.main, [f'--network={tmp_path / "net.safetensors"}', '--device=cpu'])
    assert missing.exit_code == 2 and 'does not say what it was trained on; give --data' in missing.output


def test_too_few_pictures_say_nothing(tmp_path):
    data = make_dataset(tmp_path / 'data.zip', num=12)
    result = CliRunner().invoke(copied.main, [f'--images={data}', f'--data={data}', '--device=cpu'])
    assert result.exit_code == 1 and '12 training images are too few to say what a copy is; it takes 20' in result.output


@pytest.mark.parametrize('args, words', [
    (['--images=nowhere', '--data=nowhere'], 'nowhere: no such folder or zip'),
    (['--network=nowhere.pkl'], 'no such file'),
    (['--num=3', '--network=x'], '--num'),
    (['--out=pairs.txt', '--network=x'], "'--out': pairs.txt needs an ending"),
])
def test_a_wrong_option_is_named_before_work_is_done(args, words):
    result = CliRunner().invoke(copied.main, args)
    assert result.exit_code == 2 and words in result.output.replace('Invalid value for --out', "'--out'"), result.output
