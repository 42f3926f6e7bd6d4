"""A pair like FastGAN [Liu et al. 2021, arXiv:2101.04775]: gated skips from low to high resolution,
hinge loss. With GGDR."""
import torch
from torch import nn

from loss_zoo import terms

Z = 32


def conv(n_in, n_out, stride=1):
    size = 4 if stride == 2 else 3
    return nn.Conv2d(n_in, n_out, size, stride, 1, bias=False)


class Up(nn.Module):
    """Twice the resolution, by a gated linear unit."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.layers = nn.Sequential(nn.Upsample(scale_factor=2), conv(n_in, 2 * n_out),
                                    nn.BatchNorm2d(2 * n_out), nn.GLU(1))

    def forward(self, x):
        return self.layers(x)


class Excite(nn.Module):
    """Channels of a high resolution, scaled by what a low one says."""

    def __init__(self, n_low, n_high):
        super().__init__()
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Conv2d(n_low, n_high, 4), nn.SiLU(),
                                  nn.Conv2d(n_high, n_high, 1), nn.Sigmoid())

    def forward(self, low, high):
        return high * self.gate(low)


class Generator(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.first = nn.Sequential(nn.ConvTranspose2d(Z, 8 * width, 4), nn.BatchNorm2d(8 * width), nn.GLU(1))
        self.to8, self.to16, self.to32 = Up(4 * width, 2 * width), Up(2 * width, width), Up(width, width)
        self.excite = Excite(4 * width, width)
        self.to_rgb = nn.Sequential(conv(width, 3), nn.Tanh())

    def forward(self, z):
        x4 = self.first(z[:, :, None, None])
        return self.to_rgb(self.excite(x4, self.to32(self.to16(self.to8(x4)))))


class Critic(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        channels = [3, width, 2 * width, 4 * width]
        self.downs = nn.ModuleList(nn.Sequential(conv(a, b, stride=2), nn.LeakyReLU(0.2))
                                   for a, b in zip(channels, channels[1:]))
        self.last = nn.Conv2d(4 * width, 1, 4)

    def forward(self, x):
        for down in self.downs:
            x = down(x)
        return self.last(x)


def train(pictures, steps, say=lambda *_: None, batch=16):
    G, D, rules = Generator(), Critic(), terms.game('hinge')
    G_taps, D_taps = terms.Taps([G.to8, G.to16]), terms.Taps(D.downs)
    D(G(torch.randn([2, Z])))                       # Fills the taps.
    ggdr = terms.GGDR(G_taps.maps, D_taps.maps)
    opt_G = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.99))
    opt_D = torch.optim.Adam([*D.parameters(), *ggdr.parameters()], lr=2e-4, betas=(0.5, 0.99))
    for step in range(steps):
        loss_G = rules.G(D(G(torch.randn([batch, Z]))), None).mean()
        opt_G.zero_grad()
        loss_G.backward()
        opt_G.step()

        loss_real = rules.D_real(D(pictures[torch.randint(len(pictures), [batch])])).mean()
        with torch.no_grad():
            fake = G(torch.randn([batch, Z]))
        loss_fake = rules.D_fake(D(fake)).mean()
        told = ggdr(G_taps.maps, D_taps.maps).mean()        # Of the latest pass: that over the fakes.
        opt_D.zero_grad()
        (loss_real + loss_fake + told).backward()
        opt_D.step()
        say(step, loss_G.item(), (loss_real + loss_fake).item(), told.item())
    return G, D


if __name__ == '__main__':
    from zip_images import main
    main(train)
