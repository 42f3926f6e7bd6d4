"""What `train.py` says about labels before a run, and the order of
classes of runs that began in another one."""
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from dataset_files import picture, write_set
from tiny import make_dataset

import train
from training.data.listing import image_names
from training.data.storage import open_files
from training.dataset import ImageFolderDataset

NUMBERED = ['--labels-from=folders', '--cond=1']


@pytest.fixture
def numbered(tmp_path):
    """A set whose subfolders are called 0 to 10."""
    return write_set(tmp_path / 'numbered', {f'{i}/0.png': picture(seed=i) for i in range(11)})


def dry_run(outdir, *args):
    command = ['-n', f'--outdir={outdir}', '--cfg=tiny', '--batch=4', '--device=cpu', *map(str, args)]
    result = CliRunner().invoke(train.main, command)
    assert result.exit_code == 0, result.output
    return result.output


def config_in(output):
    return json.loads(output[output.index('{'):output.rindex('}') + 1])


def test_the_classes_are_listed_before_a_run(tmp_path):
    output = dry_run(tmp_path / 'runs', '--data=' + make_dataset(tmp_path / 'set.zip', num=25, num_classes=2),
                     '--cond=1')
    assert 'Labels:             2 classes\n    class  images\n        0      13\n        1      12\n' in output


def test_labels_that_are_not_used_are_mentioned(tmp_path, numbered):
    data = make_dataset(tmp_path / 'set.zip', num=24, num_classes=2)
    words = 'Conditional model:  False (the data set has labels, {}, which are not used; --cond=1 learns them)\n'
    assert words.format('2 classes') in dry_run(tmp_path / 'runs', f'--data={data}')
    assert words.format('11 classes') in dry_run(tmp_path / 'runs', f'--data={numbered}',
                                                 '--labels-from=folders')
    assert 'Conditional model:  False\n' in dry_run(tmp_path / 'runs', f'--data={numbered}')


def test_a_new_run_takes_numbered_folders_in_the_order_of_their_numbers(tmp_path, numbered):
    output = dry_run(tmp_path / 'runs', f'--data={numbered}', *NUMBERED)
    assert '        2       1  2\n' in output and '    Class 2 is the folder 2: ' in output
    kwargs = config_in(output)
    dataset = ImageFolderDataset(str(numbered), use_labels=True, labels_from=kwargs['labels_from'])
    labels = {name: int(dataset.get_details(i).raw_label) for i, name in enumerate(image_names(open_files(numbered)))}
    assert labels == {f'{i}/0.png': i for i in range(11)}


@pytest.mark.parametrize('how', ['the same command', '--resume', '--resume with an option'])
def test_a_run_of_before_keeps_its_classes(tmp_path, numbered, how):
    """Its options say 'folders', as those of all runs did, and mean plain string order."""
    options = [f'--data={numbered}', *NUMBERED]
    config = config_in(dry_run(tmp_path / 'runs', *options))
    run_dir = Path(config['run_dir'])
    config['labels_from'] = 'folders'
    run_dir.mkdir(parents=True)
    (run_dir / 'training_options.json').write_text(json.dumps(config))
    if how == 'the same command':
        output = dry_run(tmp_path / 'runs', *options)
    else:
        args = ['-n', f'--resume={run_dir}', *(['--snap=3'] if how.endswith('option') else [])]
        output = CliRunner().invoke(train.main, args).output
    assert f'Output directory:   {run_dir}\n' in output, output
    assert config_in(output)['labels_from'] == 'folders'
    assert '        2       1  10\n' in output
    assert '    Class 2 is the folder 10: in plain string order, as this run began.\n' in output


def test_where_there_is_one_order_nothing_else_is_recorded(tmp_path):
    """So that the same command finds runs of before."""
    data = write_set(tmp_path / 'pets', {'cat/0.png': picture(), 'dog/1.png': picture(seed=1)})
    config = config_in(dry_run(tmp_path / 'runs', f'--data={data}', *NUMBERED))
    assert config['labels_from'] == 'folders'


@pytest.mark.parametrize('labels, problem', [
    ([0, 0.5], 'image 1.png has the label 0.5, which is no class'),
    ([0, 70000], 'the labels go up to 70000, but only 2 different ones occur'),
])
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, problem):
    data = write_set(tmp_path / 'set', {f'{i}.png': picture(seed=i) for i in range(2)},
                     labels=[[f'{i}.png', label] for i, label in enumerate(labels)])
    command = ['-n', f'--outdir={tmp_path}/runs', f'--data={data}', '--cfg=tiny', '--batch=4', '--device=cpu']
    result = CliRunner().invoke(train.main, [*command, '--cond=1'])
    assert result.exit_code == 2 and problem in result.output
    assert problem in CliRunner().invoke(train.main, command).output        # Not used, but mentioned.
