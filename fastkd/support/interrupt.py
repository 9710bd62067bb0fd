"""Ctrl-C and schedulers' signals: the step that is running is finished and written down, then the run stops."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ECHO_SECONDS = 1.0
"""A signal to a whole job reaches a process several times: from the terminal or the scheduler, and from torchrun."""
ALWAYS = (signal.SIGINT, signal.SIGTERM)
"""The signals that stop a run."""
UNLESS_IGNORED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
"""Those that do, too: a terminal or a session that ends, and what SLURM sends by --signal=USR1. A process that was
started to ignore one of them (nohup) goes on ignoring it."""


class Interrupt:
    """`requested` is the signal's name once one came, to this process or to another rank."""

    def __init__(self) -> None:
        self._requested: str | None = None
        self._asked_at = 0.0

    @property
    def requested(self) -> str | None:
        return self._requested

    @requested.setter
    def requested(self, name: str | None) -> None:
        if self._requested is None and name is not None:
            self._asked_at = time.monotonic()
        self._requested = name

    def request(self, number: int, _frame: FrameType | None = None) -> None:
        """Notes the signal. Only a person who presses Ctrl-C again means at once: a scheduler repeats itself."""
        if self.requested is None:
            self.requested = signal.Signals(number).name
        elif number == signal.SIGINT and time.monotonic() - self._asked_at > ECHO_SECONDS:
            raise KeyboardInterrupt


class Stopped(Exception):
    """The run was asked to stop and has written its state."""


@contextmanager
def interruptible(interrupt: Interrupt | None = None) -> Iterator[Interrupt]:
    """Collects the signals that stop a run while the block runs, in that interrupt or a new one.

    Outside of the main thread, where Ray and others run a training, no signal can be collected: whoever started the
    thread hears them.
    """
    interrupt = interrupt or Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    heeded = [*ALWAYS, *(number for number in UNLESS_IGNORED if signal.getsignal(number) is not signal.SIG_IGN)]
    before = {number: signal.signal(number, interrupt.request) for number in heeded}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
