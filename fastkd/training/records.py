"""What a training tells of itself: the records of its log, a line for each epoch, and the live numbers."""

import time
from collections.abc import Callable
from typing import Any

from fastkd.support.callbacks import tell_record
from fastkd.support.distributed import is_main, world_size
from fastkd.support.live import Look
from fastkd.support.log import MetricsLog
from fastkd.support.session import Session
from fastkd.training.datafree import DataFree
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
        self.step, self.pace = step, pace
        self.log, self.session, self.seconds_after, self.watched = log, session, seconds_after, watched
        self.logged: Totals | None = None
        """What the meter read at the last record inside the epoch."""
        self.logged_at = time.monotonic()

    def are_due(self, progress: Progress) -> bool:
        """Whether there is a record after this step inside an epoch."""
        return progress.step % LOG_STEPS == 0

    def add_steps(self, progress: Progress) -> None:
        """Writes a record of the steps since the last one, inside an epoch."""
        seconds, self.logged_at = time.monotonic() - self.logged_at, time.monotonic()
        totals = self.step.meter.read()
        recent = totals.since(self.logged)
        self.logged = totals
        step = progress.epoch * self.pace.steps_per_epoch + progress.step
        rate = recent.images / max(seconds, 1e-9)
        self._write({"stage": self.name, "step": step, "train": self.means(recent), "images_per_second": rate})

    def add_epoch(self, progress: Progress, train: dict[str, float], rate: float) -> None:
        """Writes a record of the epoch that has just ended, and a line; train: the means of its steps."""
        self.logged = None
        evaluated = self.pace.evaluation_is_due(progress.epoch)
        step = progress.epoch * self.pace.steps_per_epoch
        record = {
            "stage": self.name,
            "epoch": progress.epoch,
            "step": step,
            "lr": self.step.learning_rates[step - 1].item(),
            "train": train,
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
        hits = f"  train {train['top1']:.2%}" if "top1" in train else ""
        images = f"  {synthesis.words()}" if synthesis is not None else ""
        self.session.display.note(
            f"{self.title}  epoch {progress.epoch}/{self.training.epochs}  loss {train['loss']:.4f}"
            f"{hits}{test}{images}  {rate:,.0f} images/s"
        )

    def means(self, totals: Totals) -> dict[str, float]:
        """The totals' means, without hits where the stage has none to count."""
        means = totals.means()
        return means if self.stage.evaluates else {name: means[name] for name in means if name not in ("top1", "top5")}

    def _write(self, record: dict[str, Any]) -> None:
        if is_main():
            self.log.append(record)
            self.session.tell(lambda callback: tell_record(callback, record))

    def look_is_due(self, progress: Progress) -> bool:
        """Whether to read the live numbers; with several processes all of them must, so only at agreed steps."""
        if world_size() == 1:
            return self.session.display.due()
        return self.are_due(progress)

    def show(self, progress: Progress, seconds: float, steps: int) -> None:
        """Shows the live numbers of an epoch of which so many steps took so many seconds."""
        done = progress.epoch * self.pace.steps_per_epoch + progress.step
        per_step = seconds / max(steps, 1)
        left = self.pace.seconds_left(done, per_step)
        look = Look(
            title=self.title,
            epoch=progress.epoch + 1,
            epochs=self.training.epochs,
            done=done,
            total=self.pace.steps,
            rate=self.training.batch_size / max(per_step, 1e-9),
            seconds_left=left,
            run_seconds_left=left + self.seconds_after(self.pace.seconds_per_epoch(per_step)),
            values=self.means(self.step.meter.read()),
        )
        self.session.display.live(look)

    def show_filling(self, number: int, epochs: int, taken: int, seconds: float) -> None:
        """Shows how far the stores are filled: `taken` batches of the epoch of that number, in so many seconds."""
        steps = self.pace.steps_per_epoch
        done, total, each = number * steps + taken, epochs * steps, seconds / taken
        rate = self.training.batch_size / max(each, 1e-9)
        self.session.display.live(
            Look.along(self.title, (number + 1, epochs), (done, total), rate, (total - done) * each)
        )
