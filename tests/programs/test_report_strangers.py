"""report.py on run directories that a stranger made or that
are damaged: a page without their markup, or one sentence."""
import json
import os
import random
import re
from html.parser import HTMLParser

import pytest
from mutations import MARKUP, ODD, mutated
from test_report import write_run

import report
from training.config.schema import Config
from training.run.run_files import RunFileError, read_options

ELEMENTS = {
    'html', 'head', 'meta', 'title', 'style', 'body', 'script', 'h1', 'h2', 'section', 'footer', 'div', 'p', 'pre', 'span',
    'small', 'table', 'tr', 'th', 'td', 'ul', 'li', 'i', 'b', 'figure', 'figcaption', 'img', 'input', 'details', 'summary',
    'dialog', 'output', 'svg', 'path', 'text', 'polyline', 'circle'}


class Elements(HTMLParser):
    """Collects what a page consists of, and fails on an attribute that no page of ours has."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        assert tag in ELEMENTS and not any(name.startswith('on') for name, _ in attrs), (tag, attrs)
        assert all((value or '').startswith('data:image/webp;base64,') for name, value in attrs if name in ('src', 'href'))
        self.found.append(tag)


def require_sound(text):
    """A whole page, whose only script is our own."""
    parser = Elements()
    parser.feed(text)
    assert parser.found.count('script') == 1 and text.count('</script>') == 1 and text.rstrip().endswith('</html>')


def answer(folder):
    """The page, checked, or the sentence of the refusal."""
    try:
        report.write_report([folder], folder / 'report.html')
    except report.NotARun as error:
        assert '\n' not in str(error) and len(str(error)) < 500 + len(str(folder))
        return str(error)
    text = (folder / 'report.html').read_text(encoding='utf-8')
    require_sound(text)
    return text


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp('runs') / 'run', num_ticks=3, picture=(16, 16), metrics=['fd5k'], batch=4,
                     training_set_kwargs={'resolution': 16, 'path': 'a.zip'}, loss='x')


def clone(sound, folder):
    folder.mkdir()
    for file in sound.iterdir():
        if file.name != 'report.html':
            os.link(file, folder / file.name)
    return folder


def replace(path, data):
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize('seed', range(4))
def test_odd_options_give_a_page_or_a_sentence(sound, tmp_path, seed):
    rng = random.Random(seed)
    config = json.loads((sound / 'training_options.json').read_text())
    folder = clone(sound, tmp_path / 'run')
    for _ in range(12):
        replace(folder / 'training_options.json', json.dumps(mutated(config, rng)).encode())
        answer(folder)


@pytest.mark.parametrize('name', ['stats.jsonl', 'metric-fd5k.jsonl'])
@pytest.mark.parametrize('seed', range(2))
def test_odd_rows_give_a_page(sound, tmp_path, name, seed):
    rng = random.Random(seed)
    rows = [json.loads(line) for line in (sound / name).read_text().splitlines()]
    folder = clone(sound, tmp_path / 'run')
    for _ in range(8):
        odd = [json.dumps(mutated(rng.choice(rows), rng)) for _ in range(4)] + [json.dumps(rng.choice(ODD)), '[' * 10 ** 5, '{"a']
        replace(folder / name, '\n'.join([*odd, *map(json.dumps, rows)]).encode())
        assert 'Progress' in answer(folder)


@pytest.mark.parametrize('data', [
    b'', b'\xff\xfe', b'null', b'[]', b'"x"', b'{', b'[' * 10 ** 5, b'{"a":' * 500 + b'1' + b'}' * 500,
    b'{"kimg": 1' + b'0' * 5000 + b'}',
    b'{"kimg": NaN}', b'{"kimg": ' + b'9' * 400 + b'}', b'{"command": []}', b'{"data_shape": {"img_resolution": 0}}',
    json.dumps({'kimg': MARKUP}).encode()])
def test_what_is_no_configuration_is_told_in_a_sentence(tmp_path, data):
    (tmp_path / 'training_options.json').write_bytes(data)
    text = answer(tmp_path)
    assert 'training_options.json' in text and not (tmp_path / 'report.html').exists()


@pytest.mark.parametrize('name', [*map(str, Config.__dataclass_fields__), 'data_shape.img_resolution', 'keep.newest',
                                  'training_set_kwargs.resolution'])
def test_every_entry_has_its_type(tmp_path, name):
    *outer, last = name.split('.')
    wrong = {last: [[MARKUP]]}
    (tmp_path / 'training_options.json').write_text(json.dumps({outer[0]: wrong} if outer else wrong))
    sentence = re.escape(f'was not written by this program: {name}=[["') + '.*(: must be | is none of its classes)'
    with pytest.raises(RunFileError, match=sentence):
        read_options(tmp_path)


def test_markup_in_every_text_is_shown_as_text(tmp_path):
    """In names of files, options, statistics, metrics, warnings, the command line."""
    folder = write_run(tmp_path / MARKUP.replace('/', '|'), num_ticks=1, picture=(16, 16), command={'data': MARKUP}, loss=MARKUP,
                       loss_kwargs={MARKUP: MARKUP}, held_out=MARKUP, metrics=[MARKUP])
    row = {'Progress/kimg': {'mean': 1}, MARKUP: {'mean': 1}}
    (folder / 'stats.jsonl').write_text(json.dumps(row))
    (folder / 'metric-x.jsonl').write_text(json.dumps({'results': {MARKUP: 1}, 'snapshot_pkl': 'network-snapshot-000001.x'}))
    (folder / 'log.txt').write_text(f'Warning: {MARKUP}\n')
    text = answer(folder)
    assert text.count('&lt;img src=x onerror=alert(1)&gt;') > 10 and '<img src=x' not in text


@pytest.mark.parametrize('name', [b'caf\xe9', b'\xff', 'caf\N{COMBINING ACUTE ACCENT}'.encode(), b'a\nb'])
def test_any_name_of_a_folder_has_a_page(tmp_path, name):
    folder = write_run(tmp_path / os.fsdecode(name), num_ticks=1, picture=(16, 16), data_paths=[os.fsdecode(name)])
    assert answer(folder).count(name.decode(errors='backslashreplace').partition('\n')[0]) > 2


@pytest.mark.parametrize('name', ['training_options.json', 'stats.jsonl', 'log.txt', 'metric-a.jsonl', 'fakes000001.png',
                                  'reals.png'])
def test_pipes_and_folders_in_the_place_of_files_are_not_waited_for(tmp_path, name):
    folder = write_run(tmp_path / 'run', num_ticks=1, picture=(16, 16))
    for make in (os.mkfifo, os.mkdir):
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        answer(folder)


def test_colours_of_runs_can_be_read_on_both_pages():
    """At least 4.5:1 by the Web Content Accessibility Guidelines, on #fff and on #181818."""
    def luminance(color):
        parts = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for light, dark in report.COLORS:
        assert 1.05 / (luminance(light) + 0.05) >= 4.5, light
        assert (luminance(dark) + 0.05) / (luminance('#181818') + 0.05) >= 4.5, dark
