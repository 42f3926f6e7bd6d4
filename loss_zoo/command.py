"""The command `loss-zoo`: every program of the project as a subcommand, imported when it is asked for."""
import copy
import importlib
import re
import sys
from dataclasses import dataclass
from typing import Any

import click

from loss_zoo import __version__, programs


@dataclass(frozen=True)
class Program:
    """A subcommand.

    module: where its click command `main` is.
    about: one line for the list; read without importing the program.
    may_fail: does it go on when its output is lost? Training must.
    """
    module: str
    about: str
    may_fail: bool = False


GROUPS = {
    'From pictures to a generator': {
        'dataset': Program('dataset_tool', 'Make a training set of a folder or an archive of pictures.'),
        'train': Program('train', 'Train a generator; the same command continues it.', may_fail=True),
        'estimate': Program('loss_zoo.estimate',
                            'Measure how long a training run will take, and how much memory.'),
        'report': Program('report', 'Show a run, or compare several, as one HTML page.'),
        'metrics': Program('calc_metrics', 'Score networks or folders of pictures.'),
        'worth-it': Program('loss_zoo.worth_it', 'Say whether its pictures help a classifier of a data set.'),
        'copied': Program('copied', 'Say whether a generator copies its training pictures.'),
    },
    'With a generator': {
        'generate': Program('generate', 'Draw pictures from seeds.'),
        'play': Program('loss_zoo.play', 'Play with it in the browser, with sliders.'),
        'project': Program('projector', 'Find the latent of a picture.'),
        'mix': Program('style_mixing', 'Mix coarse styles of some pictures with fine ones of others.'),
        'video': Program('video', 'Walk through the latent space as a video.'),
        'directions': Program('directions', 'Find directions in which pictures change.'),
    },
    'Between sites': {
        'centre': Program('tdgan_centre', 'Take part in a training with images that stay here.', may_fail=True),
        'audit': Program('tdgan_audit', 'Say what has left a centre.'),
        'authority': Program('tdgan_authority', 'Make test certificates for both ends.'),
    },
    'Files and machines': {
        'convert': Program('convert', 'Write a network in another format.'),
        'push': Program('loss_zoo.push', 'Publish a network on the Hugging Face Hub, with a card of its run.'),
        'export': Program('export', 'Write a network as ONNX or a torch program that needs nothing else.'),
        'doctor': Program('loss_zoo.doctor', 'Say what this machine can do, and what is missing.'),
    },
}
PROGRAMS = {name: program for group in GROUPS.values() for name, program in group.items()}
SUBCOMMANDS = {f'{program.module}.py': f'loss-zoo {name}' for name, program in PROGRAMS.items()}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(PROGRAMS)

    def invoke(self, ctx: click.Context) -> Any:
        programs.make_importable()
        from dnnlib import ctrl_c
        with ctrl_c.ending():
            return super().invoke(ctx)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in PROGRAMS:
            return None
        programs.make_importable()
        command = copy.copy(importlib.import_module(PROGRAMS[name].module).main)
        command.name = name
        command.epilog = command.epilog and in_words_of_the_group(command.epilog)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading, group in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, program.about) for name, program in group.items()])


def in_words_of_the_group(text: str) -> str:
    """The same text with `python train.py` as `loss-zoo train`."""
    pattern = '|'.join(map(re.escape, SUBCOMMANDS))
    return re.sub(rf'python ({pattern})', lambda match: SUBCOMMANDS[match[1]], text)


@click.command(cls=LazyGroup, context_settings=dict(max_content_width=110), epilog='''
\b
For example:
  loss-zoo train --outdir=runs --data=photos/ --mirror=1
  loss-zoo generate --network=runs/00000-photos-mirror-auto1 --seeds=0-31 --grid=8x4 --outdir=out

Every subcommand is a program of a checkout: `loss-zoo train` is `python train.py`. `loss-zoo SUBCOMMAND --help` lists its
options.
''')
@click.version_option(__version__, prog_name='loss-zoo')
def group() -> None:
    """Train generators of images from a few hundred or a few thousand pictures, and draw with them."""


def main() -> None:
    """What the installed command calls."""
    programs.make_importable()
    from dnnlib import output
    program = PROGRAMS.get(next((arg for arg in sys.argv[1:] if not arg.startswith('-')), ''))
    output.prepare(program is not None and program.may_fail)
    sys.exit(group(prog_name='loss-zoo'))
