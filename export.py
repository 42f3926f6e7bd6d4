"""G_ema as a program of its own: for torch.export, or as ONNX; checked against the network it comes from."""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dnnlib import output, writing
from dnnlib.numbers import PSI, Real
from dnnlib.program import Maker
from drawing.named import load_generator, output_folder
from drawing.output_files import require_free

if TYPE_CHECKING:       # Loaded inside the functions that use them, so that --help answers at once.
    import torch

FORMATS = ('pt2', 'onnx')
TOLERANCE = 1e-4  # Largest difference from the network itself that is accepted; pictures span -1..1.
TRACED_BATCH, CHECKED_BATCHES = 2, (1, 3)
CHECK_SEED = 0
OPSET = 18
# A bound that nobody meets; torch before 2.8 does not find its own largest number acceptable.
MOST_AT_ONCE = 2**31 - 1


@click.command(cls=Maker, epilog='Example: python export.py --network=runs/00000-cats --format=onnx --outdir=out')
@click.option('--network', required=True, metavar='FILE|URL|DIR',
              help='Network file, its URL, or a run directory (its newest snapshot is taken).')
@click.option('--format', 'export_format', type=click.Choice(FORMATS), default='pt2', show_default=True,
              help='pt2: for torch.export.load; onnx: for everything else (extra "onnx").')
@click.option('--input', 'input_space', type=click.Choice(['z', 'w']), default='z', show_default=True,
              help='What the program takes: z [N, z_dim] (with c [N, c_dim] if conditional), or w [N, num_ws, w_dim].')
@click.option('--trunc', 'truncation_psi', type=Real(PSI), default=1, show_default=True,
              help='Truncation psi, fixed in the program; z only.')
@click.option('--outdir', required=True, metavar='DIR', help='Where generator.pt2 or generator.onnx goes.')
def main(network: str, export_format: str, input_space: str, truncation_psi: float, outdir: str) -> None:
    """Export a trained generator as a program that needs nothing of this project.

    The program makes float32 pictures [N, C, H, W] in -1..1 for batches of any size, with the stored noise.
    It is compared with the network before it is kept.
    """
    if input_space == 'w' and truncation_psi != 1:
        raise click.UsageError('--trunc has no effect with --input=w: truncate w before')
    if export_format == 'onnx':
        require_onnx()
    path = output_folder(outdir) / f'generator.{export_format}'
    require_free(path.parent, [path.name])
    program = program_of(load_generator(network, 'cpu'), input_space, truncation_psi)
    save, load = {'pt2': (save_pt2, load_pt2), 'onnx': (save_onnx, load_onnx)}[export_format]
    try:
        with writing.atomic_path(path) as partial:
            save(program, partial)
            error = largest_difference(program, load(partial))
            if not error <= TOLERANCE:
                raise click.ClickException(f'the exported program differs from the network by {error:.2g}, more than '
                                           f'{TOLERANCE:g}; it was not kept')
    except OSError as error:
        raise click.ClickException(f'{path} cannot be written: {error.strerror or error}') from None
    click.echo(f'{path} (differs from the network by {error:.2g} at most)')


def require_onnx() -> None:
    """A usage error, naming the extra, unless all is there to write and check ONNX."""
    missing = [name for name in ('onnx', 'onnxscript', 'onnxruntime') if not has_module(name)]
    if missing:
        raise click.UsageError(f'--format=onnx needs the extra "onnx" (pip install {" ".join(missing)})')


def has_module(name: str) -> bool:
    """Is a Python module installed?"""
    import importlib.util
    return importlib.util.find_spec(name) is not None


def program_of(G: 'torch.nn.Module', input_space: str, truncation_psi: float = 1) -> 'torch.nn.Module':
    """The generator as a module of tensors only, in float32, with constant noise;
    `inputs` makes some for it."""
    import torch

    class Program(torch.nn.Module):
        """forward(z), forward(z, c) or forward(ws) -> pictures [N, C, H, W]."""

        def __init__(self):
            super().__init__()
            self.G = G

        def forward(self, latents, c=None):
            ws = latents if input_space == 'w' else self.G.mapping(latents, c, truncation_psi=truncation_psi)
            return self.G.synthesis(ws, noise_mode='const', force_fp32=True)

        def inputs(self, num):
            """{name: random value} of the arguments for a batch of that size, the same in every call."""
            generator = torch.Generator().manual_seed(CHECK_SEED)
            shape = [G.num_ws, G.w_dim] if input_space == 'w' else [G.z_dim]
            values = {'latents': torch.randn([num, *shape], generator=generator)}
            if input_space == 'z' and G.c_dim > 0:
                values['c'] = torch.eye(G.c_dim)[torch.arange(num) % G.c_dim]
            return values

    return Program().eval()


def largest_difference(program: 'torch.nn.Module', exported: Callable) -> float:
    """Between the pictures of the program and of its exported form, over batches of several sizes."""
    import torch
    with torch.no_grad():
        return max(float((program(**values) - exported(**values)).abs().max())
                   for values in map(program.inputs, CHECKED_BATCHES))


def exported_program(program: 'torch.nn.Module') -> 'torch.export.ExportedProgram':
    """The program's graph, for batches of any size."""
    import torch

    from torch_utils.ops import backend
    values = program.inputs(TRACED_BATCH)
    batch = torch.export.Dim('batch', min=1, max=MOST_AT_ONCE)
    # Stock operations alone run where this project is not.
    with torch.no_grad(), backend.default('reference'):
        return torch.export.export(program, (), values, dynamic_shapes={name: {0: batch} for name in values},
                                   strict=True)


def save_pt2(program: 'torch.nn.Module', path: Path) -> None:
    """Writes the program for `torch.export.load`."""
    import torch
    torch.export.save(exported_program(program), path, extra_files={writing.MARK: ''})


def load_pt2(path: Path) -> Callable:
    """The program in the file, as a function."""
    import torch
    return torch.export.load(path).module()


def save_onnx(program: 'torch.nn.Module', path: Path) -> None:
    """Writes the program as ONNX with the inputs `latents` (and `c`) and the output `img`, in one file."""
    import torch
    try:
        exported = torch.onnx.export(exported_program(program), (), kwargs=program.inputs(TRACED_BATCH),
                                     dynamo=True, output_names=['img'], opset_version=OPSET, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise click.ClickException(f'--format=onnx: torch {torch.__version__} cannot write this network; 2.8 and newer '
                                   'are known to, and --format=pt2 may do') from error
    exported.model.metadata_props['Software'] = writing.MARK
    exported.save(path, external_data=False)


def load_onnx(path: Path) -> Callable:
    """The program in the file, run by ONNX Runtime, as a function."""
    import onnxruntime
    import torch
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return lambda **values: torch.from_numpy(
        session.run(None, {name: value.numpy() for name, value in values.items()})[0])


if __name__ == '__main__':
    output.prepare()
    main()
