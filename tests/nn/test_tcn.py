"""Temporal convolutional networks: what they see, and what they refuse."""

import numpy as np
import pytest

import tinygrad_rnn as tg

nn = tg.nn


@pytest.mark.parametrize(("kernel", "levels"), [(2, 3), (3, 2), (5, 1), (1, 2)])
def test_the_receptive_field_is_what_an_output_depends_on(kernel, levels):
    net = nn.TCN(2, [3] * levels, kernel, dtype=np.float64).eval()
    for p in net.parameters():  # nothing negative, and no ReLU is silent
        p.numpy()[...] = np.abs(p.numpy()) + 0.01
    length = net.receptive_field + 3
    assert net.receptive_field == 1 + 2 * (kernel - 1) * (2**levels - 1)
    x = tg.ones(4, 2, length, dtype=tg.float64, requires_grad=True)
    (dx,) = tg.grad(net(x)[..., -1].sum(), [x])
    reached = np.flatnonzero(np.abs(dx.numpy()).sum((0, 1)))
    assert reached.min() == 3 and reached.max() == length - 1


def test_strict_refuses_what_it_cannot_see():
    net = nn.TCN(2, [3, 3], 2, strict=True)
    assert net.receptive_field == 7 and net(tg.zeros(1, 2, 7)).shape == (1, 3, 7)
    with pytest.raises(ValueError, match="8 steps is longer than the receptive field of 7"):
        net(tg.zeros(1, 2, 8))
    net.strict = False
    assert net(tg.zeros(2, 8)).shape == (3, 8)
    with pytest.raises(ValueError, match="a number for each block"):
        nn.TCN(2, [])


def test_published_receptive_fields():
    assert [nn.TCN(1, [2] * 8, k).receptive_field for k in (7, 8)] == [3061, 3571]


def test_a_block_keeps_its_input_where_widths_agree():
    assert nn.TemporalBlock(3, 3).downsample is None
    block = nn.TemporalBlock(3, 3).eval()
    with tg.no_grad():
        for conv in (block.conv1, block.conv2):
            conv.bias[...] = 0
            conv.parametrizations.weight.original0[...] = 0
    x = tg.rand(2, 3, 5)
    np.testing.assert_array_equal(block(x).numpy(), x.numpy())
