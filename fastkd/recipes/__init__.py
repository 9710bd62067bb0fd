"""The papers' settings: functions that return a `Recipe`. Their tables, cell by cell, are in `tables/`.

Every function takes the fields of `Choice` as keywords: what is trained, not how.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from fastkd.data import Augmentation
from fastkd.methods import find_method, split_methods
from fastkd.methods.crd import CRDSettings
from fastkd.methods.fitnet import FitNetSettings
from fastkd.methods.kd import KDSettings
from fastkd.methods.oh import OHSettings
from fastkd.methods.semckd import SemCKDSettings
from fastkd.methods.simkd import SimKDSettings
from fastkd.recipes import tfkd_settings
from fastkd.recipes.recipe import Branches, Recipe, StageRecipe
from fastkd.recipes.tables import sftn
from fastkd.support.errors import UserError
from fastkd.training.optimisation import Training

TeacherTraining = Literal["standard", "sftn"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The options that a recipe's function takes."""

    data: str
    teacher_net: str
    """One network, or several joined by +, each trained for itself."""
    student: str
    method: str
    branch: str | None = None
    """Network of the teacher's branches; None: the student's."""
    branch_blocks: tuple[int, ...] | None = None
    teacher_training: TeacherTraining = "standard"
    control: bool = False

    def __post_init__(self) -> None:
        if self.teacher_training not in ("standard", "sftn"):
            raise UserError(f"the teacher's training is 'standard' or 'sftn', got {self.teacher_training!r}")


def digits(**chosen: Any) -> Recipe:
    """A first run: 8x8 handwritten digits, a minute on two cores, three seeds.

    It shows distillation: the student is better than the same student without a teacher. It does not show what SFTN
    adds: on digits a plainly trained teacher serves as well.
    """
    choice = _choice(
        chosen,
        data="digits",
        teacher_net="wrn_16_2",
        student="resnet8",
        method="kd",
        teacher_training="sftn",
        control=True,
    )
    training = Training(epochs=30, lr=0.05, schedule="cosine", warmup_epochs=1)
    return Recipe(
        name="digits",
        data=choice.data,
        image_size=8,
        stages=_stages(choice, training, replace(training, epochs=10), {"kd": _REPDISTILLER_KD}),
        augmentation=Augmentation(crop_padding=1, flip=False),
        seeds=3,
    )


def cifar100_sftn(**chosen: Any) -> Recipe:
    """SFTN (Park et al. 2021) on CIFAR-100: its teachers beside standard ones, for twelve methods.

    SGD, 240 epochs of batches of 64, ×0.1 at 150, 180 and 210; learning rate 0.05 for every teacher, 0.01 for
    ShuffleNet and MobileNet students, 0.05 for the others. λ_T 1, λ_KL 3, λ_CE 1, τ 1; students by KD with 0.1 CE +
    0.9 KL at T = 4 (RepDistiller's weights: the paper takes CRD's setup). Partial batches are trained on, as there.

    FitNet, AT, SP, VID, RKD, PKT, AB, FT and OH run jointly with KD, as in the paper (`--method ce+at` for AT alone).
    It does not print KD's weight there: 1 CE + 1 KL at T = 4, SimKD's, is our choice. SSKD has its own paper's 0.1
    and 0.9.
    """
    choice = _with_kd(
        _choice(
            chosen, data="cifar100", teacher_net="wrn_40_2", student="wrn_16_2", method="kd", teacher_training="sftn"
        ),
        (*sftn.WITH_KD, "sskd"),
    )
    teacher, student = _CIFAR_TRAINING, _cifar_training(choice.student)
    joint = "kd" in _parts(choice) and set(_parts(choice)) & set(sftn.WITH_KD)
    unprinted = {"the weight of KD beside other methods": joint, "how it set this method": choice.method in _TABLE_4}
    return Recipe(
        name="cifar100-sftn",
        data=choice.data,
        image_size=32,
        stages=_stages(choice, teacher, student, {"kd": _EVEN_KD if joint else _REPDISTILLER_KD}),
        published_classes=100,
        deviations=tuple(f"the paper does not print {what}" for what, so in unprinted.items() if so),
    )


def imagenet_sftn(**chosen: Any) -> Recipe:
    """SFTN (Park et al. 2021) on ImageNet: Table 3, ResNet50 → ResNet34.

    SGD, 100 epochs of batches of 256, learning rate 0.1, ×0.1 at 30, 60 and 90, weight decay 1e-4; λ_T, λ_KL, λ_CE
    and τ are 1. The paper prints no weights of the students' losses: 0.5 CE + 0.5 KL at T = 1 for KD (mdistiller's
    and torchdistill's), 1 CE + 1 KL at T = 4 beside other methods is our choice. Those methods have their authors'
    weights for ImageNet where there are any, else those for CIFAR-100.
    """
    choice = _with_kd(
        _choice(
            chosen,
            data="imagefolder",
            teacher_net="torchvision_resnet50",
            student="torchvision_resnet34",
            method="kd",
            teacher_training="sftn",
        ),
        sftn.WITH_KD,
    )
    training = Training(epochs=100, batch_size=256, lr=0.1, weight_decay=1e-4, milestones=(30, 60, 90), drop_last=False)
    alone = KDSettings(ce_weight=0.5, kl_weight=0.5, temperature=1.0)
    settings = {**_IMAGENET_METHODS, "kd": alone if _parts(choice) == ("kd",) else _EVEN_KD}
    return Recipe(
        name="imagenet-sftn",
        data=choice.data,
        image_size=224,
        stages=_stages(choice, training, training, settings, kl_weight=1.0),
        augmentation=Augmentation(crop="resized"),
        published_classes=1000,
        deviations=("the paper does not print the weights of the student's losses",),
    )


def cifar100_simkd(**chosen: Any) -> Recipe:
    """SimKD (Chen et al. 2022) on CIFAR-100: the reused classifier beside eight methods.

    Trained as in `cifar100-sftn`; every other method runs with KD: 1 CE + 1 KL at T = 4 (`--method ce+at` for AT
    alone), FitNet behind block 1. The paper names Nesterov's momentum; its released code has none, and neither has
    this. Its WRNs are the resnets 38, 38x2, 38x4, 14x2 and 14x4. Its figures are of the best epoch: compare that
    column.
    """
    choice = _with_kd(_choice(chosen, data="cifar100", teacher_net="resnet32x4", student="resnet8x4", method="simkd"))
    settings = {"kd": _EVEN_KD, "fitnet": FitNetSettings(block=1)}
    stages = _stages(choice, _cifar_training(choice.teacher_net), _cifar_training(choice.student), settings)
    return Recipe(name="cifar100-simkd", data=choice.data, image_size=32, stages=stages, published_classes=100)


def imagenet_simkd(**chosen: Any) -> Recipe:
    """SimKD (Chen et al. 2022) on ImageNet: Tables 3 and S.3.

    SGD, 120 epochs of batches of 256, learning rate 0.1, ×0.1 at 30, 60 and 90, weight decay 1e-4, crops of 0.1 to 1
    of the area and aspect ratios of 0.8 to 1.25. The projector is depthwise. As in `cifar100-simkd` there is no
    Nesterov momentum, and other methods run with KD; their weights on ImageNet are not printed: see `imagenet-sftn`.
    """
    choice = _with_kd(
        _choice(
            chosen,
            data="imagefolder",
            teacher_net="torchvision_resnet50",
            student="torchvision_resnet18",
            method="simkd",
        )
    )
    training = Training(epochs=120, batch_size=256, lr=0.1, weight_decay=1e-4, milestones=(30, 60, 90), drop_last=False)
    settings = {**_IMAGENET_METHODS, "kd": _EVEN_KD, "simkd": SimKDSettings(projector="depthwise")}
    others = choice.method not in ("kd", "simkd")
    return Recipe(
        name="imagenet-simkd",
        data=choice.data,
        image_size=224,
        stages=_stages(choice, training, training, settings),
        augmentation=Augmentation(crop="resized", area=(0.1, 1.0), aspect=(0.8, 1.25)),
        published_classes=1000,
        deviations=("the paper does not print this method's weight on ImageNet",) if others else (),
    )


def cifar100_tfkd(**chosen: Any) -> Recipe:
    """Tf-KD (Yuan et al. 2020) on CIFAR-100: KD, Re-KD, Tf-KD_self, Tf-KD_reg and label smoothing.

    SGD, 200 epochs, ×0.2 at 60, 120 and 160, one epoch of warm-up by the step; batches of 128 at 0.1, in proportion
    where the code's are smaller; rotations by 15 degrees. Re-KD is KD with a pair the other way round. τ and α are
    those of Tables 10, 13 and 14, and where the code has others the code's. KL is computed as in the code, which
    divides it by the number of classes. Its figures are of the best epoch: compare that column.
    """
    return _tfkd(
        "cifar100-tfkd",
        _choice(chosen, data="cifar100", teacher_net="ResNet18", student="tf_mobilenet_v2", method="kd"),
        100,
    )


def cifar100_dekd(**chosen: Any) -> Recipe:
    """De-KD (Yuan et al. 2020) on CIFAR-100: KD from a poorly trained teacher, Table 4.

    As `cifar100-tfkd`, but the teacher stops after 50 epochs, ResNet18 after the first.
    """
    return _tfkd(
        "cifar100-dekd",
        _choice(chosen, data="cifar100", teacher_net="ResNet18", student="tf_mobilenet_v2", method="kd"),
        100,
    )


def cifar10_tfkd(**chosen: Any) -> Recipe:
    """Tf-KD (Yuan et al. 2020) on CIFAR-10: KD and Re-KD, Table 2.

    As `cifar100-tfkd`, with CIFAR-100's mean and deviation, as in the code. The plain CNN is trained by Adam at
    0.001, as in the code (the paper: 0.01), without weight decay.
    """
    return _tfkd(
        "cifar10-tfkd", _choice(chosen, data="cifar10", teacher_net="ResNet18", student="tf_cnn", method="kd"), 10
    )


def tiny_tfkd(**chosen: Any) -> Recipe:
    """Tf-KD (Yuan et al. 2020) on Tiny-ImageNet: Tables 3, 5 and 9.

    As `cifar100-tfkd`, with ×0.1 at the milestones (the paper; its code has ×0.2), no crop, rotations by 20 degrees.
    Tf-KD is computed by the paper's formulas: what the code multiplied KL by on this data set is not published.
    """
    return _tfkd(
        "tiny-tfkd",
        _choice(chosen, data="tiny-imagenet", teacher_net="ResNet18", student="tf_mobilenet_v2", method="kd"),
        200,
    )


def tiny_dekd(**chosen: Any) -> Recipe:
    """De-KD (Yuan et al. 2020) on Tiny-ImageNet: KD from a poorly trained teacher, Table 4.

    As `tiny-tfkd`, but the teacher stops after 50 epochs, ResNet18 after the first.
    """
    return _tfkd(
        "tiny-dekd",
        _choice(chosen, data="tiny-imagenet", teacher_net="ResNet18", student="tf_mobilenet_v2", method="kd"),
        200,
    )


def imagenet_tfkd(**chosen: Any) -> Recipe:
    """Tf-KD (Yuan et al. 2020) on ImageNet: Tables 6 and 7, Figure 6(a).

    SGD, 90 epochs of batches of 512 (256 for ResNeXt101), learning rate 0.1 for 256, ×0.1 at 30, 60 and 80, weight
    decay 1e-4; τ 20, α 0.1. The code for ImageNet is not published: the paper's formulas are computed.
    """
    return _tfkd(
        "imagenet-tfkd",
        _choice(
            chosen,
            data="imagefolder",
            teacher_net="torchvision_densenet121",
            student="torchvision_resnet18",
            method="kd",
        ),
        1000,
    )


RECIPES: dict[str, Callable[..., Recipe]] = {
    "digits": digits,
    "cifar100-sftn": cifar100_sftn,
    "imagenet-sftn": imagenet_sftn,
    "cifar100-simkd": cifar100_simkd,
    "imagenet-simkd": imagenet_simkd,
    "cifar100-tfkd": cifar100_tfkd,
    "cifar100-dekd": cifar100_dekd,
    "cifar10-tfkd": cifar10_tfkd,
    "tiny-tfkd": tiny_tfkd,
    "tiny-dekd": tiny_dekd,
    "imagenet-tfkd": imagenet_tfkd,
}

_REPDISTILLER_KD = KDSettings(ce_weight=0.1, kl_weight=0.9, temperature=4.0)
_EVEN_KD = KDSettings(ce_weight=1.0, kl_weight=1.0, temperature=4.0)
_TABLE_4 = ("dml", "kdcl", "rco")
"""Of SFTN, which compares its teachers with these."""
_IMAGENET_METHODS = {
    "crd": CRDSettings(replacement=True),
    "oh": OHSettings(weight=1e-4),
    "semckd": SemCKDSettings(weight=50.0),
}


def method_settings(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of every method in `kd+at`: those given, else the method's own defaults."""
    return {name: given.get(name) or find_method(name).Settings() for name in split_methods(method)}


def _choice(chosen: dict[str, Any], **own: Any) -> Choice:
    return Choice(**own | chosen)


def _parts(choice: Choice) -> tuple[str, ...]:
    return split_methods(choice.method)


def _with_kd(choice: Choice, methods: tuple[str, ...] | None = None) -> Choice:
    """Where no logit method is named, KD goes with these methods (None: with all), as the paper runs them."""
    named = choice.method.split("+")
    alone = _parts(choice)[0] == "ce" and "ce" not in named
    if alone and (methods is None or all(name in methods for name in named)):
        return replace(choice, method=f"kd+{choice.method}")
    return choice


def _stages(
    choice: Choice, teacher: Training, student: Training, settings: dict[str, Any], *, kl_weight: float = 3.0
) -> tuple[StageRecipe, ...]:
    """A teacher, a student that learns from it and, as control, the same student with labels alone.

    kl_weight: λ_KL, of a student-friendly teacher.
    """
    aware = choice.teacher_training == "sftn"
    branches = Branches(network=choice.branch or choice.student, blocks=choice.branch_blocks, kl_weight=kl_weight)
    with_teacher = any(find_method(name).teachers_needed[0] for name in _parts(choice))
    networks = choice.teacher_net.split("+") if with_teacher else []
    stages = [
        StageRecipe(
            name=f"teacher-{number}" if number > 1 else "teacher",
            kind="student_aware" if aware else "supervised",
            network=network,
            training=teacher,
            branches=branches if aware else None,
        )
        for number, network in enumerate(networks, 1)
    ]
    if any(find_method(name).fixed_batch_size for name in _parts(choice)):
        student = replace(student, drop_last=True)
    stages.append(
        StageRecipe(
            name="student",
            kind="distill",
            network=choice.student,
            training=student,
            teachers=tuple(stage.name for stage in stages),
            method=choice.method,
            settings=method_settings(choice.method, settings),
        )
    )
    if choice.control:
        stages.append(StageRecipe(name="control", kind="supervised", network=choice.student, training=student))
    return tuple(stages)


_CIFAR_TRAINING = Training(epochs=240, lr=0.05, milestones=(150, 180, 210), drop_last=False)
"""RepDistiller's, which SFTN and SimKD take."""


def _cifar_training(network: str) -> Training:
    small = network.startswith(("Shuffle", "MobileNet"))
    return replace(_CIFAR_TRAINING, lr=0.01) if small else _CIFAR_TRAINING


_TFKD_CIFAR = Recipe(
    name="",
    data="",
    image_size=32,
    stages=(),
    augmentation=Augmentation(rotation=15.0),
    mean=(0.50708, 0.48655, 0.44092),
    std=(0.26733, 0.25644, 0.27615),
)
_TFKD_TINY = Recipe(
    name="", data="", image_size=64, stages=(), augmentation=Augmentation(crop_padding=0, rotation=20.0)
)
_TFKD_IMAGENET = Recipe(name="", data="", image_size=224, stages=(), augmentation=Augmentation(crop="resized"))


def _tfkd(name: str, choice: Choice, classes: int) -> Recipe:
    where, _, kind = name.partition("-")
    frame = {"tiny": _TFKD_TINY, "imagenet": _TFKD_IMAGENET}.get(where, _TFKD_CIFAR)
    teacher = tfkd_settings.training_of(where, choice.teacher_net)
    if kind == "dekd":
        teacher = replace(teacher, epochs=1 if choice.teacher_net == "ResNet18" else 50, milestones=())
    settings, deviations = tfkd_settings.settings_of(name, choice.teacher_net, choice.student, choice.method, classes)
    return replace(
        frame,
        name=name,
        data=choice.data,
        stages=_stages(choice, teacher, tfkd_settings.training_of(where, choice.student), settings),
        published_classes=classes,
        deviations=deviations,
    )
