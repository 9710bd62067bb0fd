"""What a distillation method is: a loss over the student's and the teachers' outputs, with what it owns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from fastkd.data.base import ONE_VIEW, Batch, Views
from fastkd.networks.base import Network, Output

MixedLabels = Literal["both", "greater", "own"]

Terms = dict[str, Tensor]
"""Named loss terms, detached scalars on the device."""


@dataclass(frozen=True)
class Context:
    """What a method may know when it is built."""

    student: Network
    teachers: tuple[Network, ...]
    student_shapes: Output
    """What the student returns for two images, as meta tensors: shapes without numbers."""
    teacher_shapes: tuple[Output, ...]
    """The same of each teacher."""
    classes: int
    samples: int
    labels: Tensor
    """[samples] int64: the labels of the training set."""
    batch_size: int
    """Images of one forward pass of one process."""
    steps_per_epoch: int
    seed: int


class MethodLoss(NamedTuple):
    """A method's contribution to the total, its named parts, and the student's hits where the method counts them."""

    total: Tensor
    terms: Terms
    hits: Tensor | None = None
    """[2] int64: top-1 and top-5 hits, which the one logit method of a `Distill` stage counts."""
    gated: Tensor | None = None
    """What is added to the total only where its gradient agrees with that of the rest, see `Gate`."""


class Gate(NamedTuple):
    """When a gated loss is added: in each batch for which its gradient and that of what has no gate agree."""

    least_cosine: float
    """The least cosine between the two gradients."""
    compared: Literal["all", "classifier"] = "all"
    """The parameters of the student whose gradients are compared."""


PeerLoss = Callable[[Output, tuple[Output, ...], Batch], MethodLoss]


def weighted(name: str, weight: float | Tensor, loss: Tensor) -> MethodLoss:
    """The usual contribution of a feature method: one term, reported before its weight."""
    return MethodLoss(weight * loss, {name: loss.detach()})


@dataclass(frozen=True, kw_only=True)
class PrestageTraining:
    """How long and how a method trains before the student's own training."""

    epochs: int
    lr: float | None = None
    """Learning rate, constant but for the milestones; None: the student's."""
    milestones: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PrestageWork:
    """What a method trains before the student's own training, and by which loss. The engine makes a stage of it.

    Whatever is not in `trained` is frozen and in eval mode. For the student's own training the method is built anew and
    gets the weights that were trained here; its constructor decides which of its parameters are trained there.
    """

    trained: tuple[nn.Module, ...]
    """Parts of the method or of the student."""
    loss: Callable[[Output | None, tuple[Output, ...], Batch], MethodLoss]
    """Called with what a method's `forward` gets; the student's output is None where `student` is off."""
    student: bool = True
    """Whether the student runs at all."""
    needs_preacts: bool = False
    views: Views = ONE_VIEW


class Waypoints(NamedTuple):
    """Equally spaced snapshots of the teacher's own training, learned from one after the other (RCO)."""

    count: int
    restart: bool
    """Whether each waypoint gets a whole training of the student, instead of a part of one training."""


class Method(nn.Module):
    """Base of all methods. A subclass names its settings dataclass in `Settings` and is built from (settings, context).

    Parameters and buffers that a method registers are saved and resumed with the student; those that require a gradient
    when the method is built are trained with it.

    Attributes that are declared on the class may be set on the object, where the settings decide on them.

    A captured CUDA graph repeats the arithmetic it has recorded. It follows a number that changes only if that number
    lives in a tensor on the device: the numbers of the modules of `fastkd.losses` do (`self.loss.temperature = 2.0`),
    and so do a method's own buffers, filled in place (`warmup` in ReviewKD). It does not follow plain floats, such as
    `self.settings.weight` in most other methods: they stay what they were when the graph was recorded.
    """

    Settings: ClassVar[type[Any]]
    about: ClassVar[str] = ""
    """What the student learns by it, in a few words, for the help."""
    is_logit_method: ClassVar[bool] = False
    """Whether it owns the cross-entropy: exactly one of the methods of a stage does."""
    needs_preacts: bool = False
    reads: tuple[str, ...] = Output._fields
    """The fields of the teachers' outputs that it reads. A method that reads rows of numbers alone (logits, embedding)
    learns from a stored teacher, which is not run; its weights are there all the same."""
    takes_sparse: bool = False
    """Whether the teachers' logits may be a lumped `fastkd.losses.SparseTeacher` at `sparse_temperature`."""
    views: Views = ONE_VIEW
    """What a batch has to hold. With several views `forward` gets the outputs for all, view by view: [V·B, …]."""
    gate: Gate | None = None
    """What `MethodLoss.gated` has to pass, and the losses of all methods that are joined to this one."""
    teacher_norm: Literal["running", "batch"] = "running"
    """Which statistics the teacher's BatchNorms normalise by. With "batch" the teacher is not folded."""
    fixed_batch_size: ClassVar[bool] = False
    """Whether every batch must have `Context.batch_size` samples: the last, shorter one has to be dropped."""
    relates_samples: ClassVar[bool] = False
    """Whether its loss of a batch is another than the mean of those of its parts: it compares the images with each
    other. With several processes it sees those of one share (or shard) at a time, as BatchNorm does."""
    teachers_needed: ClassVar[tuple[int, int | None]] = (1, None)
    """Least and greatest number of teachers; None: there is no greatest."""
    remembers_images: ClassVar[bool] = False
    """Whether it keeps something of each training image, found by its index."""
    among_peers: ClassVar[bool] = False
    """Whether its teachers learn too, each by this method from the others and the student."""
    mixed_labels: ClassVar[MixedLabels | None] = None
    """What it learns of the two labels of a mixed image, see `fastkd.methods.mixed`; None: "both" for a logit method,
    "own" for any other."""
    own_augmentation: bool = False
    """Whether each of the peers sees its own random crops of the same images."""

    def __init__(self, settings: Any, context: Context):
        super().__init__()
        self.settings = settings
        self.notes: list[str] = []
        """What a user should know about this pair of networks, such as blocks that are left out; it is logged."""

    @property
    def sparse_temperature(self) -> float:
        """That of a `SparseTeacher`, where the method takes one."""
        return self.settings.temperature

    def forward(self, student: Output, teachers: tuple[Output, ...], batch: Batch) -> MethodLoss:
        raise NotImplementedError

    def begin_step(self, batch: Batch) -> None:
        """Begins what depends on the batch alone, before the networks run (`fastkd.support.branches`)."""

    def begin_epoch(self, epoch: int) -> None:
        """Changes numbers of the loss in place, where the method has a schedule; `epoch` counts from 0."""

    @classmethod
    def relates(cls, settings: Any) -> bool:
        """Whether it relates samples with these settings."""
        return cls.relates_samples

    @classmethod
    def waypoints(cls, settings: Any) -> Waypoints | None:
        """The points of the teacher's training that the student learns from; None: its end alone.

        Several teachers that are given are the waypoints themselves.
        """
        return None

    @classmethod
    def held_out(cls, settings: Any) -> float:
        """The share of the training images that peers do not train on: they are weighed by it before each epoch."""
        return 0.0

    def is_weighed(self, epoch: int) -> bool:
        """Whether the peers have their weights of an epoch, as in one that is resumed in its middle."""
        return True

    def weigh(self, epoch: int, logits_MNK: Tensor, labels_N: Tensor) -> None:
        """Changes what the peers count in an epoch, in place, by what they say of the N images held out.

        The student is the first of the peers.
        """

    def seen_from(self, place: int) -> "PeerLoss":
        """The loss of the peer at a place, the student's being 0; `teachers` are the other peers, in order."""
        return self

    def reaches(self, student: Network) -> tuple[nn.Module, ...]:
        """The parts of the student that get a gradient from this loss; what no method of a stage reaches is frozen."""
        return (student,)

    @classmethod
    def prestage_training(cls, settings: Any) -> PrestageTraining | None:
        """The training that has to come before the student's; None where the settings ask for none.

        The method's settings `epochs` and `milestones`, if they have these names, are shortened with the student's by
        --epochs.
        """
        return None

    def prestage(self, student: Network) -> PrestageWork:
        """What is trained before the student; only asked for where there is such a training."""
        raise NotImplementedError

    def deploy(self, student: Network) -> Network:
        """The network that is evaluated and exported; it shares the trained weights. By default the student itself."""
        return student

    def tested_beside(self, student: Network) -> dict[str, Network]:
        """Further networks that are tested after each epoch, by what they are called; they are not kept."""
        return {}

    @classmethod
    def changes_network(cls) -> bool:
        """Whether what is deployed is another network than the student."""
        return cls.deploy is not Method.deploy


def up_to_block(student: Network, blocks: int | None = None) -> tuple[nn.Module, ...]:
    """What a loss on the features of the first `blocks` blocks reaches, by default of all."""
    return (student.stem, *list(student.blocks)[:blocks]) if student.is_cut else (student,)


def up_to_embedding(student: Network) -> tuple[nn.Module, ...]:
    """What a loss on the embedding reaches, or one on the preacts, which in a WRN come out of the neck."""
    return (*up_to_block(student), student.head.neck, student.head.pool) if student.is_cut else (student,)


def warm_up_share(epoch: int, warmup_epochs: int) -> float:
    """The share of its weight that a term has in an epoch, from 0, where it rises over the first `warmup_epochs`."""
    return min((epoch + 1) / max(warmup_epochs, 1), 1.0)
