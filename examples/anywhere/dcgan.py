"""DCGAN [Radford et al. 2015, arXiv:1511.06434], small, with R1, DigGAN,
LeCam and APA in its loop; or in one stage."""
import torch
from torch import nn
from torch.nn.functional import softplus

from loss_zoo import terms

Z = 32


def up(n_in, n_out):
    return nn.Sequential(nn.ConvTranspose2d(n_in, n_out, 4, 2, 1, bias=False), nn.BatchNorm2d(n_out),
                         nn.ReLU())


def down(n_in, n_out):
    return nn.Sequential(nn.Conv2d(n_in, n_out, 4, 2, 1), nn.LeakyReLU(0.2))


def networks(width=32):
    """G: [N,Z,1,1] -> [N,3,32,32], and D: [N,3,32,32] -> [N,1,1,1]."""
    G = nn.Sequential(nn.ConvTranspose2d(Z, 4 * width, 4), nn.BatchNorm2d(4 * width), nn.ReLU(),
                      up(4 * width, 2 * width), up(2 * width, width), nn.ConvTranspose2d(width, 3, 4, 2, 1),
                      nn.Tanh())
    D = nn.Sequential(down(3, width), down(width, 2 * width), down(2 * width, 4 * width),
                      nn.Conv2d(4 * width, 1, 4))
    return G, D


def adam(network):
    return torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.99))


def train(pictures, steps, say=lambda *_: None, batch=16):
    """Two stages: G learns, then D."""
    G, D = networks()
    opt_G, opt_D = adam(G), adam(D)
    lecam, apa = terms.LeCam(start=10), terms.APA(kimg=20)
    for step in range(steps):
        fake = G(torch.randn([batch, Z, 1, 1]))
        loss_G = softplus(-D(fake)).mean()
        opt_G.zero_grad()
        loss_G.backward()
        opt_G.step()

        real = pictures[torch.randint(len(pictures), [batch])]
        # The ten lines of the zoo.
        real = apa.mix(real, fake).requires_grad_()
        fake = fake.detach().requires_grad_()
        on_real, on_fake = D(real), D(fake)
        loss_D = softplus(-on_real).mean() + softplus(on_fake).mean() + lecam(on_real, on_fake).mean()
        if step % 4 == 0:
            loss_D = loss_D + 4 * terms.r1(on_real, real, gamma=0.1).mean()
            loss_D = loss_D + 4 * terms.diggan(on_real, real, on_fake, fake, weight=0.5).mean()
        apa.update(on_real)

        opt_D.zero_grad()
        loss_D.backward()
        opt_D.step()
        say(step, loss_G.item(), loss_D.item(), apa.p)
    return G, D


def train_in_one_stage(pictures, steps, say=lambda *_: None, batch=16):
    """OSGAN: one pass of G and one of D over the fakes, for both."""
    G, D = networks()
    opt_G, opt_D = adam(G), adam(D)
    for step in range(steps):
        fake = G(torch.randn([batch, Z, 1, 1]))
        seen = fake.detach().requires_grad_()
        logits = D(seen)
        loss_G = softplus(-logits).mean()
        loss_D = softplus(logits).mean() + softplus(-D(pictures[torch.randint(len(pictures), [batch])])).mean()
        opt_G.zero_grad()
        opt_D.zero_grad()
        terms.one_stage(fake, seen, loss_G, loss_D, D)
        opt_G.step()
        opt_D.step()
        say(step, loss_G.item(), loss_D.item())
    return G, D


if __name__ == '__main__':
    from zip_images import main
    main(train)
