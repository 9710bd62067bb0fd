"""BatchNorm's counters of batches, raised all at once: each layer would raise its own, a launch of one number."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_NAME = "num_batches_tracked"


class BatchCounters:
    """Hides the counters of a stage's BatchNorms from a forward pass (`with counters():`), and raises them behind it.

    How often a layer is used in a forward pass cannot be read from the modules: `learn` looks at a step in which they
    have counted themselves. Until then nothing is hidden. A layer whose running statistics are plain means reads its
    counter, and keeps it; so does SyncBatchNorm, which asks for it.
    """

    def __init__(self, stage: nn.Module):
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
        norms = [module for module in stage.modules() if isinstance(module, kinds) and module.momentum is not None]
        norms = [norm for norm in norms if not isinstance(norm, nn.SyncBatchNorm)]
        self.norms = [norm for norm in norms if norm.num_batches_tracked is not None]
        self.passes: list[int] = []
        """The forward passes that each layer has in one of the stage's."""

    def counts(self) -> list[int]:
        """The counters; waits for the device."""
        counters = [_counter(norm) for norm in self.norms]
        return torch.stack(counters).tolist() if counters else []

    def learn(self, before: list[int], passes: int) -> None:
        """Takes over from the next forward pass on. before: the `counts` before so many forward passes of the stage."""
        self.passes = [(now - then) // passes for now, then in zip(self.counts(), before, strict=True)]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if not any(self.passes):
            yield
            return
        counters = [_counter(norm) for norm in self.norms]
        try:
            for norm in self.norms:
                norm._buffers[_NAME] = None
            yield
        finally:
            for norm, counter in zip(self.norms, counters, strict=True):
                norm._buffers[_NAME] = counter
        for passes in {*self.passes} - {0}:
            raised = [counter for counter, own in zip(counters, self.passes, strict=True) if own == passes]
            torch._foreach_add_(raised, passes)  # pyright: ignore[reportPrivateImportUsage]


def _counter(norm: nn.Module) -> Tensor:
    counter = norm._buffers[_NAME]
    assert counter is not None
    return counter
