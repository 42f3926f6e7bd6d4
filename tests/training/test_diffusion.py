"""Diffusion as an augmentation: its numbers as published,
what it leaves alone, its controller, and whole runs."""

import pytest
import torch
from tiny import assert_resumes_exactly, make_config, make_dataset

import losses_ext
from training import setup
from training.config.resolve import resolve
from training.config.rules import UserError
from training.diffusion import Diffusion, chain_length, draw_t, kept_share
from training.training_loop import adapt_augmentation

PIPE = dict(class_name='training.diffusion.Diffusion')


def test_chains_and_what_they_keep_are_the_published_ones():
    for p, T in [(0, 10), (0.1, 109), (0.25, 258), (0.5, 505), (1, 1000), (1.5, 1000)]:
        assert chain_length(torch.tensor(float(p))).item() == T
    for T, kept in [(10, 0.903739), (100, 0.363563), (505, 0.006039), (1000, 0.0000403583)]:
        shares = kept_share(torch.tensor(T))
        assert shares[0] == 1 and shares[T].item() == pytest.approx(kept, rel=1e-4, abs=1e-6)


def test_long_diffusions_are_likelier():
    u, T = (torch.arange(90000) + 0.5) / 90000, torch.tensor(10)
    counts = torch.bincount(draw_t(u, T, 'priority'), minlength=11)
    assert counts[:2].tolist() == [0, 0]
    assert (counts[2:] - 2000 * torch.arange(1, 10)).abs().max() <= 1           # In proportion to t - 1.
    assert torch.bincount(draw_t(u, T, 'uniform'), minlength=11)[1:].tolist() == [9000] * 10
    assert draw_t(torch.tensor([1 - 2 ** -24]), torch.tensor(1000), 'priority').item() == 1000


def test_an_image_keeps_its_share_and_gets_the_rest_as_noise():
    pipe, x = Diffusion(), torch.randn([4000, 1, 8, 8], generator=torch.Generator().manual_seed(0)).requires_grad_()
    draw = pipe.draw(x, torch.Generator().manual_seed(1))
    y = pipe.transform(x, draw)
    untouched = draw.kept == 1
    assert untouched.float().mean().item() == pytest.approx(0.5, abs=0.025)
    assert torch.equal(y[untouched], x[untouched])
    rest = (y - draw.kept.sqrt()[:, None, None, None] * x)[~untouched]
    expected = 0.0025 * (1 - draw.kept[~untouched])
    assert (rest.square().mean([1, 2, 3]) / expected).mean().item() == pytest.approx(1, abs=0.01)
    y.sum().backward()
    torch.testing.assert_close(x.grad[:, 0, 0, 0], draw.kept.sqrt())
    assert pipe.warp(x, draw) is x and draw.keep_mask(8) is None


def config_of(data, **changes):
    config = make_config(data, augment_kwargs=PIPE, **changes)
    losses_ext.configure(config, {})
    return config


def test_the_strength_is_held_between_0_and_1(tmp_path):
    run = setup.build(config_of(make_dataset(tmp_path / 'data.zip', num=12), target=0.6, ada_kimg=0.001), torch.device('cpu'))
    for signs, p in (([4.0, 4.0], 1.0), ([-4.0, 4.0], 0.0)):
        run.game.D.real_signs.copy_(torch.tensor(signs))
        adapt_augmentation(run)
        assert run.game.augment.p.item() == p


def test_resume_is_exact(tmp_path):
    data = make_dataset(tmp_path / 'data.zip', num=12)
    assert_resumes_exactly(config_of(data, target=0.6, ada_kimg=0.1, ada_interval=1, regularizers=dict(ggdr=dict(res='8'))), 4, 2)


def test_options(tmp_path):
    data = make_dataset(tmp_path / 'data.zip', num=12)
    name, config = resolve(dict(data=data, aug='diffusion'))
    assert (config['target'], config['ada_kimg'], config['augment_kwargs']) == (0.6, 100, dict(PIPE, chance='priority'))
    _, config = resolve(dict(data=data, aug='diffusion', p=0.3, diffusion_t='uniform', loss='relativistic'))
    assert (config.get('target'), config['p'], config['augment_kwargs']['chance']) == (None, 0.3, 'uniform')
    name, config = resolve(dict(data=data, aug='diffusion', diffusion_append=True))
    assert name.endswith('diffusion-append') and config['augment_kwargs'] == dict(PIPE, chance='priority', append=True)
    assert config['D_kwargs']['c_dim'] == 1 and 'c_dim' not in config['G_kwargs']
    for options, words in [(dict(aug='ada', diffusion_append=True), '--diffusion-append has no effect without --aug=diffusion'),
                           (dict(aug='diffusion', diffusion_append=True, cfg='r3gan'), '--diffusion-append=1 is for StyleGAN2'),
                           (dict(aug='diffusion', loss='wgan'), '--aug=diffusion cannot follow --loss=wgan.*give --p=0.3'),
                           (dict(aug='diffusion', p=0.3, target=0.5), '--target has no effect with --p, which holds'),
                           (dict(aug='diffusion', p=0.3, ada_kimg=5), '--ada-kimg has no effect with --p, which holds'),
                           (dict(aug='noaug', target=0.5), '--target has no effect without --aug=ada or --aug=diffusion'),
                           (dict(aug='ada', p=0.5), '--p has no effect without --aug=fixed or --aug=diffusion'),
                           (dict(aug='diffusion', augpipe='bg'), '--augpipe has no effect with --aug=diffusion'),
                           (dict(aug='diffusion', ada_signal='heldout'), '--ada-signal has no effect without --aug=ada'),
                           (dict(diffusion_t='uniform'), '--diffusion-t has no effect'),
                           (dict(aug='diffusion', reg_type='apa'), '--reg_type=apa beside --aug=diffusion.*fixed --apa_p')]:
        with pytest.raises(UserError, match=words):
            resolve(dict(data=data, **options))
