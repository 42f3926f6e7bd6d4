"""An autoencoder like VQGAN [Esser et al. 2021, arXiv:2012.09841] with a critic of patches: LeCam,
and DaCo's second critic."""
import torch
from torch import nn
from torch.nn.functional import mse_loss

from loss_zoo import terms


class Quantizer(nn.Module):
    """Every vector of a map [N,C,h,w] by the nearest of a table; gradients pass straight through."""

    def __init__(self, num=64, width=16):
        super().__init__()
        self.table = nn.Parameter(torch.randn([num, width]) / width)

    def forward(self, x):
        vectors = x.movedim(1, 3)                                                   # [N,h,w,C]
        nearest = torch.cdist(vectors.flatten(0, 2), self.table).argmin(1)
        found = self.table[nearest].view_as(vectors)
        loss = mse_loss(found, vectors.detach()) + 0.25 * mse_loss(vectors, found.detach())
        return (vectors + (found - vectors).detach()).movedim(3, 1), loss


class Autoencoder(nn.Module):
    """[N,3,32,32] -> the same, through 8x8 entries of a table."""

    def __init__(self, width=16):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, width, 4, 2, 1), nn.SiLU(),
                                     nn.Conv2d(width, width, 4, 2, 1))
        self.quantizer = Quantizer(width=width)
        self.decoder = nn.Sequential(nn.ConvTranspose2d(width, width, 4, 2, 1), nn.SiLU(),
                                     nn.ConvTranspose2d(width, 3, 4, 2, 1))

    def forward(self, img):
        codes, loss = self.quantizer(self.encoder(img))
        return self.decoder(codes), loss


def patch_critic(width=16):
    """[N,3,32,32] -> [N,1,7,7]."""
    return nn.Sequential(nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2),
                         nn.Conv2d(width, 2 * width, 4, 2, 1),
                         nn.LeakyReLU(0.2), nn.Conv2d(2 * width, 1, 4, 1, 1))


def train(pictures, steps, say=lambda *_: None, batch=16, weight=0.1):
    G, D, high, rules = Autoencoder(), patch_critic(), patch_critic(), terms.game('hinge')
    lecam, bands = terms.LeCam(weight=1e-3, start=2), terms.DaCo(bands=16, drop_low=2)
    opt_G = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.9))
    opt_D = torch.optim.Adam([*D.parameters(), *high.parameters()], lr=2e-4, betas=(0.5, 0.9))
    for step in range(steps):
        real, draw = pictures[torch.randint(len(pictures), [batch])], bands.draw(batch)
        fake, loss_codes = G(real)
        loss_G = sum(rules.G(logits, None).mean() for logits in (D(fake), high(bands(fake, draw))))
        opt_G.zero_grad()
        ((fake - real).abs().mean() + loss_codes + weight * loss_G).backward()
        opt_G.step()

        fake = fake.detach()
        on_real, on_fake = D(real), D(fake)
        loss_D = rules.D_real(on_real).mean() + rules.D_fake(on_fake).mean() + lecam(on_real, on_fake).mean()
        loss_D = loss_D + rules.D_real(high(bands(real, draw))).mean() + rules.D_fake(high(bands(fake, draw))).mean()
        opt_D.zero_grad()
        loss_D.backward()
        opt_D.step()
        say(step, (fake - real).abs().mean().item(), loss_G.item(), loss_D.item())
    return G, D


if __name__ == '__main__':
    from zip_images import main
    main(train)
