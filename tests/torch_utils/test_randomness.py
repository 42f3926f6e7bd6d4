"""Random streams: functions of (seed, rank, images so far, consumer) and of nothing else."""
import numpy as np
import pytest
import torch

from torch_utils.randomness import Streams


def draw(streams, nimg=64000, consumer='Gmain/0/latents'):
    return torch.randn([4], generator=streams.generator(nimg, consumer))


def test_seed_is_blake2b_of_the_key():
    # printf '7/1/64000/Gmain/0/latents' | b2sum -l 64; printf -- '-3/0/0/ü' | b2sum -l 64
    assert Streams(seed=7, rank=1).seed_of(64000, 'Gmain/0/latents') == 0xb54c35ce9ecea7e0
    assert Streams(seed=-3).seed_of(0, 'ü') == 0x143df4fac2d1c3d1


def test_generators_have_the_seed_of_their_stream():
    streams = Streams(seed=7, rank=1)
    assert streams.generator(64000, 'Gmain/0/latents').initial_seed() == 0xb54c35ce9ecea7e0
    expected = np.random.default_rng(0xb54c35ce9ecea7e0).normal(size=3)
    np.testing.assert_array_equal(streams.numpy(64000, 'Gmain/0/latents').normal(size=3), expected)


def test_numbers_do_not_depend_on_the_order_of_calls_nor_on_other_draws():
    streams = Streams(seed=0)
    alone = draw(streams)
    torch.randn([10])
    first = streams.generator(64000, 'Gmain/0/latents')
    second = streams.generator(64000, 'Gmain/0/noise')
    torch.randn([10], generator=second)
    assert torch.equal(torch.randn([4], generator=first), alone)


def test_drawing_leaves_the_global_generators_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    draw(Streams(seed=0))
    Streams(seed=0).numpy(0, 'z').normal()
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.parametrize(('seed', 'rank', 'nimg', 'consumer'), [
    (1, 0, 64000, 'Gmain/0/latents'),
    (0, 1, 64000, 'Gmain/0/latents'),
    (0, 0, 64032, 'Gmain/0/latents'),
    (0, 0, 64000, 'Dmain/0/latents'),
])
def test_every_part_of_the_key_counts(seed, rank, nimg, consumer):
    assert not torch.equal(draw(Streams(seed, rank), nimg, consumer), draw(Streams(seed=0)))
