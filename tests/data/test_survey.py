"""The page about a data set: what it counts, which pictures it takes for the same,
strangers' names, and what is refused."""
import io
import re
import sys

import numpy as np
import pytest
from dataset_files import encoded
from PIL import Image
from test_dataset_tool import run

from drawing import data_page
from training.data.importers import open_originals
from training.data.survey import NEAR, join_groups, survey


@pytest.fixture(autouse=True)
def without_the_reader_of_heic(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)


def soft(seed, size=64):
    """A picture like a photograph: large soft spots."""
    small = np.random.RandomState(seed).randint(0, 256, [6, 6, 3]).astype(np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def photos(tmp_path):
    """Twelve different pictures in two classes, one copied, one saved anew and smaller,
    one mirrored, and a strange one."""
    folder = tmp_path / 'photos'
    for seed in range(12):
        save(soft(seed), folder / 'ab'[seed % 2] / f'{seed:02d}.png')
    save(soft(0), folder / 'a/copy of 00.webp', lossless=True)
    save(soft(1).resize((48, 48)), folder / 'b/small 01.jpg', quality=85)
    save(soft(2).transpose(Image.Transpose.FLIP_LEFT_RIGHT), folder / 'a/mirrored 02.png')
    save(Image.new('L', (64, 40), 255), folder / 'b/white.png')
    (folder / 'b/broken.png').write_bytes(encoded(np.zeros([64, 64, 3], np.uint8))[:60])
    (folder / 'b/phone.heic').write_bytes(b'...')
    return folder


def names(found, groups):
    return [sorted(found.seen[number].name for number in group) for group in groups]


def test_what_is_the_same_is_found_and_what_is_not_is_not(photos):
    found = survey(open_originals(photos, 'folders'))
    assert names(found, found.duplicates) == [['a/00.png', 'a/copy of 00.webp']]
    assert sorted(names(found, found.near)) == [['a/02.png', 'a/mirrored 02.png'],
                                                ['b/01.png', 'b/small 01.jpg']]
    assert found.seen[found.outliers[0]].name == 'b/white.png'
    assert [name for name, _ in found.unreadable] == ['b/broken.png']
    assert found.sizes == {'64x64 RGB': 14, '48x48 RGB': 1, '64x40 grey': 1}
    assert found.labels == '2 classes' and found.classes[1].split() == ['0', '8', 'a']


@pytest.mark.parametrize('change, is_near', [(2, True), (8, False)])
def test_the_limit_is_a_mean_difference_of_five(tmp_path, change, is_near):
    pixels = np.asarray(soft(5)).clip(10, 240)
    for name, added in (('a', 0), ('b', change)):
        save(Image.fromarray((pixels + added).astype(np.uint8)), tmp_path / f'{name}.png')
    assert 2 < NEAR < 8 and bool(survey(open_originals(tmp_path)).near) == is_near


def test_the_page_says_it_all(photos, tmp_path):
    page = tmp_path / 'page.html'
    said = run(f'--source={photos}', f'--report={page}', '--labels-from=folders')
    assert '16 images, 1 that cannot be read; 1 duplicates, 2 near duplicates' in said
    assert '1 .heic (dataset_tool.py reads them with the extra "heic": pip install pillow-heif)' in said
    text = ' '.join(page.read_text().split())
    for words in ('16 pictures, shorter sides from 40 to 64 pixels (median 64). 1 are not square',
                  'pip install pillow-heif', '1 pictures that cannot be read', 'b/broken.png',
                  '<td>48x48 RGB</td><td>1</td>',
                  '1 pictures have the same pixels', '2 pictures are nearly as another', '2 classes'):
        assert words in text, words
    assert not re.search(r'(src|href)="(?!data:image/webp;base64,)', text)
    assert len(Image.open(io.BytesIO(survey(open_originals(photos)).seen[0].thumb)).getbands()) == 3
    run(f'--source={photos}', f'--report={page}', '--labels-from=folders')  # Its own page is replaced.


def test_names_of_strangers_stay_names(tmp_path):
    save(soft(0), tmp_path / 'x/"><script>alert(1)<script>.png')
    text = data_page.page_of(survey(open_originals(tmp_path / 'x')))
    assert '<script' not in text and '&lt;script&gt;' in text


def test_a_foreign_file_is_not_replaced_and_one_action_is_asked_for(photos, tmp_path):
    letter = tmp_path / 'letter.html'
    letter.write_text('Dear all')
    assert 'letter.html' in run(f'--source={photos}', f'--report={letter}', code=1) and letter.read_text() == 'Dear all'
    assert 'give one of --dest' in run(f'--source={photos}', f'--report={letter}', '--check', code=2)
    assert 'give one of --dest' in run(f'--source={photos}', code=2)


def test_a_set_without_a_readable_picture_has_a_page(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'no picture')
    found = survey(open_originals(tmp_path))
    assert found.seen == [] and '0 pictures' in data_page.page_of(found)


def test_only_so_many_are_compared_and_the_page_says_how_many(photos, monkeypatch):
    monkeypatch.setattr('training.data.survey.MOST_COMPARED', 3)
    found = survey(open_originals(photos))
    assert found.num_compared == 3 and len(found.seen) == 16 and '3 pictures were compared' in data_page.page_of(found)


def test_pictures_without_a_thumbnail_are_named_and_not_on_the_contact_sheet(photos, monkeypatch):
    monkeypatch.setattr('training.data.survey.MOST_THUMBS', 4)
    monkeypatch.setattr(data_page, 'CONTACT', 2)
    text = ' '.join(data_page.page_of(survey(open_originals(photos))).split())
    assert 'One of 2 pictures, of the first 4.' in text and '<code>b/white.png</code>' in text
    assert 'base64,"' not in text and 'src=""' not in text


def test_labels_that_some_pictures_lack_are_counted(photos):
    originals = open_originals(photos, 'folders')
    items = [item._replace(label=None if index < 3 else item.label) for index, item in enumerate(originals.items)]
    assert survey(originals._replace(items=items)).labels == 'none of use: 3 of 16 images have no label, and all need one'


def test_a_list_of_unreadable_files_that_is_cut_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(data_page, 'MOST_NAMES', 2)
    for name in 'abcde':
        (tmp_path / f'{name}.png').write_bytes(b'no picture')
    assert '<p>And 3 more.</p>' in data_page.page_of(survey(open_originals(tmp_path)))


def test_groups_are_joined_over_all_that_is_near():
    near = np.eye(6, dtype=bool)
    for a, b in ((1, 4), (4, 5), (0, 3), (5, 0)):
        near[a, b] = near[b, a] = True
    group_of = np.arange(6)
    join_groups(group_of, near)
    assert group_of.tolist() == [0, 0, 2, 0, 0, 0]
