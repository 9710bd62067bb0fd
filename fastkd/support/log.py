"""metrics.jsonl: one JSON object a line, appended; after a resume it continues where the checkpoint stood."""

import json
import os
from pathlib import Path
from typing import Any

from fastkd.support.errors import UserError
from fastkd.support.files import reason


class MetricsLog:
    def __init__(self, path: Path, *, tensorboard: bool = False):
        self.path = path
        self.tensorboard = import_tensorboard()(str(path.parent / "tensorboard")) if tensorboard else None

    def append(self, record: dict[str, Any]) -> None:
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {reason(error)}") from error
        if self.tensorboard is not None:
            for name, value in _numbers(record):
                self.tensorboard.add_scalar(f"{record.get('stage', 'run')}/{name}", value, record.get("step", 0))

    def size(self) -> int:
        """Bytes of the log, which a checkpoint remembers."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Forgets what was written after a checkpoint."""
        if self.path.exists() and self.size() > size:
            os.truncate(self.path, size)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a log; a last line that a killed process left half-written is skipped."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(lines := path.read_text().splitlines()):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number + 1 < len(lines):
                raise UserError(f"{path}, line {number + 1} is not JSON") from error
    return records


def _numbers(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in record.items():
        if isinstance(value, dict):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((prefix + name, value))
    return found


def import_tensorboard() -> Any:
    """The writer's class; raises UserError where the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs the package tensorboard: pip install 'fastkd[tensorboard]'") from error
    return SummaryWriter
