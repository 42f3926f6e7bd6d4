"""Helpers that know nothing of torch nor of this project: attribute dictionaries, logging,
names, downloads."""
from dnnlib import util
from dnnlib.util import EasyDict

__all__ = ['EasyDict', 'util']
