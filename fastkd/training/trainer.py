"""Trains one stage: epochs, evaluation, checkpoints, log."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch._dynamo.exc import TorchDynamoException

from fastkd.data import Source
from fastkd.support.distributed import first_of_all, world_size
from fastkd.support.errors import UserError
from fastkd.support.interrupt import Stopped
from fastkd.support.log import MetricsLog
from fastkd.support.session import Session
from fastkd.support.words import counted
from fastkd.training.agreement import agreeing
from fastkd.training.capture import CudaRecorder, first_lines, refuse_out_of_memory
from fastkd.training.datafree import (
    DataFree,
    begin_beside,
    look_at_round,
    refuse_what_is_not_finite,
)
from fastkd.training.evaluation import Evaluation
from fastkd.training.execution import EVERYTHING_OFF, Resolved
from fastkd.training.identity import Identity
from fastkd.training.optimisation import Training, build_optimizer
from fastkd.training.pace import Pace
from fastkd.training.progress import Progress
from fastkd.training.records import Records
from fastkd.training.saving import Saving, Standing
from fastkd.training.saving_times import SavingTimes
from fastkd.training.stages import Stage
from fastkd.training.step import Step
from fastkd.training.taught import Shelf


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
        shelf: where the stage's teachers are stored. watched: what the images of `test` are called. identity: what the
        stage's numbers depend on; a checkpoint with another one is refused."""
        self.name, self.stage, self.training, self.train_source, self.test_source = name, stage, training, train, test
        self.device, self.session = device, session
        self.checkpoint, self.log = checkpoint, log
        self.title = title or name
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
        self.times = SavingTimes(session.interrupt)
        self.synthesis = stage.synthesis if isinstance(stage, DataFree) else None
        """What makes the images, where the stage has none of a data set."""
        self.saving = Saving(
            name, self.step, checkpoint, session=session, log=log, identity=identity, synthesis=self.synthesis
        )

    def fit(self, after_epoch: Callable[[int], None] = lambda epoch: None) -> Progress:
        """Trains to the last epoch, from the checkpoint where there is one; calls `after_epoch(epochs done)`."""
        self.load()
        if self.progress.epoch < self.training.epochs:
            self.warm_up()
        with self.saving:
            while self.progress.epoch < self.training.epochs:
                self.epoch()
                after_epoch(self.progress.epoch)
                self.save()
                self.stop_if_asked()
        return self.finish()

    def finish(self) -> Progress:
        """Leaves the networks as plain PyTorch."""
        self.step.finish()
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
        self.stage.record_own_work(recorder, lambda told: self.session.display.note(f"{self.title}  {told}"))
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
        if progress.step > first_step and self.pace.evaluation_is_due(progress.epoch + 1):
            started = self._save_before_evaluation(started, rate)
        progress.epoch, progress.step = progress.epoch + 1, 0
        self.step.share_buffers()
        if self.pace.evaluation_is_due(progress.epoch):
            self._evaluate()
        progress.seconds += time.monotonic() - started
        meter.clear()
        self.records.add_epoch(progress, told, rate)

    def _should_save(self) -> bool:
        """Whether to save in the middle of an epoch: after long, or because somebody asked the run to stop."""
        if not self.times.are_asked(self.progress.step):
            return False
        self.saving.look()
        return self.times.is_due(self.progress.step)

    def _save_before_evaluation(self, started: float, rate: float) -> float:
        """Saves where a signal might wait for the evaluation for too long; returns since when time is not counted."""
        seconds = self.pace.evaluation_seconds or self.test_source.loader.samples / rate
        if self.times.is_due_before_evaluation(seconds):
            self.progress.seconds, started = self.progress.seconds + time.monotonic() - started, time.monotonic()
            self.save()
            self.stop_if_asked()
        return started

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
        if self.synthesis is not None:
            refuse_what_is_not_finite(self.synthesis, self.name, self.saving.last_good)
        bad = self.step.first_bad.step.item()
        if bad < 0:
            return
        terms = ", ".join(f"{name} {value.item():g}" for name, value in self.step.first_bad.terms.items())
        raise UserError(
            f"{self.name}: the loss or its gradient was not finite in step {bad} "
            f"(epoch {bad // self.steps_per_epoch + 1}): {terms}; that step changed no weight; "
            f"{self.saving.last_good()}; try a lower learning rate"
        )

    def save(self) -> None:
        """Writes a checkpoint of this instant: aside, but at the training's end, which nothing goes on behind."""
        self.refuse_what_is_not_finite()
        standing = Standing(self.progress, self.records.logged, time.monotonic() - self.records.logged_at)
        self.saving.save(standing, aside=self.progress.epoch < self.training.epochs)
        self.times.saved()

    def load(self) -> None:
        """Takes up the checkpoint, where there is one."""
        if self.synthesis is not None:
            begin_beside(self.synthesis, self.checkpoint, self._watch_round)
        standing = self.saving.load(self.training.epochs, self.steps_per_epoch)
        if standing is None:
            return
        self.progress, self.records.logged = standing.progress, standing.logged
        self.records.own_logged = self.step.meter.own()
        self.records.logged_at = time.monotonic() - standing.logged_seconds
        epoch, step = self.progress.epoch, self.progress.step
        self.session.display.note(f"{self.title}  resumed after epoch {epoch}" + (f", step {step}" if step else ""))

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
            self.saving.settle()
            where = f"epoch {self.progress.epoch + (self.progress.step > 0)}"
            raise Stopped(f"stopped by {self.session.interrupt.requested} in {self.name}, {where}")
