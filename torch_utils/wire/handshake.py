"""Why a connection does not come about: gRPC tries again and does not say; one handshake by hand does."""
import socket
import ssl
from pathlib import Path

from torch_utils.wire.address import split_address
from torch_utils.wire.certificates import CERTIFICATE, KEY, CertificateError, Identity, load

PATIENCE_SEC = 5.0


def distrust(address: str, identity: Identity | None) -> str:
    """Which end does not trust the other, and why, in a sentence; '' if that is not what keeps them apart."""
    host, port = split_address(address)
    try:
        with socket.create_connection((host.strip('[]'), port), PATIENCE_SEC) as plain:
            if identity is None:
                return _distrust_without(plain)
            return _distrust(plain, host.strip('[]'), identity)
    except OSError:             # Nobody listens there, or not yet; the name is not known; the line is slow.
        return ''


def _distrust(plain: socket.socket, host: str, identity: Identity) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=identity.authority.decode('ascii'))
    context.set_alpn_protocols(['h2'])
    if identity.folder:
        context.load_cert_chain(Path(identity.folder, CERTIFICATE), Path(identity.folder, KEY))
    try:
        with context.wrap_socket(plain, server_hostname=host) as end:
            is_accepted = end.recv(1) != b''        # What it thinks of this end comes after the handshake.
    except ssl.SSLCertVerificationError as error:
        return f'the certificate shown there is refused: {error.verify_message.rstrip(".")}'
    except ssl.SSLError as error:
        if error.reason in ('WRONG_VERSION_NUMBER', 'RECORD_LAYER_FAILURE'):
            return 'what listens there speaks no TLS: it may have been started without certificates'
        is_accepted = 'ALERT' not in (error.reason or '')
    return _distrust_of(identity.folder) if identity.folder and not is_accepted else ''


def _distrust_of(folder: str) -> str:
    """What may be wrong with the certificate of this end, which is not accepted."""
    try:
        load(folder)
    except CertificateError as error:
        return str(error)
    return (f'whoever listens there does not accept the certificate in {folder}: it may trust another '
            'authority')


def _distrust_without(plain: socket.socket) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        context.wrap_socket(plain).close()
    except ssl.SSLError:
        return ''
    return 'what listens there wants certificates; give those of this end'
