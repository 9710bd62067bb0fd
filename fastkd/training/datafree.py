"""A student that learns from images that are made for it, and what its checkpoint says of them."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastkd.data.base import Batch
from fastkd.methods.base import Method
from fastkd.networks.base import Network, Output
from fastkd.support.errors import UserError
from fastkd.support.files import remove
from fastkd.support.live import Look
from fastkd.support.paths import is_there
from fastkd.support.words import counted
from fastkd.synthesis.base import Synthesis
from fastkd.training.capture import Recorder
from fastkd.training.checkpoint import load_module, load_optimizer
from fastkd.training.own_step import OwnStep
from fastkd.training.stages import Distill


class DataFree(Distill):
    """A student and its frozen teacher, without data: a synthesis makes the images.

    An image has no label. Where a method wants one it is the class that the teacher names, and the hits of training
    say how often the student agrees.
    """

    def __init__(
        self,
        student: Network,
        teacher: Network,
        methods: dict[str, Method],
        name: str,
        *,
        make: Callable[[Network], Synthesis],
    ):
        """make: the synthesis for a student as it will be used. It is held in a tuple, as the teachers are."""
        super().__init__(student, [teacher], methods, name)
        self._synthesis = (make(self.deployed),)

    @property
    def synthesis(self) -> Synthesis:
        return self._synthesis[0]

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        self.synthesis.begin_epoch(epoch)

    def begin_step(self, step: int) -> None:
        self.synthesis.before_step(step % self.synthesis.settings.steps_per_epoch)

    @property
    def works_every(self) -> int:
        return self.synthesis.every

    def record_own_work(self, recorder: Recorder | None, tell: Callable[[str], None]) -> None:
        if recorder is not None:
            self.synthesis.do_by(lambda work, optimizers: OwnStep(work, optimizers, recorder, tell))

    def rehearse(self) -> None:
        self.synthesis.rehearse()

    def labelled(self, batch: Batch, teachers: Sequence[Output]) -> Batch:
        return batch._replace(labels=teachers[0].logits[: len(batch.labels)].argmax(1))


def begin_beside(synthesis: Synthesis, checkpoint: Path, watch: Callable[[int, int, float], None]) -> None:
    """Gives a synthesis its files beside a checkpoint; where there is none, what lies there counts for nothing."""
    synthesis.watch = watch
    synthesis.keep_beside(checkpoint)
    if not is_there(checkpoint):
        for file in synthesis.files.values():
            file.begin()


def remove_features(synthesis: Synthesis) -> None:
    """Removes what a finished stage needs no more; its images stay."""
    if "features" in synthesis.files:
        remove(synthesis.files["features"].path)


def refuse_what_is_not_finite(synthesis: Synthesis, stage: str, last_good: Callable[[], str]) -> None:
    """Raises UserError where something of the synthesis is not finite; last_good: says what is left to go on from."""
    if not synthesis.is_finite():
        where = f"in round {synthesis.rounds}" if synthesis.rounds else "in the first round"
        what = "the loss of the synthesis, or what it trains, was not finite"
        raise UserError(f"{stage}: {what} {where}; {last_good()}; try a lower --synthesis.lr")


def seconds_of_rounds(synthesis: Synthesis) -> float:
    """How long the rounds of an epoch take, from one on trial."""
    started = time.perf_counter()
    share = synthesis.rehearse()
    if synthesis.made_for.device.type == "cuda":
        torch.cuda.synchronize(synthesis.made_for.device)
    return (time.perf_counter() - started) / share


def look_at_round(
    synthesis: Synthesis, title: str, epochs: tuple[int, int], steps: tuple[int, int], seconds: float
) -> Look:
    """How far a round is: `epochs` are the one it is for and all of them, `steps` those done and all of the round."""
    done, total = steps
    left = seconds / done * (total - done) if done else 0.0
    rate = done * synthesis.settings.images / max(seconds, 1e-9)
    return Look.along(title, epochs, steps, rate, left)


def synthesis_state(synthesis: Synthesis) -> dict[str, Any]:
    """What a checkpoint holds of a synthesis; its files' rows are on the disk then, and are not in it."""
    optimizers = {name: optimizer.state_dict()["state"] for name, optimizer in synthesis.optimizers.items()}
    return {
        "rounds": synthesis.rounds,
        "loss": synthesis.loss,
        "networks": synthesis.networks.state_dict(),
        "optimizers": optimizers,
        "files": {name: file.mark() for name, file in synthesis.files.items()},
    }


def load_synthesis(synthesis: Synthesis, state: dict[str, Any] | None, path: Path) -> None:
    """Goes on where a checkpoint stands; raises UserError where it, or a file beside it, is not this synthesis's."""
    if state is None or state["files"].keys() != synthesis.files.keys():
        raise UserError(f"{path} does not fit this stage: it has no synthesis, or another one")
    if state["optimizers"].keys() != synthesis.optimizers.keys() or not _is_number(state["loss"]):
        raise UserError(f"{path} does not fit this stage: its synthesis has other optimisers, or no loss")
    rounds, settings = state["rounds"], synthesis.settings
    if synthesis.files and rounds > synthesis.made_for.epochs:
        raise UserError(f"{path} counts {counted(rounds, 'round')}, one before each of {synthesis.made_for.epochs}")
    for name, file in synthesis.files.items():
        if state["files"][name]["rows"] != rounds * settings.images:
            raise UserError(f"{path} counts {state['files'][name]['rows']:,} {name} after {counted(rounds, 'round')}")
        file.take_up(state["files"][name])
    load_module(synthesis.networks, state["networks"], path)
    for name, optimizer in synthesis.optimizers.items():
        load_optimizer(optimizer, state["optimizers"][name], path, rounds)
    synthesis.loss.copy_(state["loss"])
    synthesis.take_up(rounds)


def _is_number(loss: Tensor) -> bool:
    return loss.shape == () and loss.dtype == torch.float32
