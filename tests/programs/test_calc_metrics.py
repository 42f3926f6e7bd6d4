"""calc_metrics.py: networks, runs and image sets; what it refuses, before any work."""
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from metric_tools import TinyDetector, image_sets, make_generator, own_cache
from tiny import make_config, make_dataset

import calc_metrics
from metrics import metric_main, names
from metrics.names import Metric
from torch_utils import checkpoint
from training.networks import Discriminator

FD = Metric('fd20_tiny', 'fd', 'efflite0', 20, params={'ddof': 1})


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """A metric of 20 images through a tiny detector; no weights that this machine may have."""
    monkeypatch.setattr(names, 'registry', {**names.registry, FD.name: FD})
    monkeypatch.setattr('metrics.metric_main.load_detector', lambda metric, weights, device: TinyDetector())
    own_cache(tmp_path, monkeypatch)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))


@pytest.fixture
def run(tmp_path):
    """A run directory with two snapshots, trained on a subset of a set."""
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / 'training_options.json').write_text('{}')
    real, _ = image_sets(tmp_path)
    D = Discriminator(c_dim=0, img_resolution=16, img_channels=3, channel_base=128, channel_max=8,
                      epilogue_kwargs={'mbstd_group_size': 2})
    for kimg in (0, 4):
        G = make_generator(seed=kimg)
        checkpoint.save_networks(folder / f'network-snapshot-{kimg:06d}.safetensors', {'G': G, 'D': D, 'G_ema': G},
                                 training_set_kwargs={**real, 'max_size': 20, 'xflip': True, 'resolution': 16})
    return folder


def call(*arguments, metrics='fd20_tiny'):
    """(exit code, lines of JSON, everything that was written)."""
    fixed = [f'--metrics={metrics}', '--device=cpu', '--workers=0', '--verbose=0']
    result = CliRunner().invoke(calc_metrics.main, [*fixed, *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines() if line[:1] == '{'], result.output


def records(folder):
    return [json.loads(line) for line in (folder / 'metric-fd20_tiny.jsonl').read_text().splitlines()]


def test_the_last_snapshot_of_a_run(run):
    code, lines, _ = call(f'--network={run}')
    assert code == 0 and records(run) == lines
    assert lines[0]['snapshot_pkl'] == 'network-snapshot-000004.safetensors' and lines[0]['num_real'] == 24
    expected = metric_main.calc_metric('fd20_tiny', G=make_generator(seed=4), detector=TinyDetector(), num_workers=0,
                                       cache=False, dataset_kwargs=image_sets(run.parent)[0])
    assert lines[0]['results']['fd20_tiny'] == pytest.approx(expected.results['fd20_tiny'], rel=1e-6)
    assert (run / 'metrics.svg').exists()


@pytest.fixture
def seen(monkeypatch):
    """A function: how many images the detectors of all metrics have seen since it was last called."""
    detectors = []

    def load(metric, weights, device):
        detectors.append(TinyDetector())
        return detectors[-1]

    def count():
        found = sum(detector.num_seen for detector in detectors)
        detectors.clear()
        return found
    kid = Metric('kid20_tiny', 'kid', 'efflite0', 20)
    monkeypatch.setattr(names, 'registry', {**names.registry, kid.name: kid})
    monkeypatch.setattr('metrics.metric_main.load_detector', load)
    return count


@pytest.mark.parametrize('metrics', ['fd20_tiny,kid20_tiny', 'kid20_tiny,fd20_tiny'])
def test_two_metrics_look_at_each_image_once(run, seen, metrics):
    for cache, num_real in (('--no-cache', 24), ('--seed=1', 24), ('--seed=2', 0), ('--no-cache', 24)):
        code, lines, _ = call(f'--network={run}', cache, metrics=metrics)
        assert (code, len(lines)) == (0, 2)
        assert seen() == num_real + 20      # Those of the generator are made anew.


def test_two_metrics_of_two_sets_look_at_each_image_once(run, seen):
    real, other = (kwargs['path'] for kwargs in image_sets(run.parent))
    assert call(f'--images={other}', f'--data={real}', '--no-cache', metrics='fd20_tiny,kid20_tiny')[0] == 0
    assert seen() == 24 + 20


def test_all_snapshots_of_a_run(run):
    code, lines, _ = call(f'--network={run}', '--snapshots=all')
    assert code == 0 and [line['snapshot_pkl'] for line in lines] == [
        f'network-snapshot-{kimg}.safetensors' for kimg in ('000000', '000004')]


def test_a_file_outside_a_run_leaves_no_files(run, tmp_path):
    path = (run / 'network-snapshot-000000.safetensors').rename(tmp_path / 'net.safetensors')
    code, lines, _ = call(f'--network={path}')
    assert code == 0 and lines[0]['snapshot_pkl'] is not None
    assert not list(tmp_path.glob('metric*')) and not list(run.glob('metric*'))


def test_a_file_url(run):
    code, lines, _ = call(f'--network=file://{run}/network-snapshot-000000.safetensors')
    assert code == 0 and len(lines) == 1


def test_other_data_and_mirror_images(run, tmp_path, monkeypatch):
    _, other = image_sets(tmp_path)
    monkeypatch.setitem(names.registry, 'fd20_tiny', Metric('fd20_tiny', 'fd', 'efflite0', 20, keep_xflip=True,
                                                             params={'ddof': 1}))
    assert call(f'--network={run}')[1][0]['num_real'] == 48    # As recorded.
    assert call(f'--network={run}', '--mirror=0')[1][0]['num_real'] == 24
    _, lines, _ = call(f'--network={run}', f'--data={other["path"]}')
    assert lines[0]['dataset']['name'] == 'set2' and lines[0]['num_real'] == 24    # With --data: off.
    assert call(f'--network={run}', f'--data={other["path"]}', '--mirror=1')[1][0]['num_real'] == 48


def test_truncation_seed_and_batch(run):
    plain, again = (call(f'--network={run}', f'--batch={n}')[1][0] for n in (64, 8))
    assert plain['results'] == pytest.approx(again['results'], rel=1e-6)
    other = call(f'--network={run}', '--seed=1')[1][0]
    truncated = call(f'--network={run}', '--trunc=0.5')[1][0]
    assert len({line['results']['fd20_tiny'] for line in (plain, other, truncated)}) == 3
    assert truncated['G_kwargs'] == {'truncation_psi': 0.5} and other['seed'] == 1


def test_two_image_sets(tmp_path):
    real, other = image_sets(tmp_path)
    code, lines, _ = call(f'--images={other["path"]}', f'--data={real["path"]}', metrics='fd_efflite0,kid_efflite0')
    assert code == 0 and [line['metric'] for line in lines] == ['fd_efflite0', 'kid_efflite0']


def test_centres(run, tmp_path):
    real, other = image_sets(tmp_path)
    code, lines, output = call(f'--network={run}', f'--centre=a={real["path"]}', f'--centre=b={other["path"]}')
    assert code == 0, output
    assert [(line['metric'], line['num_real']) for line in lines] == [
        ('fd20_tiny', 48), ('fd20_tiny@a', 24), ('fd20_tiny@b', 24)]
    assert (run / 'metric-fd20_tiny@a.jsonl').exists()


def test_centres_are_told_apart_by_codes_behind_the_classes(tmp_path):
    paths = [make_dataset(tmp_path / f'{name}.zip', num_classes=2) for name in 'ab']
    job = calc_metrics.Job([], [], {}, 'cpu', 'auto', None, None, dict(zip('ab', paths)), None, None, False)
    centres = calc_metrics.centres_of(job, make_generator(c_dim=5), None, '')    # Two classes, two centres, a spare place.
    assert [code for _, code in centres.values()] == [[1, 0, 0], [0, 1, 0]]
    assert centres['b'][0]['path'] == paths[1]


def test_the_centres_that_a_run_records(run, tmp_path):
    """As earlier versions wrote them, with paths; a name that leads out of the directory is passed over."""
    sets = image_sets(tmp_path)
    centres = {f'centre-{i}': (kwargs, [float(i == 0), float(i == 1)]) for i, kwargs in enumerate(sets)}
    checkpoint.save_networks(run / 'network-snapshot-000008.safetensors', {'G_ema': make_generator(c_dim=2)},
                             training_set_kwargs=None, centres={**centres, '../../outside': centres['centre-0']})
    code, lines, output = call(f'--network={run}')
    assert code == 0, output
    assert [(line['metric'], line['num_real']) for line in lines] == [
        ('fd20_tiny', 48), ('fd20_tiny@centre-0', 24), ('fd20_tiny@centre-1', 24)]
    code, _, output = call(f'--network={run}', '--held-out=rest', metrics='none')
    assert code in (1, 2) and '--held-out: the network' in output


def test_where_the_data_of_centres_are_only_the_directory_of_the_run_says(run, tmp_path):
    sets = image_sets(tmp_path)
    path, published = run / 'network-snapshot-000008.safetensors', tmp_path / 'net.safetensors'
    centres = {f'centre-{i}': ({'class_name': kwargs['class_name']}, [float(i == 0), float(i == 1)])
               for i, kwargs in enumerate(sets)}
    config = {**make_config('-'), 'command': {}, 'data_paths': [kwargs['path'] for kwargs in sets], 'data_fingerprints': []}
    (run / 'training_options.json').write_text(json.dumps(config))
    checkpoint.save_networks(path, {'G_ema': make_generator(c_dim=2)}, centres=centres)
    code, lines, output = call(f'--network={run}')
    assert code == 0 and [line['metric'] for line in lines] == ['fd20_tiny', 'fd20_tiny@centre-0', 'fd20_tiny@centre-1'], output
    shutil.copy(path, published)
    code, _, output = call(f'--network={published}')
    assert code == 2 and 'give --centre=centre-0=FILE --centre=centre-1=FILE' in ' '.join(output.split())


def test_where_the_data_are_only_the_directory_of_the_run_says(run, tmp_path):
    """The network file has a name. Alone it asks for the
    place, also where something of that name happens to be."""
    real, other = image_sets(tmp_path)
    path, published = run / 'network-snapshot-000008.safetensors', tmp_path / 'net.safetensors'
    config = {**make_config('-'), 'command': {}, 'data_paths': [other['path']], 'data_fingerprints': []}
    (run / 'training_options.json').write_text(json.dumps(config))
    checkpoint.save_networks(path, {'G_ema': make_generator()}, training_set_kwargs={**real, 'path': 'set1.zip'})
    code, lines, output = call(f'--network={run}')
    assert code == 0 and lines[0]['dataset']['name'] == 'set2', output
    shutil.copy(path, published)
    code, _, output = call(f'--network={published}')
    assert code == 2 and 'was trained on set1.zip, but not where that is; give --data=PATH' in ' '.join(output.split())
    assert call(f'--network={published}', f'--data={real["path"]}')[0] == 0
    Path(other['path']).rename(tmp_path / 'moved.zip')
    code, _, output = call(f'--network={run}')
    assert code == 2 and f'{other["path"]}, which is not there; give --data=PATH' in ' '.join(output.split())


def test_what_is_not_recorded_is_printed_and_is_no_success(run):
    for name in ('fd20_tiny', 'kid_efflite0'):
        (run / f'metric-{name}.jsonl').symlink_to('/dev/full')
    code, lines, output = call(f'--network={run}', '--snapshots=all')
    assert code == 1 and len(lines) == 2, output
    assert 'Error: all is calculated and printed, but not recorded: fd20_tiny (is a link' in output


def test_a_strangers_file_names_no_class_to_call(run, tmp_path):
    """The class of the data set in a network file is a name; only ours is ever looked up."""
    canary = tmp_path / 'canary'
    real = image_sets(tmp_path)[0]
    hostile = {**real, 'class_name': 'pathlib.Path.touch', 'self': str(canary), 'use_labels': 'yes', 'max_size': 'all'}
    assert calc_metrics.recorded_set(hostile) == {key: real[key] for key in ('class_name', 'path')}
    assert calc_metrics.recorded_set({**real, 'path': 7}) is None and calc_metrics.recorded_set([1]) is None
    checkpoint.save_networks(run / 'network-snapshot-000008.safetensors', {'G_ema': make_generator()},
                             training_set_kwargs=hostile, centres={'a': [hostile, []]})
    code, lines, output = call(f'--network={run}')
    assert code == 0 and lines[0]['num_real'] == 24 and not canary.exists(), output


@pytest.mark.parametrize('c_dim', [0, 3])
def test_labels_are_used_if_the_network_takes_them(c_dim):
    job = calc_metrics.Job([], [], {}, 'cpu', 'auto', {'path': 'a.zip'}, None, {}, None, None, False)
    kwargs = calc_metrics.dataset_of_network(job, make_generator(c_dim=c_dim), None, 'net')
    assert kwargs == {'path': 'a.zip', 'resolution': 16, 'use_labels': c_dim > 0}


def test_nearest_and_held_out(run, tmp_path):
    sheet = tmp_path / 'sheet.png'
    code, lines, output = call(f'--network={run}', f'--nearest={sheet}', metrics='none')
    assert code == 0, output
    assert sheet.exists() and len(lines[0]['ratios']) == 8
    code, _, output = call(f'--network={run}', '--held-out=rest', metrics='none')
    assert code == 1 and '40 training and 4 held-out images do not fill a batch of 32' in output
    _, other = image_sets(tmp_path, num=64)
    code, lines, output = call(f'--network={run}', f'--held-out={other["path"]}', metrics='none')
    assert code == 0, output
    assert set(lines[0]) == {'train', 'held_out', 'gap', 'gap_std_err', 'generated', 'r_v'}


def test_list():
    output = CliRunner().invoke(calc_metrics.main, ['--list']).output.split()
    assert output[:2] == ['fid50k_full', 'kid50k_full'] and 'fd_efflite0' in output


@pytest.mark.parametrize(('arguments', 'metrics', 'message'), [
    ([], 'fd20_tiny', 'give either --network or --images'),
    (['--network={run}', '--images={data}'], 'fd20_tiny', 'give either --network or --images'),
    (['--network={tmp}/gone'], 'fd20_tiny', 'no such file, run directory or URL'),
    (['--network={tmp}'], 'fd20_tiny', 'holds no network snapshots'),
    (['--network={run}'], 'fid60k', 'there is no metric fid60k; valid are fid50k_full'),
    (['--network={run}'], 'fid50k_full', 'fid50k_full needs the Inception-v3 FID weights, and none were found'),
    (['--network={run}'], 'fd_efflite0', 'compares two image sets, so it needs --images'),
    (['--network={run}', '--data={tmp}/gone.zip'], 'fd20_tiny', 'gone.zip: no such folder or zip'),
    (['--network={run}', '--detector-path=incept=x'], 'fd20_tiny', 'there is no detector incept; there are inception'),
    (['--network={run}', '--detector-path=x'], 'fd20_tiny', 'is not of the form NAME=FILE'),
    (['--images={data}'], 'fd_efflite0', '--images needs --data'),
    (['--images={data}', '--data={data}', '--nearest=x.png'], 'fd_efflite0', '--nearest needs --network'),
    (['--images={data}', '--data={data}', '--held-out=rest'], 'fd_efflite0', '--held-out needs --network'),
    (['--images={data}', '--data={data}', '--centre=a={data}'], 'fd_efflite0', '--centre needs --network'),
])
def test_usage_errors(run, tmp_path, arguments, metrics, message):
    data = image_sets(tmp_path)[0]['path']
    code, lines, output = call(*(a.format(run=run, data=data, tmp=tmp_path) for a in arguments), metrics=metrics)
    assert code == 2 and message in ' '.join(output.split()) and not lines


@pytest.mark.parametrize('content', ['no networks', 'no G_ema', 'no data'])
def test_files_that_will_not_do_are_one_sentence(tmp_path, content):
    path = tmp_path / 'network-snapshot-000001.safetensors'
    G = make_generator()
    if content == 'no networks':
        path.write_bytes(b'something else')
        message = 'not a'
    elif content == 'no G_ema':
        checkpoint.save_networks(path, {'G': G}, training_set_kwargs=None)
        message = 'has no averaged generator (G_ema)'
    else:
        checkpoint.save_networks(path, {'G_ema': G}, training_set_kwargs=None)
        message = 'does not say what it was trained on; give --data'
    code, _, output = call(f'--network={path}')
    assert code in (1, 2) and message in output and 'Traceback' not in output


def test_what_does_not_fit_is_one_sentence(run, tmp_path):
    grey = make_dataset(tmp_path / 'grey.zip', channels=1)
    code, _, output = call(f'--network={run}', f'--data={grey}')
    assert code == 1 and output.strip() == \
        'Error: the generator makes 16x16 images with 3 channels, grey has 16x16 with 1'


@pytest.mark.parametrize(('name', 'message'), [
    ('nearest', 'nearest needs an ending that says what to write: .png or .jpg'),
    ('nowhere/nearest.png', 'is no folder that can be written to'),
    ('taken.png', 'exists already and was not written by this program'),
])
def test_a_nearest_sheet_that_cannot_be_written_is_refused_before_any_work(run, tmp_path, monkeypatch, name, message):
    (tmp_path / 'taken.png').write_bytes(b'a stranger')
    monkeypatch.setattr('calc_metrics.load_networks', lambda path: pytest.fail('work was done'))
    code, _, output = call(f'--network={run}', f'--nearest={tmp_path / name}', metrics='none')
    assert code == 2 and message in ' '.join(output.split()).replace('│ ', '')
    assert (tmp_path / 'taken.png').read_bytes() == b'a stranger'


@pytest.mark.parametrize('arguments', [['--network=http://[::1'], ['--network=https://[x/net.pkl'], ['--seed=-1'],
                                       ['--trunc=nan'],

                                       ['--gpus=2147483648'], ['--gpus=100'], ['--workers=99999'], ['--batch=1e308']])
def test_numbers_and_addresses_that_mean_nothing_are_one_sentence(run, arguments):
    code, _, output = call(f'--network={run}', *arguments)
    assert code == 2 and 'Traceback' not in output and 'Error: ' in output
