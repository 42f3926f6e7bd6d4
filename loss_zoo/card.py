"""A model card: what a network is, said by the files of its run. Markdown, with the header that the Hub reads.

Nothing in it names a folder of the machine it was made on. What a run directory says may be a stranger's, or may
have been edited: it stands in code spans, in one line.
"""
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from dnnlib import output
from training.config.methods import METHODS
from training.config.options import argv_of
from training.run import copies

MOST_ROWS = 12              # Of the table of scores.
MOST_TEXT = 200
CAVEATS = (                 # (what a score's name has in it, what it is not).
    ('efflite0', 'Scores with `efflite0` compare runs of this project; they are not FID, and not comparable with '
                 'published values.'),
    ('fid', 'FID of fewer than about 50 000 pictures is biased upwards, and more so the fewer there are.'),
    ('', 'They compare with the training pictures: a generator that copied these would score best of all.'))


@dataclass(frozen=True)
class Facts:
    """What a card says.

    config: of the run. curves: scores, {name: points (kimg, value)}. kimg: of the snapshot. file: its name.
    networks: names of those in the file. shape: of a picture, in words. license, data_license: identifiers, or None.
    psi: truncation of the pictures in the grid. has_pairs: does the worst pairs' picture go with the card?
    """
    repo: str
    config: Mapping[str, Any]
    curves: Mapping[str, Sequence[tuple[float, float]]]
    kimg: int
    file: str
    networks: Sequence[str]
    shape: str
    copied: Mapping[str, Any] | None = None
    license: str | None = None
    data_license: str | None = None
    psi: float = 1
    has_curve: bool = False
    has_pairs: bool = False
    version: str = 'unknown'
    tags: Sequence[str] = field(default=('stylegan2', 'stylegan2-ada', 'gan', 'image-generation'))


def card_of(facts: Facts) -> str:
    """The whole card."""
    parts = [header(facts), f'# {facts.repo.rpartition("/")[2]}',
             '![Pictures of this generator, by seed, not chosen](samples.png)',
             f'*Seeds 0 onwards, in order, none left out, truncation {facts.psi:g}.*',
             '## Use', use(facts), '## What it was trained on', trained_on(facts), '## How', how(facts),
             '## Scores', scores(facts), '## Does it copy its training pictures?', memorisation(facts),
             '## Limits', limits(facts)]
    return '\n\n'.join(parts) + '\n'


def header(facts: Facts) -> str:
    """What the Hub sorts by. Values are checked or our own."""
    rows = [f'license: {facts.license}'] * bool(facts.license)
    rows += ['library_name: stylegan2-loss-zoo', 'pipeline_tag: unconditional-image-generation', 'tags:']
    return '\n'.join(['---', *rows, *(f'- {tag}' for tag in facts.tags), '---'])


def use(facts: Facts) -> str:
    """How to draw with it."""
    return (f'A generator of {facts.shape}, after {facts.kimg} thousand images; in the file: {", ".join(facts.networks)}. '
            'Tensors and plain data only; reading it runs no code.\n\n'
            f'    loss-zoo generate --network=hf://{facts.repo} --seeds=0-31 --grid=8x4 --outdir=out\n\n'
            f"    import loss_zoo\n    net = loss_zoo.load('hf://{facts.repo}')\n    net.image(seeds=[1, 2, 3])")


def trained_on(facts: Facts) -> str:
    """Name, number, fingerprint and licence of the data."""
    config = facts.config
    paths, nums = config.get('data') or [], config.get('data_num_images') or []
    prints = config.get('data_fingerprints') or []
    if not paths:
        return 'The training pictures never were on the machine that trained this network, which knows nothing more of them.'
    rows = ['| data set | images | SHA-256 of images and labels |', '|---|---|---|']
    for path, num, fingerprint in zip_longest(paths, nums[:len(paths)], prints[:len(paths)], fillvalue='unknown'):
        rows.append(f'| {code(last_part(path))} | {num} | {code(fingerprint)} |')
    most = config.get('subset')
    notes = [f'Of these, {most} were used.'] if isinstance(most, int) and nums and most < nums[-1] else []
    notes += ['Each also mirrored.'] if config.get('mirror') else []
    notes += [f'Licence of the pictures: {code(facts.data_license)}.' if facts.data_license else
              'Licence of the pictures: **not stated**. Whoever uses this network should ask.']
    source = config.get('init_from') or config.get('resume_pkl')
    notes += [f'Fine-tuned from {code(without_folders(str(source)))}: what that was trained on counts as well.'] if source else []
    return '\n'.join(rows) + '\n\n' + ' '.join(notes)


def how(facts: Facts) -> str:
    """Game, methods, the command."""
    config = facts.config
    methods = [f'{code(name)} ({", ".join(f"{key} {value}" for key, value in sorted(plain(options).items())) or "defaults"})'
               for name, options in (config.get('regularizers') or {}).items() if name in METHODS]
    lines = [f'- Game: {code(str(config.get("loss", "logistic")))}.',
             f'- Methods beside it: {"; ".join(methods) if methods else "none"}.',
             f'- Augmentation: {augmentation(config)}.',
             f'- Images per step: {code(str(config.get("batch", "unknown")))}; seed {code(str(config.get("seed", "unknown")))}; '
             f'planned: {code(str(config.get("kimg", "unknown")))} thousand images.',
             f'- Made with stylegan2-loss-zoo {code(facts.version)}.']
    words = command_of(config)
    return '\n'.join(lines) + (f'\n\nThe command, without the folders of its machine:\n\n    {words}' if words else '')


def augmentation(config: Mapping[str, Any]) -> str:
    """What is done to the pictures that D sees."""
    if not config.get('augment_kwargs'):
        return 'none of this pipeline'
    return 'adaptive (ADA)' if config.get('target') is not None else 'of fixed strength'


def scores(facts: Facts) -> str:
    """The curve as a table, and what it does not say."""
    if not facts.curves:
        return 'None were taken during the run.'
    names = [name for name in facts.curves if re.fullmatch(r'[\w@.-]+', name)]
    times = sorted({kimg for name in names for kimg, _ in facts.curves[name]})
    step = -(-len(times) // MOST_ROWS)
    shown = times[::-1][::step][::-1]
    rows = ['| kimg | ' + ' | '.join(names) + ' |', '|---' * (len(names) + 1) + '|']
    for kimg in shown:
        values = [dict(facts.curves[name]).get(kimg) for name in names]
        rows.append(f'| {kimg:g} | ' + ' | '.join('' if value is None else f'{value:.4g}' for value in values) + ' |')
    if facts.kimg not in times:
        rows.append(f'\nThe network of this card ({facts.kimg} kimg) is not among them.')
    caveats = [text for word, text in CAVEATS if any(word in name for name in names)]
    picture = ['\n![Scores over the run](metrics.svg)'] if facts.has_curve else []
    return '\n'.join([*rows, *picture, '', *(f'- {text}' for text in caveats)])


def memorisation(facts: Facts) -> str:
    """What `loss-zoo copied` found, if it was asked about this snapshot."""
    found = facts.copied
    if found is None:
        return 'It was not looked whether it does (`loss-zoo copied`). With few training pictures, networks may.'
    answer = copies.answer(found).replace('are copied', '**are copied**')
    about = 'above pictures of the generator, below each the training picture nearest to it'
    pairs = f'\n\n![Worst pairs](copied.png)\n\n*The worst pairs: {about}.*'
    return f'{answer}: {copies.in_words(found)}.' + (pairs if facts.has_pairs else '')


def limits(facts: Facts) -> str:
    """What holds for all such networks."""
    return ('What it draws is drawn, not photographed, and shows no real person or case, however alike. It has the biases of its '
            'training pictures. It is not fit for decisions about people or their health.')


# ---------------------------------------------------------------------------------------------------------------------
# Small things.

def command_of(config: Mapping[str, Any]) -> str | None:
    """What to type to do the same with data in the working directory."""
    import shlex
    words = argv_of(config)
    if words is None:
        return None
    kept = [word for word in words if not re.match(r'--(outdir|tdgan_tls|tdgan_listen)\b', str(word))]
    return printable(shlex.join(['loss-zoo', 'train', '--outdir=runs', *(without_folders(str(word)) for word in kept)]), 2000)


def without_folders(word: str) -> str:
    """An option or a path with the last parts of paths only; addresses without what may be a secret."""
    option, equals, value = word.partition('=') if word.startswith('--') else ('', '', word)
    return option + equals + ','.join(last_part(part) for part in value.split(','))


def last_part(path: str) -> str:
    """The name at the end of a path; an address on the Hub stays whole."""
    if path.startswith('hf://'):
        return path
    path = re.sub(r'[?#].*', '', path) if '://' in path else path
    return re.split(r'[/\\]', path.rstrip('/\\'))[-1]


def plain(options: Any) -> dict[str, Any]:
    """The numbers and words among the options of a method, but for where its centres connect."""
    if not isinstance(options, Mapping):
        return {}
    return {key: value for key, value in options.items() if re.fullmatch(r'\w{1,40}', key) and key not in ('listen', 'tls')
            if isinstance(value, bool | int | float) or isinstance(value, str) and re.fullmatch(r'[\w.,-]{1,40}', value)}


def code(text: str) -> str:
    """Text as a code span of one line, in a table, too."""
    return f'`{printable(text).replace("`", "?").replace("|", "?") or "?"}`'


def printable(text: str, most: int = MOST_TEXT) -> str:
    """Text that a stranger may have written, in one line."""
    return output.printable(text[:most], keep='')

