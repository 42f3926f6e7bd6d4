"""The benchmark that trains a short run of every method,
as far as it decides something: commands and sheets."""
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))

import centre_sheet
import contact_sheet
import zoo_runs
from test_zoo import METHODS

import losses_ext


def test_every_method_and_every_loss_has_a_run():
    named = ' '.join(argument for arguments in zoo_runs.RUNS.values() for argument in arguments)
    chosen = {name for text in named.split() if text.startswith('--reg_type=')
              for name in losses_ext.parse_reg_type(text.partition('=')[2])}
    assert set(METHODS) <= chosen
    assert all(f'--loss={loss}' in named for loss in losses_ext.LOSSES if loss != 'logistic')


def test_a_run_is_started_once_and_then_resumed(tmp_path):
    start = zoo_runs.command('ggdr', tmp_path, 10, None)
    assert f'--outdir={tmp_path}' in start and '--reg_type=ggdr' in start and '--kimg=10' in start
    (tmp_path / '00000-faces').mkdir()
    assert zoo_runs.command('ggdr', tmp_path, 20, None)[2:] == [f'--resume={tmp_path / "00000-faces"}', '--kimg=20']
    assert '--tdgan_data=a,b' in zoo_runs.command('tdgan', tmp_path, 20, 'a,b')     # Its stages depend on --kimg.


def test_a_sheet_shows_the_newest_fakes_of_each_run(tmp_path):
    for name, colour in (('a', 'red'), ('b', 'blue')):
        (tmp_path / name).mkdir()
        Image.new('RGB', (128, 128), 'white').save(tmp_path / name / 'fakes000000.png')
        Image.new('RGB', (128, 128), colour).save(tmp_path / name / 'fakes000007.png')
    contact_sheet.write_contact_sheet({'a': tmp_path / 'a', 'b': tmp_path / 'b'}, tmp_path / 'sheet.png', tiles=(2, 1))
    with Image.open(tmp_path / 'sheet.png') as sheet:
        assert sheet.size == (64 + 8 + 64, 16 + 32)
        assert sheet.getpixel((32, 32)) == (255, 0, 0) and sheet.getpixel((104, 32)) == (0, 0, 255)


@pytest.mark.parametrize('stage_kimg, batch_size, ends', [([25, 25], 16, [25008, 50000]), ([0.5, 1.5, 2], 10, [500, 2000, 4000])])
def test_stages_end_with_whole_batches(stage_kimg, batch_size, ends):
    assert list(centre_sheet.stage_ends(stage_kimg, batch_size)) == ends
