"""One optimisation step: raw batch, augmentation, stage, backward, optimiser, counters."""

import torch
from torch import Tensor, nn

from fastkd.data.base import RawBatch
from fastkd.optimisation import set_learning_rate
from fastkd.stages import Stage, StageLoss


class Step:
    """`step(raw)` trains on one raw batch and returns its loss terms and hits, still on the device.

    Nothing in it waits for the device. A loss that is not finite changes no weight; the first such step is kept in
    `first_bad_step` (-1 while there is none) for the trainer's next look.
    """

    def __init__(
        self,
        stage: Stage,
        prepare: nn.Module,
        optimizer: torch.optim.Optimizer,
        learning_rates: Tensor,
        device: torch.device,
    ):
        self.stage, self.prepare, self.optimizer, self.device = stage, prepare, optimizer, device
        self.learning_rates = learning_rates.to(device)
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.epoch = torch.zeros((), dtype=torch.int64, device=device)
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.bad_terms: dict[str, Tensor] = {}
        """The terms of that step."""

    def __call__(self, raw: RawBatch) -> StageLoss:
        batch = self.prepare(raw.to(self.device), self.step, self.epoch)
        loss = self.stage(batch)
        loss.total.backward()
        bad = ~loss.total.detach().isfinite()
        self._keep_first_bad(bad, {"loss": loss.total.detach(), **loss.terms})
        # The fused optimisers skip the update where this is 1.
        self.optimizer.found_inf = bad.to(torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
        set_learning_rate(self.optimizer, self.learning_rates[self.step])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step = self.step + 1
        return StageLoss(loss.total.detach(), loss.terms, loss.hits)

    def _keep_first_bad(self, bad: Tensor, terms: dict[str, Tensor]) -> None:
        first = bad & (self.first_bad_step < 0)
        self.first_bad_step = torch.where(first, self.step, self.first_bad_step)
        for name, value in terms.items():
            self.bad_terms[name] = torch.where(first, value, self.bad_terms.get(name, value))
