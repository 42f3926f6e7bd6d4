"""Adaptive discriminator augmentation [Karras et al. 2020, arXiv:2006.06676].

Every transformation happens to each sample of its own, with a chance
of its multiplier times the common strength `p`:

    images = pipe.transform(images, draw)      with   draw = pipe.draw(images)

A `Draw` holds everything random, so that images, targets and masks can be treated alike.
`docs/augmentation.md` tells what each transformation does.
"""
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Real

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils import misc
from torch_utils.ops import conv2d_gradfix, grid_sample_gradfix, upfirdn2d
from training.warp import REACH, Geometry, Warp, product

# Low-pass decomposition filter of the symlet wavelet of order 6. It is not symmetric: its orientation
# matters.
SYM6 = [
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
]
BAND_POWER = np.array([10, 1, 1, 1]) / 13  # Expected power of natural images in the four bands, lowest first.

_BLIT = {'xflip': 1, 'rotate90': 1, 'xint': 1}
_GEOM = {'scale': 1, 'rotate': 1, 'aniso': 1, 'xfrac': 1}
_COLOR = {'brightness': 1, 'contrast': 1, 'lumaflip': 1, 'hue': 1, 'saturation': 1}
_FILTER, _NOISE, _CUTOUT = {'imgfilter': 1}, {'noise': 1}, {'cutout': 1}

# Pipes by name: keyword arguments of AugmentPipe.
PIPES: dict[str, dict] = {
    'blit': _BLIT,
    'geom': _GEOM,
    'color': _COLOR,
    'filter': _FILTER,
    'noise': _NOISE,
    'cutout': _CUTOUT,
    'bg': _BLIT | _GEOM,
    'bgc': _BLIT | _GEOM | _COLOR,
    'bgcf': _BLIT | _GEOM | _COLOR | _FILTER,
    'bgcfn': _BLIT | _GEOM | _COLOR | _FILTER | _NOISE,
    'bgcfnc': _BLIT | _GEOM | _COLOR | _FILTER | _NOISE | _CUTOUT,
    'r3gan': _BLIT | _GEOM | dict.fromkeys(_COLOR, 0.5) | _CUTOUT,
}


@dataclass(frozen=True)
class AugmentOptions:
    """What a pipe does. A multiplier is the chance of its transformation at p = 1; with 0 it is left out."""
    # Blits: pixels move, unchanged.
    xflip:           float = 0      # Multiplier: mirrored left to right in half of the cases.
    rotate90:        float = 0      # Multiplier: turned by 0 to 3 quarters.
    xint:            float = 0      # Multiplier: shifted by whole pixels.
    xint_max:        float = 0.125  # Largest such shift, share of the image size.
    # General geometry.
    scale:           float = 0      # Multiplier: scaled.
    rotate:          float = 0      # Multiplier: rotated, before or after the anisotropic scaling or both.
    aniso:           float = 0      # Multiplier: stretched along x, squeezed along y, or the reverse.
    xfrac:           float = 0      # Multiplier: shifted by fractions of a pixel.
    scale_std:       float = 0.2    # Standard deviation of log2 of the scale.
    rotate_max:      float = 1      # Largest angle, 1 = half a turn to either side.
    aniso_std:       float = 0.2    # Standard deviation of log2 of the stretch.
    xfrac_std:       float = 0.125  # Standard deviation of the shift, share of the image size.
    # Colour.
    brightness:      float = 0      # Multiplier: a constant added.
    contrast:        float = 0      # Multiplier: scaled about mid grey.
    lumaflip:        float = 0      # Multiplier: luma negated in half of the cases.
    hue:             float = 0      # Multiplier: rotated about the grey axis. RGB only.
    saturation:      float = 0      # Multiplier: chroma scaled. RGB only.
    brightness_std:  float = 0.2    # Standard deviation of the constant.
    contrast_std:    float = 0.5    # Standard deviation of log2 of the factor.
    hue_max:         float = 1      # Largest angle, 1 = half a turn to either side.
    saturation_std:  float = 1      # Standard deviation of log2 of the factor.
    # Frequency bands, noise, holes.
    imgfilter:       float = 0      # Multiplier: frequency bands amplified and damped.
    imgfilter_bands: tuple = (1, 1, 1, 1)  # Further multipliers of the four bands, lowest first.
    imgfilter_std:   float = 1      # Standard deviation of log2 of a band's amplitude.
    noise:           float = 0      # Multiplier: Gaussian noise added.
    noise_std:       float = 0.1    # Standard deviation of the standard deviation of the noise.
    cutout:          float = 0      # Multiplier: a rectangle set to zero.
    cutout_size:     float = 0.5    # Its side, share of the image size.

    def __post_init__(self):
        bands = tuple(self.imgfilter_bands)
        object.__setattr__(self, 'imgfilter_bands', bands)
        if len(bands) != len(BAND_POWER):
            raise ValueError(f'imgfilter_bands: {list(bands)} must be {len(BAND_POWER)} numbers, one per band')
        for field in fields(self):
            value = getattr(self, field.name)
            for number in bands if field.name == 'imgfilter_bands' else [value]:
                if not isinstance(number, Real) or not math.isfinite(number) or number < 0:
                    raise ValueError(f'{field.name}: {value} must be a finite number, 0 or more')

    @property
    def moves(self) -> bool:
        """Whether anything geometric is enabled."""
        return any(getattr(self, name) for name in _BLIT | _GEOM)


@dataclass(frozen=True)
class Draw:
    """Everything random about one augmentation of one batch. Parts that the pipe does not have are None."""
    shape: tuple                            # N, C, H, W of the images
    geometry: Geometry | None = None
    warp: Warp | None = None                # The geometry at the size of the images
    color: torch.Tensor | None = None       # [N, C, C + 1] matrix and constant
    taps: torch.Tensor | None = None        # [N, taps] separable symmetric filter
    noise: torch.Tensor | None = None       # [N, C, H, W] to be added
    hole_size: torch.Tensor | None = None   # [N, 1] share of the image size
    hole_center: torch.Tensor | None = None  # [N, 2] x and y, share of the image size

    def keep_mask(self, res: int) -> Tensor | None:
        """[N, res, res] bool, False where cutout covers a map of resolution `res`;
        None if the pipe has no cutout."""
        return None if self.hole_size is None else nearest_mask(self.image_mask(), res)

    def image_mask(self) -> Tensor:
        """[N, H, W] bool, False where cutout blanks the image."""
        outside = []
        for axis, length in enumerate((self.shape[3], self.shape[2])):
            position = (torch.arange(length, device=self.hole_size.device) + 0.5) / length
            outside.append((position - self.hole_center[:, axis, None]).abs() >= self.hole_size / 2)    # [N, length]
        return outside[1][:, :, None] | outside[0][:, None, :]


class AugmentPipe(torch.nn.Module):
    """Augmentation of image batches [N, C, H, W], float32, nominally -1 to 1, not clamped.

    Differentiable any number of times with respect to the images. No parameters;
    the buffer `p` is the strength.

    Arguments: keywords, those of `AugmentOptions`; `PIPES` has the usual combinations.
    Raises TypeError for an unknown option, ValueError for a value out of range.
    """

    def __init__(self, **options):
        super().__init__()
        self.options = AugmentOptions(**options)
        self.init_kwargs = asdict(self.options)
        self.margin_shares: tuple[float, ...] = ()      # Margins are rounded up to these shares of the size, if there are any.
        self.register_buffer('p', torch.ones([]))
        self.register_buffer('Hz_geom', upfirdn2d.setup_filter(SYM6))
        self.register_buffer('Hz_fbank', torch.tensor(band_filters(), dtype=torch.float32))

    def forward(self, images: torch.Tensor, debug_percentile: float | None = None,
                generator: torch.Generator | None = None) -> torch.Tensor:
        """Draws and transforms: [N, C, H, W] -> [N, C, H, W]."""
        return self.transform(images, self.draw(images, debug_percentile, generator))

    # ------------------------------------------------------------------------------------------------ chance

    @torch.no_grad()
    def draw(self, images_or_shape: Tensor | Sequence[int], debug_percentile: float | None = None,
             generator: torch.Generator | None = None) -> Draw:
        """Makes all random choices for a batch of this shape (N, C, H, W), as a `Draw`.

        debug_percentile: 0 to 1: everything is applied, every value at this percentile,
        whatever p (the noise field stays random). generator: source of all random numbers, on the pipe's
        device; None = that device's default. Raises ValueError for images
        that an enabled transformation is not defined for.
        """
        shape = tuple(getattr(images_or_shape, 'shape', images_or_shape))
        num_samples, channels, height, width = shape
        dice = Dice(num_samples, self.p.device, debug_percentile, generator)
        geometry = self._draw_geometry(dice)
        return Draw(
            shape=shape,
            geometry=geometry,
            warp=geometry.at(width, height, self.margin_shares) if geometry else None,
            color=self._draw_color(dice, channels),
            taps=self._draw_taps(dice, height, width),
            noise=self._draw_noise(dice, channels, height, width),
            **self._draw_hole(dice),
        )

    def require_size(self, width: int, height: int) -> None:
        """Raises ValueError, in the user's words, unless images of so many pixels are large enough."""
        reach = self.Hz_fbank.shape[1] // 2
        if self.options.imgfilter and min(width, height) <= reach:
            raise ValueError(f'images are {width}x{height}; pipes with a filter (imgfilter: filter, bgcf, bgcfn, '
                             f'bgcfnc) need more than {reach} pixels a side; bgc has no filter')

    def _draw_geometry(self, dice):
        o, p = self.options, self.p
        if not o.moves:
            return None
        # Of each rotation, so that one or both happen with rotate * p.
        p_rotate = 1 - (1 - _times(o.rotate, p)).clamp(0, 1).sqrt() if o.rotate else None
        zero, one = (dice.all_samples(value) for value in (0, 1))
        flip, quarter, shrink, squeeze, first, second = one, zero, one, (one, one), zero, zero
        xint = xfrac = misc.constant(0, [dice.num_samples, 2], device=p.device)
        if o.xflip:
            flip = 1 - 2 * dice.gate((2 * dice.uniform()).floor(), 0, _times(o.xflip, p))
        if o.rotate90:
            quarter = dice.gate((4 * dice.uniform()).floor(), 0, _times(o.rotate90, p)) * (math.pi / 2)
        if o.xint:
            xint = dice.gate((2 * dice.uniform(2) - 1) * o.xint_max, 0, _times(o.xint, p))
        if o.scale:
            shrink = 1 / dice.gate((dice.normal() * o.scale_std).exp2(), 1, _times(o.scale, p))
        if o.rotate:
            first = dice.gate((2 * dice.uniform() - 1) * (math.pi * o.rotate_max), 0, p_rotate)
        if o.aniso:
            s = dice.gate((dice.normal() * o.aniso_std).exp2(), 1, _times(o.aniso, p))
            squeeze = 1 / s, s
        if o.rotate:
            theta = dice.gate((2 * dice.uniform() - 1) * (math.pi * o.rotate_max), 0, p_rotate)
            second = theta if dice.percentile is None else zero     # At a percentile the first rotation is enough.
        if o.xfrac:
            xfrac = dice.gate(dice.normal(2) * o.xfrac_std, 0, _times(o.xfrac, p))
        # Products with diagonal matrices are products with rows or columns.
        turn, before, after = _rotation(torch.stack([quarter, first, second]))                  # [3, N, 2, 2]
        blit = turn * torch.stack([flip, one], dim=1)[:, :, None]
        stretch = product(before * shrink[:, None, None] * torch.stack(squeeze, dim=1)[:, None], after)
        return Geometry(blit, stretch, xint, xfrac)

    def _draw_color(self, dice, channels):
        o, p = self.options, self.p
        if not any(getattr(o, name) for name in _COLOR):
            return None
        if channels not in (1, 3):
            raise ValueError(f'brightness, contrast, lumaflip, hue, saturation: images have {channels} channels; '
                             f'colour transformations are defined for 1 and 3')
        # Each maps luma, the component along grey, to luma and chroma, the rest, to chroma.
        luma = chroma = dice.all_samples(1)
        constant = theta = dice.all_samples(0)
        if o.brightness:
            constant = dice.gate(dice.normal() * o.brightness_std, 0, _times(o.brightness, p))
        if o.contrast:
            luma = chroma = dice.gate((dice.normal() * o.contrast_std).exp2(), 1, _times(o.contrast, p))
        if o.lumaflip:
            luma = luma * (1 - 2 * dice.gate((2 * dice.uniform()).floor(), 0, _times(o.lumaflip, p)))
        if o.hue and channels > 1:
            theta = dice.gate((2 * dice.uniform() - 1) * (math.pi * o.hue_max), 0, _times(o.hue, p))
        if o.saturation and channels > 1:
            chroma = chroma * dice.gate((dice.normal() * o.saturation_std).exp2(), 1, _times(o.saturation, p))
        return _color_matrix(luma, chroma, theta, luma * constant, channels)

    def _draw_taps(self, dice, height, width):
        o, p = self.options, self.p
        if not o.imgfilter:
            return None
        self.require_size(width, height)
        gains, norm = [], 1
        for power, weight in zip(BAND_POWER.tolist(), o.imgfilter_bands):
            t = dice.gate((dice.normal() * o.imgfilter_std).exp2(), 1, _times(weight, _times(o.imgfilter, p)))
            if dice.percentile is not None and not weight:
                t = torch.ones_like(t)
            gains.append(t)
            norm = norm * (1 + power * (t.square() - 1)).sqrt()     # The expected power stays what it was.
        return product((torch.stack(gains) / norm).t()[:, None], self.Hz_fbank[None])[:, 0]     # [N, taps]

    def _draw_noise(self, dice, channels, height, width):
        o, p = self.options, self.p
        if not o.noise:
            return None
        sigma = dice.gate(dice.half_normal() * o.noise_std, 0, _times(o.noise, p))
        return dice.field(channels, height, width) * sigma[:, None, None, None]

    def _draw_hole(self, dice):
        o, p = self.options, self.p
        if not o.cutout:
            return {}
        size = dice.gate(dice.all_samples(o.cutout_size), 0, _times(o.cutout, p))
        return {'hole_size': size[:, None], 'hole_center': dice.uniform(2)}

    # ------------------------------------------------------------------------------------------------ application

    def transform(self, images: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Applies `draw`, which was made for this shape: [N, C, H, W] -> [N, C, H, W]. Deterministic."""
        assert images.shape == draw.shape, f'images {list(images.shape)}, drawn for {list(draw.shape)}'
        if draw.warp is not None:
            doubled = upfirdn2d.upsample2d(F.pad(images, draw.warp.padding(), mode='reflect'), self.Hz_geom)
            images = self._sample_and_halve(doubled, draw.warp)
        if draw.color is not None:
            color = draw.color.to(images.dtype)
            images = torch.baddbmm(color[:, :, -1:], color[:, :, :-1], images.flatten(2)).view(images.shape)
        if draw.taps is not None:
            images = _filter(images, draw.taps.to(images.dtype))
        if draw.noise is not None:
            images = images + draw.noise
        if draw.hole_size is not None:
            images = images * draw.image_mask()[:, None]
        return images

    def warp(self, maps: Tensor | dict[int, Tensor], draw: Draw, form: str = 'aligned') -> Tensor | dict[int, Tensor]:
        """Moves feature maps [N, C, h, w], or {res: map}, as `draw` moves the images;
        nothing else is done to them.

        'aligned': maps follow the images exactly. 'official': the published form of GGDR,
        that is, whole-pixel shifts are rounded at each map's own size, maps are low-passed and displaced by
        0.2 pixels whatever the draw, and those above 128 stay as they are. If nothing geometric is enabled,
        the maps themselves are returned, not a copy.
        """
        assert form in ('aligned', 'official'), f"form {form!r}, expected 'aligned' or 'official'"
        if draw.geometry is None:
            return maps
        if isinstance(maps, dict):
            return {res: self.warp(x, draw, form) for res, x in maps.items()}
        return draw.warp.apply_to(maps) if form == 'aligned' else self._warp_official(maps, draw.geometry)

    def _warp_official(self, maps, geometry):
        height, width = maps.shape[2:]
        if height > 128:
            return maps
        warp = geometry.at(width, height)
        padded = F.pad(maps, warp.padding(), mode='reflect')
        doubled = F.interpolate(padded, scale_factor=2, mode='bilinear', align_corners=False)
        return self._sample_and_halve(doubled, warp)

    def _sample_and_halve(self, doubled, warp):
        """Warps an image that was padded and doubled in size: -> [N, C, H, W]."""
        moved = grid_sample_gradfix.grid_sample(doubled, warp.sampling_grid().to(doubled.dtype))
        return upfirdn2d.downsample2d(moved, self.Hz_geom, padding=-2 * REACH, flip_filter=True)


def nearest_mask(mask: Tensor, res: int) -> Tensor:
    """[N, H, W] bool -> [N, res, res] bool: the value at the centre of each of the res x res pixels."""
    return F.interpolate(mask[:, None].float(), size=[res, res], mode='nearest-exact')[:, 0].bool()


def band_filters() -> np.ndarray:
    """[4, 43] Filters of four octave bands that add up to a unit impulse, lowest first,
    from the sym2 wavelet."""
    low = np.array([-1, 0, 9, 16, 9, 0, -1]) / 32           # sym2 correlated with itself, halved.
    high = low * [-1, 1, -1, 1, -1, 1, -1]
    bank = np.eye(4, 1)
    for i in range(1, 4):
        stuffed = np.zeros([4, 2 * bank.shape[1] - 1])
        stuffed[:, ::2] = bank
        bank = np.stack([np.convolve(row, low) for row in stuffed])
        center = bank.shape[1] // 2
        bank[i, center - 3 : center + 4] += high
    return bank


POOL = 32       # Numbers a sample that are drawn at once.


class Dice:
    """Random numbers for `num_samples` samples.

    On CPUs each draw is a call of its own, so that a seed gives the numbers that it always gave. On other devices, where calls
    cost more than numbers, draws take theirs from a pool. With a percentile the same numbers are drawn, and then replaced
    by the value at that percentile."""

    def __init__(self, num_samples, device, percentile, generator):
        self.num_samples = num_samples
        self.percentile = percentile
        self._source = {'generator': generator, 'device': device}
        self.is_pooled = device.type != 'cpu'
        self._pools = {}                    # {function of torch: (pool [POOL, N], numbers that are used up)}

    def all_samples(self, value):
        """[N] of one value, which is not to be written."""
        return misc.constant(value, [self.num_samples], device=self._source['device'])

    def uniform(self, *size):
        """[N, *size] in [0, 1)."""
        u = self._draw(torch.rand, *size)
        return u if self.percentile is None else torch.full_like(u, self.percentile)

    def normal(self, *size):
        """[N, *size] standard normal. (A percentile gives a value smaller by sqrt(2), as the published
        program does.)"""
        z = self._draw(torch.randn, *size)
        return z if self.percentile is None else torch.full_like(z, 2 * self.percentile - 1).erfinv()

    def half_normal(self):
        """[N] absolute values of standard normal numbers."""
        z = self._draw(torch.randn)
        return z.abs() if self.percentile is None else torch.full_like(z, self.percentile).erfinv()

    def field(self, *size):
        """[N, *size] standard normal, at any percentile."""
        return torch.randn([self.num_samples, *size], **self._source)

    def _draw(self, function, *size):
        """[N] or [N, size]"""
        if not self.is_pooled:
            return function([self.num_samples, *size], **self._source)
        num = math.prod(size)
        pool, used = self._pools.get(function, (None, POOL))
        if used + num > POOL:
            pool, used = function([POOL, self.num_samples], **self._source), 0
        self._pools[function] = pool, used + num
        return pool[used:used + num].t() if size else pool[used]

    def gate(self, value, neutral, chance):
        """`value` [N, ...] for those samples that it happens to, `neutral` for the others."""
        happens = self._draw(torch.rand, *[1] * (value.ndim - 1)) < chance
        return torch.where(happens, value, neutral) if self.percentile is None else value


def _times(multiplier, p):
    """multiplier * p"""
    return p if multiplier == 1 else multiplier * p


def _rotation(theta):
    """[..., N] -> [..., N, 2, 2]."""
    cos, sin = theta.cos(), theta.sin()
    return torch.stack([cos, -sin, sin, cos], dim=-1).unflatten(-1, [2, 2])


def _color_matrix(luma, chroma, theta, constant, channels):
    """[N, C, C + 1] that scales luma, scales chroma and turns it by theta, and adds the constant; each [N].

    Luma is the projection P on v = (1, 1, 1) / sqrt 3. With K the cross product with v,
    luma P + chroma (cos(theta) (1 - P) + sin(theta) K) has the entries of the last line.
    """
    if channels == 1:
        return torch.stack([luma, constant], dim=1)[:, None]
    index = np.arange(3)
    third = misc.constant((index - index[:, None]) * (2 * math.pi / 3), dtype=theta.dtype, device=theta.device)
    angle = theta[:, None, None] + third                                                # [N, 3, 3]
    matrix = (luma[:, None, None] + 2 * chroma[:, None, None] * angle.cos()) / 3
    return torch.cat([matrix, constant[:, None, None].expand(-1, 3, 1)], dim=2)


def _filter(images, taps):
    """Each image [C, H, W] filtered with its own taps in both directions, reflecting at the borders."""
    n, taps_per_axis = taps.shape
    x = F.pad(images, [taps_per_axis // 2] * 4, mode='reflect').transpose(0, 1)         # [C, N, H, W]
    x = conv2d_gradfix.conv2d(x, taps[:, None, None, :], groups=n)
    x = conv2d_gradfix.conv2d(x, taps[:, None, :, None], groups=n)
    return x.transpose(0, 1)
