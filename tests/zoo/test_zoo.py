"""Everything in the loss zoo together: what holds for all methods and combinations."""
import itertools
import random
from dataclasses import dataclass

import pytest
import torch
from tiny import assert_resumes_exactly, assert_same_bits, make_config, make_dataset, run_iterations

import losses_ext
from losses_ext.option import option
from torch_utils import distributed
from training import setup
from training.config.resolve import resolve
from training.regularizer import Regularizer
from training.training_loop import run_phase

METHODS = [name for name in losses_ext.REG_TYPES if name not in losses_ext.GROUPS]
# Two change the data; gp stands without R1, fakeclr without insgen.
SUMMED = [name for name in METHODS if name not in ('tdgan', 'apa', 'gp', 'fakeclr')]
WITHOUT_CENTRES = [name for name in METHODS if name not in ('tdgan', 'gp', 'fakeclr')]
WITH_CENTRES = ['tdgan', 'gp', 'ggdr', 'diggan', 'fakeclr']
GAMES = list(losses_ext.GAMES)
OPTIONS = dict(ggdr=dict(res='8'), diggan=dict(weight=5.0, interval=1), lecam=dict(weight=0.1, start=0), apa=dict(p=0.5),
               r2=dict(gamma=1.0), gp=dict(interval=1), cr=dict(shift=0.125), bcr=dict(shift=0.125), zcr=dict(weight_g=0.5),
               insgen=dict(queue_real=6, queue_fake=6, weight_g=0.5), fakeclr=dict(queue=6, weight_g=0.5),
               vision=dict(size=64, aug='run', warmup=0.0))
VIEWS = dict(class_name='training.augment.AugmentPipe', xflip=1)      # For those that need one; its strength is 0.


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    return [make_dataset(folder / f'{i}.zip', num=12, seed=i) for i in range(2)]


def zoo_config(data, names=(), loss='logistic', game=None, apa=None, r1_gamma=None, form='exact', force=False, **changes):
    """The configuration of a combination, as `train.py` would
    complete it. Raises ValueError for what is refused."""
    names = losses_ext.parse_reg_type(','.join(names))
    options = {name: dict(OPTIONS.get(name, {})) for name in names}
    if 'tdgan' in names:
        options['tdgan'] = dict(data=','.join(data), schedule='0:0.004,1:0.004')
    if apa is not None:
        options['apa'] = apa
    if {'insgen', 'fakeclr'} & options.keys():
        changes = {**dict(augment_kwargs=VIEWS, p=0), **changes}
    config = make_config(data[0], loss=loss, regularizers=options, **changes)
    r1_gamma = (0 if 'gp' in names else 1.0) if r1_gamma is None else r1_gamma
    config['loss_kwargs'].update(game=loss, r1_gamma=r1_gamma)
    losses_ext.configure(config, dict(game=game, form=form, force=force) if loss == 'osgan' else {})
    return config


def refusal(data, *args, **kwargs):
    """The sentence that refuses a combination, or None."""
    try:
        zoo_config(data, *args, **kwargs)
    except ValueError as error:
        return str(error)


def recipes():
    """(loss, game of osgan) of every scheme and game."""
    return [(game, None) for game in GAMES] + [('osgan', game) for game in GAMES]


def check_that_it_runs(config):
    """Two iterations (with TDGAN: across a stage), every lazy
    phase once; all finite, and the same on all ranks."""
    run, (state, _) = run_iterations(config, 2)
    distributed.check_equal({player.name: player.module for player in run.game.players})
    for player in run.game.players:
        assert all(p.isfinite().all() for p in player.module.parameters()), player.name
        assert player.optimizer.state, f'{player.name} has not learned'


# What changes nothing. (That the base is the plain step,
# bit for bit: test_loss_base.py, test_training_loop.py.)

def test_naming_the_defaults_is_naming_nothing(data):
    configs = []
    for options in ({}, dict(reg_type='none', loss='logistic')):
        name, config = resolve(dict(data=data[0], cfg='tiny', **options))
        configs.append((name, {**config, 'command': None}))
    assert configs[0] == configs[1]


@pytest.mark.parametrize('loss', ['logistic', 'osgan'])
def test_every_method_at_weight_0_is_the_base_bit_for_bit(data, loss):
    off = dict(ggdr=dict(weight=0.0), diggan=dict(weight=0.0), weco=dict(weight=0.0), lecam=dict(weight=0.0), apa=dict(p=0.0),
               r2=dict(gamma=0.0), gp=dict(weight=0.0), cr=dict(weight=0.0), bcr=dict(weight_real=0.0, weight_fake=0.0),
               zcr=dict(weight_d=0.0, weight_g=0.0), insgen=dict(weight_real=0.0, weight_fake=0.0, weight_g=0.0),
               fakeclr=dict(weight_fake=0.0, weight_g=0.0), vision=dict(weight=0.0))
    base = zoo_config(data, loss=loss, game='logistic')
    plain, expected = run_iterations(base, 3)
    for name, options in off.items():
        config = zoo_config(data, [name], loss, 'logistic')
        config['regularizers'][name].update(options)
        config['loss_kwargs']['r1_gamma'] = 1.0
        config['augment_kwargs'] = None
        run, state = run_iterations(config, 3)
        assert_same_bits(state[0], expected[0])
        assert state[1]['statistics'] == expected[1]['statistics']
        assert {type(r).__name__ for r in run.game.regularizers} - {'GenCo'} == {'PathLength', 'R1'}
        assert (run.game.tap_G, run.game.tap_D) == (plain.game.tap_G, plain.game.tap_D) == (set(), False)


# The order of names.

def test_the_order_of_names_has_no_effect(data):
    """One configuration, hence the same bits."""
    configs = [zoo_config(data, names) for names in itertools.permutations(['weco', 'ggdr', 'diggan'])]
    assert list(configs[0]['regularizers']) == ['ggdr', 'diggan', 'weco', 'genco']
    assert all(config == configs[0] and list(config['regularizers']) == list(configs[0]['regularizers'])
               for config in configs)


# Combinations.

def gradients(config):
    """{phase/player/parameter: gradient} of the base's players in the first iteration."""
    run = setup.build(config, torch.device('cpu'))
    run.enter_stage(0)
    reals, shared, grads = [stream.next_batch() for stream in run.reals], {}, {}
    for player in run.game.players:         # Gradients of all phases at the same parameters.
        player.optimizer = torch.optim.SGD(player.module.parameters(), lr=0.0)
    for phase in run.phases:
        run_phase(run, phase, reals, shared)
        for player in phase.players:
            if player.name in 'GD':
                for name, parameter in player.module.named_parameters():
                    if parameter.grad is not None:
                        grads[f'{phase.name}/{player.name}/{name}'] = parameter.grad.clone()
    return grads


QUARTERS = [SUMMED[i::4] for i in range(4)]     # Every pair of methods is in two of them, if not in one.


@pytest.mark.parametrize('groups', [
    pytest.param([(*one, *other) for one, other in itertools.combinations(QUARTERS, 2)] + [SUMMED], id='every pair in a group'),
    pytest.param([*itertools.combinations(SUMMED, 2)], id='every pair by itself', marks=pytest.mark.slow)])
@pytest.mark.parametrize('loss', ['logistic', pytest.param('osgan', marks=pytest.mark.slow)])
def test_the_gradient_of_a_subset_is_the_sum_of_its_terms(data, loss, groups):
    base, *singles = [gradients(zoo_config(data, names, loss, 'logistic')) for names in [(), *((name,) for name in SUMMED)]]
    single = dict(zip(SUMMED, singles))
    for group in groups:
        for key, grad in gradients(zoo_config(data, group, loss, 'logistic')).items():
            zero = torch.zeros_like(grad)
            of_base = base.get(key, zero)
            expected = of_base + sum(single[name].get(key, of_base) - of_base for name in group)
            torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-5 * (1 + grad.abs().max().item()),
                                       msg=lambda text, where=f'{group} {key}': f'{where}: {text}')


DEFAULTS = ('logistic', None), ('osgan', 'logistic')        # The default game of each scheme.


@pytest.mark.parametrize(('loss', 'game'), [pytest.param(*recipe, marks=[] if recipe in DEFAULTS else pytest.mark.slow)
                                            for recipe in recipes()])
def test_methods_run_alone_and_together_in_every_game_and_scheme(data, loss, game):
    """All single methods, everything that can be combined at once, and in the default games groups in which every pair occurs."""
    combinations = [(name,) for name in METHODS if refusal(data, (name,), loss, game) is None]
    combinations.append(largest(data, loss, game))
    if (loss, game) in DEFAULTS:
        combinations += groups_with_every(2, data, loss, game, largest(data, loss, game))
    for names in combinations:
        check_that_it_runs(zoo_config(data, names, loss, game))


@pytest.mark.slow
@pytest.mark.parametrize(('loss', 'game'), DEFAULTS)
def test_every_pair_runs_by_itself(data, loss, game):
    for names in possible(2, data, loss, game):
        check_that_it_runs(zoo_config(data, names, loss, game))


def possible(num, data, loss, game):
    """All combinations of so many methods that are not refused."""
    return [names for names in itertools.combinations(METHODS, num) if refusal(data, names, loss, game) is None]


def groups_with_every(num, data, loss, game, known=(), size=6):
    """Groups of at most `size` methods, none of them refused, so that every combination of `num` methods that is
    not refused is in one, if it is not in the group `known`."""
    missing, groups = {*possible(num, data, loss, game)} - {*itertools.combinations(known, num)}, []

    def news(group):
        return len(missing.intersection(itertools.combinations(group, num)))

    while missing:
        group = min(missing, key=lambda names: [*map(METHODS.index, names)])
        for _ in range(size - num):
            larger = [tuple(sorted((*group, name), key=METHODS.index)) for name in METHODS if name not in group]
            worth_it = sorted((other for other in larger if news(other) > news(group)), key=news, reverse=True)
            group = next((other for other in worth_it if refusal(data, other, loss, game) is None), group)
        groups.append(group)
        missing -= {*itertools.combinations(group, num)}
    return groups


def largest(data, loss, game):
    """All methods but those that are refused beside the ones before them."""
    names = ()
    for name in METHODS:
        if refusal(data, (*names, name), loss, game) is None:
            names += (name,)
    return names


@pytest.mark.slow
@pytest.mark.parametrize(('loss', 'game'), DEFAULTS)
def test_every_triple_runs_in_a_group(data, loss, game):
    """Of six methods, so that ten are absent. (All subsets are 36 864 in each of twelve recipes: a week.)"""
    for names in groups_with_every(3, data, loss, game):
        check_that_it_runs(zoo_config(data, names, loss, game))


@pytest.mark.slow
@pytest.mark.parametrize(('loss', 'game'), recipes())
def test_subsets_by_chance_run(data, loss, game):
    """Ten in each game and scheme; each method is in one with chance 1/2, and leaves it where it is refused."""
    rng = random.Random(f'{loss} {game}')
    for _ in range(10):
        names = ()
        for name in rng.sample(METHODS, len(METHODS)):
            if rng.random() < 0.5 and refusal(data, (*names, name), loss, game) is None:
                names += (name,)
        check_that_it_runs(zoo_config(data, names, loss, game))


# Refusals.

ADA = dict(target=0.6)
REFUSED = [         # Every combination that cannot work: methods, loss, game of osgan, changes, words of the sentence.
    *([[], loss, game, ADA, ['--aug=ada', game or loss]]
      for loss, game in [('wgan', None), ('relativistic', None), ('osgan', 'wgan'), ('osgan', 'relativistic')]),
    *([['apa'], loss, game, dict(apa=dict(p=None)), ['--reg_type=apa', f'--loss={loss}', game or loss]]
      for loss, game in [('wgan', None), ('relativistic', None), ('osgan', 'wgan'), ('osgan', 'relativistic')]),
    *([[name], 'osgan', game, dict(form=form, force=True), [f'--osgan_form={form}', f'--reg_type={name}']]
      for name in ('ggdr', 'lecam') for game in ('logistic', 'saturating', 'wgan') for form in ('simple', 'full')),
    *([[], 'osgan', game, dict(form='simple', force=True), ['--osgan_form=simple', f'--osgan_game={game}']]
      for game in ('hinge', 'lsgan')),
    [['apa'], 'logistic', None, dict(apa=dict(p='shared')), ['--apa_p=shared', '--aug=ada']],
    [['gp'], 'logistic', None, dict(r1_gamma=1.0), ['--reg_type=gp', '--gamma']],
    [['gp', 'r2'], 'logistic', None, {}, ['gp', 'r2']],
    [['insgen', 'fakeclr'], 'logistic', None, {}, ['insgen,fakeclr', 'choose one']],
    *([[name], 'logistic', None, dict(augment_kwargs=None), [f'--reg_type={name}', '--aug=noaug', '--aug=ada']]
      for name in ('insgen', 'fakeclr')),
]


@pytest.mark.parametrize(('names', 'loss', 'game', 'changes', 'words'), REFUSED)
def test_what_the_matrix_refuses_names_both(data, names, loss, game, changes, words):
    sentence = refusal(data, names, loss, game, **changes)
    assert sentence and all(word in sentence for word in words), sentence


def test_no_other_pair_is_refused(data):
    """Of all methods and pairs of them in all games, in two stages or one (exact)."""
    for loss, game in recipes():
        for names in [*((name,) for name in METHODS), *itertools.combinations(METHODS, 2)]:
            is_refused = set(names) in ({'gp', 'r2'}, {'insgen', 'fakeclr'})
            assert (refusal(data, names, loss, game) is not None) == is_refused, (names, loss, game)


@pytest.mark.parametrize('pair', [('diggan', 'r2'), ('diggan', 'gp'), ('lecam', 'apa'), ('cr', 'bcr'), ('apa', 'insgen')],
                         ids=','.join)
def test_pairs_that_have_little_to_do_for_each_other_are_warned_about(data, capsys, pair):
    """Either two penalties of the same gradient or two answers to overfitting; alone each is silent."""
    for name in pair:
        zoo_config(data, [name])
    assert capsys.readouterr().err == ''
    zoo_config(data, pair)
    assert f'Warning: --reg_type={",".join(pair)}: ' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['cr', 'bcr', 'zcr'])
def test_logits_without_a_scale_are_warned_about(data, capsys, name):
    for loss, game, is_warned in [('wgan', None, True), ('osgan', 'wgan', True), ('relativistic', None, False),
                                  ('hinge', None, False)]:
        zoo_config(data, [name], loss, game)
        said = capsys.readouterr().err
        assert (f'Warning: --reg_type={name} with --loss={loss}: its logits have no natural scale' in said) == is_warned


NAN, INF = float('nan'), float('inf')
IMPOSSIBLE = [
    ('ggdr', 'weight', -1.0, 'at least 0'), ('ggdr', 'weight', NAN, 'at least 0'),
    ('ggdr', 'weight', INF, 'at least 0 and at most 1000000000'),
    ('diggan', 'weight', -1.0, 'at least 0'), ('diggan', 'interval', 0, 'at least 1'),
    ('diggan', 'ema', 1.0, 'at least 0 and less than 1'),
    ('diggan', 'ema', -0.1, 'at least 0 and less than 1'),
    ('weco', 'weight', -0.01, 'at least 0'),
    ('daco', 'bands', 0, 'at least 1'), ('daco', 'drop_low', -1, 'at least 0'),
    ('daco', 'keep', 1.1, 'at least 0 and at most 1'),
    ('daco', 'keep', NAN, 'at least 0 and at most 1'),
    ('lecam', 'weight', -1.0, 'at least 0'), ('lecam', 'decay', 1.0, 'at least 0 and less than 1'),
    ('lecam', 'start', -1, 'at least 0'),
    ('apa', 'target', 1.5, 'at least -1 and at most 1'), ('apa', 'kimg', 0.0, 'more than 0'),
    ('apa', 'p', 1.5, 'at least 0 and at most 1'), ('apa', 'p', -0.5, 'at least 0 and at most 1'),
    ('r2', 'gamma', -1.0, 'at least 0'), ('r2', 'interval', 0, 'at least 1'),
    ('gp', 'weight', -1.0, 'at least 0'), ('gp', 'interval', 0, 'at least 1'),
    *((name, weight, -1.0, 'at least 0') for name, weight in [
        ('cr', 'weight'), ('bcr', 'weight_real'), ('bcr', 'weight_fake'), ('zcr', 'weight_d'), ('zcr', 'weight_g')]),
    *((name, 'shift', 0.75, 'at least 0 and at most 0.5') for name in ('cr', 'bcr')),
    *((name, 'flip', 1.5, 'at least 0 and at most 1') for name in ('cr', 'bcr')), ('zcr', 'noise', 0.0, 'more than 0'),
    *((name, field, value, words) for name in ('insgen', 'fakeclr') for field, value, words in [
        ('weight_fake', -1.0, 'at least 0'), ('weight_g', -1.0, 'at least 0'),
        ('temperature', 0.0, 'more than 0'),
        ('momentum', 1.5, 'at least 0 and at most 1'), ('perturb', -1.0, 'at least 0')]),
    ('insgen', 'weight_real', -1.0, 'at least 0'), ('fakeclr', 'clamp', 0.0, 'more than 0'),
    *((name, queue, 0, 'at least 1 and at most 1000000')
      for name, queue in [('insgen', 'queue_real'), ('insgen', 'queue_fake'), ('fakeclr', 'queue')]),
    ('vision', 'weight', -1.0, 'at least 0'), ('vision', 'warmup', -1.0, 'at least 0'),
    ('vision', 'size', 32, 'at least 64 and at most 512'), ('vision', 'smooth', 0.0, 'more than 0 and at most 1'),
    ('tdgan', 'remind', -1.0, 'at least 0'), ('tdgan', 'remind_interval', 0, 'at least 1'),
    ('tdgan', 'slots', -1, 'at least 0'), ('tdgan', 'warmup', -1.0, 'at least 0'),
    ('tdgan', 'patience', -1.0, 'at least 0'),
    ('tdgan', 'res', -1, 'at least 0 and at most 4096'),
    ('tdgan', 'labels', -1, 'at least 0 and at most 1000000'),
    ('tdgan', 'channels', 5, 'at least 1 and at most 4'), ('tdgan', 'grad_clip', 0.0, 'more than 0'),
    ('tdgan', 'grad_noise', -1.0, 'at least 0'), ('r2', 'final', -1.0, 'at least 0'),
    ('osgan', 'gamma_max', 0.0, 'more than 0'), ('osgan', 'gamma_max', NAN, 'more than 0'),
]


@pytest.mark.parametrize(('name', 'field', 'value', 'words'), IMPOSSIBLE)
def test_numbers_out_of_range_are_refused(name, field, value, words):
    of_loss = name in losses_ext.LOSSES
    config = make_config('-', loss=name if of_loss else 'logistic', regularizers={} if of_loss else {name: {field: value}})
    with pytest.raises(ValueError, match=f'^--{name}_{field}={value:g}: must be {words}$'):
        losses_ext.configure(config, {field: value} if of_loss else {})


def test_every_number_has_a_range():
    for name, target in {**losses_ext.REG_TYPES, **losses_ext.LOSSES}.items():
        for spec in losses_ext.method_options(target):
            assert bool(spec.within) == spec.type.startswith(('int', 'float')), f'{name}_{spec.name}'
            assert not spec.within or any((name, spec.name) == entry[:2] for entry in IMPOSSIBLE), f'{name}_{spec.name}: untested'


# Resuming, labels, accumulation.

@pytest.mark.parametrize('names', [*((name,) for name in METHODS), ('ggdr', 'diggan', 'weco', 'daco'),
                                   ('tdgan', 'ggdr', 'lecam'), ('r2', 'apa', 'lecam')], ids=','.join)
def test_resume_is_exact(data, names):
    if not set(names) <= set(METHODS):
        pytest.fail(f'{names} are not all registered')
    augment = dict(class_name='training.augment.AugmentPipe', xflip=1, scale=1, cutout=1)
    assert_resumes_exactly(zoo_config(data, names, batch_gpu=2, augment_kwargs=augment, p=0.8,
                                      **(dict(loss='osgan', game='logistic') if names[0] == 'r2' else {})), 4, 2)


EVERYTHING = pytest.mark.parametrize('names', [WITHOUT_CENTRES, WITH_CENTRES], ids=','.join)
SCHEMES = pytest.mark.parametrize('loss', ['logistic', 'osgan'])


def conditional_config(folder, names, loss, **changes):
    """Three classes, and two micro-batches in every phase."""
    paths = [make_dataset(folder / f'{i}.zip', num=12, num_classes=3, seed=i) for i in range(2)]
    config = zoo_config(paths, names, loss, 'logistic', batch_gpu=2,
                        data_shape=dict(c_dim=3, img_resolution=16, img_channels=3), **changes)
    (config['training_set_kwargs'] or config['centre_kwargs'])['use_labels'] = True
    return config


@EVERYTHING
@SCHEMES
def test_conditional_with_ada_and_accumulation(tmp_path, names, loss):
    augment = dict(class_name='training.augment.AugmentPipe', xflip=1, scale=1, brightness=1)
    check_that_it_runs(conditional_config(tmp_path, names, loss, target=0.6, ada_kimg=1, augment_kwargs=augment))


@EVERYTHING
@SCHEMES
def test_critics_are_told_the_classes_that_fakes_were_made_of(tmp_path, names, loss):
    """In all phases, whoever shares fakes with whom; G alone hears of the centre."""
    run = setup.build(conditional_config(tmp_path, names, loss), torch.device('cpu'))
    run.enter_stage(0)
    made, told = [], {name: [] for name in (*run.game.critics, *run.game.helpers)}
    generate, judge = run.game.generate, run.game.judge

    def generating(*args, **kwargs):
        made.append(generate(*args, **kwargs))
        return made[-1]

    def judging(ctx, critic, img, c, *args, **kwargs):
        told[critic.name] += [torch.equal(c, gen.c[:, :3]) for gen in made if gen.img.data_ptr() == img.data_ptr()]
        return judge(ctx, critic, img, c, *args, **kwargs)
    run.game.generate, run.game.judge = generating, judging
    reals, shared = [stream.next_batch() for stream in run.reals], {}
    for phase in run.phases:
        run_phase(run, phase, reals, shared)
    assert all(len(right) >= 2 and all(right) for right in told.values()), told


@EVERYTHING
@SCHEMES
def test_reduced_precision_runs(data, names, loss):
    """bfloat16, which a CPU can compute as well."""
    config = zoo_config(data, names, loss, 'logistic')
    for kwargs in (config['G_kwargs']['synthesis_kwargs'], config['D_kwargs']):
        kwargs.update(num_fp16_res=2, conv_clamp=256, reduced_dtype='bfloat16')
    check_that_it_runs(config)


# Weights under accumulation.

def test_accumulation_changes_no_relative_weight(data):
    """Over two rounds every term's gradient is twice as large,
    so WeCo's, which the batch does not enter, is exactly so."""
    norms = []
    for batch_gpu in (4, 2):
        run = setup.build(zoo_config(data, ['weco'], batch_gpu=batch_gpu), torch.device('cpu'))
        run.enter_stage(0)
        weco = next(r for r in run.game.regularizers if type(r).__name__ == 'WeCo')
        run.game.adversarial = type(run.game.adversarial)(G=lambda f, r: f * 0, D_fake=lambda f: f * 0,
                                                         D_real=lambda r: r * 0)
        phase = next(phase for phase in run.phases if phase.name == 'D2main')
        run_phase(run, phase, [run.reals[0].next_batch()], {})
        assert weco.options.weight > 0
        norms.append(torch.stack([p.grad.norm() for p in run.game.critics['D2'].module.parameters()]))
    torch.testing.assert_close(norms[1], 2 * norms[0], rtol=1e-4, atol=1e-9)


# A method of one's own: one class, one line.

@dataclass(frozen=True)
class Options:
    """Options of the method of this test."""
    weight: float = option(0.01, 'Strength.')


class SmallLogits(Regularizer):
    """weight * D(x)^2 on reals, and as much on fakes."""
    Options = Options

    def d_real(self, ctx):
        return self.options.weight * ctx.real.logits.square()

    def d_fake(self, ctx):
        return self.options.weight * ctx.fake.logits.square()


def test_a_method_of_ones_own_is_one_class_and_one_line(data, monkeypatch):
    monkeypatch.setitem(losses_ext.REG_TYPES, 'small', f'{__name__}:SmallLogits')       # The line.
    assert losses_ext.parse_reg_type('small,ggdr') == ['ggdr', 'small']
    assert [spec.name for spec in losses_ext.method_options(f'{__name__}:SmallLogits')] == ['weight']
    everything = (*largest(data, 'logistic', None), 'small')
    check_that_it_runs(zoo_config(data, everything))
    with_it, without = (gradients(zoo_config(data, names)) for names in (('small',), ()))
    assert not torch.equal(with_it['Dmain/D/b4.out.weight'], without['Dmain/D/b4.out.weight'])
    assert all(torch.equal(with_it[key], without[key]) for key in without if not key.startswith('Dmain'))
