"""The recipes of "Knowledge Distillation with the Reused Teacher Classifier" (Chen et al. 2022): SimKD."""

from dataclasses import replace
from typing import Any

from fastkd.data import Augmentation
from fastkd.methods.fitnet import FitNetSettings
from fastkd.methods.simkd import SimKDSettings
from fastkd.recipes.choice import EVEN_KD, IMAGENET_METHODS, Choice, joined_with_kd, stages_of
from fastkd.recipes.recipe import Recipe
from fastkd.recipes.sftn import cifar_training
from fastkd.training.optimisation import Training

_CIFAR_CHOICE = Choice(data="cifar100", teacher_net="resnet32x4", student="resnet8x4", method="simkd")
_IMAGENET_CHOICE = Choice(
    data="imagefolder", teacher_net="torchvision_resnet50", student="torchvision_resnet18", method="simkd"
)


_POOLED_APART = ("ShuffleV2", "MobileNetV2")
"""Families whose pooled map is another one than their last feature."""


def cifar100_simkd(**chosen: Any) -> Recipe:
    """SimKD (Chen et al. 2022) on CIFAR-100: the reused classifier beside eight methods.

    Trained as in `cifar100-sftn`; every other method runs with KD: 1 CE + 1 KL at T = 4 (`--method ce+at` for AT
    alone), FitNet behind block 1. The paper names Nesterov's momentum; the authors' code has none, and neither has
    this (--as-printed). The projector of a ShuffleNetV2 or MobileNetV2 reads the map that these pool: the paper's
    parameter counts prove it, the released code has --simkd.source feature. The paper's WRNs are the resnets 38, 38x2,
    38x4, 14x2 and 14x4. Its figures are of the best epoch: compare them with that column.
    """
    choice = replace(_CIFAR_CHOICE, **chosen)
    choice = replace(choice, method=joined_with_kd(choice.method))
    settings: dict[str, Any] = {"kd": EVEN_KD, "fitnet": FitNetSettings(block=1)}
    if choice.student.startswith(_POOLED_APART):
        settings["simkd"] = SimKDSettings(source="final_map")
    stages = stages_of(choice, cifar_training(choice.teacher_net), cifar_training(choice.student), settings)
    several = choice.method.startswith(("aveg", "aekd"))
    return Recipe(
        name="cifar100-simkd",
        data=choice.data,
        image_size=32,
        stages=stages,
        published_classes=100,
        deviations=("the paper does not print whether partial batches are left out, as in CA-MKD's code",) * several,
    )


def imagenet_simkd(**chosen: Any) -> Recipe:
    """SimKD (Chen et al. 2022) on ImageNet: Tables 3 and S.3.

    SGD, 120 epochs of batches of 256, learning rate 0.1, ×0.1 at 30, 60 and 90, weight decay 1e-4, crops of 0.1 to 1
    of the area and aspect ratios of 0.8 to 1.25. The projector is depthwise. As in `cifar100-simkd` there is no
    Nesterov momentum, and other methods run with KD; their weights on ImageNet are not printed: see `imagenet-sftn`.
    """
    choice = replace(_IMAGENET_CHOICE, **chosen)
    choice = replace(choice, method=joined_with_kd(choice.method))
    training = Training(epochs=120, batch_size=256, lr=0.1, weight_decay=1e-4, milestones=(30, 60, 90), drop_last=False)
    settings = {**IMAGENET_METHODS, "kd": EVEN_KD, "simkd": SimKDSettings(projector="depthwise")}
    others = choice.method not in ("kd", "simkd")
    return Recipe(
        name="imagenet-simkd",
        data=choice.data,
        image_size=224,
        stages=stages_of(choice, training, training, settings),
        augmentation=Augmentation(crop="resized", area=(0.1, 1.0), aspect=(0.8, 1.25)),
        published_classes=1000,
        deviations=(
            "the paper does not print area and aspect of its crops: those of its code",
            *(("the paper does not print this method's weight on ImageNet",) if others else ()),
        ),
    )
