"""Parameters that a step leaves alone, though their gradients, all zeros, are there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastkd.training.paths import Used


@contextmanager
def leaving_alone(optimizer: torch.optim.Optimizer, entries: Sequence[Used]) -> Iterator[None]:
    """Within, an optimiser's step changes neither the parameters that are not used nor what it keeps of them.

    It is as if they had no gradient: no weight decay, no momentum. Nothing is read on the host, so that a recorded step
    does the same. State that the step made is zero afterwards, as if it had not been.
    """
    saved = [
        (used, tensor, tensor.detach().clone())
        for parameters, used in entries
        for tensor in _tensors(optimizer, parameters)
    ]
    known = {id(tensor) for _, tensor, _ in saved}
    yield
    with torch.no_grad():
        for used, tensor, before in saved:
            tensor.copy_(torch.where(used, tensor, before))
        for parameters, used in entries:
            for tensor in _tensors(optimizer, parameters):
                if id(tensor) not in known:
                    tensor.mul_(used)


def _tensors(optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> Iterator[Tensor]:
    """The parameters, and the tensors that the optimiser keeps of them."""
    for parameter in parameters:
        yield parameter
        yield from (value for value in optimizer.state.get(parameter, {}).values() if isinstance(value, Tensor))
