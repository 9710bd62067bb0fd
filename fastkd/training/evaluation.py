"""Exact counts over a test set."""

from collections.abc import Callable, Iterator
from typing import TypedDict

import torch
from torch import Tensor

from fastkd.data import Batch, RawBatch, Source
from fastkd.networks.base import Network
from fastkd.ops.distill_loss.reference import hit_counts
from fastkd.support.distributed import sum_over_ranks
from fastkd.training.agreement import in_one_line
from fastkd.training.capture import Recorder, refuse_out_of_memory
from fastkd.training.similarity import Similarity


class Accuracy(TypedDict):
    top1: int
    """Images whose label ranks first."""
    top5: int
    samples: int


Predictions = Callable[[Tensor], dict[str, Tensor]]
"""A function from images [B,3,H,W] to logits [B,K] by name; the networks behind it are in eval mode."""


def accuracies(predictions: Predictions, source: Source, device: torch.device) -> dict[str, Accuracy]:
    """How often each of the named predictions is right, over all ranks."""
    return Evaluation(predictions, source, device)()


class Evaluation:
    """Counts hits over a test set, each time it is called.

    fixed_shape: a batch that is smaller than the others is filled up to their size, so that nothing is compiled for it
    alone; what it is filled with is not counted.
    recorder: records the first batch's work, which is replayed for the others.
    after_batch: called after each batch.
    """

    def __init__(
        self,
        predictions: Predictions,
        source: Source,
        device: torch.device,
        *,
        fixed_shape: bool = False,
        recorder: Recorder | None = None,
        after_batch: Callable[[], None] = lambda: None,
    ):
        self.after_batch = after_batch
        self.predictions, self.source, self.device = predictions, source, device
        self.fixed_shape, self.recorder = fixed_shape or recorder is not None, recorder
        self.hits: dict[str, Tensor] = {}
        """[2] int64 for each prediction: its top-1 and top-5 hits."""
        self.seen = torch.zeros((), dtype=torch.int64, device=device)
        self.zero = torch.zeros_like(self.seen)
        self.replay: Callable[[], None] | None = None
        self.why_not_captured = ""

    @torch.no_grad()
    def __call__(self) -> dict[str, Accuracy]:
        self._clear()
        for raw in self.source.loader.epoch(0):
            real = len(raw.index)
            filled = _filled(raw, self.source.batch_size) if self.fixed_shape else raw
            if self.recorder is None:
                self._count(filled.to(self.device), torch.full((), real, device=self.device))
            else:
                self._count_by_replay(filled, real, self.recorder)
            self.after_batch()
        return self._read()

    def _count(self, raw: RawBatch, real: Tensor) -> None:
        """Adds the hits of a batch; real: how many of its images count."""
        batch = self.source.prepare(raw, self.zero, self.zero)
        counted = torch.arange(len(batch.labels), device=self.device) < real
        self.seen.add_(counted.sum())
        for name, logits in self.predictions(batch.images[0]).items():
            if name not in self.hits:
                self.hits[name] = torch.zeros(2, dtype=torch.int64, device=self.device)
            self.hits[name].add_(hit_counts(logits, batch.labels, counted))

    def _count_by_replay(self, raw: RawBatch, real: int, recorder: Recorder) -> None:
        if self.replay is None:
            self.raw = raw.to(self.device).copied()
            self.real = torch.full((), real, device=self.device)
            self.replay = self._record(recorder)
            self._clear()
        else:
            self.raw.fill(raw)
            self.real.fill_(real)
        self.replay()

    def _record(self, recorder: Recorder) -> Callable[[], None]:
        def work() -> None:
            self._count(self.raw, self.real)

        try:
            recorder.rehearse(work)
            return recorder.record(work)
        except Exception as error:  # whatever cannot be captured: evaluation goes on without it
            refuse_out_of_memory(error)
            self.why_not_captured = f"evaluation is not captured: {in_one_line(error)}"
            return work

    def _clear(self) -> None:
        for value in (self.seen, *self.hits.values()):
            value.zero_()

    def _read(self) -> dict[str, Accuracy]:
        result: dict[str, Accuracy] = {}
        total = int(sum_over_ranks(self.seen.clone()).item())
        assert total <= self.source.samples, f"{total} of {self.source.samples} test images were counted"
        for name, counts in self.hits.items():
            top1, top5 = sum_over_ranks(counts.clone()).tolist()
            result[name] = {"top1": top1, "top5": top5, "samples": total}
        return result


def _filled(raw: RawBatch, size: int) -> RawBatch:
    """The batch with its last image repeated, up to `size` images."""
    missing = size - len(raw.index)
    if not missing:
        return raw
    index = torch.cat([raw.index, raw.index[-1:].expand(missing)])
    if raw.images is None:
        return RawBatch(index)
    return RawBatch(index, torch.cat([raw.images, raw.images[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1))


@torch.no_grad()
def similarity(teacher: Network, student: Network, source: Source, device: torch.device) -> dict[str, float]:
    """KL, CKA and agreement on the test set, over all ranks; the networks must be in eval mode."""
    measured = Similarity(device)
    for batch in batches(source, device):
        measured.add(teacher(batch.images[0]), student(batch.images[0]))
    return measured.reduce().read()


def batches(source: Source, device: torch.device) -> Iterator[Batch]:
    """The batches of one epoch of the source, prepared on the device."""
    zero = torch.zeros((), dtype=torch.int64, device=device)
    for raw in source.loader.epoch(0):
        yield source.prepare(raw.to(device), zero, zero)
