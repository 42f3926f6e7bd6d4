"""The generator's site: where centres connect."""
from collections.abc import Callable

from torch_utils.wire.address import NVFLARE
from training.run.health import CannotGoOn


def listen(address: str, tls: str, on_channel: Callable) -> Callable[[], None]:
    """Lets centres connect; returns how to end that. Raises CannotGoOn."""
    if address == NVFLARE:
        from torch_utils.wire.nvflare_channel import post
        print('Listening for centres in a job of NVFlare.', flush=True)
        return post().listen(on_channel)
    from torch_utils.wire import certificates, grpc_channel
    try:
        listener = grpc_channel.Listener(address, certificates.load(tls) if tls else None, on_channel)
    except (OSError, ValueError) as error:
        raise CannotGoOn(f'--tdgan_listen: {error}') from error
    print(f'Listening for centres at {address}{"" if tls else ", without certificates: for this machine alone"}.', flush=True)
    return listener.close
