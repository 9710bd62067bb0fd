"""Where a stage stands."""

from dataclasses import dataclass, field
from typing import Any

from fastkd.training.evaluation import Accuracy


@dataclass
class Progress:
    """Where a stage stands; part of every checkpoint."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done of the epoch that is running."""
    seconds: float = 0.0
    """Time of training and evaluation, over all sessions."""
    starting_seconds: float = 0.0
    """Time of compiling and capturing, over all sessions."""
    test: dict[str, Accuracy] = field(default_factory=dict)
    """The counts of the last evaluation, by the names of the predictions."""
    best: dict[str, Any] = field(default_factory=dict)
    """{"epoch", "top1"} of the best evaluation of the stage's network: never what the tables report."""
