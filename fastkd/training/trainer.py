"""Trains one stage: epochs, evaluation, checkpoints, log."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from fastkd.data import Source
from fastkd.support.distributed import agreed, first_of_all, from_all, is_main, on_main, rank, world_size
from fastkd.support.errors import UserError
from fastkd.support.files import write_state
from fastkd.support.interrupt import Stopped
from fastkd.support.log import MetricsLog
from fastkd.support.paths import is_there
from fastkd.support.session import Session
from fastkd.support.words import counted
from fastkd.training.agreement import agreeing
from fastkd.training.capture import CudaRecorder, first_lines, refuse_out_of_memory
from fastkd.training.checkpoint import (
    FORMAT,
    check_meter,
    check_progress,
    load_module,
    load_optimizer,
    random_state,
    read_checkpoint,
)
from fastkd.training.datafree import (
    DataFree,
    begin_beside,
    load_synthesis,
    look_at_round,
    refuse_what_is_not_finite,
    synthesis_state,
)
from fastkd.training.evaluation import Evaluation
from fastkd.training.execution import EVERYTHING_OFF, Resolved
from fastkd.training.identity import Identity
from fastkd.training.meter import Meter, Totals
from fastkd.training.optimisation import Training, build_optimizer
from fastkd.training.pace import Pace
from fastkd.training.progress import Progress
from fastkd.training.records import Records
from fastkd.training.replays import STEPS
from fastkd.training.stages import Stage
from fastkd.training.step import Step
from fastkd.training.taught import Shelf

CHECKPOINT_SECONDS = 600.0
"""Seconds of training between checkpoints inside an epoch."""
AGREE_STEPS = STEPS
"""Steps between those at which the ranks agree on whether one of them was asked to stop; a replay ends at each."""


class Trainer:
    """Carries out one stage. With several processes every rank has one; rank 0 writes."""

    def __init__(
        self,
        name: str,
        stage: Stage,
        training: Training,
        train: Source,
        test: Source,
        *,
        device: torch.device,
        session: Session,
        checkpoint: Path,
        log: MetricsLog,
        title: str | None = None,
        eval_every: int = 1,
        execution: Resolved = EVERYTHING_OFF,
        identity: Identity = Identity(),  # noqa: B008 - it is frozen
        seconds_after: Callable[[float], float] = lambda per_epoch: 0.0,
        shelf: Shelf | None = None,
        watched: str = "test",
    ):
        """seconds_after: how long the trainings after this one will take, from the seconds of an epoch of this one.
        shelf: where the stage's teachers are stored. watched: what the images of `test` are called."""
        self.name, self.stage, self.training, self.train_source, self.test_source = name, stage, training, train, test
        self.device, self.session = device, session
        self.checkpoint, self.log = checkpoint, log
        self.title = title or name
        self.identity = identity
        """What the stage's numbers depend on; a checkpoint with another identity is refused."""
        self.steps_per_epoch = train.loader.steps
        self.pace = Pace(training.epochs, self.steps_per_epoch, eval_every, stage.evaluates)
        for module in (stage, train.prepare, test.prepare):
            module.to(device)
        if execution.channels_last:
            stage.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = build_optimizer(stage, training, device)
        self.step = Step(stage, train.prepare, self.optimizer, training, self.steps_per_epoch, device, execution, shelf)
        self.records = Records(
            name,
            self.title,
            stage,
            training,
            self.step,
            self.pace,
            log=log,
            session=session,
            seconds_after=seconds_after,
            watched=watched,
        )
        if self.step.stored is not None:
            self.step.stored.tell = lambda text: session.display.note(f"{self.title}  {text}")
        self.recorder = agreeing(CudaRecorder(device)) if execution.capture else None
        self.evaluation = Evaluation(
            self.step.predictions,
            test,
            device,
            fixed_shape=execution.compile != "off",
            recorder=None if stage.why_steps_differ else self.recorder,
            after_batch=lambda: session.heartbeat.beat_if_due(doing="evaluating"),
        )
        self.progress = Progress()
        self.saved_at = time.monotonic()
        self.synthesis = stage.synthesis if isinstance(stage, DataFree) else None
        """What makes the images, where the stage has none of a data set."""

    def fit(self, after_epoch: Callable[[int], None] = lambda epoch: None) -> Progress:
        """Trains to the last epoch, from the checkpoint where there is one; calls `after_epoch(epochs done)`."""
        self.load()
        if self.progress.epoch < self.training.epochs:
            self.warm_up()
        while self.progress.epoch < self.training.epochs:
            self.epoch()
            after_epoch(self.progress.epoch)
            self.save()
            self.stop_if_asked()
        return self.finish()

    def finish(self) -> Progress:
        """Leaves the networks as plain PyTorch: what they are used for next has other shapes and types."""
        self.step.close()
        self.step.uncompile()
        return self.progress

    def fill_stores(self) -> None:
        """Writes what is missing of the teachers' rows in all epochs of the training, without training."""
        stored, loader = self.step.stored, self.train_source.loader
        assert stored is not None
        epochs = stored.shelf.distinct(range(self.training.epochs))
        for number, epoch in enumerate(epochs):
            started = time.monotonic()
            for taken in self.step.fill_store(loader, epoch):
                if world_size() == 1 and self.session.display.due():
                    self.records.show_filling(number, len(epochs), taken, time.monotonic() - started)
                if world_size() == 1 and self.session.interrupt.requested:
                    break
            self.step.close()
            self.progress.epoch = number + 1
            self.stop_if_asked()
        self.session.display.note(f"{self.title}  {counted(len(epochs), 'epoch', 'are')} stored")

    def warm_up(self, beside: Sequence["Trainer"] = (), *, record: bool = True) -> None:
        """Compiles and captures, where that is on; it is no step of the training.

        beside: trainers whose steps are captured with this one's. record: off, it only compiles.
        """
        started = time.monotonic()
        for trainer in (self, *beside):
            trainer.stage.train()
        others, recorder = [trainer.step for trainer in beside], self.recorder if record else None
        if recorder is not None or self.step.execution.compile != "off":
            self.session.heartbeat.beat(doing="compiling")
        for done in self.step.warm_up(self.train_source.loader, recorder, beside=others):
            self.session.display.note(f"{self.title}  {done}")
        self.progress.starting_seconds += time.monotonic() - started

    def some_steps(self) -> tuple[float, int]:
        """Takes the first steps of a training, for a dry run; returns their loss and how many they were."""
        self.stage.train()
        self.stage.rehearse()
        self.step.meter.clear()
        self.step.done.zero_()  # a training may have no more steps than these
        steps = next(self.step.epoch_of(self.train_source.loader, 0))
        return self.step.meter.read().means()["loss"], steps

    def begin_epoch(self) -> float:
        """Prepares the stage for the epoch that comes next; returns when its steps began."""
        started = time.monotonic()
        self.stage.train()
        self.stage.begin_epoch(self.progress.epoch)
        self.pace.beginning_seconds = time.monotonic() - started
        self.progress.seconds += self.pace.beginning_seconds
        if not self.progress.step:
            self.records.logged_at = time.monotonic()
        return time.monotonic()

    def epoch(self) -> None:
        """Trains to the end of the epoch that comes next, or that was begun."""
        progress = self.progress
        started, first_step = self.begin_epoch(), progress.step
        for steps in self.step.epoch_of(self.train_source.loader, progress.epoch, progress.step):
            progress.step += steps
            if progress.step == self.steps_per_epoch:
                break
            if self.records.are_due(progress):
                self.refuse_what_is_not_finite()
                self.records.add_steps(progress)
            self.show_if_due(started, first_step)
            if self._should_save():
                progress.seconds += time.monotonic() - started
                started, first_step = time.monotonic(), progress.step
                self.save()
                self.stop_if_asked()
        self.end_epoch(started, first_step)

    def end_epoch(self, started: float, first_step: int) -> None:
        """Evaluates and logs an epoch whose steps, from `first_step` on, were taken since `started`."""
        progress, meter = self.progress, self.step.meter
        self.refuse_what_is_not_finite()
        told = self.records.read_epoch()
        rate = (progress.step - first_step) * self.training.batch_size / max(time.monotonic() - started, 1e-9)
        progress.epoch, progress.step = progress.epoch + 1, 0
        self.step.share_buffers()
        if self.pace.evaluation_is_due(progress.epoch):
            self._evaluate()
        progress.seconds += time.monotonic() - started
        meter.clear()
        self.records.add_epoch(progress, told, rate)

    def _should_save(self) -> bool:
        """Whether to save in the middle of an epoch: after long, or because somebody asked the run to stop."""
        wanted = bool(self.session.interrupt.requested) or time.monotonic() - self.saved_at > CHECKPOINT_SECONDS
        if world_size() == 1:
            return wanted
        return self.progress.step % AGREE_STEPS == 0 and agreed(wanted)

    def _evaluate(self) -> None:
        self.stage.eval()
        progress, started = self.progress, time.monotonic()
        try:
            progress.test = self.evaluation()
        except TorchDynamoException as error:  # what compiles in training may not in evaluation
            refuse_out_of_memory(error)
            self.session.display.note(f"{self.title}  not compiled: {first_lines(error)}")
            self.step.uncompile()
            progress.test = self.evaluation()
        if self.evaluation.why_not_captured:
            self.session.display.note(f"{self.title}  {self.evaluation.why_not_captured}")
            self.evaluation.why_not_captured = ""
        main = next(iter(progress.test.values()))
        top1 = main["top1"] / main["samples"]
        if not progress.best or top1 > progress.best["top1"]:
            progress.best = {"epoch": progress.epoch, "top1": top1}
        self.pace.evaluation_seconds = time.monotonic() - started

    def show_if_due(self, started: float, first_step: int) -> None:
        """Shows the live numbers of an epoch whose steps, from `first_step` on, were taken since `started`; gives a
        sign of life where one is due."""
        if self.session.heartbeat.is_due():
            self.records.beat(self.progress, time.monotonic() - started, self.progress.step - first_step)
        if self.records.look_is_due(self.progress):
            self.refuse_what_is_not_finite()
            self.records.show(self.progress, time.monotonic() - started, self.progress.step - first_step)

    def refuse_what_is_not_finite(self) -> None:
        """Raises UserError where a step since the training's begin had a loss or a gradient that was not finite."""
        there = is_there(self.checkpoint)
        kept = f"the last good checkpoint is {self.checkpoint}" if there else "there is no checkpoint"
        if self.synthesis is not None:
            refuse_what_is_not_finite(self.synthesis, self.name, kept)
        bad = self.step.first_bad.step.item()
        if bad < 0:
            return
        terms = ", ".join(f"{name} {value.item():g}" for name, value in self.step.first_bad.terms.items())
        raise UserError(
            f"{self.name}: the loss or its gradient was not finite in step {bad} "
            f"(epoch {bad // self.steps_per_epoch + 1}): {terms}; that step changed no weight; {kept}; "
            "try a lower learning rate"
        )

    def save(self) -> None:
        self.refuse_what_is_not_finite()
        self.step.share_buffers()
        meters, rngs = from_all(self.step.meter.state()), from_all(self._rng_state())
        state: dict[str, Any] = {}
        if is_main():
            state = {
                "format": FORMAT,
                "stage": self.name,
                "identity": self.identity.plain,
                "progress": asdict(self.progress),
                "model": self.stage.state_dict(),
                "optimizer": self.optimizer.state_dict()["state"],
                "meters": meters,
                "rngs": rngs,
                "threads": torch.get_num_threads(),
                "metrics_bytes": self.log.size(),
                "logged": asdict(self.records.logged) if self.records.logged else {},
                "logged_seconds": time.monotonic() - self.records.logged_at,
            }
            if self.step.average is not None:
                state["average"] = self.step.average.network.state_dict()
            if self.synthesis is not None:
                state["synthesis"] = synthesis_state(self.synthesis)
        on_main(lambda: write_state(self.checkpoint, state))
        if is_main():
            self.session.tell(lambda callback: callback.checkpoint(self.name, self.checkpoint))
        self.saved_at = time.monotonic()

    def _rng_state(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load(self) -> None:
        """Takes up the checkpoint, where there is one."""
        if self.synthesis is not None:
            begin_beside(self.synthesis, self.checkpoint, self._watch_round)
        if is_there(self.checkpoint):
            self._load()

    def _load(self) -> None:
        path = self.checkpoint
        state = read_checkpoint(path, self.name)
        self.identity.refuse_changes(state["identity"], path)
        check_progress(state["progress"], path, self.training.epochs, self.steps_per_epoch)
        load_module(self.stage, state["model"], path)
        self.progress = Progress(**{name: state["progress"][name] for name in Progress.__dataclass_fields__})
        done = self.progress.epoch * self.steps_per_epoch + self.progress.step
        load_optimizer(self.optimizer, state["optimizer"], path, done)
        self.step.done.fill_(done)
        self.records.logged = Totals(**state["logged"]) if state["logged"] else None
        self.records.logged_at = time.monotonic() - state["logged_seconds"]
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
        epoch, step = self.progress.epoch, self.progress.step
        self.session.display.note(f"{self.title}  resumed after epoch {epoch}" + (f", step {step}" if step else ""))

    def _load_of_this_rank(self, state: dict[str, Any]) -> None:
        """Loads the meter and the random numbers, of which every rank has its own."""
        began, mine = len(state["rngs"]), rank()
        if began != world_size():
            self.session.display.note(
                f"{self.name}: begun with {counted(began, 'process')}, goes on with {world_size()}: the batches are "
                "the same, BatchNorm's shares of them are not"
            )
        meters = state["meters"] if began == world_size() else Meter.shared(state["meters"], world_size())
        check_meter(meters[mine], self.checkpoint)
        self.step.meter.load(meters[mine])
        self.records.own_logged = self.step.meter.own()
        if mine < began:
            torch.set_rng_state(random_state(state["rngs"][mine], self.checkpoint))
            if self.device.type == "cuda" and "cuda" in state["rngs"][mine]:
                torch.cuda.set_rng_state(state["rngs"][mine]["cuda"], self.device)

    def _watch_round(self, done: int, steps: int, seconds: float) -> None:
        """Stops in front of a round's step where somebody asked for it: the last checkpoint is the round's begin."""
        self.stop_if_asked()
        self.session.heartbeat.beat_if_due(doing="making images")
        if self.synthesis is not None and self.session.display.due():
            title, epochs = f"{self.title}: images", (self.progress.epoch + 1, self.training.epochs)
            self.session.display.live(look_at_round(self.synthesis, title, epochs, (done, steps), seconds))

    def stop_if_asked(self) -> None:
        self.session.interrupt.requested = first_of_all(self.session.interrupt.requested)
        if self.session.interrupt.requested:
            where = f"epoch {self.progress.epoch + (self.progress.step > 0)}"
            raise Stopped(f"stopped by {self.session.interrupt.requested} in {self.name}, {where}")
