"""Names the processes for which the others wait in vain, before the group's timeout ends the run.

A thread in every process tells the group's store how far its process is: how many messages it has begun and how many
steps it has taken, two numbers that it only reads. Where its own process has not moved for a while it reads what the
others told. Those that tell nothing any more are stopped, gone or cut off; those behind the others are what these wait
for. Nothing is compared with another machine's clock.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastkd.support.words import counted

TELL_SECONDS = 5.0
"""Seconds between what a process tells, at most."""
NAME_SECONDS = 60.0
"""Seconds without a message or a step after which those that are waited for are named, at most."""
GRACE_SECONDS = 15.0
"""Seconds from the group's timeout to the end of a process that did not notice it by itself."""
SHOWN = 3
"""Names in one line."""

steps = 0
"""Steps of training that this process has taken: whoever takes some adds them, and this is all that it does."""


@dataclass(frozen=True)
class Told:
    """What a process tells: how far it is, and for how long it has not moved."""

    number: int
    """How often it has told something: it grows as long as the process lives and is reached."""
    messages: int
    steps: int
    since: float
    """Seconds since it last began a message or took a step."""

    @property
    def place(self) -> int:
        """Grows while a process moves, and is the same in all that wait for each other at the same place."""
        return self.messages + self.steps

    def words(self) -> str:
        return f"{self.number} {self.messages} {self.steps} {self.since:.1f}"

    @classmethod
    def of(cls, words: bytes) -> "Told":
        number, messages, taken, since = words.split()
        return cls(int(number), int(messages), int(taken), float(since))


def awaited(told: Mapping[int, Told], silent: Sequence[int]) -> list[int]:
    """The processes that the others wait for: those that tell nothing any more, else those that are behind."""
    if silent:
        return sorted(silent)
    furthest = max(one.place for one in told.values())
    behind = [process for process, one in told.items() if one.place < furthest]
    least = min((told[process].place for process in behind), default=0)
    return sorted(process for process in behind if told[process].place == least)


class Watch(threading.Thread):
    """Watches the group from one of its processes, from `start` to `stop`."""

    def __init__(
        self,
        store: Any,
        rank: int,
        names: Sequence[str],
        messages: Callable[[], int],
        *,
        limit: float,
        say: Callable[[str], None],
        end: Callable[[], None],
        strikes_after: float,
    ):
        """store: the group's, used by nobody else at the same time. names: what each process is called.
        messages: how many this process has begun. limit: the group's timeout in seconds. end: ends this process;
        strikes_after: seconds without moving after which it is called."""
        super().__init__(name="fastkd-watch", daemon=True)
        self.store, self.rank, self.names, self.messages = store, rank, names, messages
        self.limit, self.say, self.end, self.strikes_after = limit, say, end, strikes_after
        self.every = min(TELL_SECONDS, limit / 20)
        self.patience = min(NAME_SECONDS, limit / 2)
        self.finding = ""
        """Who is waited for, as it was last found; "" where this process moves."""
        self._ended = threading.Event()
        self._told = Told(0, 0, 0, 0.0)
        self._moved_at = time.monotonic()
        self._heard: dict[int, tuple[Told, float]] = {}
        """What each process told the last time that it told something new, and when that was heard."""
        self._silent: list[int] = []
        self._named = False
        store.set_timeout(timedelta(seconds=self.every))
        self._tell()

    def stop(self) -> None:
        self._ended.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        while not self._ended.wait(self.every):
            self.look()

    def look(self) -> None:
        """Tells how far this process is, and names those it waits for where it has not moved for long."""
        still = self._still()
        reached = self._tell()
        if still < self.patience - 4 * self.every:
            self.finding, self._named = "", False
            self._heard.clear()
            return
        found = self._awaited() if reached else None
        if still < self.patience or found == []:
            return
        self.finding = self._line(found)
        if not self._named and self._speaks(found):
            self.say(f"{self.finding}; the run ends after {self.limit:g} s (FASTKD_TIMEOUT)")
        self._named = True
        if still > self.strikes_after and (found is None or self.rank not in found):
            self.say(f"{self.finding}: this process ends")
            self.end()

    def _still(self) -> float:
        """Seconds for which this process has not moved."""
        now, messages, taken = time.monotonic(), self.messages(), steps
        if (messages, taken) != (self._told.messages, self._told.steps):
            self._moved_at = now
        self._told = Told(self._told.number + 1, messages, taken, now - self._moved_at)
        return self._told.since

    def _tell(self) -> bool:
        """Whether the store could be told."""
        try:
            self.store.set(_key(self.rank), self._told.words())
        except RuntimeError:
            return False
        return True

    def _awaited(self) -> list[int] | None:
        """The processes that are waited for; None where the store does not answer."""
        try:
            answers = self.store.multi_get([_key(process) for process in range(len(self.names))])
        except RuntimeError:
            return None
        now, self._silent = time.monotonic(), []
        for process, told in enumerate(map(Told.of, answers)):
            before = self._heard.get(process)
            if before is None or before[0].number != told.number:
                self._heard[process] = told, now
            elif now - before[1] > 2.5 * self.every:
                self._silent.append(process)
        return awaited({process: told for process, (told, _) in self._heard.items()}, self._silent)

    def _speaks(self, found: list[int] | None) -> bool:
        """Whether it is this process that names them: the first one that is not among them."""
        return found is None or self.rank == min({*range(len(self.names))} - {*found}, default=self.rank)

    def _line(self, found: list[int] | None) -> str:
        if found is None:
            return f"the store of the run, with process 0 ({self.names[0]}) or torchrun, has not answered"
        shown = [self._said_of(process) for process in found[:SHOWN]]
        more = len(found) - len(shown)
        return f"waiting for {', '.join(shown)}" + (f" and {counted(more, 'other')}" if more else "")

    def _said_of(self, process: int) -> str:
        told, heard = self._heard[process]
        since = told.since + time.monotonic() - heard
        if process in self._silent:  # nobody listened while this process moved by itself
            since = max(since, self._told.since)
        return f"process {process} ({self.names[process]}), {since:.0f} s since its last step ({told.steps} taken)"


def _key(process: int) -> str:
    return f"told by {process}"


def own_name() -> str:
    """What this process is called: its machine and its number there."""
    return f"pid {os.getpid()} on {socket.gethostname()}"


def say(line: str) -> None:
    print(f"fastkd: {line}", file=sys.stderr, flush=True)


def end_now() -> None:
    """Ends the process although its main thread waits for a message: torchrun starts it anew, or the job ends."""
    os._exit(2)
