"""A trained generator to draw with: `z`, `w` and `image` from seeds, in the words of the papers."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from loss_zoo import programs

if TYPE_CHECKING:
    import numpy as np

programs.make_importable()      # For the imports inside the functions below.


@dataclass(frozen=True)
class Network:
    """A generator, in eval mode, on its device.

    G: the module itself: `G.mapping(z, c)`, `G.synthesis(ws)`.
    """
    G: nn.Module

    @property
    def resolution(self) -> int:
        """Height and width of its pictures in pixels."""
        return self.G.img_resolution

    @property
    def label_dim(self) -> int:
        """Numbers in a label; 0 if it is not conditional."""
        return self.G.c_dim

    def z(self, seeds: Iterable[int]) -> Tensor:
        """Latents [N, z_dim] of seeds: the same as generate.py draws."""
        from drawing.pictures import seeds_to_z
        return seeds_to_z(seeds, self.G)

    def w(self, seeds: Iterable[int] | None = None, z: Tensor | None = None,
          label: int | Sequence[float] | None = None, psi: float = 1) -> Tensor:
        """Mapped latents [N, num_ws, w_dim] of seeds, or of latents z [N, z_dim].

        label: a class, or the numbers of a label; a conditional network needs one.
        psi: truncation: 0 is the mean picture, 1 leaves everything as it is.
        Raises ValueError for a label that does not fit the network.
        """
        from drawing.pictures import to_ws
        if (seeds is None) == (z is None):
            raise ValueError('give either seeds or z')
        return to_ws(self.G, self.z(seeds) if z is None else z, self._label(label), psi)

    def image(self, seeds: Iterable[int] | None = None, z: Tensor | None = None, w: Tensor | None = None,
              label: int | Sequence[float] | None = None, psi: float = 1,
              noise_mode: str = 'const') -> 'np.ndarray':
        """Pictures uint8 [N, height, width, channels] of seeds, latents z, or mapped latents w [N, num_ws,
        w_dim].

        noise_mode: 'const', 'random' or 'none'.
        Raises ValueError as `w`.
        """
        import numpy as np

        from drawing.pictures import images_of_ws
        ws = self.w(seeds, z, label, psi) if w is None else w
        return np.stack(list(images_of_ws(self.G, ws, noise_mode=noise_mode)))

    def _label(self, label):
        width = self.label_dim
        if width == 0 and label is None:
            return torch.zeros([1, 0])
        if isinstance(label, int) and 0 <= label < width:
            return nn.functional.one_hot(torch.tensor([label]), width).float()
        if isinstance(label, Sequence) and len(label) == width > 0:
            return torch.tensor([label], dtype=torch.float32)
        takes = f'a class from 0 to {width - 1}, or {width} numbers' if width else 'no label'
        raise ValueError(f'label={label!r}: this network takes {takes}')


def load(source: str, device: str = 'auto') -> Network:
    """As `loss_zoo.load`."""
    from torch_utils.distributed import pick_device
    from torch_utils.network_file import load_network
    where = pick_device(device)
    G = load_network(source, only=['G_ema'])['G_ema']
    if G is None:
        raise ValueError(f'{source} has no averaged generator (G_ema)')
    return Network(G.to(where))
