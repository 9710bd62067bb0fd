"""Pooling is torch's adaptive one, with the same gradients, from whatever size to whatever size."""

import pytest
import torch
import torch.nn.functional as F

from fastkd.support.pooling import PooledTo, pooled_to


@pytest.mark.parametrize("size", ((8, 6), (4, 3), (4, 6), (3, 2), (1, 1), (5, 4), (7, 5), (11, 13)))
def test_it_is_adaptive_average_pooling(size):
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, *size, dtype=torch.float64)
    found, expected = pooled_to(x, size), F.adaptive_avg_pool2d(x, size)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((pooled * weights).sum(), x)[0] for pooled in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_as_a_layer_it_has_no_state():
    x = torch.randn(1, 2, 7, 7)
    layer = PooledTo(4)
    torch.testing.assert_close(layer(x), F.adaptive_avg_pool2d(x, 4))
    assert not layer.state_dict()
