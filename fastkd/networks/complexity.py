"""What a network takes: parameters, and multiplications of one image."""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fastkd.support.errors import UserError


class Complexity(NamedTuple):
    parameters: int
    """Numbers that are learned."""
    multiply_adds: int
    """Of the convolutions and matrix products of one image: what papers call FLOPs."""


def complexity(network: nn.Module, image_size: int) -> Complexity:
    """Counts on one image of that size; on the meta device nothing is computed. Raises UserError where it is small."""
    device = next(network.parameters()).device
    counter = FlopCounterMode(display=False)
    was_training = network.training
    try:
        with torch.no_grad(), counter:
            network.eval()(torch.empty(1, 3, image_size, image_size, device=device))
    except RuntimeError as error:
        raise UserError(f"the network takes no images of {image_size} pixels: {str(error).splitlines()[0]}") from None
    finally:
        network.train(was_training)
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return Complexity(parameters, counter.get_total_flops() // 2)
