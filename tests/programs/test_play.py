"""`loss-zoo play`: its pictures, whom it answers, what it refuses, and that a browser shows it."""
import http.client
import io
import shutil
import socket
import struct
import subprocess
import threading

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from network_files import write_networks
from PIL import Image

import loss_zoo
from loss_zoo import command, play


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_networks(tmp_path_factory.mktemp('networks'))


@pytest.fixture(scope='module')
def server(folder):
    server = play.Server(play.Painter(loss_zoo.load(folder / 'run', device='cpu')))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server, path, method='GET', **headers):
    """(status, headers, body) of a request below the secret place."""
    connection = http.client.HTTPConnection('127.0.0.1', server.server_port, timeout=60)
    connection.request(method, path if path.startswith('//') else f'/{server.secret}/{path}', headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_pictures_are_those_of_the_network(server):
    net = server.painter.net
    status, headers, data = ask(server, 'picture.png?seed=3&psi=0.5')
    assert status == 200 and headers['Content-Type'] == 'image/png'
    assert np.array_equal(pixels(data), net.image([3], psi=0.5)[0])
    w = net.w([3], psi=0.5)
    w = torch.cat([w[:, :2], net.w([8], psi=0.5)[:, 2:]], dim=1)
    assert np.array_equal(pixels(ask(server, 'picture.png?seed=3&psi=0.5&other=8&layer=2')[2]), net.image(w=w)[0])
    moved = pixels(ask(server, 'picture.png?seed=3&psi=0.5&d0=2')[2])
    assert np.array_equal(moved, net.image(w=net.w([3], psi=0.5) + 2 * server.painter.directions[0])[0])
    assert not np.array_equal(moved, pixels(data))


def test_it_listens_to_this_machine_alone(server):
    assert server.server_address[0] == '127.0.0.1' and len(server.secret) > 20
    assert ask(server, '')[0] == 200


@pytest.mark.parametrize('headers', [
    {'Host': 'evil.example'}, {'Host': 'evil.example:80'}, {'Host': ''}, {'Origin': 'http://evil.example'}, {'Origin': 'null'},
    {'Origin': 'https://evil.example'}, {'Sec-Fetch-Site': 'cross-site'}, {'Sec-Fetch-Site': 'same-site'}])
def test_other_pages_and_other_names_are_refused(server, headers):
    assert ask(server, 'picture.png', **headers)[0] == 403


@pytest.mark.parametrize('path', [
    '//picture.png', '../', '../../etc/passwd', 'play.html', '%2e%2e/', 'picture.png/../play.py', '//', '//etc/passwd',
    'picture.png?' + 'x' * 2000])
def test_nothing_else_is_served(server, path):
    status, _, body = ask(server, path)
    assert status == 404 and body.startswith(b'Nothing is here')


@pytest.mark.parametrize('name, says', [
    ('empty', 'empty.npz is not an .npz file with an array "w"'),
    ('none', 'none.npz: "w" is empty'), ('gone', 'gone.npz cannot be read')])
def test_projected_pictures_that_are_none_are_one_sentence(folder, tmp_path, name, says):
    G = loss_zoo.load(folder / 'run', device='cpu').G
    (tmp_path / 'empty.npz').write_bytes(b'')
    np.savez(tmp_path / 'none.npz', w=np.zeros([0, G.num_ws, G.w_dim], np.float32))
    args = ['play', str(folder / 'run'), f'--projected-w={tmp_path / name}.npz', '--device=cpu']
    result = CliRunner().invoke(command.group, args)
    assert result.exit_code == 2 and result.output.count('Error: ') == 1
    assert says in ' '.join(result.output.split())


class Unable:
    """A painter whose device has no memory."""

    def png(self, asked):
        raise RuntimeError('out of memory\nand so on')


def test_a_request_that_fails_is_one_line_at_most(capfd):
    with play.Server(Unable()) as server:
        server.block_on_close, server.daemon_threads = True, False
        answers = []
        for path, gone in (('http://[', False), (f'/{server.secret}/picture.png', False), (f'/{server.secret}/x', True)):
            with socket.create_connection(server.server_address) as client:
                client.sendall(f'GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n'.encode())
                if gone:                        # The browser resets the connection.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                    client.close()
                server.handle_request()
                if not gone:
                    answers.append(client.makefile('rb').read())
    assert [answer.split()[1] for answer in answers] == [b'404', b'500'] and b'the terminal says why' in answers[1]
    assert capfd.readouterr().err == 'No picture: out of memory\n'


def test_a_browser_leaves_out_the_port_of_http(server, monkeypatch):
    monkeypatch.setattr(play.ThreadingHTTPServer, '__init__', lambda self, *_: setattr(self, 'server_port', 80))
    assert {'127.0.0.1', 'localhost:80'} <= play.Server(server.painter, 80).hosts and '127.0.0.1' not in server.hosts


@pytest.mark.parametrize('method', ['POST', 'PUT', 'DELETE', 'OPTIONS'])
def test_nothing_can_be_sent(server, method):
    assert ask(server, 'picture.png', method)[0] == 501


@pytest.mark.parametrize('query, says', [
    ('seed=x', 'seed must be a whole number'), ('seed=', 'seed must be a'),
    ('seed=-1', 'seed must be'), ('seed=1e9', 'a whole number'),
    ('seed=1_0', 'a whole number'), ('seed=%D9%A3', 'a whole number'), ('psi=1_0', 'psi must be a number'),
    ('psi=nan', 'psi must be'), ('psi=inf', 'psi must be'), ('layer=99', 'layer must be'),
    ('d0=1000', 'd0 must be'),
    ('class=0', 'there is no such parameter'), ('<script>=1', 'there is no such parameter'),
    ('seed=' + '9' * 900, 'seed must be')])
def test_what_does_not_do_is_one_sentence(server, query, says):
    status, headers, body = ask(server, f'picture.png?{query}')
    assert status == 400 and says in body.decode() and headers['Content-Type'] == 'text/plain' and b'script' not in body


def test_the_page_asks_for_nothing_from_elsewhere(server):
    _, headers, body = ask(server, '')
    assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(headers['Content-Security-Policy'].split('; '))
    assert headers['Cache-Control'] == 'no-store' and b'http' not in body
    assert body.count(b'type="range"') == 4 + play.NUM_DIRECTIONS


def test_classes_have_a_slider(folder):
    painter = play.Painter(loss_zoo.load(folder / 'grey.safetensors', device='cpu'))
    assert painter.ranges['class'] == ('[0, 2]', 0)
    assert pixels(painter.png({'class': '2'})).ndim == 2


def test_the_latent_can_be_saved_and_drawn_again(server, tmp_path):
    query = 'seed=3&psi=0.5&other=8&layer=2&d0=1'
    status, _, data = ask(server, f'latent.npz?{query}')
    with np.load(io.BytesIO(data)) as arrays:
        w = torch.from_numpy(arrays['w'])
    assert status == 200 and np.array_equal(server.painter.net.image(w=w)[0], pixels(ask(server, f'picture.png?{query}')[2]))


def test_a_video_walks_to_the_other_seed_and_back(server, monkeypatch):
    monkeypatch.setattr(play, 'WALK_FRAMES', 4)
    status, headers, data = ask(server, 'walk.webp?seed=3&psi=0.5&other=8')
    video = Image.open(io.BytesIO(data))
    assert (status, headers['Content-Type'], video.n_frames, video.info['loop']) == (200, 'image/webp', 4, 0)
    frames = []
    for number in range(4):
        video.seek(number)
        frames.append(np.asarray(video.convert('RGB')).astype(int))
    there = server.painter.net.image([8], psi=0.5)[0]
    assert np.abs(frames[2] - there).max() <= 1 and np.abs(frames[0] - server.painter.net.image([3], psi=0.5)[0]).max() <= 1
    assert ask(server, 'walk.webp?seed=x')[0] == 400 and ask(server, 'walk.gif')[0] == 404


def test_projected_pictures_are_drawn(folder):
    net = loss_zoo.load(folder / 'run', device='cpu')
    painter = play.Painter(net, net.w([5, 6]))
    assert np.array_equal(pixels(painter.png({'row': '1'})), net.image([6])[0])
    assert np.array_equal(pixels(painter.png({'row': '-1', 'psi': '1'})), net.image([0])[0])
    with pytest.raises(ValueError, match='row must be'):
        painter.png({'row': '2'})
    assert play.Server(painter).page().count('type="range"') == 5 + play.NUM_DIRECTIONS


DROPPED = '''<script nonce="NONCE">
const told = new DataTransfer(), where = picture.getBoundingClientRect();
told.setData('text/plain', '5');
picture.dispatchEvent(new DragEvent('drop', {dataTransfer: told, clientY: where.top + where.height / 2 + 1, bubbles: true}));
const at = document.querySelectorAll('.seed').length, wide = document.documentElement.scrollWidth <= innerWidth;
document.title = `${form.elements.other.value} ${form.elements.layer.value} ${at} ${wide}`;
</script>'''


@pytest.mark.parametrize('width', [1200, 500])
def test_a_seed_can_be_dragged_onto_the_picture(server, monkeypatch, width):
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if browser is None:
        pytest.skip('no chromium on this machine')
    page = server.page() + DROPPED.replace('NONCE', server.nonce)
    monkeypatch.setattr(server, 'page', lambda: page)
    dom = subprocess.run([browser, '--headless', '--no-sandbox', '--disable-gpu', f'--window-size={width},900', '--dump-dom',
                          '--virtual-time-budget=3000', server.address], capture_output=True, text=True, timeout=300).stdout
    num_ws = server.painter.net.G.num_ws
    assert f'<title>5 {num_ws // 2} {play.NUM_THUMBS} true</title>' in dom, dom[-300:]


@pytest.mark.parametrize('width', [1200, 500])
def test_a_browser_shows_it(server, width):
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if browser is None:
        pytest.skip('no chromium on this machine')
    dom = subprocess.run([browser, '--headless', '--no-sandbox', '--disable-gpu', f'--window-size={width},900', '--dump-dom',
                          '--virtual-time-budget=3000', server.address], capture_output=True, text=True, timeout=300).stdout
    assert 'src="picture.png?seed=0&amp;psi=0.7&amp;' in dom and '<p id="said" role="status"></p>' in dom


def test_what_is_no_network_is_one_sentence(tmp_path):
    result = CliRunner().invoke(command.group, ['play', str(tmp_path / 'none.pkl')])
    assert result.exit_code == 2 and 'none.pkl' in result.output
