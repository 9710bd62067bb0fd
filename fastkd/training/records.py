"""What a training tells of itself: the records of its log, a line for each epoch, and the live numbers."""

import math
import time
from collections.abc import Callable
from typing import Any

from fastkd.support.callbacks import tell_record
from fastkd.support.distributed import from_all, is_main, world_size
from fastkd.support.environment import memory
from fastkd.support.heartbeat import patience_of
from fastkd.support.live import Look, waiting_words
from fastkd.support.log import MetricsLog
from fastkd.support.session import Session
from fastkd.training.datafree import DataFree
from fastkd.training.laps import Lap
from fastkd.training.meter import Totals
from fastkd.training.optimisation import Training
from fastkd.training.pace import Pace
from fastkd.training.progress import Progress
from fastkd.training.stages import Stage
from fastkd.training.step import Step

LOG_STEPS = 100
"""Steps between the records inside an epoch."""


class Records:
    """What is told of one stage. Every rank has one, for reading numbers takes messages; rank 0 writes and shows."""

    def __init__(
        self,
        name: str,
        title: str,
        stage: Stage,
        training: Training,
        step: Step,
        pace: Pace,
        *,
        log: MetricsLog,
        session: Session,
        seconds_after: Callable[[float], float],
        watched: str,
    ):
        """seconds_after, watched: see `Trainer`."""
        self.name, self.title, self.stage, self.training = name, title, stage, training
        self.step, self.pace, self.device = step, pace, step.device
        self.log, self.session, self.seconds_after, self.watched = log, session, seconds_after, watched
        self.logged: Totals | None = None
        """What the meter read at the last record inside the epoch."""
        self.own_logged: Totals | None = None
        """What this rank alone had counted then."""
        self.logged_at = time.monotonic()

    def are_due(self, progress: Progress) -> bool:
        """Whether there is a record after this step inside an epoch."""
        return progress.step % LOG_STEPS == 0

    def add_steps(self, progress: Progress) -> None:
        """Writes a record of the steps since the last one, inside an epoch."""
        seconds, self.logged_at = time.monotonic() - self.logged_at, time.monotonic()
        totals, own = self.step.meter.read(), self.step.meter.own()
        recent, of_rank = totals.since(self.logged), own.since(self.own_logged)
        self.logged, self.own_logged = totals, own
        step = progress.epoch * self.pace.steps_per_epoch + progress.step
        rate = recent.images / max(seconds, 1e-9)
        largest, _ = self.step.meter.take_largest()
        told = self._told(recent, of_rank, largest)
        self._write({"stage": self.name, "step": step, **told, "images_per_second": rate})

    def read_epoch(self) -> dict[str, Any]:
        """The part of an epoch's record that is known before its evaluation; every rank asks for it."""
        _, largest = self.step.meter.take_largest()
        self.logged = self.own_logged = None
        return self._told(self.step.meter.read(), self.step.meter.own(), largest)

    def add_epoch(self, progress: Progress, told: dict[str, Any], rate: float) -> None:
        """Writes a record of the epoch that has just ended, and a line; told: what `read_epoch` gave."""
        evaluated = self.pace.evaluation_is_due(progress.epoch)
        step = progress.epoch * self.pace.steps_per_epoch
        record = {
            "stage": self.name,
            "epoch": progress.epoch,
            "step": step,
            "lr": self.step.learning_rates[step - 1].item(),
            **told,
            "test": progress.test if evaluated else {},
            **({} if self.watched == "test" else {"watched": self.watched}),
            "images_per_second": rate,
            "seconds": progress.seconds,
        }
        synthesis = self.stage.synthesis if isinstance(self.stage, DataFree) else None
        if synthesis is not None:
            record["synthesis"] = synthesis.measures()
        self._write(record)
        main = next(iter(progress.test.values())) if evaluated else None
        test = f"  {self.watched} {main['top1'] / main['samples']:.2%}" if main else ""
        train, images = told["train"], f"  {synthesis.words()}" if synthesis is not None else ""
        hits = f"  train {train['top1']:.2%}" if "top1" in train else ""
        waiting = "".join(f"  {words}" for words in waiting_words(told["data_share"]))
        self.session.display.note(
            f"{self.title}  epoch {progress.epoch}/{self.training.epochs}  loss {train['loss']:.4f}"
            f"{hits}{test}{images}  {rate:,.0f} images/s{waiting}"
        )

    def _told(self, totals: Totals, own: Totals, largest: float) -> dict[str, Any]:
        """What a record says of some steps: means, norms, waiting and memory, and what each of several ranks measured.

        own: what this rank alone has counted of them. largest: the largest norm of the gradients, NaN where a
        checkpoint of an older fastkd does not know it.
        """
        ranks = from_all((self._of_rank(own), memory(self.device)))
        slowest = max((measured for measured, _ in ranks), key=lambda measured: measured["data_time"])
        waited = Lap(slowest["seconds"], slowest["data_time"])
        told: dict[str, Any] = {"train": self.means(totals)}
        if not math.isnan(largest):
            told |= {"grad_norm": totals.grad_norm, "grad_norm_max": largest}
        told |= {"data_time": waited.waited, "data_share": waited.share}
        told["memory"] = {name: max(held[name] for _, held in ranks) for name in ranks[0][1]}
        if len(ranks) > 1:
            told["ranks"] = {str(number): measured | held for number, (measured, held) in enumerate(ranks)}
        return told

    def _of_rank(self, own: Totals) -> dict[str, float]:
        """What this rank measured of some steps by itself.

        A rank with more images than others has sums that count more, which its own loss does not; by --shards the loss
        of every rank is the whole batch's.
        """
        placing, means, lap = self.step.placing, own.means(), own.lap
        share = placing.own / placing.batch_size
        weight = 1.0 if self.step.meter.alike else share * placing.processes
        rate = own.images * share / max(lap.seconds, 1e-9)
        seconds = {"data_time": lap.waited, "seconds": lap.seconds}
        return {"loss": means["loss"] / weight, "images_per_second": rate, **seconds}

    def means(self, totals: Totals) -> dict[str, float]:
        """The totals' means, without hits where the stage has none to count."""
        means = totals.means()
        return means if self.stage.evaluates else {name: means[name] for name in means if name not in ("top1", "top5")}

    def _write(self, record: dict[str, Any]) -> None:
        if is_main():
            self.log.append(record)
            self.session.tell(lambda callback: tell_record(callback, record))
            self.session.heartbeat.know(loss=record["train"]["loss"], **_place(record, self.pace))

    def look_is_due(self, progress: Progress) -> bool:
        """Whether to read the live numbers; with several processes all of them must, so only at agreed steps."""
        if world_size() == 1:
            return self.session.display.due()
        return self.are_due(progress)

    def show(self, progress: Progress, seconds: float, steps: int) -> None:
        """Shows the live numbers of an epoch of which so many steps took so many seconds."""
        per_step = seconds / max(steps, 1)
        done, left, run_left = self._left(progress, per_step)
        totals = self.step.meter.read()
        look = Look(
            title=self.title,
            epoch=progress.epoch + 1,
            epochs=self.training.epochs,
            done=done,
            total=self.pace.steps,
            rate=self.training.batch_size / max(per_step, 1e-9),
            seconds_left=left,
            run_seconds_left=run_left,
            values=self.means(totals),
            waiting=totals.lap.share,
        )
        self.session.display.live(look)

    def _left(self, progress: Progress, per_step: float) -> tuple[int, float, float]:
        """The steps of the stage that are done, and the seconds that are left of the stage and of the run."""
        done = progress.epoch * self.pace.steps_per_epoch + progress.step
        left = self.pace.seconds_left(done, per_step)
        return done, left, left + self.seconds_after(self.pace.seconds_per_epoch(per_step))

    def beat(self, progress: Progress, seconds: float, steps: int) -> None:
        """Gives a sign of life, in an epoch of which so many steps took so many seconds; nothing is read for it."""
        per_step = seconds / max(steps, 1)
        done, left, run_left = self._left(progress, per_step)
        self.session.heartbeat.beat(
            patience=patience_of(per_step),
            doing="training",
            stage=self.name,
            epoch=progress.epoch + 1,
            epochs=self.training.epochs,
            step=done,
            steps=self.pace.steps,
            images_per_second=self.training.batch_size / max(per_step, 1e-9),
            seconds_left=left,
            run_seconds_left=run_left,
        )

    def show_filling(self, number: int, epochs: int, taken: int, seconds: float) -> None:
        """Shows how far the stores are filled: `taken` batches of the epoch of that number, in so many seconds."""
        steps = self.pace.steps_per_epoch
        done, total, each = number * steps + taken, epochs * steps, seconds / taken
        rate = self.training.batch_size / max(each, 1e-9)
        self.session.display.live(
            Look.along(self.title, (number + 1, epochs), (done, total), rate, (total - done) * each)
        )


def _place(record: dict[str, Any], pace: Pace) -> dict[str, Any]:
    """What a record says that a sign of life repeats: a short epoch has none of its own."""
    known = {"stage": record["stage"], "step": record["step"], "steps": pace.steps, "epochs": pace.epochs}
    known["images_per_second"] = record["images_per_second"]
    if "epoch" in record:
        known["epoch"] = record["epoch"]
    tested = next(iter(record.get("test", {}).values()), None)
    return known | ({"accuracy": tested["top1"] / tested["samples"]} if tested else {})
