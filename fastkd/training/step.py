"""One optimisation step: raw batch, augmentation, stage, backward, optimiser, counters."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from fastkd.data import ResidentLoader
from fastkd.data.base import Batch, Loader, RawBatch
from fastkd.support import watching
from fastkd.support.distributed import alone, any_rank, first_of_all, from_all, share_buffers, world_size
from fastkd.support.errors import UserError
from fastkd.support.live import duration
from fastkd.support.words import counted
from fastkd.training.agreement import NotTogether, in_one_line, together
from fastkd.training.averaging import Averaging
from fastkd.training.capture import Recorder, capturable, refuse_out_of_memory
from fastkd.training.casting import CastWeights
from fastkd.training.compilation import compile_stage, trained_parts, undo_compile
from fastkd.training.counters import BatchCounters
from fastkd.training.dropout import Keyed
from fastkd.training.execution import EVERYTHING_OFF, Resolved
from fastkd.training.first_bad import FirstBad
from fastkd.training.gates import Gates
from fastkd.training.laps import Laps, Timed
from fastkd.training.meter import GRAD_NORM, Meter
from fastkd.training.optimisation import (
    RateTable,
    Training,
    WeightAverage,
    clip_gradients,
    follows_the_device,
    gradients_of,
    learning_rates,
    norms_of,
    not_finite,
)
from fastkd.training.parts import Placing, in_parts
from fastkd.training.replays import Beside, ResidentSteps, StreamedSteps
from fastkd.training.shards import Shards
from fastkd.training.snapshot import Snapshot, restore_all
from fastkd.training.stages import Distill, Stage, StageLoss
from fastkd.training.synchronised import is_synchronised
from fastkd.training.taught import Provided, Shelf, StoredTeachers, fits
from fastkd.training.untouched import leaving_alone

REHEARSALS = 11
"""Steps before one with messages is recorded: DDP reads times of its first ten on the host."""


class Step:
    """`step(raw)` trains on one raw batch; its loss terms and hits are added to `meter`, still on the device.

    Nothing in it waits for the device, and everything it changes is changed in place. A loss or a gradient
    that is not finite changes no weight; the first such step is kept in `first_bad` for the trainer's next look.
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
        self.keyed = Keyed(stage, stage.dropout_seed, device)
        self.learning_rates = learning_rates(training, steps_per_epoch).to(device)
        self.rates = RateTable(optimizer, self.learning_rates)
        self.done = torch.zeros((), dtype=torch.int64, device=device)
        self.epoch = torch.zeros((), dtype=torch.int64, device=device)
        self.first_bad = FirstBad(device)
        self.shards = Shards(stage, training.shards) if training.shards else None
        self.meter, self.laps = Meter(device, alike=self.shards is not None), Laps()
        self.average = WeightAverage(stage.deployed, training.ema) if training.ema else None
        self.gates = Gates(stage) if stage.gate is not None else None
        cast = CastWeights(trained_parts(stage)) if execution.bfloat16 else contextlib.nullcontext
        self._cast_weights: Callable[[], contextlib.AbstractContextManager[None]] = cast
        self.counters = BatchCounters(stage)
        parts = {"static_graph": training.accumulate == 1, "in_shards": self.shards is not None}
        self.averaging = Averaging(stage, device, **parts)
        self.placing = Placing(training.batch_size)
        self.batch_size = self.placing.own
        """The images that this process has of a whole batch."""
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
        loader = self.placing.told(loader)
        if self.stored is not None:
            self.stored.begin_epoch(epoch)
            if isinstance(self.replays, ResidentSteps):
                self.stored.complete(loader, epoch, start)
        loader = Timed(loader, self.laps)
        if self.stored is not None:
            loader = Provided(loader, self.stored)
        self.laps.begin()
        if self.replays is None:
            for number, raw in enumerate(loader.epoch(epoch, start), epoch * loader.steps + start):
                self.stage.begin_step(number)
                self(raw)
                self.meter.took(self.laps.end())
                watching.steps += 1
                yield 1
        else:
            for trained in self.replays.epoch(loader, epoch, start):
                lap = self.laps.end()
                for step in (self, *self.beside):
                    step.meter.count(trained.images, trained.steps)
                    step.meter.took(lap)
                watching.steps += trained.steps
                yield trained.steps

    def fill_store(self, loader: Loader, epoch: int) -> Iterator[int]:
        """Computes what is missing of the teachers' rows of an epoch; yields the batches that were looked at."""
        assert self.stored is not None
        self.epoch.fill_(epoch)
        self.stored.begin_epoch(epoch)
        if not self.stored.is_complete():
            for done, _ in enumerate(self.stored.provided(self.placing.told(loader), epoch, 0), 1):
                yield done

    def __call__(self, raw: RawBatch) -> None:
        self._train_any_size(raw)
        self.meter.count(self.placing.whole(raw))

    def _train_any_size(self, raw: RawBatch) -> None:
        with self.averaging.stream(), self._plain_if_odd(raw):
            self._train(raw.to(self.device))

    def _plain_if_odd(self, raw: RawBatch) -> contextlib.AbstractContextManager[None]:
        """A batch of another size than the one that was compiled for would compile once more: it runs as PyTorch."""
        odd = self.execution.compile != "off" and raw.size != self.batch_size
        return torch.compiler.set_stance("force_eager") if odd else contextlib.nullcontext()  # pyright: ignore

    def warm_up(self, loader: Loader, recorder: Recorder | None = None, *, beside: Sequence["Step"] = ()) -> list[str]:
        """Compiles, and records with the recorder, if there is one. It is no training: everything stays as it was.

        beside: further steps, which are compiled already, to be recorded as branches beside this one; they have the
        same stored teachers. Returns what there is to tell: how long it took, or why something is off.
        """
        if self.execution.compile == "off" and recorder is None:
            return []
        raw = next(iter(loader.epoch(0))).to(self.device)
        raw = raw if self.stored is None else self.stored.blank(raw)
        steps = (self, *beside)
        meters = [step.meter.state() for step in steps]
        snapshots = [step._snapshot() for step in steps]
        told = []
        for step in steps:
            step._learn_passes(raw)
        restore_all(snapshots)
        if self.execution.compile != "off":
            told.append(self._compile(raw))
            snapshots[0].restore()
        if recorder is not None:
            told.append(self._record(raw, loader, recorder, snapshots, beside))
            restore_all(snapshots)
        for step, before in zip(steps, meters, strict=True):
            step.meter.put_back(before)
        return told

    def _learn_passes(self, raw: RawBatch) -> None:
        """Takes a step on trial, to see how often each BatchNorm is used in one, if all steps are alike in that."""
        if self.stage.counts_for_itself:
            return
        before = self.counters.counts()
        self._train_alone(raw)
        self.counters.learn(before, min(self.training.accumulate, raw.size))

    def _snapshot(self) -> Snapshot:
        counters = [self.done, self.epoch, self.first_bad.steps]
        averaged = [self.average.network] if self.average else []
        return Snapshot([self.stage, *averaged], self.optimizer, counters)

    def _compile(self, raw: RawBatch) -> str:
        """Compiles the stage in one step on trial; returns the line that says how it went."""
        started = time.perf_counter()
        assert self.execution.compile != "off"
        # As a whole, a stage whose steps differ would be compiled anew for each way that they take.
        compile_stage(self.stage, "blocks" if self.stage.why_steps_differ else self.execution.compile)
        try:
            together(lambda: self._train_alone(raw))
        except Exception as error:  # whatever the compiler may raise: training goes on without it
            refuse_out_of_memory(error)
            self.uncompile()
            return f"not compiled: {in_one_line(error)}"
        return f"compiled in {duration(time.perf_counter() - started)}"

    def _train_alone(self, raw: RawBatch) -> None:
        """A step on trial, without the messages for which the others would wait if it failed here."""
        with contextlib.nullcontext() if is_synchronised(self.stage) else alone():
            self._train(raw)

    def close(self) -> None:
        """Writes what was computed of the teachers' rows."""
        if self.stored is not None:
            self.stored.close()

    def finish(self) -> None:
        """Leaves the networks as plain PyTorch: what they are used for next has other shapes and types."""
        self.close()
        self.uncompile()
        self.keyed.put_back()

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
        """Records the step and those beside it; returns the line that says how it went, the same in every process."""
        if why := first_of_all(self._why_not_recorded(raw)):
            return f"not captured: {why}"
        started, steps, how = time.perf_counter(), (self, *beside), ""

        def record() -> None:
            restore_all(snapshots)
            self._record_replays(raw, loader, recorder, beside)

        def rehearsal() -> None:
            for step in steps:
                step._train_alone(raw)

        try:
            with capturable(step.optimizer for step in steps):
                recorder.rehearse(rehearsal)
                if world_size() > 1:
                    how = self._record_messages(raw, recorder, record)
                else:
                    record()
        except UserError:
            raise
        except Exception as error:  # whatever cannot be captured: training goes on without it
            refuse_out_of_memory(error)
            self.averaging.build()
            return f"not captured: {in_one_line(error)}"
        each = f", {counted(self.replays.each, 'step')} a replay" if isinstance(self.replays, ResidentSteps) else ""
        branches = f", {len(steps)} trainings side by side" if beside else ""
        return f"captured in {duration(time.perf_counter() - started)}{each}{branches}{how}"

    def _why_not_recorded(self, raw: RawBatch) -> str:
        if raw.size != self.batch_size:
            return f"the only batch has {counted(raw.size, 'image')}, not {self.batch_size}"
        if self.stage.why_steps_differ:
            return self.stage.why_steps_differ
        if not follows_the_device(self.optimizer):
            return f"{type(self.optimizer).__name__} counts its steps on the host"
        if self.shards is not None:
            return "the shards of a batch change what is recorded, and put it back"
        return ""

    def _record_messages(self, raw: RawBatch, recorder: Recorder, record: Callable[[], None]) -> str:
        """Records with the messages of the processes in it; returns how, where it is not by DDP's reducer."""
        try:
            self._rehearse_messages(raw, recorder)
            record()
            return ""
        except NotTogether as error:
            first = error
        try:
            self._rehearse_messages(raw, recorder, one_message=True)
            record()
        except NotTogether as error:
            raise NotTogether(f"{first}; with all gradients in one message: {error}") from error
        return f", all gradients in one message (DDP's reducer: {first})"

    def _rehearse_messages(self, raw: RawBatch, recorder: Recorder, *, one_message: bool = False) -> None:
        """Raises UserError where the processes are not at the same step then: their next messages would not fit."""
        begun = ended = 0

        def rehearsal() -> None:
            nonlocal begun, ended
            begun += 1
            self._train(raw)
            ended += 1

        self.averaging.build(recorder.on_stream, one_message=one_message)
        try:
            recorder.rehearse(rehearsal, REHEARSALS)
        except NotTogether as error:
            if len({*from_all((begun, ended))}) > 1:
                raise UserError(f"{error}; the other processes went on, so that their messages do not fit") from error
            raise

    def _record_replays(self, raw: RawBatch, loader: Loader, recorder: Recorder, beside: Sequence["Step"]) -> None:
        odd = self._train_any_size
        if isinstance(loader, ResidentLoader):
            others = [Beside(step._train, step._train_any_size, step.done) for step in beside]
            how = {"step": self.done, "beside": others, "whole": self.training.batch_size}
            how |= {"begin": self.stage.begin_step, "every": self.stage.works_every}
            self.replays = ResidentSteps(self._train, recorder, loader, odd, **how)
            self.beside = beside
        else:
            self.replays = StreamedSteps(self._train, recorder, raw, odd)

    def _say(self, raw: RawBatch, step: int) -> tuple[Tensor, ...]:
        """The rows of a raw batch, from the very forward passes of the teachers that this step would do."""
        assert isinstance(self.stage, Distill)
        assert self.stored is not None
        at = torch.full_like(self.done, step), torch.full_like(self.epoch, self.stored.epoch)
        batch, rows = self._laid_out(self._placed(self.prepare(raw.to(self.device), *at), raw)), []
        with self.forward_context(), self._plain_if_odd(raw):
            for part in self._in_parts(batch, self.placing.whole(raw)):
                pairs = zip(self.stage.rows, self.stage.say(part), strict=True)
                rows.append([row.packed(said, part.labels) for row, said in pairs])
        return tuple(torch.cat(of_teacher) for of_teacher in zip(*rows, strict=True))

    def _train(self, raw: RawBatch) -> None:
        batch = self._placed(self.prepare(raw, self.done, self.epoch), raw)
        if self.stored is not None:
            batch = self.stored.with_rows(batch, raw)
        weight = 1.0 if self.shards else self.placing.weight(raw)
        if self.shards is not None:
            loss = self.shards(batch, self.placing.whole(raw), self._forward_backward)
        else:
            loss = self._accumulate(batch, weight)
        self.averaging.finish()
        if self.gates is not None:
            loss = self.gates.open(loss)
        # A finite loss can have gradients that are not.
        norms = torch.stack([*norms_of(gradients_of(self.optimizer)), loss.total])
        norm = torch.linalg.vector_norm(norms[:-1])
        numbers = loss.numbers({GRAD_NORM: norm})
        bad = any_rank(not_finite(norms))
        if self.training.clip_norm is not None:
            clip_gradients(self.optimizer, norm, self.training.clip_norm)
        self.rates.set(self.done)
        self.done.add_(1)
        self.first_bad.keep(bad, self.done, numbers)
        self._update(bad)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.stage.deployed)
        self.meter.add(numbers.times(weight), loss.hits, norm)

    def _update(self, bad: Tensor) -> None:
        """One step of the optimiser, unless the loss or a gradient is not finite."""
        with leaving_alone(self.optimizer, self.stage.used()):
            if follows_the_device(self.optimizer):  # a fused optimiser skips the update where this is 1
                self.optimizer.found_inf = bad  # pyright: ignore[reportAttributeAccessIssue]
                self.optimizer.step()
            elif not bad:  # read on the host: such a step is not captured
                self.optimizer.step()

    def _in_parts(self, batch: Batch, whole: int) -> list[Batch]:
        """The parts in which a batch is passed forward; whole: the images of the global one."""
        if self.shards is not None:
            return self.shards.pieces(batch, whole)
        return in_parts(batch, self.training.accumulate)

    def _placed(self, batch: Batch, raw: RawBatch) -> Batch:
        return batch._replace(place=self.placing.place(raw))

    def _accumulate(self, batch: Batch, weight: float) -> StageLoss:
        """Takes the batch in `accumulate` parts, one after the other; gradients and terms are those of their mean.

        weight: what its gradients count among those of the other processes.
        """
        parts = self.training.accumulate
        if self.gates is not None:
            self.gates.begin()
        if parts == 1:
            return self._forward_backward(batch, weight)
        losses, count = [], len(batch.labels)
        pieces = in_parts(batch, parts)
        shares = [len(part.labels) / count for part in pieces]
        for number, (part, share) in enumerate(zip(pieces, shares, strict=True), start=1):
            with self.averaging.part(last=number == len(pieces)):
                losses.append(self._forward_backward(part, share * weight))

        def mean(values: list[Tensor]) -> Tensor:
            return torch.stack([value * share for value, share in zip(values, shares, strict=True)]).sum()

        terms = {name: mean([loss.terms[name] for loss in losses]) for name in losses[0].terms}
        gated = {name: mean([loss.gated[name] for loss in losses]) for name in losses[0].gated}
        hits = torch.stack([loss.hits for loss in losses]).sum(0)
        return StageLoss(mean([loss.total for loss in losses]), terms, hits, gated)

    def _forward_backward(self, batch: Batch, weight: float) -> StageLoss:
        module = self.averaging.module()
        self.keyed.begin(batch)
        with self.forward_context(), self._cast_weights(), self.counters():
            loss = module(self._laid_out(batch))
        if self.gates is None:
            (loss.total * weight if weight != 1.0 else loss.total).backward()
        else:
            self.gates.backward(loss, weight)
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
