"""A part of a teacher inside a loss."""

import copy

from torch import Tensor, nn


class Frozen(nn.Module):
    """A part of a teacher: a private copy, never trained and never in training mode.

    Gradients pass through it.
    """

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.parts = nn.Sequential(*copy.deepcopy(modules))
        self.requires_grad_(False).train()

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.parts(x)
