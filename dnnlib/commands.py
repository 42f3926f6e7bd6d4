"""What a user types to run a program: `python train.py` in a checkout, `loss-zoo train` where it is installed."""
import os
import sys
from pathlib import Path

# Those that sentences of other programs name, as installed (loss_zoo/command.py has all of them).
SUBCOMMANDS = {'train': 'train', 'dataset_tool': 'dataset', 'calc_metrics': 'metrics', 'report': 'report'}


def is_installed() -> bool:
    """Are the files of the programs out of the user's reach, in a wheel, or does he use the one command?"""
    called = os.path.basename(sys.argv[0]).removesuffix('.exe')
    return '_programs' in Path(__file__).parts or called == 'loss-zoo'


def words_of(program: str) -> list[str]:
    """['python', 'train.py'] or ['loss-zoo', 'train']."""
    return ['loss-zoo', SUBCOMMANDS[program]] if is_installed() else ['python', f'{program}.py']


def call_of(program: str) -> str:
    """'python train.py' or 'loss-zoo train'."""
    return ' '.join(words_of(program))


def how_to_build() -> str:
    """What compiles the operators before they are needed."""
    return 'loss-zoo doctor --build' if is_installed() else 'python -m torch_utils.ops build'
