"""Helpers without torch: attribute dictionaries, durations, names, the log file,
downloads and their cache."""
import errno
import hashlib
import http.server
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

import dnnlib
from dnnlib import download, util

ROOT = Path(__file__).parents[2]


def test_package_needs_neither_torch_nor_a_downloader_to_load():
    code = 'import sys, dnnlib; print(sorted({"torch", "requests", "numpy"} & set(sys.modules)))'
    assert subprocess.check_output([sys.executable, '-c', code], cwd=ROOT, text=True).strip() == '[]'


# Small things.


def test_easydict_entries_are_attributes():
    config = dnnlib.EasyDict(lr=1, name='a')
    config.lr += 1
    config.res = 64
    del config.name
    assert config == {'lr': 2, 'res': 64} and config.res == config['res'] == 64
    assert pickle.loads(pickle.dumps(config)) == config and not hasattr(config, 'name')
    with pytest.raises(AttributeError, match="no entry 'gamma'; there are 'lr', 'res'"):
        _ = config.gamma
    with pytest.raises(AttributeError, match="no entry 'gamma'"):
        del config.gamma


@pytest.mark.parametrize(('seconds', 'text'), [
    (0, '0s'), (0.5, '0s'), (1.5, '2s'), (59.4, '59s'), (59.6, '1m 00s'), (61, '1m 01s'),
    (3599.5, '1h 00m 00s'), (3600 + 5 * 60 + 9, '1h 05m 09s'), (86399, '23h 59m 59s'), (86400, '1d 00h 00m'),
    (12 * 86400 + 3 * 3600 + 4 * 60 + 59, '12d 03h 04m')])
def test_format_time(seconds, text):
    assert util.format_time(seconds) == text


@pytest.mark.parametrize(('obj', 'is_url', 'is_file_url'), [
    ('https://example.com/a.pkl', True, True), ('http://localhost:80/a', True, True),
    ('file:///tmp/a.pkl', False, True), ('/tmp/a.pkl', False, False), ('C:\\a.pkl', False, False),
    ('https:/example.com', False, False), ('https://', False, False), ('a/https://b', False, False),
    (None, False, False), (Path('a'), False, False)])
def test_is_url(obj, is_url, is_file_url):
    assert util.is_url(obj) is is_url
    assert util.is_url(obj, allow_file_urls=True) is is_file_url


def test_names_lead_to_objects():
    assert util.get_obj_by_name('os.path.join') is os.path.join
    assert util.get_obj_by_name('dnnlib.util.EasyDict.keys') is util.EasyDict.keys
    assert util.call_func_by_name(7, 3, func_name='builtins.divmod') == (2, 1)
    made = util.construct_class_by_name({'a': 1}, class_name='dnnlib.EasyDict', b=2)
    assert type(made) is dnnlib.EasyDict and made == {'a': 1, 'b': 2}


@pytest.mark.parametrize(('name', 'message'), [
    ('dnnlib.util.EasyDic', 'dnnlib.util.EasyDic: dnnlib.util has no EasyDic'),
    ('dnnlib.utils.EasyDict', 'dnnlib.utils.EasyDict: dnnlib has no utils.EasyDict'),
    ('no_such_module.Class', 'no_such_module.Class: there is no module of this name'),
    ('plain', 'plain: there is no module of this name')])
def test_wrong_name_is_said(name, message):
    with pytest.raises(ImportError) as error:
        util.get_obj_by_name(name)
    assert str(error.value) == message


def test_module_that_fails_to_import_says_what_it_lacks(tmp_path, monkeypatch):
    (tmp_path / 'lacking_module.py').write_text('import something_that_is_not_installed\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match='something_that_is_not_installed'):
        util.get_obj_by_name('lacking_module.Class')


# The log file.


def test_logger_copies_both_streams_at_once_and_appends(tmp_path, capsys):
    log = tmp_path / 'log.txt'
    log.write_text('before\n')
    stdout, stderr = sys.stdout, sys.stderr
    with util.Logger(log, file_mode='a') as logger:
        print('out')
        print('err: ä', file=sys.stderr)
        logger.write(b'bytes\n')
        assert log.read_text(encoding='utf-8') == 'before\nout\nerr: ä\nbytes\n'    # Flushed already.
        assert sys.stdout.isatty() is stdout.isatty()
    assert sys.stdout is stdout and sys.stderr is stderr
    print('after')
    assert log.read_text(encoding='utf-8') == 'before\nout\nerr: ä\nbytes\n'
    assert capsys.readouterr() == ('out\nerr: ä\nbytes\nafter\n', '')


def test_logger_without_flushing_and_with_mode_w(tmp_path):
    log = tmp_path / 'log.txt'
    log.write_text('before\n')
    with util.Logger(log, should_flush=False):
        print('out')
        assert log.read_text() == ''
    assert log.read_text() == 'out\n'


def test_logger_without_a_file_leads_stderr_into_stdout(capsys):
    with util.Logger():
        print('err', file=sys.stderr)
    assert capsys.readouterr() == ('err\n', '')


def test_nested_loggers_both_write_and_restore(tmp_path, capsys):
    with util.Logger(tmp_path / 'outer'):
        with util.Logger(tmp_path / 'inner'):
            print('a')
        print('b')
    assert (tmp_path / 'outer').read_text() == 'a\nb\n' and (tmp_path / 'inner').read_text() == 'a\n'
    assert capsys.readouterr().out == 'a\nb\n'


def test_logger_that_was_kept_writes_on_after_its_end(tmp_path, capsys):
    with util.Logger(tmp_path / 'log') as logger:
        pass
    print('late', file=logger)
    assert capsys.readouterr().out == 'late\n' and (tmp_path / 'log').read_text() == ''


def test_error_leaves_its_traceback_in_the_log(tmp_path, capsys):
    def fail():
        raise ValueError('no such luck')
    with pytest.raises(ValueError), util.Logger(tmp_path / 'log'):
        fail()
    text = (tmp_path / 'log').read_text()
    assert text.count('Traceback') == 1 and 'in fail' in text and text.endswith('ValueError: no such luck\n')
    assert capsys.readouterr().out == ''            # The interpreter prints it there.
    with pytest.raises(KeyboardInterrupt), util.Logger(tmp_path / 'log'):
        raise KeyboardInterrupt
    assert (tmp_path / 'log').read_text() == ''


# Downloads.


class Server(http.server.ThreadingHTTPServer):
    """Answers as told: a list of (status, headers, body) per path, the last one for ever;
    counts what it is asked."""

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.answers, self.asked = {}, []

    def url(self, path, *answers):
        self.answers[path] = list(answers)
        return f'http://127.0.0.1:{self.server_port}{path}'


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        answers = self.server.answers[self.path]
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in {'Content-Length': str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    util.set_cache_dir(None)
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setenv('NO_PROXY', '*')
    monkeypatch.delenv('DNNLIB_OFFLINE', raising=False)
    pauses = []
    monkeypatch.setattr(time, 'sleep', pauses.append)
    with Server() as server:
        server.pauses = pauses
        threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01}, daemon=True).start()
        yield server
        server.shutdown()


BODY = b'weights' * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()
GOOD = (200, {}, BODY)


def content(*args, **kwargs):
    with util.open_url(*args, verbose=False, **kwargs) as file:
        return file.read()


def cached_files(tmp_path):
    return sorted(path.name for path in (tmp_path / 'cache' / 'downloads').glob('*'))


def test_download_is_kept_under_its_checksum_and_url(server, tmp_path):
    url = server.url('/nets/a-b.pkl?v=1', GOOD)
    assert content(url) == content(url) == BODY
    assert server.asked == ['/nets/a-b.pkl?v=1']
    name = ''.join(char if char.isalnum() or char in '-._' else '_' for char in url)
    assert cached_files(tmp_path) == [f'{hashlib.md5(url.encode()).hexdigest()}_{name}']


def test_name_given_by_the_server_is_used_and_made_harmless(server, tmp_path):
    url = server.url('/get', (200, {'Content-Disposition': 'attachment; filename="../my net.pkl"'}, BODY))
    path = util.open_url(url, verbose=False, return_filename=True)
    assert path == str(tmp_path / 'cache' / 'downloads'
                       / f'{hashlib.md5(url.encode()).hexdigest()}_.._my_net.pkl')
    assert Path(path).read_bytes() == BODY


def test_cache_can_be_elsewhere_or_unused(server, tmp_path):
    url = server.url('/a', GOOD)
    assert content(url, cache=False) == BODY and not (tmp_path / 'cache').exists()
    assert content(url, cache_dir=str(tmp_path / 'other')) == BODY and len(list((tmp_path / 'other').iterdir())) == 1
    with pytest.raises(AssertionError, match='a file name needs the cache'):
        util.open_url(url, cache=False, return_filename=True)


def test_busy_server_is_tried_again_with_growing_pauses(server, capsys):
    url = server.url('/a', (503, {}, b'busy'), (429, {}, b'slow down'), GOOD)
    with util.open_url(url) as file:
        assert file.read() == BODY
    assert len(server.asked) == 3 and server.pauses == [1, 2]
    assert 'Attempt 2 of 10 failed (the server answers 429 Too Many Requests), next one in 2 s\n' \
        in capsys.readouterr().out


def test_attempts_end(server, tmp_path):
    url = server.url('/a', (500, {}, b''))
    with pytest.raises(OSError, match='/a could not be downloaded in 6 attempts: the server answers 500'):
        util.open_url(url, num_attempts=6, verbose=False)
    assert len(server.asked) == 6 and server.pauses == [1, 2, 4, 8, 8]
    assert cached_files(tmp_path) == []


def test_file_that_does_not_exist_is_asked_for_once(server, tmp_path):
    with pytest.raises(OSError, match='/a: the server answers 404 Not Found'):
        util.open_url(server.url('/a', (404, {}, b'')), verbose=False)
    assert len(server.asked) == 1 and cached_files(tmp_path) == []


def test_download_that_breaks_off_leaves_nothing_and_is_tried_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, 'CHUNK_BYTES', 1000)      # So that some of it has been written by then.
    broken = (200, {'Content-Length': str(len(BODY) * 3)}, BODY * 2)
    url = server.url('/a', broken, broken, GOOD)
    with pytest.raises(OSError, match='could not be downloaded in 1 attempts'):
        util.open_url(url, num_attempts=1, verbose=False)
    assert cached_files(tmp_path) == []
    assert content(url) == BODY and len(server.asked) == 3


class ShortResponse:
    """What requests gives for a connection that broke off where
    urllib3 (before version 2) does not notice."""
    status_code, headers = 200, {'Content-Length': '10'}

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    def iter_content(self, _chunk_bytes):
        yield b'1234567'


def test_missing_bytes_are_noticed(server, monkeypatch, tmp_path):
    monkeypatch.setattr(requests, 'get', lambda *_args, **_kwargs: ShortResponse())
    with pytest.raises(OSError, match='in 1 attempts: only 7 of 10 bytes came'):
        util.open_url('https://host/a', num_attempts=1, verbose=False)
    assert cached_files(tmp_path) == []


def test_unreachable_server_is_an_oserror(server):
    with http.server.HTTPServer(('127.0.0.1', 0), Handler) as unused:
        port = unused.server_port
    with pytest.raises(OSError, match='could not be downloaded in 2 attempts'):
        util.open_url(f'http://127.0.0.1:{port}/a', num_attempts=2, verbose=False)


def test_checksum_is_held_wherever_the_file_comes_from(server, tmp_path):
    url = server.url('/a', GOOD)
    local = tmp_path / 'local'
    local.write_bytes(BODY)
    with pytest.raises(OSError, match=f'/a: the SHA-256 of the content is {SHA256}, expected 00'):
        util.open_url(url, verbose=False, sha256='00')
    assert cached_files(tmp_path) == []
    assert content(url, sha256=SHA256.upper()) == content(url, sha256=SHA256) == content(local.as_uri(), sha256=SHA256)
    for source in (url, str(local)):
        with pytest.raises(OSError, match='expected 00; get another copy'):
            util.open_url(source, verbose=False, return_filename=True, sha256='00')
    with pytest.raises(OSError, match='the SHA-256'):
        util.open_url(url, verbose=False, cache=False, sha256='00')


def test_offline_only_the_cache_is_asked(server, monkeypatch):
    known, unknown = server.url('/known', GOOD), server.url('/unknown', GOOD)
    content(known)
    monkeypatch.setenv('DNNLIB_OFFLINE', '1')
    assert content(known) == BODY
    for cache in (True, False):
        with pytest.raises(OSError, match='/unknown is not in the cache and DNNLIB_OFFLINE is set'):
            util.open_url(unknown, cache=cache)
    assert server.asked == ['/known']
    monkeypatch.setenv('DNNLIB_OFFLINE', '0')
    assert content(unknown) == BODY


def test_two_cached_files_of_one_url_are_as_good_as_none(server, tmp_path):
    url = server.url('/a', GOOD)
    content(url)
    (tmp_path / 'cache' / 'downloads' / f'{hashlib.md5(url.encode()).hexdigest()}_second').write_bytes(b'?')
    assert content(url) == BODY and len(server.asked) == 2


def test_a_wrong_file_in_the_cache_is_replaced(server, tmp_path):
    url = server.url('/a', (200, {}, b'<html>Please log in</html>'),
                     (200, {'Content-Disposition': 'filename=b'}, BODY))
    content(url)
    assert content(url, sha256=SHA256) == BODY and len(server.asked) == 2
    assert content(url, sha256=SHA256) == BODY and len(server.asked) == 2 and len(cached_files(tmp_path)) == 1


def test_a_download_that_is_not_wanted_can_be_dropped(server, tmp_path):
    path = util.open_url(server.url('/a', GOOD), verbose=False, return_filename=True)
    other = tmp_path / Path(path).name
    other.write_bytes(b'')
    assert download.discard_download(path) and not Path(path).exists()
    assert not download.discard_download(other) and other.exists()


@pytest.mark.parametrize('headers', [{}, {'Content-Length': None}], ids=['declared', 'not declared'])
def test_a_download_ends_at_a_size(server, tmp_path, headers):
    url = server.url('/a', (200, headers, BODY))
    with pytest.raises(OSError,
                       match=r'/a has (7000|more than 6999) bytes, (at most 6999 are|which are the most)'):
        util.open_url(url, verbose=False, max_bytes=6999)
    assert cached_files(tmp_path) == [] and len(server.asked) == 1
    assert content(url, max_bytes=7000) == BODY


@pytest.mark.parametrize('limits', [dict(MAX_SEC=-1), dict(GRACE_SEC=-1, MIN_BYTES_PER_SEC=1e15)],
                         ids=['time', 'rate'])
def test_a_download_that_crawls_ends(server, tmp_path, monkeypatch, limits):
    for name, value in limits.items():
        monkeypatch.setattr(download, name, value)
    with pytest.raises(OSError, match='/a comes too slowly: 7000 bytes in 0 seconds'):
        util.open_url(server.url('/a', GOOD), verbose=False)
    assert cached_files(tmp_path) == []


@pytest.mark.parametrize('reason', [socket.gaierror(-3, 'Temporary failure'), OSError(errno.ENETUNREACH, 'unreachable')])
def test_without_a_network_nobody_waits_for_it(server, monkeypatch, reason):
    def get(*_args, **_kwargs):
        raise requests.ConnectionError('Max retries exceeded') from reason
    monkeypatch.setattr(requests, 'get', get)
    with pytest.raises(OSError,
                       match='https://host/a could not be downloaded: .*is the machine without a network'):
        util.open_url('https://host/a', verbose=False)
    assert server.pauses == []


@pytest.mark.parametrize('url', ['http://[::1', 'http://[::1/a', 'https://host:99999999/a', 'http://' + 'a' * 300, 'http://.'])
def test_addresses_that_are_none_are_a_sentence(server, url):
    assert util.is_url(url) is (not url.startswith('http://['))
    with pytest.raises(OSError, match='(not a valid address|could not be downloaded)') as caught:
        util.open_url(url, verbose=False)
    assert '\n' not in str(caught.value) and server.pauses == []


def test_local_files_are_opened_as_they_are(tmp_path):
    file = tmp_path / 'with space.pkl'
    file.write_bytes(BODY)
    assert content(str(file)) == content(file.as_uri()) == BODY
    for source in (str(file), file.as_uri()):
        assert util.open_url(source, return_filename=True) == str(file)
    with pytest.raises(FileNotFoundError):
        util.open_url(str(tmp_path / 'none'))
    with pytest.raises(OSError, match='ftp://host/a: only https, http, file and hf URLs can be opened'):
        util.open_url('ftp://host/a')


def test_cache_directory_is_the_first_known(monkeypatch):
    util.set_cache_dir(None)
    for name in ('DNNLIB_CACHE_DIR', 'HOME', 'USERPROFILE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr('tempfile.gettempdir', lambda: '/temp')
    assert util.make_cache_dir_path('a', 'b') == os.path.join('/temp', '.cache', 'dnnlib', 'a', 'b')
    for name, path in [('USERPROFILE', '/user'), ('HOME', '/home')]:
        monkeypatch.setenv(name, path)
        assert util.make_cache_dir_path() == os.path.join(path, '.cache', 'dnnlib')
    monkeypatch.setenv('DNNLIB_CACHE_DIR', '/env')
    assert util.make_cache_dir_path('a') == os.path.join('/env', 'a')
    util.set_cache_dir('/set')
    try:
        assert util.make_cache_dir_path('a') == os.path.join('/set', 'a')
    finally:
        util.set_cache_dir(None)
