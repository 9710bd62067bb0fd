"""Networks that are constants for a while."""

import pytest
import torch
from torch import nn

from fastkd.synthesis.held import held


def test_they_are_constants_within_and_as_they_were_behind_it():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    network[1].eval()
    network[2].requires_grad_(False)
    images = torch.randn(4, 2, requires_grad=True)
    with pytest.raises(ZeroDivisionError), held(network):
        assert not any(module.training for module in network.modules())
        network(images).sum().backward()
        raise ZeroDivisionError
    assert images.grad is not None and all(parameter.grad is None for parameter in network.parameters())
    assert [module.training for module in network] == [True, False, True]
    assert [parameter.requires_grad for parameter in network.parameters()] == [True] * 4 + [False] * 2
    assert network[1].num_batches_tracked == 0
