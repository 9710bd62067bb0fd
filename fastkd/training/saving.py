"""The checkpoint of a stage that trains: what is written of it, and how it is taken up again."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from fastkd.support.distributed import from_all, is_main, rank, world_size
from fastkd.support.log import MetricsLog
from fastkd.support.paths import is_there
from fastkd.support.session import Session
from fastkd.support.words import counted
from fastkd.synthesis.base import Synthesis
from fastkd.training.checkpoint import (
    FORMAT,
    check_meter,
    check_progress,
    load_module,
    load_optimizer,
    random_state,
    read_checkpoint,
)
from fastkd.training.checkpoint_shares import replicated, shared_out
from fastkd.training.datafree import load_synthesis, synthesis_state
from fastkd.training.identity import Identity
from fastkd.training.meter import Meter, Totals
from fastkd.training.progress import Progress
from fastkd.training.step import Step
from fastkd.training.writer import CheckpointWriter


class Standing(NamedTuple):
    """Where a training stands between two steps, beside what its stage and its optimiser hold."""

    progress: Progress
    logged: Totals | None
    """What the meter read at the last record inside the epoch."""
    logged_seconds: float
    """The seconds since that record."""


class Saving:
    """Writes and reads the checkpoint of one stage. With several processes every rank has one.

    As a context it waits at its end for what is being written aside. After Ctrl-C at once that is given up, and the
    last checkpoint stays.
    """

    def __init__(
        self,
        name: str,
        step: Step,
        checkpoint: Path,
        *,
        session: Session,
        log: MetricsLog,
        identity: Identity,
        synthesis: Synthesis | None = None,
    ):
        self.name, self.step, self.checkpoint = name, step, checkpoint
        self.session, self.log, self.identity, self.synthesis = session, log, identity, synthesis
        self.writer = CheckpointWriter(checkpoint, name, log.size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self.settle()
        elif isinstance(error, KeyboardInterrupt):
            self.writer.give_up()
        else:
            self.writer.wait_alone()  # no message: the other ranks may be anywhere

    def save(self, standing: Standing, *, aside: bool) -> None:
        """Writes a checkpoint of this instant. aside: while the training goes on, where that is not switched off."""
        self.settle()
        self.step.share_buffers()
        meters, rngs = from_all(self.step.meter.state()), from_all(self._rng_state())
        tensors, large = self._tensors(), {}
        if world_size() > 1 and self.step.execution.shard_checkpoints:
            tensors, large = shared_out(tensors, replicated(self.step.stage), world_size())
        state = self._state(standing, tensors, meters, rngs) if is_main() else {}
        aside = aside and self.step.execution.write_aside
        self.writer.begin(state, large, aside=aside)
        if not aside:
            self.settle()

    def look(self) -> None:
        """Tells of a checkpoint that was written aside, and raises what went wrong with it; all ranks do together."""
        if self.writer.look():
            self._tell()

    def settle(self) -> None:
        """Does as `look` when the checkpoint is written, and waits for that."""
        if self.writer.settle():
            self._tell()

    def _tell(self) -> None:
        if is_main():
            self.session.tell(lambda callback: callback.checkpoint(self.name, self.checkpoint))

    def last_good(self) -> str:
        """What there is to go on from, in words."""
        self.writer.wait_alone()
        there = is_there(self.checkpoint)
        return f"the last good checkpoint is {self.checkpoint}" if there else "there is no checkpoint"

    def _tensors(self) -> dict[str, Any]:
        tensors = {"model": self.step.stage.state_dict(), "optimizer": self.step.optimizer.state_dict()["state"]}
        if self.step.average is not None:
            tensors["average"] = self.step.average.network.state_dict()
        return tensors

    def _state(
        self, standing: Standing, tensors: dict[str, Any], meters: list[dict], rngs: list[dict]
    ) -> dict[str, Any]:
        state = {
            "format": FORMAT,
            "stage": self.name,
            "identity": self.identity.plain,
            "progress": asdict(standing.progress),
            **tensors,
            "meters": meters,
            "rngs": rngs,
            "threads": torch.get_num_threads(),
            "metrics_bytes": self.log.size(flushed=False),
            "logged": asdict(standing.logged) if standing.logged else {},
            "logged_seconds": standing.logged_seconds,
        }
        if self.synthesis is not None:
            state["synthesis"] = synthesis_state(self.synthesis)
        return state

    def _rng_state(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.step.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.step.device)
        return state

    def load(self, epochs: int, steps_per_epoch: int) -> Standing | None:
        """Takes up the checkpoint of a training of so many epochs; None where there is none."""
        path = self.checkpoint
        if not is_there(path):
            return None
        state = read_checkpoint(path, self.name)
        self.writer.first = 1 + max((share["number"] for share in state.get("shares", ())), default=-1)
        self.identity.refuse_changes(state["identity"], path)
        check_progress(state["progress"], path, epochs, steps_per_epoch)
        load_module(self.step.stage, state["model"], path)
        progress = Progress(**{name: state["progress"][name] for name in Progress.__dataclass_fields__})
        done = progress.epoch * steps_per_epoch + progress.step
        load_optimizer(self.step.optimizer, state["optimizer"], path, done)
        self.step.done.fill_(done)
        if self.step.average is not None:
            load_module(self.step.average.network, state.get("average", {}), path)
        if self.synthesis is not None:
            load_synthesis(self.synthesis, state.get("synthesis"), path)
        self._load_of_this_rank(state)
        if is_main() and (damage := self.log.cut(state["metrics_bytes"])):
            self.session.display.note(damage)
        if state["threads"] != torch.get_num_threads():
            self.session.display.note(
                f"{self.name}: begun with {counted(state['threads'], 'thread')}, goes on with "
                f"{torch.get_num_threads()}: results are the same but for the last bits"
            )
        return Standing(progress, Totals(**state["logged"]) if state["logged"] else None, state["logged_seconds"])

    def _load_of_this_rank(self, state: dict[str, Any]) -> None:
        """Loads the meter and the random numbers, of which every rank has its own."""
        began, mine = len(state["rngs"]), rank()
        if began != world_size() and not self.step.training.shards:
            self.session.display.note(
                f"{self.name}: begun with {counted(began, 'process')}, goes on with {world_size()}: the batches are "
                "the same, BatchNorm's shares of them are not"
            )
        meters = state["meters"] if began == world_size() else Meter.shared(state["meters"], world_size())
        check_meter(meters[mine], self.checkpoint)
        self.step.meter.load(meters[mine])
        if mine < began:
            torch.set_rng_state(random_state(state["rngs"][mine], self.checkpoint))
            device = self.step.device
            if device.type == "cuda" and "cuda" in state["rngs"][mine]:
                torch.cuda.set_rng_state(state["rngs"][mine]["cuda"], device)
