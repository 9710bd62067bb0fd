"""Files of rows of one size that only grow, beside a checkpoint that says how far they reach and what is in them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fastkd.support.errors import UserError
from fastkd.support.files import open_in_place, remove
from fastkd.support.paths import explained, is_there
from fastkd.support.words import counted

_CHUNK = 1 << 24
"""Bytes that are read at once."""


class AppendedRows:
    """Rows of bytes in a file that a killed process may have left longer than its last checkpoint knows.

    What is behind the checkpoint's end is cut off; what is in front of it has to be what was written. Nothing is
    written before the first row.
    """

    def __init__(self, path: Path, row_bytes: int):
        self.path, self.row_bytes = path, row_bytes
        self.rows = 0
        """The number of rows that count."""
        self._digest = hashlib.sha256()

    def begin(self) -> None:
        """Forgets what an earlier process left that had no checkpoint."""
        remove(self.path)
        self.rows, self._digest = 0, hashlib.sha256()

    def append(self, rows: bytes) -> None:
        """Writes whole rows behind the last one that counts."""
        assert len(rows) % self.row_bytes == 0, f"rows of {self.row_bytes} bytes, got {len(rows)} bytes"
        with self._opened() as file:
            file.seek(self.rows * self.row_bytes)
            file.write(rows)
        self.rows += len(rows) // self.row_bytes
        self._digest.update(rows)

    def mark(self) -> dict[str, Any]:
        """What a checkpoint holds of the rows: how many, and the digest of their bytes. They are on the disk then."""
        if self.rows:
            with self._opened() as file:
                os.fsync(file.fileno())
        return {"rows": self.rows, "sha256": self._digest.hexdigest()}

    def take_up(self, mark: dict[str, Any]) -> None:
        """Goes on behind the rows of a mark; raises UserError where they are not in the file as they were written."""
        rows = mark["rows"]
        if rows and not is_there(self.path):
            raise UserError(f"{self.path} is gone: the checkpoint beside it counts {counted(rows, 'row')} in it")
        digest, end = hashlib.sha256(), rows * self.row_bytes
        if rows:
            with self._opened() as file:
                size = os.fstat(file.fileno()).st_size
                if size < end:
                    raise UserError(f"{self.path} is cut off: it has {size:,} bytes, the checkpoint counts {end:,}")
                _read_into(digest, file, end)
                if digest.hexdigest() == mark["sha256"]:
                    file.truncate(end)
        if digest.hexdigest() != mark["sha256"]:
            raise UserError(f"{self.path} is damaged: its bytes are not those that the checkpoint counts")
        self.rows, self._digest = rows, digest

    def read(self, first: int, count: int) -> bytes:
        """The bytes of so many rows from one of them on, all of which count."""
        assert 0 <= first <= first + count <= self.rows, "rows that count"
        if not count:
            return b""
        with self._opened() as file:
            file.seek(first * self.row_bytes)
            return file.read(count * self.row_bytes)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """The file, to be read and written where it stands."""
        with explained("cannot write", self.path), open_in_place(self.path, os.O_RDWR, "r+b") as file:
            yield file  # pyright: ignore[reportReturnType]


def _read_into(digest: Any, file: BinaryIO, end: int) -> None:
    for first in range(0, end, _CHUNK):
        digest.update(file.read(min(_CHUNK, end - first)))
