"""Two processes with half a batch each are one with all of it, for the methods that do not
couple samples; and all methods run in two processes, whose networks stay the same.
"""
import torch
from test_zoo import WITH_CENTRES, WITHOUT_CENTRES, zoo_config
from tiny import make_dataset
from zoo_worker import gradients_of_two_iterations, worker

from torch_utils import distributed


def test_two_processes_are_one(tmp_path):
    data = [make_dataset(tmp_path / f'{i}.zip', num=12, seed=i) for i in range(2)]
    configs = [zoo_config(data, names, loss, 'logistic', gpus=2, batch_gpu=2)
               for loss in ('logistic', 'osgan') for names in (WITHOUT_CENTRES, WITH_CENTRES)]
    distributed.launch(worker, 2, (str(tmp_path), configs))
    first, second = gradients_of_two_iterations()
    assert not torch.allclose(first['b4.fc.weight'], second['b4.fc.weight'], rtol=1e-3)     # There are running means.
    for rank in range(2):
        for grads, expected in zip(torch.load(tmp_path / f'rank{rank}.pt'), (first, second)):
            for name, grad in expected.items():
                torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=1e-5, msg=name)
