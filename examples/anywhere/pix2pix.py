"""A pair like pix2pix [Isola et al. 2017, arXiv:1611.07004]: grey to colour, a critic of patches that sees
the condition.

Least squares, with WeCo's twin of the critic and a gradient penalty.
"""
from functools import partial

import torch
from torch import nn

from loss_zoo import terms


class UNet(nn.Module):
    """[N,1,32,32] -> [N,3,32,32]."""

    def __init__(self, width=16):
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2))
        self.down2 = nn.Sequential(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.InstanceNorm2d(2 * width),
                                   nn.LeakyReLU(0.2))
        self.up2 = nn.Sequential(nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.InstanceNorm2d(width),
                                 nn.ReLU())
        self.up1 = nn.Sequential(nn.ConvTranspose2d(2 * width, 3, 4, 2, 1), nn.Tanh())

    def forward(self, grey):
        x = self.down1(grey)
        return self.up1(torch.cat([x, self.up2(self.down2(x))], dim=1))


class PatchCritic(nn.Module):
    """Condition [N,1,32,32] and image [N,3,32,32] -> logits [N,1,7,7], each of a patch."""

    def __init__(self, width=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(4, width, 4, 2, 1), nn.LeakyReLU(0.2),
                                    nn.Conv2d(width, 2 * width, 4, 2, 1),
                                    nn.InstanceNorm2d(2 * width), nn.LeakyReLU(0.2),
                                    nn.Conv2d(2 * width, 1, 4, 1, 1))

    def forward(self, img, grey):
        return self.layers(torch.cat([img, grey], dim=1))


def train(pictures, steps, say=lambda *_: None, batch=16):
    G, D, twin, rules = UNet(), PatchCritic(), PatchCritic(), terms.game('lsgan')
    opt_G = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.5, 0.999))
    opt_D = torch.optim.Adam([*D.parameters(), *twin.parameters()], lr=2e-4, betas=(0.5, 0.999))
    for step in range(steps):
        real = pictures[torch.randint(len(pictures), [batch])]
        grey = real.mean(1, keepdim=True)
        fake = G(grey)
        loss_G = sum(rules.G(critic(fake, grey), None).mean() for critic in (D, twin)) + 10 * (fake - real).abs().mean()
        opt_G.zero_grad()
        loss_G.backward()
        opt_G.step()

        fake, loss_D = fake.detach(), terms.weco(D, twin, progress=step / steps)
        for critic in (D, twin):
            loss_D = loss_D + rules.D_fake(critic(fake, grey)).mean() + rules.D_real(critic(real, grey)).mean()
            if step % 4 == 0:
                loss_D = loss_D + 4 * terms.gp(partial(critic, grey=grey), real, fake, weight=0.1).mean()
        opt_D.zero_grad()
        loss_D.backward()
        opt_D.step()
        say(step, loss_G.item(), loss_D.item())
    return G, D


if __name__ == '__main__':
    from zip_images import main
    main(train)
