"""Channels over a network: one bidirectional gRPC stream each, which the centre opens.

Hospitals' firewalls let connections out, not in: the generator's site listens, centres dial. Both ends show
certificates (mutual TLS), and nothing older than TLS 1.3 is spoken. There is no protocol buffer: a parcel
crosses as its frames, each after its length.
"""
import os
import queue
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from typing import Any

from torch_utils.wire.certificates import Identity
from torch_utils.wire.channel import PARCEL_BYTES, WAITING_PARCELS, Channel, NotTrusted, outgoing_parcels
from torch_utils.wire.handshake import distrust
from torch_utils.wire.message import Frame

# gRPC has no option for the oldest TLS. Without a key that both ends know beforehand, which nobody here
# has, this cipher of TLS 1.2 cannot be agreed on; those of TLS 1.3 are not chosen by this variable. It is
# read once, when gRPC is loaded.
os.environ['GRPC_SSL_CIPHER_SUITES'] = 'ECDHE-PSK-CHACHA20-POLY1305'

import grpc  # noqa: E402

PATH = '/loss_zoo.Sites/Exchange'
LENGTH = struct.Struct('<I')
MAX_FRAMES = 16                 # In a parcel. Honest ones have three.
MAX_BYTES = PARCEL_BYTES + MAX_FRAMES * LENGTH.size
DOUBT_SEC = 3.0                 # Without a connection for so long, the certificates are looked at.
MAX_STREAMS = 512
MAX_STREAMS_OF_ONE = 4          # Of those who show the same certificate; the oldest gives way.
OPTIONS = [
    ('grpc.max_receive_message_length', MAX_BYTES), ('grpc.max_send_message_length', MAX_BYTES),
    ('grpc.keepalive_time_ms', 20_000), ('grpc.keepalive_timeout_ms', 20_000), ('grpc.keepalive_permit_without_calls', 1),
    ('grpc.http2.max_pings_without_data', 0), ('grpc.http2.max_ping_strikes', 0),
    ('grpc.http2.min_recv_ping_interval_without_data_ms', 10_000),
    ('grpc.so_reuseport', 0), ('grpc.enable_http_proxy', 0),
    ('grpc.http2.lookahead_bytes', 2 ** 24), ('grpc.http2.max_frame_size', 2 ** 20)]


class Threads(Executor):
    """A thread for each stream, which keeps no program from ending."""

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()

        def run() -> None:
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:      # noqa: BLE001 (It is handed on.)
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


class Listener:
    """Waits for centres; `on_channel` gets a channel for each stream, in a thread of its own, and ends when it does."""

    def __init__(self, address: str, identity: Identity | None, on_channel: Callable[[Channel], None]):
        self._on_channel, self._is_secure = on_channel, identity is not None
        self._channels: dict[frozenset[str] | None, list[Channel]] = {}
        self._lock = threading.Lock()
        self._server = grpc.server(Threads(), options=OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
        self._server.add_generic_rpc_handlers((_Calls(self._exchange),))
        try:
            self.port = self._server.add_insecure_port(address) if identity is None else \
                self._server.add_secure_port(address, server_credentials(identity))
        except RuntimeError as error:
            raise OSError(f'{address}: nobody can listen there; is another program doing it?') from error
        if self.port == 0:
            raise OSError(f'{address}: nobody can listen there; is another program doing it?')
        self._server.start()

    def close(self) -> None:
        """Ends all channels."""
        self._server.stop(grace=1).wait(5)

    def _exchange(self, incoming: 'Incoming', datas: Any, context: Any):
        outgoing: queue.Queue = queue.Queue(WAITING_PARCELS)
        channel = _Streamed(incoming, outgoing, names_of(context.auth_context()) if self._is_secure else None)
        channel.is_protected = self._is_secure
        if not context.add_callback(lambda: channel.close('the connection is gone')):
            return
        self._make_room_for(channel)
        threading.Thread(target=_read, args=(datas, incoming, channel), daemon=True).start()
        threading.Thread(target=self._on_channel, args=(channel,), daemon=True).start()
        yield from outgoing_parcels(outgoing)

    def _make_room_for(self, channel: Channel) -> None:
        """Nobody keeps others out by opening more and more streams."""
        most = MAX_STREAMS_OF_ONE if self._is_secure else MAX_STREAMS // 8
        with self._lock:
            of_one = [other for other in self._channels.get(channel.names, []) if other.is_open]
            self._channels[channel.names] = [*of_one[max(len(of_one) - most + 1, 0):], channel]
            for other in of_one[:max(len(of_one) - most + 1, 0)]:
                other.close('there are too many connections of the same name')


def connect(address: str, identity: Identity | None, timeout: float = 20) -> Channel:
    """A channel to whoever listens there. Raises OSError with one sentence, NotTrusted among them."""
    target = grpc.insecure_channel(address, OPTIONS) if identity is None else \
        grpc.secure_channel(address, client_credentials(identity), OPTIONS)
    try:
        _wait_for(target, address, identity, timeout)
    except OSError:
        target.close()
        raise
    incoming, outgoing = Incoming(), queue.Queue(WAITING_PARCELS)
    call = target.stream_stream(PATH, response_deserializer=incoming.take)(outgoing_parcels(outgoing))
    channel = _Dialled(incoming, outgoing, target)
    channel.is_protected = identity is not None
    threading.Thread(target=_read, args=(call, incoming, channel), daemon=True).start()
    return channel


def _wait_for(target: Any, address: str, identity: Identity | None, timeout: float) -> None:
    """Until a connection is there. Raises OSError: of certificates that do not fit soon, else in the end."""
    ready, first = grpc.channel_ready_future(target), min(DOUBT_SEC, timeout)
    try:
        with suppress(grpc.FutureTimeoutError):
            return ready.result(first)
        if reason := distrust(address, identity):
            raise NotTrusted(f'{address}: {reason}')
        ready.result(timeout - first)
    except grpc.FutureTimeoutError:
        raise OSError(f'{address}: no connection within {timeout:g} seconds: nobody listens there, or what is '
                      'between lets no connection through') from None


class _Calls(grpc.GenericRpcHandler):
    """Gives every call a place of its own for what comes."""

    def __init__(self, exchange: Callable):
        self._exchange = exchange

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method != PATH:
            return None
        incoming = Incoming()
        return grpc.stream_stream_rpc_method_handler(partial(self._exchange, incoming),
                                                     request_deserializer=incoming.take)


class Incoming(queue.Queue):
    """The parcels that have come. gRPC's own thread puts them here, in the place where it takes messages apart
    otherwise: handing one from thread to thread once more takes longer than to copy it."""

    def __init__(self):
        super().__init__(WAITING_PARCELS)
        self.problem = ''       # What came and is none.

    def take(self, data: bytes) -> bool:
        """Never waits: the next one is asked for when there is room."""
        try:
            self.put_nowait(list(unpacked(data)))
        except ValueError as error:
            self.problem = str(error)
        except queue.Full:      # By what ends the channel.
            pass
        return True

    def wait_for_room(self, seconds: float) -> bool:
        """Is there any, then?"""
        with self.not_full:
            return self.not_full.wait_for(lambda: self._qsize() < self.maxsize, seconds)


def packed(parcel: list[Frame]) -> bytes:
    """A parcel as it crosses."""
    return b''.join(part for frame in parcel for part in (LENGTH.pack(len(frame)), frame))


class _Streamed(Channel):
    """An end whose parcels are packed by who sends them: that is the only copy of a tensor before gRPC's own."""
    copied = staticmethod(packed)


class _Dialled(_Streamed):
    """The end that has opened the connection."""

    def __init__(self, incoming: queue.Queue, outgoing: queue.Queue, target: Any):
        super().__init__(incoming, outgoing)
        self._target = target

    def close(self, why: str = 'this end has closed it') -> None:
        super().close(why)
        threading.Timer(1, self._target.close).start()      # What was sent last still leaves.


def unpacked(data: bytes) -> Iterator[memoryview]:
    """The frames of a parcel, which share its memory. Raises ValueError."""
    view, begin, num = memoryview(data), 0, 0
    while begin < len(data):
        num, begin = num + 1, begin + LENGTH.size
        if begin > len(data) or num > MAX_FRAMES:
            raise ValueError('what came is no parcel of frames')
        end = begin + LENGTH.unpack_from(data, begin - LENGTH.size)[0]
        if end > len(data):
            raise ValueError('what came is no parcel of frames')
        yield view[begin:end]
        begin = end


def _read(datas: Any, incoming: Incoming, channel: Channel) -> None:
    """Asks for what comes, as long as there is room for it and the channel is there."""
    why = 'the other end has closed it'
    try:
        for _ in datas:
            if incoming.problem:
                why = incoming.problem
                break
            while channel.is_open and not incoming.wait_for_room(1):
                pass
            if not channel.is_open:
                break
    except grpc.RpcError as error:
        why = reason_of(error)
    except Exception as error:          # noqa: BLE001 (gRPC's iterators raise bare exceptions when a call is gone.)
        why = type(error).__name__
    channel.ended = why
    while channel.is_open:              # What has come is read first.
        try:
            incoming.put(None, timeout=1)
            break
        except queue.Full:
            continue


def reason_of(error: Any) -> str:
    """Why a call has ended, in one line that is harmless on a terminal: the other end may have written it."""
    details = getattr(error, 'details', lambda: '')() or ''
    text = ' '.join(f'{getattr(error, "code", lambda: "")()}: {details}'.split())[:300]
    return ''.join(c if c.isprintable() else '?' for c in text)


def names_of(auth: dict) -> frozenset[str]:
    """The names in the certificate that the other end has shown."""
    found = [*auth.get('x509_common_name', []), *auth.get('x509_subject_alternative_name', [])]
    return frozenset(name.decode(errors='replace') for name in found)


def server_credentials(identity: Identity) -> Any:
    """Of the end that listens: it asks for certificates."""
    return grpc.ssl_server_credentials([(identity.key, identity.certificate)], identity.authority, require_client_auth=True)


def client_credentials(identity: Identity) -> Any:
    """Of the end that dials."""
    return grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)
