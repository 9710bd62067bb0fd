"""ReviewKD (Chen, Liu, Zhao, Jia: "Distilling knowledge via knowledge review", CVPR 2021, arXiv 2104.09044), as
mdistiller has it."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.losses.features import hierarchical_distance
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
    """A teacher block teaches the student's blocks up to its own: from the deepest to the first, each student map is
    fused with what came from the deeper ones."""

    Settings = ReviewKDSettings
    about = "features reviewed across blocks"
    needs_preacts = True
    teachers_needed = (1, 1)
    warmup: Tensor

    def __init__(self, settings: ReviewKDSettings, context: Context):
        super().__init__(settings, context)
        student = _maps(context.student_shapes, context.student_shapes.features)
        teacher = _maps(context.teacher_shapes[0], context.teacher_shapes[0].features)
        if len(student) != len(teacher):
            raise UserError(
                f"reviewkd: student and teacher need the same number of blocks, they have {len(student) - 1} and "
                f"{len(teacher) - 1}"
            )
        inner = min(settings.widest, student[-1].shape[1])
        self.fusions = nn.ModuleList(
            Fusion(s.shape[1], inner, t.shape[1], last=s is student[-1]) for s, t in zip(student, teacher, strict=True)
        )
        self.register_buffer("warmup", torch.ones(()), persistent=False)

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        return up_to_embedding(student)

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        assert student.preacts is not None and teachers[0].preacts is not None
        sources = _maps(student, student.preacts if self.settings.student_preacts else student.features)
        targets = _maps(teachers[0], teachers[0].preacts)
        review, losses = None, []
        for fusion, source, target in zip(reversed(self.fusions), sources[::-1], targets[::-1], strict=True):
            fused, review = fusion(source, review, target.shape[2:])
            losses.append(hierarchical_distance(fused, target))
        return weighted("reviewkd", self.settings.weight * self.warmup, torch.stack(losses).sum())

    def begin_epoch(self, epoch: int) -> None:
        self.warmup.fill_(min((epoch + 1) / max(self.settings.warmup_epochs, 1), 1.0))


class Fusion(nn.Module):
    """Attention-based fusion (Fig. 3b): two maps, each weighted by a mask that sees both."""

    def __init__(self, channels_in: int, inner: int, channels_out: int, *, last: bool):
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(channels_in, inner, 1, bias=False), nn.BatchNorm2d(inner))
        self.leave = nn.Sequential(
            nn.Conv2d(inner, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out)
        )
        self.masks = None if last else nn.Sequential(nn.Conv2d(2 * inner, 2, 1), nn.Sigmoid())
        for convolution in (self.enter[0], self.leave[0]):
            assert isinstance(convolution, nn.Conv2d)
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, source: Tensor, review: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Two maps: what is compared with the teacher's of that size, and the review for the block before."""
        x = self.enter(source)
        if self.masks is not None:
            assert review is not None
            review = _nearest(review, x.shape[2:])
            own, reviewed = self.masks(torch.cat([x, review], 1)).split(1, 1)
            x = x * own + review * reviewed
        x = _nearest(x, size)
        return self.leave(x), x


def _maps(output: Output, blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The blocks' maps, then the embedding as one of a single pixel."""
    return (*blocks, output.embedding[:, :, None, None])


def _nearest(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, (size[0], size[1]), mode="nearest")
