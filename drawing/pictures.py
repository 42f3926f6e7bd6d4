"""From seeds to latents to pictures, and pictures side by side."""
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:       # Loaded inside the functions that use them, so that --help answers at once.
    import numpy as np
    import torch


def seed_z(seed: int, z_dim: int) -> 'np.ndarray':
    """The latent [1, z_dim] of a seed: the same whatever other seeds there are."""
    import numpy as np
    return np.random.RandomState(seed).randn(1, z_dim)


def seeds_to_z(seeds: Iterable[int], G: 'torch.nn.Module') -> 'torch.Tensor':
    """Latents [N, z_dim] of seeds, float32, on the device of G."""
    import numpy as np
    import torch
    z = np.concatenate([seed_z(seed, G.z_dim) for seed in seeds])
    return torch.from_numpy(z.astype(np.float32)).to(device_of(G))


def images_of_seeds(G: 'torch.nn.Module', seeds: Sequence[int], c: 'torch.Tensor', batch: int = 8,
                    truncation_psi: float = 1, noise_mode: str = 'const') -> Iterator['np.ndarray']:
    """One uint8 picture [H, W, C] per seed, with labels c [N, c_dim] or [1, c_dim],
    computed `batch` at a time."""
    c = c.expand(len(seeds), -1)
    batch = min(batch, len(seeds))
    for start in range(0, len(seeds), batch):
        z = seeds_to_z(seeds[start:start + batch], G)
        ws = to_ws(G, z, c[start:start + batch], truncation_psi)
        yield from images_of_ws(G, ws, batch, noise_mode)


def to_ws(G: 'torch.nn.Module', z: 'torch.Tensor', c: 'torch.Tensor',
          truncation_psi: float = 1) -> 'torch.Tensor':
    """Mapped latents [N, num_ws, w_dim] of z [N, z_dim] and labels [N, c_dim], or one [1, c_dim] for all."""
    import torch
    with torch.inference_mode():
        return G.mapping(z, c.to(z.device).expand(len(z), -1), truncation_psi=truncation_psi)


def images_of_ws(G: 'torch.nn.Module', ws: 'torch.Tensor', batch: int = 8,
                 noise_mode: str = 'const') -> Iterator['np.ndarray']:
    """One uint8 picture [H, W, C] per row of ws [K, num_ws, w_dim]. Half precision is for CUDA only."""
    import torch
    device = device_of(G)
    for rows in ws.split(batch):
        with torch.inference_mode():
            img = G.synthesis(rows.to(device), noise_mode=noise_mode, force_fp32=device.type != 'cuda')
            pictures = to_uint8(img).cpu().numpy()
        yield from pictures


def to_uint8(img: 'torch.Tensor') -> 'torch.Tensor':
    """[N, C, H, W] in -1..1 to uint8 [N, H, W, C]: x * 127.5 + 128, clamped, truncated."""
    import torch
    return (img * 127.5 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def device_of(G: 'torch.nn.Module') -> 'torch.device':
    """Where the network computes."""
    return next(G.parameters()).device


def tile(images: Iterable['np.ndarray'], columns: int, rows: int) -> 'np.ndarray':
    """One picture [rows * H, columns * W, C] of at most columns * rows pictures [H, W, C], row by row,
    rest black."""
    import numpy as np
    for idx, image in enumerate(images):
        height, width, channels = image.shape
        if idx == 0:
            canvas = np.zeros([rows * height, columns * width, channels], dtype=np.uint8)
        row, column = divmod(idx, columns)
        canvas[row * height:(row + 1) * height, column * width:(column + 1) * width] = image
    return canvas


def tile_all(images: Iterator['np.ndarray'], grid: tuple[int, int], num_images: int) \
        -> tuple[list[str], Iterator['np.ndarray']]:
    """(file names, pictures) of the grids that hold `images`, in order."""
    columns, rows = grid
    names = [f'grid{idx:02d}' for idx in range(-(-num_images // (columns * rows)))]
    return names, (tile(islice(images, columns * rows), columns, rows) for _ in names)
