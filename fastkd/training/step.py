"""One optimisation step: raw batch, augmentation, stage, backward, optimiser, counters."""

import contextlib
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastkd.data import ResidentLoader
from fastkd.data.base import Batch, Loader, Mixed, RawBatch
from fastkd.support.distributed import any_rank, share_buffers, world_size
from fastkd.support.live import duration
from fastkd.training.capture import Recorder, first_lines
from fastkd.training.compilation import compile_stage, undo_compile
from fastkd.training.execution import EVERYTHING_OFF, Resolved
from fastkd.training.meter import Meter
from fastkd.training.optimisation import (
    Training,
    WeightAverage,
    clip_gradients,
    follows_the_device,
    gradients_are_finite,
    learning_rates,
    set_learning_rate,
)
from fastkd.training.replays import STEPS, ResidentSteps, StreamedSteps
from fastkd.training.snapshot import Snapshot
from fastkd.training.stages import Stage, StageLoss


class Step:
    """`step(raw)` trains on one raw batch; its loss terms and hits are added to `meter`, still on the device.

    Nothing in it waits for the device, and everything it changes is changed in place. A loss or a gradient
    that is not finite changes no weight; the first such step is kept in `first_bad_step` (-1 while there is none) for
    the trainer's next look.
    """

    def __init__(
        self,
        stage: Stage,
        prepare: nn.Module,
        optimizer: torch.optim.Optimizer,
        training: Training,
        steps_per_epoch: int,
        device: torch.device,
        execution: Resolved = EVERYTHING_OFF,
    ):
        self.stage, self.prepare, self.optimizer, self.training = stage, prepare, optimizer, training
        self.device, self.execution = device, execution
        self.learning_rates = learning_rates(training, steps_per_epoch).to(device)
        self.done = torch.zeros((), dtype=torch.int64, device=device)
        self.epoch = torch.zeros((), dtype=torch.int64, device=device)
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=device)
        self.bad_terms: dict[str, Tensor] = {}
        """The loss terms of that step."""
        self.meter = Meter(device)
        self.average = WeightAverage(stage.deployed, training.ema) if training.ema else None
        self.module: nn.Module = stage
        if world_size() > 1:
            ids = [device] if device.type == "cuda" else None
            # BatchNorm statistics are each rank's own; rank 0's are shared before evaluation and saving.
            self.module = DistributedDataParallel(
                stage, device_ids=ids, broadcast_buffers=False, static_graph=training.accumulate == 1
            )
        self.batch_size = training.batch_size // world_size()
        self.replays: ResidentSteps | StreamedSteps | None = None
        """The recorded step, where there is one."""

    def epoch_of(self, loader: Loader, epoch: int, start: int = 0) -> Iterator[int]:
        """Trains on an epoch from its step `start` on; yields from time to time how many steps were taken since."""
        self.epoch.fill_(epoch)
        if self.replays is None:
            for raw in loader.epoch(epoch, start):
                self(raw)
                yield 1
        else:
            for trained in self.replays.epoch(loader, epoch, start):
                self.meter.count(trained.images, trained.steps)
                yield trained.steps

    def __call__(self, raw: RawBatch) -> None:
        self._train_any_size(raw)
        self.meter.count(len(raw.index))

    def _train_any_size(self, raw: RawBatch) -> None:
        # Another size than the one that was compiled for would compile once more: it runs as plain PyTorch.
        odd = self.execution.compile != "off" and len(raw.index) != self.batch_size
        with torch.compiler.set_stance("force_eager") if odd else contextlib.nullcontext():
            self._train(raw.to(self.device))

    def warm_up(self, loader: Loader, recorder: Recorder | None = None) -> list[str]:
        """Compiles, and records with the recorder, if there is one. It is no training: everything stays as it was.

        Returns what there is to tell: how long it took, or why something is off.
        """
        raw = next(iter(loader.epoch(0))).to(self.device)
        known = list(self.meter.sums.values())
        counters = [self.done, self.epoch, self.first_bad_step, self.meter.hits, *known]
        averaged = [self.average.network] if self.average else []
        snapshot = Snapshot([self.stage, *averaged], self.optimizer, counters)
        told = []
        if self.execution.compile != "off":
            told.append(self._compile(raw))
            snapshot.restore()
        if recorder is not None:
            told.append(self._record(raw, loader, recorder, snapshot))
            snapshot.restore()
        for value in self.meter.sums.values():
            if not any(value is old for old in known):
                value.zero_()
        return told

    def _compile(self, raw: RawBatch) -> str:
        """Compiles the stage in one step on trial; returns the line that says how it went."""
        started = time.perf_counter()
        assert self.execution.compile != "off"
        compile_stage(self.stage, self.execution.compile)
        try:
            self._train(raw)
        except torch.OutOfMemoryError:  # without compiling it would be no better
            raise
        except Exception as error:  # whatever the compiler may raise: training goes on without it
            self.uncompile()
            return f"not compiled: {first_lines(error)}"
        return f"compiled in {duration(time.perf_counter() - started)}"

    def uncompile(self) -> None:
        undo_compile(self.stage)
        self.execution = self.execution._replace(compile="off")

    def _record(self, raw: RawBatch, loader: Loader, recorder: Recorder, snapshot: Snapshot) -> str:
        """Records the step; returns the line that says how it went."""
        if len(raw.index) != self.batch_size:
            return f"not captured: the only batch has {len(raw.index)} images, not {self.batch_size}"
        if not follows_the_device(self.optimizer):
            return f"not captured: {type(self.optimizer).__name__} counts its steps on the host"
        started = time.perf_counter()
        groups = [group for group in self.optimizer.param_groups if "capturable" in group]
        try:
            recorder.rehearse(lambda: self._train(raw))
            snapshot.restore()
            for group in groups:  # a fused optimiser is capturable, but Adam asks
                group["capturable"] = True
            if isinstance(loader, ResidentLoader):
                self.replays = ResidentSteps(self._train, recorder, loader, self._train_any_size, step=self.done)
            else:
                self.replays = StreamedSteps(self._train, recorder, raw, self._train_any_size)
        except Exception as error:  # whatever cannot be captured: training goes on without it
            return f"not captured: {first_lines(error)}"
        finally:
            for group in groups:
                group["capturable"] = False
        steps = f", {STEPS} steps a replay" if isinstance(self.replays, ResidentSteps) else ""
        return f"captured in {duration(time.perf_counter() - started)}{steps}"

    def _train(self, raw: RawBatch) -> None:
        batch = self.prepare(raw, self.done, self.epoch)
        loss = self._accumulate(batch)
        bad = any_rank(~(loss.total.isfinite() & gradients_are_finite(self.optimizer)))
        self._keep_first_bad(bad, {"loss": loss.total, **loss.terms})
        if self.training.clip_norm is not None:
            clip_gradients(self.optimizer, self.training.clip_norm)
        # Indexed by a tensor the table would be read on the host. Warming up may go beyond its end, training does not.
        place = self.done.clamp(max=len(self.learning_rates) - 1).view(1)
        rate = self.learning_rates.index_select(0, place).squeeze(0)
        set_learning_rate(self.optimizer, rate)
        self._update(bad)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.stage.deployed)
        self.meter.add(loss)
        self.done.add_(1)

    def _update(self, bad: Tensor) -> None:
        """One step of the optimiser, unless the loss or a gradient is not finite."""
        if follows_the_device(self.optimizer):  # a fused optimiser skips the update where this is 1
            self.optimizer.found_inf = bad.to(torch.float32)  # pyright: ignore[reportAttributeAccessIssue]
            self.optimizer.step()
        elif not bad:  # read on the host: such a step is not captured
            self.optimizer.step()

    def _accumulate(self, batch: Batch) -> StageLoss:
        """Takes the batch in `accumulate` parts, one after the other; gradients and terms are those of their mean."""
        parts = self.training.accumulate
        if parts == 1:
            return self._forward_backward(batch, 1.0)
        losses, count = [], len(batch.labels)
        divided = zip(
            batch.images.tensor_split(parts, dim=1),
            batch.labels.tensor_split(parts),
            batch.index.tensor_split(parts),
            strict=True,
        )
        mixed = _parts_of(batch.mixed, parts)
        pieces = [
            batch._replace(images=images, labels=labels, index=index, mixed=one)
            for (images, labels, index), one in zip(divided, mixed, strict=True)
            if len(labels)  # the last batch of an epoch can be smaller than `accumulate`
        ]
        shares = [len(part.labels) / count for part in pieces]
        for number, (part, share) in enumerate(zip(pieces, shares, strict=True), start=1):
            with self._without_reduction(number < len(pieces)):
                losses.append(self._forward_backward(part, share))

        def mean(values: list[Tensor]) -> Tensor:
            return torch.stack([value * share for value, share in zip(values, shares, strict=True)]).sum()

        terms = {name: mean([loss.terms[name] for loss in losses]) for name in losses[0].terms}
        hits = torch.stack([loss.hits for loss in losses]).sum(0)
        return StageLoss(mean([loss.total for loss in losses]), terms, hits)

    def _forward_backward(self, batch: Batch, weight: float) -> StageLoss:
        with self.forward_context():
            if self.execution.channels_last:
                views, count = batch.images.shape[:2]
                images = batch.images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
                batch = batch._replace(images=images.unflatten(0, (views, count)))
            loss: StageLoss = self.module(batch)
        (loss.total * weight if weight != 1.0 else loss.total).backward()
        return StageLoss(loss.total.detach(), loss.terms, loss.hits)

    def predictions(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """The stage's predictions, and those of the averaged weights; the stage must be in eval mode."""
        with self.forward_context():
            logits = self.stage.predictions(images_BCHW)
            if self.average is not None:
                logits[f"{next(iter(logits))} (ema)"] = self.average.network(images_BCHW).logits
        return logits

    @contextlib.contextmanager
    def forward_context(self) -> Iterator[None]:
        """The precision of a forward pass, in training as in evaluation."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.execution.bfloat16):
            yield

    def share_buffers(self) -> None:
        """Gives every rank the buffers of rank 0, those of the stage and of its averaged weights."""
        share_buffers(self.stage)
        if self.average is not None:
            share_buffers(self.average.network)

    @contextlib.contextmanager
    def _without_reduction(self, wanted: bool) -> Iterator[None]:
        if wanted and isinstance(self.module, DistributedDataParallel):
            with self.module.no_sync():
                yield
        else:
            yield

    def _keep_first_bad(self, bad: Tensor, terms: dict[str, Tensor]) -> None:
        first = bad & (self.first_bad_step < 0)
        self.first_bad_step.copy_(torch.where(first, self.done, self.first_bad_step))
        for name, value in terms.items():
            if name not in self.bad_terms:
                self.bad_terms[name] = torch.zeros((), dtype=torch.float64, device=self.device)
            self.bad_terms[name].copy_(torch.where(first, value.detach().double(), self.bad_terms[name]))


def _parts_of(mixed: Mixed | None, parts: int) -> Sequence[Mixed | None]:
    if mixed is None:
        return [None] * parts
    pairs = zip(mixed.labels.tensor_split(parts), mixed.share.tensor_split(parts), strict=True)
    return [Mixed(labels, share) for labels, share in pairs]
