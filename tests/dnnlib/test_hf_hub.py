"""Networks and data sets of the Hub, from a stand-in on this
machine: what is taken, what is refused, in one sentence."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('huggingface_hub', reason='huggingface_hub, the extra "hub", is not installed')
from hub_server import COMMIT, TOKEN, hub_on_this_machine  # noqa: E402

from dnnlib import hf_hub  # noqa: E402
from dnnlib.download import is_url, open_url  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(monkeypatch, tmp_path):
    with hub_on_this_machine(monkeypatch, tmp_path) as server:
        server.repos = {
            ('model', 'mia/cats'): {'README.md': b'# cats', 'net.safetensors': b'one', 'other.pkl': b'two'},
            ('model', 'mia/runs'): {f'network-snapshot-{kimg:06d}.safetensors': b'%d' % kimg for kimg in (9, 100, 20)},
            ('model', 'mia/two'): {'a.safetensors': b'a', 'b.safetensors': b'b'},
            ('model', 'mia/text'): {'README.md': b'#'},
            ('dataset', 'mia/faces'): {'data/train-0.parquet': b'p0', 'data/train-1.parquet': b'p1', 'test/0.parquet': b't',
                                       'photos.zip': b'z', 'x.py': b'evil'},
            ('dataset', 'mia/zips'): {'a.zip': b'a', 'b.zip': b'b'},
        }
        yield server


def read(path):
    with open(path, 'rb') as file:
        return file.read()


@pytest.mark.parametrize('address, parts', [
    ('hf://mia/cats', ('mia/cats', 'model', None, None)),
    ('hf://mia/cats/', ('mia/cats', 'model', None, None)),
    ('hf://mia/cats@v1', ('mia/cats', 'model', None, 'v1')),
    ('hf://mia/cats/nets/a.pkl@refs/pr/1', ('mia/cats', 'model', 'nets/a.pkl', 'refs/pr/1')),
    ('hf://mia/cats@v1/nets/a.pkl', ('mia/cats', 'model', 'nets/a.pkl', 'v1')),
    ('hf://datasets/mia/faces/data', ('mia/faces', 'dataset', 'data', None))])
def test_an_address_has_its_parts(address, parts):
    place = hf_hub.parse(address)
    assert (place.repo, place.kind, place.file, place.revision) == parts and is_url(address)


@pytest.mark.parametrize('address', ['hf://', 'hf://mia', 'hf://mia/cats/../x', 'hf://mia/cats@', 'hf://mia/cats@a/b.pkl@c',
                                     'hf://mia/cats/a\nb', 'hf://mia/ca ts', 'hf://datasets/mia', 'hf:///etc/passwd'])
def test_another_address_is_a_sentence(address):
    with pytest.raises(OSError, match='not an address on the Hub; they have the form hf://USER/REPO') as error:
        hf_hub.parse(address)
    assert str(error.value).isprintable()


@pytest.mark.parametrize('address, content', [
    ('hf://mia/cats', b'one'), ('hf://mia/cats@v1', b'one'), ('hf://mia/cats/other.pkl', b'two'),
    ('hf://mia/runs', b'100'),
    (f'hf://mia/cats@{COMMIT}', b'one')])
def test_a_network_is_downloaded_once(server, address, content):
    assert read(open_url(address, return_filename=True)) == content
    with open_url(address) as file:
        assert file.read() == content
    assert sum(method == 'GET' and '/resolve/' in path for method, path in server.requests) == 1


@pytest.mark.parametrize('address, says', [
    ('hf://mia/none', 'there is no such repository on http://127.0.0.1:.*, or it is private'),
    ('hf://mia/cats@v9', 'there is no revision v9'),
    ('hf://mia/cats/x.safetensors', 'no file x.safetensors in mia/cats; there are README.md, net.safetensors, other.pkl'),
    ('hf://mia/two', 'there are 2 .safetensors files in it; name one: hf://mia/two/a.safetensors, hf://mia/two/b.safetensors'),
    ('hf://mia/text', 'there is no .safetensors file in it; there are README.md')])
def test_what_is_not_there_is_one_sentence(server, address, says):
    with pytest.raises(OSError, match=says) as error:
        open_url(address)
    assert str(error.value).startswith(f'{address}: ') and '\n' not in str(error.value)


def test_private_and_gated_repositories_want_a_token(server, monkeypatch):
    server.private, server.gated = {'mia/cats'}, {'mia/runs'}
    with pytest.raises(OSError, match='it is private and no token that is known here opens it'):
        open_url('hf://mia/cats')
    with pytest.raises(OSError, match=f'wants terms to be accepted first, on {server.url}/mia/runs'):
        open_url('hf://mia/runs')
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    with open_url('hf://mia/cats') as file:
        assert file.read() == b'one'


def test_offline_what_was_downloaded_is_found(server, monkeypatch):
    open_url('hf://mia/cats').close()
    monkeypatch.setenv('DNNLIB_OFFLINE', '1')
    asked = len(server.requests)
    with open_url('hf://mia/cats') as file:
        assert file.read() == b'one'
    with pytest.raises(OSError, match='there is no file other.pkl downloaded before'):
        open_url('hf://mia/cats/other.pkl')
    with pytest.raises(OSError, match='not among what was downloaded before, and the network is not asked'):
        open_url('hf://mia/runs')
    with pytest.raises(OSError, match='told to be offline'):
        hf_hub.fetch_set('hf://datasets/mia/faces')
    assert len(server.requests) == asked


def test_a_hub_that_cannot_be_reached_is_one_sentence(server, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')
    with pytest.raises(OSError, match='http://127.0.0.1:9 cannot be reached .*DNNLIB_OFFLINE=1 uses what was downloaded'):
        open_url('hf://mia/cats')


def test_a_server_that_fails_is_one_sentence(server):
    server.status = 418
    with pytest.raises(OSError, match='hf://mia/cats: the server answers 418$'):
        open_url('hf://mia/cats')


def test_sizes_are_limited_before_anything_is_downloaded(server):
    server.claimed = {'net.safetensors': 1 << 40, 'data/train-0.parquet': 1 << 40}
    with pytest.raises(OSError, match='it has 1099511627776 bytes; at most 17179869184 are downloaded'):
        open_url('hf://mia/cats')
    with pytest.raises(OSError, match='at most 274877906944 are'):
        hf_hub.fetch_set('hf://datasets/mia/faces')
    assert not any('/resolve/' in path for _, path in server.requests)


def test_names_that_lead_elsewhere_are_not_taken(server):
    server.repos['model', 'mia/cats'] = {'../../net.safetensors': b'evil', '/etc/x.safetensors': b'evil'}
    with pytest.raises(OSError, match='there are none at all'):
        open_url('hf://mia/cats')


def test_a_data_set_is_its_files_and_no_others(server):
    import os
    folder = hf_hub.fetch_set('hf://datasets/mia/faces/data')
    found = {name for _, _, names in os.walk(folder) for name in names if not name.startswith('.')
             and not name.endswith('.metadata')}
    assert {name for name in found if not name.endswith(('.lock', '.TAG'))} == {'train-0.parquet', 'train-1.parquet'}
    assert read(os.path.join(folder, 'data/train-1.parquet')) == b'p1'
    assert read(hf_hub.fetch_set('hf://datasets/mia/faces/photos.zip')) == b'z'
    with pytest.raises(OSError, match='x.py is not what is wanted here: .parquet or .tar or .zip'):
        hf_hub.fetch_set('hf://datasets/mia/faces/x.py')
    with pytest.raises(OSError, match='there are 2 .zip files in it; name one: hf://datasets/mia/zips/a.zip'):
        hf_hub.fetch_set('hf://datasets/mia/zips')
    with pytest.raises(OSError, match='there is no file nowhere in mia/faces'):
        hf_hub.fetch_set('hf://datasets/mia/faces/nowhere')


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(OSError, match=r'hf://mia/cats: the Hub needs the extra "hub" \(pip install huggingface_hub\)'):
        open_url('hf://mia/cats')


@pytest.mark.parametrize('name, value', [('HF_ENDPOINT', 'http://[::1'), ('HF_HUB_DOWNLOAD_TIMEOUT', 'soon')])
def test_a_variable_that_the_package_cannot_use_is_named(name, value):
    code = 'from dnnlib.hf_hub import fetch; fetch("hf://mia/cats")'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, env={**os.environ, name: value},
                          capture_output=True, text=True)
    assert re.search(f'hf://mia/cats: huggingface_hub cannot use one of the variables .*{name}', done.stderr)
