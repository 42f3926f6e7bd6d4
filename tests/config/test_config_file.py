"""`train.py --config=FILE`, docs/options.md, and `config_of`: options that nobody typed."""
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tiny import make_dataset

import train
from training.config import options_page
from training.config.config_file import options_in, with_file
from training.config.options import parse_args

ROOT = Path(__file__).parents[2]
TOML = '''
cfg = "tiny"
batch-gpu = 8               # Dashes or underscores.
reg_type = ["ggdr", "lecam"]
mirror = true
DiffAugment = "color"
p = 1
new = true
override = false
'''
SAID = dict(cfg='tiny', batch_gpu=8, reg_type='ggdr,lecam', mirror=True, diffaugment='color', p=1.0, new=True)


def write(path, text):
    path.write_text(text, encoding='utf-8')
    return str(path)


@pytest.mark.parametrize('name, text', [
    ('a.toml', TOML),
    ('a.json', json.dumps({'cfg': 'tiny', 'batch_gpu': 8, 'reg-type': 'ggdr,lecam', 'mirror': 'yes', 'diffaugment': 'color',
                           'p': '1.0', 'new': True, 'override': False})),
    ('a.json', json.dumps({'command': SAID, 'kimg': 7, 'G_kwargs': {}})),
    ('a.yaml', 'cfg: tiny\nbatch-gpu: 8\nreg_type: [ggdr, lecam]\nmirror: yes\nDiffAugment: color\np: 1\nnew: true\n')])
def test_a_file_says_what_a_command_line_would(tmp_path, name, text):
    params = parse_args(['--cfg=tiny', '--batch-gpu=8', '--reg_type=ggdr,lecam', '--mirror=1', '--p=1', '--DiffAugment=color',
                         '--new'])
    found = options_in(write(tmp_path / name, text))
    assert found == SAID == {key: value for key, value in params.items() if value not in (None, False)}
    assert [type(value) for value in found.values()] == [type(SAID[key]) for key in found]


def test_what_is_typed_wins(tmp_path):
    path = write(tmp_path / 'a.toml', 'kimg = 5\nbatch = 8')
    assert with_file(dict(config=path, kimg=9)) == dict(kimg=9, batch=8) and with_file(dict(kimg=9)) == dict(kimg=9)


def test_a_run_from_a_file_is_the_run_from_a_command_line(tmp_path):
    """The same configuration, name and record; the file may
    then be gone. The directory of a run will do as well."""
    data = make_dataset(tmp_path / 'plain.zip', num=16)
    path = write(tmp_path / 'a.toml', f'data = "{data}"\ncfg = "tiny"\ntick = 0.5\noutdir = "{tmp_path}/runs"')
    args = [f'--data={data}', '--cfg=tiny', '--tick=0.5']
    configs = []
    for command in ([f'--config={path}'], [f'--outdir={tmp_path}/runs', *args]):
        result = CliRunner().invoke(train.main, [*command, '-n'])
        assert result.exit_code == 0, result.output
        configs.append(json.loads(result.output[result.output.index('{'):result.output.rindex('}') + 1]))
    assert configs[0] == configs[1] and configs[0]['argv'] == [f'--outdir={tmp_path}/runs', *args]
    write(tmp_path / 'training_options.json', json.dumps(configs[0]))
    assert train.config_from_args([f'--config={tmp_path}', '--kimg=3']) == train.config_of(
        dict(data=data, cfg='tiny', tick=0.5, kimg=3))


# Lists, each nine times in the next.
GROWING = 'kimg:\n- &a [x]\n' + '\n'.join(
    f'- &{b} [{", ".join([f"*{a}"] * 9)}]' for a, b in zip('abcdefgh', 'bcdefghi'))


@pytest.mark.parametrize('name, text, sentence', [
    ('a.toml', 'kmig = 5', 'a.toml: kmig: there is no such option; kimg is one'),
    ('a.toml', 'total_kimg = 5', 'a.toml: total_kimg: there is no such option'),
    ('a.toml', 'config = "b.toml"', 'a.toml: config: there is no such option'),
    ('a.toml', 'kimg = 0', 'a.toml: kimg: must be at least 1, not 0'),
    ('a.toml', 'kimg = 1.5', 'a.toml: kimg: must be a whole number, at least 1, not 1.5'),
    ('a.toml', 'gamma = nan', 'a.toml: gamma: must be a number, at least 0, not nan'),
    ('a.toml', 'kimg = true', 'a.toml: kimg: true is no value of this option'),
    ('a.toml', 'mirror = 3.5', 'a.toml: mirror: 3.5 is no value of this option'),
    ('a.toml', 'mirror = "maybe"', "a.toml: mirror: 'maybe' is not a valid boolean"),
    ('a.toml', 'cfg = "huge"', "a.toml: cfg: 'huge' is not one of"),
    ('a.toml', 'cfg = ["tiny"]', 'a.toml: cfg: ["tiny"] is no value of this option'),
    ('a.toml', 'log = [1]', 'a.toml: log: must be a list of texts'),
    ('a.toml', 'batch_gpu = 4\nbatch-gpu = 4', 'a.toml: batch-gpu: this option stands there twice'),
    ('a.toml', '[train]\nkimg = 5', 'a.toml: train: there is no such option'),
    ('a.toml', '[kimg]\nx = 5', 'a.toml: kimg: {"x": 5} is no value of this option'),
    ('a.toml', 'kimg = 2026-01-01', 'a.toml: kimg: "2026-01-01" is no value of this option'),
    ('a.toml', 'kimg = = 5', 'a.toml: cannot be read: Invalid value'),
    ('a.json', '[1]', 'a.json holds no table of options'),
    ('a.json', '{"kimg": ' + '9' * 6000 + '}', 'a.json: cannot be read'),
    ('a.json', '[' * 100_000, 'a.json: cannot be read'),
    ('a.json', '{"num_gpus": 1, "training_set_kwargs": {}}', 'a.json: num_gpus: there is no such option'),
    ('a.toml', 'kimg = 0x' + 'f' * 20_000, 'a.toml: kimg: must be a whole number, at least 1, not inf'),
    ('a.toml', 'mirror = 0x' + 'f' * 20_000, 'a.toml: mirror: Infinity is no value of this option'),
    ('a.json', '{"data": "\\ud800"}', 'a.json: data: has a character that no name has'),
    ('a.json', '{"kimg": 3, "kimg": 4}', "a.json: cannot be read: 'kimg' stands there twice"),
    ('a.yaml', 'kimg: 3\nkimg: 4', "a.yaml: cannot be read: 'kimg' stands there twice"),
    ('a.yaml', 'kimg: 0x' + 'f' * 900, 'a.yaml: kimg: must be a whole number, at least 1, not inf'),
    ('a.yaml', '? 0x' + 'f' * 900 + '\n: 3', 'a.yaml: inf is no name of an option'),
    ('a.yaml', 'kimg: &a [*a]', 'a.yaml: kimg: [[["..."]]] is no value of this option'),
    ('a.yaml', 'kimg: &a {x: *a}', 'a.yaml: kimg: {"x": {"x": {"x": "..."}}} is no value of this option'),
    ('a.yaml', GROWING, 'a.yaml: kimg: [["x"], [["x"], ["x"], ["x"], ["x"], ["x"]], [["...", "'),
    ('a.yaml', 'a: [', 'a.yaml: cannot be read'),
    ('a.txt', 'kimg=5', 'a.txt: must be a file named .toml, .json, .yaml, .yml, or the directory of a run')])
def test_what_is_wrong_in_a_file_is_one_sentence_with_its_name_and_the_key(tmp_path, name, text, sentence):
    path = write(tmp_path / name, text)
    with pytest.raises(click.UsageError) as error:
        options_in(path)
    assert f'{tmp_path}/{sentence}' in error.value.message and '\n' not in error.value.message


def test_a_value_without_an_end_is_told_by_its_beginning(tmp_path):
    with pytest.raises(click.UsageError) as error:
        options_in(write(tmp_path / 'a.toml', f'precision = "{"x" * 5000}"'))
    assert f"a.toml: precision: '{'x' * 40}...' is not one of" in str(error.value) and len(str(error.value)) < 500


def test_yaml_may_take_over_a_table_and_change_some_of_it(tmp_path):
    path = write(tmp_path / 'a.yaml', '<<: {kimg: 3, cfg: tiny}\nkimg: 4')
    assert options_in(path) == dict(kimg=4, cfg='tiny')


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / 'b.toml').mkdir()
    for path in ('nowhere.toml', tmp_path, tmp_path / 'b.toml'):
        result = CliRunner().invoke(train.main, [f'--config={path}', '--outdir=runs'])
        assert result.exit_code == 2 and f'--config={path}' in result.output


def test_without_its_package_yaml_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'yaml', None)
    with pytest.raises(click.UsageError, match='YAML needs the package PyYAML'):
        options_in(write(tmp_path / 'a.yml', 'kimg: 3'))


def test_an_option_that_there_is_not_is_refused_by_its_name():
    with pytest.raises(click.UsageError, match='there is no option total_kimg'):
        train.config_of(dict(data='x', total_kimg=3))


def test_the_page_of_all_options_is_up_to_date():
    """Made by `python -m training.config.options_page > docs/options.md`, without torch."""
    assert (ROOT / 'docs/options.md').read_text(encoding='utf-8') == options_page.page()
    code = 'import sys, training.config.options_page; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0


def test_the_page_has_every_option_and_every_entry():
    text = options_page.page()
    for words in ('`--kimg` | a whole number, at least 1 | by --cfg |', '| `kimg` | a number, more than 0 | kimg | yes |',
                  '`--lecam_weight`', '| `keep.newest` |', '`-n`, `--dry-run`', '`total_kimg` (now `kimg`)'):
        assert words in text
