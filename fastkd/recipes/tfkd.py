"""The recipes of "Revisit Knowledge Distillation: a Teacher-free Framework" (Yuan et al. 2020): Tf-KD."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fastkd.data import Augmentation
from fastkd.methods import find_method, split_methods
from fastkd.methods.kd import KDSettings
from fastkd.methods.tfkd import TfKDRegSettings, TfKDSelfSettings
from fastkd.recipes.choice import Choice, stages_of
from fastkd.recipes.recipe import Recipe
from fastkd.recipes.tables.tfkd import IMAGENET_NETWORKS, NETWORKS, TABLE_10
from fastkd.training.optimisation import Training


def cifar100_tfkd(**chosen: Any) -> Recipe:
    """Tf-KD (Yuan et al. 2020) on CIFAR-100: KD, Re-KD, Tf-KD_self, Tf-KD_reg and label smoothing.

    SGD, 200 epochs, ×0.2 at 60, 120 and 160, one epoch of warm-up by the step; batches of 128 at 0.1, in proportion
    where the code's for the pair are smaller; rotations by 15 degrees. Re-KD is KD with a pair the other way round. τ
    and α are those of Tables 10, 13 and 14, and where the code has others the code's. KL is computed as in the code,
    which divides it by the number of classes. --as-printed takes the paper's batches, weights and formulas instead.
    The paper's figures are of the best epoch: compare them with that column.
    """
    return _recipe("cifar100-tfkd", _CIFAR_100, chosen)


def cifar100_dekd(**chosen: Any) -> Recipe:
    """De-KD (Yuan et al. 2020) on CIFAR-100: KD from a poorly trained teacher, Table 4.

    As `cifar100-tfkd`, but the teacher stops after 50 epochs, ResNet18 after the first.
    """
    return _recipe("cifar100-dekd", _CIFAR_100, chosen, poorly_trained=True)


def cifar10_tfkd(**chosen: Any) -> Recipe:
    """Tf-KD (Yuan et al. 2020) on CIFAR-10: KD and Re-KD, Table 2.

    As `cifar100-tfkd`, with CIFAR-100's mean and deviation, as in the code. The plain CNN is trained by Adam at
    0.001, as in the code (the paper: 0.01), without weight decay.
    """
    return _recipe("cifar10-tfkd", _CIFAR_10, chosen)


def tiny_tfkd(**chosen: Any) -> Recipe:
    """Tf-KD (Yuan et al. 2020) on Tiny-ImageNet: Tables 3, 5 and 9.

    As `cifar100-tfkd`, with ×0.1 at the milestones (the paper; its code has ×0.2), no crop, rotations by 20 degrees.
    Tf-KD is computed by the paper's formulas: what the code multiplied KL by on this data set is not published.
    """
    return _recipe("tiny-tfkd", _TINY, chosen)


def tiny_dekd(**chosen: Any) -> Recipe:
    """De-KD (Yuan et al. 2020) on Tiny-ImageNet: KD from a poorly trained teacher, Table 4.

    As `tiny-tfkd`, but the teacher stops after 50 epochs, ResNet18 after the first.
    """
    return _recipe("tiny-dekd", _TINY, chosen, poorly_trained=True)


def imagenet_tfkd(**chosen: Any) -> Recipe:
    """Tf-KD (Yuan et al. 2020) on ImageNet: Tables 6 and 7, Figure 6(a).

    SGD, 90 epochs of batches of 512 (256 for ResNeXt101), learning rate 0.1 for 256, ×0.1 at 30, 60 and 80, weight
    decay 1e-4; τ 20, α 0.1. The code for ImageNet is not published: the paper's formulas are computed.
    """
    return _recipe("imagenet-tfkd", _IMAGENET, chosen)


_ALONE_BY_64 = ("tf_googlenet", "ResNet50", "tf_resnext29_8x64d", "tf_resnext101_32x8d")
_BATCHES = {
    ("tf_mobilenet_v2", "ResNet50"): 128,
    ("tf_shufflenet_v2", "ResNet50"): 128,
    ("ResNet50", "ResNet18"): 64,
    ("tf_resnext29_8x64d", "ResNet18"): 64,
    ("tf_resnext29_8x64d", "tf_mobilenet_v2"): 64,
    ("tf_resnext29_8x64d", "tf_shufflenet_v2"): 64,
    ("tf_shufflenet_v2", "tf_densenet121"): 100,
    ("tf_densenet121", "tf_densenet121"): 100,
}
"""The code's batches of a student by (teacher, student), where they are not those of the student alone."""


def training_on_cifar(network: str, teacher: str = "") -> Training:
    """The training of a network: alone, or by that teacher, for which the code has other batches."""
    alone = 64 if network in _ALONE_BY_64 else 128
    training = _training(_BATCHES.get((teacher, network), alone), factor=0.2)
    return replace(training, optimizer="adam", lr=1e-3, weight_decay=0.0) if network == "tf_cnn" else training


def training_on_tiny(network: str, teacher: str = "") -> Training:
    return _training(64 if network in ("ResNet50", "tf_densenet121") else 128, factor=0.1)


def training_on_imagenet(network: str, teacher: str = "") -> Training:
    batch = 256 if network == IMAGENET_NETWORKS["ResNeXt101"] else 512
    return Training(
        epochs=90,
        batch_size=batch,
        lr=0.1 * batch / 256,
        weight_decay=1e-4,
        milestones=(30, 60, 80),
        drop_last=False,
    )


def _training(batch: int, factor: float) -> Training:
    return Training(
        epochs=200,
        batch_size=batch,
        lr=round(0.1 * batch / 128, 3),
        milestones=(60, 120, 160),
        factor=factor,
        warmup_epochs=1,
        drop_last=False,
    )


@dataclass(frozen=True)
class _Setting:
    """How the networks of one data set are trained."""

    choice: Choice
    frame: Recipe
    """A recipe with the images and their augmentation; name and stages come from the choice."""
    training_of: Callable[[str, str], Training]
    """(network, teacher or "") → its training."""
    classes: int
    silent: tuple[str, ...] = ()
    """What the paper does not print, and is the code's."""


def _frame(image_size: int, augmentation: Augmentation, **statistics: Any) -> Recipe:
    return Recipe(name="", data="", stages=(), image_size=image_size, augmentation=augmentation, **statistics)


_CIFAR_FRAME = _frame(
    32,
    Augmentation(rotation=15.0),
    mean=(0.50708, 0.48655, 0.44092),
    std=(0.26733, 0.25644, 0.27615),
)
_CIFAR_100 = _Setting(
    Choice(data="cifar100", teacher_net="ResNet18", student="tf_mobilenet_v2", method="kd"),
    _CIFAR_FRAME,
    training_on_cifar,
    classes=100,
    silent=("the paper does not print the epoch of warm-up and the rotation: those of its code",),
)
_CIFAR_10 = _Setting(
    Choice(data="cifar10", teacher_net="ResNet18", student="tf_cnn", method="kd"),
    _CIFAR_FRAME,
    training_on_cifar,
    classes=10,
    silent=("the paper does not print the epoch of warm-up and the rotation: those of its code",),
)
_TINY = _Setting(
    Choice(data="tiny-imagenet", teacher_net="ResNet18", student="tf_mobilenet_v2", method="kd"),
    _frame(64, Augmentation(crop_padding=0, rotation=20.0)),
    training_on_tiny,
    classes=200,
    silent=("the paper does not print the epoch of warm-up and the rotation without a crop: those of its code",),
)
_IMAGENET = _Setting(
    Choice(data="imagefolder", teacher_net="torchvision_densenet121", student="torchvision_resnet18", method="kd"),
    _frame(224, Augmentation(crop="resized")),
    training_on_imagenet,
    classes=1000,
)


def _recipe(name: str, setting: _Setting, chosen: dict[str, Any], *, poorly_trained: bool = False) -> Recipe:
    choice = replace(setting.choice, **chosen)
    teacher = setting.training_of(choice.teacher_net, "")
    if poorly_trained:
        teacher = replace(teacher, epochs=1 if choice.teacher_net == "ResNet18" else 50, milestones=())
    settings, deviations = settings_of(name, choice.teacher_net, choice.student, choice.method, setting.classes)
    needed = any(find_method(one).teachers_needed[0] for one in split_methods(choice.method))
    taught_by = choice.teacher_net if needed else ""
    student, alone = (setting.training_of(choice.student, by) for by in (taught_by, ""))
    stages = [*stages_of(choice, teacher, student, settings)]
    if choice.control and student.optimizer == alone.optimizer:  # the baseline of the tables, which one training is
        stages[-1] = replace(stages[-1], training=replace(alone, drop_last=student.drop_last))
    if "tf_resnext101_32x8d" in (choice.teacher_net, choice.student):
        deviations += ("the paper does not print the stem of its ResNeXt101 on CIFAR: as of its ResNets",)
    return replace(
        setting.frame,
        name=name,
        data=choice.data,
        stages=tuple(stages),
        published_classes=setting.classes,
        deviations=(*deviations, *setting.silent),
    )


class KDWeights(NamedTuple):
    """The numbers of Eq. 4: (1 - alpha) CE + alpha KL."""

    temperature: float
    alpha: float


class TfWeights(NamedTuple):
    """The numbers of Eqs. 7 and 9. multiplier: what the authors' code multiplies KL by; None: that is not published."""

    temperature: float
    alpha: float
    multiplier: float | None = None


def _kd_weights() -> dict[tuple[str, str, str], KDWeights]:
    """The weights of KD, by (recipe, teacher, student)."""
    found = {}
    for recipe, grid in TABLE_10.items():
        for pair, cells in grid.rows.items():
            large, small = (NETWORKS[name] for name in pair.split("/"))
            for ends, cell in zip(((large, small), (small, large)), cells, strict=True):
                temperature, alpha = cell.split()
                found[(recipe, *ends)] = KDWeights(float(temperature), float(alpha))
    return found


KD_WEIGHTS = _kd_weights()


def kd_weights(recipe: str, teacher: str, student: str) -> KDWeights:
    """The weights of KD, Re-KD and De-KD for a pair; where the paper prints none, its commonest for the data."""
    if recipe == "cifar100-dekd":  # Table 11, whose weights the student decides
        return KDWeights(20.0, 0.60 if student == "ResNet18" else 0.95)
    usual = 0.10 if recipe in ("imagenet-tfkd", "tiny-tfkd", "tiny-dekd") else 0.95
    return KD_WEIGHTS.get((recipe, teacher, student), KDWeights(20.0, usual))


SELF_WEIGHTS = {
    # These are Table 13's, but for the multipliers and DenseNet121's α (0.95 there), which are the code's.
    ("cifar100-tfkd", "tf_mobilenet_v2"): TfWeights(20, 0.95, 1),
    ("cifar100-tfkd", "tf_shufflenet_v2"): TfWeights(20, 0.95, 1),
    ("cifar100-tfkd", "ResNet18"): TfWeights(6, 0.95, 50),
    ("cifar100-tfkd", "tf_googlenet"): TfWeights(20, 0.40, 50),
    ("cifar100-tfkd", "tf_densenet121"): TfWeights(20, 0.90, 50),
    ("cifar100-tfkd", "tf_resnext29_8x64d"): TfWeights(20, 0.90, 100),
    # These are Table 13's.
    ("tiny-tfkd", "tf_mobilenet_v2"): TfWeights(20, 0.10),
    ("tiny-tfkd", "tf_shufflenet_v2"): TfWeights(20, 0.10),
    ("tiny-tfkd", "ResNet18"): TfWeights(6, 0.10),
    ("tiny-tfkd", "ResNet50"): TfWeights(20, 0.10),
    ("tiny-tfkd", "tf_densenet121"): TfWeights(20, 0.15),
    **{("imagenet-tfkd", network): TfWeights(20, 0.10) for network in IMAGENET_NETWORKS.values()},
}

REG_WEIGHTS = {
    # These are the code's; Table 14 prints τ 20 for ShuffleNetV2.
    ("cifar100-tfkd", "tf_mobilenet_v2"): TfWeights(40, 0.95, 1),
    ("cifar100-tfkd", "tf_shufflenet_v2"): TfWeights(10, 0.95, 1),
    ("cifar100-tfkd", "ResNet18"): TfWeights(20, 0.10, 100),
    ("cifar100-tfkd", "tf_googlenet"): TfWeights(40, 0.10, 50),
    **{
        ("tiny-tfkd", NETWORKS[name]): TfWeights(20, 0.10)
        for name in ("MobileNetV2", "ShuffleNetV2", "ResNet50", "DenseNet121")
    },
    **{("imagenet-tfkd", network): TfWeights(20, 0.10) for network in IMAGENET_NETWORKS.values()},
}


def settings_of(
    recipe: str, teacher: str, student: str, method: str, classes: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings of KD, Tf-KD_self and Tf-KD_reg for a pair, and in words what is our choice.

    Where the paper prints none for the pair they are its commonest.
    """
    kd = kd_weights(recipe, teacher, student)
    divisor = kd.temperature**2 if recipe == "imagenet-tfkd" else classes  # KDSettings multiplies by τ²
    settings: dict[str, Any] = {
        "kd": KDSettings(
            ce_weight=round(1 - kd.alpha, 6), kl_weight=kd.alpha / divisor, temperature=float(kd.temperature)
        )
    }
    deviations = []
    for name, table, kind in (
        ("tfkd_self", SELF_WEIGHTS, TfKDSelfSettings),
        ("tfkd_reg", REG_WEIGHTS, TfKDRegSettings),
    ):
        weights = table.get((recipe, student), TfWeights(20.0, 0.10))
        how: dict[str, Any] = {"temperature": float(weights.temperature), "alpha": weights.alpha}
        if weights.multiplier is not None:
            how |= {"arithmetic": "code", "multiplier": float(weights.multiplier)}
        settings[name] = kind(**how)
        if weights.multiplier is None and method == name:
            deviations.append("what the paper's code multiplied KL by is not published: this is the paper's formula")
    printed = recipe in ("imagenet-tfkd", "cifar100-dekd", "tiny-dekd") or (recipe, teacher, student) in KD_WEIGHTS
    if method == "kd" and not printed:
        deviations.append(f"the paper does not print τ and α of this pair: {kd.temperature:g} and {kd.alpha:g}")
    if recipe == "imagenet-tfkd" and method == "kd":
        deviations.append("the paper's code for ImageNet is not published: this is the paper's formula")
    return settings, tuple(deviations)
