"""What an iteration costs: passes through G and D, counted, against what each formula needs.

Backward passes are told apart: `in` reaches what was put in but no weights, `w` reaches
the weights too. A pass back through a gradient (R1, path length, DigGAN, ...) is not
seen here; there is one for every `in` that a term of the weights is made of.
"""
from collections import Counter

import pytest
import torch
from test_zoo import VIEWS
from tiny import make_config, make_dataset

import losses_ext
from training import setup
from training.training_loop import run_phase

TWO_CRITICS = {'G': 2, 'G w': 1, 'D': 6, 'D in': 2, 'D w': 4}
THREE_CRITICS = {'G': 2, 'G w': 1, 'D': 9, 'D in': 3, 'D w': 6}
BASE = {'G': 2, 'G w': 1, 'D': 3, 'D in': 1, 'D w': 2}
MAIN = {                        # Main steps: (--reg_type, its options, --loss, its options) -> passes of one iteration.
    'base': ({}, 'logistic', {}, BASE),
    'ggdr': (dict(ggdr=dict(res='8')), 'logistic', {}, BASE),
    'diggan, not due': (dict(diggan={}), 'logistic', {}, BASE),
    'diggan, due': (dict(diggan=dict(interval=1)), 'logistic', {}, {**BASE, 'D in': 3}),
    'weco': (dict(weco={}, genco={}), 'logistic', {}, TWO_CRITICS),
    'daco': (dict(daco={}, genco={}), 'logistic', {}, TWO_CRITICS),
    'genco': (dict(weco={}, daco={}, genco={}), 'logistic', {}, THREE_CRITICS),
    'genco, fresh fakes': (dict(weco={}, daco={}, genco=dict(fakes='fresh')), 'logistic', {}, {**THREE_CRITICS, 'G': 4}),
    'osgan exact': ({}, 'osgan', {}, {'G': 1, 'G w': 1, 'D': 2, 'D in': 1, 'D w': 2}),
    'osgan simple': ({}, 'osgan', dict(form='simple', force=True), {'G': 1, 'G w': 1, 'D': 2, 'D w': 2}),
    'osgan full': ({}, 'osgan', dict(form='full', force=True), {'G': 1, 'G w': 1, 'D': 2, 'D w': 2}),
    'osgan symmetric': ({}, 'osgan', dict(form='simple', game='saturating'), {'G': 1, 'G w': 1, 'D': 2, 'D w': 2}),
    'osgan and genco': (dict(weco={}, daco={}, genco={}), 'osgan', {}, {'G': 1, 'G w': 1, 'D': 6, 'D in': 3, 'D w': 6}),
    'tdgan, one centre on line': (
        dict(tdgan=dict(schedule='0:1,1:1')), 'logistic', {}, {**BASE, 'G': 3, 'G w': 2, 'teacher': 1}),
    'tdgan, two centres on line': (
        dict(tdgan=dict(schedule='0:1,1+2:1')), 'logistic', {},
        {'G': 5, 'G w': 3, 'teacher': 1, 'D': 6, 'D in': 2, 'D w': 4}),
    'lecam': (dict(lecam=dict(start=0)), 'logistic', {}, BASE),
    'apa': (dict(apa=dict(p=0.5)), 'logistic', {}, BASE),
    'cr': (dict(cr=dict(shift=0.125)), 'logistic', {}, {**BASE, 'D': 4, 'D w': 3}),
    'bcr': (dict(bcr=dict(shift=0.125)), 'logistic', {}, {**BASE, 'D': 5, 'D w': 4}),
    'zcr': (dict(zcr={}), 'logistic', {}, {**BASE, 'G': 4, 'G w': 2, 'D': 4, 'D w': 3}),
    'zcr and genco, which share their fakes': (
        dict(weco={}, genco={}, zcr=dict(weight_g=0.0)), 'logistic', {}, {**TWO_CRITICS, 'G': 3, 'D': 8, 'D w': 6}),
    'insgen': (dict(insgen=dict(queue_real=4, queue_fake=4)), 'logistic', {},
               {**BASE, 'G': 3, 'D': 6, 'D in': 2, 'D w': 4, 'copy of D': 3}),
    'fakeclr': (dict(fakeclr=dict(queue=4)), 'logistic', {}, {**BASE, 'G': 3, 'D': 5, 'D in': 2, 'D w': 3, 'copy of D': 2}),
    'vision': (dict(vision=dict(size=64, warmup=0.0)), 'logistic', {}, {**BASE, 'head': 3, 'head in': 1, 'head w': 2}),
    'vision and osgan': (dict(vision=dict(size=64, warmup=0.0)), 'osgan', {},
                         {'G': 2, 'G w': 1, 'D': 2, 'D in': 1, 'D w': 2, 'head': 3, 'head in': 1, 'head w': 2}),
    'relativistic': ({}, 'relativistic', {}, {**BASE, 'D': 4}),
    'r2 in main steps': (dict(r2=dict(interval=1)), 'logistic', {}, {**BASE, 'D in': 2}),
}
LAZY = {                        # A critic's lazy step.
    'base': ({}, {'D': 1, 'D in': 1}),
    'r2': (dict(r2={}), {'G': 1, 'D': 2, 'D in': 2}),
    'gp': (dict(gp={}), {'G': 1, 'D': 1, 'D in': 1}),
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    return [make_dataset(folder / f'{i}.zip', num=8, seed=i) for i in range(3)]


def build(data, regularizers, loss='logistic', loss_options=None):
    """A run in its last stage."""
    options = {name: {**dict(data=','.join(data)), **fields} if name == 'tdgan' else fields
               for name, fields in regularizers.items()}
    config = make_config(data[0], loss=loss, regularizers=options, p=0, augment_kwargs=VIEWS)
    config['loss_kwargs'].update(game=loss, r1_gamma=0 if 'gp' in regularizers else 1)
    losses_ext.configure(config, loss_options or {})
    run = setup.build(config, torch.device('cpu'))
    for idx in range(len(run.stages)):
        run.enter_stage(idx)
    return run


def count_passes(run, monkeypatch):
    """A counter of all passes through G, the critics (as D) and the teacher from now on."""
    counts, in_grad = Counter(), []
    grad = torch.autograd.grad

    def flagged(*args, **kwargs):
        in_grad.append(True)
        try:
            return grad(*args, **kwargs)
        finally:
            in_grad.pop()

    monkeypatch.setattr(torch.autograd, 'grad', flagged)

    def watch(name, module):
        def forward(module, args, output):
            counts[name] += 1
            if isinstance(output, tuple):       # Of a critic the last maps: not every term goes through its logits.
                output = output[1].get(4, output[0])
            if output.requires_grad:
                output.register_hook(backward)

        def backward(_):
            learns = next(module.parameters()).requires_grad
            counts[f'{name} {"w" if learns and not in_grad else "in"}'] += 1

        module.register_forward_hook(forward)

    watch('G', run.game.G.module.synthesis)
    for critic in run.game.critics.values():
        watch('D', critic.module)
    for helper in run.game.helpers.values():
        watch('head', helper.module)
    for name, module in run.game.frozen.items():
        of = run.game.frozen_of.get(name, 'G')
        watch('teacher' if of == 'G' else f'copy of {of}', module.synthesis if of == 'G' else module)
    return counts


def run_phases(run, phases):
    """One iteration's share of these phases; not the first iteration, in which every interval is due."""
    run.nimg, run.batch_idx = run.batch_size, 1
    reals, shared = [stream.next_batch() for stream in run.reals], {}
    for phase in phases:
        run_phase(run, phase, reals, shared)


@pytest.mark.parametrize('name', MAIN)
def test_passes_of_main_steps(data, name, monkeypatch):
    regularizers, loss, loss_options, expected = MAIN[name]
    run = build(data, regularizers, loss, loss_options)
    counts = count_passes(run, monkeypatch)
    run_phases(run, [phase for phase in run.phases if phase.interval == 1])
    assert counts == expected


@pytest.mark.parametrize('name', LAZY)
def test_passes_of_the_lazy_step_of_a_critic(data, name, monkeypatch):
    regularizers, expected = LAZY[name]
    run = build(data, regularizers)
    counts = count_passes(run, monkeypatch)
    run_phases(run, [phase for phase in run.phases if phase.name == 'Dreg'])
    assert counts == expected


def test_passes_of_path_length(data, monkeypatch):
    run = build(data, {})
    counts = count_passes(run, monkeypatch)
    run_phases(run, [phase for phase in run.phases if phase.name == 'Greg'])
    assert counts == {'G': 1, 'G in': 1}
