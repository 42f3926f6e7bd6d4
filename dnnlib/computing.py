"""What computes: the devices and the kinds of operators that an option may name. Imports no torch."""
import click

DEVICES = ('auto', 'cpu', 'cuda', 'mps')            # auto: CUDA if there is any, else the CPU.
OPERATORS = ('auto', 'native', 'reference')         # Compiled ones, plain tensor operations; auto: what there is.

device_option = click.option('--device', type=click.Choice(DEVICES), default='auto', show_default=True,
                             help='What computes.')
measured_device_option = click.option('--device', type=click.Choice(DEVICES[1:]), default='cpu', show_default=True,
                                      help='What is measured.')
