"""The first step that was not finite, kept on the device until somebody looks."""

import torch
from torch import Tensor

from fastkd.training.stages import Numbers


class FirstBad:
    """Keeps which step was the first whose loss or gradient was not finite, and what its terms were."""

    def __init__(self, device: torch.device):
        self.steps = torch.zeros((), dtype=torch.int64, device=device)
        """How many steps were done with that one; 0 while there is none."""
        self.names: tuple[str, ...] = ()
        self.values = torch.zeros(0, device=device)

    @property
    def step(self) -> Tensor:
        """That step, counted from 0; -1 while there is none."""
        return self.steps - 1

    @property
    def terms(self) -> dict[str, Tensor]:
        """The loss and its terms in that step, each a scalar."""
        return dict(zip(self.names, self.values.unbind(), strict=True))

    def keep(self, bad: Tensor, steps: Tensor, numbers: Numbers) -> None:
        """Takes note of a step, in place. bad: 1 where it was not finite, else 0; steps: how many are done with it."""
        if self.names != numbers.names:
            self.names, self.values = numbers.names, torch.zeros_like(numbers.values)
        first = bad > self.steps  # 1 > 0
        torch.where(first, steps, self.steps, out=self.steps)
        torch.where(first, numbers.values, self.values, out=self.values)
