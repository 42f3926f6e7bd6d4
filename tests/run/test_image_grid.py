"""The grid of images of a run: layout and contents against
values worked out by hand, pictures against pixels."""
import numpy as np
import PIL.Image
import pytest

from training.run.image_grid import append_row, grid_indices, grid_size, save_picture, to_grid


def test_grid_sizes():
    """As many images as fit on 7680 x 4320 pixels, 7 x 4
    to 32 x 32 of them, unless the user says otherwise."""
    assert [grid_size(res, res) for res in (1024, 512, 256, 128, 32)] == [(7, 4), (15, 8), (30, 16), (32, 32), (32, 32)]
    assert [grid_size(res, res, (16, 8)) for res in (1024, 32)] == [(7, 4), (16, 8)]


class Items:
    """Stands for a data set of which only labels matter."""

    def __init__(self, labels):
        self.labels = labels
        self.has_labels = labels[0] is not None

    def __len__(self):
        return len(self.labels)

    def get_details(self, i):
        return type('Details', (), dict(raw_label=np.asarray(self.labels[i])))


def test_without_labels_all_items_come_in_a_fixed_random_order():
    indices = grid_indices(Items([None] * 10), 7, 4)
    order = list(range(10))
    np.random.RandomState(0).shuffle(order)
    assert indices == [order[k % 10] for k in range(28)]


def test_with_labels_each_row_has_one_label_and_continues_where_the_last_one_ended():
    labels = [2, 0, 0, 2, 2, 0, 2, 2]
    rng = np.random.RandomState(0)
    zeros, twos = [1, 2, 5], [0, 3, 4, 6, 7]
    rng.shuffle(zeros)
    rng.shuffle(twos)
    indices = grid_indices(Items(labels), 4, 4)
    assert indices[0:4] == [zeros[k % 3] for k in range(4)]
    assert indices[4:8] == [twos[k % 5] for k in range(4)]
    assert indices[8:12] == [zeros[k % 3] for k in range(4, 8)]
    assert indices[12:16] == [twos[k % 5] for k in range(4, 8)]


def test_vector_labels_are_sorted_backwards():
    """One-hot vectors then come in the order of their classes."""
    labels = [np.float32([0, 1]), np.float32([1, 0])]
    assert grid_indices(Items(labels), 1, 2) == [1, 0]


def test_values_become_pixels():
    images = np.linspace(-1.2, 1.2, 24, dtype=np.float32).reshape(2, 3, 2, 2)
    pixels = np.asarray(to_grid(images, (-1, 1), 2))
    assert pixels.shape == (2, 4, 3)
    expected = np.clip(np.round((images[1, 2, 0, 1].astype(np.float64) + 1) * 127.5), 0, 255)
    assert pixels[0, 3, 2] == expected and pixels[0, 0, 0] == 0 and pixels[1, 3, 2] == 255


def test_grey_images_and_rounding_to_even():
    grey = to_grid(np.float32([[[[0.5 / 255 * 2 - 1, 2.5 / 255 * 2 - 1]]]]), (-1, 1), 1)
    assert grey.mode == 'L' and grey.size == (2, 1)
    assert np.asarray(to_grid(np.float32([[[[0.5, 1.5, 2.5]]]]), (0, 255), 1)).tolist() == [[0, 2, 2]]


def test_film_strip_grows_and_is_thinned_out(tmp_path):
    path = tmp_path / 'strip.png'
    for value in range(5):
        append_row(PIL.Image.new('L', (3, 2), value), path, value, max_rows=4)
    assert rows_of(path) == [0, 2, 4]


def rows_of(path):
    with PIL.Image.open(path) as strip:
        return np.asarray(strip)[::2, 0].tolist()


@pytest.mark.parametrize('stop', range(1, 12))
@pytest.mark.parametrize('back', [1, 2, 3])
def test_a_film_strip_goes_on_as_if_nothing_had_been_drawn_after_the_state(tmp_path, stop, back):
    """Wherever the run was killed, and whether the strip was thinned out since the state or not."""
    undisturbed, disturbed = tmp_path / 'a.png', tmp_path / 'b.png'
    for value in range(20):
        append_row(PIL.Image.new('L', (3, 2), value), undisturbed, value * 10, max_rows=4)
    for value in [*range(stop), *range(max(stop - back, 0), 20)]:
        append_row(PIL.Image.new('L', (3, 2), value), disturbed, value * 10, max_rows=4)
        assert len(set(rows_of(disturbed))) == len(rows_of(disturbed))
    assert rows_of(disturbed) == rows_of(undisturbed)


@pytest.mark.parametrize('damage', [b'', b'\x89PNG\r\n', None])
def test_a_film_strip_that_is_damaged_begins_anew_with_a_word(tmp_path, capsys, damage):
    path = tmp_path / 'strip.png'
    if damage is None:
        PIL.Image.new('L', (5, 2)).save(path)           # Of another size.
    else:
        path.write_bytes(damage)
    append_row(PIL.Image.new('L', (3, 2), 7), path, 0)
    assert rows_of(path) == [7] and 'it begins anew' in capsys.readouterr().out


def test_a_film_strip_of_an_earlier_version_goes_on(tmp_path):
    path = tmp_path / 'strip.png'
    to_grid(np.float32([[[[1, 1, 1], [1, 1, 1]]], [[[2, 2, 2], [2, 2, 2]]]]), (0, 255), 1).save(path)
    append_row(PIL.Image.new('L', (3, 2), 7), path, 0)
    assert rows_of(path) == [1, 2, 7]


def test_a_picture_is_written_whole(tmp_path):
    save_picture(PIL.Image.new('L', (2, 2), 7), tmp_path / 'a.png')
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']
