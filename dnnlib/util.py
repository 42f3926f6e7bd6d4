"""The public names of this package in one place, and those that are too small for a file of their own."""
from typing import Any

from dnnlib.by_name import call_func_by_name, construct_class_by_name, get_obj_by_name
from dnnlib.cache import make_cache_dir_path, set_cache_dir
from dnnlib.download import is_url, open_url
from dnnlib.logger import Logger

__all__ = [
    'EasyDict', 'Logger', 'call_func_by_name', 'construct_class_by_name', 'format_time', 'get_obj_by_name',
    'is_url', 'make_cache_dir_path', 'open_url', 'set_cache_dir',
]


class EasyDict(dict):
    """A dictionary whose entries are attributes too: `config.lr` is `config['lr']`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f'no entry {name!r}; there are {", ".join(map(repr, self)) or "none"}') from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f'no entry {name!r}') from None


def format_time(seconds: float) -> str:
    """A duration for humans: '59s', '1m 00s', '2h 05m 09s', '3d 04h 00m'."""
    total_sec = round(seconds)              # Half to even.
    minutes, sec = divmod(total_sec, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days > 0:
        return f'{days}d {hours:02}h {minutes:02}m'
    if hours > 0:
        return f'{hours}h {minutes:02}m {sec:02}s'
    if minutes > 0:
        return f'{minutes}m {sec:02}s'
    return f'{sec}s'
