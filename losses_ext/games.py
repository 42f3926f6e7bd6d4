"""Adversarial games beside the logistic one: what each side
wants of the critic's logits [N] (training/adversarial.py).

Sources: saturating [Goodfellow et al. 2014, arXiv:1406.2661], hinge [Lim and Ye 2017, arXiv:1705.02894],
least squares [Mao et al. 2017, arXiv:1611.04076], Wasserstein [Arjovsky et al. 2017, arXiv:1701.07875],
relativistic paired [Jolicoeur-Martineau 2018, arXiv:1807.00734; Huang et al. 2024, arXiv:2501.05441].
"""
import torch
from torch.nn.functional import relu, softplus

from training.adversarial import Adversarial, opposite

SATURATING = Adversarial(
    G=lambda fake, _: -softplus(fake),
    D_fake=lambda fake: softplus(fake),
    D_real=lambda real: softplus(-real),
    ratio=opposite)

HINGE = Adversarial(
    G=lambda fake, _: -fake,
    D_fake=lambda fake: relu(1 + fake),
    D_real=lambda real: relu(1 - real))

LSGAN = Adversarial(                                # Targets -1 and +1, so that 0 is the border.
    G=lambda fake, _: (fake - 1).square() / 2,
    D_fake=lambda fake: (fake + 1).square() / 2,
    D_real=lambda real: (real - 1).square() / 2)

WGAN = Adversarial(
    G=lambda fake, _: -fake,
    D_fake=lambda fake: fake,
    D_real=lambda real: -real,
    ratio=opposite,
    zero_decides=False)

RELATIVISTIC = Adversarial(
    G=lambda fake, real: softplus(real - fake),
    D=lambda fake, real: softplus(fake - real),
    ratio=lambda a: -torch.exp(-a),
    zero_decides=False)
