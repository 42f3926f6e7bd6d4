"""Times `generate.py`'s work: drawing pictures, and drawing while earlier ones are encoded and written.

    python benchmarks/generate.py                                       # 256 px, full width, random weights.
    python benchmarks/generate.py --res=32 --channel-base=1024 --channel-max=64 --threads=1

Wall time of `--count` pictures, the best of three: `draw` without files;
`write` the encoding and writing alone, one thread; `both` as generate.py does it; `fused` and `not fused`
drawing with modulation in the weights and in the activations.
"""
import json
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent.parent))

from dnnlib.computing import device_option  # noqa: E402


def best_seconds(run, repeats=3):
    """Of some runs, after one to warm up."""
    run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def make_generator(res, channel_base, channel_max, device):
    """A generator as a network file would hold it."""
    import torch

    from training.networks import Generator
    torch.manual_seed(0)
    G = Generator(512, 0, 512, res, 3, dict(num_layers=2),
                  dict(channel_base=channel_base, channel_max=channel_max))
    return G.eval().requires_grad_(False).to(device)


def measure(G, count, batch):
    """{what: seconds}."""
    import torch

    from drawing.output_files import ImageWriter, save_image
    from drawing.pictures import device_of, images_of_ws
    with torch.inference_mode():
        ws = G.mapping(torch.randn([count, G.z_dim], device=device_of(G)), None)
    pictures = list(images_of_ws(G, ws, batch))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)

        def write():
            for idx, picture in enumerate(pictures):
                save_image(path / f'{idx}.png', picture)

        def both():
            with ImageWriter() as writer:
                for idx, picture in enumerate(images_of_ws(G, ws, batch)):
                    writer.write(path / f'{idx}.png', picture)

        def synthesis(fused):
            with torch.inference_mode():
                for rows in ws.split(batch):
                    # Waits for a GPU.
                    G.synthesis(rows, noise_mode='const', force_fp32=True, fused_modconv=fused).cpu()
        return {'draw': best_seconds(lambda: list(images_of_ws(G, ws, batch))), 'write': best_seconds(write),
                'both': best_seconds(both), 'fused': best_seconds(lambda: synthesis(True)),
                'not fused': best_seconds(lambda: synthesis(False))}


@click.command()
@click.option('--res', type=int, default=256, show_default=True, help='Resolution.')
@click.option('--channel-base', type=int, default=16384, show_default=True)
@click.option('--channel-max', type=int, default=512, show_default=True)
@click.option('--count', type=int, default=16, show_default=True, help='Pictures.')
@click.option('--batch', type=int, default=8, show_default=True, help='Pictures at a time.')
@click.option('--threads', type=int, default=1, show_default=True, help='Threads of torch on the CPU.')
@device_option
@click.option('--keep/--no-keep', default=True, show_default=True,
              help='Keep freed memory, as generate.py does on CPUs?')
@click.option('--json', 'json_path', help='Also write the figures here.')
def main(res, channel_base, channel_max, count, batch, threads, device, keep, json_path):
    """Time the drawing of pictures."""
    import torch

    from torch_utils.allocator import keep_freed_memory
    from torch_utils.distributed import pick_device
    torch.set_num_threads(threads)
    where = pick_device(device)
    if keep:
        keep_freed_memory()         # As generate.py does.
    seconds = measure(make_generator(res, channel_base, channel_max, where), count, batch)
    print(f'{res} px, {count} pictures, batch {batch}, {where}, {threads} thread(s)')
    for name, value in seconds.items():
        print(f'  {name:<10} {value * 1000:9.1f} ms   {count / value:7.2f} img/s')
    if json_path:
        Path(json_path).write_text(json.dumps(dict(seconds=seconds, count=count)))


if __name__ == '__main__':
    main()
