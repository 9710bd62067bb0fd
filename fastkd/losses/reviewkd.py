"""ReviewKD (Chen, Liu, Zhao, Jia: "Distilling knowledge via knowledge review", CVPR 2021, arXiv 2104.09044), as
mdistiller has it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.losses.features import hierarchical_distance
from fastkd.losses.module import TensorLoss
from fastkd.support.ranges import Width


class ReviewKDLoss(TensorLoss):
    """The sum over pairs of maps of HCL(fused student map, teacher map).

    A teacher map teaches the student's maps up to its own: from the deepest to the first, each student map is fused
    with what came from the deeper ones. The fusions are for your optimiser.

    student_channels, teacher_channels: those of as many maps each, in order; the embedding may be the last one, as a
        map of a single pixel.
    widest: most channels of the fused maps.
    """

    def __init__(self, student_channels: Sequence[int], teacher_channels: Sequence[int], *, widest: Width = 512):
        super().__init__(widest=widest)
        if len(student_channels) != len(teacher_channels):
            counts = f"{len(student_channels)} and {len(teacher_channels)}"
            raise ValueError(f"student and teacher have as many maps each, got {counts}")
        inner, last = min(widest, student_channels[-1]), len(student_channels) - 1
        pairs = zip(student_channels, teacher_channels, strict=True)
        self.fusions = nn.ModuleList(Fusion(s, inner, t, last=place == last) for place, (s, t) in enumerate(pairs))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """student, teacher: maps [B,C,H,W]."""
        review, losses = None, []
        for fusion, source, target in zip(reversed(self.fusions), student[::-1], teacher[::-1], strict=True):
            fused, review = fusion(source, review, target.shape[2:])
            losses.append(hierarchical_distance(fused, target.detach()))
        return torch.stack(losses).sum()


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


def _nearest(x: Tensor, size: torch.Size) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, (size[0], size[1]), mode="nearest")
