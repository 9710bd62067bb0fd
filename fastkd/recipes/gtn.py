"""The recipes of "Generalizing Teacher Networks for Effective Knowledge Distillation Across Student Architectures"
(Binici et al. 2024): GTN. What follows is out of its supplement, which prints no results.
"""

import functools
from dataclasses import replace
from typing import Any

import torch

from fastkd import networks
from fastkd.data import Augmentation
from fastkd.methods import find_method, split_methods
from fastkd.networks.grafts import aligned
from fastkd.recipes.choice import REPDISTILLER_KD, Choice, stages_of
from fastkd.recipes.recipe import Recipe, StageRecipe
from fastkd.recipes.sftn import CIFAR_TRAINING
from fastkd.training.optimisation import Training

_CIFAR_CHOICE = Choice(
    data="cifar100", teacher_net="resnet32", student="gtn_nas_s", method="kd", teacher_training="gtn"
)
_IMAGENET_CHOICE = Choice(
    data="imagefolder",
    teacher_net="torchvision_efficientnet_b0",
    student="gtn_nas_s_imagenet",
    method="kd",
    teacher_training="gtn",
)
_IMAGENET_SUPERNET = "gtn_supernet_imagenet"
EPOCHS = 240
ADAPTATION_EPOCHS, FROZEN_EPOCHS, VANILLA_EPOCHS = 15, 60, 35
"""Those of EfficientNet-B0: on the other classes, with a frozen teacher, and of a plain teacher."""


def cifar100_gtn(**chosen: Any) -> Recipe:
    """GTN (Binici et al. 2024) on CIFAR-100: teachers for many students, beside SFTN's and plain ones.

    Teachers: SGD, 240 epochs, learning rate 0.05, ×0.1 at 150, 180 and 210; branches at τ 1 and α (λ_KL) 3. Students:
    240 epochs, learning rate 0.05, cosine, T = 4. A teacher of three blocks carries branches of the last three, two and
    one blocks of the supernet on its stem and its first two blocks; SFTN's branches end with the teacher likewise.
    Batches of 64, momentum 0.9, weight decay 5e-4 and crops are SFTN's, KD's weights RepDistiller's: the supplement
    prints neither these nor how paths are drawn. Which ResNet-32 it means is not said: resnet32 or resnet32x4.
    """
    choice = replace(_CIFAR_CHOICE, **chosen)
    student = Training(epochs=EPOCHS, lr=0.05, schedule="cosine", drop_last=False)
    return Recipe(
        name="cifar100-gtn",
        data=choice.data,
        image_size=32,
        stages=stages_of(_with_places(choice), CIFAR_TRAINING, student, {"kd": REPDISTILLER_KD}),
        published_classes=100,
        deviations=_unprinted(choice, "resnet32" in choice.teacher_net),
    )


def imagenet200_gtn(**chosen: Any) -> Recipe:
    """GTN (Binici et al. 2024) on ImageNet-200: EfficientNet-B0 from ImageNet's weights (--teacher-init FILE).

    The base is trained for 15 epochs on the 200 classes, which --class-list names. SFTN and GTN begin with it: 240
    epochs, ×0.1 at 60, 90 and 120, the teacher frozen in the first 60; λ_KL is 1. A plain teacher is trained 35 epochs
    more. Students: 240 epochs, learning rate 0.1, cosine, T = 4. Classes, image size (224 here), crops, the base's
    learning rate (0.05 here, for all teachers constant but for the milestones), batches of 256 and weight decay 1e-4
    (SFTN's on ImageNet) are choices, and so are the stems of supernet and students for these images.
    """
    choice = replace(_IMAGENET_CHOICE, **chosen)
    if choice.teacher_training == "gtn" and choice.branch is None:
        choice = replace(choice, branch=_IMAGENET_SUPERNET)
    common = Training(epochs=EPOCHS, batch_size=256, lr=0.05, weight_decay=1e-4, schedule="constant", drop_last=False)
    branched = replace(common, schedule="multistep", milestones=(60, 90, 120))
    plain = replace(common, epochs=VANILLA_EPOCHS)
    teacher = plain if choice.teacher_training == "standard" else branched
    student = replace(common, lr=0.1, schedule="cosine")
    settings = {"kd": REPDISTILLER_KD}
    stages = stages_of(_with_places(choice), teacher, student, settings, kl_weight=1.0, frozen_epochs=FROZEN_EPOCHS)
    return Recipe(
        name="imagenet200-gtn",
        data=choice.data,
        image_size=224,
        stages=_from_bases(stages, replace(common, epochs=ADAPTATION_EPOCHS)),
        augmentation=Augmentation(crop="resized"),
        published_classes=200,
        deviations=(*_unprinted(choice), "the paper does not print which 200 classes of ImageNet it means"),
    )


def _with_places(choice: Choice) -> Choice:
    """The choice with the places of SFTN's branches, where they have another number of blocks than the teacher."""
    branch, given = choice.branch or choice.student, choice.branch_blocks or choice.branch_starts
    if choice.teacher_training != "sftn" or given or "+" in choice.teacher_net or _have_peers(choice):
        return choice
    if not {branch, choice.teacher_net} <= networks.NETWORKS.keys():
        return choice  # which is refused where it is built
    teacher_blocks, branch_blocks = map(_blocks, (choice.teacher_net, branch))
    if teacher_blocks == branch_blocks:
        return choice
    blocks, starts = aligned(teacher_blocks, branch_blocks)
    return replace(choice, branch_blocks=blocks, branch_starts=starts)


@functools.cache
def _blocks(network: str) -> int:
    """The number of a network's blocks."""
    with torch.device("meta"):
        return len(networks.build(network).blocks)


def _have_peers(choice: Choice) -> bool:
    return any(find_method(name).among_peers for name in split_methods(choice.method))


def _from_bases(stages: tuple[StageRecipe, ...], training: Training) -> tuple[StageRecipe, ...]:
    """The stages with a base in front of each teacher, which begins with its weights."""
    found: list[StageRecipe] = []
    for stage in stages:
        if stage.role == "teacher":
            base = stage.name.replace("teacher", "base")
            found.append(StageRecipe(name=base, role="base", network=stage.network, training=training))
            stage = replace(stage, begins=base)
        found.append(stage)
    return tuple(found)


def _unprinted(choice: Choice, of_two_widths: bool = False) -> tuple[str, ...]:
    """What the paper does not print of a choice's trainings, in words."""
    what = ["momentum, weight decay, batch and crops", "the weights of the students' losses"]
    what += ["how paths are drawn and tested"] * (choice.teacher_training == "gtn")
    what += ["which ResNet-32 it means"] * of_two_widths
    return tuple(f"the paper does not print {one}" for one in what)
