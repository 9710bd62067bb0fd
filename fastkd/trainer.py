"""One stage: epochs, evaluation, checkpoints, log."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fastkd.data import Source
from fastkd.display import Display
from fastkd.errors import UserError
from fastkd.evaluation import Accuracy, accuracies
from fastkd.files import read_state, write_state
from fastkd.interrupt import Interrupt, Stopped
from fastkd.log import MetricsLog
from fastkd.meter import Meter
from fastkd.optimisation import Training, build_optimizer, learning_rates, load_optimizer_state
from fastkd.stages import Stage, StageLoss
from fastkd.step import Step

CHECKPOINT_FORMAT = 1
CHECKPOINT_SECONDS = 600.0  # of training between checkpoints inside an epoch
LOG_STEPS = 100  # between the records inside an epoch


@dataclass
class Progress:
    """Where a stage stands; part of every checkpoint."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done of the epoch that is running."""
    seconds: float = 0.0
    """Of training and evaluation, over all sessions."""
    test: dict[str, Accuracy] = field(default_factory=dict)
    """Of the last evaluation."""
    best: dict[str, Any] = field(default_factory=dict)
    """{"epoch", "top1"} of the best evaluation of the stage's network: never what the tables report."""


class Trainer:
    def __init__(
        self,
        name: str,
        stage: Stage,
        training: Training,
        train: Source,
        test: Source,
        *,
        device: torch.device,
        display: Display,
        checkpoint: Path,
        log: MetricsLog,
        interrupt: Interrupt,
        title: str | None = None,
        eval_every: int = 1,
    ):
        self.name, self.stage, self.training, self.train_source, self.test_source = name, stage, training, train, test
        self.device, self.display, self.interrupt = device, display, interrupt
        self.checkpoint, self.log, self.eval_every = checkpoint, log, eval_every
        self.title = title or name
        self.steps_per_epoch = train.loader.steps
        for module in (stage, train.prepare, test.prepare):
            module.to(device)
        self.optimizer = build_optimizer(stage, training, device)
        rates = learning_rates(training, self.steps_per_epoch)
        self.step = Step(stage, train.prepare, self.optimizer, rates, device)
        self.progress, self.meter, self.recent = Progress(), Meter(), Meter()
        self.saved_at = time.monotonic()

    def fit(self, after_epoch=lambda epoch: None) -> Progress:
        """Trains to the last epoch, from the checkpoint where there is one; calls `after_epoch(epochs done)`."""
        if self.checkpoint.exists():
            self._load()
        while self.progress.epoch < self.training.epochs:
            self._epoch()
            after_epoch(self.progress.epoch)
            self._save()
            self._stop_if_asked()
        return self.progress

    def one_step(self) -> StageLoss:
        """The first step of a training, for a dry run: nothing is written."""
        self.stage.train()
        return self.step(next(iter(self.train_source.loader.epoch(0))))

    def _epoch(self) -> None:
        progress = self.progress
        epoch_started = started = time.monotonic()
        first_step = progress.step
        self.stage.train()
        self.stage.begin_epoch(progress.epoch)
        self.step.epoch.fill_(progress.epoch)
        self.recent.clear()
        for raw in self.train_source.loader.epoch(progress.epoch, start=progress.step):
            loss = self.step(raw)
            for meter in (self.meter, self.recent):
                meter.add(loss, len(raw.index))
            progress.step += 1
            finished = progress.step == self.steps_per_epoch
            if not finished and progress.step % LOG_STEPS == 0:
                self._log_steps(time.monotonic() - started)
                started = time.monotonic()
            if self.display.due():
                self._show(time.monotonic() - epoch_started, progress.step - first_step)
            late = time.monotonic() - self.saved_at > CHECKPOINT_SECONDS
            if not finished and (late or self.interrupt.requested):
                progress.seconds += time.monotonic() - epoch_started
                epoch_started, first_step = time.monotonic(), progress.step
                self._save()
                self._stop_if_asked()
        self._check_finite()
        train = self.meter.read()
        trained = time.monotonic() - epoch_started
        rate = (progress.step - first_step) * self.training.batch_size / max(trained, 1e-9)
        progress.epoch, progress.step = progress.epoch + 1, 0
        if progress.epoch % self.eval_every == 0 or progress.epoch == self.training.epochs:
            self._evaluate()
        progress.seconds += time.monotonic() - epoch_started
        self.meter.clear()
        self._log_epoch(train, rate)

    def _evaluate(self) -> None:
        self.stage.eval()
        progress = self.progress
        progress.test = accuracies(self.stage.predictions, self.test_source, self.device)
        main = next(iter(progress.test.values()))
        top1 = main["top1"] / main["samples"]
        if not progress.best or top1 > progress.best["top1"]:
            progress.best = {"epoch": progress.epoch, "top1": top1}

    def _log_epoch(self, train: dict[str, float], rate: float) -> None:
        progress = self.progress
        evaluated = progress.epoch % self.eval_every == 0 or progress.epoch == self.training.epochs
        step = progress.epoch * self.steps_per_epoch
        record = {
            "stage": self.name,
            "epoch": progress.epoch,
            "step": step,
            "lr": self.step.learning_rates[step - 1].item(),
            "train": train,
            "test": progress.test if evaluated else {},
            "images_per_second": rate,
            "seconds": progress.seconds,
        }
        self.log.append(record)
        main = next(iter(progress.test.values())) if evaluated else None
        test = f"  test {main['top1'] / main['samples']:.2%}" if main else ""
        self.display.note(
            f"{self.title}  epoch {progress.epoch}/{self.training.epochs}  loss {train['loss']:.4f}"
            f"  train {train['top1']:.2%}{test}  {rate:,.0f} images/s"
        )

    def _log_steps(self, seconds: float) -> None:
        rate = self.recent.images / max(seconds, 1e-9)
        step = self.progress.epoch * self.steps_per_epoch + self.progress.step
        self._check_finite()
        record = {"stage": self.name, "step": step, "train": self.recent.read(), "images_per_second": rate}
        self.log.append(record)
        self.recent.clear()

    def _show(self, seconds: float, steps: int) -> None:
        self._check_finite()
        done = self.progress.epoch * self.steps_per_epoch + self.progress.step
        total = self.training.epochs * self.steps_per_epoch
        per_step = seconds / max(steps, 1)
        rate = self.training.batch_size / max(per_step, 1e-9)
        self.display.live(self.title, done, total, self.meter.read(), rate, (total - done) * per_step)

    def _check_finite(self) -> None:
        bad = self.step.first_bad_step.item()
        if bad < 0:
            return
        terms = ", ".join(f"{name} {value.item():g}" for name, value in self.step.bad_terms.items())
        kept = (
            f"the last good checkpoint is {self.checkpoint}" if self.checkpoint.exists() else "there is no checkpoint"
        )
        raise UserError(
            f"{self.name}: the loss was not finite in step {bad} (epoch {bad // self.steps_per_epoch + 1}): {terms}; "
            f"that step changed no weight; {kept}; try a lower learning rate"
        )

    def _save(self) -> None:
        self._check_finite()
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        write_state(
            self.checkpoint,
            {
                "format": CHECKPOINT_FORMAT,
                "stage": self.name,
                "progress": asdict(self.progress),
                "global_step": self.step.step.item(),
                "model": self.stage.state_dict(),
                "optimizer": self.optimizer.state_dict()["state"],
                "meter": self.meter.state(),
                "rng": rng,
                "threads": torch.get_num_threads(),
                "metrics_bytes": self.log.size(),
            },
        )
        self.saved_at = time.monotonic()

    def _load(self) -> None:
        state = read_state(self.checkpoint)
        if state.get("format") != CHECKPOINT_FORMAT:
            found = state.get("format", "none")
            raise UserError(f"{self.checkpoint} has format {found}, this fastkd reads {CHECKPOINT_FORMAT}")
        if state["stage"] != self.name:
            raise UserError(f"{self.checkpoint} is of the stage {state['stage']!r}, expected {self.name!r}")
        try:
            self.stage.load_state_dict(state["model"])
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1].strip()
            raise UserError(f"{self.checkpoint} does not fit this stage: {first}") from error
        groups = self.optimizer.state_dict()["param_groups"]
        load_optimizer_state(self.optimizer, {"state": state["optimizer"], "param_groups": groups})
        self.progress = Progress(**state["progress"])
        self.step.step.fill_(state["global_step"])
        self.meter.load(state["meter"], self.device)
        torch.set_rng_state(state["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in state["rng"]:
            torch.cuda.set_rng_state(state["rng"]["cuda"], self.device)
        self.log.cut(state["metrics_bytes"])
        if state["threads"] != torch.get_num_threads():
            self.display.note(
                f"{self.name}: begun with {state['threads']} threads, goes on with {torch.get_num_threads()}: "
                "results are the same but for the last bits"
            )
        epoch, step = self.progress.epoch, self.progress.step
        self.display.note(f"{self.title}  resumed after epoch {epoch}" + (f", step {step}" if step else ""))

    def _stop_if_asked(self) -> None:
        if self.interrupt.requested:
            where = f"epoch {self.progress.epoch + (self.progress.step > 0)}"
            raise Stopped(f"stopped by {self.interrupt.requested} in {self.name}, {where}")
