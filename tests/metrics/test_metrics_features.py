"""Random draws by image number, work shared out in order, images as they are, features in the cache."""
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_tools import TinyDetector, dataset_kwargs, image_sets, make_generator, read_images
from tiny import make_dataset

from metrics.features import FeatureOptions, feature_moments, feature_rows
from metrics.generator_inputs import DatasetLabels, GeneratorInputs, Labels, with_noise
from metrics.image_streams import DatasetImages, GeneratedImages, as_rgb, open_dataset, real_images, to_uint8
from metrics.metric_main import MetricOptions
from metrics.names import MetricError
from metrics.sharding import ahead, in_order
from training.dataset import ImageFolderDataset


def inputs_for(G, seed=0, sources=()):
    return GeneratorInputs(seed, G.z_dim, Labels(G.c_dim, sources))


def test_half_precision_is_for_cuda_only_as_in_generate():
    """The same images as of a network that is told to compute in float32,
    unless the caller says otherwise."""
    G = make_generator()
    G.synthesis.b16.use_fp16 = True
    half, single = (next(GeneratedImages(G, inputs_for(G), 4, G_kwargs=kwargs).batches([range(4)]))
                    for kwargs in ({'force_fp32': False}, {'force_fp32': True}))
    images = GeneratedImages(G, inputs_for(G), 4)
    assert images.G_kwargs == {'force_fp32': True} and not torch.equal(half, single)
    assert torch.equal(next(images.batches([range(4)])), single)
    assert GeneratedImages(make_generator(), inputs_for(G), 4).G_kwargs == {}


class TestGeneratorInputs:
    def test_an_image_gets_the_same_numbers_in_any_company(self):
        G = make_generator()
        inputs = inputs_for(G)
        z, c, t = inputs.latents(range(10), per_image=2)
        noise = inputs.noise(G, range(10))
        for i in (9, 3):
            z_i, c_i, t_i = inputs.latents([i], per_image=2)
            assert torch.equal(z_i[0], z[i]) and torch.equal(c_i[0], c[i]) and t_i[0] == t[i]
            assert all(torch.equal(n[0], noise[name][i]) for name, n in inputs.noise(G, [i]).items())
        assert not torch.equal(z, inputs_for(G, seed=1).latents(range(10), per_image=2)[0])

    def test_latents_are_independent_normal_numbers(self):
        z, _, t = GeneratorInputs(0, 8, Labels(0)).latents(range(4000))
        z = z[:, 0].numpy()
        assert abs(z.mean()) < 4 / 32000 ** 0.5 and z.std() == pytest.approx(1, abs=0.02)
        neighbours = np.corrcoef(np.concatenate([z[:-1], z[1:]], axis=1), rowvar=False) - np.eye(16)
        assert abs(neighbours).max() < 5 / 4000 ** 0.5
        assert t.mean() == pytest.approx(0.5, abs=0.02) and t.min() >= 0 and t.max() < 1

    def test_noise_is_normal_and_of_the_shape_of_the_buffers(self):
        G = make_generator()
        noise = inputs_for(G).noise(G.synthesis, range(50))
        assert {name: n.shape[1:] for name, n in noise.items()} == {
            name: (1, *buffer.shape) for name, buffer in G.synthesis.named_buffers()
            if name.endswith('noise_const')}
        values = torch.cat([n.flatten() for n in noise.values()])
        assert abs(values.mean()) < 0.02 and values.std() == pytest.approx(1, abs=0.02)

    def test_labels_are_those_of_random_images(self, tmp_path):
        dataset = open_dataset(dataset_kwargs(make_dataset(tmp_path / 'a.zip', num=10, num_classes=3),
                                              use_labels=True))
        inputs = GeneratorInputs(0, 2, Labels(3, [DatasetLabels(dataset)]))
        c = inputs.latents(range(2000))[1]
        assert torch.equal(c.sum(dim=1), torch.ones(2000))
        np.testing.assert_allclose(c.mean(dim=0), [0.4, 0.3, 0.3], atol=0.04)  # 4, 3 and 3 of the 10 images.

    def test_centres_are_drawn_by_size_and_marked_by_their_codes(self):
        small, large = np.array([[1.0, 0.0]] * 10), np.array([[0.0, 1.0]] * 30)
        c = GeneratorInputs(0, 2, Labels(4, [small, large], codes=[[1, 0], [0, 1]])).latents(range(2000))[1].numpy()
        assert {tuple(row) for row in c} == {(1, 0, 1, 0), (0, 1, 0, 1)}
        assert c[:, 3].mean() == pytest.approx(0.75, abs=0.03)

    def test_labels_that_do_not_fit_are_refused(self):
        with pytest.raises(MetricError, match='takes labels of width 3, the data set gives 2'):
            Labels(3, [np.zeros([5, 2])])
        with pytest.raises(MetricError, match='no data set'):
            Labels(3)
        assert Labels(0, [np.zeros([5, 2])]).sample(torch.Generator()).shape == (0,)

    def test_given_noise_replaces_the_buffers_per_image(self):
        G = make_generator()
        z, c = torch.randn(2, 8), torch.zeros(2, 0)
        own = {name: buffer.repeat(2, 1, 1, 1) for name, buffer in G.named_buffers()
               if name.endswith('noise_const')}
        torch.testing.assert_close(with_noise(G, own, z, c), G(z, c, noise_mode='const'))
        other = {name: noise * torch.tensor([1., -1]).reshape(2, 1, 1, 1) for name, noise in own.items()}
        image = with_noise(G, other, z, c)
        torch.testing.assert_close(image[0], G(z, c, noise_mode='const')[0])
        assert (image[1] - G(z, c, noise_mode='const')[1]).abs().max() > 0.01


class TestImages:
    def test_conversion_to_eight_bits(self):
        x = torch.tensor([-1.5, -1.0, -1 + 1 / 127.5, 0.0, 0.99, 1.0, 2.0])
        assert to_uint8(x).tolist() == [0, 0, 1, 128, 254, 255, 255]

    def test_a_subset_is_scored_against_the_whole_set_without_mirror_images(self, tmp_path):
        kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip'), max_size=5, xflip=True)
        assert DatasetImages(kwargs).num == 24
        assert DatasetImages(kwargs, keep_xflip=True).num == 48
        assert DatasetImages(kwargs, whole=False).num == 5

    def test_reals_of_an_evaluation_or_why_there_are_none(self, tmp_path):
        kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip'))
        images = real_images(MetricOptions(dataset_kwargs=kwargs, num_workers=0), 5)
        assert images.num == 5
        assert torch.equal(next(images.batches([range(5)])), DatasetImages(kwargs).pick(range(5)))
        for options, sentence in ((MetricOptions(), 'needs a data set'),
                                  (MetricOptions(centres={'a': (kwargs, [])}), 'one data set'),
                                  (MetricOptions(dataset_kwargs=object()), 'on other machines')):
            with pytest.raises(MetricError, match=sentence):
                real_images(options)

    def test_the_first_images_in_order(self, tmp_path):
        kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip'))
        images = DatasetImages(kwargs, max_num=7, num_workers=0)
        assert images.num == 7
        batches = torch.cat(list(images.batches([range(0, 4), range(4, 7)])))
        assert torch.equal(batches, read_images(kwargs)[0][:7])
        assert torch.equal(images.pick([5, 2]), batches[[5, 2]])

    def test_workers_give_the_same_images(self, tmp_path):
        kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip'))
        alone, helped = (torch.cat(list(DatasetImages(kwargs, num_workers=n).batches([range(0, 12), range(12, 24)])))
                         for n in (0, 2))
        assert torch.equal(alone, helped)

    def test_grey_images_get_three_equal_channels(self, tmp_path):
        kwargs = dataset_kwargs(make_dataset(tmp_path / 'a.zip', channels=1))
        batch, = DatasetImages(kwargs, num_workers=0).batches([range(3)])
        assert batch.shape == (3, 3, 16, 16) and torch.equal(batch[:, :1].repeat(1, 3, 1, 1), batch)
        assert torch.equal(as_rgb(batch), batch)

    @pytest.mark.parametrize('num_workers', [0, 1])
    def test_a_damaged_image_is_one_sentence(self, tmp_path, num_workers):
        path = make_dataset(tmp_path / 'a.zip', num=3)
        with zipfile.ZipFile(path, 'a') as archive:
            archive.writestr('img0003.png', b'no image')
        images = DatasetImages(dataset_kwargs(path), num_workers=num_workers)
        with pytest.raises(MetricError, match=r'^[^:\n]*a.zip: image img0003.png[^\n]*$'):
            list(images.batches([range(4)]))

    def test_a_folder_is_read_for_its_fingerprint_only_when_it_changed(self, tmp_path, monkeypatch):
        with zipfile.ZipFile(make_dataset(tmp_path / 'a.zip', num=4)) as archive:
            archive.extractall(tmp_path / 'a')
        kwargs, asked = dataset_kwargs(tmp_path / 'a'), []
        fingerprint = ImageFolderDataset.fingerprint
        monkeypatch.setattr(ImageFolderDataset, 'fingerprint',
                            lambda self: asked.append(1) or fingerprint(self))
        first = DatasetImages(kwargs).fingerprint()
        assert DatasetImages(kwargs).fingerprint() == first and len(asked) == 1
        os.rename(tmp_path / 'a' / 'img0000.png', tmp_path / 'a' / 'img0009.png')
        assert DatasetImages(kwargs).fingerprint() != first and len(asked) == 2

    def test_what_a_set_passes_over_does_not_matter_to_its_fingerprint(self, tmp_path):
        with zipfile.ZipFile(make_dataset(tmp_path / 'a.zip', num=4)) as archive:
            archive.extractall(tmp_path / 'a')
        first = DatasetImages(dataset_kwargs(tmp_path / 'a')).fingerprint()
        (tmp_path / 'a/gone.png').symlink_to('nowhere')
        (tmp_path / 'a/round.png').symlink_to('round.png')
        assert DatasetImages(dataset_kwargs(tmp_path / 'a')).fingerprint() == first

    def test_no_such_data_set(self, tmp_path):
        with pytest.raises(MetricError, match='gone.zip'):
            DatasetImages(dataset_kwargs(tmp_path / 'gone.zip'))

    def test_the_generator_is_called_as_told(self):
        G = make_generator()
        inputs = inputs_for(G)
        batch, = GeneratedImages(G, inputs, 6, batch_gen=6).batches([range(6)])
        z, c, _ = inputs.latents(range(6))
        assert torch.equal(batch, to_uint8(with_noise(G, inputs.noise(G, range(6)), z[:, 0], c)))
        truncated, = GeneratedImages(G, inputs, 6, G_kwargs={'truncation_psi': 0}).batches([range(6)])
        assert not torch.equal(batch, truncated)

    def test_images_that_are_no_numbers_are_refused(self):
        G = make_generator()
        with torch.no_grad():
            G.synthesis.b16.torgb.bias.fill_(float('nan'))
        with pytest.raises(MetricError, match='4 of 4 generated images have NaN'):
            list(GeneratedImages(G, inputs_for(G), 4).batches([range(4)]))


class TestInOrder:
    def test_the_progress_bar_is_for_terminals(self, capfd):
        list(in_order(10, 4, lambda batches: (torch.zeros(len(b)) for b in batches), 'features',
                      progress=True))
        assert capfd.readouterr().err == ''

    def test_results_come_in_order(self):
        def compute(batches):
            for batch in batches:
                yield torch.tensor(batch)
        parts = list(in_order(10, 4, compute))
        assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]

    def test_an_error_comes_through(self):
        def compute(batches):
            yield torch.zeros(4)
            raise MetricError('broken')
        with pytest.raises(MetricError, match='^broken$'):
            list(in_order(10, 4, compute))

    def test_ahead_keeps_items_and_errors(self):
        def items():
            yield from range(3)
            raise ValueError('end')
        iterator = ahead(items())
        assert [next(iterator) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match='end'):
            next(iterator)
        assert list(ahead([])) == []


class TestFeatures:
    @pytest.mark.parametrize('batch_size', [1, 5, 64])
    def test_batch_size_does_not_matter(self, tmp_path, batch_size):
        detector, kwargs = TinyDetector(), dataset_kwargs(make_dataset(tmp_path / 'a.zip'))
        G = make_generator()
        images, _ = read_images(kwargs)
        expected = detector(images, ['s4', 'pool'])
        options = FeatureOptions(batch_size=batch_size, cache=False)
        rows = feature_rows(DatasetImages(kwargs, num_workers=0), detector, ['s4', 'pool'], options)
        fakes = feature_rows(GeneratedImages(G, inputs_for(G), 10, batch_gen=3), detector, ['pool'], options)
        whole = feature_rows(GeneratedImages(G, inputs_for(G), 10, batch_gen=10), detector, ['pool'],
                             FeatureOptions(batch_size=10))
        for tap in ('s4', 'pool'):
            torch.testing.assert_close(rows[tap], expected[tap], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(fakes['pool'], whole['pool'], rtol=1e-4, atol=1e-4)

    def test_moments_are_those_of_the_features(self, tmp_path, monkeypatch):
        monkeypatch.setattr('metrics.features._MOMENTS_BLOCK', 7)
        detector, kwargs = TinyDetector(), dataset_kwargs(make_dataset(tmp_path / 'a.zip'))
        options = FeatureOptions(batch_size=5, cache=False)
        images = DatasetImages(kwargs, num_workers=0)
        moments = feature_moments(images, detector, ['s4', 'pool'], options)
        rows = feature_rows(images, detector, ['s4', 'pool'], options)
        for tap in ('s4', 'pool'):
            np.testing.assert_allclose(moments[tap].cov(), np.cov(rows[tap].double(), rowvar=False),
                                       rtol=1e-9)


class TestCache:
    @pytest.fixture
    def ask(self, tmp_path):
        """A function (image set, detector, ...) -> (rows, how many images the detector saw)."""
        def ask(kwargs, detector=None, taps=('pool',), kind=feature_rows, cache=True, **images):
            detector = detector or TinyDetector()
            options = FeatureOptions(cache=cache, cache_dir=str(tmp_path / 'cache'))
            result = kind(DatasetImages(kwargs, num_workers=0, **images), detector, taps, options)
            return result, detector.num_seen
        return ask

    def test_the_second_time_the_detector_is_not_asked(self, tmp_path, ask):
        kwargs, _ = image_sets(tmp_path)
        for kind in (feature_rows, feature_moments):
            first, seen = ask(kwargs, kind=kind)
            again, seen_again = ask(kwargs, kind=kind)
            assert (seen, seen_again) == (24, 0)
        assert torch.equal(first['pool'].cov(), again['pool'].cov())
        assert torch.equal(ask(kwargs)[0]['pool'], ask(kwargs, cache=False)[0]['pool'])

    def test_a_moved_set_is_found_and_a_changed_one_is_not(self, tmp_path, ask):
        kwargs, _ = image_sets(tmp_path)
        ask(kwargs)
        os.rename(kwargs['path'], tmp_path / 'moved.zip')
        assert ask(dataset_kwargs(tmp_path / 'moved.zip'))[1] == 0
        with zipfile.ZipFile(tmp_path / 'moved.zip') as old, zipfile.ZipFile(kwargs['path'], 'w') as new:
            for name in old.namelist():
                new.writestr(name, old.read('img0001.png' if name == 'img0000.png' else name))
        assert ask(kwargs)[1] == 24

    def test_everything_the_features_depend_on_is_told_apart(self, tmp_path, ask):
        kwargs, _ = image_sets(tmp_path)
        flipped = {**kwargs, 'xflip': True}
        ask(kwargs)
        assert ask(kwargs, taps=('s4',))[1] == 24
        assert ask(kwargs, kind=feature_moments)[1] == 24
        assert ask(kwargs, TinyDetector(seed=1))[1] == 24
        assert ask(kwargs, TinyDetector(name='other'))[1] == 24
        assert ask(kwargs, max_num=50_000)[1] == 24
        assert ask(flipped, keep_xflip=True)[1] == 48
        assert ask({**kwargs, 'max_size': 6}, whole=False)[1] == 6
        assert ask({**kwargs, 'max_size': 6, 'random_seed': 1}, whole=False)[1] == 6
        assert ask(flipped)[1] == 0 and ask({**kwargs, 'max_size': 6})[1] == 0  # The whole set, not mirrored.

    def test_a_damaged_entry_is_computed_again_and_replaced(self, tmp_path, ask, capsys):
        kwargs, _ = image_sets(tmp_path)
        expected, _ = ask(kwargs)
        entry, = Path(tmp_path / 'cache').iterdir()
        content = bytearray(entry.read_bytes())
        content[-1] ^= 1
        entry.write_bytes(content)
        result, seen = ask(kwargs)
        assert seen == 24 and torch.equal(result['pool'], expected['pool'])
        assert 'computed again' in capsys.readouterr().out
        assert ask(kwargs)[1] == 0

    def test_an_entry_says_what_it_is(self, tmp_path, ask):
        kwargs, _ = image_sets(tmp_path)
        ask(kwargs)
        entry, = Path(tmp_path / 'cache').iterdir()
        content = entry.read_bytes()
        header = json.loads(content[8:8 + int.from_bytes(content[:8], 'little')])
        document = json.loads(header['__metadata__']['document'])
        assert document['detector'] == 'efflite0' and document['taps'] == ['pool'] and document['kind'] == 'rows'

    def test_an_unwritable_cache_costs_a_line(self, tmp_path, capsys):
        kwargs, _ = image_sets(tmp_path)
        (tmp_path / 'file').write_text('')
        options = FeatureOptions(cache_dir=str(tmp_path / 'file' / 'cache'))
        assert len(feature_rows(DatasetImages(kwargs, num_workers=0), TinyDetector(), ['pool'], options)['pool']) == 24
        assert 'not cached' in capsys.readouterr().out

    def test_no_cache_leaves_nothing(self, tmp_path, ask):
        kwargs, _ = image_sets(tmp_path)
        ask(kwargs, cache=False)
        assert not (tmp_path / 'cache').exists()
