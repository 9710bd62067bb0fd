"""The stages of a run as they are carried out: a recipe's, and those that follow from its methods.

There is a type for each kind of stage, so that a field is there only where it means something. `fastkd.recipes.course`
makes them; `fastkd.run.builder` has a row for each.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from fastkd.recipes.recipe import GTNSettings, OwnImages, Role, SFTNSettings
from fastkd.synthesis.settings import SynthesisSettings
from fastkd.training.optimisation import Training


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    kind: ClassVar[str]
    """The word for it in files; one that changes makes every unfinished run impossible to resume."""
    name: str
    """The name of the stage, of its weights file and of its checkpoint."""
    role: Role
    network: str


@dataclass(frozen=True, kw_only=True)
class PlannedLoaded(PlannedStage):
    """A network that is taken from a file."""

    kind = "loaded"
    file: str
    sha256: str
    prefix: str = ""
    any_images: bool = False
    classes: tuple[str, ...] = ()
    """The names of its classes, where the file does not know them."""
    images: OwnImages | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedTraining(PlannedStage):
    """What all trainings have."""

    training: Training
    begins: str = ""
    """An earlier stage with whose weights it begins."""
    file: str = ""
    """A file with whose weights it begins."""
    sha256: str = ""
    prefix: str = ""


@dataclass(frozen=True, kw_only=True)
class PlannedSupervised(PlannedTraining):
    """A network that learns from labels alone."""

    kind = "supervised"


@dataclass(frozen=True, kw_only=True)
class PlannedStudentAware(PlannedTraining):
    """A teacher that learns together with branches of the student."""

    kind = "student_aware"
    sftn: SFTNSettings
    gtn: GTNSettings | None = None
    """How the branches are drawn, where they are paths of a supernet."""


@dataclass(frozen=True, kw_only=True)
class PlannedDistillation(PlannedTraining):
    """A student that learns from teachers."""

    kind = "distill"
    method: str
    settings: dict[str, Any]
    teachers: tuple[str, ...]
    """Earlier stages, or points along the training of one: `teacher@60`."""
    after: tuple[str, ...] = ()
    """Stages whose trained part this one begins with."""


@dataclass(frozen=True, kw_only=True)
class PlannedDataFree(PlannedDistillation):
    """A student that learns from a teacher on images that are made for it."""

    kind = "data_free"
    synthesis: SynthesisSettings


@dataclass(frozen=True, kw_only=True)
class PlannedPrestage(PlannedDistillation):
    """What one of a student's methods trains before the student's own training."""

    kind = "prestage"
    prestage: str
    """The name of that method."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A network that learns together with the student."""

    name: str
    network: str
    lr_factor: float = 1.0
    """What the stage's learning rate is multiplied by."""


@dataclass(frozen=True, kw_only=True)
class PlannedMutual(PlannedTraining):
    """A student and its teachers, which learn together."""

    kind = "mutual"
    method: str
    settings: dict[str, Any]
    peers: tuple[Peer, ...] = field(default=())
