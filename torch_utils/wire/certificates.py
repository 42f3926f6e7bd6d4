"""Who is who: the certificate of one end, the authority that both ends trust, and a test authority to try things out.

A directory holds what one end needs: `authority.pem`, `own.pem` (its certificate) and `own.key`.
"""
import datetime
import ipaddress
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnlib import writing
from dnnlib.reading import read_file

AUTHORITY, CERTIFICATE, KEY = 'authority.pem', 'own.pem', 'own.key'
MAX_BYTES = 2 ** 16
DAYS = 30


class CertificateError(ValueError):
    """Certificates that are missing or will be refused; the text is for users."""


@dataclass(frozen=True)
class Identity:
    """PEM files of one end."""
    authority: bytes
    certificate: bytes
    key: bytes
    names: tuple[str, ...] = ()
    folder: str = ''            # Where they lie, if that is known.


def load(folder: str | os.PathLike) -> Identity:
    """What a directory holds. Everything that the other end would refuse is refused here, with a sentence.

    Raises CertificateError.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    parts = {name: _read(Path(folder, name)) for name in (AUTHORITY, CERTIFICATE, KEY)}
    own, authority = (_parsed(Path(folder, name), parts[name]) for name in (CERTIFICATE, AUTHORITY))
    for name, certificate in ((CERTIFICATE, own), (AUTHORITY, authority)):
        now = datetime.datetime.now(datetime.timezone.utc)
        if now > certificate.not_valid_after_utc:
            raise CertificateError(f'{Path(folder, name)} has expired ({certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC); '
                                   'ask the authority for another')
        if now < certificate.not_valid_before_utc:
            raise CertificateError(f'{Path(folder, name)} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC '
                                   'on; is the clock of this machine right?')
    try:
        own.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise CertificateError(f'{Path(folder, CERTIFICATE)} was not issued by {Path(folder, AUTHORITY)}') from None
    _require_key(Path(folder, KEY), parts[KEY], own)
    common = own.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    names = tuple(str(name.value) for name in common)
    return Identity(parts[AUTHORITY], parts[CERTIFICATE], parts[KEY], names, str(folder))


def _require_key(path: Path, data: bytes, certificate: Any) -> None:
    """Raises CertificateError if a key is none, or that of another certificate."""
    from cryptography.hazmat.primitives import serialization
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f'{path} is no key that can be read without a password') from error
    if key.public_key() != certificate.public_key():
        raise CertificateError(f'{path} is not the key of {CERTIFICATE} beside it')


def _read(path: Path) -> bytes:
    try:
        return read_file(path, MAX_BYTES)
    except OSError as error:
        raise CertificateError(f'{path} cannot be read ({error.strerror}); a directory of certificates has {AUTHORITY}, '
                               f'{CERTIFICATE} and {KEY}') from error


def _parsed(path: Path, data: bytes) -> Any:
    from cryptography import x509
    try:
        return x509.load_pem_x509_certificate(data)
    except ValueError as error:
        raise CertificateError(f'{path} is no certificate') from error


def make_authority(folder: str | os.PathLike, server: str, hosts: Sequence[str], centres: Sequence[str],
                   days: int = DAYS) -> list[Path]:
    """A test authority, and a directory with certificates for each end; returns the directories.

    The authority's own key is thrown away: it signs nothing else, so either all are written or none.
    Raises OSError, for a file that is there already among others.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _signed('test authority', ca_key, 'test authority', ca_key, [], days)
    folders = [Path(folder, name) for name in (server, *centres)]
    for path in (place / file for place in folders for file in (AUTHORITY, CERTIFICATE, KEY)):
        writing.require_free(path, 'none')      # Before anything is written: the keys may be in use.
    uses = {server: x509.ExtendedKeyUsageOID.SERVER_AUTH, **dict.fromkeys(centres, x509.ExtendedKeyUsageOID.CLIENT_AUTH)}
    with _all_or_nothing(folders):
        for place, names in zip(folders, ([server, *hosts], *([centre] for centre in centres))):
            key, name = ec.generate_private_key(ec.SECP256R1()), names[0]
            place.mkdir(parents=True, exist_ok=True)
            _write(place, ca, _signed(name, key, 'test authority', ca_key, names, days, uses[name]), key)
    return folders


@contextmanager
def _all_or_nothing(folders: Sequence[Path]) -> Iterator[None]:
    """Removes the files of all ends, and folders that were not there, if anything fails."""
    missing = {place for folder in folders for place in (folder, *folder.parents) if not place.exists()}
    try:
        yield
    except BaseException:
        for path in (folder / name for folder in folders for name in (AUTHORITY, CERTIFICATE, KEY)):
            path.unlink(missing_ok=True)
        for place in sorted(missing, key=lambda place: len(place.parts), reverse=True):
            with suppress(OSError):
                place.rmdir()
        raise


def _write(folder: Path, ca: Any, certificate: Any, key: Any) -> None:
    from cryptography.hazmat.primitives import serialization
    pem = serialization.Encoding.PEM
    writing.write_bytes(folder / AUTHORITY, ca.public_bytes(pem), 'none')
    writing.write_bytes(folder / CERTIFICATE, certificate.public_bytes(pem), 'none')
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    number = os.open(folder / KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, 'O_NOFOLLOW', 0), 0o600)
    with open(number, 'wb') as file:
        file.write(secret)


def _signed(name: str, key: Any, issuer: str, issuer_key: Any, names: Sequence[str], days: int,
            use: Any = None) -> Any:
    """A certificate for a key, with what strict readers (RFC 5280; Python from 3.13 on) ask for. `use`: one end of connections
    alone, so that a centre cannot take the place of the generator's site; None: an authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    now = datetime.datetime.now(datetime.timezone.utc)
    is_authority = use is None
    common = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (name, issuer)]
    builder = (x509.CertificateBuilder().subject_name(common[0]).issuer_name(common[1]).public_key(key.public_key())
               .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=10))
               .not_valid_after(now + datetime.timedelta(days=days))
               .add_extension(x509.BasicConstraints(is_authority, 0 if is_authority else None), critical=True)
               .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
               .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
               .add_extension(_usage(is_authority), critical=True))
    if use is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(text) for text in names]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(is_authority: bool) -> Any:
    """What a key may be used for: an authority's signs certificates, another's speaks TLS."""
    from cryptography import x509
    uses = dict.fromkeys(('digital_signature', 'content_commitment', 'key_encipherment', 'data_encipherment', 'key_agreement',
                          'key_cert_sign', 'crl_sign', 'encipher_only', 'decipher_only'), False)
    return x509.KeyUsage(**{**uses, 'key_cert_sign' if is_authority else 'digital_signature': True})


def _name(text: str) -> Any:
    from cryptography import x509
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
