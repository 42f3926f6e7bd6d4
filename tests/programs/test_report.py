"""report.py: what the page says, what it weighs, and that a browser shows it."""
import base64
import csv
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from network_files import run as run_command
from PIL import Image
from tiny import make_config, make_dataset

import report
from training import setup
from training.config.options import parse_args
from training.run.ticks import Ticks
from training.training_loop import training_loop

ROOT = Path(__file__).parents[2]
VOID = {'meta', 'img', 'input', 'br', 'path', 'circle', 'polyline'}


def write_run(folder, num_ticks=4, seed=0, picture=(128, 96), **config):
    """A run directory with 4 kimg a tick, a metric every
    second tick, and a picture of noise at every tick."""
    folder.mkdir(parents=True)
    rng = np.random.RandomState(seed)
    config = {'run_dir': str(folder), 'kimg': 4 * num_ticks, 'data_shape': {'img_resolution': 16},
              'loss_kwargs': {'r1_gamma': 1.5, 'game': 'logistic'}, 'command': {'data': 'my cats.zip'}, **config}
    (folder / 'training_options.json').write_text(json.dumps(config))
    with open(folder / 'stats.jsonl', 'w') as stats, open(folder / 'metric-fd5k.jsonl', 'w') as metric:
        for tick in range(num_ticks):
            kimg = 4 * (tick + 1)
            values = {'Progress/kimg': kimg, 'Progress/augment': tick / 100, 'Loss/G/loss': 2 + rng.randn() / 9,
                      'Loss/D/loss': 1.25 + tick, 'Timing/sec_per_kimg': 30, 'Timing/total_sec': 3700,
                      'Loss/mine/new': -tick, 'Loss/share/lecam/D': 0.1 / (tick + 1)}
            stats.write(json.dumps({name: {'num': 1, 'mean': mean, 'std': 0} for name, mean in values.items()}) + '\n')
            if tick % 2:
                metric.write(json.dumps({'metric': 'fd5k', 'results': {'fd5k': 100 + (tick - 1) ** 2},
                                         'snapshot_pkl': f'network-snapshot-{kimg:06d}.safetensors'}) + '\n')
    for name in ['fakes_init', 'reals', *(f'fakes{4 * (tick + 1):06d}' for tick in range(num_ticks))]:
        noise = rng.randint(0, 256, [picture[1], picture[0], 3], dtype=np.uint8)
        Image.fromarray(noise).save(folder / f'{name}.png', compress_level=0)
    (folder / 'log.txt').write_text('tick 0\nWarning: D has learned <all> by heart.\nWarning: D has learned <all> by '
                                    'heart.\nWarning: disk.\n')
    return folder


def page(*folders):
    report.write_report(folders, folders[0] / 'report.html')
    return (folders[0] / 'report.html').read_text()


def slides_of(text):
    return json.loads(re.search(r'const slides = (\{.*?\});\n', text)[1])


class Balance(HTMLParser):
    """Raises unless every element is closed where it should be."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing(tmp_path):
    text = page(write_run(tmp_path / 'a<b'), write_run(tmp_path / 'c', seed=1))
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert not re.search(r'https?:|<link|@import|url\(|<script src|fetch\(|XMLHttp', text)
    assert all(uri.startswith('data:image/webp;base64,') for uri in re.findall(r'src="([^"]*)"', text))
    assert 'a&lt;b' in text and 'a<b' not in text and 'learned &lt;all&gt;' in text


def test_it_says_how_far_the_run_is(tmp_path):
    text = page(write_run(tmp_path / 'a'))
    assert '<td>16 of 16</td>' in text and '1h 01m 40s' in text
    assert '104 <small>best 100 at 8</small>' in text           # Ticks 1 and 3: 100 + 0 at 8 kimg, 100 + 4 at 16 kimg.
    assert text.count('D has learned') == 1 and ': disk.<' in text


def test_curves_go_through_their_points(tmp_path):
    text = page(write_run(tmp_path / 'a'))
    figure = next(part for part in text.split('<figure>') if part.startswith("<figcaption>D&#39;s loss"))
    points = np.array([point.split(',') for point in re.search('points="(.*?)"', figure)[1].split()], float)
    assert np.allclose(np.diff(points[:, 0]), points[1, 0] - points[0, 0]) and points[0, 0] > report.MARGINS[0]
    assert np.all(np.diff(points[:, 1]) < 0)                    # D's loss rises; down is positive.
    labels = {text: float(y) - 4 for y, text in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', figure)}
    unit = labels['2'] - labels['3']                            # Pixels between the grid lines of 2 and 3.
    np.testing.assert_allclose(points[:, 1], labels['2'] - (np.array([1.25, 2.25, 3.25, 4.25]) - 2) * unit, atol=0.2)
    assert 'Loss/mine/new' in text and 'Progress/tick' not in text
    assert text.index('Share of lecam in D&#39;s gradient') < text.index('Loss/mine/new')


def test_long_curves_are_averaged():
    curve = [(float(x), 2.0 * x) for x in range(3000)]
    short = report.shorten(curve)
    assert len(short) == report.MAX_POINTS and short[0] == (4.5, 9.0) and short[-1] == (2994.5, 5989.0)
    assert report.shorten(curve[:7]) == curve[:7] and report.shorten([]) == []


def test_unfinished_lines_and_strange_values_are_passed_over(tmp_path):
    folder = write_run(tmp_path / 'a')
    with open(folder / 'stats.jsonl', 'a') as file:
        file.write('{"Progress/kimg": {"mean": 20}, "Loss/G/loss": {"mean": NaN}, "Loss/D/loss": {"mean": 9}}\n')
        file.write('{"Progress/kimg": {"me')
    stats = report.read_run(folder).stats
    assert len(stats['Loss/G/loss']) == 4 and stats['Loss/D/loss'][-1] == (20, 9)


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    (tmp_path / 'training_options.json').write_text('{"kimg": 5}')
    text = page(tmp_path)
    assert '0 of 5' in text and 'No statistics yet.' in text and 'was not recorded' in text


def test_pictures_follow_the_slider(tmp_path):
    slow = write_run(tmp_path / 'slow', num_ticks=2)            # 4, 8 kimg.
    (slow / 'fakes000008.png').rename(slow / 'fakes000006.png')
    slides = slides_of(page(slow, write_run(tmp_path / 'fast', num_ticks=3)))
    assert slides['labels'] == ['before training', '4 kimg', '6 kimg', '8 kimg', '12 kimg']
    assert slides['shown'] == [[0, 1, 2, 2, 2], [0, 1, 1, 2, 3]]
    assert slides['times'] == [['before training', '4 kimg', '6 kimg'], ['before training', '4 kimg', '8 kimg', '12 kimg']]
    data = base64.b64decode(slides['pictures'][0][0].partition(',')[2])
    with Image.open(io.BytesIO(data)) as image, Image.open(slow / 'fakes_init.png') as original:
        assert image.size == (128, 80)                          # 8 x 5 of the 8 x 6 images.
        assert abs(np.asarray(image).mean() - np.asarray(original).mean()) < 2


def test_a_page_of_100_ticks_stays_below_5_mb_in_the_worst_case(tmp_path):
    """Noise is what compresses worst; a hundredth of the pictures is enough to bound them all."""
    path = tmp_path / 'fakes000001.png'
    Image.fromarray(np.random.RandomState(0).randint(0, 256, [1280, 2048, 3], dtype=np.uint8)).save(path)
    uri = report.data_uri(path, 256)
    assert report.MAX_PICTURES * len(uri) < 4.3e6
    folder = write_run(tmp_path / 'run', num_ticks=250, picture=(16, 16))
    text = page(folder)
    labels = slides_of(text)['labels']
    assert len(labels) == 64 and labels[:2] == ['before training', '16 kimg'] and labels[-1] == '1000 kimg'    # Every 4th.
    assert len(text) < 0.5e6


def test_a_page_written_again_encodes_only_new_pictures():
    kept = set()
    for num in range(1, 500):
        items = list(range(num))
        shown = report.thin(items, 100)
        assert shown == sorted(set(shown)) and len(shown) <= 100 and shown[0] == 0 and shown[-1] == items[-1]
        assert len(shown) == num or len(shown) >= 50
        assert set(shown) <= kept | {num - 1}
        kept |= set(shown)


def test_an_unreadable_picture_is_left_out(tmp_path):
    folder = write_run(tmp_path / 'a')
    (folder / 'fakes000004.png').write_bytes(b'half a picture')
    assert slides_of(page(folder))['labels'] == ['before training', '8 kimg', '12 kimg', '16 kimg']


def test_differences_between_runs_are_listed(tmp_path):
    a = write_run(tmp_path / 'a', loss_kwargs={'r1_gamma': 1.5, 'game': 'hinge'})
    b = write_run(tmp_path / 'b', seed=1, regularizers={'ggdr': {}})
    assert report.differences([report.read_run(a), report.read_run(b)]) == {
        'loss_kwargs.game': ['"hinge"', '"logistic"'], 'regularizers.ggdr': ['', '{}']}
    assert 'loss_kwargs.game' in page(a, b)


def test_options_have_the_names_and_meanings_of_the_command_line(tmp_path):
    """Also those of runs of before, which called R1's weight `loss_kwargs.r1_gamma`."""
    text = page(write_run(tmp_path / 'a'))
    assert '<td title="Weight of R1">gamma</td>' in text and 'r1_gamma' not in text
    assert '<td title="Length of the run in thousands of images (kimg)">kimg</td>' in text


def test_the_command_line_repeats_the_run(tmp_path):
    """What is printed is parsed by train.py itself into the recorded options."""
    recorded = {'data': 'my cats.zip', 'mirror': True, 'batch_gpu': 8, 'diffaugment': 'color', 'cfg': 'auto',
                'allow_partial': True, 'lecam_weight': 0.25}
    command = report.command_line(report.read_run(write_run(tmp_path / 'a', command=recorded)))
    words = shlex.split(command)
    assert words[:2] == ['python', 'train.py']
    params = parse_args(words[2:])
    assert params['outdir'] == str(tmp_path)
    assert {name: params[name] for name in recorded} == recorded


def test_a_page_is_written_while_the_run_goes_on(tmp_path, monkeypatch):
    """With the pictures: after ticks 0, 1, 2, 4, 8, the last. A page that fails is named and ends nothing."""
    monkeypatch.setattr('training.run.ticks.grid_size', lambda *args: (4, 2))
    config = make_config(make_dataset(tmp_path / 'data.zip'), kimg=0.1, tick=0.012, log=[],
                         snap=10)
    written = []

    def note(run_dir):
        written.append(len((run_dir / 'stats.jsonl').read_text().splitlines()))
        raise OSError('full')

    ticks = Ticks(config, tmp_path, torch.device('cpu'), report=note)
    training_loop(setup.build(config, torch.device('cpu')), ticks)
    assert sorted(set(written)) == [1, 2, 3, 5, 9] and ticks.services.failing == {'report.html': 'full'}


def test_the_script_writes_beside_the_run_or_where_it_is_told(tmp_path):
    folder = write_run(tmp_path / 'a')
    assert run_command(report.main, folder)[0] == 0 and (folder / 'report.html').exists()
    assert run_command(report.main, folder, '--out', tmp_path / 'b.html')[0] == 0 and (tmp_path / 'b.html').exists()


@pytest.mark.parametrize('args, status, message', [
    ([], 2, "Missing argument 'RUN_DIR...'"),
    (['{}/nowhere'], 2, 'nowhere is not a run directory: training_options.json: No such file or directory'),
    (['{}/damaged'], 2, 'training_options.json is damaged'),
    (['{}/run', '--out={}/nowhere/a.html'], 1, 'nowhere is no folder that can be written to'),
])
def test_a_mistake_is_answered_in_a_sentence(tmp_path, args, status, message):
    write_run(tmp_path / 'run')
    (tmp_path / 'damaged').mkdir()
    (tmp_path / 'damaged/training_options.json').write_text('{')
    result = run_command(report.main, *(arg.format(tmp_path) for arg in args))
    assert result[0] == status and message in ' '.join(result[1].split())


@pytest.mark.parametrize('script', ['report', 'projector', 'video', 'directions', 'export'])
def test_help_loads_nothing_heavy_and_shows_an_example(script):
    code = f'import sys, {script}; print([m for m in ("torch", "numpy", "PIL", "scipy") if m in sys.modules])'
    assert subprocess.check_output([sys.executable, '-c', code], cwd=ROOT, text=True).strip() == '[]'
    output = subprocess.check_output([sys.executable, f'{script}.py', '--help'], cwd=ROOT, text=True)
    assert f'Example: python {script}.py' in ' '.join(output.split())


def shown_by_a_browser(folder, frame, *options):
    """The document after a headless browser has shown
    `folder`/frame.html; skips the test where there is none."""
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if browser is None:
        pytest.skip('no chromium on this machine')
    (folder / 'frame.html').write_text(frame)
    command = [browser, '--headless', '--no-sandbox', '--disable-gpu', '--allow-file-access-from-files', *options,
               '--dump-dom', (folder / 'frame.html').as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=600).stdout


@pytest.mark.parametrize('width', [1400, 390])
def test_a_browser_shows_it(tmp_path, width):
    """On a desk and on a phone: the script has run, and nothing is wider than the window."""
    text = page(*(write_run(tmp_path / name, seed=seed) for seed, name in enumerate(['short', 'a-name-' * 20])))
    (tmp_path / 'page.html').write_text(text)
    # In a frame, because a headless window has a least width.
    dom = shown_by_a_browser(tmp_path, FRAME.replace('WIDTH', str(width)), '--virtual-time-budget=5000')
    assert f'<title>{width} {width} true 16 kimg</title>' in dom, dom[-500:]


def test_a_page_of_a_run_that_goes_on_looks_for_a_newer_one(tmp_path, monkeypatch):
    monkeypatch.setattr(report.time, 'time', lambda: 1000.0)
    folder = write_run(tmp_path / 'run', kimg=100)
    report.refresh(folder)
    text = (folder / 'report.html').read_text()
    assert 'const until = 22600;' in text and 'looks for a newer one every minute' in text
    assert 'const until = 0;' in page(folder) and 'newer one' not in page(folder)           # By hand: nobody writes it anew.
    done = write_run(tmp_path / 'done')
    report.refresh(done)
    assert 'const until = 0;' in (done / 'report.html').read_text()


def test_a_reload_keeps_what_the_reader_has_chosen(tmp_path):
    """A browser reloads the page by itself; its clock is put forward."""
    folder = write_run(tmp_path / 'run', kimg=100)
    report.refresh(folder)
    shutil.copy(folder / 'report.html', tmp_path / 'page.html')
    dom = shown_by_a_browser(tmp_path, CHOSEN, '--virtual-time-budget=70000')
    assert '<title>2 loads, slider 1, true</title>' in dom, dom[-500:]


ZOOMED = '''<iframe src="page.html" style="width: 1000px; height: 800px"></iframe><script>
document.querySelector('iframe').addEventListener('load', event => {
  const page = event.target.contentDocument, zoom = page.getElementById('zoom'), chart = page.querySelector('.charts svg');
  const title = chart.closest('figure').querySelector('figcaption').textContent, before = [zoom.open];
  chart.dispatchEvent(new MouseEvent('click', {bubbles: true}));
  const larger = zoom.querySelector('svg').getBoundingClientRect().width > 2 * chart.getBoundingClientRect().width;
  before.push(zoom.open, larger, zoom.querySelector('figcaption').textContent === title);
  zoom.click();
  before.push(zoom.open);
  page.querySelector('.pictures img').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter'}));
  before.push(zoom.open, zoom.querySelector('img').src.startsWith('data:image/webp'));
  document.title = before.join(' ');
});</script>'''


def test_charts_and_pictures_can_be_enlarged(tmp_path):
    (tmp_path / 'page.html').write_text(page(write_run(tmp_path / 'run')))
    dom = shown_by_a_browser(tmp_path, ZOOMED, '--virtual-time-budget=5000')
    assert '<title>false true true true false true true</title>' in dom, dom[-500:]


def test_runs_are_compared_at_equal_kimg(tmp_path):
    long, short = write_run(tmp_path / 'long', num_ticks=8), write_run(tmp_path / 'short', num_ticks=4, seed=1)
    runs = [report.read_run(long), report.read_run(short)]
    assert report.at_equal_kimg(runs, ['fd5k', 'other']) == {'kimg': '16', 'rows': [
        ['fd5k', '104 at 16, best 100 at 8', '104 at 16, best 100 at 8'], ['other', '–', '–']]}
    assert 'As far as all have come: 16 kimg.' in page(long, short)
    assert 'At equal kimg' not in page(long)


def test_the_table_has_means_over_seeds_where_all_runs_were_measured(tmp_path):
    folders = [write_run(tmp_path / '0-base', seed=5, command={'data': 'cats.zip'}),
               write_run(tmp_path / '1-ggdr', seed=5, command={'data': 'cats.zip', 'reg_type': 'ggdr', 'seed': 5}),
               write_run(tmp_path / '2-ggdr', num_ticks=6, seed=6,
                         command={'data': 'cats.zip', 'reg_type': 'ggdr', 'seed': 6, 'snap': 2})]
    for folder, seed, value in zip(folders, (5, 5, 6), (30, 20, 26)):
        config = json.loads((folder / 'training_options.json').read_text())
        (folder / 'training_options.json').write_text(json.dumps({**config, 'seed': seed}))
        with open(folder / 'metric-fd5k.jsonl', 'a') as file:       # Of several for a snapshot the last one counts.
            file.write(json.dumps({'metric': 'fd5k', 'results': {'fd5k': value}, 'snapshot_pkl': 'network-snapshot-000016.pkl'})
                       + '\n')
    table = tmp_path / 'cats.md'
    for _ in range(2):          # A table of before is replaced.
        assert run_command(report.main, *folders, '--out', tmp_path / 'cats.html', '--table', table)[0] == 0
    assert table.read_text().splitlines()[:4] == [
        '| setting | seeds | fd5k ↓ at 16 kimg |', '| --- | --- | --- |',
        '| – | 5 | 30 |', '| --reg_type=ggdr | 5, 6 | 23 ± 4.2 |']
    assert run_command(report.main, *folders, '--out', tmp_path / 'cats.html', '--table', tmp_path / 'cats.csv')[0] == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / 'cats.csv').read_text())))
    assert [row['kimg'] for row in rows] == ['8', '16', '8', '16', '8', '16', '24']
    assert list(rows[-2].values())[:-1] == ['2-ggdr', ' --reg_type=ggdr', '6', 'fd5k', '16', '26.0']


def test_a_table_goes_over_no_other_file(tmp_path):
    folder = write_run(tmp_path / 'run')
    (tmp_path / 'mine.csv').write_text('1,2')
    for name, message in (('mine.csv', 'was not written by this program'), ('a.xls', 'a table is .csv or .md'),
                          ('no/a.md', 'no folder that can be written to')):
        status, output = run_command(report.main, folder, '--out', tmp_path / 'a.html', '--table', tmp_path / name)
        assert status in (1, 2) and message in ' '.join(output.split()).replace('│ ', '') and not (tmp_path / 'a.html').exists()


@pytest.mark.parametrize('name', ['=cmd|1', '+1', '-1', '@sum', '\t=1', '\r=1'])
def test_no_cell_of_a_table_is_a_formula(tmp_path, name):
    folder = write_run(tmp_path / '=1', command={'data': '=1'})
    (folder / 'metric-fd5k.jsonl').write_text(json.dumps(dict(results={name: 1}, snapshot_pkl='network-snapshot-000016.pkl')))
    other = write_run(tmp_path / 'other', command={'data': '2'})
    assert run_command(report.main, folder, other, '--out', tmp_path / 'a.html', '--table', tmp_path / 'a.csv')[0] == 0
    cells = [cell for row in csv.reader(io.StringIO((tmp_path / 'a.csv').read_text())) for cell in row]
    assert any('data' in cell for cell in cells) and not any(cell[:1] in set('=+-@\t\r') for cell in cells)


def test_page_and_table_are_two_files(tmp_path):
    folder = write_run(tmp_path / 'run')
    (tmp_path / 'b.md').symlink_to(tmp_path / 'a.md')
    for table in ('a.md', '../' + tmp_path.name + '/a.md', 'b.md'):
        status, output = run_command(report.main, folder, '--out', tmp_path / 'a.md', '--table', tmp_path / table)
        assert status == 2 and 'is the page, too' in ' '.join(output.split()) and not (tmp_path / 'a.md').exists()


@pytest.mark.slow
def test_the_largest_page_opens_within_a_second(tmp_path):
    """100 ticks with a picture of noise each."""
    folder = write_run(tmp_path / 'run', num_ticks=99, picture=(512, 320), data_shape={'img_resolution': 64})
    text = page(folder)
    assert len(slides_of(text)['pictures'][0]) == 100 and 2e6 < len(text) < 5e6
    shutil.copy(folder / 'report.html', tmp_path / 'page.html')
    dom = shown_by_a_browser(tmp_path, TIMED)
    msec = int(re.search(r'<title>(\d+)</title>', dom)[1])
    print(f'{len(text) / 1e6:.1f} MB, {msec} ms')
    assert 0 < msec < 1000


CHOSEN = '''<iframe src="page.html"></iframe>
<script>
let loads = 0;
const frame = document.querySelector('iframe');
frame.onload = () => {
  loads += 1;
  const page = frame.contentDocument;
  if (loads === 1) {
    page.getElementById('time').value = 1;
    page.querySelector('details').open = true;
  } else {
    document.title = `${loads} loads, slider ${page.getElementById('time').value}, ${page.querySelector('details').open}`;
  }
};
</script>'''

TIMED = '''<iframe src="page.html"></iframe>
<script>
onload = () => {
  const {navigationStart, loadEventEnd} = document.querySelector('iframe').contentWindow.performance.timing;
  document.title = loadEventEnd - navigationStart;
};
</script>'''

FRAME = '''<iframe src="page.html" style="border: 0; width: WIDTHpx; height: 10000px"></iframe>
<script>
onload = () => setTimeout(() => {
  const page = document.querySelector('iframe').contentDocument;
  const shown = [...page.images].every(image => image.complete && image.naturalWidth > 0);
  const {scrollWidth, clientWidth} = page.documentElement;
  document.title = `${scrollWidth} ${clientWidth} ${shown} ${page.getElementById('when').textContent}`;
}, 100);
</script>'''
