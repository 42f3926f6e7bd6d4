"""Small files that strangers may have made: whatever stands in their place is one error, at once."""
import os
import tracemalloc

import pytest

from dnnlib.reading import read_file
from losses_ext.sites import arrival
from torch_utils.wire import certificates, record
from training.config.run_dirs import lost_progress
from training.run.health import CannotGoOn
from training.run.scores import SCORES_FILE, Scores
from training.run.status import StatsWriter

MAKERS = {
    'pipe': os.mkfifo,
    'folder': os.mkdir,
    'endless': lambda path: os.symlink('/dev/zero', path),
    'holes': lambda path: os.truncate(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), 2 ** 40)}

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='special files are those of POSIX')


@pytest.fixture(params=MAKERS)
def special(request, tmp_path):
    """Makes something that is no small file at a name in a folder, which is returned."""
    def make(name):
        MAKERS[request.param](tmp_path / name)
        return tmp_path
    return make


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / 'x').write_bytes(b'abc')
    assert read_file(tmp_path / 'x', 3) == b'abc'
    with pytest.raises(OSError, match='has more than 2 bytes'):
        read_file(tmp_path / 'x', 2)


def test_a_small_file_takes_no_memory_for_all_that_it_might_hold(tmp_path):
    """With a limit on memory there would be none."""
    (tmp_path / 'x').write_bytes(b'abc')
    tracemalloc.start()
    try:
        assert read_file(tmp_path / 'x', 2 ** 28) == b'abc'
        assert tracemalloc.get_traced_memory()[1] < 2 ** 20
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='there are no such files')
def test_a_file_that_does_not_know_its_size_is_read_whole():
    assert read_file('/proc/self/status', 2 ** 20).endswith(b'\n')


def test_what_is_no_small_file_is_refused(special):
    with pytest.raises(OSError):
        read_file(special('x') / 'x', 1000)


def test_a_record_is_of_files(special):
    with pytest.raises(OSError):
        list(record.read(special('message-000000000.bin')))


def test_scores_are_not_waited_for(special, capsys):
    assert Scores(special(SCORES_FILE)).scores == {} and 'cannot be read' in capsys.readouterr().out


def test_a_run_of_a_stranger_has_statistics_that_end(special):
    folder = special('stats.jsonl')
    assert lost_progress(folder, 8) is None
    with pytest.raises(CannotGoOn, match='stats.jsonl cannot be gone on with'):
        StatsWriter(folder, 3)


def test_certificates_are_files(special):
    with pytest.raises(certificates.CertificateError, match='authority.pem cannot be read'):
        certificates.load(special('authority.pem'))


def test_the_name_of_a_run_is_in_a_file(special):
    folder = special('sites-run')
    if (folder / 'sites-run').is_file():            # A damaged one begins anew.
        assert len(arrival.run_id(folder)) == 16
        return
    with pytest.raises(OSError, match='sites-run'):
        arrival.run_id(folder)


@pytest.mark.parametrize('entry', [dict(score=10 ** 400, metrics={}), dict(score=0, metrics=dict(fid=10 ** 400))])
def test_a_score_beyond_all_numbers_is_none(tmp_path, entry):
    import json
    (tmp_path / SCORES_FILE).write_text(json.dumps({'20': entry, '40': dict(score=1, metrics=dict(fid=1.0))}))
    found = Scores(tmp_path)
    assert found.scores == {40: 1} and found.metrics(20) == {}
