"""Hooks of mkdocs.yml: what the site has beside the pages of docs/.

The README is its first page, docs/README.md the second; `api.md` is made of the docstrings of `loss_zoo`. A link out of docs/
leads to the repository if LOSS_ZOO_REPOSITORY says where that is (https://.../blob/main), and is plain text otherwise.
"""
import importlib
import inspect
import os
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r'(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)')
INTERFACE = ['loss_zoo.load', 'loss_zoo.train', 'loss_zoo.network.Network', 'loss_zoo.metrics', 'loss_zoo.terms']


def on_config(config: Any) -> Any:
    """Adds the pages that mkdocs.yml does not place, at the end."""
    pages = {path.relative_to(ROOT / 'docs').as_posix() for path in (ROOT / 'docs').glob('**/*.md')} - {'README.md'}
    if missing := sorted(pages - set(named_in(config['nav']))):
        config['nav'] = [*config['nav'], {'Further': missing}]
    return config


def named_in(entry: Any) -> list[str]:
    """The files of a navigation."""
    if isinstance(entry, str):
        return [entry]
    return [name for value in (entry.values() if isinstance(entry, dict) else entry) for name in named_in(value)]


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made."""
    from mkdocs.structure.files import File
    readme = (ROOT / 'README.md').read_text(encoding='utf-8')
    where = (ROOT / 'docs/README.md').read_text(encoding='utf-8')
    for name, text in {'index.md': as_page_of_docs(readme), 'where.md': where, 'api.md': '\n'.join(interface())}.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Points links out of docs/ at the repository."""
    return with_links(markdown, posixpath.dirname(page.file.src_uri))


def as_page_of_docs(readme: str) -> str:
    """The README, as if it lay in docs/."""
    readme = re.sub(r'(!\[[^\]]*\]\()docs/', r'\1', readme)
    return LINK.sub(lambda match: f'[{match[1]}]({moved(match[2])})', readme)


def moved(target: str) -> str:
    """A link from the top of the tree as one from docs/."""
    if '://' in target or target.startswith('#'):
        return target
    return target.removeprefix('docs/') if target.startswith('docs/') else f'../{target}'


def with_links(markdown: str, folder: str) -> str:
    """A page whose links lead to pages of the site, to other sites, or nowhere."""
    repository = os.environ.get('LOSS_ZOO_REPOSITORY')

    def link(match: re.Match) -> str:
        text, target = match[1], match[2]
        path, _, anchor = target.partition('#')
        place = posixpath.normpath(posixpath.join('docs', folder, path))
        if '://' in target or not path:
            return match[0]
        if place == 'docs/README.md':           # To a generator of sites that name would be another first page.
            return f'[{text}]({posixpath.relpath("where.md", folder or ".")})'
        if not place.startswith('docs/') or place == 'docs' or (ROOT / place).is_dir() or place.endswith('.ipynb'):
            return f'[{text}]({repository}/{place})' if repository else text
        return match[0]

    return LINK.sub(link, markdown)


def interface() -> Iterator[str]:
    """Markdown about the Python interface, from its docstrings."""
    sys.path.insert(0, str(ROOT))
    yield '# The Python interface\n'
    yield 'From the docstrings; [python](python.md) has examples, [anywhere](anywhere.md) those of the terms.\n'
    for name in INTERFACE:
        found = object_of(name)
        if inspect.ismodule(found):
            yield f'## {name}\n\n{as_text(found)}\n'
            for key, value in public(found):
                yield from described(f'{name.rpartition(".")[2]}.{key}', value, '###')
        else:
            yield from described(name.replace('.network', ''), found, '##')


def object_of(name: str) -> Any:
    """What a dotted name means."""
    try:
        return importlib.import_module(name)
    except ImportError:
        module, _, attribute = name.rpartition('.')
        return getattr(importlib.import_module(module), attribute)


def public(module: Any) -> Iterator[tuple[str, Any]]:
    """Its functions and classes, in the order of the file."""
    for key, value in vars(module).items():
        if not key.startswith('_') and getattr(value, '__module__', None) == module.__name__ and callable(value):
            yield key, value


def described(name: str, found: Any, heading: str) -> Iterator[str]:
    """Signature and docstring; of a class also its methods'."""
    try:
        signature = str(inspect.signature(found))
    except (TypeError, ValueError):
        signature = ''
    yield f'{heading} {name}\n\n```python\n{name}{signature}\n```\n\n{as_text(found)}\n'
    if inspect.isclass(found):
        for key, value in vars(found).items():
            if not key.startswith('_') and (inspect.isfunction(value) or isinstance(value, property)):
                text = ' '.join((inspect.getdoc(value) or '').split())
                yield f'- `{key}{"" if isinstance(value, property) else inspect.signature(value)}`: {text}\n'


def as_text(found: Any) -> str:
    """A docstring as it stands: words that would be marks stay words."""
    return '```text\n' + (inspect.getdoc(found) or '').strip() + '\n```'
