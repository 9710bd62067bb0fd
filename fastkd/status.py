"""python -m fastkd.status RUN…: a line for each run, whether it goes on here or elsewhere."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep
from typing import Annotated, Any

import tyro

from fastkd.run.status import GOING_WELL, RunStatus, run_folders, status_of
from fastkd.support.command_line import command, read_options
from fastkd.support.errors import UserError, one_line
from fastkd.support.live import duration
from fastkd.support.ranges import Positive
from fastkd.support.words import counted

_LONGEST = 1e10  # seconds, some hundred years


@dataclass(frozen=True, kw_only=True)
class Options:
    """Says of each run how it stands: running, finished, stopped, failed, stalled (long without a sign of life), killed
    or damaged. Files are read and nothing else, so that a run may go on on any machine that shares the folder.

    The program's code is 0 where every run is running or finished, 1 where one is anything else, 2 after a mistake.

    Examples:
      python -m fastkd.status runs/a runs/b
      python -m fastkd.status runs --watch 30
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN …]")]
    """Run folders, folders of runs, or the folder of a table."""
    json: bool = False
    """Print a list of JSON instead, one a look, with all that is known."""
    watch: Positive | None = None
    """Look again after so many seconds, until no run is running."""
    patience: Positive | None = None
    """Seconds without a sign of life after which a run has stalled (default: what the run itself says)."""


def main(arguments: list[str]) -> int:
    options = read_options(Options, arguments, program="python -m fastkd.status")
    if not options.runs:
        raise UserError("name the folder of a run, or of several")
    while True:
        folders = list(dict.fromkeys(run for folder in options.runs for run in run_folders(folder)))
        found = [status_of(folder, patience=options.patience) for folder in folders]
        _show(found, as_json=options.json, anew=options.watch is not None)
        if options.watch is None or not any(one.state == "running" for one in found):
            return 0 if all(one.state in GOING_WELL for one in found) else 1
        sleep(options.watch)


def _show(found: Sequence[RunStatus], *, as_json: bool, anew: bool) -> None:
    """Prints what was found; anew: on a terminal in place of what was printed before."""
    if as_json:
        print(json.dumps([_plain(one) for one in found]), flush=True)
        return
    clear = "\x1b[H\x1b[2J" if anew and sys.stdout.isatty() else ""
    print(clear + "\n".join(lines(found)), flush=True)


def _plain(found: RunStatus) -> dict[str, Any]:
    """All that is known, in what JSON has: no numbers that are none."""
    values = {**asdict(found), "folder": str(found.folder)}
    return {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}


def lines(found: Sequence[RunStatus]) -> list[str]:
    """A line for each run: its folder and state below each other, and what else is known."""
    widths = [max(len(text) for text in column) for column in zip(*map(_head, found), strict=True)]
    return [one_line("  ".join([*map(str.ljust, _head(one), widths), *_rest(one)]).rstrip()) for one in found]


def _head(found: RunStatus) -> tuple[str, str]:
    return one_line(str(found.folder)), found.state


def _rest(found: RunStatus) -> list[str]:
    """What is known of a run beside its state, from where it stands to when it was last heard of."""
    words = [found.what] if found.what else []
    if found.stage is not None:
        words.append(found.stage if found.seed is None else f"seed {found.seed} {found.stage}")
    words += _of("epoch", found.epoch, found.epochs) + _of("step", found.step, found.steps)
    if found.images_per_second is not None:
        words.append(f"{found.images_per_second:,.0f} images/s")
    if found.loss is not None:
        words.append(f"loss {found.loss:.4f}")
    if found.accuracy is not None:
        words.append(f"top-1 {found.accuracy:.2%}")
    if found.state == "running" and found.seconds_left is not None:
        words.append(f"{_duration(found.seconds_left)} left, run {_duration(found.run_seconds_left)}")
    if found.doing and found.doing != "training":
        words.append(found.doing)
    return [*words, _heard(found)] if found.silent_for is not None else words


def _of(name: str, number: int | None, total: int | None) -> list[str]:
    if number is None:
        return []
    return [f"{name} {number}" if total is None else f"{name} {number}/{total}"]


def _duration(seconds: float | None) -> str:
    """The time in words; a file may say what is none."""
    return duration(seconds) if seconds is not None and 0 <= seconds < _LONGEST else "?"


def _heard(found: RunStatus) -> str:
    """When and where a run was last heard of."""
    processes = found.processes or 1
    several = f", {counted(processes, 'process')}" if processes > 1 else ""
    where = f" on {found.host}{several}" if found.host else ""
    return f"{_duration(found.silent_for)} ago{where}"


if __name__ == "__main__":
    sys.exit(command(main))
