"""The two files of one epoch of a store: the rows, and a check of each, which says that it is there.

A row is there once its check is written, and that is written after the row's bytes have reached the disk: a killed
writer, or a machine that loses its power, leaves rows that are whole and rows that are not there. Rows of one epoch may
be written by several processes: no byte of either file belongs to two rows.
"""

import os
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastkd.support.errors import UserError
from fastkd.support.paths import reason

CHECK = 4
"""Bytes of a check: the row's CRC-32, or 1 where that is 0, which stands for no row."""


class EpochFiles:
    """The rows [samples,words] of one epoch, in the files `epoch-N.rows` and `epoch-N.checks`."""

    def __init__(self, folder: Path, epoch: int, samples: int, words: int, *, writable: bool):
        """Opens them, and makes them where the store may be written to. Raises UserError for files of another size."""
        self.rows_path = folder / f"epoch-{epoch:05}.rows"
        self.checks_path = self.rows_path.with_suffix(".checks")
        self.samples, self.words = samples, words
        self._rows = _open(self.rows_path, samples * 4 * words, writable=writable)
        self._checks = _open(self.checks_path, samples * CHECK, writable=writable)
        self._unsynced: list[tuple[int, bytes]] = []
        """(row, check) of rows whose bytes may not have reached the disk yet."""
        self._mapped: tuple[np.ndarray, np.ndarray] | None = None

    def checks(self) -> np.ndarray:
        """[samples] uint32: the check of each row, 0 for a row that is not there."""
        return self._read(self.checks_path, self._checks, np.uint32).reshape(self.samples)

    def whole(self) -> tuple[np.ndarray, np.ndarray, int]:
        """All rows [samples,words] int32, which of them are there [samples] bool, and how many were damaged.

        A row that does not fit its check is not there.
        """
        checks, rows = self.checks(), self._read(self.rows_path, self._rows, np.int32)
        rows = rows.reshape(self.samples, self.words)
        there = checks != 0
        places = np.flatnonzero(there)
        there[places] = [check_of(rows[place]) == checks[place] for place in places]
        return rows, there, int(len(places) - there.sum())

    def gather(self, places: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows [B,words] int32 at these places, and which of them are there and whole [B] bool."""
        if self._rows is None or self._checks is None:
            return np.zeros((len(places), self.words), np.int32), np.zeros(len(places), bool)
        if self._mapped is None:
            rows = np.memmap(self.rows_path, np.int32, mode="r", shape=(self.samples, self.words))
            self._mapped = rows, np.memmap(self.checks_path, np.uint32, mode="r", shape=(self.samples,))
        rows, checks = (np.array(part[places]) for part in self._mapped)
        return rows, np.array([check != 0 and check_of(row) == check for row, check in zip(rows, checks, strict=True)])

    def write(self, places: Sequence[int] | np.ndarray, rows_BW: np.ndarray) -> None:
        """Writes rows; they are there after the next `sync`."""
        assert self._rows is not None, "opened for reading"
        for place, row in zip(places, rows_BW, strict=True):
            _write_at(self.rows_path, self._rows, row.tobytes(), int(place) * 4 * self.words)
            self._unsynced.append((int(place), check_of(row).to_bytes(CHECK, "little")))

    def sync(self) -> None:
        """Waits until the bytes of all written rows are on the disk, then says that the rows are there."""
        if not self._unsynced:
            return
        assert self._rows is not None and self._checks is not None
        _sync(self.rows_path, self._rows)
        for place, check in self._unsynced:
            _write_at(self.checks_path, self._checks, check, place * CHECK)
        _sync(self.checks_path, self._checks)
        self._unsynced.clear()

    def close(self) -> None:
        """Closes the files; what was written is there then."""
        try:
            self.sync()
        finally:
            self._mapped = None
            for file in (self._rows, self._checks):
                if file is not None:
                    os.close(file)
            self._rows = self._checks = None
            self._unsynced.clear()

    def _read(self, path: Path, file: int | None, kind: type[np.generic]) -> np.ndarray:
        size = self.samples * (CHECK if path is self.checks_path else 4 * self.words)
        content = bytearray(size)
        if file is not None:
            view, done = memoryview(content), 0
            while done < size:
                count = os.preadv(file, [view[done:]], done)
                if not count:
                    raise UserError(f"{path} has been cut to {done} bytes, expected {size}")
                done += count
        return np.frombuffer(content, kind)


def check_of(row_W: np.ndarray) -> int:
    return zlib.crc32(row_W.data) or 1


def _open(path: Path, size: int, *, writable: bool) -> int | None:
    """The file's descriptor; None for a file that is not there and may not be made."""
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            file = os.open(path, flags | (os.O_RDWR if writable else os.O_RDONLY))
        except FileNotFoundError:
            if not writable:
                return None
            return _created(path, size, flags)
    except OSError as error:
        raise UserError(f"cannot open {path}: {reason(error)}") from error
    about = os.fstat(file)
    # A process that makes the file meanwhile has not given it its size yet.
    if not stat.S_ISREG(about.st_mode) or about.st_size not in ((size, 0) if writable else (size,)):
        os.close(file)
        what = f"has {about.st_size:,} bytes" if stat.S_ISREG(about.st_mode) else "is no file"
        raise UserError(f"{path} {what}, expected {size:,}: it was cut, or is of another store; remove it to go on")
    if not about.st_size:
        os.ftruncate(file, size)
    return file


def _created(path: Path, size: int, flags: int) -> int:
    file = os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o666)
    os.ftruncate(file, size)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return file


def _write_at(path: Path, file: int, content: bytes, place: int) -> None:
    try:
        done = 0
        while done < len(content):
            done += os.pwrite(file, content[done:], place + done)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _sync(path: Path, file: int) -> None:
    try:
        os.fdatasync(file)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path}: {reason(error)}; the rows that are stored stay, the same command goes on")
