"""Writes a plan file from the design behind it: plans are frozen, this is how they came about.

    python -m benchmarks.evidence.write_plan quick32
    python -m benchmarks.evidence.write_plan gpu32 emoji-all.zip
"""
import json
import sys

from benchmarks.evidence.design import cells
from benchmarks.evidence.plan import PLANS

FACTORS = {                 # Method: further options with it; in the order of the design's letters A to H.
    'ada': ['--aug=ada', '--ada-kimg=20'],  # At the default rate its strength would end at 0.02.
    'ggdr': [],
    'diggan': [],
    'lecam': ['--lecam_weight=0.01', '--lecam_start=100'],      # The default does nothing at these logits.
    'apa': ['--apa_p=0.2'],     # The adaptive form excludes ADA.
    'daco': [],
    'r2': [],
    'osgan': ['--loss=osgan'],
}
GENERATORS = {'apa': 'ggdr diggan lecam', 'daco': 'ada diggan lecam', 'r2': 'ada ggdr diggan',
              'osgan': 'ada ggdr lecam'}
BASIC = ['ada', 'ggdr', 'diggan', 'lecam']
NO_REGULARIZERS = ('ada', 'osgan')
# What `--cfg=tiny` stands for, written out.
RECIPE = ['--batch=4', '--glr=0.005', '--dlr=0.005', '--cbase=512', '--gamma=1', '--pl_weight=0',
          '--mixing-prob=0']
METRICS = ['fd1k_efflite0_64px', 'kid1k_efflite0_64px', 'prdc1k_efflite0_64px']
FACES = dict(about='emoji faces of Noto Emoji at 32 pixels, bundled', images=921)
EMOJI = dict(about='all emoji of Noto Emoji (npm package emoji-datasource-google 16.0.0), scaled to 32 pixels on white',
             images=3781)


def screen_cells() -> dict[str, dict]:
    """The 16 cells of the 2^(8-4) design of resolution IV."""
    return {name_of(levels): dict(options=options_of([f for f, sign in levels.items() if sign > 0]),
                                  levels=levels)
            for levels in cells(BASIC, GENERATORS)}


def name_of(levels: dict[str, int]) -> str:
    """The methods of a cell, or base."""
    return '+'.join(factor for factor, sign in levels.items() if sign > 0) or 'base'


def options_of(methods: list[str]) -> list[str]:
    """Options of train.py for some methods together."""
    regularizers = [name for name in methods if name not in NO_REGULARIZERS]
    options = [] if 'ada' in methods else ['--aug=noaug']
    options += [f'--reg_type={",".join(regularizers)}'] if regularizers else []
    return options + [option for name in methods for option in FACTORS[name]]


def alone_cells() -> dict[str, dict]:
    """The base, what has no place in the design, and, as a control, methods with weight 0."""
    none = ['--aug=noaug']
    found = {
        'base': none,
        'ada': options_of(['ada']),
        'genco': [*none, '--reg_type=genco'],
        'relativistic+r2': [*none, '--loss=relativistic', '--reg_type=r2'],
    }
    found |= {f'zero-{name}': [*none, f'--reg_type={name}', f'--{name}_weight=0']
              for name in ('ggdr', 'diggan', 'lecam')}
    return {name: dict(options=options) for name, options in found.items()}


def arms() -> dict[str, dict]:
    """The controls, what has no place in the design, and what is often used together."""
    none, ada = ['--aug=noaug'], options_of(['ada'])
    return alone_cells() | {name: dict(options=options) for name, options in {
        'diffaug': ['--aug=diffaug'],
        'ada+apa-shared': [*ada, '--reg_type=apa', '--apa_p=shared'],
        'ada+ggdr': options_of(['ada', 'ggdr']),
        'bcr': [*none, '--reg_type=bcr'],
        'zcr': [*none, '--reg_type=zcr'],
        'lecam': options_of(['lecam']),
        'ada+insgen': [*ada, '--reg_type=insgen', '--insgen_queue_real=92', '--insgen_queue_fake=92'],
        'ada+fakeclr': [*ada, '--reg_type=fakeclr'],
    }.items()}


def common(name: str, about: str, kimg: float, snapshots: int, window: int, base: list[str]) -> dict:
    """What all plans share."""
    return dict(
        name=name, about=about, base=['--cfg=tiny', '--mirror=1', *base], base_cell='base', kimg=kimg,
        snapshots=snapshots, window=window, metrics=METRICS,
        metrics_of_page=['fd1k_efflite0_64px', 'kid1k_efflite0_64px', 'prdc1k_efflite0_64px_coverage'],
        coverage='prdc1k_efflite0_64px_coverage',
        controls=dict(stage='alone', weight_zero='zero-', positive='ada'), factors=FACTORS)


def fingerprint(path: str) -> str:
    """Of a data set."""
    from training.dataset import ImageFolderDataset
    return ImageFolderDataset(path).fingerprint()


def small() -> dict:
    """For two cores and two hours: the bundled faces, one size."""
    plan = common('small', 'The small version: 100 of the bundled faces at 32 pixels.', 12, 8, 3, RECIPE)
    faces = dict(FACES, fingerprint=fingerprint('datasets/emoji-faces-noto-32.zip'))
    return plan | dict(data=dict(faces=faces), stages=[
        dict(name='screen', about='what each of eight methods does, on average over the others',
             cells=screen_cells(), blocks=[['faces', 100, 0]]),
        dict(name='alone', about='controls, and methods one at a time', cells=alone_cells(),
             blocks=[['faces', 100, seed] for seed in range(4)])])


def gpu32(emoji: str) -> dict:
    """For one GPU and ten minutes, many runs side by side: two sets, two sizes, twice the images of `small`."""
    plan = common('gpu32', 'On one GPU: two sets of images at 32 pixels, 100 or 500 of each.', 24, 8, 5,
                  [*RECIPE, '--deterministic=1'])
    faces = dict(FACES, fingerprint=fingerprint('datasets/emoji-faces-noto-32.zip'))
    sets = ('faces', 100), ('emoji', 500), ('faces', 500), ('emoji', 100)
    return plan | dict(data=dict(faces=faces, emoji=dict(EMOJI, fingerprint=fingerprint(emoji))), stages=[
        dict(name='screen', about='what each of eight methods does, on average over the others',
             cells=screen_cells(), blocks=[[*block, seed] for seed, block in enumerate(sets)]),
        dict(name='alone', about='controls, and methods one at a time', cells=arms(),
             blocks=[[*block, seed] for block in (sets[0], sets[1]) for seed in (10, 11)])])


def quick32() -> dict:
    """For two cores and two hours, with every control: six thousand images, so the beginning of training."""
    about = 'Two hours on two cores: how runs begin, on 100 of the bundled faces at 32 pixels.'
    plan = common('quick32', about, 6, 6, 3, [*RECIPE, '--precision=fp32', '--deterministic=1'])
    faces = dict(FACES, fingerprint=fingerprint('datasets/emoji-faces-noto-32.zip'))
    controls = alone_cells()
    better = {'base': controls['base'], 'relativistic+r2': controls['relativistic+r2']}
    zero = {name: cell for name, cell in controls.items() if name == 'base' or name.startswith('zero-')}
    return plan | dict(
        data=dict(faces=faces), controls=plan['controls'] | dict(positive='relativistic+r2'), stages=[
            dict(name='zero', about='whether methods with weight 0 change nothing', cells=zero,
                 blocks=[['faces', 100, 30]]),
            dict(name='alone', about='the base with four seeds, and beside it what must be seen to help',
                 cells=better, blocks=[['faces', 100, seed] for seed in range(4)]),
            dict(name='screen', about='what each of eight methods does, on average over the others',
                 cells=screen_cells(), blocks=[['faces', 100, 0]])])


SEARCH = {                  # Method: (options with it, the option that is searched, three values).
    'lecam': (['--reg_type=lecam', '--lecam_start=100'], '--lecam_weight', (0.003, 0.01, 0.03)),
    'diggan': (['--reg_type=diggan'], '--diggan_weight', (1, 5, 25)),
    'ggdr': (['--reg_type=ggdr'], '--ggdr_weight', (3, 10, 30)),
    'weco': (['--reg_type=weco'], '--weco_weight', (0.003, 0.01, 0.03)),
    'apa': (['--reg_type=apa'], '--apa_p', (0.1, 0.2, 0.4)),
    'bcr-real': (['--reg_type=bcr', '--bcr_weight_fake=0'], '--bcr_weight_real', (1, 3, 10)),
    'zcr-g': (['--reg_type=zcr'], '--zcr_weight_g', (0.02, 0.1, 0.5)),
    'r1': ([], '--gamma', (0.3, 3, 10)),              # 1 is the base's.
}


def weights32() -> dict:
    """Before the defaults are turned: three values of a weight for each method, on two seeds."""
    plan = common('weights32', 'Three values for the weight of each method: 100 of the bundled faces at 32 pixels.', 24, 8, 5,
                  [*RECIPE, '--deterministic=1'])
    cells = {'base': [], **{f'{name}={value:g}': [*options, f'{searched}={value:g}']
                            for name, (options, searched, values) in SEARCH.items() for value in values}}
    faces = dict(FACES, fingerprint=fingerprint('datasets/emoji-faces-noto-32.zip'))
    return plan | dict(data=dict(faces=faces), controls=plan['controls'] | dict(stage='search'), stages=[
        dict(name='search', about='which weight of a method is best, if any is',
             cells={name: dict(options=['--aug=noaug', *options]) for name, options in cells.items()},
             blocks=[['faces', 100, seed] for seed in (20, 21)])])


LATER = {                   # What came after gpu32. VGG16, since the scores of the plans are by EfficientNet-Lite0.
    'diffusion': ['--aug=diffusion', '--ada-kimg=20'],
    'diffusion, t told': ['--aug=diffusion', '--ada-kimg=20', '--diffusion-append=1'],
    'r3gan': ['--cfg=r3gan', '--cbase=1024', '--cmax=64', '--batch-gpu=4', '--glr=0.001', '--dlr=0.001', '--ema-kimg=2'],
    'vision': ['--aug=noaug', '--reg_type=vision', '--vision_network=vgg16', '--vision_warmup=1'],
}


def later32() -> dict:
    """Methods that came after gpu32, in the setting of its second stage. Needs the weights of VGG16 (docs/metrics.md)."""
    plan = common('later32', 'Methods that came later: 100 of the bundled faces at 32 pixels.', 24, 8, 5,
                  [*RECIPE, '--deterministic=1'])
    faces = dict(FACES, fingerprint=fingerprint('datasets/emoji-faces-noto-32.zip'))
    return plan | dict(data=dict(faces=faces), stages=[
        dict(name='alone', about='methods one at a time', cells=alone_cells() | {
            name: dict(options=options) for name, options in LATER.items()}, blocks=[['faces', 100, seed] for seed in (10, 11)])])


BETTER = ['--loss=relativistic', '--reg_type=r2']       # The best arm of gpu32 so far, on one block of a hundred images.
DEMO = {                    # Candidates for `tiny`, and so for `make demo`, which has all of the faces.
    'base': [],
    'relativistic': ['--loss=relativistic'],
    'r2': ['--reg_type=r2'],
    'relativistic+r2': BETTER,
    'relativistic+r2, gamma 0.3': [*BETTER, '--gamma=0.3'],
    'relativistic+r2, gamma 3': [*BETTER, '--gamma=3'],
    'relativistic+r2, rates 0.0025': [*BETTER, '--glr=0.0025', '--dlr=0.0025'],
    'relativistic+r2, twice the channels': [*BETTER, '--cbase=1024'],
    'relativistic+r2+ggdr': ['--loss=relativistic', '--reg_type=r2,ggdr'],
    'relativistic+r2+bcr': ['--loss=relativistic', '--reg_type=r2,bcr'],
    'ggdr': ['--reg_type=ggdr'],
    'daco': ['--reg_type=daco'],
    'bcr': ['--reg_type=bcr'],
    'zcr': ['--reg_type=zcr'],
    'diffaug': ['--aug=diffaug'],
    'twice the channels': ['--cbase=1024'],
}


def demo32() -> dict:
    """What draws faces soonest on all of the bundled images, in the length of `make demo`; the mean of three seeds counts."""
    plan = common('demo32', 'The demo: all of the bundled faces at 32 pixels.', 20, 8, 3,
                  [*RECIPE, '--precision=fp32', '--deterministic=1'])
    faces = dict(FACES, fingerprint=fingerprint('datasets/emoji-faces-noto-32.zip'))
    controls = plan['controls'] | dict(stage='demo', positive='relativistic+r2')
    return plan | dict(data=dict(faces=faces), controls=controls, stages=[
        dict(name='demo', about='which recipe is best after the twenty thousand images of the demo',
             cells={name: dict(options=options if '--aug=diffaug' in options else ['--aug=noaug', *options])
                    for name, options in DEMO.items()},
             blocks=[['faces', 921, seed] for seed in range(3)])])


if __name__ == '__main__':
    makers = (small, quick32, gpu32, weights32, later32, demo32)
    plan = {make.__name__: make for make in makers}[sys.argv[1]](*sys.argv[2:])
    (PLANS / f'{sys.argv[1]}.json').write_text(json.dumps(plan, indent=1) + '\n', encoding='utf-8')
