"""The teachers of a stage as their stores have them: rows that are read, and what is missing computed and added."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastkd.data.base import Batch, Loader, RawBatch
from fastkd.stored import RowFormat, Store
from fastkd.stored.epochs import EpochFiles
from fastkd.stored.store import size_of
from fastkd.support.environment import free_memory
from fastkd.support.live import duration
from fastkd.support.words import counted

SYNC_ROWS = 20_000
"""Rows that are written before the disk is waited for."""
AHEAD = 3
"""Batches whose rows are read ahead, where an epoch's rows do not fit the device."""

Say = Callable[[RawBatch, int], tuple[Tensor, ...]]
"""The rows [B,words] of every teacher for a raw batch of an optimisation step, as the live teachers have them."""


@dataclass(frozen=True)
class Shelf:
    """The stores that a stage reads from."""

    stores: tuple[Store, ...]
    """One of each teacher, or of each waypoint where the teachers are followed one after the other."""
    rows: tuple[RowFormat, ...]
    """What is read of their rows, from the beginning of each: one of each teacher that is used at once."""
    epochs: int
    """Epochs of the training."""
    epochs_in_turn: int = 0
    """0 where all teachers are used together; else the epochs that the waypoints share."""
    distinct_epochs: int | None = None
    """After so many epochs the rows come again; None: each epoch has its own."""

    def of_epoch(self, epoch: int) -> tuple[tuple[Store, ...], int]:
        """The stores that an epoch of the training reads from, and the epoch in them."""
        stores = self.stores
        if self.epochs_in_turn:
            stores = (stores[epoch * len(stores) // self.epochs_in_turn],)
        return stores, epoch if self.distinct_epochs is None else epoch % self.distinct_epochs

    def distinct(self, epochs: Iterable[int]) -> list[int]:
        """Those of the epochs of the training that read rows which none before them does."""
        first: dict[tuple[Path, int], int] = {}
        for epoch in epochs:
            stores, stored = self.of_epoch(epoch)
            first.setdefault((stores[0].folder, stored), epoch)
        return list(first.values())

    def missing(self) -> dict[Path, int]:
        """How many rows each store lacks of the whole training."""
        found = dict.fromkeys((store.folder for store in self.stores), 0)
        for epoch in self.distinct(range(self.epochs)):
            stores, stored = self.of_epoch(epoch)
            for store in stores:
                found[store.folder] += store.missing(stored)
        return found


class StoredTeachers:
    """Gives every batch the rows of its images.

    Where an epoch's rows fit, the device holds them, and one gather in the step takes a batch's: a captured step finds
    them in the same place in every epoch. Else they are read ahead and travel with the batch.
    """

    def __init__(self, shelf: Shelf, device: torch.device, say: Say, *, resident: bool):
        self.shelf, self.device, self.say, self.resident = shelf, device, say, resident
        self.tell: Callable[[str], None] = lambda text: None
        """Called with what a user should know."""
        self.announced = False
        self.epoch = 0
        """The epoch of the training that is running."""
        self.stores: tuple[Store, ...] = ()
        self.files: tuple[EpochFiles, ...] = ()
        """Those of the epoch that is running, one of each teacher that is used at once."""
        self.samples = shelf.stores[0].about.key.samples
        self.there = np.zeros(self.samples, bool)
        """Which images' rows are there, of every teacher, where they are resident."""
        self.unsynced = 0
        rows = self.samples if resident else 0
        self.held = [torch.zeros(rows, row.words, dtype=torch.int32, device=device) for row in shelf.rows]
        """[samples,words]: the rows of the epoch that is running, where they are resident."""

    def begin_epoch(self, epoch: int) -> None:
        """Opens the epoch's files and, where its rows are resident, reads them."""
        self.close()
        self.epoch = epoch
        self.stores, stored_epoch = self.shelf.of_epoch(epoch)
        self.files = tuple(store.epoch(stored_epoch) for store in self.stores)
        if not self.resident:
            return
        self.there = np.full(self.samples, True)
        for held, files in zip(self.held, self.files, strict=True):
            rows, there, damaged = files.whole()
            held.copy_(torch.from_numpy(rows[:, : held.shape[1]]))
            self.there &= there
            if damaged:
                self.tell(f"{files.rows_path}: {counted(damaged, 'row', 'are')} damaged and computed anew")

    def provided(self, loader: Loader, epoch: int, start: int) -> Iterator[RawBatch]:
        """The batches of an epoch whose rows are all there: computed now, where they were not stored."""
        steps = itertools.count(epoch * loader.steps + start)
        if self.resident:
            for raw, step in zip(loader.epoch(epoch, start), steps, strict=False):
                self.provide(raw, step)
                yield raw
            return
        with ThreadPoolExecutor(1) as reader:
            waiting: deque[tuple[RawBatch, Future[tuple[Tensor, ...] | None]]] = deque()
            batches = loader.epoch(epoch, start)
            while True:
                for raw in itertools.islice(batches, AHEAD + 1 - len(waiting)):
                    waiting.append((raw, reader.submit(self._read, raw.index)))
                if not waiting:
                    return
                raw, rows = waiting.popleft()
                step = next(steps)
                yield raw._replace(taught=rows.result() or self._computed(raw, step))

    def provide(self, raw: RawBatch, step: int) -> None:
        """Computes what is missing of the rows of a step's batch, where they are resident."""
        places = raw.index.cpu()
        if self.there[places.numpy()].all():
            return
        for held, rows in zip(self.held, self._computed(raw, step), strict=True):
            held[places.to(self.device)] = rows

    def is_complete(self) -> bool:
        """Whether no row of the epoch is missing, as far as is known without reading them."""
        return bool(self.there.all()) if self.resident else all((files.checks() != 0).all() for files in self.files)

    def complete(self, loader: Loader, epoch: int, start: int) -> None:
        """Computes what is missing of the epoch from step `start` on, for steps that nobody on the host feeds."""
        if not self.there.all():
            for _ in self.provided(loader, epoch, start):
                pass

    def blank(self, raw: RawBatch) -> RawBatch:
        """The batch with rows of zeros, for steps that are no training."""
        if self.resident:
            return raw
        count, how = len(raw.index), {"dtype": torch.int32, "device": self.device}
        return raw._replace(taught=tuple(torch.zeros(count, row.words, **how) for row in self.shelf.rows))

    def with_rows(self, batch: Batch, raw: RawBatch) -> Batch:
        """The batch with its images' rows."""
        taught = raw.taught or tuple(held.index_select(0, raw.index) for held in self.held)
        return batch._replace(taught=taught)

    def close(self) -> None:
        """Closes the files of the epoch; whatever was computed is on the disk then."""
        with ExitStack() as closing:
            for files in self.files:
                closing.callback(files.close)
            self.files = ()

    def _computed(self, raw: RawBatch, step: int) -> tuple[Tensor, ...]:
        """The rows of a step's batch as the live teachers have them; those that are missing are written."""
        if not self.announced:
            self._announce(raw, step)
        rows, places = self.say(raw, step), raw.index.cpu().numpy()
        for store, files, own in zip(self.stores, self.files, rows, strict=True):
            missing = ~(self.there[places] if self.resident else files.gather(places)[1])
            if store.writable:
                store.sign()
                files.write(places[missing], own.cpu().numpy()[missing])
                self.unsynced += int(missing.sum())
        self.there[places] = True
        if self.unsynced >= SYNC_ROWS:
            self.unsynced = 0
            for files in self.files:
                files.sync()
        return rows

    def _announce(self, raw: RawBatch, step: int) -> None:
        """Says what is going to be computed and written, before the first byte; refuses what the disk has no room for.

        The batch is computed on trial: the first one also pays for whatever is done once.
        """
        self.announced, missing = True, self.shelf.missing()
        writable = [store for store in self.shelf.stores if store.writable]
        for store in writable:
            store.refuse_full_disk(missing[store.folder])
        self.say(raw, step)
        started = time.monotonic()
        self.say(raw, step)
        most = sum(missing.values()) if self.shelf.epochs_in_turn else max(missing.values())
        seconds = (time.monotonic() - started) / len(raw.index) * most
        needed = sum(missing[store.folder] * store.bytes_a_row for store in writable)
        self.tell(
            f"missing of the teachers' rows in {counted(self.shelf.epochs, 'epoch')}: {most:,}; {size_of(needed)} will "
            f"be written, computing them takes about {duration(seconds)}"
        )

    def _read(self, index: Tensor) -> tuple[Tensor, ...] | None:
        """The rows of these images out of the files; None where some are missing or damaged."""
        found = []
        for row, files in zip(self.shelf.rows, self.files, strict=True):
            rows, there = files.gather(index.cpu().numpy())
            if not there.all():
                return None
            found.append(torch.from_numpy(rows[:, : row.words]).contiguous())
        return tuple(found)


class Provided:
    """A loader whose batches have their rows."""

    def __init__(self, loader: Loader, stored: StoredTeachers):
        self.loader, self.stored = loader, stored
        self.steps, self.samples = loader.steps, loader.samples
        self.labels, self.classes = loader.labels, loader.classes

    def epoch(self, epoch: int, start: int = 0) -> Iterator[RawBatch]:
        return self.stored.provided(self.loader, epoch, start)


def fits(shelf: Shelf, device: torch.device) -> bool:
    """Whether the device has room for the rows of one epoch, beside what a training takes."""
    needed = shelf.stores[0].about.key.samples * sum(row.bytes for row in shelf.rows)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    return free is None or needed <= free // 4
