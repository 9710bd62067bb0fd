"""What a recipe is: the stages of a run with all their settings, and how it stands in a file.

A field that is `fixed` is no option of the command line: something else decides on it.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fastkd.data import Augmentation, Reading
from fastkd.methods import find_method, is_known, outside, split_methods
from fastkd.recipes import format_1
from fastkd.stored import Storing
from fastkd.support.errors import UserError
from fastkd.support.fields import OnlyWhere, OnlyWith, fixed, rare
from fastkd.support.files import read_json
from fastkd.support.plain import Checked, from_plain, to_plain
from fastkd.support.ranges import (
    BETWEEN_0_AND_1,
    Decay,
    Epochs,
    EpochsOrNone,
    Images,
    NotNegative,
    Pixels,
    PlaceOrStem,
    Positive,
    Seed,
    Share,
    Temperature,
    Threads,
    Weight,
    between,
    whole,
)
from fastkd.support.schemas import check_name
from fastkd.support.words import counted
from fastkd.synthesis.settings import SynthesisSettings
from fastkd.training.execution import Execution
from fastkd.training.optimisation import Training

FORMAT = 2

Role = Literal["base", "teacher", "student", "control"]
"""A base is what teachers begin with."""
TEACHING: tuple[Role, ...] = ("base", "teacher")
"""The roles of what is trained for all students alike."""


def _is_softened(settings: Any) -> bool:
    return settings.temperature != 1


@dataclass(frozen=True, kw_only=True)
class SFTNSettings(Checked):
    """The branches of a student-friendly teacher, and the loss that they share with it (SFTN)."""

    network: str = fixed()
    blocks: tuple[PlaceOrStem, ...] | None = fixed(None)
    """Teacher blocks, from 1, that carry a branch (0: the stem); None: all but the last."""
    starts: tuple[PlaceOrStem, ...] | None = fixed(None)
    """Blocks of the branch network that each branch leaves out; None: as many as the teacher has up to there."""
    temperature: Annotated[Temperature, OnlyWith("kl_weight")] = 1.0
    """τ of KL."""
    teacher_weight: Weight = 1.0
    """λ_T, the weight of the teacher's cross-entropy."""
    kl_weight: Weight = 3.0
    """λ_KL, the weight of KL between teacher and branches."""
    ce_weight: Weight = 1.0
    """λ_CE, the weight of the branches' cross-entropy."""
    kl: Annotated[Literal["forward", "reverse"], OnlyWith("kl_weight")] = "forward"
    """forward: KL(teacher ‖ branch); reverse: KL(branch ‖ teacher), as the paper prints it."""
    detach_teacher: Annotated[bool, OnlyWith("kl_weight")] = False
    """Send no gradient of KL to the teacher."""
    ce_temperature: Annotated[Temperature, OnlyWith(("teacher_weight", "ce_weight"))] = 1.0
    """Temperature of the cross-entropies, which the paper prints at τ."""
    tau_squared: Annotated[
        bool, OnlyWith("kl_weight"), OnlyWhere("a --sftn.temperature other than 1", _is_softened)
    ] = True
    """Multiply KL by τ²."""
    frozen_epochs: EpochsOrNone = 0
    """First epochs in which the teacher is frozen and the branches alone learn."""


@dataclass(frozen=True, kw_only=True)
class GTNSettings(Checked):
    """The paths that a general teacher's branches take through a supernet (GTN).

    Each of them is a choice, as the supplement prints none.
    """

    paths: Literal["uniform", "learned"] = "uniform"
    """How a layer's candidate is drawn in each step: all alike, or by what the branches' cross-entropy has taught."""
    baseline_decay: Annotated[Decay, OnlyWith("paths", "learned")] = 0.99
    """Decay of the mean cross-entropy that a path has to beat."""
    shared_path: bool = False
    """Draw one path a step for all branches, instead of one for each."""
    masks: bool = False
    """Run all candidates and keep the drawn one's result: the same numbers, and a step that can be captured."""
    identity: Literal["project", "pad", "absent"] = "project"
    """The identity where the shape changes: a 1x1 convolution, every second pixel with channels of zeros, or none."""
    zeros: Literal["everywhere", "but_last", "nowhere"] = "everywhere"
    """The layers in which zero may be drawn; behind one a branch says the same of every image."""
    shared_depths: bool = False
    """Let the shallower stacks of a layer be the first blocks of its deepest one."""
    tested: Literal["drawn", "largest", "likeliest"] = "drawn"
    """The path by which a branch is tested: one drawn for each epoch, the largest one, or the likeliest learned one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tested == "likeliest" and self.paths != "learned":
            raise UserError("--gtn.tested likeliest goes with --gtn.paths learned")


@dataclass(frozen=True, kw_only=True)
class OwnImages(Checked):
    """The images of a teacher that was trained on others: the student's crop, resized and normalised anew."""

    image_size: Pixels
    mean: tuple[Share, Share, Share] | None = None
    """None: as the run's."""
    std: tuple[Positive, Positive, Positive] | None = None


@dataclass(frozen=True, kw_only=True)
class Published(Checked):
    """A figure of a paper, in percent."""

    top1: Annotated[float, between(0, 100)]
    std: NotNegative | None = None
    source: str


@dataclass(frozen=True, kw_only=True)
class StageRecipe(Checked):
    """One network of a recipe: trained, or loaded from a file.

    It learns from labels, with branches beside it where there is `sftn`, and from teachers where there is a `method`.
    """

    name: str
    """The name of the stage and of its weights file: teacher, teacher-2, student, control …"""
    role: Role
    """The control is the student without a teacher: both begin with the same weights and see the same batches."""
    network: str
    training: Training | None = None
    """None: the network is loaded."""
    file: str = ""
    """The file that the network is loaded from, or that its training begins with: all but the classifier, where that
    has other classes; mostly empty where it is trained."""
    sha256: str = ""
    """Checksum of that file."""
    prefix: str = ""
    """What stands in front of the network's own names in that file; empty: what fits decides."""
    any_images: bool = False
    """Whether it may have been trained on images of another size, normalisation or crop."""
    begins: str = ""
    """An earlier stage with whose weights its training begins."""
    classes: tuple[str, ...] = ()
    """The names of a loaded network's classes in their order, where its file does not know them."""
    images: OwnImages | None = None
    """What a loaded network is fed with, where that is not what the run's networks are."""
    sftn: SFTNSettings | None = None
    gtn: GTNSettings | None = None
    """How the branches of `sftn` are drawn, where their network is a supernet."""
    method: str = ""
    """Names of methods, joined by +."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The settings dataclass of each method, by the method's name."""
    teachers: tuple[str, ...] = ()
    """Names of earlier stages."""
    synthesis: SynthesisSettings | None = None
    """What makes the images that the student learns from; None: they are the data set's."""
    published: Published | None = None
    """What a paper reports for this stage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name(self.name, "the name of a stage")
        for name in self.settings:
            if name not in (*self.method.split("+"), "ce"):
                raise UserError(
                    f"the {self.name} has settings of {name!r}, which is none of its methods {self.method!r}"
                )
        if self.synthesis is not None and (self.training is None or not self.method or len(self.teachers) != 1):
            teachers = counted(len(self.teachers), "teacher")
            raise UserError(
                f"images are made for a student that learns from one teacher, the {self.name} has {teachers}"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """Stages in their order, and what holds for all of them."""

    name: str = fixed()
    data: str = fixed()
    """`NAME` or `NAME:PATH`."""
    stages: tuple[StageRecipe, ...] = fixed()
    image_size: Pixels
    """Height and width of the images, in pixels."""
    limit_train: Images | None = None
    """Train on so many images only."""
    validation: Annotated[float, BETWEEN_0_AND_1] | None = None
    """Keep this share of every class's training images to watch the training by; the test is then made once, at the
    end."""
    augmentation: Augmentation = fixed(factory=Augmentation)
    reading: Reading = fixed(factory=Reading)
    mean: tuple[Share, Share, Share] | None = rare(None)
    """What images are normalised by, where white is 1 (default: the recipe's, else the data set's own)."""
    std: tuple[Positive, Positive, Positive] | None = rare(None)
    """What images are divided by, likewise."""
    seed: Seed = 0
    """Seed of the weights and the negatives and, unless --data-seed is given, of the order and the augmentation."""
    data_seed: Seed | None = None
    """Seed of the order and the augmentation (default: the seed)."""
    seeds: Annotated[int, whole(1, 10_000)] = 1
    """Train so many times, with the seeds SEED, SEED+1, …"""
    eval_every: Epochs = 1
    """Epochs between evaluations."""
    keep_epochs: tuple[Epochs, ...] = rare(())
    """Keep the weights after these epochs, for --teacher RUN@EPOCH."""
    threads: Threads | None = rare(None)
    """Threads of the CPU, which the last bits of a result depend on (default: all cores)."""
    execution: Execution = fixed(factory=Execution)
    storing: Storing = fixed(factory=Storing)
    published_classes: Images | None = fixed(None)
    """How many classes the data of the published figures have."""
    deviations: tuple[str, ...] = fixed(())
    """Differences from the published recipe, in words; only without any may a result stand beside the paper's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.mean is None) != (self.std is None):
            raise UserError("--mean and --std go together")
        self.augmentation.check_size(self.image_size)
        if self.name or self.stages:  # what recipes have in common has neither
            check_name(self.name, "the name of a recipe")
        earlier: list[str] = []
        for stage in self.stages:
            if stage.name in earlier:
                raise UserError(f"two stages have the name {stage.name!r}")
            if stage.begins and stage.begins not in earlier:
                raise UserError(f"the {stage.name} begins with {stage.begins!r}, which is none of the stages before it")
            if unknown := [name for name in stage.teachers if name not in earlier]:
                raise UserError(f"the {stage.name} learns from {unknown[0]!r}, which is none of the stages before it")
            earlier.append(stage.name)
            if stage.synthesis is not None:
                self._check_made_images(stage.name)
            averaged = f"{stage.name}-ema"
            if stage.training is not None and stage.training.ema and any(averaged == s.name for s in self.stages):
                raise UserError(f"a stage has the name {averaged!r}, as the averaged weights of the {stage.name} have")
        longest = max((stage.training.epochs for stage in self.stages if stage.training), default=0)
        for epoch in self.keep_epochs:
            if not 1 <= epoch <= longest:
                raise UserError(f"--keep-epochs are epochs from 1 to {longest}, got {epoch}")

    def _check_made_images(self, name: str) -> None:
        if self.storing.teacher_outputs is not None:
            raise UserError(f"--teacher-outputs: the images of the {name} are made while it learns, not stored")
        for option in ("mixup", "cutmix"):
            if getattr(self.augmentation, option):
                raise UserError(f"--{option} mixes images of a data set: those of the {name} are made for it")

    def stage(self, name: str) -> StageRecipe | None:
        """The stage of that name, if there is one."""
        return next((stage for stage in self.stages if stage.name == name), None)

    def of_role(self, role: Role) -> list[StageRecipe]:
        return [stage for stage in self.stages if stage.role == role]


def recipe_to_plain(recipe: Recipe) -> dict[str, Any]:
    return {"format": FORMAT, **to_plain(recipe)}


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file that a run wrote (or a person edited).

    Settings of methods become their dataclasses. Those of a class outside of fastkd stay as they are in the file,
    unless somebody has had it imported: what a file names is not.
    """
    return plain_to_recipe(read_json(path), str(path))


def plain_to_recipe(plain: Any, where: str) -> Recipe:
    if not isinstance(plain, dict) or "format" not in plain:
        raise UserError(f"{where} is not a recipe: it has no entry 'format'")
    if plain["format"] == format_1.FORMAT:
        plain = format_1.recipe(plain, where)
    elif plain["format"] != FORMAT:
        raise UserError(
            f"{where} has recipe format {plain['format']}, this fastkd reads {format_1.FORMAT} and {FORMAT}"
        )
    recipe = from_plain(Recipe, {key: value for key, value in plain.items() if key != "format"}, where)
    for stage in recipe.stages:
        for name in _methods_at_hand(stage):
            given = stage.settings.get(name, {})
            stage.settings[name] = from_plain(find_method(name).Settings, given, f"{where}: {name}")
    return recipe


def _methods_at_hand(stage: StageRecipe) -> tuple[str, ...]:
    """The names of the stage's methods, without those that would have to be imported."""
    if not stage.method:
        return ()
    if all(is_known(name) for name in outside(stage.method)):
        return split_methods(stage.method)
    return tuple(name for name in stage.method.split("+") if ":" not in name)
