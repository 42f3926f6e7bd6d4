"""Writes docs/options.md, the tables of all options and of all entries of a configuration:

    python -m training.config.options_page > docs/options.md
"""
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import click

from dnnlib.numbers import Real, Whole, in_words
from training.config.options import OPTIONS_BY_HEADING, Option
from training.config.schema import RENAMED, Config
from training.config.setting import kind_in_words

HEAD = '''# Options

Made by `python -m training.config.options_page`; a test holds it to the code.

- [On the command line](#on-the-command-line)
- [In a file](#in-a-file)
- [In the configuration of a run](#in-the-configuration-of-a-run)

## On the command line

What `train.py --help` says. A range of numbers ends at 1e9 where no end is named.
'''

FILE = '''
## In a file

`--config=FILE` takes options from a file of TOML or JSON (or YAML, if PyYAML is installed): their names are the keys, with
dashes or underscores, and values are checked as on the command line. Options that are typed win. Paths are those of the
current directory.

```toml
# cats.toml
data = "cats.zip"
mirror = true
batch-gpu = 16
reg_type = ["ggdr", "diggan"]
```

    python train.py --outdir=runs --config=cats.toml --kimg=2000

The `training_options.json` of a run, or its directory, stands for the options that the run was started with.
'''

ENTRIES = '''
## In the configuration of a run

`training_options.json` in the directory of a run, what `--dry-run` prints, and `train.config_of(...)`. An entry has the name of
the option that sets it; the options of a method stand in its table (`--ggdr_weight` is `regularizers.ggdr.weight`), those of R1
and path length in `loss_kwargs`. *Changes*: may a run that goes on have another value? *Argument*: what it is handed on as, to
classes whose names are the reference's. The configuration has these, too, when it is read like a dictionary:
`train.config_of(...)['training_set_kwargs']['xflip']`.
'''


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for heading, options in OPTIONS_BY_HEADING.items():
        parts += [f'\n### {heading}\n',
                  *table(['option', 'value', 'default', 'meaning'], map(option_row, options))]
    parts += [FILE, ENTRIES, *table(['entry', 'value', 'unit', 'changes', 'argument', 'meaning'], entry_rows(Config))]
    before = ', '.join(f'`{old}` (now `{new}`)' for old, new in RENAMED.items())
    parts.append('\nFiles of before have arguments in place of entries, and other names for some; both are still read: '
                 f'{before}.\n')
    return '\n'.join(parts)


def table(headings: list[str], rows: Iterator[tuple]) -> Iterator[str]:
    """The lines of a table."""
    for row in [headings, ['---'] * len(headings), *rows]:
        yield f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in row)} |'


def option_row(option: Option) -> tuple[str, ...]:
    """An option: how it is typed, what it takes, its default, its help."""
    default = re.search(r' ?\[default: (.*)\]$', option.help)
    words = [f'`{word}`' for word in option.opts]
    return ', '.join(words), value_in_words(option), default[1] if default else '', option.help[:default and default.start()]


def value_in_words(option: Option) -> str:
    """What an option takes."""
    if option.is_flag:
        return ''
    if isinstance(option.type, click.Choice):
        return ', '.join(f'`{choice}`' for choice in option.type.choices)
    if isinstance(option.type, Whole | Real):
        return f'{option.type.kind}, {in_words(option.type.within)}'
    return '0 or 1' if isinstance(option.type, click.types.BoolParamType) else f'`{option.metavar}`' if option.metavar else 'text'


def entry_rows(table: type, prefix: str = '') -> Iterator[tuple[str, ...]]:
    """The entries of a configuration, each followed by those of the table in it."""
    for field in dataclasses.fields(table):
        said = field.metadata
        yield (f'`{prefix}{field.name}`', range_in_words(field.type, said), said['unit'], said['changes'],
               ', '.join(f'`{path}`' for path in said['at']), said['help'])
        if said['table']:
            yield from entry_rows(said['table'], f'{prefix}{field.name}.')


def range_in_words(kind: Any, said: Any) -> str:
    """Type and range, or the words that there are."""
    if said['choices']:
        return ', '.join(f'`{choice}`' for choice in said['choices'])
    return f'{kind_in_words(kind)}{", " if said["within"] else ""}{in_words(said["within"]) if said["within"] else ""}'


if __name__ == '__main__':
    print(page(), end='')
