"""Recipes for the methods of 2022 to 2025, with the settings of their authors' code."""

from dataclasses import replace
from typing import Any

from fastkd.data import Augmentation
from fastkd.methods import split_methods
from fastkd.methods.crld import CRLDSettings
from fastkd.methods.ctkd import CTKDSettings
from fastkd.methods.dist import DISTSettings
from fastkd.methods.dkd import DKDSettings
from fastkd.methods.kd import KDSettings
from fastkd.methods.mlld import MLLDSettings
from fastkd.methods.nkd import NKDSettings
from fastkd.methods.rld import RLDSettings
from fastkd.methods.srd import SRDSettings
from fastkd.recipes.choice import REPDISTILLER_KD, Choice, joined_with_kd, stages_of
from fastkd.recipes.recipe import Recipe
from fastkd.recipes.sftn import cifar_training
from fastkd.training.optimisation import Training

ONE_KD = KDSettings(ce_weight=1.0, kl_weight=1.0, temperature=1.0)
"""What SRD, VkD and VanillaKD have beside, or as, their loss."""
WITH_ONE_KD = ("srd", "vkd")

_CIFAR_CHOICE = Choice(data="cifar100", teacher_net="resnet32x4", student="resnet8x4", method="dkd")
_IMAGENET_CHOICE = Choice(
    data="imagefolder", teacher_net="torchvision_resnet34", student="torchvision_resnet18", method="nkd"
)
_VANILLA_CHOICE = Choice(
    data="imagefolder", teacher_net="torchvision_resnet152", student="torchvision_resnet50", method="kd"
)
_UNKNOWN = ("ttm", "wttm", "sdd", "catkd", "abkd", "jsd", "uskd", "vkd")
"""Methods whose settings for this pair are not in what is known of their code: they have those of its example."""


def cifar100_modern(**chosen: Any) -> Recipe:
    """The methods of 2022 to 2025 on CIFAR-100: resnet32x4 → resnet8x4, settings of the authors' code.

    mdistiller's and RepDistiller's training: SGD, 240 epochs of batches of 64, learning rate 0.05 (0.01 for MobileNets
    and ShuffleNets), ×0.1 at 150, 180 and 210; MLLD has half that learning rate. Their tables print the best epoch on
    the test set: compare them with that column.
    """
    choice = replace(_CIFAR_CHOICE, **chosen)
    choice = replace(choice, method=joined_with_kd(choice.method))
    named = split_methods(choice.method)
    student = cifar_training(choice.student)
    if "mlld" in named:
        student = replace(student, lr=student.lr / 2)
    beside = ONE_KD if any(name in WITH_ONE_KD for name in named) else REPDISTILLER_KD
    unknown = any(name in (*_UNKNOWN, "nkd", "srd") for name in named)
    settings = {"kd": beside, "nkd": NKDSettings(gamma=3.5, temperature=3.0)}  # that of ResNet34 → ResNet18 there
    return Recipe(
        name="cifar100-modern",
        data=choice.data,
        image_size=32,
        stages=stages_of(choice, cifar_training(choice.teacher_net), student, settings),
        published_classes=100,
        deviations=("the method's settings for this pair of networks are not published",) if unknown else (),
    )


def imagenet_modern(**chosen: Any) -> Recipe:
    """The methods of 2022 to 2025 on ImageNet: ResNet34 → ResNet18, settings of the authors' code.

    SGD, 100 epochs of batches of 256, learning rate 0.1, ×0.1 at 30, 60 and 90, weight decay 1e-4. MLLD and logit
    standardisation have batches of 512 there, and 0.2 the latter.
    """
    choice = replace(_IMAGENET_CHOICE, **chosen)
    choice = replace(choice, method=joined_with_kd(choice.method))
    named = split_methods(choice.method)
    training = Training(epochs=100, batch_size=256, lr=0.1, weight_decay=1e-4, milestones=(30, 60, 90), drop_last=False)
    settings = {
        "kd": ONE_KD
        if any(name in WITH_ONE_KD for name in named)
        else KDSettings(ce_weight=0.5, kl_weight=0.5, temperature=1.0),
        "dist": DISTSettings(temperature=1.0),
        "dkd": DKDSettings(beta=0.5, temperature=1.0, warmup_epochs=1),
        "nkd": NKDSettings(),
        "rld": RLDSettings(beta=0.5, temperature=1.0, warmup_epochs=1),
        "mlld": MLLDSettings(ce_weight=0.5, kd_weight=0.5, temperature=1.0),
        "crld": CRLDSettings(ce_weight=2.0, temperature=1.0),
        "srd": SRDSettings(),
        "ctkd": CTKDSettings(),
    }
    unknown = any(name in (*_UNKNOWN, "ctkd") for name in named)
    return Recipe(
        name="imagenet-modern",
        data=choice.data,
        image_size=224,
        stages=stages_of(choice, training, training, settings),
        augmentation=Augmentation(crop="resized"),
        published_classes=1000,
        deviations=("the method's settings on ImageNet are not published",) if unknown else (),
    )


def imagenet_vanillakd(**chosen: Any) -> Recipe:
    """VanillaKD (Hao et al.: "Revisit the power of vanilla knowledge distillation", NeurIPS 2023) on ImageNet.

    Strategy A2 of the authors' code: LAMB, 300 epochs of batches of 2048, learning rate 5e-3 by a cosine after 5
    epochs of warm-up, weight decay 0.02, RandAugment at magnitude 7 of timm's 10, mixup 0.1, cutmix 1.0; KD at
    temperature 1 with weights 1. The deviations name what the code has beside: its teacher among them, BEiTv2-B.
    """
    choice = replace(_VANILLA_CHOICE, **chosen)
    choice = replace(choice, method=joined_with_kd(choice.method))
    student = Training(
        epochs=300, batch_size=2048, optimizer="lamb", lr=5e-3, weight_decay=0.02, schedule="cosine", warmup_epochs=5
    )
    teacher = Training(epochs=90, batch_size=256, lr=0.1, weight_decay=1e-4, milestones=(30, 60), drop_last=False)
    return Recipe(
        name="imagenet-vanillakd",
        data=choice.data,
        image_size=224,
        stages=stages_of(choice, teacher, student, {"kd": ONE_KD}),
        augmentation=Augmentation(crop="resized", randaugment=2, magnitude=21.0, mixup=0.1, cutmix=1.0),
        published_classes=1000,
        deviations=(
            "the authors' teacher is BEiTv2-B, which sees each image three times a batch",
            "their losses are binary cross-entropies and binary KLs",
            "their students have stochastic depth (0.05)",
            "their RandAugment is timm's, its magnitudes of deviation 0.5",
            "the teacher is augmented as the student is",
        ),
    )
