"""CUDA's driver as far as kernels of NVRTC need it: it loads machine code, and starts kernels on torch's streams."""
import ctypes
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int, c_uint, c_void_p
from functools import cache

import torch

from torch_utils.ops.build import Unavailable
from torch_utils.ops.kernels import BLOCK_THREADS, Launch

LIBRARY = 'libcuda.so.1'
INVALID_CONTEXT = 201
MOST_BLOCKS = 2 ** 31 - 1


class Driver:
    """The driver's functions; those that fail raise RuntimeError with what it says."""

    def __init__(self, path: str = LIBRARY):
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise Unavailable(f'no CUDA driver: {error}') from error
        self._launch = self._library.cuLaunchKernel
        self._launch.argtypes = [c_void_p, *[c_uint] * 7, c_void_p, c_void_p, c_void_p]

    def functions(self, code: bytes, names: list[str]) -> dict[str, int]:
        """{name: handle} of kernels, of which `code` is a cubin, loaded on the current device."""
        module = c_void_p()
        self._demand(self._library.cuModuleLoadData(byref(module), code))
        found = {}
        for name in names:
            handle = c_void_p()
            self._demand(self._library.cuModuleGetFunction(byref(handle), module, c_char_p(name.encode())))
            found[name] = handle.value
        return found

    def start(self, handle: int, launch: Launch, stream: int, device: int) -> None:
        """Starts a kernel on a stream of the current device."""
        if launch.blocks > MOST_BLOCKS:
            raise RuntimeError('the kernel was not started: more blocks than a grid can have')
        parameters = c_void_p(ctypes.addressof(launch.argument))
        arguments = handle, launch.blocks, 1, 1, BLOCK_THREADS, 1, 1, 0, stream, byref(parameters), None
        result = self._launch(*arguments)
        if result == INVALID_CONTEXT:               # A thread in which nothing has been computed.
            self._enter(device)
            result = self._launch(*arguments)
        self._demand(result)

    def _enter(self, device):
        context = c_void_p()
        self._demand(self._library.cuDevicePrimaryCtxRetain(byref(context), c_int(device)))
        self._demand(self._library.cuCtxSetCurrent(context))

    def _demand(self, result):
        if result:
            text = c_char_p()
            self._library.cuGetErrorString(result, byref(text))
            raise RuntimeError(f'the kernel was not started: {(text.value or b"error %d" % result).decode()}')


class Starter:
    """Starts kernels on torch's current stream of a device, having loaded all of that device's when it first comes.

    Args:
        driver: The driver.
        codes_of: Returns [(cubin, names of its kernels)] for a device.
    """

    def __init__(self, driver: Driver, codes_of: Callable[[int], list[tuple[bytes, list[str]]]]):
        self._driver = driver
        self.load = cache(lambda device: self._load(codes_of(device)))

    def __call__(self, launch: Launch, device: torch.device) -> None:
        if device.index != torch.cuda.current_device():
            with torch.cuda.device(device):
                self(launch, device)
            return
        handle = self.load(device.index)[launch.name]
        self._driver.start(handle, launch, torch.cuda.current_stream(device).cuda_stream, device.index)

    def _load(self, codes):
        torch.cuda.synchronize()                    # Now the device has a context.
        functions = {}
        for code, names in codes:
            functions |= self._driver.functions(code, names)
        return functions
