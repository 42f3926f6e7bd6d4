"""What every program does with its command line: `@click.command(cls=Program)`."""
from typing import Any

import click

from dnnlib import ctrl_c, memory, output

MOST_TEXT = 300         # Of what an error says.


class Program(click.Command):
    """A command that takes no empty value, as a variable of a shell that is not set makes them, and that Ctrl-C and memory
    that runs out end with one sentence."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        typed = self.make_parser(ctx).parse_args([*args])[0]
        for param in self.get_params(ctx):
            if is_empty(typed.get(param.name)):
                instead = 'give one' if param.required else 'leave it out, or give one'
                raise click.BadParameter(f'its value is empty; {instead}', ctx, param)
        return super().parse_args(ctx, args)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with ctrl_c.ending():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with ctrl_c.ending():
            try:
                return super().invoke(ctx)
            except (MemoryError, RuntimeError) as error:
                if not memory.has_run_out(error):
                    raise
                raise click.ClickException(self.without_memory(error)) from error

    def without_memory(self, error: Exception) -> str:
        """What is said where there was not enough of it."""
        reason = f' ({output.printable(str(error).splitlines()[0], keep="")[:MOST_TEXT]})' if str(error) else ''
        advice = '; a smaller --batch needs less' if any(param.name == 'batch' for param in self.params) else ''
        return f'there is not enough memory{reason}{advice}'


class Maker(Program):
    """One whose files are worth more than what it prints: it ends only behind its work if its output is lost."""

    def invoke(self, ctx: click.Context) -> Any:
        with output.finishing():
            return super().invoke(ctx)


def is_empty(value: Any) -> bool:
    """A text without a character but spaces, alone or among several values."""
    return any(isinstance(each, str) and not each.strip() for each in (value if isinstance(value, (list, tuple)) else [value]))
