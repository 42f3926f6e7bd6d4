"""Two gloo processes: the same gradients as one, equal
ranks, exact resume, one decision to stop or to give up."""
import torch
from tiny import assert_same_bits, make_dataset, tensors
from two_processes import gradient_config, gradients, worker

from torch_utils import distributed


def test_two_processes_train_as_one(tmp_path):
    data = make_dataset(tmp_path / 'data.zip')
    z, real = torch.randn([4, 16]), torch.randn([4, 3, 16, 16])
    distributed.launch(worker, 2, (data, str(tmp_path), z, real))
    ranks = [torch.load(tmp_path / f'rank{rank}.pt') for rank in range(2)]

    alone = gradients(gradient_config(data, 1), z, real, 0, 1)
    assert alone.keys() == {'Gmain', 'Dmain', 'Dreg'}
    for rank in ranks:
        for phase, expected in alone.items():
            for grad, whole in zip(rank['grads'][phase], expected):
                torch.testing.assert_close(grad, whole, rtol=1e-4, atol=1e-6, msg=lambda text, p=phase: f'{p}: {text}')

    for rank in ranks:
        assert_same_bits(rank['resumed'], rank['straight'])
        assert_same_bits(rank['in_the_end'], rank['straight'])      # Gradients sent while others are computed are the same.
        assert rank['num_early'] > 20
    check_rounded(*ranks)
    one, two = (rank['straight'][1]['w_avg'] for rank in ranks)
    assert not torch.equal(one, two)            # Ranks draw their own latents.
    for one, two in zip(*(rank['without_images'] for rank in ranks)):       # Without and with a process that loads images.
        assert one == ('set: more than 10 images cannot be read', [         # It could have gone on.
            f'training-state-{nimg:09d}.safetensors' for nimg in (8, 4)])
        assert two[0] == one[0]
    # Both, though one was asked in the first iteration; the answer comes with the second.
    assert [rank['stopped'] for rank in ranks] == [8, 8]


def check_rounded(one, two):
    """Gradients that travelled as bfloat16: the same weights on both, nearly those of unrounded gradients."""
    for player in 'G', 'D':
        states = one['straight'], one['rounded'], two['rounded']
        before, mine, theirs = (tensors(state[0]['players'][player]['module']) for state in states)
        for name, values in mine.items():
            if name != '/mapping.w_avg':
                assert torch.equal(values, theirs[name]), name
        assert any(not torch.equal(mine[name], before[name]) for name in mine)
