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
from tiny import make_config, make_dataset

import copied
import report
from metrics.copied_share import judge
from torch_utils import checkpoint
from training.dataset import ImageFolderDataset
from training.run import copies

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


def test_of_a_run_the_answer_and_the_worst_pairs_are_kept_and_shown_on_its_page(tmp_path):
    data, run_dir = make_dataset(tmp_path / 'data.zip', num=40), tmp_path / '00000-data'
    run_dir.mkdir()
    (run_dir / 'training_options.json').write_text(json.dumps(make_config(data, run_dir=str(run_dir))))
    checkpoint.save_networks(run_dir / 'network-snapshot-000001.safetensors', {'G_ema': make_generator()},
                             training_set_kwargs=dict(path=data, use_labels=False))
    assert copies.latest(run_dir) is None
    result = CliRunner().invoke(copied.main, [str(run_dir), '--num=100', '--device=cpu', '--workers=0'])
    assert result.exit_code == 0, result.output
    found = copies.latest(run_dir, 'network-snapshot-000001.safetensors')
    assert (found['num_fakes'], found['num_unseen']) == (100, 40)
    assert copies.latest(run_dir, 'x.safetensors') is None
    pairs = np.asarray(Image.open(run_dir / 'copied-network-snapshot-000001.png'))
    images = [image.transpose(1, 2, 0) for image, _ in ImageFolderDataset(str(data), xflip=True)]
    assert pairs.shape == (2 * 16, 8 * 16, 3)
    for column in range(8):                 # Below are training pictures, perhaps mirrored.
        assert any(np.array_equal(pairs[16:, 16 * column:16 * (column + 1)], image) for image in images)
    page = ' '.join((run_dir / 'report.html').read_text().split())
    assert f'<strong>No sign of copying</strong>: {copies.in_words(found)}.' in page
    assert f'alt="Worst pairs of {run_dir.name}"' in page
    (run_dir / 'copied-network-snapshot-000001.png').write_bytes(b'no picture')
    report.refresh(run_dir)
    assert 'alt="Worst pairs' not in (run_dir / 'report.html').read_text()


def test_rows_that_a_stranger_wrote_are_passed_over(tmp_path):
    whole = dict(num_fakes=100, num_copies=3, low=0.02, high=0.1, num_unseen=50, are_held_out=True,
                 snapshot_pkl='network-snapshot-000001.safetensors')
    changes = [{'snapshot_pkl': '../../x.safetensors'}, {'low': 'x'}, {'num_fakes': None}]
    bad = [*({**whole, **change} for change in changes), [], 3]
    (tmp_path / 'copied.jsonl').write_text('\n'.join(map(json.dumps, [whole, *bad])) + '\n{')
    assert copies.latest(tmp_path) == whole and copies.answer(whole) == 'Training pictures are copied'
    assert copies.in_words(whole).startswith('3 of 100 pictures (3.0 %, 95 % interval 2.0 to 10.0 %) are nearer')


def test_too_few_pictures_say_nothing(tmp_path):
    data = make_dataset(tmp_path / 'data.zip', num=12)
    result = CliRunner().invoke(copied.main, [f'--images={data}', f'--data={data}', '--device=cpu'])
    assert result.exit_code == 1 and '12 training images are too few to say what a copy is; it takes 20' in result.output


@pytest.mark.parametrize('args, words', [
    (['--images=nowhere', '--data=nowhere'], 'nowhere: no such folder or zip'),
    (['--network=nowhere.pkl'], 'no such file'),
    (['--num=3', '--network=x'], '--num'),
    (['runs', '--network=x'], 'runs and --network=x both name a network; give one'),
    (['--out=pairs.txt', '--network=x'], "'--out': pairs.txt needs an ending"),
])
def test_a_wrong_option_is_named_before_work_is_done(args, words):
    result = CliRunner().invoke(copied.main, args)
    assert result.exit_code == 2 and words in result.output.replace('Invalid value for --out', "'--out'"), result.output
