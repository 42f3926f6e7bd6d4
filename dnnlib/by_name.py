"""Classes and functions that a configuration names by string, like 'training.networks.Generator'."""
import importlib
from typing import Any


def get_obj_by_name(name: str) -> Any:
    """The object with this full dotted name; its module is imported.

    Raises:
        ImportError: There is no such module, or it has no such object.
    """
    parts = name.split('.')
    for num_parts in range(len(parts) - 1, 0, -1):
        module_name = '.'.join(parts[:num_parts])
        try:
            obj = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f'{module_name}.'.startswith(f'{error.name}.'):
                raise  # The module exists, but something that it imports itself is missing.
            continue                        # Perhaps the last parts of the name are a class in a module.
        for part in parts[num_parts:]:
            if not hasattr(obj, part):
                raise ImportError(f'{name}: {module_name} has no {".".join(parts[num_parts:])}')
            obj = getattr(obj, part)
        return obj
    raise ImportError(f'{name}: there is no module of this name')


def call_func_by_name(*args, func_name: str | None = None, **kwargs) -> Any:
    """Calls the function with this full name with the other arguments."""
    assert func_name is not None, 'func_name is missing'
    func = get_obj_by_name(func_name)
    assert callable(func), f'{func_name} is no function'
    return func(*args, **kwargs)


def construct_class_by_name(*args, class_name: str | None = None, **kwargs) -> Any:
    """Makes an object of the class with this full name from the other arguments."""
    assert class_name is not None, 'class_name is missing'
    return call_func_by_name(*args, func_name=class_name, **kwargs)
