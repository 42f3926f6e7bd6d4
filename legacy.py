"""Networks from any file that holds them, under the name that scripts written for the reference import.

As a command, `legacy.py --source=FILE --dest=FILE` converts a network file as the reference's does:
convert.py does the work.
"""
from torch_utils.network_file import load_network, load_network_pkl

__all__ = ['load_network', 'load_network_pkl']


if __name__ == '__main__':
    from convert import legacy
    from dnnlib import output
    output.prepare()
    legacy()
