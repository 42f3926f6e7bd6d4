"""Takes part in a training as a data centre: its images and its critic stay here (docs/sites.md).

    python tdgan_centre.py --data=images/ --private=private --connect=generator.example.org:7300 --name=north --tls=certs/north

The generator's site listens (train.py --reg_type=tdgan --tdgan_mode=remote), centres connect: no port has to be
open here.
"""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

import importlib.util
import os
import sys
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import click

from dnnlib import output, writing
from dnnlib.computing import device_option
from dnnlib.numbers import Real
from dnnlib.program import Program
from torch_utils.wire import certificates
from torch_utils.wire.address import NVFLARE, check_security

# Threads that wait should sleep, as in train.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
# Why there is no connection is said here in a sentence, where gRPC would write pages.
os.environ.setdefault('GRPC_VERBOSITY', 'NONE')


@click.command(cls=Program, context_settings=dict(max_content_width=110), epilog='''
\b
Example, on one machine (--insecure: without certificates):
  python tdgan_centre.py --data=a.zip --private=private-a --connect=localhost:7300 --name=a --insecure
''')
@click.option('--data', required=True, metavar='PATH', help='Folder or zip of the images of this centre.')
@click.option('--private', required=True, metavar='DIR', help='Directory for its critics and their states.')
@click.option('--connect', required=True, metavar='HOST:PORT',
              help='Where the generator\'s site listens; in a job of NVFlare: nvflare.')
@click.option('--name', required=True, help='What this centre is called in --tdgan_centres and in its certificate.')
@click.option('--tls', default='', metavar='DIR', help='Directory of certificates: authority.pem, own.pem, own.key.')
@click.option('--insecure', is_flag=True, help='Without certificates and encryption; on one machine only.')
@click.option('--labels-from', type=click.Choice(['json', 'folders', 'natural-folders']), default='json', show_default=True,
              help='Where classes come from, if the run learns them.')
@device_option
@click.option('--grad-clip', type=Real('(0, inf)'), metavar='NORM',
              help='Cut off the gradient of each image at this norm before it leaves [default: not]')
@click.option('--grad-noise', type=Real('[0, inf)'), default=0.0, metavar='FLOAT', show_default=True,
              help='Standard deviation of Gaussian noise that is added to it.')
@click.option('--max-network', type=Real('(0, inf)'), default=300.0, show_default=True, metavar='MILLIONS',
              help='Refuse a run whose networks have more weights; with optimizers each million takes 16 MB.')
@click.option('--max-message', type=Real('(0, inf)'), default=1024.0, show_default=True, metavar='MIB',
              help='Refuse a run with more images, or maps of them, at once.')
@click.option('--share-moments', is_flag=True,
              help='Give mean and covariance of the features of all images for Frechet distances, if the run asks for them.')
@click.option('--record-wire', metavar='DIR', help='Keep every message that leaves, for tdgan_audit.py.')
@click.option('--override', is_flag=True,
              help='Go on with the images as they are now, if they have changed since a state was saved.')
@click.option('--patience', type=Real('[0, inf)'), metavar='SECONDS',
              help='End when the generator\'s site has not been there for so long [default: wait for ever]')
@click.option('-n', '--dry-run', is_flag=True, help='Check the options, images and certificates, and stop.')
def main(**o):
    """Take part in a training as a data centre: images and critics stay here, image gradients leave."""
    identity, num = checked(o), num_images(o)
    if o['share_moments']:
        require_enough_to_share(num)
    is_open = identity is None and o['connect'] != NVFLARE
    print(f'Images:             {o["data"]}, {num} of them\nPrivate directory:  {o["private"]}')
    print(f'Generator\'s site:   {o["connect"]}{", without certificates: for this machine alone" if is_open else ""}', flush=True)
    if o['dry_run']:
        click.echo('Dry run; nothing was written, nobody was asked.')
        return
    take_part(o, identity)


def checked(o):
    """The certificates of this end, None without; everything that can be refused is refused here."""
    for option in ('private', 'record_wire'):
        require_elsewhere(option, o[option], o['data'])
    try:
        check_security('--', o['connect'], o['tls'], o['insecure'])
        if o['connect'] == NVFLARE:
            return None
        for package in ('grpc', *(['cryptography'] if o['tls'] else [])):
            if importlib.util.find_spec(package) is None:
                raise click.ClickException('this needs the extra "sites" (pip install grpcio cryptography)')
        identity = certificates.load(o['tls']) if o['tls'] else None
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if identity is not None and o['name'] not in identity.names:
        raise click.UsageError(f'--name={o["name"]}: the certificate in {o["tls"]} is for '
                               f'{", ".join(identity.names) or "nobody"}')
    return identity


def require_elsewhere(option, folder, data):
    """A usage error if what this program writes would lie among the images, and be learnt from."""
    if folder and writing.lies_in(folder, data):
        raise click.UsageError(f'--{option.replace("_", "-")}={folder} lies in --data={data}: what is written there '
                               'would become part of the images; name a folder elsewhere')


def num_images(o):
    """Of this centre."""
    from training.dataset import ImageFolderDataset
    try:
        return len(ImageFolderDataset(o['data']))
    except OSError as error:
        raise click.UsageError(f'--data: {error}') from error


def require_enough_to_share(num):
    """Of these images moments may leave."""
    from metrics.images_elsewhere import require_enough
    try:
        require_enough(num)
    except ValueError as error:
        raise click.UsageError(f'--share-moments: {error}; leave it out') from error


def take_part(o, identity):
    """Until the run is over."""
    import losses_ext
    from metrics.images_elsewhere import moments_for
    from report import refresh
    from torch_utils import distributed
    from torch_utils.allocator import keep_freed_memory
    from torch_utils.wire.record import RecordError, recorded
    part = losses_ext.centre_program()
    keep_freed_memory()             # As train.py does: messages are of one size, again and again.
    try:
        distributed.check_device(o['device'], 1)
        centre = part.Centre(o['name'], o['data'], Path(o['private']), o['device'], dict(labels_from=o['labels_from']),
                             part.Hardening(o['grad_clip'], o['grad_noise']), part.Limits(o['max_network'], o['max_message']),
                             moments_for if o['share_moments'] else None, o['override'])
        with private_directory(centre.private):
            dial = recorded(dialled(o['connect'], identity), o['record_wire'])
            page = part.Page(centre, refresh)
            finished = part.Participant(centre, page.begin_stage, page.after).take_part(
                dial, float('inf') if o['patience'] is None else o['patience'])
    except (part.Refused, part.CannotGoOn, RecordError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        reason = f'{error.filename}: {error.strerror}' if error.filename else str(error)
        raise click.ClickException(reason) from error
    if not finished:
        click.echo('The generator\'s site has not come back; the same command goes on.')
        sys.exit(75)


@contextmanager
def private_directory(path):
    """Made for this user alone, and this program's alone while it runs."""
    from training.run.lock import BusyError, locked
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == 'posix' and path.stat().st_mode & 0o077:
        print(f'Warning: --private={path}: other users of this machine may look into it, where reals.png will be; '
              'chmod 700 keeps them out.', file=sys.stderr, flush=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except BusyError as error:
            raise click.ClickException(f'--private={path}: another program uses it; end that, or give another') from error
        yield


def dialled(address, identity):
    """How to connect to the generator's site."""
    if address == NVFLARE:
        from torch_utils.wire.nvflare_channel import post
        return partial(post().connect, 'server')
    from torch_utils.wire.grpc_channel import connect
    return partial(connect, address, identity)


if __name__ == '__main__':
    output.prepare(may_fail=True)
    main()
