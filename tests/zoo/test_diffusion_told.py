"""Diffusion-GAN's critics that are told how many steps an image went (`--diffusion-append=1`)."""
import pytest
import torch
from test_zoo import METHODS, check_that_it_runs, zoo_config
from tiny import Silent, assert_resumes_exactly, make_config, make_dataset

from metrics.overfitting import overfitting_gap
from training import setup
from training.diffusion import Diffusion
from training.training_loop import run_iteration, run_phase

PIPE = dict(class_name='training.diffusion.Diffusion', append=True)


def telling(data, names=(), **changes):
    """A run whose critics are told t, and the list of (t told, images seen) that grows with every look."""
    config = zoo_config([data], names, p=0.5, **changes)
    config['augment_kwargs'] = PIPE
    config['D_kwargs']['c_dim'] = config['data_shape']['c_dim'] + 1
    run, looks = setup.build(config, torch.device('cpu')), []
    for critic in run.game.critics.values():
        critic.module.register_forward_pre_hook(lambda module, args: looks.append((args[1][:, -1], args[0])))
    return run, looks


def test_critics_are_told_how_many_steps_an_image_went(tmp_path):
    run, looks = telling(make_dataset(tmp_path / 'data.zip', num=12), ['zcr', 'bcr'])
    run.enter_stage(0)
    pipe, draws, transform = run.game.augment, [], Diffusion.transform
    pipe.transform = lambda img, draw: draws.append(draw) or transform(pipe, img, draw)
    reals = [stream.next_batch() for stream in run.reals]
    run_phase(run, next(phase for phase in run.phases if phase.name == 'Dmain'), reals, {})
    (fake, fake_seen), (fake_moved, moved_seen), (near, _), (real, _), (real_moved, _) = looks
    assert [draw.t.tolist() for draw in draws] == [t.tolist() for t in (fake, near, real)]
    assert torch.equal(fake, near) and torch.equal(fake, fake_moved) and torch.equal(real, real_moved)
    assert not torch.equal(fake_seen, moved_seen) and not torch.equal(fake, real) and fake.max() <= 505


@pytest.mark.parametrize(('names', 'c_dim'), [
    (['genco', 'ggdr', 'diggan', 'r2'], 0), (['insgen', 'apa', 'cr'], 0), (['lecam'], 3)])
def test_every_look_of_every_critic_is_told_of(tmp_path, names, c_dim):
    data = make_dataset(tmp_path / 'data.zip', num=12, num_classes=c_dim)
    run, looks = telling(data, names, data_shape=dict(c_dim=c_dim, img_resolution=16, img_channels=3),
                         training_set_kwargs={**make_config(data)['training_set_kwargs'], 'use_labels': c_dim > 0})
    run.enter_stage(0)
    run_iteration(run, Silent(8))
    told = torch.cat([t for t, _ in looks])
    assert (told == told.round()).all() and 0.2 < (told == 0).float().mean() < 0.8
    assert all(p.isfinite().all() for player in run.game.players for p in player.module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize('told', [False, True])
@pytest.mark.parametrize('name', METHODS)
def test_it_goes_with_every_method(tmp_path, name, told):
    data = [make_dataset(tmp_path / f'{i}.zip', num=12, seed=i) for i in range(2)]
    config = zoo_config(data, [name], p=0.5)
    config['augment_kwargs'] = dict(PIPE, append=told)
    config['D_kwargs']['c_dim'] = config['data_shape']['c_dim'] + told
    check_that_it_runs(config)


def test_an_image_of_the_overfitting_gap_went_no_step(tmp_path):
    data = make_dataset(tmp_path / 'data.zip', num=12)
    run, looks = telling(data)
    kwargs = make_config(data)['training_set_kwargs']
    gap = overfitting_gap(run.game.D.module, {**kwargs, 'max_size': 8}, G=run.game.G.module, batch_size=4)
    assert gap.keys() >= {'gap', 'r_v'} and looks and all((t == 0).all() for t, _ in looks)


def test_a_run_whose_critics_are_told_goes_on_exactly(tmp_path):
    data = [make_dataset(tmp_path / 'data.zip', num=12)]
    config = zoo_config(data, target=0.6, ada_kimg=0.1, ada_interval=1, augment_kwargs=PIPE)
    config['D_kwargs']['c_dim'] = 1
    assert_resumes_exactly(config, 4, 2)
