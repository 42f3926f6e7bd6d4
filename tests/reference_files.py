"""Pickles as the reference's mechanism writes them, made
by the standard pickler from our networks, and its reader.

Independent of torch_utils/foreign: the standard library decides about instructions,
torch about tensors. The source text inside is a canary: it must never run.
`load_like_the_reference` does what that program does: it runs the source.
"""
import io
import pickle
import sys
import types
from contextlib import contextmanager

import torch

CANARY = 'raise SystemExit("the source inside the file was executed")'


def _reconstruct_persistent_obj(meta):
    """Runs the source of a file in a fresh module and fills an empty instance of the class."""
    module = types.ModuleType('source_of_a_file')
    exec(meta['module_src'], module.__dict__)
    instance = module.__dict__[meta['class_name']].__new__(module.__dict__[meta['class_name']])
    instance.__setstate__(meta['state'])
    return instance


class EasyDict(dict):
    """A dict with attribute access."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None        # Before 3.11 the pickler asks for __getstate__ here.


_reconstruct_persistent_obj.__module__ = 'torch_utils.persistence'
EasyDict.__module__ = 'dnnlib.util'


@contextmanager
def modules_of_the_reference():
    """Lets the standard pickler find both names where the reference has them."""
    names = {'torch_utils.persistence': {'_reconstruct_persistent_obj': _reconstruct_persistent_obj},
             'dnnlib.util': {'EasyDict': EasyDict}}
    before = {name: sys.modules.get(name) for name in names}
    for name, content in names.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj):
        if not isinstance(obj, torch.nn.Module):
            return NotImplemented
        state = {key: value for key, value in vars(obj).items() if not key.startswith('init_kwargs')}
        state = {key: value for key, value in state.items() if _is_plain(value)}
        state['_init_args'] = ()
        state['_init_kwargs'] = _easy(getattr(obj, 'kwargs_of_the_file', getattr(obj, 'init_kwargs', {})))
        meta = {'type': 'class', 'version': 6, 'module_src': CANARY, 'class_name': type(obj).__name__, 'state': state}
        return _reconstruct_persistent_obj, (meta,)


def _is_plain(value):
    """Our modules also remember things that those of the reference do not: types, settings objects."""
    return not isinstance(value, torch.dtype) and type(value).__module__ not in ('training.augment',)


def _easy(value):
    return EasyDict({key: _easy(item) for key, item in value.items()}) if isinstance(value, dict) else value


def reference_pickle(content, protocol=4):
    """The bytes of a snapshot with this content, a dict."""
    file = io.BytesIO()
    with modules_of_the_reference():
        _Pickler(file, protocol).dump(content)
    return file.getvalue()


def load_like_the_reference(data):
    """The content of a snapshot, its source executed. Only for files that a test has written itself."""
    with modules_of_the_reference():
        return pickle.loads(data)
