"""The papers' settings: functions that return a `Recipe`. Every one names the table it comes from."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from fastkd.data import Augmentation
from fastkd.errors import UserError
from fastkd.methods import find_method, split_methods
from fastkd.methods.kd import KDSettings
from fastkd.optimisation import Training
from fastkd.recipe import Branches, Published, Recipe, StageRecipe

TeacherTraining = Literal["standard", "sftn"]


def digits(
    *,
    data: str = "digits",
    teacher_net: str = "wrn_16_2",
    student: str = "resnet8",
    branch: str | None = None,
    branch_blocks: tuple[int, ...] | None = None,
    teacher_training: TeacherTraining = "sftn",
    method: str = "kd",
    control: bool = True,
) -> Recipe:
    """A first run: 8x8 handwritten digits, a minute on two cores, three seeds.

    It shows distillation: the student is better than the same student without a teacher. It does not show what SFTN
    adds: on digits a plainly trained teacher serves as well.
    """
    training = Training(epochs=30, lr=0.05, schedule="cosine", warmup_epochs=1)
    shorter = replace(training, epochs=10)
    stages = _teacher_and_student(
        (teacher_net, training),
        (student, shorter),
        Branches(network=branch or student, blocks=branch_blocks),
        teacher_training,
        method,
        {"kd": KDSettings(ce_weight=0.1, kl_weight=0.9, temperature=4.0)},
        control=control,
    )
    return Recipe(
        name="digits",
        data=data,
        image_size=8,
        stages=stages,
        augmentation=Augmentation(crop_padding=1, flip=False),
        seeds=3,
    )


class _Pair(NamedTuple):
    """A column of SFTN's Tables 1 and 2; accuracies in percent, `standard → SFTN` where there are two."""

    teacher: tuple[float, float]
    student: float
    kd: tuple[float, float]
    kd_std: tuple[float | None, float | None]
    table: str


# Table 1 (similar architectures) and Table 2 (different ones); the deviations are those of Tables 17 and 18 of the
# supplement, over three runs.
_SFTN_CIFAR100 = {
    ("wrn_40_2", "wrn_16_2"): _Pair((76.30, 78.20), 73.41, (75.46, 76.25), (0.23, 0.14), "Table 1"),
    ("wrn_40_2", "wrn_40_1"): _Pair((76.30, 77.62), 72.16, (73.73, 75.09), (0.21, 0.05), "Table 1"),
    ("resnet32x4", "resnet8x4"): _Pair((79.25, 79.41), 72.38, (73.39, 76.09), (0.15, 0.32), "Table 1"),
    ("resnet32x4", "resnet8x2"): _Pair((79.25, 77.89), 68.19, (67.43, 69.17), (None, None), "Table 1"),
    ("vgg13", "vgg8"): _Pair((75.38, 76.76), 71.12, (73.41, 74.52), (0.10, 0.34), "Table 17"),
    ("resnet32x4", "ShuffleV1"): _Pair((79.25, 80.03), 71.95, (74.26, 77.93), (0.16, 0.11), "Table 2"),
    ("resnet32x4", "ShuffleV2"): _Pair((79.25, 79.58), 73.21, (75.25, 78.07), (0.05, 0.30), "Table 2"),
    ("ResNet50", "vgg8"): _Pair((78.70, 82.52), 71.12, (73.82, 74.92), (0.38, 0.35), "Table 2"),
    ("wrn_40_2", "ShuffleV2"): _Pair((76.30, 78.21), 73.21, (76.68, 78.06), (0.36, 0.16), "Table 2"),
}


def cifar100_sftn(
    *,
    data: str = "cifar100",
    teacher_net: str = "wrn_40_2",
    student: str = "wrn_16_2",
    branch: str | None = None,
    branch_blocks: tuple[int, ...] | None = None,
    teacher_training: TeacherTraining = "sftn",
    method: str = "kd",
    control: bool = False,
) -> Recipe:
    """SFTN (Park et al. 2021) on CIFAR-100: Tables 1 and 2 (17 and 18 with deviations), every teacher/student pair.

    SGD, 240 epochs of batches of 64, ×0.1 at 150, 180 and 210; learning rate 0.05 for every teacher, 0.01 for ShuffleNet
    and MobileNet students, 0.05 for the others. λ_T 1, λ_KL 3, λ_CE 1, τ 1; students by KD with 0.1 CE + 0.9 KL at T = 4
    (RepDistiller's weights: the paper takes CRD's setup). Partial batches are trained on, as there.

    The paper's columns (teacher standard → SFTN; student alone; KD standard → SFTN):
      wrn_40_2/wrn_16_2     76.30 → 78.20   73.41   75.46 → 76.25      wrn_40_2/wrn_40_1     76.30 → 77.62   72.16   73.73 → 75.09
      resnet32x4/resnet8x4  79.25 → 79.41   72.38   73.39 → 76.09      resnet32x4/resnet8x2  79.25 → 77.89   68.19   67.43 → 69.17
      vgg13/vgg8            75.38 → 76.76   71.12   73.41 → 74.52      resnet32x4/ShuffleV1  79.25 → 80.03   71.95   74.26 → 77.93
      resnet32x4/ShuffleV2  79.25 → 79.58   73.21   75.25 → 78.07      ResNet50/vgg8         78.70 → 82.52   71.12   73.82 → 74.92
      wrn_40_2/ShuffleV2    76.30 → 78.21   73.21   76.68 → 78.06
    """  # noqa: E501 - a table
    training = Training(epochs=240, lr=0.05, milestones=(150, 180, 210), drop_last=False)
    small = student.startswith(("Shuffle", "MobileNet"))
    stages = _teacher_and_student(
        (teacher_net, training),
        (student, replace(training, lr=0.01) if small else training),
        Branches(network=branch or student, blocks=branch_blocks),
        teacher_training,
        method,
        {"kd": KDSettings(ce_weight=0.1, kl_weight=0.9, temperature=4.0)},
        control=control,
    )
    pair = _SFTN_CIFAR100.get((teacher_net, student))
    if pair is not None and branch in (None, student) and branch_blocks is None:
        stages = _with_published(stages, pair, teacher_training, method)
    return Recipe(name="cifar100-sftn", data=data, image_size=32, stages=stages, published_classes=100)


def imagenet_sftn(
    *,
    data: str = "imagefolder",
    teacher_net: str = "torchvision_resnet50",
    student: str = "torchvision_resnet34",
    branch: str | None = None,
    branch_blocks: tuple[int, ...] | None = None,
    teacher_training: TeacherTraining = "sftn",
    method: str = "kd",
    control: bool = False,
) -> Recipe:
    """SFTN (Park et al. 2021) on ImageNet: Table 3, ResNet50 → ResNet34.

    SGD, 100 epochs of batches of 256, learning rate 0.1, ×0.1 at 30, 60 and 90, weight decay 1e-4; λ_T, λ_KL, λ_CE and
    τ are 1. The paper does not print its KD weights: 0.5 CE + 0.5 KL at T = 1, mdistiller's and torchdistill's, is our
    choice. Top-1, standard → SFTN teacher: teacher 76.45 → 77.43, student alone 73.79, KD 73.55 → 74.14.
    """
    training = Training(epochs=100, batch_size=256, lr=0.1, weight_decay=1e-4, milestones=(30, 60, 90), drop_last=False)
    stages = _teacher_and_student(
        (teacher_net, training),
        (student, training),
        Branches(network=branch or student, blocks=branch_blocks, kl_weight=1.0),
        teacher_training,
        method,
        {"kd": KDSettings(ce_weight=0.5, kl_weight=0.5, temperature=1.0)},
        control=control,
    )
    table_3 = _Pair((76.45, 77.43), 73.79, (73.55, 74.14), (None, None), "Table 3")
    pair = (teacher_net, student) == ("torchvision_resnet50", "torchvision_resnet34")
    if pair and branch in (None, student) and branch_blocks is None:
        stages = _with_published(stages, table_3, teacher_training, method)
    return Recipe(
        name="imagenet-sftn",
        data=data,
        image_size=224,
        stages=stages,
        augmentation=Augmentation(crop="resized"),
        published_classes=1000,
        deviations=("the paper does not print its KD weights",) if method == "kd" else (),
    )


RECIPES: dict[str, Callable[..., Recipe]] = {
    "digits": digits,
    "cifar100-sftn": cifar100_sftn,
    "imagenet-sftn": imagenet_sftn,
}


def method_settings(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of every method in `kd+at`: those given, else the method's own defaults."""
    return {name: given.get(name) or find_method(name).Settings() for name in split_methods(method)}


def _teacher_and_student(
    teacher: tuple[str, Training],
    student: tuple[str, Training],
    branches: Branches,
    teacher_training: TeacherTraining,
    method: str,
    settings: dict[str, Any],
    *,
    control: bool,
) -> tuple[StageRecipe, ...]:
    """A teacher, a student that learns from it and, as control, the same student with labels alone."""
    if teacher_training not in ("standard", "sftn"):
        raise UserError(f"the teacher's training is 'standard' or 'sftn', got {teacher_training!r}")
    aware = teacher_training == "sftn"
    stages = [
        StageRecipe(
            name="teacher",
            kind="student_aware" if aware else "supervised",
            network=teacher[0],
            training=teacher[1],
            branches=branches if aware else None,
        ),
        StageRecipe(
            name="student",
            kind="distill",
            network=student[0],
            training=student[1],
            teachers=("teacher",),
            method=method,
            settings=method_settings(method, settings),
        ),
    ]
    if control:
        stages.append(StageRecipe(name="control", kind="supervised", network=student[0], training=student[1]))
    return tuple(stages)


def _with_published(
    stages: tuple[StageRecipe, ...], pair: _Pair, teacher_training: TeacherTraining, method: str
) -> tuple[StageRecipe, ...]:
    column = 1 if teacher_training == "sftn" else 0
    source = f"SFTN, {pair.table}"
    spread = f"{source}, deviation of Table {'18' if pair.table == 'Table 2' else '17'}"
    published = {
        "teacher": Published(top1=pair.teacher[column], source=source),
        "control": Published(top1=pair.student, source=source),
    }
    if method == "kd":
        published["student"] = Published(
            top1=pair.kd[column], std=pair.kd_std[column], source=spread if pair.kd_std[column] else source
        )
    return tuple(replace(stage, published=published.get(stage.name)) for stage in stages)
