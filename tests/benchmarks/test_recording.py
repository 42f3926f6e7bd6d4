"""benchmarks/recording.py: a command and its ticks, each at its time, without the folders of the machine."""
import json
import re
import xml.etree.ElementTree

from tiny import make_config

from benchmarks import recording

LOG = '''Training...
tick 0     kimg 0.0      time 2s           sec/tick 2.0     sec/kimg 500.0   maintenance 1.5
Saving /ward-7/x
tick 1     kimg 2.5      time 10s          sec/tick 6.0     sec/kimg 2.4     maintenance 0.5
'''


def test_every_line_comes_at_its_time(tmp_path):
    argv = ['--outdir=/ward-7/runs', '--data=/ward-7/a.zip', '--cfg=tiny'] * 3
    config = make_config('/ward-7/a.zip', run_dir='/ward-7/runs/0', argv=argv)
    (tmp_path / 'training_options.json').write_text(json.dumps(config))
    (tmp_path / 'log.txt').write_text(LOG)
    text = recording.svg(recording.lines_of_run(tmp_path))
    root = xml.etree.ElementTree.fromstring(text)
    lines = [element.text for element in root.iter('{http://www.w3.org/2000/svg}text')]
    assert lines[0].startswith('$ loss-zoo train --outdir=runs --data=a.zip --cfg=tiny') and 'ward-7' not in text
    assert [line.split()[1] for line in lines if line.startswith('tick')] == ['0', '1'] and 'script' not in text
    times = [float(time) for time in re.findall(r'keyTimes="0;([\d.]+);1"', text)]
    share = recording.SECONDS / (recording.SECONDS + recording.STILL)
    assert times[-2:] == [round(share * 2 / 8, 4), round(share, 4)] and times == sorted(times)
