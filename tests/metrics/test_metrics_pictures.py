"""The plot of a run, the sheet of nearest training images,
and the discriminator's view of held-out images."""
import json
import xml.etree.ElementTree as ET

import numpy as np
import PIL.Image
import pytest
import torch
from metric_tools import TinyDetector, dataset_kwargs, make_generator, read_images
from tiny import make_dataset

from metrics import plots
from metrics.generator_inputs import GeneratorInputs, Labels
from metrics.image_streams import GeneratedImages
from metrics.metric_main import MetricOptions
from metrics.names import MetricError
from metrics.nearest import nearest_sheet
from metrics.overfitting import held_out_items, overfitting_gap


class TestPlot:
    def write(self, folder, name, *records):
        with open(folder / f'metric-{name}.jsonl', 'w') as file:
            for record in records:
                if not isinstance(record, str):
                    kimg, results = record
                    record = {'results': results, 'snapshot_pkl': kimg and f'network-snapshot-{kimg}.pkl'}
                    record = json.dumps(record)
                file.write(record + '\n')

    def test_points_are_by_kimg_and_the_last_value_counts(self, tmp_path):
        self.write(tmp_path, 'a', ('000020', {'a': 2.0}), ('000010', {'a': 3.0}), ('000020', {'a': 1.0}))
        self.write(tmp_path, 'pr', ('000010', {'precision': 0.5, 'recall': 0.25}))
        assert plots.read_curves(str(tmp_path)) == {
            'a': [(10, 3.0), (20, 1.0)], 'precision': [(10, 0.5)], 'recall': [(10, 0.25)]}

    def test_what_is_no_result_is_passed_over(self, tmp_path):
        good = ('000001', {'a': float('nan'), 'b': 1.0})
        self.write(tmp_path, 'a', 'half a li', '[]', (None, {'a': 1.0}), good, '{}')
        assert plots.read_curves(str(tmp_path)) == {'b': [(1, 1.0)]}

    def test_the_picture_has_a_panel_per_value_and_points_in_place(self, tmp_path):
        self.write(tmp_path, 'a<b', ('000000', {'a<b': 0.0}), ('000005', {'a<b': 10.0}),
                   ('000010', {'a<b': 5.0}))
        self.write(tmp_path, 'c', ('000010', {'c': 7.0}))
        plots.plot_run(str(tmp_path))
        root = ET.parse(tmp_path / 'metrics.svg').getroot()
        ns = '{http://www.w3.org/2000/svg}'
        panels = root.findall(f'{ns}g')
        assert [panel.find(f'{ns}text').text for panel in panels] == ['a<b', 'c']
        xs, ys = np.array([(float(c.get('cx')), float(c.get('cy'))) for c in panels[0].findall(f'{ns}circle')]).T
        assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
        assert ys[1] < ys[2] < ys[0] and ys[0] - ys[2] == pytest.approx(ys[2] - ys[1], abs=0.2)
        assert not list(tmp_path.glob('*.tmp'))

    def test_no_results_no_picture(self, tmp_path):
        plots.plot_run(str(tmp_path))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(('low', 'high', 'expected'), [
        (0, 10, [0, 2, 4, 6, 8, 10]), (3, 3, [3, 4]), (0, 0, [0, 1]), (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (101, 119, [100, 105, 110, 115, 120])])
    def test_ticks_are_round_and_span_the_values(self, low, high, expected):
        ticks = plots.ticks(low, high)
        assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 8
        if low != high:
            assert ticks == pytest.approx(expected)


class TestNearest:
    def options(self, tmp_path, G, **changes):
        kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip'), **changes)
        return MetricOptions(G=G, dataset_kwargs=kwargs, detector=TinyDetector(), num_workers=0, cache=False)

    def test_neighbours_and_sheet(self, tmp_path):
        G = make_generator()
        options = self.options(tmp_path, G)
        found = nearest_sheet(tmp_path / 'sheet.png', options, num=3, k=2)
        images, _ = read_images(options.dataset_kwargs)
        fakes, = GeneratedImages(G, GeneratorInputs(0, 8, Labels(0)), 3).batches([range(3)])
        real, fake = (TinyDetector()(x, ['pool'])['pool'].double().numpy() for x in (images, fakes))
        table = np.linalg.norm(fake[:, None] - real, axis=2)
        assert found.indices == np.argsort(table, axis=1)[:, :2].tolist()
        among = np.linalg.norm(real[:, None] - real, axis=2) + 1e9 * np.eye(24)
        assert found.typical_distance == pytest.approx(torch.from_numpy(among.min(axis=1)).median().item(),
                                                       rel=1e-6)
        assert found.ratios == pytest.approx((table.min(axis=1) / found.typical_distance).tolist(), rel=1e-6)

        sheet = np.asarray(PIL.Image.open(tmp_path / 'sheet.png'))
        assert sheet.shape == (48, 16 + 4 + 32, 3)
        np.testing.assert_array_equal(sheet[16:32, :16], fakes[1].permute(1, 2, 0))
        np.testing.assert_array_equal(sheet[16:32, 20:36], images[found.indices[1][0]].permute(1, 2, 0))

    def test_only_training_images_are_neighbours(self, tmp_path):
        options = self.options(tmp_path, make_generator(), max_size=4)
        found = nearest_sheet(tmp_path / 'sheet.png', options, num=3, k=4)
        assert all(sorted(row) == [0, 1, 2, 3] for row in found.indices)
        with pytest.raises(MetricError, match='a has 4 training images'):
            nearest_sheet(tmp_path / 'sheet.png', options, num=3, k=5)

    def test_a_copy_is_at_distance_zero(self, tmp_path):
        class Copier(torch.nn.Module):
            z_dim, c_dim, img_resolution, img_channels = 8, 0, 16, 3

            def forward(self, z, c):
                return (images[5:6].repeat(len(z), 1, 1, 1).float() - 127.5) / 127.5
        options = self.options(tmp_path, Copier())
        images, _ = read_images(options.dataset_kwargs)
        found = nearest_sheet(tmp_path / 'sheet.png', options, num=2, k=1)
        assert found.indices == [[5], [5]] and max(found.ratios) < 0.05


class Brightness(torch.nn.Module):
    """Scores an image by its mean in -1..1, and a batch by what it is."""

    def forward(self, img, c):
        return img.mean(dim=(1, 2, 3))[:, None]


class TestOverfitting:
    def test_the_gap_is_the_difference_of_means(self, tmp_path):
        train, rest = (dataset_kwargs(make_dataset(tmp_path / f'{num}.zip', num=num, seed=num))
                       for num in (24, 19))
        G = make_generator()
        result = overfitting_gap(Brightness(), train, rest, G, batch_size=6)    # 18 of each.
        assert set(result) == {'train', 'held_out', 'gap', 'gap_std_err', 'generated', 'r_v'}
        whole = [(read_images(kwargs)[0].float() / 127.5 - 1).mean(dim=(1, 2, 3)) for kwargs in (train, rest)]
        for name, means in zip(('train', 'held_out'), whole):
            assert result[name] == pytest.approx(float(means.mean()), abs=3 * float(means.std()) / 18 ** 0.5)
        assert result['gap'] == pytest.approx(result['train'] - result['held_out'])
        assert result['r_v'] == pytest.approx(result['gap'] / (result['train'] - result['generated']))
        assert 0 < result['gap_std_err'] < 0.2
        assert overfitting_gap(Brightness(), train, rest, G, batch_size=6) == result

    def test_images_that_a_subset_left_out_are_held_out(self, tmp_path):
        kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip'), max_size=16, random_seed=3, xflip=True)
        whole, rest = held_out_items(kwargs)
        trained = read_images({**kwargs, 'xflip': False})[0]
        held_out = torch.stack([torch.from_numpy(whole[i][0]) for i in rest])
        assert len(rest) == 8
        together = {image.numpy().tobytes() for image in torch.cat([trained, held_out])}
        assert len(together) == 24

    def test_a_memoriser_shows(self, tmp_path):
        kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip'), max_size=12)
        seen = {image.numpy().tobytes() for image in read_images(kwargs)[0]}

        class Memory(torch.nn.Module):
            def forward(self, img, c):
                images = (img * 127.5 + 127.5).round().to(torch.uint8)
                return torch.tensor([[1.0 if image.numpy().tobytes() in seen else -1.0] for image in images])
        result = overfitting_gap(Memory(), kwargs, G=make_generator(), batch_size=4)
        assert result == {'train': 1, 'held_out': -1, 'gap': 2, 'gap_std_err': 0, 'generated': -1, 'r_v': 1}

    def test_a_dead_discriminator_has_no_ratio(self, tmp_path):
        class Dead(torch.nn.Module):
            def forward(self, img, c):
                return torch.zeros(len(img), 1)
        kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip'), max_size=12)
        result = overfitting_gap(Dead(), kwargs, G=make_generator(), batch_size=4)
        assert result['gap'] == 0 and np.isnan(result['r_v'])

    def test_conditional_networks_get_labels(self, tmp_path):
        kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip', num_classes=3), use_labels=True, max_size=12)

        class Labelled(torch.nn.Module):
            def forward(self, img, c):
                return c @ torch.tensor([[0.0], [10], [20]])
        result = overfitting_gap(Labelled(), kwargs, G=make_generator(c_dim=3), batch_size=4)
        labels = read_images(kwargs)[1]
        assert result['train'] == pytest.approx(float((labels @ [0, 10, 20]).mean()))
        assert 0 < result['generated'] < 20

    def test_nothing_held_out_or_too_little_is_refused(self, tmp_path):
        kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip'))
        with pytest.raises(MetricError, match='saw all 24 images, none is held out'):
            overfitting_gap(Brightness(), kwargs)
        with pytest.raises(MetricError, match='20 training and 4 held-out images do not fill a batch of 32'):
            overfitting_gap(Brightness(), {**kwargs, 'max_size': 20})
