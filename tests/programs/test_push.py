"""`loss-zoo push`: what its card says and does not say, what is sent, and that it can be drawn with again."""
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from network_files import make_generator
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tiny import make_config, make_dataset

from loss_zoo import card, command
from torch_utils import checkpoint
from training.networks import Discriminator
from training.run.run_files import read_options

pytest.importorskip('huggingface_hub', reason='huggingface_hub, the extra "hub", is not installed')
from hub_server import TOKEN, hub_on_this_machine  # noqa: E402

RUNS = Path(__file__).parents[1] / 'fixtures/runs'
SECRET = 'ward-7'           # A folder of the machine, which nobody else is to read.


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / SECRET / '00000-eyes'
    folder.mkdir(parents=True)
    data = make_dataset(tmp_path / SECRET / 'eyes.zip')
    config = make_config(data, run_dir=str(folder), data_paths=[data], data_fingerprints=['ab' * 32], data_num_images=[24],
                         regularizers={'ggdr': {'weight': 10.0, 'res': '8'}}, kimg=20,
                         argv=[f'--outdir={tmp_path}', f'--data={data}', '--reg_type=ggdr', '--kimg=20'])
    (folder / 'training_options.json').write_text(json.dumps(config))
    for kimg in (10, 20):
        checkpoint.save_networks(
            folder / f'network-snapshot-{kimg:06d}.safetensors',
            {'G': None, 'D': Discriminator(0, 16, 3, channel_base=128, channel_max=8), 'G_ema': make_generator(seed=kimg)},
            training_set_kwargs=dict(path=data, use_labels=False))
    rows = [dict(metric='fd1k_efflite0', results=dict(fd1k_efflite0=value),
                 snapshot_pkl=f'network-snapshot-{kimg:06d}.safetensors')
            for kimg, value in ((10, 312.25), (20, 250.5))]
    (folder / 'metric-fd1k_efflite0.jsonl').write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
    return folder


def push(*args):
    result = CliRunner().invoke(command.group, ['push', *map(str, args), '--device=cpu'])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result.exit_code, result.output


def card_of(run_dir, *args):
    out = run_dir.parent.parent / 'out'
    status, output = push(run_dir, 'mia/eyes', f'--out={out}', *args)
    assert status == 0, output
    return out, (out / 'README.md').read_text()


def test_the_card_says_what_the_run_says(run_dir):
    out, card = card_of(run_dir, '--license=cc-by-4.0')
    header = yaml.safe_load(card.split('---')[1])
    assert header['license'] == 'cc-by-4.0' and header['library_name'] == 'stylegan2-loss-zoo'
    for words in ('`eyes.zip` | 24 | `' + 'ab' * 32, 'Licence of the pictures: **not stated**', '`ggdr` (res 8, weight 10.0)',
                  'loss-zoo train --outdir=runs --data=eyes.zip --reg_type=ggdr --kimg=20', '| 10 | 312.2 |', '| 20 | 250.5 |',
                  'are not FID', 'It was not looked whether it does', 'network=hf://mia/eyes ', 'samples.png'):
        assert words in card, words
    assert Image.open(out / 'samples.png').size == (6 * 16, 4 * 16) and (out / 'metrics.svg').is_file()


@pytest.mark.parametrize('kind, data, augmented', [
    ('base', ['a.zip'], 'adaptive (ADA)'), ('tdgan', ['a.zip', 'b.zip'], 'of fixed strength')])
def test_runs_of_before_have_a_card_that_is_true(kind, data, augmented):
    run, = (path.parent for path in RUNS.glob(f'{kind}/*/training_options.json'))
    config = read_options(run)
    made = card.card_of(card.Facts('mia/eyes', config, {}, 1, 'x.safetensors', ['G_ema'], '8x8 pictures'))
    assert all(f'| `{name}` |' in made for name in data) and 'never were on the machine' not in made
    assert f'Augmentation: {augmented}.' in made and 'Each also mirrored' not in made


def test_options_of_strangers_stay_words_and_where_centres_connect_is_not_told():
    options = {'<img src=x>': 1, 'weight': 2.0, 'listen': 'ward7', 'tls': 'ward7', 'mode': 'remote'}
    config = dict(regularizers={'tdgan': options}, data=[], argv=['--outdir=o', '--tdgan_listen=ward7:7300', '--seed=1'])
    made = card.card_of(card.Facts('mia/eyes', config, {}, 1, 'x.safetensors', ['G_ema'], '8x8 pictures'))
    assert '<img' not in made and 'ward7' not in made and '`tdgan` (mode remote, weight 2.0)' in made


def test_no_folder_of_the_machine_is_named(run_dir):
    out, _ = card_of(run_dir, '--whole')
    assert sorted(path.name for path in out.iterdir()) == ['README.md', 'metrics.svg', 'network-snapshot-000020.safetensors',
                                                           'samples.png']
    for path in out.iterdir():
        assert SECRET.encode() not in path.read_bytes() and b'/tmp' not in path.read_bytes(), path.name


def test_the_critic_stays_unless_it_is_asked_for(run_dir):
    out, card = card_of(run_dir)
    assert set(checkpoint.load_document(out / 'network-snapshot-000020.safetensors')['networks']) == {'G_ema'}
    assert 'in the file: G_ema.' in card
    (run_dir.parent.parent / 'out').rename(run_dir.parent.parent / 'first')
    out, card = card_of(run_dir, '--whole', '--snapshot=network-snapshot-000010.safetensors')
    assert {'D', 'G_ema'} <= set(checkpoint.load_document(out / 'network-snapshot-000010.safetensors')['networks'])


@pytest.mark.parametrize('low, words', [
    (0.0, 'No sign of copying: 3 of 100'), (0.2, 'Training pictures **are copied**: 3 of 100')])
def test_the_card_says_whether_it_copies(run_dir, low, words):
    found = dict(num_fakes=100, num_copies=3, low=low, high=0.4, limit=1.0, num_unseen=50, are_held_out=True)
    lines = [json.dumps({**found, 'snapshot_pkl': name}) for name in
             ('network-snapshot-000020.safetensors', 'network-snapshot-000010.safetensors')]
    (run_dir / 'copied.jsonl').write_text('\n'.join([*lines, '{"num_fakes": "many"}', 'x']))
    card = card_of(run_dir)[1]
    assert words in card and '50 pictures held out from training' in card


def test_the_worst_pairs_are_sent_only_if_asked_for(run_dir):
    status, output = push(run_dir, 'mia/eyes', f'--out={run_dir.parent.parent / "none"}', '--show-pairs')
    assert status == 2 and 'copied-network-snapshot-000020.png is not there; `loss-zoo copied' in output
    found = dict(num_fakes=100, num_copies=3, low=0.1, high=0.4, limit=1.0, num_unseen=50, are_held_out=True)
    row = {**found, 'snapshot_pkl': 'network-snapshot-000020.safetensors'}
    (run_dir / 'copied.jsonl').write_text(json.dumps(row))
    info = PngInfo()
    info.add_text('Source', SECRET)
    Image.new('RGB', (128, 32), 'red').save(run_dir / 'copied-network-snapshot-000020.png', pnginfo=info)
    out, card = card_of(run_dir)
    assert not (out / 'copied.png').exists() and 'copied.png' not in card
    out.rename(out.parent / 'first')
    out, card = card_of(run_dir, '--show-pairs')
    assert '(copied.png)' in card and SECRET.encode() not in (out / 'copied.png').read_bytes()
    assert Image.open(out / 'copied.png').getpixel((0, 0)) == (255, 0, 0)


def test_what_cannot_be_written_leaves_no_half_of_it(run_dir, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, 'No space left on device', 'samples.png')
    monkeypatch.setattr('loss_zoo.push.write_samples', full)
    status, output = push(run_dir, 'mia/eyes', f'--out={tmp_path / "out"}')
    assert status == 1 and 'samples.png: No space left on device' in output and not (tmp_path / 'out').exists()


def test_what_a_stranger_wrote_into_a_run_stays_in_its_line(run_dir):
    config = json.loads((run_dir / 'training_options.json').read_text())
    config['data_paths'] = ['/x/evil`|\n# Heading\n[click](http://evil)']
    (run_dir / 'training_options.json').write_text(json.dumps(config))
    card = card_of(run_dir)[1]
    assert '\n# Heading' not in card and '`evil??' not in card.replace('`evil???# Heading', '')


def test_it_is_sent_and_can_be_drawn_with(run_dir, tmp_path, monkeypatch):
    with hub_on_this_machine(monkeypatch, tmp_path) as server:
        status, output = push(run_dir, 'mia/eyes')
        assert status == 1 and 'hf://mia/eyes: ' in output and 'token' in output and ('model', 'mia/eyes') not in server.repos
        monkeypatch.setenv('HF_TOKEN', TOKEN)
        status, output = push(run_dir, 'mia/eyes', '--private')
        assert status == 0 and 'hf://mia/eyes: 4 files' in output, output
        assert server.private == {'mia/eyes'}
        assert set(server.repos['model', 'mia/eyes']) == {'README.md', 'metrics.svg', 'network-snapshot-000020.safetensors',
                                                          'samples.png'}
        result = CliRunner().invoke(command.group, ['generate', '--network=hf://mia/eyes', '--seeds=3', '--device=cpu',
                                                    f'--outdir={tmp_path / "drawn"}'])
        assert result.exit_code == 0, result.output
        assert (tmp_path / 'drawn/seed0003.png').is_file()


@pytest.mark.parametrize('args, words', [
    (['nowhere', 'mia/eyes'], 'nowhere is not a run directory'),
    (['.', 'eyes'], "'eyes' is not of the form USER/REPO"), (['.', '../x'], 'is not of the form'),
    (['.', 'mia/eyes', '--license=a b'], "'a b' is not of the form NAME"),
    (['.', 'mia/eyes', '--out=.'], '. is there already; name a new folder')])
def test_a_wrong_option_is_one_sentence(args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output = push(*args)
    assert status == 2 and words in output


def test_offline_nothing_is_tried(run_dir, monkeypatch):
    monkeypatch.setenv('DNNLIB_OFFLINE', '1')
    status, output = push(run_dir, 'mia/eyes')
    assert status == 2 and '--out=DIR writes it' in ' '.join(output.split())
