"""For pytest: the tests of the numerical fixtures on a GPU, with ten times the tolerance that they have on a CPU.

Everything that such a test makes, tensors and networks, is made on the device: the tests themselves name none.
`CHECK_DEVICE=fake` tries this plugin where there is no GPU, on the stand-in of the tests. What was found, by test and by
output, goes to the file `CHECK_RESULT`.
"""
import json
import os
from contextlib import ExitStack

import fixture_data
import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from torch_utils import precision
from torch_utils.ops import backend, upfirdn2d

MORE = 10                           # Times the tolerance of a CPU.
DEVICE = torch.device('cuda')
RANDOM = 'seeded'                   # In the names of tests whose numbers come from the random numbers of a CPU.
outcomes, worst, within = {}, {}, ExitStack()


class OnDevice(TorchFunctionMode):
    """What is made without naming a device is made on the GPU; arrays are made from copies on the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in _device_constructors() and kwargs.get('device') is None:
            kwargs['device'] = DEVICE
        if func in (Tensor.numpy, Tensor.__array__):
            args = args[0].detach().cpu(), *args[1:]
        return func(*args, **kwargs)


def pytest_configure():
    """Before any test is read, since some make tensors then. torch lets cuDNN use TF32 until it is told otherwise."""
    precision.allow_tf32(False)
    if os.environ['CHECK_DEVICE'] == 'fake':
        from fake_cuda import FakeCuda
        within.enter_context(FakeCuda())
        why_not = backend.why_not                   # Compiled operators, of which the CPU's kernels compute.
        backend.why_not = lambda device, dtype: why_not('cpu', dtype)
    from_numpy = torch.from_numpy
    torch.from_numpy = lambda array: from_numpy(array).to(DEVICE)
    upfirdn2d.setup_filter.__defaults__ = DEVICE, *upfirdn2d.setup_filter.__defaults__[1:]
    fixture_data.Case.check = check
    within.enter_context(OnDevice())


def pytest_unconfigure():
    """Afterwards pytest goes on as ever."""
    within.close()


def pytest_collection_modifyitems(config, items):
    """A GPU draws other random numbers than a CPU."""
    left_out = [item for item in items if RANDOM in item.name]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def check(self, name, obtained):
    """In the place of `Case.check`: notes how far off the worst number is, in units of the CPU's tolerance."""
    if (numbers := self.compared(name, obtained)) is None:
        return
    obtained, expected, allowed = numbers
    worst[f'{self.id}/{name}'] = ratio = float(np.max(np.abs(obtained - expected) / np.maximum(allowed, 1e-300), initial=0))
    assert ratio <= MORE, f'{self.id}: {name}: off by {ratio:.3g} times the tolerance'


def pytest_runtest_logreport(report):
    """The last lines of a failure tell enough."""
    if report.when == 'call' or report.outcome != 'passed':
        outcomes[report.nodeid] = report.outcome, str(report.longrepr)[-600:] if report.outcome == 'failed' else ''


def pytest_sessionfinish():
    """For the part of gpu_check.py that started this."""
    with open(os.environ['CHECK_RESULT'], 'w') as file:
        json.dump(dict(outcomes=outcomes, worst=worst), file)
