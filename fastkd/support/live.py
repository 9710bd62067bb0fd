"""The line that shows a training while it goes on, as much of it as the terminal has room for."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

_BAR, _SHORT_BAR, _SHORTEST_BAR = 24, 12, 5
_SHORTEST_TITLE = 8
_MUCH_WAITING = 0.1


@dataclass(frozen=True, kw_only=True)
class Look:
    """Where a stage stands."""

    title: str
    epoch: int
    """The epoch that is running, from 1."""
    epochs: int
    done: int
    """Steps done of the stage."""
    total: int
    rate: float
    """Images per second."""
    seconds_left: float
    """Time to the end of the stage."""
    run_seconds_left: float
    """Time to the end of the whole run."""
    values: dict[str, float] = field(default_factory=dict)
    """Running means of the loss, its terms and the hits."""
    waiting: float = 0.0
    """The share of the time that is spent on waiting for data."""

    @classmethod
    def along(
        cls, title: str, epochs: tuple[int, int], steps: tuple[int, int], rate: float, seconds_left: float
    ) -> "Look":
        """What is done beside a training's steps: `epochs` are the running one and all, `steps` those done and all."""
        return cls(
            title=title,
            epoch=epochs[0],
            epochs=epochs[1],
            done=steps[0],
            total=steps[1],
            rate=rate,
            seconds_left=seconds_left,
            run_seconds_left=seconds_left,
        )

    def words(self) -> str:
        """Everything, for a file."""
        return f"{self.title}  {next(self._details())[1]}"

    def fitting(self, width: int) -> tuple[str, int, str]:
        """(title, width of the bar, the rest), with a blank between two of them at most `width` columns wide."""
        for least, rest in self._details():
            room = width - cell_len(self.title) - cell_len(rest) - 2
            if room >= least:
                return self.title, min(_BAR, room), rest
        room = max(_SHORTEST_TITLE, width - cell_len(rest) - 2 - _SHORTEST_BAR)
        return set_cell_size(self.title, room - 1) + "…", _SHORTEST_BAR, rest

    def _details(self) -> Iterator[tuple[int, str]]:
        """What stands behind the bar, from the most to the least, each with the shortest bar that may be beside it."""
        epoch, rate = f"{self.epoch}/{self.epochs}", f"{self.rate:,.0f}"
        left, run = duration(self.seconds_left), duration(self.run_seconds_left)
        terms = [f"{name} {value:.3f}" for name, value in self.values.items()]
        head = f"epoch {epoch}"
        tail = (f"{rate} images/s", *waiting_words(self.waiting), f"{left} left, run {run}")
        yield _SHORT_BAR, "  ".join((head, f"step {self.done}/{self.total}", *terms, *tail))
        for count in range(len(terms), -1, -1):
            yield _SHORT_BAR, "  ".join((head, *terms[:count], *tail))
        yield _SHORTEST_BAR, f"ep {epoch}  {rate}/s  {left} left, run {run}"
        yield _SHORTEST_BAR, f"ep {epoch} {rate}/s {left}, run {run}"


class LiveLine:
    """The line on a terminal, whose width may change at any time."""

    def __init__(self, look: Look):
        self.look = look

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        title, bar, rest = self.look.fitting(options.max_width)
        full, empty = ("#", ".") if options.ascii_only else ("━", "─")
        done = bar * min(self.look.done, self.look.total) // max(self.look.total, 1)
        line = Text(f"{title} ", no_wrap=True, overflow="crop")
        line.append(full * done, style="bar.complete").append(empty * (bar - done), style="bar.back")
        yield line.append(f" {rest}")


def waiting_words(share: float) -> tuple[str, ...]:
    """What there is to say of a share of the time that is spent on waiting for data: nothing of a small one."""
    return (f"{share:.0%} waiting for data",) if share >= _MUCH_WAITING else ()


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"
