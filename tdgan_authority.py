"""Makes a test authority and certificates for TDGAN between sites (docs/sites.md).

    python tdgan_authority.py --outdir=certs --hosts=localhost --centres=north,south

For trying things out. In earnest, every site makes its own key, which never leaves it, and an authority that all trust signs.
"""
if __name__ == '__main__':
    from dnnlib import ctrl_c
    ctrl_c.hear()

import re

import click

from dnnlib import output
from dnnlib.numbers import Whole
from dnnlib.program import Program
from torch_utils.wire import certificates


@click.command(cls=Program, context_settings=dict(max_content_width=110),
               epilog='\b\nExample:\n'
                      '  python tdgan_authority.py --outdir=certs --hosts=localhost --centres=north,south')
@click.option('--outdir', required=True, metavar='DIR', help='Where each end gets a directory of its own.')
@click.option('--hosts', default='localhost', show_default=True, metavar='LIST',
              help='Names and addresses at which centres reach the generator\'s site.')
@click.option('--centres', required=True, metavar='LIST', help='Names of the centres, as in --tdgan_centres.')
@click.option('--days', type=Whole('[1, 3650]'), default=certificates.DAYS, show_default=True, help='How long they are valid.')
def main(outdir, hosts, centres, days):
    """Make a test authority and certificates of the generator's site and of the centres."""
    names = centres.split(',')
    for name in (*names, *hosts.split(',')):
        if not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9._:-]{0,62}', name):
            raise click.UsageError(f'--centres, --hosts: {name[:70]!r} is no name of a centre or machine')
    if {'generator', *hosts.split(',')} & {*names} or len(set(names)) < len(names):
        raise click.UsageError('--centres: names must differ from each other, from --hosts and from "generator": with the name '
                               'of a host a centre could take the place of the generator\'s site')
    try:
        folders = certificates.make_authority(outdir, 'generator', hosts.split(','), names, days)
    except ImportError as error:
        raise click.ClickException('this needs the extra "sites" (pip install grpcio cryptography)') from error
    except OSError as error:
        raise click.ClickException(f'--outdir: {error.filename}: {error.strerror}') from error
    for folder in folders:
        click.echo(f'{folder}: {certificates.AUTHORITY}, {certificates.CERTIFICATE}, {certificates.KEY}')
    click.echo('For tests: the authority\'s key is thrown away, and whoever has a directory is who it says.')


if __name__ == '__main__':
    output.prepare()
    main()
