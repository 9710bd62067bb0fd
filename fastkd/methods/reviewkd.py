"""ReviewKD (Chen, Liu, Zhao, Jia: "Distilling knowledge via knowledge review", CVPR 2021, arXiv 2104.09044), as
mdistiller has it."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses import ReviewKDLoss
from fastkd.methods.base import Context, Method, MethodLoss, up_to_embedding, weighted
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWith
from fastkd.support.plain import Checked
from fastkd.support.ranges import EpochsOrNone, Weight, Width


@dataclass(frozen=True, kw_only=True)
class ReviewKDSettings(Checked):
    """min(epoch / warmup, 1) · weight · sum over the blocks and the embedding of HCL(fused student, teacher)."""

    weight: Weight = 5.0
    """mdistiller's for resnet32x4 to resnet8x4 (ImageNet: 1 for ResNet34 to ResNet18, 8 for ResNet50 to MobileNet)."""
    warmup_epochs: Annotated[EpochsOrNone, OnlyWith("weight")] = 20
    """Epochs over which the weight rises: epoch e, from 1, has e / warmup of it (mdistiller: 1 on ImageNet)."""
    student_preacts: Annotated[bool, OnlyWith("weight")] = False
    """Take the student's maps before their last activation, as the teacher's always are."""
    widest: Width = 512
    """Most channels of the fused maps."""


class ReviewKD(Method):
    Settings = ReviewKDSettings
    about = "features reviewed across blocks"
    needs_preacts = True
    teachers_needed = (1, 1)
    warmup: Tensor

    def __init__(self, settings: ReviewKDSettings, context: Context):
        super().__init__(settings, context)
        student, teacher = (
            [shape.shape[1] for shape in _maps(shapes, shapes.features)]
            for shapes in (context.student_shapes, context.teacher_shapes[0])
        )
        if len(student) != len(teacher):
            raise UserError(
                f"reviewkd: student and teacher need the same number of blocks, they have {len(student) - 1} and "
                f"{len(teacher) - 1}"
            )
        self.loss = ReviewKDLoss(student, teacher, widest=settings.widest)
        self.register_buffer("warmup", torch.ones(()), persistent=False)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        assert student.preacts is not None and teachers[0].preacts is not None
        sources = _maps(student, student.preacts if self.settings.student_preacts else student.features)
        loss = self.loss(sources, _maps(teachers[0], teachers[0].preacts))
        return weighted("reviewkd", self.settings.weight * self.warmup, loss)

    def begin_epoch(self, epoch: int) -> None:
        self.warmup.fill_(min((epoch + 1) / max(self.settings.warmup_epochs, 1), 1.0))


def _maps(output: Output, blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The blocks' maps, then the embedding as one of a single pixel."""
    return (*blocks, output.embedding[:, :, None, None])
