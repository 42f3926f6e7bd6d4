"""Small files that anybody may have made, read whole: regular ones alone, and no more than they may hold.

A directory may be a stranger's. A pipe in it would be waited for, a link to a device would have no end, and a file
with holes may be larger than the memory.
"""
import errno
import os
import stat


def read_file(path: str | os.PathLike, most: int) -> bytes:
    """All bytes of a regular file. Raises OSError, also for one of more than `most` bytes."""
    with open(path, 'rb', opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, 'is no regular file', os.fspath(path))
        data = None
        if (size := status.st_size) <= most:
            data = file.read(size + 1)                      # Python takes memory for as many bytes as are asked for.
            if len(data) > size:
                data += file.read(most + 1 - len(data))     # It grew meanwhile, or its size is not known, as in /proc.
    if data is None or len(data) > most:
        raise OSError(errno.EFBIG, f'has more than {most} bytes', os.fspath(path))
    return data


def _without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, 'O_NONBLOCK', 0))      # Opening a pipe would wait for a writer.
