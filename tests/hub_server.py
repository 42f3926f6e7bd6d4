"""A stand-in for the Hugging Face Hub on this machine: repositories in memory, one commit each."""
import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from contextlib import contextmanager

COMMIT = 'c0ffee' * 6 + 'c0ff'
TOKEN = 'hf_of_the_test'


class HubServer(http.server.ThreadingHTTPServer):
    """repos: {(kind, 'user/repo'): {file: bytes}}. private,
    gated: names of repositories. requests: what was asked."""
    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.repos, self.private, self.gated, self.requests, self.claimed = {}, set(), set(), [], {}
        self.status = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f'http://127.0.0.1:{self.server_port}'


@contextmanager
def hub_on_this_machine(monkeypatch, tmp_path):
    """The package huggingface_hub talks to a stand-in, without
    a token, and keeps what it downloads in tmp_path."""
    import huggingface_hub.constants as constants
    server = HubServer()
    monkeypatch.setenv('HF_ENDPOINT', server.url)
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'token'))
    for name in ('DNNLIB_OFFLINE', 'HF_HUB_OFFLINE', 'HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = 'HTTP/1.1'

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.requests.append((self.command, path))
        if self.server.status:
            return self.reply(self.server.status)
        if match := re.fullmatch(r'/api/(model|dataset)s/([^/]+/[^/]+)(/revision/(.+))?', path):
            return self.with_repo(match[1], match[2], match[4], lambda files: self.json(self.info(match[2], files)))
        if match := re.fullmatch(r'/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path):
            kind = 'dataset' if match[1] else 'model'
            return self.with_repo(kind, match[2], match[3], lambda files: self.file(files, match[4]))
        return self.reply(404)

    do_HEAD = do_GET

    def do_POST(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        self.server.requests.append((self.command, path))
        if self.headers.get('Authorization') != f'Bearer {TOKEN}':
            return self.reply(401, {'error': 'Invalid username or password.'})
        if path == '/api/repos/create':
            asked = json.loads(body)
            name = '/'.join(filter(None, (asked.get('organization'), asked['name'])))
            known = ('model', name) in self.server.repos
            self.server.repos.setdefault(('model', name), {})
            if asked.get('private') or asked.get('visibility') == 'private':
                self.server.private.add(name)
            return self.json({'url': f'{self.server.url}/{name}'}, 409 if known else 200)
        repo = re.fullmatch(r'/api/models/([^/]+/[^/]+)/(preupload|commit)/main', path)
        if repo and repo[2] == 'preupload':
            files = [{'path': file['path'], 'uploadMode': 'regular', 'shouldIgnore': False} for file in json.loads(body)['files']]
            return self.json({'files': files})
        if repo:
            for line in body.decode().splitlines():
                row = json.loads(line)
                if row['key'] == 'file':
                    self.server.repos['model', repo[1]][row['value']['path']] = base64.b64decode(row['value']['content'])
            return self.json({'success': True, 'commitOid': COMMIT, 'commitUrl': f'{self.server.url}/{repo[1]}/commit/{COMMIT}'})
        if path == '/api/validate-yaml':
            return self.json({'errors': [], 'warnings': []})
        return self.reply(404)

    def with_repo(self, kind, name, revision, answer):
        files = self.server.repos.get((kind, name))
        allowed = self.headers.get('Authorization') == f'Bearer {TOKEN}'
        if name in self.server.gated and not allowed:
            return self.reply(403, {'error': 'Access is restricted'}, **{'X-Error-Code': 'GatedRepo'})
        if files is None or name in self.server.private and not allowed:
            return self.reply(401, {'error': 'Repository not found'}, **{'X-Error-Code': 'RepoNotFound'})
        if revision not in (None, 'main', 'v1', COMMIT):
            return self.reply(404, {'error': 'Invalid rev id'}, **{'X-Error-Code': 'RevisionNotFound'})
        return answer(files)

    def info(self, name, files):
        siblings = [{'rfilename': file, 'size': self.server.claimed.get(file, len(data)), 'blobId': 'b'}
                    for file, data in files.items()]
        return {'id': name, 'modelId': name, 'sha': COMMIT, 'private': name in self.server.private, 'siblings': siblings,
                'tags': [], 'downloads': 0, 'likes': 0}

    def file(self, files, name):
        if name not in files:
            return self.reply(404, {'error': 'Entry not found'}, **{'X-Error-Code': 'EntryNotFound', 'X-Repo-Commit': COMMIT})
        etag = hashlib.sha1(files[name]).hexdigest()
        return self.reply(200, files[name], **{'ETag': f'"{etag}"', 'X-Repo-Commit': COMMIT})

    def json(self, value, status=200):
        return self.reply(status, value)

    def reply(self, status, body=b'', **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, 'Content-Length': str(len(data))}.items():
            self.send_header(name, value)
        if not isinstance(body, bytes):
            self.send_header('Content-Type', 'application/json')
            if 'error' in body:
                self.send_header('X-Error-Message', body['error'])
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def log_message(self, *args):
        pass
