"""`train.py` as a user meets it: what options mean, what it refuses, what a run leaves behind."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny import ALL_PHASES, make_dataset

import train
from legacy import load_network_pkl
from metrics.weights import Found
from training.config.base_configs import auto_config, base_config
from training.config.new_run import next_run_id
from training.config.schema import Config
from training.run.scores import scored_set

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    make_dataset(folder / 'plain.zip', num=24)
    make_dataset(folder / 'd32l.zip', num=40, num_classes=4, res=32)
    return folder


def invoke(*args):
    return CliRunner().invoke(train.main, [str(arg) for arg in args])


def dry_run(data, *args, name='plain.zip'):
    result = invoke('--outdir', data / 'runs', '--data', data / name, '-n', *args)
    assert result.exit_code == 0, result.output
    return Config.from_json(json.loads(result.output[result.output.index('{'):result.output.rindex('}') + 1]))


def resolve(data, *args, name='plain.zip'):
    config = dry_run(data, *args, name=name)
    return Path(config['run_dir']).name.split('-', 1)[1], config


# What options mean.

def test_description_string(data):
    """What of the command goes into the name of a run, and in which order."""
    name, _ = resolve(data, '--cond=1', '--subset=10', '--mirror=1', '--cfg=paper256', '--gamma=10', '--kimg=500', '--batch=8',
                      '--aug=ada', '--target=0.7', '--augpipe=bgcf', '--resume=ffhq256', '--freezed=4', name='d32l.zip')
    assert name == 'd32l-cond-subset10-mirror-paper256-gamma10-kimg500-batch8-ada-target0.7-bgcf-resumeffhq256-freezed4'


@pytest.mark.parametrize('args, name', [
    ([], 'plain-auto1'),
    (['--gpus=2'], 'plain-auto2'),
    (['--resume=noresume'], 'plain-auto1-noresume'),
    (['--resume=https://example.org/some.pkl'], 'plain-auto1-resumecustom'),
    (['--aug=noaug'], 'plain-auto1-noaug'),
    (['--aug=fixed', '--p=0.5'], 'plain-auto1-fixed-p0.5'),
    (['--DiffAugment=color,cutout'], 'plain-auto1-color-cutout'),
    (['--gamma=0.00001'], 'plain-auto1-gamma1e-05'),
    (['--subset=24'], 'plain-subset24-auto1'),
])
def test_run_name(data, args, name):
    assert resolve(data, *args)[0] == name


@pytest.mark.parametrize('args, methods, noted', [
    (['--loss=relativistic'], ['r2'], True),
    (['--loss=osgan', '--osgan_game=relativistic'], ['r2'], True),
    (['--loss=relativistic', '--reg_type=ggdr'], ['ggdr'], True),
    (['--loss=relativistic', '--reg_type=ggdr,r2'], ['ggdr', 'r2'], False),
    (['--loss=relativistic', '--reg_type=none'], [], True),
    (['--loss=relativistic', '--gamma=0'], [], False),
    (['--loss=hinge'], [], False)])
def test_c3_the_relativistic_game_brings_r2(data, args, methods, noted):
    result = invoke('--outdir', data / 'runs', '--data', data / 'plain.zip', '--aug=noaug', '-n', *args)
    config = json.loads(result.stdout[result.stdout.index('{'):result.stdout.rindex('}') + 1])
    assert list(config['regularizers']) == methods
    assert ('Note: --reg_type=r2 belongs to' in result.stderr) == noted


def test_run_name_of_centres_has_no_path(data, tmp_path):
    """The same command must find the run again, whose directory is one level below --outdir."""
    make_dataset(data / 'other.zip', num=8)
    centres = f'--tdgan_data={data}/plain.zip,{data}/other.zip'
    result = invoke('--outdir', tmp_path, '--reg_type=tdgan', centres, '--cfg=tiny', '--tdgan_remind=5', '-n')
    assert f'"run_dir": "{tmp_path}/00000-plain+other-tiny-tdgan-tdgan_remind5"' in result.output


@pytest.mark.parametrize('res, gpus, batch, batch_gpu, gamma, ema_kimg', [
    (32, 1, 32, 32, 0.0064, 10), (32, 2, 64, 32, 0.0032, 20), (256, 1, 16, 16, 0.8192, 5), (256, 8, 64, 8, 0.2048, 20),
    (512, 4, 32, 8, 1.6384, 10), (1024, 1, 4, 4, 52.4288, 1.25), (1024, 8, 32, 4, 6.5536, 10), (256, 64, 64, 1, 0.2048, 20)])
def test_auto_formulas(res, gpus, batch, batch_gpu, gamma, ema_kimg):
    """Values worked out by hand."""
    config = auto_config(res, gpus)
    assert (config.batch, config.batch // config.ref_gpus) == (batch, batch_gpu)
    assert config.gamma == pytest.approx(gamma) and config.ema_kimg == ema_kimg
    assert config.mbstd == min(batch // gpus, 4)


def test_base_configurations():
    """The table of base configurations, written out."""
    table = dict(
        stylegan2=(25000, 32, 4, 1, 0.002, 10, 10, None, 8, 4), paper256=(25000, 64, 8, 0.5, 0.0025, 1, 20, None, 8, 8),
        paper512=(25000, 64, 8, 1, 0.0025, 0.5, 20, None, 8, 8), paper1024=(25000, 32, 4, 1, 0.002, 2, 10, None, 8, 4),
        cifar=(100000, 64, 32, 1, 0.0025, 0.01, 500, 0.05, 2, 32), low_shot=(300, 8, 4, 1, 0.002, 10, 10, None, 2, 8))
    for name, (kimg, batch, mbstd, fmaps, lr, gamma, ema, ramp, depth, batch_gpu) in table.items():
        c = base_config(name, 256, 1)
        assert (c.kimg, c.batch, c.mbstd, c.channel_base, c.lr, c.gamma, c.ema_kimg, c.ema_rampup, c.mapping_layers,
                c.batch // (c.ref_gpus or 1)) == (kimg, batch, mbstd, int(fmaps * 32768), lr, gamma, ema, ramp, depth, batch_gpu)


def test_cifar_switches(data):
    config = dry_run(data, '--cfg=cifar')
    assert config['loss_kwargs']['pl_weight'] == config['loss_kwargs']['style_mixing_prob'] == 0
    assert config['D_kwargs']['architecture'] == 'orig'


def test_low_shot_and_its_snapshots(data):
    config = dry_run(data, '--cfg=low_shot', '--DiffAugment=color,translation,cutout')
    assert config['snap'] == 10 and config['tick'] == 4 and config['batch_gpu'] == 8
    assert dry_run(data, '--cfg=low_shot', '--snap=3')['snap'] == 3
    assert 'cannot be divided among 16 processes' in invoke('--outdir=o', f'--data={data}/plain.zip', '--cfg=low_shot',
                                                            '--gpus=16', '-n').output


def test_the_average_of_g(data):
    name, config = resolve(data, '--cfg=low_shot', '--ema-kimg=2.5', '--ema-rampup=0.1')
    assert name == 'plain-low_shot-emakimg2.5-emarampup0.1' and (config['ema_kimg'], config['ema_rampup']) == (2.5, 0.1)
    config = dry_run(data, '--ema-rampup=0')
    assert config['ema_rampup'] is None and config['ema_kimg'] == auto_config(16, 1).ema_kimg
    assert dry_run(data, '--resume=ffhq512')['ema_rampup'] is None
    assert dry_run(data, '--resume=ffhq512', '--ema-rampup=0.2')['ema_rampup'] == 0.2
    assert dry_run(data, '--cfg=r3gan', '--batch=16', '--batch-gpu=16', '--ema-kimg=30')['ramps']['ema_kimg'] == [0, 30]
    assert '--ema-rampup=2: must be' in invoke('--outdir=o', f'--data={data}/plain.zip', '--ema-rampup=2', '-n').output


def test_tiny_is_what_draws_soonest(data):
    """And `make demo` trains it as it is. In a run of its length, and in one of fine-tuning, ADA can reach any strength."""
    config = dry_run(data, '--cfg=tiny').to_json()
    typed = dry_run(data, '--cfg=tiny', '--batch=4', '--glr=0.005', '--dlr=0.005', '--cbase=512', '--gamma=0.25', '--pl_weight=0',
                    '--mixing-prob=0', '--ada-kimg=20').to_json()           # 0.25: at 16 pixels.
    for other in ('command', 'argv', 'run_dir'):
        del config[other], typed[other]
    assert config == typed
    assert dry_run(data, '--cfg=tiny', '--resume=ffhq512')['ada_kimg'] == config['ada_kimg'] < config['kimg'] / 5
    makefile = (ROOT / 'Makefile').read_text()
    commands, = [line for line in makefile.splitlines() if 'train.py' in line and '--cfg=tiny' in line]
    assert not re.findall('--(batch|glr|dlr|cbase|gamma|pl_weight|mixing-prob)', commands)
    plan = json.loads((ROOT / 'benchmarks/evidence/plans/demo32.json').read_text())         # Its game was measured.
    measured = plan['stages'][0]['cells']['relativistic+r2']['options']
    game = {name: re.search(rf'^{name} *\?= (.*)$', makefile, re.M)[1] for name in ('LOSS', 'REG')}
    assert measured == ['--aug=noaug', f'--loss={game["LOSS"]}', f'--reg_type={game["REG"]}']


def test_details_of_a_base_configuration_can_be_given(data):
    config = dry_run(data, '--cfg=tiny', '--glr=0.001', '--dlr=0.003', '--cbase=256', '--cmax=32', '--map-depth=3',
                     '--mbstd-group=2', '--mixing-prob=0.25', '--ada-kimg=50')
    assert (config['G_opt_kwargs']['lr'], config['D_opt_kwargs']['lr']) == (0.001, 0.003)
    for kwargs in (config['G_kwargs']['synthesis_kwargs'], config['D_kwargs']):
        assert (kwargs['channel_base'], kwargs['channel_max']) == (256, 32)
    assert config['G_kwargs']['mapping_kwargs']['num_layers'] == 3
    assert config['D_kwargs']['epilogue_kwargs']['mbstd_group_size'] == 2
    assert config['loss_kwargs']['style_mixing_prob'] == 0.25 and config['ada_kimg'] == 50
    assert config['run_dir'].endswith('-tiny-cbase256-cmax32-mapdepth3-mbstdgroup2-mixingprob0.25-glr0.001-dlr0.003-adakimg50')
    assert dry_run(data, '--resume=ffhq512', '--ada-kimg=20')['ada_kimg'] == 20
    held_out = dry_run(data, '--loss=wgan', '--ada-signal=heldout', '--subset=8', '--batch-gpu=4', '--batch=4')
    assert held_out['ada_signal'] == 'heldout' and held_out['held_out'] == 'rest' and held_out['target'] == 0.6
    refused = invoke('--outdir=o', f'--data={data}/plain.zip', '--ada-signal=heldout', '-n')
    assert '--ada-signal=heldout needs images' in refused.output
    assert dry_run(data, '--mbstd-group=0')['D_kwargs']['epilogue_kwargs'] == dict(mbstd_group_size=1, mbstd_num_channels=0)
    refused = invoke('--outdir=o', f'--data={data}/plain.zip', '--aug=noaug', '--ada-kimg=9', '-n')
    assert '--ada-kimg has no effect' in refused.output


def test_resume_shortens_ada_and_drops_the_ramp(data):
    config = dry_run(data, '--resume=ffhq512')
    assert config['ada_kimg'] == 100 and config['ema_rampup'] is None
    assert config['resume_pkl'].endswith('/ffhq-res512-mirror-stylegan2-noaug.pkl')


def test_subset_and_mirror(data):
    kwargs = dry_run(data, '--subset=10', '--mirror=1', '--seed=3')['training_set_kwargs']
    assert (kwargs['max_size'], kwargs['random_seed'], kwargs['xflip'], kwargs['use_labels']) == (10, 3, True, False)
    assert 'random_seed' not in dry_run(data, '--subset=24')['training_set_kwargs']


def test_metrics_can_compare_with_another_set(data, tmp_path):
    other = str(make_dataset(tmp_path / 'other.zip', num=9))
    config = dry_run(data, f'--metricdata={other}', '--subset=8')
    assert config['metricdata'] == other and scored_set(config) == {
        **config['training_set_kwargs'], 'path': other, 'max_size': None}
    assert scored_set(plain := dry_run(data)) == plain['training_set_kwargs'] and 'metricdata' not in plain
    large = make_dataset(tmp_path / 'large.zip', num=4, res=32)
    for args, words in [([f'--metricdata={large}'], 'images and labels have the shape'),
                        (['--metricdata=nowhere'], 'Error: --metricdata: '),
                        (['--held-out=nowhere'], 'Error: --held-out: '),
                        ([f'--metricdata={other}', '--metrics=none'], 'no effect with --metrics=none')]:
        result = invoke('--outdir=o', f'--data={data}/plain.zip', '-n', *args)
        assert result.exit_code == 2 and words in ' '.join(result.output.split())


def test_what_is_held_out(data):
    """What --subset leaves, if it fills a micro-batch, or another set of the same shape."""
    small = ['--cfg=tiny', '--batch=8']
    assert dry_run(data, *small, '--subset=16')['held_out'] == 'rest'
    assert 'held_out' not in dry_run(data, *small, '--subset=17') and 'held_out' not in dry_run(data, *small)
    other = make_dataset(data / 'held.zip', num=8)
    assert dry_run(data, *small, f'--held-out={other}')['held_out'] == other
    for args, sentence in [([f'--held-out={data / "d32l.zip"}'], "'img_resolution': 32"),
                           ([f'--held-out={other}', '--batch=16'], '8 images do not fill a batch of 16')]:
        result = invoke('--outdir', data / 'runs', '--data', data / 'plain.zip', '-n', *small, *args)
        assert result.exit_code == 2 and sentence in result.output


@pytest.fixture
def no_inception(monkeypatch):
    """A machine with no weights but those that need no download."""
    from metrics import weights
    real = weights.candidates
    monkeypatch.setattr(weights, 'candidates', lambda key, options: real(key, options) if key == 'efflite0' else [])


def test_a_metric_without_its_weights_is_a_usage_error_before_any_work(data, no_inception):
    result = invoke('--outdir', data / 'none', '--data', data / 'plain.zip', '--metrics=fd5k_efflite0,fid50k_full')
    assert result.exit_code == 2 and 'fid50k_full needs the Inception-v3 FID weights' in result.output
    assert not (data / 'none').exists()


def test_the_default_metric_gives_way_to_one_that_needs_no_download_and_says_so(data, no_inception, capsys):
    config = dry_run(data)
    assert config['metrics'] == ['fid50k_full'] and train.measurable_metrics(config) == ['fd5k_efflite0']
    assert 'Note: fid50k_full needs a detector whose weights are not here; fd5k_efflite0' in capsys.readouterr().err
    assert train.measurable_metrics(dry_run(data, '--metrics=none')) == []


def test_detectors_are_fetched_if_that_is_asked_for(data, no_inception, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr('metrics.weights._download', lambda key, options: asked.append(key))
    result = invoke('--outdir', data / 'none', '--data', data / 'plain.zip', '-n', '--download-detectors',
                    '--metrics=fid50k_full,fd5k_efflite0')
    assert result.exit_code == 0 and asked == []
    assert 'the weights of detectors for fid50k_full, fd5k_efflite0 would be downloaded' in result.output
    monkeypatch.setattr('metrics.weights._download', lambda key, options: asked.append(key) or Found(Path('x.pth'), ''))
    assert train.measurable_metrics(dry_run(data), download=True) == ['fid50k_full'] and asked == ['inception']
    assert 'download_detectors' not in dry_run(data, '--download-detectors')['command']


def test_formats_of_snapshots(data):
    assert 'snapshot_format' not in dry_run(data)
    assert dry_run(data, '--snapshot-format=pkl,native')['snapshot_format'] == ['native', 'pkl']
    for text in ('pkl', 'native,onnx', ','):
        result = invoke('--outdir', data / 'none', '--data', data / 'plain.zip', f'--snapshot-format={text}')
        assert result.exit_code == 2 and 'must be native or native,pkl' in ' '.join(result.output.split())


def test_precision(data):
    fp32 = dry_run(data, '--device=cpu')
    assert fp32['D_kwargs']['num_fp16_res'] == 0 and fp32['D_kwargs']['conv_clamp'] is None
    bf16 = dry_run(data, '--precision=bf16')
    assert bf16['G_kwargs']['synthesis_kwargs'] == dict(channel_base=16384, channel_max=512, num_fp16_res=4,
                                                        conv_clamp=256, reduced_dtype='bfloat16')


def test_run_number_is_the_next_one(tmp_path, data):
    for name in ('00003-x', '00010-y', 'notes', '7'):
        (tmp_path / name).mkdir()
    (tmp_path / '99999-file').touch()
    assert next_run_id(tmp_path) == 11
    assert next_run_id(tmp_path / 'missing') == 0


def test_dry_run_writes_nothing(data):
    dry_run(data)
    assert not (data / 'runs').exists()


def test_help_is_fast_because_nothing_heavy_is_imported():
    code = 'import sys, train; train.main(["--help"], standalone_mode=False); ' \
           'sys.exit(any(name in sys.modules for name in ("torch", "numpy", "scipy", "PIL")))'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


def test_first_iteration_is_reached_without_modules_that_take_long_to_import(data, tmp_path):
    """Of torch.compile (a second), of metrics, of logs that nobody asked for."""
    code = """
import os, sys, train
from training.run.ticks import Ticks
def stop(*_):
    print('loaded:', *sorted({'torch._dynamo', 'sympy', 'scipy', 'matplotlib', 'wandb', 'onnx'} & set(sys.modules)))
    sys.stdout.flush()
    os._exit(0)
Ticks.after_iteration = stop
train.main()
"""
    result = subprocess.run(
        [sys.executable, '-c', code, f'--outdir={tmp_path}', f'--data={data / "plain.zip"}', '--cfg=tiny', '--workers=0'],
        cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1].strip() == 'loaded:', result.stdout[-2000:] + result.stderr[-2000:]


# What it refuses: exit status 2, one sentence, no traceback.

@pytest.mark.parametrize('args, sentence', [
    (['--seed=-1'], '--seed=-1: must be at least 0 and at most 4294967295'),
    (['--seed=4294967296'], '--seed=4294967296: must be at least 0 and at most 4294967295'),
    (['--gamma=inf'], '--gamma=inf: must be at least 0 and at most 1000000000'),
    (['--reg_type=lecam', '--lecam_weight=nan'], '--lecam_weight=nan: must be a number, at least 0'),
    (['--gpus=1024'], '--gpus=1024: that many processes on a CPU'),
    (['--gpus=2147483648'], '--gpus=2147483648: must be at least 1 and at most 1024'),
    (['--gpus=3'], '--gpus=3: must be a power of two'),
    (['--gpus=0'], '--gpus=0: must be at least 1 and at most 1024'),
    (['--snap=0'], '--snap=0: must be at least 1'),
    (['--metrics=fid3'], 'there is no metric fid3'),
    (['--cond=1'], 'has no labels'),
    (['--subset=25'], '--subset=25: must be between 1 and 24'),
    (['--subset=0'], '--subset=0: must be at least 1'),
    (['--gamma=-1'], '--gamma=-1: must be at least 0'),
    (['--resume=nowhere.pkl'], '--resume: No such file or directory: nowhere.pkl'),
    (['--kimg=0'], '--kimg=0: must be at least 1'),
    (['--batch=7', '--gpus=2'], '--batch=7: must be a multiple of --gpus=2'),
    (['--batch=6'], 'are no multiple of the minibatch-std group of 4'),
    (['--cfg=stylegan2', '--gpus=16'], 'cannot be divided among 16 processes in pieces of 4'),
    (['--aug=fixed'], '--aug=fixed needs --p'),
    (['--p=0.5'], '--p has no effect without --aug=fixed'),
    (['--aug=fixed', '--p=2'], '--p=2: must be at least 0 and at most 1'),
    (['--target=0.5', '--aug=noaug'], '--target has no effect without --aug=ada'),
    (['--target=-1'], '--target=-1: must be at least 0 and at most 1'),
    (['--augpipe=bg', '--aug=noaug'], '--augpipe has no effect with --aug=noaug'),
    (['--DiffAugment=blur'], 'blur'),
    (['--DiffAugment=color', '--target=0.5'], '--target has no effect with --DiffAugment'),
    (['--freezed=-1'], '--freezed=-1: must be at least 0'),
    (['--workers=-1'], '--workers=-1: must be at least 0'),
    (['--fp32=1', '--precision=bf16'], 'contradict each other'),
    (['--reg_type=nonsense'], "--reg_type=nonsense: unknown name 'nonsense'"),
    (['--reg_type=none,none'], 'none is named more than once'),
    (['--loss=wgan'], '--aug=ada cannot follow --loss=wgan'),
    (['--cfg=nonsense'], 'nonsense'),
    (['--kimg=many'], 'many'),
])
def test_impossible_options(data, args, sentence):
    result = invoke('--outdir', data / 'runs', '--data', data / 'plain.zip', '--device=cpu', '-n', *args)
    assert result.exit_code == 2 and sentence in result.output, result.output
    assert 'Traceback' not in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has CUDA')
def test_a_device_that_is_not_there(data):
    result = invoke('--outdir', data / 'runs', '--data', data / 'plain.zip', '--device=cuda', '-n')
    assert result.exit_code == 2 and '--device=cuda' in result.output and '--device=cpu' in result.output


def make_bad_data(kind, folder):
    """A path that cannot be trained on, and what must be said of it."""
    import io
    import zipfile

    import PIL.Image

    def png(size):
        data = io.BytesIO()
        PIL.Image.new('RGB', size, (9, 9, 9)).save(data, 'png')
        return data.getvalue()
    path = folder / 'bad.zip'
    if kind == 'missing':
        return path, 'no such file'
    if kind == 'empty':
        (folder / 'empty').mkdir()
        return folder / 'empty', 'no images'
    if kind == 'garbage':
        path.write_bytes(b'PK nonsense')
        return path, 'bad.zip'
    contents = dict(mixed=[(16, 16), (16, 32)], oblong=[(16, 32)] * 2, odd=[(24, 24)] * 2, corrupt=[(16, 16)] * 3,
                    labels=[(16, 16)] * 2)[kind]
    with zipfile.ZipFile(path, 'w') as archive:
        for i, size in enumerate(contents):
            data = png(size)
            archive.writestr(f'{i:04d}.png', data[:60] if kind == 'corrupt' and i == 1 else data)
        if kind == 'labels':
            archive.writestr('dataset.json', '{"labels": [["0000.png", -1], ["0001.png", 0]]}')
    return path, dict(mixed='0001.png is 16x32; all images must be 16x16', oblong='16x32', odd='24x24', corrupt='0001.png',
                      labels='labels')[kind]


@pytest.mark.parametrize('kind', ['missing', 'empty', 'garbage', 'mixed', 'oblong', 'odd', 'corrupt', 'labels'])
def test_bad_data(tmp_path, kind):
    path, sentence = make_bad_data(kind, tmp_path)
    result = invoke('--outdir', tmp_path / 'runs', '--data', path, '--device=cpu', '--cond=1' if kind == 'labels' else '-n')
    assert result.exit_code == 2 and sentence in result.output, result.output
    assert 'Traceback' not in result.output and not (tmp_path / 'runs').exists()


def test_output_that_cannot_be_written(tmp_path, data):
    (tmp_path / 'file').touch()
    result = invoke('--outdir', tmp_path / 'file', '--data', data / 'plain.zip', '--device=cpu')
    assert result.exit_code == 1 and '--outdir' in result.output and 'Traceback' not in result.output


# What a run leaves behind.

TINY = ['--cfg=tiny', *ALL_PHASES, '--kimg=1', '--batch=64', '--batch-gpu=16', '--workers=0', '--device=cpu',
        '--tick=0.5', '--snap=1']


def run_train(outdir, data, *args):
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.run([sys.executable, 'train.py', f'--outdir={outdir}', f'--data={data}', *TINY, *args], cwd=ROOT,
                          env=env, capture_output=True, text=True, timeout=900)


def test_two_processes_train_snapshot_and_end(tmp_path, data):
    small = '--gpus=2', '--cbase=64', '--cmax=8'
    done = run_train(tmp_path, data / 'plain.zip', *small, '--snapshot-format=native,pkl')
    assert done.returncode == 0, done.stderr
    run_dir, = tmp_path.iterdir()
    assert run_dir.name == '00000-plain-tiny-cbase64-cmax8-mixingprob0.9-kimg1-batch64-pl_weight2'
    names = {path.name for path in run_dir.iterdir()}
    assert {'training_options.json', 'log.txt', 'stats.jsonl', 'reals.png', 'fakes_init.png', 'fakes000000.png',
            'fakes000001.png', 'network-snapshot-000001.safetensors', 'network-snapshot-000001.pkl', 'report.html'} <= names
    native, pickled = (load_network_pkl(run_dir / f'network-snapshot-000001.{end}') for end in ('safetensors', 'pkl'))
    for name in ('G', 'D', 'G_ema', 'augment_pipe'):
        state = pickled[name].state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in native[name].state_dict().items())
    assert '<td>1.024 of 1</td>' in (run_dir / 'report.html').read_text()
    stats = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    assert [row['Progress/tick']['mean'] for row in stats] == [0, 1, 2]
    assert stats[-1]['Progress/kimg']['mean'] == pytest.approx(1.024)      # The first multiple of 64 that is 1000 or more.
    assert {'Loss/scores/fake', 'Loss/signs/real', 'Loss/G/loss', 'Loss/D/loss', 'Loss/r1_penalty', 'Loss/pl_penalty',
            'Timing/Gmain', 'Timing/Dreg', 'timestamp'} <= set(stats[0])

    again = run_train(tmp_path, data / 'plain.zip', *small)         # The same command: nothing left to do.
    assert again.returncode == 0 and 'is finished' in again.stdout
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('args, words', [
    (['--apa_p=2'], '--apa_p=2: must be at least 0 and at most 1'),
    (['--apa_p=nan'], '--apa_p=nan: must be shared or a number, at least 0 and at most 1'),
    (['--apa_p=often'], '--apa_p=often: must be shared or a number, at least 0 and at most 1'),
    (['--apa_p=shared', '--aug=noaug'], '--apa_p=shared needs an augmentation whose strength it can be'),
])
def test_an_option_that_is_a_number_or_a_word(data, args, words):
    result = invoke('--outdir=o', f'--data={data}/plain.zip', '--cfg=tiny', '--reg_type=apa', '-n', *args)
    assert result.exit_code == 2 and words in result.output
    assert dry_run(data, '--cfg=tiny', '--reg_type=apa', '--apa_p=0.25')['regularizers']['apa']['p'] == 0.25
    assert dry_run(data, '--cfg=tiny', '--reg_type=apa')['regularizers']['apa']['p'] == 'shared'


@pytest.mark.parametrize('error, said', [
    (FileNotFoundError(2, 'No usable temporary directory found in [...]'), 'No usable temporary directory found in [...]'),
    (PermissionError(13, 'Permission denied', 'a.zip'), "--data: [Errno 13] Permission denied: 'a.zip'")])
def test_an_error_of_the_machine_is_not_said_of_the_data(data, monkeypatch, error, said):
    """While torch is imported there may be no place for temporary files."""
    monkeypatch.setattr(train, 'started_run', lambda _: (_ for _ in ()).throw(error))
    result = invoke('--outdir', data / 'runs', '--data', data / 'plain.zip', '-n')
    assert result.exit_code == 2 and result.output.splitlines()[-1] == f'Error: {said}'
