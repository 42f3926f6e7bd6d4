"""Networks from any file that holds them, under the name that scripts written for the reference import."""
from torch_utils.network_file import load_network, load_network_pkl

__all__ = ['load_network', 'load_network_pkl']
