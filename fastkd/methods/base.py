"""What a distillation method is: a loss over the student's and the teachers' outputs, with what it owns."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from fastkd.data.base import Batch
from fastkd.networks.base import Network, Output

Terms = dict[str, Tensor]
"""Named loss terms, detached scalars on the device."""


@dataclass(frozen=True)
class Context:
    """What a method may know when it is built."""

    student: Network
    teachers: tuple[Network, ...]
    student_shapes: Output
    """Meta tensors."""
    teacher_shapes: tuple[Output, ...]
    classes: int
    samples: int
    labels: Tensor
    """[samples] int64: of the training set."""
    batch_size: int
    """Per process."""
    steps_per_epoch: int
    seed: int


class MethodLoss(NamedTuple):
    """A method's contribution to the total, its named parts, and the student's hits where the method counts them."""

    total: Tensor
    terms: Terms
    hits: Tensor | None = None
    """[2] int64: top-1 and top-5; the one logit method of a `Distill` stage gives them."""


class Method(nn.Module):
    """Base of all methods. A subclass names its settings dataclass in `Settings` and is built from (settings, context).

    Parameters and buffers that a method registers are trained, saved and resumed with the student.
    """

    Settings: ClassVar[type[Any]]
    is_logit_method: ClassVar[bool] = False
    """Owns CE: exactly one of the methods of a stage does."""
    needs_preacts: ClassVar[bool] = False
    teachers_needed: ClassVar[tuple[int, int | None]] = (1, None)
    """Least and greatest number of teachers."""

    def __init__(self, settings: Any, context: Context):
        super().__init__()
        self.settings = settings

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """Changes weights in place, where the method has a schedule."""
