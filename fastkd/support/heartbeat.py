"""heartbeat.json in a run's folder: a sign of life now and then, for schedulers and for people elsewhere.

It is written by the thread that trains, between two steps: where that one hangs no sign comes. What stands in it is
`HeartbeatFile` of `fastkd.support.schemas`; its time of modification is that of the last sign.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastkd.support.distributed import world_size
from fastkd.support.errors import UserError, one_line
from fastkd.support.files import read_json, write_json
from fastkd.support.interrupt import Stopped
from fastkd.support.processes import own_process
from fastkd.support.schemas import HeartbeatFile, checked

FILE = "heartbeat.json"
EVERY_SECONDS = 10.0
PATIENCE, LONG_PATIENCE = 120.0, 1800.0
"""Seconds within which the next sign comes while steps are taken, and while something goes on that gives none."""
_STEPS_OF_PATIENCE = 20
_LONGEST_REASON = 500


class Heartbeat:
    """The signs of life of one run: one in `every_seconds`, and one whenever something else begins.

    file: where it is written; None: nowhere. What cannot be written is told once, and stops no training.
    """

    def __init__(
        self,
        file: Path | None,
        *,
        every_seconds: float = EVERY_SECONDS,
        tell: Callable[[str], None] = lambda text: None,
    ):
        self.file, self.every_seconds, self.tell = file, every_seconds, tell
        self.facts: dict[str, Any] = {}
        """What is known of the run by now."""
        self._next = time.monotonic()
        self._fails = False

    def know(self, **facts: Any) -> None:
        """Takes note of what the next signs say beside."""
        if self.file is not None:
            self.facts |= facts

    def begin(self, **facts: Any) -> None:
        """Says that something else begins, of which nothing is known but this."""
        self.facts = {}
        self.beat(doing="beginning", **facts)

    def is_due(self) -> bool:
        return self.file is not None and time.monotonic() >= self._next

    def beat_if_due(self, **facts: Any) -> None:
        if self.is_due():
            self.beat(**facts)

    def beat(self, *, state: str = "running", patience: float = LONG_PATIENCE, **facts: Any) -> None:
        """Writes a sign of life, whether one is due or not."""
        self.know(**facts)
        if self.file is None:
            return
        self._next = time.monotonic() + self.every_seconds
        who = {"state": state, "time": time.time(), "processes": world_size(), **own_process()}
        try:
            write_json(self.file, who | {"patience": max(patience, 3 * self.every_seconds)} | self.facts)
        except UserError as error:
            if not self._fails:
                self.tell(f"no sign of life is left: {error}; the run goes on")
            self._fails = True


SILENT = Heartbeat(None)
"""That of a process which writes none."""


def patience_of(seconds_per_step: float) -> float:
    """How long to wait for the next sign where a step takes so long."""
    return max(PATIENCE, _STEPS_OF_PATIENCE * seconds_per_step)


@contextlib.contextmanager
def beating(heartbeat: Heartbeat) -> Iterator[Heartbeat]:
    """Says that a run begins and, when the block ends, how it has ended."""
    heartbeat.begin()
    try:
        yield heartbeat
    except (Stopped, KeyboardInterrupt) as stopped:
        _end(heartbeat, "stopped", str(stopped) or "Ctrl-C")
        raise
    except Exception as error:
        _end(heartbeat, "failed", str(error) or type(error).__name__)
        raise
    _end(heartbeat, "finished")


def _end(heartbeat: Heartbeat, state: str, why: str = "") -> None:
    for name in ("doing", "seconds_left", "run_seconds_left"):
        heartbeat.facts.pop(name, None)
    line = one_line(" ".join(why.split()))[:_LONGEST_REASON]
    if why:
        heartbeat.know(why=line)
    heartbeat.beat(state=state)


def read_heartbeat(file: Path) -> dict[str, Any]:
    """What a heartbeat.json says; raises UserError for one that is damaged."""
    return checked(HeartbeatFile, read_json(file), str(file))
