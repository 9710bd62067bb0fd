"""What a person sees while a run goes on: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


class Display:
    """Everything goes to standard error; standard output is left to the result table."""

    def __init__(self, *, terminal: bool | None = None, every_seconds: float = 10.0, silent: bool = False):
        terminal = False if silent else terminal
        self.console = Console(file=sys.stderr, force_terminal=terminal, highlight=False, soft_wrap=True, quiet=silent)
        self.every_seconds, self.last_shown = every_seconds, 0.0
        self.progress: Progress | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[detail]}"))
            self.progress = Progress(*columns, console=self.console, transient=True)
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    def note(self, text: str) -> None:
        self.console.print(text, markup=False)

    def due(self) -> bool:
        """Whether the live numbers should be read now: reading them waits for the device."""
        return time.monotonic() - self.last_shown >= (0.5 if self.progress is not None else self.every_seconds)

    def live(
        self, title: str, done: int, total: int, values: dict[str, float], rate: float, seconds_left: float
    ) -> None:
        """Shows the steps done of a stage, the running means, images per second and the time to the stage's end."""
        self.last_shown = time.monotonic()
        terms = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        detail = f"{done}/{total}  {terms}  {rate:,.0f} images/s  {duration(seconds_left)} left"
        if self.progress is None:
            self.note(f"{title}  {detail}")
            return
        if not self.progress.tasks:
            self.progress.add_task(title, total=total, detail=detail)
        self.progress.update(self.progress.task_ids[0], description=title, completed=done, total=total, detail=detail)


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
