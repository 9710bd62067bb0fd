"""python -m fastkd.report RUN…: one self-contained report.html: what differs, how it compares, and every curve."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastkd.recipes.recipe import Recipe
from fastkd.run.comparison import ALIKE, alike, comparison, paper
from fastkd.run.curves import groups, watched
from fastkd.run.figures import best_epoch, rows
from fastkd.run.labels import differing, flat
from fastkd.run.page import NOTHING, Html, details, element, join, page, table
from fastkd.run.shown import Shown, read_runs
from fastkd.support.command_line import command, read_options
from fastkd.support.environment import calls
from fastkd.support.errors import UserError
from fastkd.support.files import write_text


@dataclass(frozen=True, kw_only=True)
class Options:
    """Writes one self-contained HTML file: what runs differ in, how they compare, their curves and their settings."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN …]")]
    """Run folders."""
    out: Path | None = None
    """The file (default: report.html in the first folder)."""


def main(arguments: list[str]) -> int:
    options = read_options(Options, arguments, program="python -m fastkd.report")
    if not options.runs:
        raise UserError("name the folder of a run, or of several")
    out = options.out or options.runs[0] / "report.html"
    write_report(options.runs, out)
    print(out)
    return 0


def write_report(folders: Sequence[Path], out: Path, *, above: Html = NOTHING) -> None:
    """Writes the report of some runs; above: HTML in front of them.

    Raises UserError for a folder that is no run, and for a file that cannot be written.
    """
    runs = read_runs(folders)
    body = (
        element("p", _note(runs), class_="note"),
        above,
        element("h2", "Runs"),
        _overview(runs),
        *comparison(runs),
        element("h2", "Curves"),
        *_curves(runs),
        element("h2", "Networks"),
        *_networks(runs),
        element("h2", "Settings"),
        *_settings(runs),
    )
    write_text(out, page(_title(runs), *body))


_NOTE = "Top-1 on the test set after the last epoch, in percent; {seeds}. {curves}"
_OF_CURVES = {
    "test": "The best epoch is no result.",
    "validation": "Curves and best epochs are of the validation images.",
}


def _note(runs: Sequence[Shown]) -> str:
    of = watched([run.curves for run in runs])
    told = _OF_CURVES.get(of, "Curves and best epochs are of the validation images where a run has such.")
    return _NOTE.format(seeds=_seeds(runs), curves=told)


def _seeds(runs: Sequence[Shown]) -> str:
    counts = sorted({len(run.results) for run in runs if run.results})
    if counts[-1:] in ([], [1]):
        return "one seed"
    many = " or ".join(map(str, counts))
    return f"mean ± standard deviation over {many} seeds; the bands are that wide, too"


def _title(runs: Sequence[Shown]) -> str:
    names = ", ".join(dict.fromkeys(run.recipe.name for run in runs))
    told = [run.label for run in runs] if len(runs) > 1 else [_what(runs[0].settings)]
    return f"{names}: {' | '.join(told[:4])}{' | …' if len(told) > 4 else ''}"


def _what(found: Mapping[str, str]) -> str:
    if found["teacher"] == "none":
        return f"{found['student']} by {found['method']}"
    return f"{found['student']} from {_teacher(found)} by {found['method']}"


def _teacher(found: Mapping[str, str]) -> str:
    return found["teacher"] if found["teacher"] == "none" else f"{found['teacher']} ({found['teacher training']})"


_FACTS = ("method", "teacher", "student", "data", "seeds", "epochs")


def _overview(runs: Sequence[Shown]) -> Html:
    """A row for each run: what it is, when and where it was made; and by which commands."""
    heads = ("run", *_FACTS, "begun", "on", "folder")
    lines = [(run.name, *(_fact(run, name) for name in _FACTS), *_made(run), str(run.folder)) for run in runs]
    kept = [place for place in range(len(heads)) if any(line[place] for line in lines)]
    heads, lines = [heads[place] for place in kept], [[line[place] for place in kept] for line in lines]
    told = [(run, call["command"]) for run in runs for call in calls(run.environment)]
    commands = [element("p", run.name, ": ", element("code", line)) for run, line in told]
    shown = details("commands", *commands, open_=len(runs) == 1) if commands else NOTHING
    return join((table(heads, lines, kind="facts"), shown))


def _fact(run: Shown, name: str) -> str:
    if name == "data":
        return run.recipe.data.partition(":")[0]
    if name == "teacher":
        return _teacher(run.settings)
    return _epochs(run.recipe) if name == "epochs" else run.settings.get(name, "")


def _epochs(recipe: Recipe) -> str:
    """`20`, or `30 (teacher), 20 (student, control)`."""
    by_number: dict[int, list[str]] = {}
    for stage in recipe.stages:
        if stage.training is not None:
            by_number.setdefault(stage.training.epochs, []).append(stage.name)
    if len(by_number) == 1:
        return str(*by_number)
    named = {number: ", ".join(names) if len(names) < 4 else "the others" for number, names in by_number.items()}
    return ", ".join(f"{number} ({names})" for number, names in named.items())


def _made(run: Shown) -> tuple[str, str]:
    """When the run was begun, and on what."""
    first = next(iter(calls(run.environment)), {"date": "", "host": ""})
    device = ", ".join(run.environment["gpus"]) or "CPU" if run.environment else ""
    return first["date"][:16].replace("T", " "), ", ".join(filter(None, (device, first["host"])))


def _curves(runs: Sequence[Shown]) -> Iterator[Html]:
    found = groups([run.curves for run in runs])
    if not found:
        yield element("p", "No epoch is finished yet.")
    for number, (heading, charts) in enumerate(found.items()):
        yield details(heading, element("div", *charts, class_="charts"), open_=number < _OPEN)


_OPEN = 4
"""So many groups of charts are open; the rest opens where it is clicked."""


def _networks(runs: Sequence[Shown]) -> Iterator[Html]:
    """Every network that was evaluated, with its best epoch; and why a paper's figures do not compare."""
    lines = [(run, row) for run in runs for row in rows(run.recipe, run.results)]
    if not lines:
        yield element("p", "No stage is finished yet.")
        return
    best = best_epoch([result for run in runs for result in run.results])
    heads = ("network", "", "run", "top-1", "paper", *(title for title, *_ in ALIKE), best)
    cells = [
        [row.name, row.network, run.name, row.top1.show(), paper(row)]
        + [alike(row, key, digits) for _, key, digits in ALIKE]
        + [row.best.show() if row.best else ""]
        for run, row in lines
    ]
    kept = [place for place, head in enumerate(heads) if place < 2 or any(line[place] for line in cells)]
    kept = [place for place in kept if heads[place] != "run" or len(runs) > 1]
    yield table([heads[place] for place in kept], [[line[place] for place in kept] for line in cells], kind="numbers")
    for run in runs:
        if run.recipe.deviations and any(row.published for other, row in lines if other is run):
            words = [element("li", word) for word in run.recipe.deviations]
            yield element("p", run.name, ": not the paper's recipe, so its figures do not compare:")
            yield element("ul", *words)


def _settings(runs: Sequence[Shown]) -> Iterator[Html]:
    """The settings in which runs differ, then every one of them, with what they were made with."""
    columns = [{**run.settings, **flat(_machine(run.environment), "env")} for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    heads = ("", *(run.name for run in runs))
    apart = differing(columns)
    if len(runs) > 1 and not apart:
        yield element("p", "No setting differs.")
    if apart:
        yield table(heads, ([name, *(column.get(name, "") for column in columns)] for name in apart), kind="settings")
    every = table(heads, ([name, *(column.get(name, "") for column in columns)] for name in names), kind="settings")
    yield details(f"all {len(names)} settings", every)


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was made with, without what tells of its calls."""
    return {name: value for name, value in environment.items() if name not in ("date", "command", "earlier")}


if __name__ == "__main__":
    sys.exit(command(main))
