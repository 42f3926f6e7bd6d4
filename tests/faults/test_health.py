"""Runs that fall ill: gradients and weights that are not finite,
images that cannot be read, memory that runs out."""
import json
import math
import multiprocessing
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import final_state, finish, printed, run_config
from tiny import assert_same_bits, make_config, run_iterations

import training.training_loop
from losses_ext.path_length import PathLength
from torch_utils.state_file import load_state
from training import setup
from training.data.stages import MAX_BAD_IMAGES, RealStream, WithoutBad, end_workers, ignore_stop_signals, workers_of
from training.data.storage import DatasetError
from training.run.health import MAX_STREAK, PATIENCE, Diverged, Health, diversity, not_finite, require_finite
from training.run.states import saved_states


def stat(mean, std=1.0, num=8):
    return dict(num=num, mean=mean, std=std)


# Steps.


def test_skipped_steps_are_counted_and_named():
    health = Health()
    for bad in (False, True, False, True):
        health.note_step('Dmain', torch.tensor(bad))
        health.note_step('Dreg', torch.tensor(False))
    health.note_step('Greg', None)
    sentence, = health.end_tick({'Loss/D/loss': stat(math.nan), 'Loss/G/loss': stat(1.0),
                                 'Timing/x': stat(math.nan)})
    assert sentence == 'Dmain: 2 of 4 steps were skipped, their gradients were not finite (not finite either: Loss/D/loss)'
    assert list(health.end_tick({})) == []


def test_a_phase_that_never_comes_through_is_a_divergence():
    health = Health()
    for _ in range(MAX_STREAK - 1):
        health.note_step('Dmain', torch.tensor(True))
    list(health.end_tick({}))
    health.note_step('Dmain', torch.tensor(False))
    for _ in range(MAX_STREAK):
        list(health.end_tick({}))
        health.note_step('Dmain', torch.tensor(True))
    with pytest.raises(Diverged, match=f'{MAX_STREAK} steps of Dmain in a row had no finite gradient'):
        list(health.end_tick({}))


def spoil(when):
    """Makes the gradient of D's main phase NaN in the iterations that `when(run)` picks."""
    real = training.training_loop.accumulate_gradients

    def spoilt(run, phase, *args):
        done = real(run, phase, *args)
        if phase.name == 'Dmain' and when(run):
            phase.players[0].module.b4.out.weight.grad.fill_(math.nan)
        return done

    training.training_loop.accumulate_gradients = spoilt


def test_one_bad_step_is_skipped_and_training_goes_on(data, tmp_path):
    config = run_config(data, tmp_path / 'run')
    assert finish(config, lambda: spoil(lambda run: run.batch_idx == 5)) == 0, printed(config)[-3000:]
    assert 'Warning: Dmain: 1 of 3 steps were skipped' in printed(config)
    assert final_state(config)['run']['rollbacks'] == 0


def test_repeated_ones_roll_back_once_with_the_images_in_another_order(data, tmp_path):
    config = run_config(data, tmp_path / 'run')
    status = finish(config, lambda: spoil(lambda run: run.batch_idx >= 4 and run.rollbacks == 0))
    assert status == 0, printed(config)[-3000:]
    assert 'The run diverges at 0.1 kimg: 9 steps of Dmain' in printed(config)
    assert final_state(config)['run']['rollbacks'] == 1


def test_after_a_second_divergence_it_stops_with_a_diagnosis_and_sound_states(data, tmp_path):
    config = run_config(data, tmp_path / 'run')
    assert finish(config, lambda: spoil(lambda run: run.batch_idx >= 4)) == 1
    assert 'diverges at 0.1 kimg, again: ' in printed(config) and '--precision=fp32' in printed(config)
    for path in saved_states(config['run_dir']):
        players = load_state(path)[0]['run']['players']
        assert all(tensor.isfinite().all() for player in players.values()
                   for tensor in player['module'].values())


def spoil_weights(batch_idx):
    """Makes a weight of G infinite after so many iterations, in the first attempt."""
    real = training.training_loop.run_iteration

    def spoilt(run, ticks):
        real(run, ticks)
        if run.batch_idx == max(batch_idx, 1) and run.rollbacks == 0:
            run.game.G.module.mapping.fc0.bias.data[0] = math.inf

    training.training_loop.run_iteration = spoilt


def test_weights_that_are_not_finite_are_never_saved(data, tmp_path):
    config = run_config(data, tmp_path / 'run', keep=dict(newest=100))
    assert finish(config, lambda: spoil_weights(8)) == 0, printed(config)[-3000:]
    assert 'The run diverges at 0.0 kimg: ' in printed(config) and 'not finite any more' in printed(config)
    for path in saved_states(config['run_dir']):
        assert load_state(path)[0]['run']['players']['G']['module']['mapping.fc0.bias'].isfinite().all()


def test_require_finite_names_the_tensor():
    module = torch.nn.Linear(2, 2)
    state = dict(D=dict(module=module.state_dict(), rates=[0.1]), step=3, ranks=(dict(p=torch.zeros([])),))
    require_finite(state)
    module.bias.data[1] = math.nan
    with pytest.raises(Diverged, match='1 value is not finite any more, D/module/bias$'):
        require_finite(state)
    state['ranks'][0]['p'].fill_(-math.inf)
    with pytest.raises(Diverged, match='2 values are not finite any more, D/module/bias among them'):
        require_finite(state)
    module.bias.data[1], state['D']['rates'][0] = 0, math.nan
    assert not_finite(state) == ['D/rates/0', 'ranks/0/p']


def test_a_streak_that_ends_inside_a_tick_counts():
    health = Health()
    for bad in [True] * MAX_STREAK + [False]:
        health.note_step('Dmain', torch.tensor(bad))
    with pytest.raises(Diverged, match=f'{MAX_STREAK} steps of Dmain in a row'):
        list(health.end_tick({}))
    assert list(health.end_tick({})) == []


def test_going_back_is_said_only_where_there_is_a_state(data, tmp_path):
    config = run_config(data, tmp_path / 'run', kimg=0.08, tick=1)
    status = finish(config, lambda: spoil_weights(0))
    assert status == 0, printed(config)[-3000:]
    assert 'No state is saved: starting anew' in printed(config) and 'Going back' not in printed(config)


def test_the_path_length_mean_outlives_a_bad_step(data):
    run = setup.build(make_config(data, res=8), torch.device('cpu'))
    path_length = next(r for r in run.game.regularizers if isinstance(r, PathLength))
    path_length.load_state_dict(dict(mean=torch.tensor(0.5)))
    run.enter_stage(0)
    phase = next(phase for phase in run.phases if phase.name == 'Greg')
    with torch.no_grad():
        run.game.G.module.synthesis.b8.torgb.weight.fill_(math.nan)
    training.training_loop.run_phase(run, phase, [run.reals[0].next_batch()], {})
    assert path_length.state_dict()['mean'] == 0.5


# Warnings.


@pytest.mark.parametrize('stats, p, spread, word', [
    ({'Loss/signs/real': stat(0.99)}, 0.1, 1.0, 'learns them by heart'),
    ({}, 0.9, 1.0, 'augmentation strength is 0.90'),
    ({}, 0.1, 0.05, 'repeats itself'),
    ({'Loss/scores/real2': stat(0.5, 1e-6), 'Loss/scores/fake2': stat(0.5, 1e-6)}, 0.1, 1.0,
     'critic D2 says the same')])
def test_warnings_come_after_some_ticks_and_once(stats, p, spread, word):
    health = Health()
    told = [list(health.warnings(stats, p, spread)) for _ in range(PATIENCE + 3)]
    assert [len(sentences) for sentences in told] == [0] * (PATIENCE - 1) + [1] + [0] * 3
    assert word in told[PATIENCE - 1][0].replace('\n', ' ')


@pytest.mark.parametrize('stats, p, spread', [
    ({'Loss/signs/real': stat(0.6), 'Loss/scores/real': stat(0.5), 'Loss/scores/fake': stat(-0.5)}, 0.5, 0.8),
    ({'Loss/signs/real': stat(math.nan, math.nan, 0)}, 0.0, None)])
def test_a_run_that_is_well_is_left_in_peace(stats, p, spread):
    health = Health()
    assert not [word for _ in range(2 * PATIENCE) for word in health.warnings(stats, p, spread)]


def test_a_method_that_does_next_to_nothing_is_named():
    """One that was chosen: what every run has may be weak."""
    health, said = Health(), []
    for _ in range(PATIENCE + 1):
        said += health.warnings({'Loss/share/lecam/D': stat(6e-6), 'Loss/share/r1/D': stat(1e-9),
                                 'Loss/share/ggdr/D': stat(0.2)},
                                0.0, None, methods=['lecam', 'ggdr'])
    assert said == ['the term of lecam is 6e-06 of the gradient that D learns from: at this weight it does next to nothing']


def test_signs_mean_nothing_where_zero_decides_nothing():
    health = Health()
    assert not [word for _ in range(PATIENCE) for word in
                health.warnings({'Loss/signs/real': stat(1.0)}, 0, None, zero_decides=False)]


def test_the_overfitting_gap_is_among_the_statistics_of_each_snapshot(undisturbed, data, tmp_path):
    """Of the images that a subset leaves out; and measuring it changes nothing."""
    from metrics.overfitting import overfitting_gap
    subset = {**undisturbed['training_set_kwargs'], 'max_size': 10, 'random_seed': 0}
    runs = [run_config(data, tmp_path / name, training_set_kwargs=subset, held_out='rest',
                       kimg=0.044) for name in ('with', 'without')]
    assert finish(runs[0], overfitting_gap=overfitting_gap) == finish(runs[1]) == 0, printed(runs[0])[-3000:]
    assert_same_bits(final_state(runs[0])['run'], final_state(runs[1])['run'])
    rows = [json.loads(line) for line in Path(runs[0]['run_dir'], 'stats.jsonl').read_text().splitlines()]
    for row in rows:
        value = {name: row[f'Overfitting/{name}']['mean']
                 for name in ('train', 'held_out', 'generated', 'gap', 'r_v')}
        assert value['gap'] == pytest.approx(value['train'] - value['held_out'], abs=1e-6)
        assert value['r_v'] == pytest.approx(value['gap'] / (value['train'] - value['generated']), rel=1e-3)
    assert len({row['Overfitting/gap']['mean'] for row in rows}) == len(rows) > 3


def test_the_strength_of_augmentation_can_follow_images_that_are_held_out(undisturbed, data, tmp_path):
    """Once a tick, by r_v, also in a game whose logits have no zero;
    with the speed of the controller of signs."""
    from metrics.overfitting import overfitting_gap
    subset = {**undisturbed['training_set_kwargs'], 'max_size': 10, 'random_seed': 0}
    config = run_config(data, tmp_path / 'run', training_set_kwargs=subset, held_out='rest', kimg=0.044,
                        target=0.01, ada_kimg=0.05, ada_signal='heldout',
                        augment_kwargs=dict(class_name='training.augment.AugmentPipe', xflip=1),
                        loss_kwargs={**undisturbed['loss_kwargs'], 'game': 'wgan'})
    assert finish(config, overfitting_gap=overfitting_gap) == 0, printed(config)[-3000:]
    rows = [json.loads(line) for line in Path(config['run_dir'], 'stats.jsonl').read_text().splitlines()]
    p, moved = 0.0, set()
    for row, before in zip(rows, [None, *rows]):
        assert row['Progress/augment']['mean'] == pytest.approx(p, abs=1e-6)  # At the end of the tick before.
        kimg = row['Progress/kimg']['mean'] - (before['Progress/kimg']['mean'] if before else 0)
        sign = np.sign(row['Overfitting/r_v']['mean'] - 0.01)
        p, moved = max(p + sign * kimg / 0.05, 0), moved | {sign}
    assert final_state(config)['run']['augment']['p'].item() == pytest.approx(p, abs=1e-6) and len(rows) > 3 and moved


def test_diversity():
    rng = np.random.default_rng(0)
    reals = rng.normal(size=[50, 3, 4, 4]).astype(np.float32)
    assert diversity(reals / 4 + 7, reals) == pytest.approx(0.25, rel=1e-4)
    assert diversity(np.repeat(reals[:1], 8, axis=0), reals) < 1e-6


# Bad images.


class Images:
    """A data set of the numbers 0 ... 29 as images, some of which cannot be read."""

    def __init__(self, bad):
        self.bad = bad

    def __len__(self):
        return 30

    def __getitem__(self, idx):
        if idx in self.bad:
            raise DatasetError(f'set.zip: image {idx}.png cannot be read')
        return np.full([3, 2, 2], idx), np.zeros(0)


def test_a_bad_image_is_named_once_and_replaced_by_the_next(capsys):
    images = WithoutBad(Images({3, 4, 29}))
    assert [int(images[i][0][0, 0, 0]) for i in (2, 3, 4, 29, 3)] == [2, 5, 5, 0, 5]
    out = capsys.readouterr().out
    assert out.count('image 3.png cannot be read') == out.count('image 29.png cannot be read') == 1


def test_too_many_bad_images_stop_it():
    images = WithoutBad(Images(set(range(MAX_BAD_IMAGES + 1))))
    with pytest.raises(DatasetError,
                       match=f'more than {MAX_BAD_IMAGES} images cannot be read; the last: set.zip: image'):
        images[0]


def break_images(num_good):
    """Makes every process that loads images give up after so many."""
    real, loaded = WithoutBad.__getitem__, []

    def broken(self, idx):
        loaded.append(idx)
        if len(loaded) > num_good:
            raise DatasetError('set: more than 10 images cannot be read') from ValueError('a cause')
        return real(self, idx)

    WithoutBad.__getitem__ = broken


@pytest.mark.parametrize(('num_workers', 'num_good', 'kimg'),
                         [(0, 38, 0.028), (1, 30, 0.028), (1, 16, 0.016), (1, 3, None)])
def test_a_run_without_images_ends_with_one_sentence_and_what_it_had_is_saved(
        data, undisturbed, tmp_path, num_workers, num_good, kimg):
    config = run_config(data, tmp_path / 'run', data_loader_kwargs=dict(num_workers=num_workers))
    assert finish(config, lambda: break_images(num_good)) == 1
    assert printed(config).splitlines()[-1] == 'click.exceptions.ClickException: set: more than 10 images cannot be read'
    nimgs = [load_state(path)[1]['nimg'] / 1000 for path in saved_states(config['run_dir'])]
    if kimg is None:
        assert nimgs == []
        return
    assert nimgs[0] == kimg and 'kimg; the same command continues.' in printed(config)
    assert finish(config) == 0, printed(config)[-3000:]
    assert_same_bits(final_state(config), final_state(undisturbed))


# Processes that load images.


def test_a_loading_process_that_is_killed_is_replaced(data, undisturbed, tmp_path):
    """Between two steps, though the system says it at any time;
    the run is the one that nothing happened to."""
    config = run_config(data, tmp_path / 'run', data_loader_kwargs=dict(num_workers=1))

    def kill_the_loader():
        real = training.training_loop.run_iteration

        def killing(run, ticks):
            if run.batch_idx == 5:
                for worker in multiprocessing.active_children():
                    worker.kill()
                    worker.join()
            real(run, ticks)

        training.training_loop.run_iteration = killing

    assert finish(config, kill_the_loader) == 0, printed(config)[-3000:]
    assert printed(config).count('Warning: a process that loads images was killed') == 1
    assert_same_bits(final_state(config), final_state(undisturbed))


@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere copies of a process are not usual')
def test_loading_processes_are_copies_whatever_the_default_of_python(data):
    """With Python 3.14 they would import everything anew, and see nothing that was set in this one."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method('spawn', force=True)
    try:
        stream = RealStream(Images({}), 8, 0, 1, 0, dict(num_workers=1), torch.device('cpu'))
        worker, = workers_of(stream._batches)
        assert isinstance(worker, multiprocessing.context.ForkProcess)
        end_workers(lambda: stream._batches, [worker])
    finally:
        multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize('folder', ['/nonexistent', '/tmp/' + 200 * 'x'], ids=['missing', 'too long for a socket'])
def test_images_are_loaded_without_processes_where_these_could_not_hand_them_over(folder, monkeypatch, capsys):
    """They would lose them in silence, and the run would wait for ever."""
    monkeypatch.setattr('multiprocessing.util.get_temp_dir', lambda: folder)
    stream = RealStream(Images({}), 8, 0, 1, 0, dict(num_workers=1, prefetch_factor=2), torch.device('cpu'))
    assert workers_of(stream._batches) == [] and stream.next_batch()[0].shape[0] == 8
    assert capsys.readouterr().out.startswith('Warning: images are loaded without processes of their own, which could not')


class ImagesWithoutRoom(Images):
    """Images of which a process can hand over eight."""
    num_read = 0

    def __getitem__(self, idx):
        self.num_read += 1
        if torch.utils.data.get_worker_info() is not None and self.num_read > 8:
            raise RuntimeError('unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)')
        return super().__getitem__(idx)


def test_images_are_loaded_without_processes_from_where_shared_memory_is_full(capsys):
    """That of containers is small."""
    def three(num_workers):
        stream = RealStream(ImagesWithoutRoom({}), 8, 0, 1, 0, dict(num_workers=num_workers), torch.device('cpu'))
        return torch.stack([stream.next_batch()[0] for _ in range(3)])

    assert torch.equal(three(1), three(0))
    assert capsys.readouterr().out.count('Warning: images are loaded without processes') == 1


def test_a_loading_process_that_does_not_listen_is_killed_at_the_end():
    """It would keep the program from ending: what Python sends is a signal that such processes ignore."""
    deaf = multiprocessing.get_context('fork').Process(target=lambda: (ignore_stop_signals(0), time.sleep(600)), daemon=True)
    deaf.start()
    end_workers(lambda: None, [deaf])
    deaf.join(60)
    assert deaf.exitcode == -signal.SIGKILL


def test_loading_processes_that_are_always_killed_end_the_run_with_a_sentence(data, monkeypatch):
    def killed(self):
        self._batches = killed_batches()
        started.append(self._position)

    def killed_batches():
        yield torch.zeros([4, 3, 8, 8], dtype=torch.uint8), torch.zeros([4, 0])
        raise RuntimeError('DataLoader worker (pid(s) 42) exited unexpectedly')

    started = []
    monkeypatch.setattr(RealStream, '_open', killed)
    stream = RealStream(Images({}), 8, 1, 2, 0, {}, torch.device('cpu'), start_nimg=16)
    with pytest.raises(DatasetError, match='killed more than 10 times .*; --workers=0 loads them without'):
        while True:
            stream.next_batch()
    assert started == list(range(8, 8 + 11 * 4, 4))


# Memory.


@pytest.mark.parametrize('error', [
    torch.OutOfMemoryError('CUDA out of memory'),
    torch.AcceleratorError('CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported')],
    ids=['torch', 'driver'])
def test_out_of_memory_halves_the_micro_batch_and_keeps_the_gradient(data, monkeypatch, capsys, error):
    """Once, when there are more than two images in a pass:
    the same gradients as with enough memory, to rounding."""
    config = make_config(data, res=8)
    config['D_kwargs']['epilogue_kwargs']['mbstd_num_channels'] = 0
    config['G_kwargs']['synthesis_kwargs']['use_noise'] = False
    config['loss_kwargs'].update(style_mixing_prob=0, pl_weight=0)
    z = torch.randn([4, 16], generator=torch.Generator().manual_seed(0))
    real_micro_batches = training.training_loop.micro_batches

    def same_latents(run, phase, reals, shared):
        for ctx in real_micro_batches(run, phase, reals, shared):
            ctx.gen_z = z[ctx.round * run.micro_batch:][:run.micro_batch]
            yield ctx

    monkeypatch.setattr(training.training_loop, 'micro_batches', same_latents)

    def gradients(max_images):
        run = setup.build(config, torch.device('cpu'))
        run.enter_stage(0)

        def limited(module, args):
            if len(args[0]) > max_images:
                raise error

        run.game.D.module.register_forward_pre_hook(limited)
        reals = [run.reals[0].next_batch()]
        grads = {}
        for phase in run.phases:
            training.training_loop.run_phase(run, phase, reals, {})
            grads[phase.name] = [parameter.grad.clone() for parameter in phase.players[0].module.parameters()]
            # So that later phases can be compared, too.
            run.game.D.load_state_dict(start.game.D.state_dict())
            run.game.G.load_state_dict(start.game.G.state_dict())
        return run, grads

    start = setup.build(config, torch.device('cpu'))
    plenty, expected = gradients(4)
    assert plenty.micro_batch == 4 and 'Out of memory' not in capsys.readouterr().out
    scarce, found = gradients(2)
    assert scarce.micro_batch == 2 and scarce.batch_gpu == 4
    assert capsys.readouterr().out.count('Out of memory with 4 images at once: going on with 2') == 1
    for phase, grads in expected.items():
        for grad, other in zip(grads, found[phase]):
            torch.testing.assert_close(other, grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('error', [
    torch.AcceleratorError('CUDA error: out of memory'), RuntimeError('cuFFT error: CUFFT_ALLOC_FAILED'),
    RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`'),
    RuntimeError('cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED'),
    RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'), RuntimeError('CUDA driver error: out of memory'),
    RuntimeError('FIND was unable to find an engine to execute this computation'),
    RuntimeError('cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`'),
    RuntimeError('MPS backend out of memory (MPS allocated: 5.05 GiB)'),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")])
def test_memory_runs_out_in_many_words(error):
    assert training.training_loop.is_out_of_memory(error)


@pytest.mark.parametrize('error', [
    torch.AcceleratorError('CUDA error: an illegal memory access was encountered'),
    RuntimeError('cuFFT error: CUFFT_INVALID_SIZE'),
    RuntimeError('CUDA error: device-side assert triggered'),
    RuntimeError('shape [1] is invalid for input of size 2')])
def test_other_errors_are_none_of_memory(error):
    assert not training.training_loop.is_out_of_memory(error)


def test_one_image_that_does_not_fit_is_an_error(data, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError('CUDA out of memory')
    monkeypatch.setattr(training.training_loop, 'micro_batches', full)
    with pytest.raises(torch.OutOfMemoryError):
        run_iterations(make_config(data, res=8), 1)


def test_another_error_is_none_of_memory(data, monkeypatch):
    def fail(*args):
        raise RuntimeError('CUDA error: an illegal memory access was encountered')
    monkeypatch.setattr(training.training_loop, 'micro_batches', fail)
    with pytest.raises(RuntimeError, match='illegal'):
        run_iterations(make_config(data, res=8), 1)


@pytest.mark.parametrize('batch_gpu, group, expected', [
    (8, 4, [4, 2, 1]), (12, 4, [4, 2, 1]), (6, 3, [3, 1]), (32, 8, [16, 8])])
def test_micro_batches_shrink_in_steps_that_the_critic_can_take(data, batch_gpu, group, expected):
    config = make_config(data, res=8, batch=batch_gpu, batch_gpu=batch_gpu)
    config['D_kwargs']['epilogue_kwargs']['mbstd_group_size'] = group
    run = setup.build(config, torch.device('cpu'))
    for num in expected:
        training.training_loop.shrink_micro_batch(run)
        assert run.micro_batch == num


def test_counting_steps_never_waits_for_the_device():
    """On the meta device, which has no values, asking for one would fail."""
    Health().note_step('Dmain', torch.zeros([], device='meta'))
