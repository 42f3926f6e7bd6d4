"""Data-discrepancy co-training, the DaCo half of GenCo [Cui et al. 2022, AAAI, arXiv:2110.01254].

A further critic sees only random frequency bands of every image, the lowest never:

    V_m(x) = F^-1( m(band(k)) * F(x)(k) )          m: 0 or 1 for each of 64 bands, one draw per sample

The bands are nested square shells around frequency 0. Real i and fake i share their draw,
in all phases of an iteration.
"""
from dataclasses import dataclass
from functools import cache
from math import comb

import torch
from torch import Tensor
from torch.nn.functional import pad

from losses_ext.option import option
from torch_utils import training_stats
from training.loss import Game
from training.regularizer import Regularizer

MOST_BLIND = 0.05       # Share of the draws that may leave the critic nothing to see.


@dataclass(frozen=True)
class Options:
    """Options of DaCo."""
    bands: int = option(64, 'Number of frequency bands.', within='[1, inf)')
    drop_low: int = option(8, 'Lowest bands that are always dropped; 0: a purely random view.',
                           within='[0, inf)')
    keep: float = option(0.8, 'Share of the other bands that is kept.', within='[0, 1]')
    mask: str = option('hermitian', 'Bands symmetric in frequency, or as published.',
                       choices=('hermitian', 'official'))


class DaCo(Regularizer):
    """A critic that sees part of the spectrum; one for each source of data."""
    Options = Options
    works_apart = True

    @classmethod
    def configure(cls, config: dict, options: Options) -> Options:
        if options.drop_low >= options.bands or num_kept(options) < 1:
            raise ValueError(f'--daco_keep={options.keep:g} of {options.bands} bands without the lowest '
                             f'{options.drop_low} leaves the critic nothing to see; keep at least one band')
        res = config['data_shape']['img_resolution']
        blind = share_of_blind_draws(options, res)
        if blind > MOST_BLIND:
            raise ValueError(f'--daco_bands={options.bands} --daco_drop_low={options.drop_low} --daco_keep={options.keep:g}: at '
                             f'{res} pixels {blind:.0%} of the choices of bands hold no frequency at all, and the critic sees '
                             f'nothing: drop fewer low bands, keep more of the others, or have fewer bands')
        return options

    def __init__(self, game: Game, options: Options):
        super().__init__(game, options)
        for critic in game.first_critics:
            game.add_critic(f'Dhigh{critic.suffix}', self._view, critic.source)

    def _view(self, img: Tensor, ctx) -> Tensor:
        return keep_bands(img, self._draw(ctx, len(img), img.device), self.options.mask)

    def _draw(self, ctx, num: int, device) -> Tensor:
        """[num, bands], 1 for the bands that a sample keeps."""
        keep = draw_bands(num, self.options, device, ctx.shared_rng('daco'))        # [num, bands]
        training_stats.report('Loss/daco/kept', keep.mean(dim=1))
        return keep


def draw_bands(num: int, options: Options, device: torch.device | None = None,
               rng: torch.Generator | None = None) -> Tensor:
    """[num, bands], 1 for the bands that a sample keeps."""
    low, total = options.drop_low, options.bands
    order = torch.rand([num, total - low], device=device, generator=rng).argsort(dim=1).argsort(dim=1)
    return pad((order < num_kept(options)).float(), (low, 0))


def num_kept(options: Options) -> int:
    """How many bands a draw keeps."""
    return int(options.keep * (options.bands - options.drop_low))


def share_of_blind_draws(options: Options, res: int) -> float:
    """The probability that all bands which a draw keeps are
    empty, as images of res x res have no such frequency."""
    filled = set(band_map(res, res, options.bands, options.mask).flatten().tolist())
    choice = range(options.drop_low, options.bands)
    return comb(len(set(choice) - filled), num_kept(options)) / comb(len(choice), num_kept(options))


def keep_bands(img: Tensor, keep: Tensor, mask: str = 'hermitian') -> Tensor:
    """img [N,C,H,W] with those bands only that `keep` [N,bands] marks, in float32.

    The real part of a spectrum times m(k) is the spectrum times the mean of m(k) and m(-k),
    so half a spectrum will do.
    """
    height, width = img.shape[2:]
    band = band_map(height, width, keep.shape[1], mask, img.device)                 # [H,W]
    mirrored = band.flip(0, 1).roll((1, 1), (0, 1))                                 # band(-k)
    keep = pad(keep, (0, 1))                                                        # No band: dropped.
    half = slice(0, width // 2 + 1)
    gain = (keep[:, band[:, half]] + keep[:, mirrored[:, half]]) / 2                # [N,H,W/2+1]
    spectrum = torch.fft.rfft2(img.float()) * gain[:, None]
    return torch.fft.irfft2(spectrum, s=(height, width)).to(img.dtype)


@cache
def band_map(height: int, width: int, bands: int, mask: str = 'hermitian',
             device: torch.device | None = None) -> Tensor:
    """Band of every frequency [H,W], frequency 0 at [0,0]; `bands` where a frequency belongs to none."""
    per_axis = _official_bands if mask == 'official' else _hermitian_bands
    return torch.maximum(per_axis(height, bands)[:, None], per_axis(width, bands)[None, :]).to(device)


def _hermitian_bands(n, bands):
    """Band of each of n frequencies: equal steps of |k|, so that k and -k are in the same one."""
    k = torch.arange(n)
    distance = torch.minimum(k, n - k)
    return (distance * bands // (n // 2 + 1)).clamp(max=bands - 1)


def _official_bands(n, bands):
    """Band of each of n frequencies, as published: band i ends
    at the corner block of floor(n (i+1) / (2 bands)) cells.

    That is not symmetric: the block has frequency -b, where it ends, but not +b.
    """
    k = torch.arange(n)
    radius = torch.minimum(k + 1, n - k)
    sizes = n * torch.arange(1, bands + 1) // (2 * bands)
    return torch.searchsorted(sizes, radius)
