"""Pictures for the examples: all of a zip archive, as one tensor."""
import sys
import zipfile

import numpy as np
import PIL.Image
import torch

EMOJI = 'datasets/emoji-faces-noto-32.zip'


def load(path: str = EMOJI, size: int = 32) -> torch.Tensor:
    """[N,3,size,size] in -1..1."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith('.png'))
        images = [PIL.Image.open(archive.open(name), formats=['PNG']).convert('RGB').resize((size, size)) for name in names]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1


def main(train) -> None:
    """`python EXAMPLE.py [STEPS [ZIP]]`: trains on the pictures of an archive, and prints the losses."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    train(load(*sys.argv[2:3]), steps, print)
