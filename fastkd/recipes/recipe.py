"""What a recipe is: stages with all their settings. The papers' recipes are functions in this folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastkd.data import Augmentation, Reading
from fastkd.methods import find_method, split_methods
from fastkd.support.errors import UserError
from fastkd.support.files import read_json
from fastkd.support.plain import from_plain, to_plain
from fastkd.training.execution import Execution
from fastkd.training.optimisation import Training

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Branches:
    """The student branches of a student-friendly teacher (SFTN)."""

    network: str
    blocks: tuple[int, ...] | None = None
    """Teacher blocks, from 1, that carry a branch; None: all but the last."""
    temperature: float = 1.0
    teacher_weight: float = 1.0
    kl_weight: float = 3.0
    ce_weight: float = 1.0
    kl: Literal["forward", "reverse"] = "forward"
    detach_teacher: bool = False
    ce_temperature: float = 1.0
    tau_squared: bool = True

    def __post_init__(self) -> None:
        for name in ("temperature", "ce_temperature"):
            if not getattr(self, name) > 0:
                raise UserError(f"sftn: {name} is above 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure of a paper, in percent."""

    top1: float
    std: float | None = None
    source: str


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A network that learns together with the student."""

    name: str
    network: str
    lr_factor: float = 1.0
    """On the stage's learning rate."""


@dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """One training, or one network that is loaded instead of trained."""

    name: str
    """Also the name of its weights file: teacher, student, control …"""
    kind: Literal["supervised", "student_aware", "distill", "loaded", "prestage", "mutual"]
    """The last two are in no recipe: they follow from it, as `fastkd.course` says."""
    network: str
    training: Training | None = None
    branches: Branches | None = None
    """Of kind "student_aware"."""
    teachers: tuple[str, ...] = ()
    """Of kind "distill": the names of earlier stages."""
    method: str = ""
    """Of kind "distill": names of methods, joined by +."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of kind "distill": each method's settings dataclass."""
    prestage: str = ""
    """Of kind "prestage": the method whose training it is."""
    after: tuple[str, ...] = ()
    """Stages of the course whose trained part this one begins with."""
    peers: tuple[Peer, ...] = ()
    """Of kind "mutual": who learns together with the student."""
    file: str = ""
    """Of kind "loaded"."""
    sha256: str = ""
    published: Published | None = None
    """What a paper reports for this stage."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    data: str
    """`NAME` or `NAME:PATH`."""
    image_size: int
    stages: tuple[StageRecipe, ...]
    augmentation: Augmentation = field(default_factory=Augmentation)
    reading: Reading = field(default_factory=Reading)
    mean: tuple[float, float, float] | None = None
    """Of the channels, where white is 1; None: the data set's own."""
    std: tuple[float, float, float] | None = None
    seed: int = 0
    seeds: int = 1
    """So many runs, with the seeds seed, seed+1, …"""
    limit_train: int | None = None
    eval_every: int = 1
    """Epochs."""
    keep_epochs: tuple[int, ...] = ()
    """Epochs after which a stage's weights are kept, for `--teacher RUN@EPOCH`."""
    threads: int | None = None
    """Of the CPU, which the last bits of a result depend on; None: as many as there are cores."""
    execution: Execution = field(default_factory=Execution)
    published_classes: int | None = None
    """How many classes the data of the published figures have."""
    deviations: tuple[str, ...] = ()
    """In what this recipe differs from the published one; only without any may a result stand beside the paper's."""

    def __post_init__(self) -> None:
        for name, least in (("image_size", 1), ("seeds", 1), ("eval_every", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name.replace('_', '-')} is at least {least}, got {getattr(self, name)}")
        longest = max((stage.training.epochs for stage in self.stages if stage.training), default=0)
        for epoch in self.keep_epochs:
            if not 1 <= epoch <= longest:
                raise UserError(f"--keep-epochs are epochs from 1 to {longest}, got {epoch}")
        if self.threads is not None and self.threads < 1:
            raise UserError(f"threads is at least 1, got {self.threads}")


def recipe_to_plain(recipe: Recipe) -> dict[str, Any]:
    return {"format": FORMAT, **to_plain(recipe)}


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file that a run wrote (or a person edited); settings of methods become their dataclasses."""
    return plain_to_recipe(read_json(path), str(path))


def plain_to_recipe(plain: Any, where: str) -> Recipe:
    if not isinstance(plain, dict) or "format" not in plain:
        raise UserError(f"{where} is not a recipe: it has no entry 'format'")
    if plain["format"] != FORMAT:
        raise UserError(f"{where} has recipe format {plain['format']}, this fastkd reads {FORMAT}")
    recipe = from_plain(Recipe, {key: value for key, value in plain.items() if key != "format"}, where)
    for stage in recipe.stages:
        for name in split_methods(stage.method) if stage.kind == "distill" else ():
            given = stage.settings.get(name, {})
            stage.settings[name] = from_plain(find_method(name).Settings, given, f"{where}: {name}")
    return recipe
