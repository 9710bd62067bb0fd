"""What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from fastkd.support.live import LiveLine, Look


class Display:
    """Everything goes to standard error; standard output is left to the result table."""

    def __init__(self, *, terminal: bool | None = None, every_seconds: float = 10.0, silent: bool = False):
        terminal = False if silent else terminal
        self.console = Console(file=sys.stderr, force_terminal=terminal, highlight=False, soft_wrap=True, quiet=silent)
        self.every_seconds, self.last_shown = every_seconds, 0.0
        self.line: Live | None = None
        """The live line, on a terminal."""

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.line = Live("", console=self.console, transient=True, refresh_per_second=2)
            self.line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.line is not None:
            self.line.stop()
            self.line = None

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)

    def due(self) -> bool:
        """Whether the live numbers should be read now: reading them waits for the device."""
        return time.monotonic() - self.last_shown >= (0.5 if self.line is not None else self.every_seconds)

    def live(self, look: Look) -> None:
        """Shows where the stage stands."""
        self.last_shown = time.monotonic()
        if self.line is None:
            self.note(look.words())
        else:
            self.line.update(LiveLine(look), refresh=True)
