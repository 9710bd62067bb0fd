"""Flow of solution procedure (Yim, Joo, Bae, Kim: "A gift from knowledge distillation: fast optimization, network
minimization and transfer learning", CVPR 2017)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses.features import flow_distance
from fastkd.methods.base import (
    Context,
    Method,
    MethodLoss,
    PrestageTraining,
    PrestageWork,
    up_to_block,
    weighted,
)
from fastkd.methods.maps import blocks_left_out
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError
from fastkd.support.plain import Checked
from fastkd.support.ranges import EpochsOrNone, Weight


@dataclass(frozen=True, kw_only=True)
class FSPSettings(Checked):
    """Squared distance of the FSP matrices, which tell how the channels of a map go with those of the next.

    As published, it trains the student's blocks in a stage of its own and has no part in what follows.
    """

    epochs: EpochsOrNone = 30
    """Epochs of that stage, at the student's learning rate (RepDistiller); 0 for none."""
    weight: Weight = 0.0
    """Weight in the student's own training (RepDistiller is given 50 and does not use it; KD-Zoo trains jointly)."""


class FSP(Method):
    """Compares the maps behind the stem and the blocks, whose channels have to agree."""

    Settings = FSPSettings
    about = "flow from block to block"
    teachers_needed = (1, 1)

    def __init__(self, settings: FSPSettings, context: Context):
        super().__init__(settings, context)
        student, teacher = maps(context.student_shapes), maps(context.teacher_shapes[0])
        for place, (s, t) in enumerate(zip(student, teacher, strict=False)):
            if s.shape[1] != t.shape[1]:
                where = f"block {place}" if place else "the stem"
                raise UserError(
                    f"fsp: student and teacher need the same channels, behind {where} they have {s.shape[1]} and "
                    f"{t.shape[1]}"
                )
        self.notes += blocks_left_out("fsp", len(student) - 1, len(teacher) - 1)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_block(student) if self.settings.weight else ()

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        if self.settings.weight == 0:
            return MethodLoss(student.logits.new_zeros((), dtype=torch.float32), {})
        return weighted("fsp", self.settings.weight, self.distance(student, teachers[0]))

    def distance(self, student: Output, teacher: Output) -> Tensor:
        losses = [flow_distance(*four) for four in consecutive(maps(student), maps(teacher))]
        return torch.stack(losses).sum()

    @classmethod
    def prestage_training(cls, settings: FSPSettings) -> PrestageTraining | None:
        return PrestageTraining(epochs=settings.epochs) if settings.epochs else None

    def prestage(self, student: Network) -> PrestageWork:
        return PrestageWork(trained=(student.stem, *student.blocks), loss=self._initial)

    def _initial(self, student: Output | None, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        assert student is not None
        return weighted("fsp", 1.0, self.distance(student, teachers[0]))


def maps(output: Output) -> tuple[Tensor, ...]:
    return (output.stem, *output.features)


def consecutive(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(student map, its next, teacher map, its next) for every map that both networks have."""
    return list(zip(student[:-1], student[1:], teacher[:-1], teacher[1:], strict=False))
