"""What is trained, not how: the fields that every recipe's function takes, and the stages that follow from them."""

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastkd import networks
from fastkd.methods import find_method, split_methods
from fastkd.methods.crd import CRDSettings
from fastkd.methods.kd import KDSettings
from fastkd.methods.oh import OHSettings
from fastkd.methods.semckd import SemCKDSettings
from fastkd.recipes.recipe import GTNSettings, SFTNSettings, StageRecipe
from fastkd.support.errors import UserError
from fastkd.support.fields import given, rare
from fastkd.support.plain import Checked
from fastkd.support.ranges import PlaceOrStem
from fastkd.training.optimisation import Training

TeacherTraining = Literal["standard", "sftn", "gtn"]


@dataclass(frozen=True, kw_only=True)
class Choice(Checked):
    """The networks, the data and the method of a recipe."""

    data: str
    """NAME or NAME:PATH, e.g. cifar100:/data/cifar-100-binary, imagefolder:/data/imagenet."""
    teacher_net: str
    """Network of the teacher, or timm:NAME, torchvision:NAME, package.module:factory; several joined by + are teachers
    of one student, as --method aveg wants them."""
    student: str
    """Network of the student, likewise."""
    branch: str | None = None
    """Network of the branches grafted on the teacher (default: the student's)."""
    branch_blocks: tuple[PlaceOrStem, ...] | None = None
    """Teacher blocks, from 1, that carry a branch; 0 is the stem (default: all but the last)."""
    branch_starts: tuple[PlaceOrStem, ...] | None = rare(None)
    """For each of these, how many of the branch network's blocks the branch leaves out (default: as many as the
    teacher has up to there)."""
    teacher_training: TeacherTraining = "standard"
    """Train the teacher alone, or together with its branches: copies of the student (sftn), or paths of a supernet
    (gtn)."""
    method: str
    """What the student learns: a method, or several joined by +; their settings are --METHOD.NAME."""
    control: bool = False
    """Also train the student without a teacher."""


SUPERNET = "gtn_supernet"
"""The branches' network of a general teacher."""


def with_features(choice: Choice, teacher: str, student: str) -> Choice:
    """The choice with features, names of modules joined by commas, as part of the networks' names: these say how a
    network is made. Raises UserError where the network is not named, or has features of its own."""
    for name, features in (("teacher_net", teacher), ("student", student)):
        if features and (network := given(choice).get(name)) is None:
            raise UserError(f"--{name.partition('_')[0]}-features goes with --{name.replace('_', '-')}")
        elif features:
            choice = replace(choice, **{name: networks.with_features(network, features)})
    return choice


def admit_networks(choice: Choice, students: str | None = None) -> None:
    """Imports what makes the networks of others that are named on the command line. students: that of --students."""
    wanted = given(choice)
    named = [*wanted.get("teacher_net", "").split("+"), wanted.get("student"), wanted.get("branch")]
    for name in (*named, *(students or "").split(",")):
        if name and networks.is_outside(name):
            networks.admit(name)


REPDISTILLER_KD = KDSettings(ce_weight=0.1, kl_weight=0.9, temperature=4.0)
EVEN_KD = KDSettings(ce_weight=1.0, kl_weight=1.0, temperature=4.0)
IMAGENET_METHODS = {
    "crd": CRDSettings(replacement=True),
    "oh": OHSettings(weight=1e-4),
    "semckd": SemCKDSettings(weight=50.0),
}
"""Settings that the methods' authors have otherwise on ImageNet."""


def joined_with_kd(method: str, partners: Container[str] | None = None) -> str:
    """Puts KD in front of a method, as the papers do, where no logit method is named: `at` becomes `kd+at`.

    partners: the methods that KD goes with, alone or together; None: all.
    """
    named = method.split("+")
    without_logit_method = split_methods(method)[0] == "ce" and "ce" not in named
    if without_logit_method and (partners is None or all(name in partners for name in named)):
        return f"kd+{method}"
    return method


def method_settings(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of every method in `kd+at`: those given, else the method's own defaults."""
    return {name: given.get(name) or find_method(name).Settings() for name in split_methods(method)}


def stages_of(
    choice: Choice,
    teacher: Training,
    student: Training,
    settings: dict[str, Any],
    *,
    kl_weight: float = 3.0,
    frozen_epochs: int = 0,
) -> tuple[StageRecipe, ...]:
    """A teacher, a student that learns from it and, as control, the same student with labels alone.

    settings: those of methods, by name, where they are not the methods' defaults. kl_weight, frozen_epochs: λ_KL of a
    student-friendly teacher, and the first epochs in which it is frozen.
    """
    methods = [find_method(name) for name in split_methods(choice.method)]
    sftn = None
    if choice.teacher_training != "standard" and not any(method.among_peers for method in methods):
        sftn = SFTNSettings(
            network=choice.branch or (SUPERNET if choice.teacher_training == "gtn" else choice.student),
            blocks=choice.branch_blocks,
            starts=choice.branch_starts,
            kl_weight=kl_weight,
            frozen_epochs=frozen_epochs,
        )
    of_teachers = choice.teacher_net.split("+") if any(method.teachers_needed[0] for method in methods) else []
    teachers = [
        StageRecipe(
            name=f"teacher-{number}" if number > 1 else "teacher",
            role="teacher",
            network=network,
            training=teacher,
            sftn=sftn,
            gtn=GTNSettings() if sftn is not None and choice.teacher_training == "gtn" else None,
        )
        for number, network in enumerate(of_teachers, 1)
    ]
    if any(method.fixed_batch_size for method in methods):
        student = replace(student, drop_last=True)
    learner = StageRecipe(
        name="student",
        role="student",
        network=choice.student,
        training=student,
        teachers=tuple(stage.name for stage in teachers),
        method=choice.method,
        settings=method_settings(choice.method, settings),
    )
    control = StageRecipe(name="control", role="control", network=choice.student, training=student)
    return (*teachers, learner, *([control] if choice.control else []))
