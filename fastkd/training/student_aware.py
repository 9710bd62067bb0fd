"""A student-friendly teacher: it learns together with branches that are grafted on it (SFTN)."""

import contextlib

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses import SFTNLoss
from fastkd.methods.base import MethodLoss
from fastkd.methods.mixed import loss_on_mixed
from fastkd.networks.base import Network
from fastkd.support.words import counted
from fastkd.training.stages import Stage, StageLoss


class StudentAware(Stage):
    """A student-friendly teacher: it learns together with the branches grafted on it (SFTN, Park et al. 2021).

    In its first `frozen_epochs` the teacher is frozen, with BatchNorm in eval mode, and the branches alone learn.
    """

    def __init__(self, teacher: Network, branches: nn.ModuleDict, loss: SFTNLoss, *, frozen_epochs: int = 0):
        """branches: by the number of the teacher's block that they stand on; 0 is the stem."""
        super().__init__()
        self.network, self.branches, self.loss = teacher, branches, loss
        self.frozen_epochs, self.frozen = frozen_epochs, frozen_epochs > 0
        if frozen_epochs:
            self.why_steps_differ = f"the teacher is frozen in its first {counted(frozen_epochs, 'epoch')}"
            self.counts_for_itself = True

    def begin_epoch(self, epoch: int) -> None:
        self.frozen = epoch < self.frozen_epochs
        self.network.train(not self.frozen)

    def forward(self, batch: Batch) -> StageLoss:
        return self.loss_of(*self._logits(batch.images[0], frozen=self.frozen), batch)

    def loss_of(self, teacher_logits: Tensor, branch_logits: list[Tensor], batch: Batch) -> StageLoss:
        def loss(batch: Batch) -> MethodLoss:
            found = self.loss(teacher_logits, branch_logits, batch.labels)
            terms = {"teacher_ce": found.teacher_ce, "kl": found.kl, "branch_ce": found.branch_ce}
            return MethodLoss(found.total, terms, found.hits[0])

        return StageLoss.of_method(loss_on_mixed(loss, batch, "both"))

    def predictions(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        teacher_logits, branch_logits = self._logits(images_BCHW)
        names = (f"branch {block}" for block in self.branches)
        return {"teacher": teacher_logits, **dict(zip(names, branch_logits, strict=True))}

    def _logits(self, images_BCHW: Tensor, *, frozen: bool = False) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad() if frozen else contextlib.nullcontext():
            output = self.network(images_BCHW)
        maps = (output.stem, *output.features)
        numbered = enumerate(self.branches.items())
        branches = [self._logits_of(branch, maps[int(block)], place) for place, (block, branch) in numbered]
        return output.logits, branches

    def _logits_of(self, branch: nn.Module, feature: Tensor, place: int) -> Tensor:
        """What a branch says of the teacher's map; place: its own among the branches."""
        return branch(feature).logits
