"""WebDataset shards and Parquet files as sources: order, classes, what is passed over,
and what strangers put there."""
import io
import json
import os
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from dataset_files import noise, picture
from test_dataset_tool import convert, name_of, run  # noqa: F401

import dataset_tool
from training.data import shards
from training.data.importers import open_originals
from training.data.storage import DatasetError


def write_tar(path, members, mode='w'):
    """members: (name, bytes or a TarInfo)."""
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def image(seed):
    return picture(seed=seed)


@pytest.fixture
def samples(tmp_path):
    """Two shards of two samples each."""
    folder = tmp_path / 'shards'
    folder.mkdir()
    write_tar(folder / '000001.tar',
              [('c.png', image(2)), ('c.cls', b'1\n'), ('d.png', image(3)), ('d.cls', b'0')])
    write_tar(folder / '000000.tar',
              [('z/b.png', image(0)), ('z/b.json', b'{}'), ('z/b.cls', b'0'), ('a.cls', b'1'),
                                      ('a.png', image(1)), ('a.seg.png', image(9))])
    return folder


class TestTar:
    def test_samples_come_in_the_order_of_shards_with_their_classes(self, samples, convert):    # noqa: F811
        images, labels = convert(samples)
        assert [name for name, _ in labels['labels']] == [name_of(index) for index in range(4)]
        assert [label for _, label in labels['labels']] == [0, 1, 1, 0]
        for index in range(4):
            assert np.array_equal(images[name_of(index)], noise(seed=index))

    def test_one_shard_and_no_labels(self, samples, convert):       # noqa: F811
        images, labels = convert(samples / '000001.tar', '--labels-from=none')
        assert len(images) == 2 and labels['labels'] is None

    def test_what_is_no_picture_is_counted(self, samples):
        assert open_originals(samples).passed_over == (
            '2 files passed over: 1 further picture (of those in a .tar archive that are named alike up to the first '
            'dot the first counts), 1 .json')
        assert '4 images, nothing wrong' in run(f'--source={samples}', '--check')

    def test_links_and_devices_are_not_followed(self, tmp_path):
        link, device = tarfile.TarInfo('x.png'), tarfile.TarInfo('y.png')
        link.type, link.linkname, device.type = tarfile.SYMTYPE, '/etc/passwd', tarfile.CHRTYPE
        path = write_tar(tmp_path / 'a.tar', [('', link), ('', device), ('../../up.png', image(0))])
        found = open_originals(path)
        assert [item.name for item in found.items] == ['a.tar/../../up.png'] and list(tmp_path.iterdir()) == [path]
        assert found.passed_over == '2 files passed over: 1 archived link, 1 special file'

    def test_sizes_that_lie_are_one_bad_picture(self, tmp_path):
        path = write_tar(tmp_path / 'a.tar', [('a.png', image(0)), ('b.png', image(1))])
        whole = path.read_bytes()
        info = tarfile.TarInfo('big.png')
        info.size = 2 ** 33
        path.write_bytes(info.tobuf() + whole)
        with pytest.raises(OSError, match='8589934592 bytes are more than'):
            shards.bytes_at(path, next(shards.members_of(path)))
        info.size = 5000
        path.write_bytes(info.tobuf() + whole[:1000])
        with pytest.raises(DatasetError, match='unexpected end of data'):
            open_originals(path)
        path.write_bytes(info.tobuf() + whole)
        item, = open_originals(path).items
        path.write_bytes(info.tobuf() + whole[:1000])               # While it is being read.
        with pytest.raises(OSError, match='ends after 1000 of its 5000 bytes'):
            item.load()

    @pytest.mark.parametrize('make, says', [
        (lambda path: path.write_bytes(b'no archive' * 200),
         'not a readable .tar archive without compression'),
        (lambda path: write_tar(path, [('a.png', image(0))], 'w:gz'),
         'not a readable .tar archive without compression'),
        (lambda path: write_tar(path, [('a.txt', b'x')]), 'no pictures in it'),
        (lambda path: write_tar(path, [('a.png', image(0)), ('a.cls', b'cat')]),
         'a.cls is no class, a whole number'),
        (lambda path: write_tar(path, [('a.png', image(0)), ('a.cls', b'1' * 100)]), 'a.cls is no class'),
        (lambda path: write_tar(path, [('a.png', image(0)), ('a.cls', b'-1')]),
         'has class label -1; classes are numbered')])
    def test_what_does_not_do_is_one_sentence(self, tmp_path, make, says):
        make(tmp_path / 'a.tar')
        with pytest.raises(DatasetError, match=says):
            list(open_originals(tmp_path / 'a.tar').items)

    @pytest.mark.parametrize('kind, size, says', [
        (tarfile.REGTYPE, -512, 'a member of -512 bytes'),          # Would lead back to itself, for ever.
        (tarfile.XHDTYPE, 2 ** 60, 'its headers are damaged'), (tarfile.GNUTYPE_LONGNAME, 2 ** 60, 'its headers are damaged')])
    def test_headers_that_lie_are_one_sentence(self, tmp_path, kind, size, says):
        path = write_tar(tmp_path / 'a.tar', [('a.png', image(0))])
        header = bytearray(tarfile.TarInfo('b').tobuf(tarfile.GNU_FORMAT)[:512])
        header[124:136] = bytes([255 if size < 0 else 128]) + (size % 2 ** 88).to_bytes(11, 'big')
        header[156:157] = kind
        header[148:156] = b' ' * 8
        header[148:156] = b'%06o\0 ' % sum(header)
        path.write_bytes(header + path.read_bytes())
        with pytest.raises(DatasetError, match=f'{says}|not a readable .tar archive'):     # Python 3.14 looks for itself.
            list(open_originals(path).items)

    def test_a_chain_of_headers_is_one_sentence(self, tmp_path):
        info = tarfile.TarInfo('long')
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 512
        path = write_tar(tmp_path / 'a.tar', [('a.png', image(0))])
        path.write_bytes((info.tobuf(tarfile.GNU_FORMAT) + b'x'.ljust(512, b'\0')) * 3000 + path.read_bytes())
        with pytest.raises(DatasetError, match='its headers are damaged'):
            open_originals(path)

    @pytest.mark.parametrize('name', ['a.tar', 'a.parquet'])
    @pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes with names')
    def test_a_pipe_is_not_waited_for(self, tmp_path, name):
        if name == 'a.parquet':
            pytest.importorskip('pyarrow', reason='the extra parquet is not installed')
        os.mkfifo(tmp_path / name)
        done = subprocess.run([sys.executable, dataset_tool.__file__, f'--source={tmp_path}', '--check'],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and 'it is no regular file' in done.stderr

    @pytest.mark.parametrize('where', ['a.tar: x/dataset.json', 'dataset.json'])
    def test_a_label_file_is_not_passed_over_in_silence(self, tmp_path, where):
        members = [('x/a.png', image(0)), ('x/b.png', image(1))]
        content = b'{"labels": [["a.png", 0], ["b.png", 1]]}'
        if where == 'dataset.json':
            (tmp_path / where).write_bytes(content)
        else:
            members.append(('x/dataset.json', content))
        write_tar(tmp_path / 'a.tar', members)
        output = run(f'--source={tmp_path}', '--check', code=1)
        assert f'{where}: in .tar archives the label of a picture is a .cls file' in output
        assert 'nothing wrong' in run(f'--source={tmp_path}', '--check', '--labels-from=none')

    def test_classes_that_are_no_numbers_can_be_left_out(self, tmp_path):
        path = write_tar(tmp_path / 'a.tar', [('a.png', image(0)), ('a.cls', b'cat')])
        assert run(f'--source={path}', '--check', code=1).endswith('; --labels-from=none leaves the labels out\n')
        assert 'nothing wrong' in run(f'--source={path}', '--check', '--labels-from=none')

    def test_other_labels_are_not_there(self, samples):
        assert 'has no folders to take labels from' in run(f'--source={samples}', '--check', '--labels-from=folders', code=1)


class TestParquet:
    @pytest.fixture
    def write(self, tmp_path):
        pa = pytest.importorskip('pyarrow', reason='the extra parquet is not installed')
        import pyarrow.parquet

        def write(name, metadata=None, **columns):
            table = pa.table(columns).replace_schema_metadata(metadata)
            pyarrow.parquet.write_table(table, tmp_path / name, row_group_size=2)
            return tmp_path / name
        return write

    @staticmethod
    def cells(*seeds):
        return [dict(bytes=image(seed), path=f'{seed}.png') for seed in seeds]

    def test_rows_of_files_in_order_with_named_classes(self, write, tmp_path, convert):     # noqa: F811
        note = dict(info=dict(features=dict(label=dict(names=['cat', 'dog'], _type='ClassLabel'))))
        metadata = {'huggingface': json.dumps(note)}
        write('test-1.parquet', metadata, image=self.cells(3), label=[0])
        write('test-0.parquet', metadata, image=self.cells(0, 1, 2), label=[0, 1, 1])
        images, labels = convert(tmp_path, dest='out.zip')
        assert [label for _, label in labels['labels']] == [0, 1, 1, 0]
        assert all(np.array_equal(images[name_of(index)], noise(seed=index)) for index in range(4))
        assert open_originals(tmp_path / 'test-0.parquet').class_names == ['cat', 'dog']

    def test_bytes_alone_will_do_and_other_columns_are_not_looked_at(self, write):
        path = write('a.parquet', {'huggingface': '[' * 100_000}, jpg=[image(0), image(1)], label=['x', 'y'],
                     z=[[1], [2]])
        items = list(open_originals(path).items)
        assert [item.label for item in items] == [None, None] and np.array_equal(items[1].load(), noise(seed=1))

    def test_labels_of_another_name_are_mentioned(self, write):
        path = write('a.parquet', img=self.cells(0, 1), fine_label=[0, 1], Cls=[0, 1], width=[8, 8])
        assert ('labels are those of a column label, which is not there; there is fine_label, Cls, to be renamed '
                'if it is meant' in run(f'--source={path}', '--check'))
        assert open_originals(path, 'none').label_note is None

    def test_pictures_that_lie_elsewhere_are_bad_pictures(self, write):
        path = write('a.parquet', image=[dict(bytes=None, path='/etc/passwd'), *self.cells(0)])
        assert 'row 0: cannot be read (the row has no bytes' in run(f'--source={path}', '--check', code=1)

    def test_unlabelled_rows_can_be_had_without_labels(self, write):
        path = write('a.parquet', image=self.cells(0, 1), label=[-1, -1])
        assert 'has class label -1' in run(f'--source={path}', '--check', code=1)
        assert 'nothing wrong' in run(f'--source={path}', '--check', '--labels-from=none')

    def test_what_does_not_do_is_one_sentence(self, write, tmp_path):
        for columns, says in ((dict(a=[1]), 'has 0 columns of pictures; there must be one'),
                              (dict(a=[dict(bytes=5)]), 'has 0 columns of pictures'),
                              (dict(a=[dict(bytes='text')]), 'has 0 columns of pictures'),
                              (dict(a=self.cells(0), b=[b'x']), r'has 2 columns of pictures \(a, b\)')):
            with pytest.raises(DatasetError, match=says):
                open_originals(write('a.parquet', **columns))
        import pyarrow as pa
        with pytest.raises(DatasetError, match='a.parquet: no pictures in it, for it has no rows'):
            open_originals(write('a.parquet', image=pa.array([], pa.binary())))
        twice = pa.Table.from_arrays([pa.array([image(0)]), pa.array([1]), pa.array([2])], ['image', 'label', 'label'])
        pa.parquet.write_table(twice, tmp_path / 'a.parquet')
        with pytest.raises(DatasetError, match='a.parquet: has several columns of the name label'):
            open_originals(tmp_path / 'a.parquet')
        path = write('a.parquet', image=self.cells(0))
        write('b.parquet', picture=self.cells(0))
        with pytest.raises(DatasetError, match='b.parquet: its column image is not that of a.parquet'):
            open_originals(tmp_path)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DatasetError, match='not a readable Parquet file'):
            open_originals(path)
        (tmp_path / 'c.tar').write_bytes(b'')
        with pytest.raises(DatasetError, match='.tar and .parquet files'):
            open_originals(tmp_path)

    @pytest.mark.parametrize('seed', range(12))
    def test_a_damaged_file_is_one_sentence(self, write, seed):
        path = write('a.parquet', image=self.cells(0, 1, 2), label=[0, 1, 0])
        data, rng = bytearray(path.read_bytes()), np.random.RandomState(seed)
        for place in rng.randint(4, len(data) - 8, 20):
            data[place] = rng.randint(256)
        path.write_bytes(data)
        try:
            for item in open_originals(path).items:
                item.load()
        except OSError as error:
            assert '\n' not in str(error)

    def test_without_pyarrow_the_extra_is_named(self, write, monkeypatch):
        path = write('a.parquet', image=self.cells(0))
        monkeypatch.setitem(__import__('sys').modules, 'pyarrow.parquet', None)
        with pytest.raises(DatasetError, match=r'need the extra "parquet" \(pip install pyarrow\)'):
            open_originals(path)


def test_a_folder_with_pictures_is_a_folder_of_pictures(tmp_path):
    (tmp_path / 'a.png').write_bytes(image(0))
    write_tar(tmp_path / 'backup.tar', [('b.png', image(1))])
    found = open_originals(tmp_path)
    assert [item.name for item in found.items] == ['a.png'] and '1 .tar' in found.passed_over


class TestOfAnAttacker:
    @pytest.mark.parametrize('text', [b'1_0', b'0x1', b'1.0', '\u0661'.encode(), b'1 2', b''])
    def test_a_class_is_digits(self, tmp_path, text):
        write_tar(tmp_path / 'a.tar', [('a.png', image(0)), ('a.cls', text)])
        with pytest.raises(DatasetError, match='a.cls is no class, a whole number'):
            list(open_originals(tmp_path / 'a.tar').items)

    def test_nothing_controls_the_terminal(self, tmp_path):
        pa = pytest.importorskip('pyarrow', reason='pyarrow, the extra "parquet", is not installed')
        import pyarrow.parquet as pq
        pq.write_table(pa.table({'a\x1b[2J': [b'x'], 'b\x07': [b'y']}), tmp_path / 'a.parquet')
        write_tar(tmp_path / 'b.tar', [('a.png', image(0)), ('a\x1b[2J.png', b'no picture'), ('a.cls', b'1')])
        write_tar(tmp_path / 'c.tar', [('\x1b]0;title\x07.cls', b'x')])
        for name in ('a.parquet', 'b.tar', 'c.tar'):
            result = run('--source', tmp_path / name, '--check', code=1)
            assert '\x1b' not in result and '\x07' not in result and 'Error' in result, name

    @pytest.mark.parametrize('kind', ['dictionary', 'fixed', 'view'])
    def test_parquet_has_bytes_in_several_forms(self, tmp_path, kind):
        pa = pytest.importorskip('pyarrow', reason='pyarrow, the extra "parquet", is not installed')
        import pyarrow.parquet as pq
        data = [image(0), image(0)] if kind == 'fixed' else [image(0), image(1)]
        column = {'dictionary': lambda: pa.array(data, pa.binary()).dictionary_encode(),
                  'fixed': lambda: pa.array(data, pa.binary(len(data[0]))),
                  'view': lambda: pa.array(data, pa.binary_view())}[kind]()
        labels = pa.array([3, 1]).dictionary_encode() if kind == 'dictionary' else pa.array([3, 1])
        pq.write_table(pa.table({'image': column, 'label': labels}), tmp_path / 'a.parquet')
        items = list(open_originals(tmp_path / 'a.parquet').items)
        assert [item.label for item in items] == [3, 1]
        assert np.array_equal(items[0].load(), noise(seed=0))

    def test_labels_that_cannot_be_used_are_said(self, tmp_path):
        pa = pytest.importorskip('pyarrow', reason='pyarrow, the extra "parquet", is not installed')
        import pyarrow.parquet as pq
        pq.write_table(pa.table({'image': [image(0)], 'label': ['cat']}), tmp_path / 'a.parquet')
        assert open_originals(tmp_path / 'a.parquet').label_note == (
            'the column label holds string, not whole numbers, so that there are no labels')
        assert open_originals(tmp_path / 'a.parquet', 'none').label_note is None

    @pytest.mark.parametrize('name, does', [
        ('a.tar.gz', 'gunzip a.tar.gz'), ('a.TGZ', 'gunzip'), ('a.tar.zst', 'zstd -d a.tar.zst')])
    @pytest.mark.parametrize('beside', [[], ['b.tar']])
    def test_compressed_archives_are_refused_by_name(self, tmp_path, name, does, beside):
        folder = tmp_path / 'set'
        folder.mkdir()
        for each in (name, *beside):
            write_tar(folder / each, [('a.png', image(0))])
        for path in (folder, folder / name):
            with pytest.raises(DatasetError, match=f'{name}: pictures cannot be read here and there.*{does}'):
                open_originals(path)
