"""How Tf-KD's networks are trained, and how its paper and code set the losses, by data set, network and pair."""

from dataclasses import replace
from typing import Any

from fastkd.methods.kd import KDSettings
from fastkd.methods.tfkd import TfKDRegSettings, TfKDSelfSettings
from fastkd.recipes.tables.tfkd import KD_WEIGHTS, REG_WEIGHTS, SELF_WEIGHTS, KDWeights, TfWeights
from fastkd.training.optimisation import Training


def training_of(where: str, network: str) -> Training:
    """where: cifar10, cifar100, tiny or imagenet."""
    if where == "imagenet":
        batch = 256 if "resnext101" in network else 512
        return Training(
            epochs=90,
            batch_size=batch,
            lr=0.1 * batch / 256,
            weight_decay=1e-4,
            milestones=(30, 60, 80),
            drop_last=False,
        )
    if where == "tiny":
        batch = 64 if network in ("ResNet50", "tf_densenet121") else 128
    else:
        small = ("tf_googlenet", "ResNet50", "tf_resnext29_8x64d")
        batch = 64 if network in small else 100 if network == "tf_densenet121" else 128
    training = Training(
        epochs=200,
        batch_size=batch,
        lr=round(0.1 * batch / 128, 3),
        milestones=(60, 120, 160),
        factor=0.1 if where == "tiny" else 0.2,
        warmup_epochs=1,
        drop_last=False,
    )
    return replace(training, optimizer="adam", lr=1e-3, weight_decay=0.0) if network == "tf_cnn" else training


def settings_of(
    recipe: str, teacher: str, student: str, method: str, classes: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Of KD, Tf-KD_self and Tf-KD_reg for the pair, where the paper has none its commonest; and what is our choice."""
    kd = KD_WEIGHTS.get((recipe, teacher, student), KDWeights(20.0, 0.10 if recipe == "imagenet-tfkd" else 0.95))
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
    if recipe == "imagenet-tfkd" and method == "kd":
        deviations.append("the paper's code for ImageNet is not published: this is the paper's formula")
    return settings, tuple(deviations)
