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
from fastkd.training.gates import Gates
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
from fastkd.training.replays import STEPS, Beside, ResidentSteps, StreamedSteps
from fastkd.training.snapshot import Snapshot, restore_all
from fastkd.training.stages import Distill, Stage, StageLoss
from fastkd.training.taught import Provided, Shelf, StoredTeachers, fits


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
        shelf: Shelf | None = None,
    ):
        """shelf: where the stage's teachers are stored."""
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
        self.gates = Gates(stage) if stage.gate is not None else None
        self.module: nn.Module = stage
        if world_size() > 1 and self.gates is None:
            ids = [device] if device.type == "cuda" else None
            # BatchNorm statistics are each rank's own; rank 0's are shared before evaluation and saving.
            self.module = DistributedDataParallel(
                stage, device_ids=ids, broadcast_buffers=False, static_graph=training.accumulate == 1
            )
        self.batch_size = training.batch_size // world_size()
        self.stored: StoredTeachers | None = None
        """The teachers' rows, in place of the teachers, where they are stored."""
        if shelf is not None:
            assert isinstance(stage, Distill)
            stage.rows = shelf.rows
            self.stored = StoredTeachers(shelf, device, self._say, resident=fits(shelf, device))
        self.replays: ResidentSteps | StreamedSteps | None = None
        """The recorded step, where there is one."""
        self.beside: Sequence[Step] = ()
        """Steps that take the same batches in the same replays."""

    def epoch_of(self, loader: Loader, epoch: int, start: int = 0) -> Iterator[int]:
        """Trains on an epoch from its step `start` on; yields from time to time how many steps were taken since."""
        for step in (self, *self.beside):
            step.epoch.fill_(epoch)
        if self.stored is not None:
            self.stored.begin_epoch(epoch)
            if isinstance(self.replays, ResidentSteps):
                self.stored.complete(loader, epoch, start)
            loader = Provided(loader, self.stored)
        if self.replays is None:
            for raw in loader.epoch(epoch, start):
                self(raw)
                yield 1
        else:
            for trained in self.replays.epoch(loader, epoch, start):
                for step in (self, *self.beside):
                    step.meter.count(trained.images, trained.steps)
                yield trained.steps

    def fill_store(self, loader: Loader, epoch: int) -> Iterator[int]:
        """Computes what is missing of the teachers' rows of an epoch; yields the batches that were looked at."""
        assert self.stored is not None
        self.epoch.fill_(epoch)
        self.stored.begin_epoch(epoch)
        if not self.stored.is_complete():
            for done, _ in enumerate(self.stored.provided(loader, epoch, 0), 1):
                yield done

    def __call__(self, raw: RawBatch) -> None:
        self._train_any_size(raw)
        self.meter.count(len(raw.index))

    def _train_any_size(self, raw: RawBatch) -> None:
        with self._plain_if_odd(raw):
            self._train(raw.to(self.device))

    def _plain_if_odd(self, raw: RawBatch) -> contextlib.AbstractContextManager[None]:
        """A batch of another size than the one that was compiled for would compile once more: it runs as PyTorch."""
        odd = self.execution.compile != "off" and len(raw.index) != self.batch_size
        return torch.compiler.set_stance("force_eager") if odd else contextlib.nullcontext()  # pyright: ignore

    def warm_up(self, loader: Loader, recorder: Recorder | None = None, *, beside: Sequence["Step"] = ()) -> list[str]:
        """Compiles, and records with the recorder, if there is one. It is no training: everything stays as it was.

        beside: further steps, which are compiled already, to be recorded as branches beside this one; they have the
        same stored teachers. Returns what there is to tell: how long it took, or why something is off.
        """
        raw = next(iter(loader.epoch(0))).to(self.device)
        raw = raw if self.stored is None else self.stored.blank(raw)
        steps = (self, *beside)
        known = {id(value) for step in steps for value in step.meter.sums.values()}
        snapshots = [step._snapshot() for step in steps]
        told = []
        if self.execution.compile != "off":
            told.append(self._compile(raw))
            snapshots[0].restore()
        if recorder is not None:
            told.append(self._record(raw, loader, recorder, snapshots, beside))
            restore_all(snapshots)
        for step in steps:
            for value in step.meter.sums.values():
                if id(value) not in known:
                    value.zero_()
        return told

    def _snapshot(self) -> Snapshot:
        counters = [self.done, self.epoch, self.first_bad_step, self.meter.hits, *self.meter.sums.values()]
        averaged = [self.average.network] if self.average else []
        return Snapshot([self.stage, *averaged], self.optimizer, counters)

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

    def close(self) -> None:
        """Writes what was computed of the teachers' rows."""
        if self.stored is not None:
            self.stored.close()

    def uncompile(self) -> None:
        undo_compile(self.stage)
        self.execution = self.execution._replace(compile="off")

    def _record(
        self,
        raw: RawBatch,
        loader: Loader,
        recorder: Recorder,
        snapshots: Sequence[Snapshot],
        beside: Sequence["Step"],
    ) -> str:
        """Records the step and those beside it; returns the line that says how it went."""
        if len(raw.index) != self.batch_size:
            return f"not captured: the only batch has {len(raw.index)} images, not {self.batch_size}"
        if not follows_the_device(self.optimizer):
            return f"not captured: {type(self.optimizer).__name__} counts its steps on the host"
        started, steps = time.perf_counter(), (self, *beside)
        groups = [group for step in steps for group in step.optimizer.param_groups if "capturable" in group]

        def rehearsal() -> None:
            for step in steps:
                step._train(raw)

        try:
            recorder.rehearse(rehearsal)
            restore_all(snapshots)
            for group in groups:  # a fused optimiser is capturable, but Adam asks
                group["capturable"] = True
            if isinstance(loader, ResidentLoader):
                others = [Beside(step._train, step._train_any_size, step.done) for step in beside]
                odd = self._train_any_size
                self.replays = ResidentSteps(self._train, recorder, loader, odd, step=self.done, beside=others)
                self.beside = beside
            else:
                self.replays = StreamedSteps(self._train, recorder, raw, self._train_any_size)
        except Exception as error:  # whatever cannot be captured: training goes on without it
            return f"not captured: {first_lines(error)}"
        finally:
            for group in groups:
                group["capturable"] = False
        each = f", {STEPS} steps a replay" if isinstance(self.replays, ResidentSteps) else ""
        branches = f", {len(steps)} trainings side by side" if beside else ""
        return f"captured in {duration(time.perf_counter() - started)}{each}{branches}"

    def _say(self, raw: RawBatch, step: int) -> tuple[Tensor, ...]:
        """The rows of a raw batch, from the very forward passes of the teachers that this step would do."""
        assert isinstance(self.stage, Distill)
        assert self.stored is not None
        at = torch.full_like(self.done, step), torch.full_like(self.epoch, self.stored.epoch)
        batch, rows = self._laid_out(self.prepare(raw.to(self.device), *at)), []
        with self.forward_context(), self._plain_if_odd(raw):
            for part in _parts(batch, self.training.accumulate):
                pairs = zip(self.stage.rows, self.stage.say(part), strict=True)
                rows.append([row.packed(said, part.labels) for row, said in pairs])
        return tuple(torch.cat(of_teacher) for of_teacher in zip(*rows, strict=True))

    def _train(self, raw: RawBatch) -> None:
        batch = self.prepare(raw, self.done, self.epoch)
        if self.stored is not None:
            batch = self.stored.with_rows(batch, raw)
        loss = self._accumulate(batch)
        if self.gates is not None:
            loss = self.gates.open(loss)
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
        if self.gates is not None:
            self.gates.begin()
        if parts == 1:
            return self._forward_backward(batch, 1.0)
        losses, count = [], len(batch.labels)
        pieces = _parts(batch, parts)
        shares = [len(part.labels) / count for part in pieces]
        for number, (part, share) in enumerate(zip(pieces, shares, strict=True), start=1):
            with self._without_reduction(number < len(pieces)):
                losses.append(self._forward_backward(part, share))

        def mean(values: list[Tensor]) -> Tensor:
            return torch.stack([value * share for value, share in zip(values, shares, strict=True)]).sum()

        terms = {name: mean([loss.terms[name] for loss in losses]) for name in losses[0].terms}
        gated = {name: mean([loss.gated[name] for loss in losses]) for name in losses[0].gated}
        hits = torch.stack([loss.hits for loss in losses]).sum(0)
        return StageLoss(mean([loss.total for loss in losses]), terms, hits, gated)

    def _forward_backward(self, batch: Batch, weight: float) -> StageLoss:
        with self.forward_context():
            loss: StageLoss = self.module(self._laid_out(batch))
        if self.gates is not None:
            self.gates.backward(loss, weight)
        else:
            (loss.total * weight if weight != 1.0 else loss.total).backward()
        gated = {name: value.detach() for name, value in loss.gated.items()}
        return StageLoss(loss.total.detach(), loss.terms, loss.hits, gated)

    def _laid_out(self, batch: Batch) -> Batch:
        """The batch with its images in the memory layout that the networks have."""
        if not self.execution.channels_last:
            return batch
        views, count = batch.images.shape[:2]
        images = batch.images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return batch._replace(images=images.unflatten(0, (views, count)))

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


def _parts(batch: Batch, count: int) -> list[Batch]:
    """The batch in parts; the last batch of an epoch can have fewer images than there are parts."""
    if count == 1:
        return [batch]
    others = (value.tensor_split(count) for value in (batch.labels, batch.index, *batch.taught))
    of_parts = zip(batch.images.tensor_split(count, dim=1), *others, strict=True)
    return [
        batch._replace(images=images, labels=labels, index=index, taught=tuple(taught), mixed=mixed)
        for (images, labels, index, *taught), mixed in zip(of_parts, _parts_of(batch.mixed, count), strict=True)
        if len(labels)
    ]


def _parts_of(mixed: Mixed | None, parts: int) -> Sequence[Mixed | None]:
    if mixed is None:
        return [None] * parts
    pairs = zip(mixed.labels.tensor_split(parts), mixed.share.tensor_split(parts), strict=True)
    return [Mixed(labels, share) for labels, share in pairs]
