"""Ctrl-C and SIGTERM: the step that is running is finished and written down, then the run stops."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """`requested` is the signal's name once one came."""

    def __init__(self) -> None:
        self.requested: str | None = None

    def request(self, number: int, _frame: FrameType | None = None) -> None:
        if self.requested is not None:  # a second signal means at once
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name


class Stopped(Exception):
    """The run was asked to stop and has written its state."""


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Collects SIGINT and SIGTERM while the block runs."""
    interrupt = Interrupt()
    before = {number: signal.signal(number, interrupt.request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
