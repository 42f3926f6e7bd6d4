"""A tiny conditional game and single steps of it, for the tests of the methods."""
import torch

from torch_utils.randomness import Streams
from training.loss import Game, Phase, StepContext
from training.networks import Discriminator, Generator
from training.player import Player

STREAMS = Streams(0)


def make_game(augment=None, reg_interval=16, mbstd_num_channels=1, seed=1):
    """16 pixels, 3 classes, no style mixing, no regularizers; the noise of G has strength 0."""
    torch.manual_seed(seed)
    shape, channels = dict(c_dim=3, img_resolution=16, img_channels=3), dict(channel_base=256, channel_max=16)
    G = Generator(z_dim=16, w_dim=16, mapping_kwargs=dict(num_layers=2), synthesis_kwargs=channels, **shape)
    D = Discriminator(mapping_kwargs=dict(num_layers=2), **channels, **shape,
                      epilogue_kwargs=dict(mbstd_num_channels=mbstd_num_channels))
    return Game(Player('G', lambda: G), Player('D', lambda: D, reg_interval=reg_interval), augment=augment,
                style_mixing_prob=0)


def make_batch(num=4, seed=2):
    """What the loop puts into a context."""
    rng = torch.Generator().manual_seed(seed)
    c = torch.eye(3)[torch.arange(num) % 3]
    return dict(gen_z=torch.randn([num, 16], generator=rng), gen_c=c, real_c=c.flip(0),
                real_img=torch.randn([num, 3, 16, 16], generator=rng))


def fakes(game, batch):
    """The images that G makes of a batch's latents."""
    with torch.no_grad():
        return game.G.module(batch['gen_z'], batch['gen_c'])


def run_step(game, step, batch, interval=1, **context):
    """One micro-batch of D's phase 'D'; the gradients stay on D. Returns the context."""
    D = game.D.module.requires_grad_(True)
    D.zero_grad()
    game.G.module.requires_grad_(False)
    ctx = StepContext(game, Phase('D', step, [game.D], interval, critic=game.D), STREAMS, **batch, **context)
    game.take_reals(ctx, ctx.real_img, ctx.real_c)
    step(game, ctx)
    for regularizer in game.having('end_phase'):
        regularizer.end_phase(ctx.phase)
    return ctx


def gradients(game):
    """Gradients of D, zero where there is none."""
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in game.D.module.named_parameters()}


def step_gradients(game, step, batch, interval=1, **context):
    """The gradients of D in one step."""
    run_step(game, step, batch, interval, **context)
    return gradients(game)


def loss_gradients(game, loss):
    """The gradients of D of a loss that a test has written out."""
    game.D.module.zero_grad()
    loss.backward()
    return gradients(game)


def assert_sum(total, *parts, rtol=1e-4, atol=1e-6):
    """The gradients `total` are the sum of the others."""
    for name, grad in total.items():
        torch.testing.assert_close(grad, sum(part[name] for part in parts), rtol=rtol, atol=atol, msg=name)
