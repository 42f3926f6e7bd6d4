"""The zoo's terms in loops of one's own: each is that of the
method in the tree, and the examples and the page's lines train."""
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from zoo_game import STREAMS, fakes, loss_gradients, make_batch, make_game, step_gradients

from loss_zoo import terms
from losses_ext import apa, daco, diggan, ggdr, gp, lecam, osgan, r1, r2, weco
from training.loss import Phase, StepContext, Verdict, d_main, d_reg

ROOT = Path(__file__).parents[2]
EXAMPLES = ['dcgan', 'fastgan', 'r3gan', 'pix2pix', 'vqgan']


class OfUser:
    """What a user has of the game's networks: the batch's images, and a critic of images alone."""

    def __init__(self, game, batch):
        self.game, self.batch = game, batch
        self.real = batch['real_img'].clone().requires_grad_()
        self.fake = fakes(game, batch).requires_grad_()

    def on_real(self):
        return self.game.D.module(self.real, self.batch['real_c'])

    def on_fake(self):
        return self.game.D.module(self.fake, self.batch['gen_c'])


def context_of_verdicts(game, batch, leaf):
    """A micro-batch of D's main step in which the critic has seen both kinds."""
    ctx = StepContext(game, Phase('Dmain', d_main, [game.D], critic=game.D), STREAMS, **batch)
    ctx.gen, ctx.fake_c = game.fakes(ctx)
    ctx.fake, ctx.real = game.judge_fakes(ctx, game.D, leaf), game.judge(ctx, game.D, ctx.real_img, ctx.real_c, 'real', leaf)
    return ctx


def assert_same_gradients(game, of_tree, of_user):
    """The critic's gradients of two losses are the same to rounding, and not nothing."""
    game.D.module.requires_grad_(True)
    expected, obtained = loss_gradients(game, of_tree.mean()), loss_gradients(game, of_user.mean())
    assert sum(grad.abs().sum() for grad in expected.values()) > 0
    torch.testing.assert_close(obtained, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('name', ['r1', 'r2'])
def test_r1_and_r2_are_those_of_the_lazy_step(name):
    game, batch = make_game(), make_batch()
    module = dict(r1=r1.R1, r2=r2.R2)[name]
    game.regularizers = [module(game, module.Options(gamma=3))]
    expected = step_gradients(game, d_reg, batch)
    user = OfUser(game, batch)
    term = terms.r1(user.on_real(), user.real, 3) if name == 'r1' else terms.r2(user.on_fake(), user.fake, 3)
    assert term.shape == (4,)
    torch.testing.assert_close(loss_gradients(game, term.mean()), expected, rtol=1e-5, atol=1e-7)


def test_gp_is_that_of_the_lazy_step():
    game, batch = make_game(), make_batch()
    game.regularizers = [gp.GradientPenalty(game, gp.Options(weight=3))]
    expected = step_gradients(game, d_reg, batch)
    term = terms.gp(lambda img: game.D.module(img, batch['real_c']), batch['real_img'], fakes(game, batch), 3,
                    STREAMS.generator(0, 'D/0/0/gp'))
    torch.testing.assert_close(loss_gradients(game, term.mean()), expected, rtol=1e-5, atol=1e-7)


def test_diggan_is_that_of_the_main_step():
    game, batch = make_game(), make_batch()
    game.D.module.requires_grad_(True)
    method = diggan.DigGAN(game, diggan.Options(weight=2.0))
    of_tree = method.d_pair(context_of_verdicts(game, batch, method.leaf))
    user = OfUser(game, batch)
    assert_same_gradients(game, of_tree, terms.diggan(user.on_real(), user.real, user.on_fake(), user.fake, weight=2))


def test_lecam_follows_the_same_means():
    method = lecam.LeCam(make_game(), lecam.Options(weight=0.5, decay=0.7, start=2))
    own = terms.LeCam(weight=0.5, decay=0.7, start=2)
    for step in range(6):
        real, fake = torch.randn([4]) + 1, torch.randn([4]) - 1
        ctx = StepContext(None, Phase('Dmain', d_main, [], critic=method.game.D), None)
        ctx.fake, ctx.real = (Verdict(None, None, logits, {}, None) for logits in (fake, real))
        expected = [term for term in (method.d_fake(ctx), method.d_real(ctx)) if term is not None]
        method.end_iteration(4 * step + 4, step + 1)
        term = own(real[:, None], fake[:, None])
        torch.testing.assert_close(term, sum(expected) if expected else torch.zeros(4))
        assert len(expected) == (2 if step >= 2 else 0)
        state = own.state_dict()
        own = terms.LeCam(weight=0.5, decay=0.7, start=2)
        own.load_state_dict(state)


def test_apa_replaces_the_same_reals_and_follows_the_same_rule():
    game, own = make_game(), terms.APA(target=0.6, kimg=0.1)
    method = apa.APA(game, apa.Options(target=0.6, kimg=0.1))
    real, fake, logits = torch.ones([8, 3, 16, 16]), torch.zeros([8, 3, 16, 16]), torch.tensor([[1.0]] * 7 + [[-1.0]])
    for step in range(1, 13):
        game.D.reported('real', Verdict(None, None, logits[:, 0], {}, None))
        method.end_iteration(8 * step, step)
        own.update(logits)
        assert own.p == pytest.approx(method.state_dict()['p'].item())
    assert own.p == pytest.approx(0.96)
    ctx = StepContext(game, Phase('D', d_main, [game.D], critic=game.D), STREAMS)
    method.load_state_dict(dict(p=torch.tensor(0.5), fakes={0: [fake, torch.zeros([8, 3])]}))
    own.load_state_dict(dict(p=0.5))
    seen = own.mix(real, fake, STREAMS.generator(0, '0/0/apa'))
    assert torch.equal(seen, method.reals(ctx, real, torch.zeros([8, 3]))[0]) and 0 < seen[:, 0, 0, 0].sum() < 8
    fake[:] = torch.nan
    assert torch.equal(own.mix(real, fake), real)


def test_weco_is_that_of_the_twin():
    game = make_game()
    method = weco.WeCo(game, weco.Options(weight=0.3))
    twin = game.critics['D2']
    twin.module.requires_grad_(True)
    ctx = StepContext(game, Phase('D2main', d_main, [twin], critic=twin), None, remaining=0.75)
    torch.testing.assert_close(terms.weco(game.D.module, twin.module, 0.3, progress=0.25), method.d_fake(ctx))


def test_daco_shows_the_same_bands():
    game = make_game()
    daco.DaCo(game, daco.Options(bands=16, drop_low=2))
    ctx = StepContext(game, Phase('Dmain', d_main, [game.D], critic=game.D), STREAMS)
    own, img = terms.DaCo(bands=16, drop_low=2), torch.randn([4, 3, 16, 16])
    draw = own.draw(4, generator=STREAMS.generator(0, '0/0/daco'))
    assert torch.equal(own(img, draw), game.critics['Dhigh'].view(img, ctx))


def test_ggdr_is_that_of_the_main_step():
    game, batch = make_game(), make_batch()
    method = ggdr.GGDR(game, ggdr.Options(weight=7.0, res='16'))
    with torch.no_grad():
        ctx = context_of_verdicts(game, batch, None)
    own = terms.GGDR({res: torch.zeros([1, game.G.module.synthesis.channels[res], res, res]) for res in (8, 16)},
                     {res: torch.zeros([1, game.D.module.channels[res], res, res]) for res in (4, 8)}, weight=7)
    own.load_state_dict({name: value for name, value in game.D.module.state_dict().items() if '_dec.' in name})
    torch.testing.assert_close(own(ctx.gen.feats, ctx.fake.feats), method.d_fake(ctx))


def test_one_stage_gives_both_players_the_gradients_of_two_passes():
    torch.manual_seed(0)
    G, D = nn.Conv2d(2, 3, 3), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 1))
    rules, z = terms.game('logistic'), torch.randn([5, 2, 6, 6])
    expected_G = torch.autograd.grad(rules.G(D(G(z)), None).mean(), G.parameters())
    expected_D = torch.autograd.grad(rules.D_fake(D(G(z).detach())).mean(), D.parameters())
    fake = G(z)
    seen = fake.detach().requires_grad_()
    logits = D(seen)
    terms.one_stage(fake, seen, rules.G(logits, None), rules.D_fake(logits), D)
    for network, expected in ((G, expected_G), (D, expected_D)):
        torch.testing.assert_close([p.grad for p in network.parameters()], list(expected))


def test_one_stage_shares_its_image_gradient_with_the_method(monkeypatch):
    """The recipe in the tree calls the function that `one_stage` calls."""
    calls = []
    monkeypatch.setattr(osgan, 'image_gradient', lambda loss, img: calls.append(1) or torch.zeros_like(img))
    game, batch = make_game(), make_batch()
    game.G.module.requires_grad_(True)
    ctx = StepContext(game, Phase('GDmain', osgan.gd_main, [game.G, game.D], critic=game.D), STREAMS, **batch)
    game.D.module.requires_grad_(True)
    osgan.gd_main(game, ctx, osgan.Options())
    img = torch.zeros([1, 1, 2, 2], requires_grad=True)
    D = nn.Linear(4, 1)
    terms.one_stage(nn.Parameter(torch.zeros([1, 1, 2, 2])), img, img.sum(), D(img.flatten()), D)
    assert len(calls) == 2


def test_the_verdict_of_patches_is_their_mean():
    real = torch.randn([2, 1, 4, 4], requires_grad=True)
    torch.testing.assert_close(terms.r1((3 * real).flatten(1).sum(1), real, 2), terms.r1(16 * 3 * real, real, 2))
    assert terms.per_image(torch.ones([2, 1, 4, 4])).tolist() == [1, 1]


@pytest.mark.parametrize('mistake, says', [
    (lambda img: terms.r1(img.sum([1, 2, 3]), img, 1), 'need requires_grad before the critic sees them'),
    (lambda img: terms.r2(nn.Parameter(torch.ones(2)), img.requires_grad_(), 1), 'give the very tensor that the critic saw'),
    (lambda img: terms.GGDR({64: img}, {4: img}), r'critic has maps of \[4\] pixels, the generator of \[64\]'),
    (lambda img: terms.GGDR({8: img, 32: img}, {4: img, 16: img}), 'half of each'),
    (lambda img: terms.Taps([net := nn.Flatten()]) and net(img), r'the output of Flatten is no square feature map .*\[2, 48\]'),
    (lambda img: terms.DaCo(bands=4), 'nothing to see'),
    (lambda img: terms.LeCam(decay=2), 'lecam_decay=2: must be'),
    (lambda img: terms.APA(p=-1), 'apa_p=-1: must be'),
    (lambda img: terms.game('chess'), 'there is no game chess'),
    (lambda img: terms.gp(lambda x: x.sum([1, 2, 3]), img, img[:1]), 'reals and fakes must have one shape'),
    (lambda img: terms.r1((img.requires_grad_() ** 2).mean(), img, 1), r'2 images have logits|one number for all images'),
    (lambda img: terms.diggan((img.requires_grad_() ** 2).mean([0, 1]), img, img.sum([1, 2, 3]), img, 1),
     r'2 images have logits \[4, 4\]'),
    (lambda img: terms.LeCam()(torch.zeros([]), torch.zeros([])), 'one number for all images'),
    (lambda img: terms.r1(torch.zeros(2), img.requires_grad_(), 1), 'outside of torch.no_grad'),
    (lambda img: terms.weco(nn.Linear(2, 2), nn.Linear(3, 2)), 'weco compares critics of one architecture')])
def test_a_mistake_is_one_sentence(mistake, says):
    with pytest.raises(ValueError, match=says):
        mistake(torch.zeros([2, 3, 4, 4]))


@pytest.mark.parametrize('name', EXAMPLES)
def test_an_example_trains(name):
    """Two steps change every weight of both networks but
    those that begin behind a zero, and all stays finite."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f'examples/anywhere/{name}.py')
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    torch.manual_seed(0)
    said = []
    for train in [value for key, value in vars(example).items() if key.startswith('train')]:
        networks = train(torch.rand([12, 3, 32, 32]) * 2 - 1, 3, lambda *values: said.append(values), batch=4)
        assert all(p.grad is not None and p.isfinite().all() for network in networks for p in network.parameters())
    assert len(said) % 3 == 0 and all(torch.tensor(values).isfinite().all() for values in said)


def test_there_are_the_examples_that_the_page_names():
    page = (ROOT / 'docs/anywhere.md').read_text(encoding='utf-8')
    there = {path.stem for path in (ROOT / 'examples/anywhere').glob('*.py')} - {'zip_images'}
    assert there == set(EXAMPLES) and all(f'../examples/anywhere/{name}.py' in page for name in EXAMPLES)


def pieces():
    """(heading, code) of the page: what is added to the loop that it begins with."""
    page = (ROOT / 'docs/anywhere.md').read_text(encoding='utf-8')
    return re.findall(r'^### ([^\n]+)\n.*?^```python\n(.*?)^```', page, re.M | re.S)


@pytest.mark.parametrize('heading, code', pieces(), ids=[heading for heading, _ in pieces()])
def test_the_lines_of_the_page_run_and_are_at_most_ten(heading, code):
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    G = nn.Sequential(nn.ConvTranspose2d(8, 8, 4), nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, padding=1),
                      nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, padding=1))
    D, twin = (nn.Sequential(nn.Conv2d(3, 4, 4, 2, 1), nn.Tanh(), nn.Conv2d(4, 4, 4, 2, 1), nn.Tanh(), nn.Conv2d(4, 1, 4))
               for _ in range(2))
    z, real = torch.randn([4, 8, 1, 1]), torch.rand([4, 3, 16, 16])
    fake = G(z)
    loss_D = D(fake.detach()).mean() - D(real).mean()
    names = dict(torch=torch, G=G, D=D, twin=twin, z=z, real=real, fake=fake, loss_D=loss_D, step=0, progress=0.0)
    exec(code, names)
    if 'loss_D' in code and 'one_stage' not in code:
        names['loss_D'].backward()
    assert next(D.parameters()).grad is not None


def test_the_page_has_every_term():
    page = (ROOT / 'docs/anywhere.md').read_text(encoding='utf-8')
    assert [name for name in terms.__all__ if f'`{name}' not in page and f'terms.{name}' not in page] == []
    assert len(pieces()) >= 8


