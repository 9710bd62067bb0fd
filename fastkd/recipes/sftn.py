"""The recipes of "Learning Student-Friendly Teacher Networks for Knowledge Distillation" (Park et al. 2021)."""

from dataclasses import replace
from typing import Any

from fastkd.data import Augmentation
from fastkd.methods import split_methods
from fastkd.methods.kd import KDSettings
from fastkd.recipes.choice import EVEN_KD, IMAGENET_METHODS, REPDISTILLER_KD, Choice, joined_with_kd, stages_of
from fastkd.recipes.recipe import Recipe
from fastkd.training.optimisation import Training

WITH_KD = ("fitnet", "at", "sp", "vid", "rkd", "pkt", "ab", "ft", "oh")
"""Methods that the paper says it runs jointly with KD (Section 4.1); CRD is not among them."""
COLLABORATIVE = ("dml", "kdcl", "rco")
"""The methods of Table 4, whose settings the paper does not print."""

_CIFAR_CHOICE = Choice(
    data="cifar100", teacher_net="wrn_40_2", student="wrn_16_2", method="kd", teacher_training="sftn"
)
_IMAGENET_CHOICE = Choice(
    data="imagefolder",
    teacher_net="torchvision_resnet50",
    student="torchvision_resnet34",
    method="kd",
    teacher_training="sftn",
)

CIFAR_TRAINING = Training(epochs=240, lr=0.05, milestones=(150, 180, 210), drop_last=False)
"""RepDistiller's training, which SFTN and SimKD take."""


def cifar_training(network: str) -> Training:
    """RepDistiller's training of a network, whose learning rate is lower for the families it calls small."""
    small = network.startswith(("Shuffle", "MobileNet"))
    return replace(CIFAR_TRAINING, lr=0.01) if small else CIFAR_TRAINING


def cifar100_sftn(**chosen: Any) -> Recipe:
    """SFTN (Park et al. 2021) on CIFAR-100: its teachers beside standard ones, for twelve methods.

    SGD, 240 epochs of batches of 64, ×0.1 at 150, 180 and 210; learning rate 0.05 for every teacher, 0.01 for
    ShuffleNet and MobileNet students, 0.05 for the others. λ_T 1, λ_KL 3, λ_CE 1, τ 1; students by KD with 0.1 CE +
    0.9 KL at T = 4 (RepDistiller's weights: the paper takes CRD's setup). Partial batches are trained on, as there.
    What the paper prints and this has otherwise (the direction of KL, CE at τ, rates of ShuffleNet's teachers) is
    taken by --as-printed.

    FitNet, AT, SP, VID, RKD, PKT, AB, FT and OH run jointly with KD, as in the paper (`--method ce+at` for AT alone).
    It does not print KD's weight there: 1 CE + 1 KL at T = 4, SimKD's, is our choice. SSKD has its own paper's 0.1
    and 0.9.
    """
    choice = replace(_CIFAR_CHOICE, **chosen)
    choice = replace(choice, method=joined_with_kd(choice.method, (*WITH_KD, "sskd")))
    named = split_methods(choice.method)
    joint = "kd" in named and set(named) & set(WITH_KD)
    unprinted = {
        "the weight of KD beside other methods": joint,
        "how it set this method": choice.method in COLLABORATIVE,
    }
    settings = {"kd": EVEN_KD if joint else REPDISTILLER_KD}
    return Recipe(
        name="cifar100-sftn",
        data=choice.data,
        image_size=32,
        stages=stages_of(choice, CIFAR_TRAINING, cifar_training(choice.student), settings),
        published_classes=100,
        deviations=tuple(f"the paper does not print {what}" for what, so in unprinted.items() if so),
    )


def imagenet_sftn(**chosen: Any) -> Recipe:
    """SFTN (Park et al. 2021) on ImageNet: Table 3, ResNet50 → ResNet34.

    SGD, 100 epochs of batches of 256, learning rate 0.1, ×0.1 at 30, 60 and 90, weight decay 1e-4; λ_T, λ_KL, λ_CE
    and τ are 1. Validation images are resized to 256x256 and their centres taken, as printed (--squeeze off: the
    shorter side is 256, as is usual). The paper prints no weights of the students' losses: 0.5 CE + 0.5 KL at T = 1
    for KD (mdistiller's and torchdistill's), 1 CE + 1 KL at T = 4 beside other methods is our choice. Those methods
    have their authors' weights for ImageNet where there are any, else those for CIFAR-100.
    """
    choice = replace(_IMAGENET_CHOICE, **chosen)
    choice = replace(choice, method=joined_with_kd(choice.method, WITH_KD))
    training = Training(epochs=100, batch_size=256, lr=0.1, weight_decay=1e-4, milestones=(30, 60, 90), drop_last=False)
    alone = KDSettings(ce_weight=0.5, kl_weight=0.5, temperature=1.0)
    settings = {**IMAGENET_METHODS, "kd": alone if split_methods(choice.method) == ("kd",) else EVEN_KD}
    return Recipe(
        name="imagenet-sftn",
        data=choice.data,
        image_size=224,
        stages=stages_of(choice, training, training, settings, kl_weight=1.0),
        augmentation=Augmentation(crop="resized", squeeze=True),
        published_classes=1000,
        deviations=("the paper does not print the weights of the student's losses",),
    )
