"""A pair like R3GAN [Huang et al. 2024, arXiv:2501.05441]: residual, without normalisation;
relativistic, with R1 and R2."""
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from loss_zoo import terms

Z = 32


class Block(nn.Module):
    """Residual: 1x1, grouped 3x3, 1x1; the last begins at zero."""

    def __init__(self, width, groups=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.LeakyReLU(0.2),
                                    nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=groups),
                                    nn.LeakyReLU(0.2), nn.Conv2d(2 * width, width, 1, bias=False))
        nn.init.zeros_(self.layers[-1].weight)

    def forward(self, x):
        return x + self.layers(x)


class Generator(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.basis = nn.Linear(Z, width * 16)
        self.blocks = nn.ModuleList(Block(width) for _ in range(4))
        self.to_rgb = nn.Conv2d(width, 3, 1)

    def forward(self, z):
        x = self.basis(z).unflatten(1, (-1, 4, 4))
        for block in self.blocks[:-1]:
            x = interpolate(block(x), scale_factor=2)
        return self.to_rgb(self.blocks[-1](x))


class Critic(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.from_rgb = nn.Conv2d(3, width, 1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(4))
        self.last = nn.Linear(width * 16, 1)

    def forward(self, img):
        x = self.blocks[0](self.from_rgb(img))
        for block in self.blocks[1:]:
            x = block(avg_pool2d(x, 2))
        return self.last(x.flatten(1)).squeeze(1)


def train(pictures, steps, say=lambda *_: None, batch=16, gamma=0.5):
    G, D, rules = Generator(), Critic(), terms.game('relativistic')
    opt_G, opt_D = (torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.0, 0.99)) for network in (G, D))
    for step in range(steps):
        real = pictures[torch.randint(len(pictures), [batch])].requires_grad_()
        loss_G = rules.G(D(G(torch.randn([batch, Z]))), D(real)).mean()
        opt_G.zero_grad()
        loss_G.backward()
        opt_G.step()

        fake = G(torch.randn([batch, Z])).detach().requires_grad_()
        on_real, on_fake = D(real), D(fake)
        loss_D = rules.D(on_fake, on_real) + terms.r1(on_real, real, gamma) + terms.r2(on_fake, fake, gamma)
        opt_D.zero_grad()
        loss_D.mean().backward()
        opt_D.step()
        say(step, loss_G.item(), loss_D.mean().item())
    return G, D


if __name__ == '__main__':
    from zip_images import main
    main(train)
