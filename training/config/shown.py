"""What a run prints of itself before it begins."""
import json
from contextlib import closing

from training.config import run_dirs
from training.config.rules import UserError
from training.config.schema import Config


def print_config(config: Config) -> None:
    """The whole configuration, then what matters most of it."""
    print('\nTraining options:')
    print(json.dumps(config.to_json(), indent=2))
    data, shape = config['training_set_kwargs'] or {}, config['data_shape']
    print(f'\nOutput directory:   {config["run_dir"]}')
    print(f'Training data:      {", ".join(config["data_paths"]) or "elsewhere"}')
    print(f'Training duration:  {config["kimg"]:g} kimg')
    print(f'Number of GPUs:     {gpus_in_words(config)}')
    print(f'Number of images:   {data.get("max_size", "all")}')
    print(f'Image resolution:   {shape["img_resolution"]}')
    print(f'Conditional model:  {shape["c_dim"] > 0}{unused_labels(config)}')
    print_labels(config)
    print(f'Dataset x-flips:    {data.get("xflip", False)}')
    print(f'Dataset y-flips:    {data["yflip"]}\n' if 'yflip' in data else '')
    print_passed_over(config)
    if note := note_on_slowness(config):
        print(f'{note}\n')


def device_of(config: Config) -> str:
    """What computes, as it is known before anything does."""
    from torch_utils.distributed import check_device
    return check_device(config['device'], config['gpus'])


def gpus_in_words(config: Config) -> str:
    """Their number; of processes where no GPU computes."""
    device, num = device_of(config), config['gpus']
    return f'{num}' if device == 'cuda' else f'0 ({num} process{"es" * (num > 1)} on the {device.upper()})'


def note_on_slowness(config: Config) -> str:
    """A warning where nobody asked for the CPU, and it would compute for weeks; else nothing."""
    is_large = config['data_shape']['img_resolution'] >= 64 and config['command'].get('cfg') != 'tiny'
    if config['device'] != 'auto' or device_of(config) != 'cpu' or not is_large:
        return ''
    return ('Note: there is no GPU here, and a CPU takes weeks for such a run. --cfg=tiny is made for a CPU; '
            'loss-zoo estimate, with the same options, measures how long a run takes.')


def print_passed_over(config: dict) -> None:
    """A line per data set about the files in it that are none of its images."""
    from training.dataset import ImageFolderDataset
    for path in config['data_paths']:
        with closing(ImageFolderDataset(path)) as dataset:
            if dataset.passed_over():
                print(f'{path}: {dataset.passed_over()}\n')


def print_labels(config: dict) -> None:
    """What the labels are that the run learns: of classes, numbers, names, and how many images each has."""
    from training.dataset import ImageFolderDataset
    options = run_dirs.set_kwargs(config)
    if not options.get('use_labels'):
        return
    for path in config['data_paths']:
        with closing(ImageFolderDataset(path, use_labels=True, labels_from=options.get('labels_from', 'json'))) as dataset:
            kind, *lines = dataset.about_labels()
        print(f'Labels:             {kind}{f" ({path})" if len(config["data_paths"]) > 1 else ""}')
        for line in lines:
            print(f'    {line}')


def unused_labels(config: dict) -> str:
    """Words about the labels of the data sets, if they have some and the run does not learn them."""
    from training.dataset import ImageFolderDataset
    options = run_dirs.set_kwargs(config)
    if options.get('use_labels'):
        return ''
    for path in config['data_paths']:
        try:
            with closing(ImageFolderDataset(path, use_labels=True, labels_from=options.get('labels_from', 'json'))) as dataset:
                kind = dataset.about_labels()[0]
        except OSError as error:
            return f' (the labels of the data set are not used, nor could they be: {error})'
        if kind != 'none':
            return f' (the data set has labels, {kind}, which are not used; --cond=1 learns them)'
    return ''


def has_methods(config: dict) -> bool:
    """Is there anything beside the base, of which only building it
    (for a second) tells whether it fits together?"""
    return bool(config['regularizers']) or config['loss'] != 'logistic'


def checked_plan(config: dict) -> str:
    """The tables of what each iteration of the run will be.
    Raises UserError for what does not fit together."""
    from training.run.dry_run import plan
    try:
        return plan(config)
    except ValueError as error:
        raise UserError(str(error)) from error
