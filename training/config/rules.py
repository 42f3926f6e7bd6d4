"""How an option is refused: one sentence, exit status 2."""
import click


class UserError(click.UsageError):
    """A rule between options that is not kept: exit status 2 and one sentence."""


def require(condition: bool, message: str) -> None:
    """Raises UserError unless the condition holds."""
    if not condition:
        raise UserError(message)
