"""The data sets of a run: from options to what its configuration says of them, and how they are now."""
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from dnnlib import commands, torchrun
from training.config import run_dirs
from training.config.methods import data_elsewhere, method_with_data
from training.config.rules import UserError, require


def example() -> str:
    """What to type at first."""
    train = commands.call_of('train')
    return f'For example: {train} --outdir=runs --data=photos/ --mirror=1 ({train} --help lists all options)'


def data_paths(o: Mapping[str, Any]) -> list[str]:
    """The data sets of the run: --data, or those that a chosen method brings."""
    method = method_with_data(o)
    if method is None:
        require('data' in o, f"Missing option '--data'. {example()}")
        return [o['data']]
    require('data' not in o,
            f'--data and --reg_type={method} exclude each other; name the data in --{method}_data')
    require(o.get(f'{method}_data'), f'--reg_type={method} needs --{method}_data')
    return o[f'{method}_data'].split(',')


def data_size(o: Mapping[str, Any]) -> tuple[int, int]:
    """(number of images that the run learns from, their resolution)."""
    from training.dataset import ImageFolderDataset
    num_images = 0
    require(data_elsewhere(o) is None, '--preset goes by the number of images, which are elsewhere: give its options themselves')
    for path in data_paths(o):
        with closing(ImageFolderDataset(path=path)) as dataset:
            num_images += len(dataset)
            resolution = dataset.image_shape[1]
    return min(num_images, o.get('subset', num_images)), resolution


def resolve_data(o: Mapping[str, Any], config: dict[str, Any], names: list[str]) -> None:
    """--data, --cond, --labels-from, --subset, --mirror: the data sets, and the shape of their items."""
    from training.dataset import ImageFolderDataset
    elsewhere = data_elsewhere(o)
    if elsewhere is not None:
        resolve_elsewhere(o, config, names, *elsewhere)
        return
    paths = data_paths(o)
    labels = dict(use_labels=bool(o.get('cond')), **label_source(o, paths))
    shapes, fingerprints, nums, titles = [], [], [], []
    for path in paths:
        with closing(ImageFolderDataset(path=path, **labels)) as dataset:
            if torchrun.is_main_process():          # The others need not read all images again.
                dataset.require_trainable()
            shapes.append(shape_of(dataset))
            require_one_shape(path, shapes[-1], paths[0], shapes[0])
            require(dataset.has_labels or not o.get('cond'),
                    f'--cond: {path} has no labels; put them in its dataset.json, or images of each class in a subfolder '
                    f'and give --labels-from=folders (docs/data.md)')
            titles.append(dataset.name)
            fingerprints.append(fingerprint_of(dataset))
            nums.append(len(dataset))
    config.update(data_paths=paths, data_fingerprints=fingerprints, data_num_images=nums,
                  data_shape=shapes[0],
                  training_set_kwargs=set_arguments(o, paths, labels, shapes[0]['img_resolution'], nums[-1]))
    names.append('+'.join(titles))
    names += ['cond'] * bool(o.get('cond')) + [f'subset{o.get("subset")}'] * ('subset' in o)
    names += [option for option in ('mirror', 'mirrory') if o.get(option)]


def fingerprint_of(dataset: Any) -> str:
    """The fingerprint of an open data set: every file of a folder is read for it, by one process of a run."""
    if torchrun.place() is None:
        return dataset.fingerprint()
    from torch_utils.launcher import of_first
    return of_first(dataset.fingerprint)


def resolve_elsewhere(o: Mapping[str, Any], config: dict[str, Any], names: list[str], titles: list[str],
                      shape: dict[str, int]) -> None:
    """The same for data sets on other machines, of which names and shape alone are known here."""
    for option in ('data', 'labels_from', 'subset', 'held_out'):
        require(option not in o, f'--{option.replace("_", "-")} is about images on this machine; those of the run '
                'are elsewhere')
    require(bool(o.get('cond')) == (shape['c_dim'] > 0), '--cond=1 and a number of labels belong together')
    require(not o.get('mirrory'), '--mirrory is about images on this machine; those of the run are elsewhere')
    kwargs = dict(class_name='training.dataset.ImageFolderDataset', path=None, max_size=None, xflip=bool(o.get('mirror')),
                  resolution=shape['img_resolution'], use_labels=bool(o.get('cond')))
    config.update(data_paths=[], data_fingerprints=[], data_num_images=[], data_shape=shape, training_set_kwargs=kwargs)
    names.append('+'.join(titles))
    names += ['cond'] * bool(o.get('cond')) + ['mirror'] * bool(o.get('mirror'))


def set_arguments(o: Mapping[str, Any], paths: list[str], labels: dict[str, Any], res: int, num: int) -> dict[str, Any]:
    """What the data set of the run is opened with: all of its `num` images, or a choice."""
    kwargs = dict(class_name='training.dataset.ImageFolderDataset', path=paths[0],
                  max_size=num if len(paths) == 1 else None, xflip=bool(o.get('mirror')), resolution=res,
                  **dict(yflip=True) if o.get('mirrory') else {}, **labels)
    subset = o.get('subset', num)
    require(subset <= num, f'--subset={subset}: must be between 1 and {num}')
    if subset < num:
        kwargs.update(max_size=subset, random_seed=o.get('seed', 0))
    return kwargs


def shape_of(dataset: Any) -> dict[str, int]:
    """What images and labels of an open data set have in common."""
    return dict(c_dim=dataset.label_dim, img_resolution=dataset.resolution, img_channels=dataset.num_channels)


def require_one_shape(path: str, shape: dict[str, int], first: str, expected: dict[str, int]) -> None:
    """Raises UserError if a data set of a run differs from its first one."""
    require(shape == expected,
            f'the data sets of a run must have images and labels of one shape, but {path} has {shape} and '
            f'{first} has {expected}')


def label_source(o: Mapping[str, Any], paths: list[str]) -> dict[str, str]:
    """--labels-from as an argument of the data sets. Folders are numbered in plain string order where that
    makes no difference, which is how all runs of before have recorded them, and else by the numbers in their
    names."""
    if 'labels_from' not in o:
        return {}
    if o['labels_from'] == 'folders' and o.get('cond'):
        held_out = [('--held-out', o['held_out'])] if 'held_out' in o else []
        for option, path in [*(('--data', path) for path in paths), *held_out]:
            with other_set(option, path, labels_from='folders') as dataset:
                if dataset.has_ambiguous_order():
                    return dict(labels_from='natural-folders')
    return dict(labels_from=o['labels_from'])


@contextmanager
def other_set(option: str, path: str, **kwargs: Any) -> Iterator[Any]:
    """An open data set. Raises UserError with the option that names it if it cannot be read."""
    from training.dataset import ImageFolderDataset
    try:
        with closing(ImageFolderDataset(path=path, **kwargs)) as dataset:
            yield dataset
    except OSError as error:
        raise UserError(f'{option}: {error}') from error


def resolve_held_out(o: Mapping[str, Any], config: dict[str, Any]) -> None:
    """--held-out, or what --subset leaves out: images that D never learns from,
    enough to fill a micro-batch."""
    require('held_out' not in o or 'data' in o, '--held-out has no effect without --data')
    if 'data' not in o or not {'held_out', 'subset'} & o.keys():
        return
    path, options = o.get('held_out', o['data']), label_source(o, [o['data']])
    with other_set('--held-out' if 'held_out' in o else '--data', path, use_labels=bool(o.get('cond')), **options) as dataset:
        shape = shape_of(dataset)
        num = len(dataset) - (0 if 'held_out' in o else o['subset'])
    require(shape == config['data_shape'],
            f'--held-out={path}: images and labels have the shape {shape}, those of --data {config["data_shape"]}')
    require('held_out' not in o or num >= config['batch_gpu'],
            f'--held-out={path}: {num} images do not fill a batch of {config["batch_gpu"]}')
    if num >= config['batch_gpu']:
        config['held_out'] = o.get('held_out', 'rest')


def resolve_metric_data(o: Mapping[str, Any], config: dict[str, Any]) -> None:
    """--metricdata: another set for the real side of all metrics, of the shape of the run's."""
    if 'metricdata' not in o:
        return
    path = o['metricdata']
    require('data' in o, '--metricdata has no effect without --data')
    require(bool(config['metrics']), '--metricdata has no effect with --metrics=none')
    options = label_source(o, [o['data']])
    with other_set('--metricdata', path, use_labels=bool(o.get('cond')), **options) as dataset:
        shape = shape_of(dataset)
    require(shape == config['data_shape'],
            f'--metricdata={path}: images and labels have the shape {shape}, those of --data {config["data_shape"]}')
    config['metricdata'] = path


def data_now(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration says of the run's data sets, as they are now."""
    from training.dataset import ImageFolderDataset
    if not config['data_paths']:                # They are elsewhere.
        return {}
    kwargs = run_dirs.set_kwargs(config)
    options = {key: kwargs[key] for key in ('use_labels', 'labels_from') if key in kwargs}
    sets = [ImageFolderDataset(path, **options) for path in config['data_paths']]
    first = sets[0]
    now = dict(data_fingerprints=[fingerprint_of(dataset) for dataset in sets],
               data_num_images=[*map(len, sets)], data_shape=shape_of(first))
    if config['training_set_kwargs']:
        subset = config['command'].get('subset')
        is_subset = isinstance(subset, int) and subset < len(first)
        now['training_set_kwargs'] = {**kwargs, 'max_size': subset if is_subset else len(first)}
        if is_subset:
            now['training_set_kwargs'].setdefault('random_seed', config['seed'])
    return now


def no_longer_taken(config: Mapping[str, Any]) -> str:
    """Words about folders in the data that programs left behind:
    images of them were in runs of earlier versions."""
    from training.dataset import ImageFolderDataset
    names = []
    for path in config['data_paths']:
        with closing(ImageFolderDataset(path)) as dataset:
            names += dataset.left_behind()
    return (f', where pictures that programs left behind ({", ".join(dict.fromkeys(names))}) no longer count as images'
            if names else '')
