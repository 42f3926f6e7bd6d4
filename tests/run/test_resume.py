"""Continuing and fine-tuning: what `train.py` goes on with,
what it refuses, what it leaves in the run's directory."""
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from mutations import mutated
from tiny import ALL_PHASES, make_config, make_dataset

import legacy
import train
from torch_utils import checkpoint
from torch_utils.state_file import load_meta, load_state
from training.config import base_configs
from training.config import run_dirs as resume
from training.config.continued_run import continued_run
from training.config.schema import Config
from training.run import launch
from training.run.states import saved_states
from training.transfer import adopted, match_tensors

ROOT = Path(__file__).parents[2]
TINY = ['--cfg=tiny', *ALL_PHASES, '--batch=8', '--batch-gpu=8', '--workers=1', '--device=cpu', '--tick=0.1', '--snap=1',
        '--kimg=1', '--aug=noaug']
STOPPED = 75


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp('data') / 'plain.zip', num=16)


def command(*args):
    return [sys.executable, str(ROOT / 'train.py'), *map(str, args)]


def environment():
    return {**os.environ, 'OMP_NUM_THREADS': '1'}


def start_train(*args):
    return subprocess.Popen(command(*args), cwd=ROOT, env=environment(), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)


def wait_for(condition, process, timeout=600):
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


def invoke(*args):
    return CliRunner().invoke(train.main, [str(arg) for arg in args])


@pytest.fixture(scope='module')
def stopped_run(tmp_path_factory, data):
    """The directory of a run that SIGTERM stopped after its first states, and what it printed."""
    outdir = tmp_path_factory.mktemp('runs')
    process = start_train(f'--outdir={outdir}', f'--data={data}', *TINY)
    wait_for(lambda: [path for run in outdir.iterdir() for path in saved_states(run)], process)
    os.killpg(process.pid, signal.SIGTERM)      # As schedulers do: the workers that load images get it, too.
    output = process.communicate(timeout=600)[0]
    assert process.returncode == STOPPED, output
    run_dir, = outdir.iterdir()
    return run_dir, output


def test_a_signal_saves_and_leaves_with_the_documented_status(stopped_run):
    run_dir, output = stopped_run
    assert f'--resume={run_dir}, continues' in output
    newest = saved_states(run_dir)[0]
    meta = load_meta(newest)
    assert not meta['finished'] and 0 < meta['nimg'] < 1000 and int(newest.stem.split('-')[-1]) == meta['nimg']
    assert (run_dir / f'network-snapshot-{meta["nimg"] // 1000:06d}.safetensors').exists()


def test_a_state_is_complete(stopped_run):
    """Everything that an exact continuation needs, by name."""
    run_dir, _ = stopped_run
    state, meta = load_state(saved_states(run_dir)[0])
    assert set(state['run']) >= {'players', 'G_ema', 'frozen', 'augment', 'nimg', 'batch_idx', 'stage_idx', 'rollbacks'}
    assert set(state['run']['players']) == {'G', 'D'}
    assert set(state['run']['players']['G']) == {'module', 'optimizer'}
    rank, = state['ranks']
    assert set(rank) == {'w_avg', 'real_signs', 'regularizers', 'statistics'} and 'PathLength' in rank['regularizers']
    assert set(state['ticks']) == {'tick', 'tick_nimg', 'tick_sec', 'collector', 'reported', 'metrics',
                                   'total_sec', 'num_rows', 'unwritten'}
    config = json.loads((run_dir / 'training_options.json').read_text())
    assert meta['config'] == config and len(config['data_fingerprints'][0]) == 64


def test_the_same_command_finds_the_unfinished_run(stopped_run, data):
    run_dir, _ = stopped_run
    same = invoke(f'--outdir={run_dir.parent}', f'--data={data}', *TINY, '-n')
    assert f'Output directory:   {run_dir}\n' in same.output
    watched = invoke(f'--outdir={run_dir.parent}', f'--data={data}', *TINY, '-n', '--snap=7', '--metrics=none')
    assert f'Output directory:   {run_dir}\n' in watched.output        # Looking on more often makes no other run.
    other = invoke(f'--outdir={run_dir.parent}', f'--data={data}', *TINY, '-n', '--seed=5')
    assert 'seed: 0 -> 5' in other.output and f'{run_dir}\n' not in other.output
    new = invoke(f'--outdir={run_dir.parent}', f'--data={data}', *TINY, '-n', '--new')
    assert '00001-' in new.output


def test_other_data_of_the_same_name_is_refused_unless_overridden(stopped_run, tmp_path):
    run_dir, _ = stopped_run
    other = make_dataset(tmp_path / 'plain.zip', num=16, seed=1)
    args = [f'--outdir={run_dir.parent}', f'--data={other}', *TINY, '-n']
    refused = invoke(*args)
    assert refused.exit_code == 2 and 'the data of this run has changed: as many images (16), but' in refused.output
    assert '--override' in refused.output
    assert invoke(*args, '--override').exit_code == 0


def test_moved_data_is_the_same_data(stopped_run, data, tmp_path):
    run_dir, _ = stopped_run
    moved = tmp_path / 'plain.zip'
    moved.write_bytes(Path(data).read_bytes())
    result = invoke(f'--outdir={run_dir.parent}', f'--data={moved}', *TINY, '-n')
    assert result.exit_code == 0 and f'Output directory:   {run_dir}\n' in result.output


def test_resuming_a_directory_needs_no_other_option(stopped_run):
    run_dir, _ = stopped_run
    result = invoke(f'--resume={run_dir}', '-n')
    assert result.exit_code == 0 and f'Output directory:   {run_dir}\n' in result.output
    longer = invoke(f'--resume={run_dir}/', '-n', '--kimg=2', '--workers=1')
    assert longer.exit_code == 0 and '"kimg": 2' in longer.output
    changed = invoke(f'--resume={run_dir}', '-n', '--gamma=7')
    assert changed.exit_code == 2 and 'gamma: 0.25 -> 7.0' in changed.output, changed.output
    assert invoke(f'--resume={run_dir}', '-n', '--gamma=7', '--override').exit_code == 0


def test_a_directory_that_is_none_of_a_run(tmp_path):
    result = invoke(f'--resume={tmp_path}', '-n')
    assert result.exit_code == 2 and 'is not the directory of a run' in result.output
    (tmp_path / 'training_options.json').write_text('[1, 2')
    result = invoke(f'--resume={tmp_path}', '-n')
    assert result.exit_code == 2 and 'cannot be read' in result.output


@pytest.mark.parametrize('change, args, sentence', [
    (dict(data=7), [], 'data=7: must be a list of texts'),
    (dict(G_kwargs=None), [], 'G_kwargs=null: must be a table'),
    (dict(command=dict(gpus='many')), ['--kimg=3'], 'command.gpus: must be a whole number'),
    (dict(command=dict(rm='-rf')), ['--kimg=3'], 'its command has options that there are not')])
def test_a_configuration_with_wrong_types_is_one_sentence(stopped_run, tmp_path, change, args, sentence):
    options = json.loads((stopped_run[0] / 'training_options.json').read_text())
    (tmp_path / 'training_options.json').write_text(json.dumps({**options, **change}))
    result = invoke(f'--resume={tmp_path}', *args)
    assert result.exit_code == 2 and sentence in result.output and isinstance(result.exception, SystemExit)


@pytest.mark.parametrize('change, sentence', [
    (dict(batch=12), 'a batch of 12 cannot be divided among 1 processes in pieces of 8'),
    (dict(batch=10, batch_gpu=5), '5 images at once on one GPU are no multiple of the minibatch-std group of 4'),
    (dict(regularizers=dict(diggan={})), 'diggan.weight is missing'),
    (dict(regularizers=dict(r2={})), 'r2.gamma is missing'),
    (dict(loss_kwargs=dict(game='logistic', style_mixing_prob=0.9, r1_gamma=1.0)), 'pl.weight is missing'),
    (dict(loss_kwargs=dict(game='logistic', style_mixing_prob=0.9, pl_weight=2)), 'r1.gamma is missing'),
    (dict(augment_kwargs=dict(class_name='training.augment.AugmentPipe', xfrac=[1, 2])), 'xfrac: [1, 2] must be')])
def test_a_configuration_that_no_step_could_be_made_with_is_refused_at_once(stopped_run, tmp_path, change, sentence):
    options = json.loads((stopped_run[0] / 'training_options.json').read_text())
    if 'loss_kwargs' in change:             # As it was written before.
        del options['gamma']
    (tmp_path / 'training_options.json').write_text(json.dumps({**options, **change}))
    result = invoke(f'--resume={tmp_path}', '-n')
    assert result.exit_code == 2 and sentence in result.output, result.output[-500:]


@pytest.mark.parametrize('options', ['--aug=noaug', '--reg_type=ggdr,lecam --aug=ada', '--loss=osgan --reg_type=diggan',
                                     '--reg_type=genco'])
def test_odd_configurations_are_gone_on_with_or_refused_in_one_sentence(data, tmp_path, options):
    """Mutations, 25 each: what passes the checks passes
    the dry run, which builds all that a run is made of."""
    rng = random.Random(options)
    config = dict(train.config_from_args([f'--outdir={tmp_path}', f'--data={data}', *TINY, *options.split()]))
    seen = set()
    for _ in range(25):
        (tmp_path / 'training_options.json').write_text(json.dumps(mutated(config, rng)))
        result = invoke(f'--resume={tmp_path}', '-n', *rng.choice([[], ['--kimg=3'], ['--gamma=3', '--override'], ['--gpus=2']]))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        sentence = result.output.strip().splitlines()[-1]
        is_refused = result.exit_code == 2 and sentence.startswith('Error: ')
        assert (result.exit_code == 0 or is_refused) and len(sentence) < 1000, sentence
        seen.add(result.exit_code)
    assert seen == {0, 2}


def test_a_damaged_run_of_the_same_name_is_passed_over(data, tmp_path):
    first = invoke(f'--outdir={tmp_path}', f'--data={data}', *TINY, '-n')
    run_dir = Path(next(line for line in first.output.splitlines() if line.startswith('Output directory:')).split()[-1])
    run_dir.mkdir(parents=True)
    (run_dir / 'training_options.json').write_text('{')
    second = invoke(f'--outdir={tmp_path}', f'--data={data}', *TINY, '-n')
    assert second.exit_code == 0 and f'Passed over: {run_dir}' in second.output and '/00001-' in second.output


def test_a_strangers_run_names_no_class_to_call(tmp_path, data):
    options = dict(command={}, data_paths=[data], G_kwargs=dict(class_name='os.system', command='touch canary'))
    (tmp_path / 'training_options.json').write_text(json.dumps(options))
    result = invoke(f'--resume={tmp_path}')
    assert result.exit_code == 2 and 'G_kwargs.class_name=os.system is none of its classes' in result.output


def test_outdir_is_asked_for():
    result = invoke('--data=nothing.zip')
    assert result.exit_code == 2 and "Missing option '--outdir'" in result.output


def test_differences_name_entries_and_leave_out_what_is_harmless():
    saved = dict(run_dir='a', kimg=1, G_kwargs=dict(z_dim=64, w_dim=64), training_set_kwargs=dict(path='x', n=1))
    asked = dict(run_dir='b', kimg=2, G_kwargs=dict(z_dim=128, w_dim=64), training_set_kwargs=dict(path='y', n=1),
                 target=0.6)
    assert resume.differences(dict(a=dict(data='here', weight=1)), dict(a=dict(data='there', weight=1))) == {}
    assert resume.differences(saved, asked) == {'G_kwargs.z_dim': '64 -> 128', 'target': '(none) -> 0.6'}


@pytest.mark.parametrize('keep, sentence', [('0', 'at least 1'), ('two', 'not of the form'), ('2,worst', 'not of the form'),
                                            ('2,every=0', 'more than 0'), ('2,every=nan', 'more than 0'),
                                            ('2,every=inf', 'at most 1000000000'),
                                            ('2,every=1e-300', 'further from 0'),
                                            ('9999999999', 'at most 1000000000'), ('2,every=1,every=2', 'not of the form')])
def test_keep_is_checked(data, keep, sentence):
    result = invoke('--outdir=runs', f'--data={data}', *TINY, '-n', f'--keep={keep}')
    assert result.exit_code == 2 and '--keep=' in result.output and sentence in result.output


# Fine-tuning.


@pytest.fixture(scope='module')
def network(stopped_run):
    return str(checkpoint.newest_snapshot(stopped_run[0]))


def dry_config(result):
    assert result.exit_code == 0, result.output
    return Config.from_json(json.loads(result.stdout[result.stdout.index('{'):result.stdout.rindex('}') + 1]))


def test_fine_tuning_takes_the_architecture_of_the_file(network, data):
    result = invoke('--outdir=runs', f'--data={data}', '--device=cpu', '-n', f'--init-from={network}')
    config = dry_config(result)
    assert config['G_kwargs']['z_dim'] == 64 and config['D_kwargs']['channel_base'] == 512
    assert config['ada_kimg'] == 100 and config['ema_rampup'] is None and config['run_dir'].endswith('-initcustom')
    for name in ('G', 'D', 'G_ema'):
        num = len(legacy.load_network(network)[name].state_dict())
        assert f'--init-from: {name}: {num} tensors match.' in result.output


def test_a_partial_match_is_reported_and_refused_unless_allowed(network, data, tmp_path):
    other = make_dataset(tmp_path / 'other.zip', num=8, res=32)
    args = ['--outdir=runs', f'--data={other}', '--device=cpu', '-n', f'--init-from={network}']
    refused = invoke(*args)
    assert refused.exit_code == 2 and '--allow-partial' in refused.output
    assert 'missing: ' in refused.output and 'synthesis.b32.' in refused.output
    assert invoke(*args, '--allow-partial').exit_code == 0


def test_told_otherwise_the_architecture_is_that_of_the_command(network, data):
    result = invoke('--outdir=runs', f'--data={data}', '--device=cpu', '-n', f'--init-from={network}', '--cfg=stylegan2')
    assert result.exit_code == 2 and 'of another shape' in result.output and 'instead of' in result.output


def test_details_beside_the_networks_of_a_file(network, data):
    """What they cannot change is refused; no minibatch statistics
    is the wish of the run, which leaves one layer fresh."""
    args = ['--outdir=runs', f'--data={data}', '--device=cpu', '-n', f'--init-from={network}']
    for option in ('--cbase=512', '--cmax=32', '--map-depth=3'):
        result = invoke(*args, option)
        assert result.exit_code == 2 and f'{option.partition("=")[0]} has no effect with --init-from' in result.output
    assert dry_config(invoke(*args, '--mbstd-group=2'))['D_kwargs']['epilogue_kwargs'] == dict(mbstd_group_size=2)
    result = invoke(*args, '--mbstd-group=0', '--allow-partial')
    assert dry_config(result)['D_kwargs']['epilogue_kwargs'] == dict(mbstd_group_size=1, mbstd_num_channels=0)
    assert '1 are of another shape: b4.conv.weight' in result.output


def test_a_file_without_minibatch_statistics_stays_so():
    theirs = dict(epilogue_kwargs=dict(mbstd_group_size=1, mbstd_num_channels=0))
    assert adopted(dict(epilogue_kwargs=dict(mbstd_group_size=4)), theirs)['epilogue_kwargs'] == dict(
        mbstd_group_size=4, mbstd_num_channels=0)


def test_match_tensors():
    expected = {'a': torch.zeros(2), 'b': torch.zeros(3), 'c': torch.zeros(4)}
    match = match_tensors(expected, {'a': torch.ones(2), 'b': torch.ones(2, 2), 'd': torch.ones(1)})
    assert (match.matched, match.missing, match.mismatched) == (['a'], ['c'], ['b [2, 2] instead of [3]'])
    assert not match.is_complete


def test_resume_with_a_file_says_which_verb_it_is(network, data):
    result = invoke('--outdir=runs', f'--data={data}', '--cfg=tiny', '--device=cpu', '-n', f'--resume={network}')
    assert result.exit_code == 0 and 'starts a new run from these weights' in result.output
    assert dry_config(result)['run_dir'].endswith('-resumecustom')


@pytest.mark.parametrize('args, sentence', [
    (['--init-from=a', '--resume=b'], '--init-from and --resume exclude each other'),
    (['--allow-partial'], '--allow-partial has no effect without --init-from'),
    (['--init-from=missing.pkl'], 'missing.pkl')])
def test_fine_tuning_refusals(data, args, sentence):
    result = invoke('--outdir=runs', f'--data={data}', '--device=cpu', '-n', *args)
    assert result.exit_code == 2 and sentence in result.output and 'Traceback' not in result.output


def test_fine_tuning_starts_from_the_weights_and_what_is_there(network, data, tmp_path):
    """A whole short run at another resolution: shared tensors begin as in the file."""
    from tiny import make_config

    from training import setup
    config = make_config(data)
    run = setup.build(config, torch.device('cpu'))
    other = setup.build({**config, 'seed': 1}, torch.device('cpu'))
    networks = dict(G_ema=other.G_ema, D=other.game.D.module)           # No G: it starts from G_ema.
    setup.init_from(run, networks, allow_partial=True)
    for key, tensor in other.G_ema.state_dict().items():
        assert torch.equal(run.game.G.module.state_dict()[key], tensor)
    smaller = make_config(data)
    smaller['D_kwargs']['channel_max'] = 8
    fresh = setup.build(smaller, torch.device('cpu'))
    before = fresh.game.D.module.b4.conv.weight.clone()
    with pytest.raises(ValueError, match='has shape'):
        setup.init_from(fresh, networks)
    assert torch.equal(fresh.game.D.module.b4.conv.weight, before)
    setup.init_from(fresh, networks, allow_partial=True)
    assert torch.equal(fresh.game.D.module.b4.conv.weight, before)
    assert torch.equal(fresh.G_ema.mapping.fc0.weight, other.G_ema.mapping.fc0.weight)


def test_another_number_of_processes_goes_on_and_says_that_it_is_not_exact(tmp_path, data, capsys):
    from tiny import make_config, run_iterations

    from torch_utils.state_file import save_state
    from training.run.launch import start_or_continue
    from training.run.states import state_path
    config = make_config(data)
    run, (state, local) = run_iterations(config, 2)
    ticks = dict(tick=1, metrics={}, total_sec=0.0, num_rows=1, collector=dict(unread={}, visible={}))
    save_state(state_path(tmp_path, run.nimg), dict(run=state, ranks=[local, local], ticks=ticks), nimg=run.nimg,
               finished=False)
    resumed, found = start_or_continue(config, tmp_path, torch.device('cpu'), 0)
    assert resumed.nimg == run.nimg and found == ticks
    assert 'The run had 2 processes, now it has 1: it goes on, but not bit for bit' in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_stop_on_a_signal_to_their_parent_and_continue(tmp_path, data):
    args = [f'--outdir={tmp_path}', f'--data={data}', *TINY, '--gpus=2', '--batch-gpu=4']
    process = start_train(*args)
    wait_for(lambda: [path for run in tmp_path.iterdir() for path in saved_states(run)], process, timeout=900)
    process.send_signal(signal.SIGUSR1)
    output = process.communicate(timeout=900)[0]
    assert process.returncode == STOPPED and 'Stopped and saved' in output, output
    run_dir, = tmp_path.iterdir()
    stopped_at = load_meta(saved_states(run_dir)[0])['nimg']
    again = subprocess.run(command(*args), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=900)
    assert again.returncode == 0 and f'Continuing at {stopped_at / 1000:.1f} kimg' in again.stdout, again.stdout
    assert load_meta(saved_states(run_dir)[0])['finished'] and len(list(tmp_path.iterdir())) == 1


def test_a_run_keeps_the_defaults_that_it_began_with(stopped_run, tmp_path, monkeypatch):
    """Another version may have other base configurations;
    a run goes on as it was, but for what is asked now."""
    run_dir = shutil.copytree(stopped_run[0], tmp_path / 'run')
    saved = json.loads((run_dir / 'training_options.json').read_text())
    other = partial(replace, base_configs.tiny_config(16, 1))
    monkeypatch.setattr(base_configs, 'tiny_config', lambda *_: other(lr=0.05, ema_kimg=7, channel_base=512, pl_weight=0))
    config = continued_run(dict(resume=str(run_dir), snap=9))
    changed = {key for key in saved if config.to_json()[key] != saved[key]}
    assert changed <= {'run_dir', 'command', 'snap'}
    config = continued_run(dict(resume=str(run_dir), gamma=7.0, override=True))
    assert config['loss_kwargs'] == {**Config.from_json(saved)['loss_kwargs'], 'r1_gamma': 7.0}


def test_a_stop_inside_a_tick_leaves_what_the_tick_before_left(tmp_path, data):
    """Both files are named by whole kimg: at 1.1 kimg the picture and the networks are those of 1 kimg."""
    config = {**make_config(data, log=[], snap=1, tick=0.3, kimg=3, batch=100, batch_gpu=100), 'run_dir': str(tmp_path)}

    def until(nimg):
        """Trains on until so many images are through, and a stop is asked for."""
        asked = itertools.count(*([100, 100] if nimg <= 1000 else [1100, 100]))
        launch.train(dict(config), tmp_path, torch.device('cpu'), lambda: next(asked) >= nimg, {})
        return {path.name: path.read_bytes() for pattern in ('fakes0*', 'network-*') for path in tmp_path.glob(pattern)}

    before = until(1000)
    assert 'network-snapshot-000001.safetensors' in before and load_meta(saved_states(tmp_path)[0])['nimg'] == 1000
    after = until(1100)
    assert load_meta(saved_states(tmp_path)[0])['nimg'] == 1100 and after == before
