"""The projectors of SRD and VkD in other methods: in the place of FitNet's regressor and of SimKD's projections."""

from collections.abc import Sequence

from torch import Tensor, nn

from fastkd.losses.maps import map_of, rows_of
from fastkd.losses.projectors import NormalisedProjector, OrthogonalProjector
from fastkd.support.pooling import pooled_to

PROJECTORS: dict[str, type[NormalisedProjector | OrthogonalProjector]] = {
    "normalised": NormalisedProjector,
    "orthogonal": OrthogonalProjector,
}


class ProjectedPlaces(nn.Module):
    """Compares maps place by place behind a projector; a larger map is pooled to the smaller one's size.

    It stands in a `Regressor`'s place.
    """

    def __init__(self, kind: str, student: Sequence[int], teacher: Sequence[int]):
        """student, teacher: the shapes (C,H,W) of their maps."""
        super().__init__()
        self.projector = PROJECTORS[kind](student[0], teacher[0])
        self.size = tuple(teacher[1:]) if student[1] > teacher[1] else tuple(student[1:])

    def forward(self, student_BCHW: Tensor) -> Tensor:
        """[B·H·W,C]: the projected places."""
        return self.projector(rows_of(pooled_to(student_BCHW, self.size)))

    def target(self, teacher_BCHW: Tensor) -> Tensor:
        """The teacher's places, normalised as the projector wants them."""
        return self.projector.target(rows_of(pooled_to(teacher_BCHW, self.size)))


class ProjectedMap(nn.Module):
    """A student's map projected place by place to what a teacher's classifier reads: at the teacher's own scale."""

    def __init__(self, kind: str, width: int, goal: int):
        super().__init__()
        self.projector = PROJECTORS[kind](width, goal)

    def observe(self, teacher_BCHW: Tensor) -> None:
        """Takes the teacher's map into the statistics by which the scale is restored; while training only."""
        if self.training:
            self.projector.target(rows_of(teacher_BCHW))

    def forward(self, student_BCHW: Tensor) -> Tensor:
        return map_of(self.projector.restored(rows_of(student_BCHW)), student_BCHW)
