"""metrics.jsonl: one JSON object a line, appended; after a resume it continues where the checkpoint stood."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastkd.support.errors import UserError
from fastkd.support.files import open_in_place, parse_json, read_bytes, write_bytes
from fastkd.support.loggers import Logger, LoggerName, first_line, open_logger
from fastkd.support.paths import explained, is_there, reason
from fastkd.support.schemas import EpochRecord, Record, checked


class MetricsLog:
    def __init__(self, path: Path, *, loggers: Sequence[LoggerName] = (), tell: Callable[[str], None] = lambda _: None):
        """loggers: where the records go besides. tell: shows the user a line."""
        self.path, self.tell = path, tell
        self.loggers: dict[LoggerName, Logger] = {name: open_logger(name, path.parent) for name in loggers}

    def append(self, record: dict[str, Any]) -> None:
        try:
            with open_in_place(self.path, os.O_WRONLY | os.O_APPEND, "ab") as file:
                file.write((json.dumps(record) + "\n").encode())
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {reason(error)}") from error
        for name in tuple(self.loggers):
            self._pass_on(name, record)

    def _pass_on(self, name: LoggerName, record: dict[str, Any]) -> None:
        """Hands a record to a logger; a service that fails costs its curves, not the training."""
        try:
            self.loggers[name].record(record, lambda: read_metrics(self.path))
        except UserError:
            raise
        except Exception as error:  # each service has exceptions of its own
            del self.loggers[name]
            self.tell(f"--logger {name} has failed: {first_line(error)}; the run goes on with {self.path.name} alone")

    def size(self, *, flushed: bool = True) -> int:
        """Bytes of the log, which are on the disk then: a checkpoint remembers them, and may not outlive them.

        flushed: off, they are not yet, and nobody waits for the disk.
        """
        if not is_there(self.path):
            return 0
        with explained("cannot write", self.path), open_in_place(self.path, os.O_WRONLY, "r+b") as file:
            if flushed:
                os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def cut(self, size: int) -> str:
        """Forgets what was written after a checkpoint, and whatever is no whole record.

        size: the log's bytes when the checkpoint was written. Returns a line that says what was lost; "" for nothing.
        """
        content = read_bytes(self.path) if is_there(self.path) else b""
        lost = max(0, size - len(content))
        lines = content[:size].splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n") and _is_object(line)]
        kept = b"".join(whole)
        if kept != content[:size]:
            write_bytes(self.path, kept)
        elif len(content) > size:
            with explained("cannot write", self.path), open_in_place(self.path, os.O_WRONLY, "r+b") as file:
                file.truncate(size)
        damaged = len(lines) - len(whole)
        if not lost and not damaged:
            return ""
        parts = [f"{lost:,} bytes are gone"] * bool(lost) + [f"{damaged} lines are no records"] * bool(damaged)
        return f"{self.path} is damaged: {' and '.join(parts)}; the run goes on, the curves lack them"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a log. What is none is left out: half a line of a killed process, or damage."""
    if not is_there(path):
        return []
    records = (_record(line) for line in read_bytes(path).splitlines())
    return [record for record in records if record is not None]


def _is_object(line: bytes) -> bool:
    """Whether the line is one that was written whole, whatever stands in it: a newer fastkd may say more."""
    try:
        return isinstance(parse_json(line.decode()), dict)
    except ValueError:
        return False


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(line.decode())
        record = checked(EpochRecord if isinstance(value, dict) and "epoch" in value else Record, value, "a record")
        return record if "loss" in record["train"] else None
    except ValueError:  # UserError is one
        return None
