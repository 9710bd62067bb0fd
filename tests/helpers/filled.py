"""Fills networks by the rule of the golden collection, which knows the roles and shapes of tensors alone."""

import numpy as np
import torch
from torch import Tensor, nn


def pseudo_random(n: int, offset: int) -> Tensor:
    """[n] numbers in [0, 1), a mixing of the index: `golden/README.md`, "Functional fingerprint"."""
    x = np.arange(offset + 1, offset + 1 + n, dtype=np.uint32)  # arithmetic of arrays wraps around at 2**32
    x *= np.uint32(0x9E3779B1)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return torch.from_numpy(x / 2.0**32)


@torch.no_grad()
def fill(network: nn.Module, shift: int = 0) -> None:
    """shift: what is added to every offset, so that networks of one shape differ."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            n, out = module.weight.numel(), module.weight.shape[0]
            bound = np.sqrt(6 / (n / out))
            module.weight.copy_(((2 * pseudo_random(n, out + shift) - 1) * bound).view_as(module.weight))
            if module.bias is not None:
                module.bias.copy_(0.2 * (2 * pseudo_random(out, 7 + shift) - 1))
        elif isinstance(module, nn.BatchNorm2d):
            n = module.num_features
            module.weight.copy_(0.8 + 0.4 * pseudo_random(n, 11 + shift))
            module.bias.copy_(0.2 * (2 * pseudo_random(n, 13 + shift) - 1))
            module.running_mean.copy_(0.1 * (2 * pseudo_random(n, 17 + shift) - 1))
            module.running_var.copy_(0.9 + 0.4 * pseudo_random(n, 19 + shift))
