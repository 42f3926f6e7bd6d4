"""What a centre answers to whoever asks for moments of its features."""
import pytest

from metrics import images_elsewhere
from metrics.names import MetricError


def test_moments_of_some_images_are_refused_since_they_would_tell_the_rest():
    with pytest.raises(ValueError, match='fid50k looks at the first images alone'):
        images_elsewhere.moments_for(dict(metric='fid50k'), {}, 'cpu', 'unused')
    for name in ('kid50k_full', '\x1b[2J', None):
        with pytest.raises(ValueError, match='^moments are for Frechet distances$'):
            images_elsewhere.moments_for(dict(metric=name), {}, 'cpu', 'unused')


def test_names_of_files_stay_here_when_moments_cannot_be_calculated(monkeypatch, capsys):
    def missing(*args):
        raise MetricError('/home/ward-7/weights.pt is missing')

    monkeypatch.setattr(images_elsewhere, 'load_detector', missing)
    with pytest.raises(ValueError, match='it cannot calculate fid50k_full') as found:
        images_elsewhere.moments_for(dict(metric='fid50k_full'), {}, 'cpu', 'unused')
    assert 'ward-7' not in str(found.value) and 'ward-7' in capsys.readouterr().err
