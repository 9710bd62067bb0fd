"""Images that are decoded as they are needed, by torchvision's operations in torch's DataLoader: one call a batch,
bytes all the way, normalised in the step."""

import contextlib
import itertools
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fastkd.data.augment import Augmentation
from fastkd.data.base import ONE_VIEW, FileSplit, RawBatch, Views
from fastkd.data.boxes import centres, evaluation_size, view_boxes
from fastkd.data.decoding import BadImage
from fastkd.data.failures import Failures
from fastkd.data.folder import centre_crop, resized_to
from fastkd.data.order import InOrder, Order
from fastkd.ops.philox import below, philox, split_seed
from fastkd.support.errors import UserError

_REPLACEMENT_STREAM = 2  # the fourth counter word, of draws that choose which sample stands in for another


class PixelPlan(NamedTuple):
    """How the pixels of a batch are made, whichever images are in it: the same for every loader of files."""

    split: FileSplit
    image_size: int
    augmentation: Augmentation | None
    """None for an evaluation."""
    views: Views = ONE_VIEW
    seed: int = 0
    crop: str = "resized"
    """How an evaluation crops, see `Augmentation.evaluated`."""
    distinct_epochs: int | None = None
    """After so many epochs their boxes come again; None: each epoch has its own."""

    @property
    def random_boxes(self) -> bool:
        """Whether the loader cuts a random box out of the file for each view."""
        return self.augmentation is not None and self.augmentation.crop == "resized"

    @property
    def images(self) -> int:
        """Pictures that a loader cuts out of each file: with padded crops the step makes the views itself."""
        return self.views.count if self.random_boxes else 1

    def boxes(self, index_B: Tensor, epoch: int) -> np.ndarray:
        """[V,B,4] int32: (left, top, width, height) of each view."""
        assert self.augmentation is not None
        sizes = self.split.sizes[index_B.numpy()]
        epoch = epoch if self.distinct_epochs is None else epoch % self.distinct_epochs
        return view_boxes(sizes, index_B, epoch, self.seed, self.augmentation, self.views)

    def centres(self, index_B: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """[B,2] sizes and [B,2] corners, see `boxes.centres`."""
        crop = self.crop if self.augmentation is None else self.augmentation.evaluated
        length = evaluation_size(crop, self.image_size)
        return centres(self.split.sizes[index_B.numpy()], length, self.image_size, squeeze=crop == "squeezed")

    def replacements(self, index: int) -> Iterator[int]:
        """Samples to try in place of one that cannot be read: a function of (seed, index) alone."""
        attempts = torch.arange(64)
        words = philox(split_seed(self.seed), (index, attempts, 0, _REPLACEMENT_STREAM))[0]
        yield from below(words, len(self.split)).tolist()


class StreamingLoader:
    """Yields raw batches with pixels [V,B,H,W,3]."""

    def __init__(
        self,
        plan: PixelPlan,
        classes: tuple[str, ...],
        order: Order | InOrder,
        failures: Failures,
        *,
        workers: int = 0,
        pin_memory: bool = False,
    ):
        self.labels, self.classes = plan.split.labels, classes
        self.samples, self.steps, self.failures = order.samples, order.steps, failures
        self._plan, self._tasks, self._paired = plan, _Tasks(order), order.paired
        with _silenced():
            self._loader = DataLoader(
                _Pictures(plan),
                sampler=self._tasks,
                batch_size=None,
                num_workers=workers,
                prefetch_factor=2 if workers else None,
                persistent_workers=workers > 0,
                worker_init_fn=_begin_worker,
                pin_memory=pin_memory,
                generator=torch.Generator(),  # the global one must not depend on how often an epoch was begun
            )

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        self._tasks.epoch, self._tasks.start = epoch, start
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="This DataLoader will create"
            )  # the user may want more than cores
            batches = iter(self._loader)
        with _lost_workers_are_named():
            for index, images, failed in batches:
                if failed:
                    self.failures.add(failed, while_reading=True, consequence=consequence(self._plan))
                if len(index):
                    yield RawBatch(index, images, paired=self._paired)


class _Tasks(Sampler[tuple[int, Tensor]]):
    """The batches of the epoch that comes next, each with the epoch's number: workers outlive an epoch."""

    def __init__(self, order: Order | InOrder):
        self.order, self.epoch, self.start = order, 0, 0

    def __len__(self) -> int:
        return self.order.steps - self.start

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        epoch = self.epoch
        return ((epoch, index) for index in self.order.epoch(epoch, self.start))


class _Pictures(Dataset[tuple[Tensor, Tensor, dict[str, str]]]):
    """A data set whose items are whole batches."""

    def __init__(self, plan: PixelPlan):
        self.plan = plan

    def __getitem__(self, task: tuple[int, Tensor]) -> tuple[Tensor, Tensor, dict[str, str]]:
        """(row numbers [B], pixels [V,B,H,W,3], {path: what is wrong} of the files that failed)."""
        plan, (epoch, index_B) = self.plan, task
        failed: dict[str, str] = {}
        decoded: list[Tensor] = []
        used: list[int] = []
        for wanted in index_B.tolist():
            stand_ins = () if plan.augmentation is None else plan.replacements(wanted)
            for place in itertools.chain((wanted,), stand_ins):
                if (pixels := _read(plan, place, failed)) is not None:
                    decoded.append(pixels)
                    used.append(place)
                    break
        index_B = torch.tensor(used, dtype=torch.int64)
        size = plan.image_size
        out = torch.empty(plan.images, len(used), size, size, 3, dtype=torch.uint8)
        if plan.random_boxes:
            boxes = plan.boxes(index_B, epoch).tolist()
            for view, sample in np.ndindex(out.shape[:2]):
                left, top, width, height = boxes[view][sample]
                out[view, sample] = resized_to(decoded[sample][top : top + height, left : left + width], size, size)
        else:
            resized, corners = plan.centres(index_B)
            for sample, pixels in enumerate(decoded):
                out[0, sample] = centre_crop(pixels, resized[sample], corners[sample], size)
        return index_B, out, failed


def consequence(plan: PixelPlan) -> str:
    """What becomes of an image that cannot be read, in words."""
    return "left out" if plan.augmentation is None else "another takes its place"


def _read(plan: PixelPlan, place: int, failed: dict[str, str]) -> Tensor | None:
    try:
        pixels = plan.split.records.pixels(place)
        width, height = plan.split.sizes[place]
        if pixels.shape[:2] != (height, width):
            raise BadImage(f"has {pixels.shape[1]} x {pixels.shape[0]} pixels now, {width} x {height} when scanned")
    except BadImage as error:
        failed[plan.split.records[place]] = str(error)
        return None
    return pixels


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Silences torch's advice against more workers than cores, which the user may want."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        yield


@contextlib.contextmanager
def _lost_workers_are_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"a process that decodes images is gone ({str(error).splitlines()[0]}): killed, or out of memory; "
            "lower --workers"
        ) from error


def _begin_worker(_worker: int) -> None:
    """A signal to the whole job is the main process's to handle, which needs its workers until the step is written
    down: a worker ends when that process says so, or is no more."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS has none: there SIGTERM ends a worker, whoever sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_to, args=(os.getppid(),), daemon=True).start()
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_when_told_to(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
