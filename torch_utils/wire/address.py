"""Addresses of the other end: HOST:PORT, or `nvflare` within a job of NVFlare."""
import ipaddress

NVFLARE = 'nvflare'


def is_loopback(host: str) -> bool:
    """Does this name or address mean this machine alone?"""
    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return host == 'localhost'


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT. Raises ValueError."""
    host, _, port = address.rpartition(':')
    if not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) < 2 ** 16:
        raise ValueError(f'{address!r} is not of the form HOST:PORT')
    return host, int(port)


def check_security(option: str, address: str, tls: str, insecure: bool) -> None:
    """Raises ValueError unless there are certificates, or both ends are on this machine and that is wanted."""
    if address == NVFLARE:
        if tls or insecure:
            raise ValueError(f'{option}tls and {option}insecure are for HOST:PORT: NVFlare has certificates of its own')
        from torch_utils.wire.nvflare_channel import post
        post()
        return
    host, _ = split_address(address)
    if tls and insecure:
        raise ValueError(f'{option}tls and {option}insecure contradict each other: give one of them')
    if not tls and not insecure:
        raise ValueError(f'{option}tls=DIR is needed: the directory of certificates of this end (docs/sites.md); on one machine, '
                         f'to try things out, {option}insecure does without')
    if insecure and not is_loopback(host):
        raise ValueError(f'{option}insecure is for both ends on one machine (localhost), not for {host}: whoever is on the way '
                         f'could read and change everything, and anyone could take part; give {option}tls=DIR')
