"""Trainings of other lengths: what is said in epochs moves in proportion to them."""

from dataclasses import replace
from typing import Any

from fastkd.training.optimisation import Training


def shortened_training(training: Training, changed: dict[str, Any]) -> Training:
    """The training with changes; its milestones and its warm-up follow a change of the epochs, unless given too."""
    if (epochs := changed.get("epochs")) is not None:
        moved = (max(1, round(milestone * epochs / training.epochs)) for milestone in training.milestones)
        following = {
            "milestones": tuple(sorted({milestone for milestone in moved if milestone < epochs})),
            "warmup_epochs": min(training.warmup_epochs, epochs),
            "freeze_epochs": min(training.freeze_epochs, epochs),
        }
        changed = following | changed
    return replace(training, **changed)


def shortened_prestage(settings: Any, factor: float) -> dict[str, Any]:
    """What changes of the settings of a training before the student's, whose epochs are `factor` times as many."""
    if not getattr(settings, "epochs", 0) or factor == 1:
        return {}
    epochs = max(1, round(settings.epochs * factor))
    if not hasattr(settings, "milestones"):
        return {"epochs": epochs}
    moved = {max(1, round(milestone * factor)) for milestone in settings.milestones}
    return {"epochs": epochs, "milestones": tuple(sorted(milestone for milestone in moved if milestone < epochs))}
