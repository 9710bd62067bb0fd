"""A teacher for many students: its branches are paths of a supernet, others in every step (GTN)."""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses import SFTNLoss
from fastkd.networks.base import Network
from fastkd.networks.grafts import Branch
from fastkd.networks.supernet import layers_of
from fastkd.training.paths import Paths, PathSettings, Used
from fastkd.training.stages import StageLoss
from fastkd.training.student_aware import StudentAware


class GeneralTeacher(StudentAware):
    """A teacher that learns together with branches whose layers are drawn anew in each step (GTN, Binici et al. 2024).

    Drawn paths run what was drawn alone; a step is then not captured, as there are hundreds of thousands of them. With
    masks every candidate is run and all but the drawn one's result thrown away: the step is always the same work, it
    can be captured, and trains the same weights byte for byte.

    A branch with a zero in its path says the same of every image. It teaches the teacher that, and learns nothing in
    that step itself: BatchNorm behind a zero normalises what hardly varies, and gradients through it explode.
    """

    def __init__(
        self,
        teacher: Network,
        branches: nn.ModuleDict,
        loss: SFTNLoss,
        how: PathSettings,
        *,
        seed: int,
        classes: int,
        masks: bool = False,
        frozen_epochs: int = 0,
    ):
        super().__init__(teacher, branches, loss, frozen_epochs=frozen_epochs)
        layers = [layers_of(branch) for branch in branches.values()]
        self.paths, self.masks = Paths(layers, how, seed=seed, classes=classes), masks
        self.counts_for_itself = True
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64), persistent=False)
        self.epoch: Tensor
        self.taken: Tensor | None = None
        """[P,L] int64: the paths of the step that was begun."""
        self.cut_off: Tensor | None = None
        """[N] bool: the branches that these leave nothing to learn from; on the CPU, unless there are masks."""
        if not masks:
            count = self.paths.counts.prod().item()
            several = f"{self.why_steps_differ}, and " if self.why_steps_differ else ""
            self.why_steps_differ = f"{several}the supernet has {count:,} paths, a recording one of them (--gtn.masks)"

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self.epoch.fill_(epoch)

    def begin_step(self, step: int) -> None:
        if not self.masks:
            self._take(self.paths.drawn(torch.tensor(step, device=self._where)))

    def forward(self, batch: Batch) -> StageLoss:
        if self.masks:
            self._take(self.paths.drawn(batch.step))
        elif self.taken is None:  # nobody has begun a step
            self.begin_step(0)
        teacher_logits, branch_logits = self._logits(batch.images[0], frozen=self.frozen)
        loss = self.loss_of(teacher_logits, branch_logits, batch)
        return self._with_path_loss(loss, branch_logits, batch) if self.paths.how.learned else loss

    def predictions(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        paths = self.paths.tested(self.epoch.to(self._where))
        self.paths.choose(paths if self.masks else paths.tolist())
        return super().predictions(images_BCHW)

    def used(self) -> list[Used]:
        assert self.taken is not None and self.cut_off is not None
        if not self.masks:
            no = torch.zeros((), dtype=torch.bool, device=self.epoch.device)
            return [
                Used(tuple(branch.parameters()), no)
                for branch, cut in zip(self._branches(), self.cut_off, strict=True)
                if cut
            ]
        ends = [
            Used((*branch.transform.parameters(), *branch.tail.head.parameters()), ~cut)
            for branch, cut in zip(self._branches(), self.cut_off, strict=True)
        ]
        return [*self.paths.used(self.taken, self.cut_off), *ends]

    def _branches(self) -> list[Branch]:
        return list(self.branches.values())  # pyright: ignore[reportReturnType]

    def _logits_of(self, branch: nn.Module, feature: Tensor, place: int) -> Tensor:
        if not self.training:
            return super()._logits_of(branch, feature, place)
        assert self.cut_off is not None
        if not self.masks and not self.cut_off[place]:
            return super()._logits_of(branch, feature, place)
        cut = self.cut_off[place].to(feature.device)
        before = [(buffer, buffer.clone()) for buffer in branch.buffers()]
        needs_graph = self.masks or self.frozen  # else there may be nothing at all to differentiate
        with contextlib.nullcontext() if needs_graph else torch.no_grad():
            logits = super()._logits_of(branch, feature, place)
        for buffer, value in before:
            # Autograd keeps the statistics of each pass, and would refuse them if it saw that they change.
            buffer.data.copy_(torch.where(cut, value, buffer.data))
        return torch.where(cut, logits.detach(), logits)

    def _take(self, paths_PL: Tensor) -> None:
        self.taken = paths_PL
        read = paths_PL if self.masks else paths_PL.cpu()
        self.paths.choose(read if self.masks else read.tolist())
        self.cut_off = self.paths.cut_off(read)

    @property
    def _where(self) -> torch.device:
        """The device on which paths are drawn: the host needs their numbers, unless there are masks."""
        on_device = self.masks or self.paths.how.learned
        return self.epoch.device if on_device else self.paths.counts.device

    def _with_path_loss(self, loss: StageLoss, branch_logits: list[Tensor], batch: Batch) -> StageLoss:
        assert self.taken is not None
        found = [F.cross_entropy(logits.detach().float(), batch.labels) for logits in branch_logits]
        path_loss = self.paths.loss(self.taken.to(self.epoch.device), torch.stack(found))
        return loss._replace(total=loss.total + path_loss, terms=loss.terms | {"path": path_loss.detach()})
