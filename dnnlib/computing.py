"""What computes: the devices and the kinds of operators that an option may name. Imports no torch."""
from collections.abc import Callable, Sequence
from typing import Any

import click

DEVICES = ('auto', 'cpu', 'cuda', 'mps')            # auto: CUDA if there is any, else the CPU.
OPERATORS = ('auto', 'native', 'reference')         # Compiled ones, plain tensor operations; auto: what there is.



def device_option_for(what: str, default: str = 'auto', devices: Sequence[str] = DEVICES) -> Callable[[Any], Any]:
    """The option `--device` of a command, with its help and those of the devices that the command can use."""
    return click.option('--device', type=click.Choice(devices), default=default, show_default=True, help=what)


device_option = device_option_for('What computes.')
measured_device_option = device_option_for('What is measured.', 'cpu', DEVICES[1:])
