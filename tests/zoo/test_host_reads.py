"""The steps of training never make the host wait for the device.

What would wait on a GPU is found on a CPU by its name: reading a number or an array from a tensor,
operations whose output's size depends on values, and tensors made from numbers of the host.
"""
import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
from test_zoo import METHODS, zoo_config
from tiny import make_dataset
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from training import setup
from training.augment import PIPES
from training.training_loop import run_phase

ROOT = Path(__file__).parents[2]
READS = {Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__array__, Tensor.__bool__, Tensor.__float__,
         Tensor.__int__, Tensor.__index__, Tensor.__contains__, torch.tensor}
WAITING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
ADA = {'class_name': 'training.augment.AugmentPipe', **PIPES['bgc']}
DIFFAUG = {'class_name': 'training.diffaugment.DiffAugment', 'policy': 'color,translation,cutout'}


def caller():
    """The line of this project that led here, as 'file: source'."""
    frames = [frame for frame in traceback.extract_stack() if str(ROOT) in frame.filename
              and not {'tests', '.venv'} & set(Path(frame.filename).parts)]
    return f'{Path(frames[-1].filename).relative_to(ROOT)}: {frames[-1].line}' if frames else 'elsewhere'


class Calls(TorchFunctionMode):
    """Notes who reads from a tensor, or makes one of numbers."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in READS or (func is Tensor.to and 'cpu' in args):
            self.found[caller()] += 1
        return func(*args, **(kwargs or {}))


class Operations(TorchDispatchMode):
    """Notes who calls operations that the host must wait for, whatever name they were called by."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = WAITING & set(func.tags)
        if func.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put):     # By mask, or by positions.
            waits = any(index is not None and index.dtype == torch.bool for index in args[1])
        if waits:
            self.found[caller()] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    return [make_dataset(folder / f'{i}.zip', num=12, seed=i) for i in range(2)]


def reads(config):
    """Who makes the host wait, in the second execution of every phase (in the first, constants are made)."""
    run = setup.build(config, torch.device('cpu'))
    run.enter_stage(0)
    for player in run.game.players:         # Adam keeps its count on the host, where reading it waits for nothing.
        player.optimizer.step = lambda: None
    calls, operations = Calls(), Operations()
    for i in range(2):
        batch, shared = [stream.next_batch() for stream in run.reals], {}
        for phase in run.phases:
            if i == 0:
                run_phase(run, phase, batch, shared)
            else:
                with calls, operations:
                    run_phase(run, phase, batch, shared)
    return calls.found + operations.found


@pytest.mark.parametrize('loss, game', [('logistic', None), ('relativistic', None), ('osgan', 'logistic'),
                                        ('osgan', 'relativistic')])
@pytest.mark.parametrize('aug', [None, DIFFAUG], ids=['noaug', 'diffaug'])
def test_no_recipe_makes_the_host_wait(data, loss, game, aug):
    assert reads(zoo_config(data, loss=loss, game=game, augment_kwargs=aug)) == {}


@pytest.mark.parametrize('name', METHODS)
def test_no_method_makes_the_host_wait(data, name):
    aug = dict(augment_kwargs=DIFFAUG) if name in ('insgen', 'fakeclr') else {}     # They need one; ADA's reads its margins.
    assert reads(zoo_config(data, [name], **aug)) == {}


@pytest.mark.parametrize('form', ['simple', 'full'])
def test_no_ratio_form_makes_the_host_wait(data, form):
    assert reads(zoo_config(data, loss='osgan', game='logistic', form=form, force=True)) == {}


def test_labels_of_a_paired_game_with_codes_stay_on_the_device(data):
    assert reads(zoo_config(data, ['tdgan'], loss='relativistic')) == {}


def test_augmentation_waits_for_its_margins_only(data):
    """Once per draw that is applied to images; see `Warp`."""
    found = reads(zoo_config(data, augment_kwargs=ADA, p=0.5))
    assert found == {'training/warp.py: (left, top), (right, bottom) = self._on_host.tolist()': 4}


@pytest.mark.parametrize('read', [
    lambda x: x.sum().item(), lambda x: bool(x.sum() > 0), lambda x: x.cpu(), lambda x: x[x > 0], lambda x: x.nonzero(),
    lambda x: x.to('cpu'), lambda x: float(x[0]), lambda x: x.masked_select(x > 0), lambda x: torch.tensor(1.0) * x,
    lambda x: x.unique()])
def test_what_waits_is_found(read):
    x = torch.ones(3)
    with Calls() as calls, Operations() as operations:
        read(x)
    assert calls.found + operations.found
