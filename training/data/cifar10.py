"""The CIFAR-10 archive, `cifar-10-python.tar.gz` [Krizhevsky 2009], read without running what it contains.

Its batches are pickles. A pickle names functions and has them called;
here the few names that an array of bytes needs get stand-ins that only hold data,
and any other name is refused.
"""
import pickle
import tarfile
from typing import Any, BinaryIO

import numpy as np

_BATCHES = [f'cifar-10-batches-py/data_batch_{i}' for i in range(1, 6)]  # The test batch is not for training.
MAX_BATCH_BYTES = 2 ** 26      # Twice what they have.


def read_cifar10(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The training images, uint8 [N, 32, 32, 3], and their classes 0 to 9, integers [N].

    Raises:
        Exception: of almost any kind if the archive is damaged.
    """
    with tarfile.open(path, 'r:gz') as archive:
        batches = [_read_batch(archive, name) for name in _BATCHES]
    return np.concatenate([pixels for pixels, _ in batches]), np.concatenate([labels for _, labels in batches])


def _read_batch(archive: tarfile.TarFile, name: str) -> tuple[np.ndarray, np.ndarray]:
    member = archive.getmember(name)
    if not member.isfile() or member.size > MAX_BATCH_BYTES:
        raise ValueError(f'{name} is no file of a sensible size')
    batch = _ByteArrayUnpickler(archive.extractfile(member)).load()
    labels = batch['labels']
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise ValueError(f'the labels of {name} are no list of numbers')
    return batch['data'].array.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), np.array(labels)


class _ByteArray:
    """Stands in for a numpy array of bytes."""

    def __init__(self, *_: Any):
        self.array = np.empty(0, dtype=np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        assert isinstance(dtype, _ByteType)
        data = data.encode('latin1') if isinstance(data, str) else data
        self.array = np.frombuffer(data, dtype=np.uint8).reshape(shape, order='F' if is_fortran else 'C')


class _ByteType:
    """Stands in for numpy's dtype."""

    def __init__(self, code: str, *_: Any):
        if code != 'u1':
            raise pickle.UnpicklingError(f'it holds an array of type {code}')

    def __setstate__(self, state: tuple) -> None:
        """Byte order and the like, without meaning for bytes."""


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    return text.encode('latin1')


class _ByteArrayUnpickler(pickle.Unpickler):
    """Reads dicts, lists, strings, numbers and arrays of bytes."""

    _STAND_INS = {
        ('numpy.core.multiarray', '_reconstruct'): _ByteArray,
        ('numpy._core.multiarray', '_reconstruct'): _ByteArray,         # As numpy 2 writes it.
        ('numpy', 'ndarray'): None,
        ('numpy', 'dtype'): _ByteType,
        ('_codecs', 'encode'): _encode,
    }

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding='latin1')       # Written by Python 2.

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name."""
        if (module, name) not in self._STAND_INS:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}, which no array of bytes needs')
        return self._STAND_INS[module, name]
