"""Networks that images are made for: constants in eval mode meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def held(*networks: nn.Module) -> Iterator[None]:
    """Within it the networks are in eval mode and none of their parameters has a gradient; then they are as they were.

    A gradient that passed through a student would else be added to that of its next step. What is compiled of them
    runs as plain PyTorch: these batches have another size.
    """
    modes = [(module, module.training) for network in networks for module in network.modules()]
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    for network in networks:
        network.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.compiler.set_stance("force_eager"):  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training
