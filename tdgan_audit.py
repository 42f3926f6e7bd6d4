"""Says what has left a data centre, from the record that `tdgan_centre.py --record-wire` keeps (docs/sites.md).

    python tdgan_audit.py wire --data=images/

Kinds of messages, how many, how many bytes; and how near everything that has the shape of images comes to the centre's own.
"""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

import json
from collections import Counter, defaultdict

import click

from dnnlib import output, writing
from dnnlib.program import Program

BLOCK = 2 ** 24                 # Numbers of the centre's images that are compared at once.
KEPT = 2 ** 28                  # Of no more than so many, what they are compared by is kept for all messages.


@click.command(cls=Program, context_settings=dict(max_content_width=110),
               epilog='Example: python tdgan_audit.py wire --data=images/')
@click.argument('folder', metavar='DIR')
@click.option('--data', metavar='PATH', help='Images of the centre, to compare with.')
@click.option('--out', metavar='FILE', help='Write the numbers as JSON, too.')
def main(folder, data, out):
    """List what has left a centre, and compare everything like an image with the centre's own images."""
    if out:
        require_place(out)
    from torch_utils.wire import record  # Only now, so that --help need not wait for it.
    parts = []
    try:
        kinds = tensors_by_kind(record.read(folder, parts.append))
    except OSError as error:
        raise click.ClickException(f'{error.filename}: {error.strerror}') from error
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if not kinds:
        raise click.ClickException(f'{folder} holds no recorded message')
    for kind, (number, size, tensors) in kinds.items():
        click.echo(f'{kind:<10} {number:>8} messages {size:>14,} bytes    {", ".join(tensors) or "no tensors"}')
    if parts:
        click.echo(f'{len(parts)} files hold the beginning of a message alone, and are not among these: '
                   + printable(parts[0].name) + ' and others' * (len(parts) > 1))
    found = dict(incomplete=len(parts), kinds={kind: dict(messages=number, bytes=size, tensors=tensors)
                        for kind, (number, size, tensors) in kinds.items()})
    if data:
        found['nearest'] = nearest(record.read(folder), images_of(data))
        for name, values in found['nearest'].items():
            click.echo(f'{name}: {values["images"]} like images; largest correlation with an image of the centre '
                       f'{values["correlation"]:.3f}, with a shuffled one {values["shuffled"]:.3f}'
                       + f'; {values["not_finite"]} numbers are not finite, and count as 0' * (values['not_finite'] > 0))
        click.echo('A correlation near 1 would be a copy. A small one does not prove that nothing can be learnt (docs/sites.md).')
    if out:
        try:
            writing.write_text(out, json.dumps({**found, 'generator': writing.MARK}, indent=2))
        except OSError as error:
            raise click.ClickException(f'--out: {out} cannot be written: {error.strerror}') from error


def require_place(out):
    """A usage error, before anything is read, unless a file can be written there."""
    try:
        writing.require_place(out)
    except OSError as error:
        raise click.BadParameter(f'{out}: {error.strerror}', param_hint='--out') from error


def tensors_by_kind(messages):
    """{kind: (number of messages, bytes, ['name dtype shape'])}."""
    import losses_ext
    kinds = {kind.value: kind.name.lower() for kind in losses_ext.centre_program().Kind}
    number, size, forms = Counter(), Counter(), defaultdict(set)
    for message, num_bytes in messages:
        kind = kinds.get(message.header.kind, f'kind {message.header.kind}')
        number[kind] += 1
        size[kind] += num_bytes
        forms[kind] |= {f'{printable(name)} {str(t.dtype).removeprefix("torch.")} {"x".join(map(str, t.shape[1:]))} per row'
                        for name, t in message.tensors.items()}
    return {kind: (number[kind], size[kind], sorted(forms[kind])) for kind in number}


def printable(name):
    """A name as it may stand on a terminal: a record may be that of somebody else."""
    return ''.join(c if c.isprintable() else '?' for c in name[:80])


def images_of(path):
    """All images of a data set, [n,C,H,W] uint8."""
    import numpy as np

    from training.dataset import ImageFolderDataset
    try:
        dataset = ImageFolderDataset(path)
        return np.stack([dataset[i][0] for i in range(len(dataset))])
    except OSError as error:
        raise click.UsageError(f'--data: {error}') from error


def nearest(messages, images):
    """{name of a tensor: how near its images come to those of a centre}, by correlation of pixels; for comparison with the
    same images whose pixels are shuffled."""
    import numpy as np
    size = images[0].size
    order, step = np.random.default_rng(0).permutation(size), max(BLOCK // size, 1)
    starts = range(0, len(images), step)

    def block(start):
        return normalized(images[start:start + step].reshape(-1, size)).astype(np.float32)

    kept = [block(start) for start in starts] if images.size <= KEPT else None
    found = {}
    for message, _ in messages:
        for name, tensor in message.tensors.items():
            if tuple(tensor.shape[1:]) == images.shape[1:] and len(tensor):
                values = found.setdefault(printable(name), dict(images=0, correlation=0.0, shuffled=0.0, not_finite=0))
                values['images'] += len(tensor)
                array = tensor.double().numpy().reshape(-1, size)
                values['not_finite'] += int((~np.isfinite(array)).sum())
                rows = normalized(array).astype(np.float32)
                for part in kept or map(block, starts):
                    for key, own in (('correlation', rows), ('shuffled', rows[:, order])):
                        values[key] = max(values[key], float(np.abs(own @ part.T).max()))
    return found


def correlations(a, b):
    """Between all images of a [n,C,H,W] and of b [m,C,H,W] or [m,C*H*W]: [n,m]. What is not finite counts as 0,
    so that it hides nothing of the rest."""
    a, b = (normalized(x.reshape(len(x), -1)) for x in (a, b))
    return a @ b.T


def normalized(rows):
    """Rows [n,k] of mean 0 and length 1, as far as they are not constant; of numbers of any size."""
    import numpy as np
    rows = np.nan_to_num(rows.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    rows = rows / np.maximum(np.abs(rows).max(1, keepdims=True), 1e-300)
    rows = rows - rows.mean(1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


if __name__ == '__main__':
    output.prepare()
    main()
