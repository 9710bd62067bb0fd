"""What a distillation method is: a loss over the student's and the teachers' outputs, with what it owns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from fastkd.data.base import ONE_VIEW, Batch, Views
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError

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


def weighted(name: str, weight: float | Tensor, loss: Tensor) -> MethodLoss:
    """The usual contribution of a feature method: one term, reported before its weight."""
    return MethodLoss(weight * loss, {name: loss.detach()})


@dataclass(frozen=True, kw_only=True)
class PrestageTraining:
    """How long and how a method trains before the student's own training."""

    epochs: int
    lr: float | None = None
    """None: that of the student's training. The schedule is constant but for the milestones."""
    milestones: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PrestageWork:
    """What is trained then, and by which loss. The engine carries it out as a stage of the run.

    Whatever is not in `trained` is frozen and in eval mode; afterwards the method's own parameters are again as they
    were when it was built.
    """

    trained: tuple[nn.Module, ...]
    """Of the method and of the student."""
    loss: Callable[[Output | None, tuple[Output, ...], Batch], MethodLoss]
    """Called as a method is; the student's output is None where `student` is off."""
    student: bool = True
    """The student runs at all."""
    needs_preacts: bool = False
    views: Views = ONE_VIEW


class Waypoints(NamedTuple):
    """Equally spaced snapshots of the teacher's own training, learned from one after the other (RCO)."""

    count: int
    restart: bool
    """The student is trained as long as the recipe says for each of them, not once for all."""


class Method(nn.Module):
    """Base of all methods. A subclass names its settings dataclass in `Settings` and is built from (settings, context).

    Parameters and buffers that a method registers are saved and resumed with the student; those that require a gradient
    when the method is built are trained with it.

    What is declared on the class may be set on the object, where the settings decide.
    """

    Settings: ClassVar[type[Any]]
    is_logit_method: ClassVar[bool] = False
    """Owns CE: exactly one of the methods of a stage does."""
    needs_preacts: bool = False
    views: Views = ONE_VIEW
    """With more than one, `forward` gets the outputs for all views, view by view: [V·B, …]."""
    teacher_norm: Literal["running", "batch"] = "running"
    """Statistics of the teacher's BatchNorms. On "batch" the teacher must not be folded."""
    fixed_batch_size: ClassVar[bool] = False
    """Works with batches of `Context.batch_size` only: the last, shorter one has to be dropped."""
    teachers_needed: ClassVar[tuple[int, int | None]] = (1, None)
    """Least and greatest number of teachers."""
    among_peers: ClassVar[bool] = False
    """Its teachers learn too, each by this method from the others and the student."""
    own_augmentation: bool = False
    """Among peers: each sees its own random crops of the same images."""

    def __init__(self, settings: Any, context: Context):
        super().__init__()
        self.settings = settings
        self.notes: list[str] = []
        """What a user should know about this pair of networks, such as blocks that are left out: for the log."""

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        raise NotImplementedError

    def begin_epoch(self, epoch: int) -> None:
        """Changes weights in place, where the method has a schedule."""

    @classmethod
    def waypoints(cls, settings: Any) -> Waypoints | None:
        """None: the teacher is taken at the end of its training. Several teachers that are given are the waypoints."""
        return None

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        """The parts of the student that get a gradient from this loss; what no method of a stage reaches is frozen."""
        return (student,)

    @classmethod
    def prestage_training(cls, settings: Any) -> PrestageTraining | None:
        """Of the training that has to come before, where the settings ask for one.

        Its settings `epochs` and `milestones`, if they have these names, are shortened with the student's by --epochs.
        """
        return None

    def prestage(self, student: Network) -> PrestageWork:
        """That training; only asked for where there is one."""
        raise NotImplementedError

    def deploy(self, student: Network) -> Network:
        """What is evaluated and exported, sharing the weights that are trained: by default the student itself."""
        return student

    @classmethod
    def changes_network(cls) -> bool:
        """What is deployed is another network than the student."""
        return cls.deploy is not Method.deploy


def up_to_block(student: Network, blocks: int | None = None) -> tuple[nn.Module, ...]:
    """What a loss on the features of the first `blocks` blocks reaches, by default of all."""
    return (student.stem, *list(student.blocks)[:blocks])


def up_to_embedding(student: Network) -> tuple[nn.Module, ...]:
    """What a loss on the embedding reaches, or one on the preacts, which in a WRN come out of the neck."""
    return (*up_to_block(student), student.head.neck, student.head.pool)


def at_least(name: str, least: float, **values: float) -> None:
    """Raises UserError for a setting of the method `name` below `least`."""
    for key, value in values.items():
        if not value >= least:
            raise UserError(f"{name}: {key.replace('_', '-')} is at least {least}, got {value}")


def above_zero(name: str, **values: float) -> None:
    """Raises UserError for a setting of the method `name` that is not above 0."""
    for key, value in values.items():
        if not value > 0:
            raise UserError(f"{name}: {key.replace('_', '-')} is above 0, got {value}")
