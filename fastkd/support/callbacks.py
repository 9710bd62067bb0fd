"""Functions of a program that a training calls while it goes on."""

from pathlib import Path
from typing import Any


class StopTraining(Exception):
    """Raised by a callback: the training writes its checkpoint and ends, as after Ctrl-C; it can be resumed."""


class Callback:
    """What a program wants to be told. Only the main process of several is asked; nothing here waits for a GPU.

    Subclasses override what they want. `StopTraining` ends the training; any other exception does, too, and nothing is
    lost but the time since the last checkpoint.
    """

    def epoch(self, record: dict[str, Any]) -> None:
        """After each epoch: {"stage", "epoch" (done, from 1), "step", "lr", "train": {"loss", "top1", …}, "test":
        counts of each network, where it was tested, "images_per_second", "seconds", "data_time", "grad_norm", …}, as
        in metrics.jsonl."""

    def steps(self, record: dict[str, Any]) -> None:
        """After some steps inside a long epoch: {"stage", "step", "train": means since the last record,
        "images_per_second"}."""

    def checkpoint(self, stage: str, file: Path) -> None:
        """After a checkpoint of that stage was written to the file."""


def tell_record(callback: Callback, record: dict[str, Any]) -> None:
    """Hands on a record, of an epoch or of steps inside of one."""
    if "epoch" in record:
        callback.epoch(record)
    else:
        callback.steps(record)
