"""What this program asks of a generator and of a critic. A network that has all of it can take the place of those in networks.py.

`train.py --G=NAME` and `--D=NAME` choose a class of the table in torch_utils/network_schema.py; docs/own/network.md adds one.
It is built with the arguments that the class in whose place it stands would get, and takes of them what it has a use for.
Whoever asks is named behind each part; the parts under "only for" may be missing if nobody of those is used.
"""
from collections.abc import Collection
from typing import Any, Protocol

import torch
from torch import Tensor


class Network(Protocol):
    """A `torch.nn.Module` that can be rebuilt, moved and saved (checkpoints, snapshots, the average of G).

    All that a network is must be parameters or buffers, made by its constructor from `init_kwargs` alone and never renamed
    later. The constructor makes tensors with torch.randn, empty, zeros, ones, full, or as layers of `torch.nn`.
    """
    init_kwargs: dict[str, Any]     # The arguments of the constructor, plain data.
    training: bool

    def parameters(self) -> Any: ...                                                # Optimizer, all-reduce.
    def state_dict(self) -> dict[str, Tensor]: ...


class Mapping(Protocol):
    """Latents to the intermediate latents w that each layer of the synthesis gets one of."""
    num_ws: int                     # How many each image takes: at least two where styles are mixed.
    w_avg: Tensor                   # [w_dim], a buffer: running mean of w, the only state that ranks do not share.

    def __call__(self, z: Tensor, c: Tensor | None, truncation_psi: float = 1, truncation_cutoff: int | None = None,
                 skip_w_avg_update: bool = False) -> Tensor:
        """ws [N,num_ws,w_dim] of z [N,z_dim] and labels c [N,c_dim].

        In training mode it tracks w, unless told to skip that. `truncation_psi` pulls ws towards `w_avg` (the tools that draw).
        """

    def track(self, w: Tensor) -> None:
        """In training mode: moves `w_avg` towards the mean of w [N,w_dim] (steps that mix styles)."""


class Synthesis(Protocol):
    """Intermediate latents to images.

    Only for directions.py: `block_resolutions`, and for each of them a block `b{res}` whose layers have an `affine`.
    Only for ggdr: `channels`, {resolution: number of feature maps}, and maps in `return_feats`.
    Only for tools that hold noise still (projector.py, path lengths): buffers `noise_const` in layers that draw noise.
    """

    def __call__(self, ws: Tensor, return_feats: Collection[int] = (), *, noise_generator: torch.Generator | None = None,
                 noise_mode: str = 'random', force_fp32: bool = False) -> Any:
        """Images [N,img_channels,img_resolution,img_resolution] float32, about -1..1, differentiable by ws.

        With `return_feats`, which only ggdr gives, (images, {res: [N,Ch,res,res]}). All that is random comes from
        `noise_generator` (steps); nothing is random with `noise_mode` 'const' or 'none' (pictures, metrics).
        """


class Generator(Network, Protocol):
    """G: latents z and labels c to images. Steps use its two halves, most tools the whole."""
    z_dim: int
    c_dim: int
    w_dim: int
    num_ws: int
    img_resolution: int
    img_channels: int
    mapping: Mapping
    synthesis: Synthesis

    def __call__(self, z: Tensor, c: Tensor | None, truncation_psi: float = 1, truncation_cutoff: int | None = None,
                 **synthesis_kwargs: Any) -> Any:
        """The same as `synthesis(mapping(z, c))`: the mapping's arguments by name, all others go to the synthesis."""


class Critic(Network, Protocol):
    """D: images and labels to logits. Further critics of a method are of the same class.

    Only for ggdr: `channels`, {resolution: number of feature maps} for resolutions from half the image's down.
    Only to be faster on GPUs: `takes_batches = True` says that it takes `num_batches`, too; `img` is then so many
    batches, one after the other, whose samples have nothing to do with those of the others.
    """
    c_dim: int

    def __call__(self, img: Tensor, c: Tensor | None, return_feats: bool = False) -> Any:
        """Logits [N,1] of img [N,C,H,W] and labels c [N,c_dim]; with `return_feats`, which only ggdr gives, and {res: maps}.

        Differentiable twice by img: R1 and its like differentiate the gradient.
        """
