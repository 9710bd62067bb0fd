"""python -m fastkd.report RUN…: one self-contained report.html: what differs, how it compares, and every curve."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from fastkd.methods import short_name
from fastkd.recipes.recipe import Recipe
from fastkd.run import open_run, read_results, seed_folders
from fastkd.run.charts import Dot, dot_chart
from fastkd.run.curves import Curves, coloured, groups
from fastkd.run.differences import Difference, difference, note
from fastkd.run.figures import SIMILARITIES, Row, rows
from fastkd.run.labels import differing, flat, labels, settings
from fastkd.run.page import NOTHING, Html, details, element, join, page, swatch, table
from fastkd.support.command_line import command, read_options
from fastkd.support.environment import calls
from fastkd.support.errors import UserError
from fastkd.support.files import read_json, write_text
from fastkd.support.log import read_metrics
from fastkd.support.paths import is_there


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


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A run as the report shows it. Nothing that its files name is imported."""

    folder: Path
    recipe: Recipe
    results: list[dict[str, Any]]
    """The results of the seeds that have any."""
    logs: list[list[dict[str, Any]]]
    """The log's records of each seed."""
    environment: Mapping[str, Any]
    settings: Mapping[str, str]
    label: str = ""
    """What tells it from the others."""
    curves: Curves = field(default_factory=lambda: Curves("", (), {}))

    @property
    def name(self) -> Html:
        """Its label behind its colour."""
        return join((swatch(self.curves.colour) if self.curves.colour else "", self.label))


def write_report(folders: Sequence[Path], out: Path, *, above: Html = NOTHING) -> None:
    """Writes the report of some runs; above: HTML in front of them.

    Raises UserError for a folder that is no run, and for a file that cannot be written.
    """
    runs = _told_apart([_load(folder) for folder in folders])
    body = (
        element("p", _NOTE.format(seeds=_seeds(runs)), class_="note"),
        above,
        element("h2", "Runs"),
        _overview(runs),
        *_comparison(runs),
        element("h2", "Curves"),
        *_curves(runs),
        element("h2", "Networks"),
        *_networks(runs),
        element("h2", "Settings"),
        *_settings(runs),
    )
    write_text(out, page(_title(runs), *body))


def _load(folder: Path) -> Shown:
    recipe = open_run(folder)
    seeds = seed_folders(folder) or [folder]
    results = [read_results(seed / "results.json") for seed in seeds if is_there(seed / "results.json")]
    logs = [read_metrics(seed / "metrics.jsonl") for seed in seeds]
    environment = read_json(folder / "env.json") if is_there(folder / "env.json") else {}
    given = {"environment": environment if isinstance(environment, dict) else {}, "settings": settings(recipe)}
    return Shown(folder=folder, recipe=recipe, results=results, logs=logs, **given)


def _told_apart(runs: Sequence[Shown]) -> list[Shown]:
    """The runs with their labels and their colours."""
    names = labels([run.settings for run in runs], [str(run.folder) for run in runs])
    if len(runs) == 1:
        names = [runs[0].recipe.name]
    drawn = coloured([_drawn(run, name) for run, name in zip(runs, names, strict=True)])
    return [
        Shown(**{**vars(run), "label": name, "curves": curves})
        for run, name, curves in zip(runs, names, drawn, strict=True)
    ]


def _drawn(run: Shown, label: str) -> Curves:
    stages = run.recipe.stages
    roles = {stage.name: stage.role for stage in stages}
    alone = {stage.name: short_name(stage.method) for stage in stages if stage.method and "+" not in stage.method}
    return Curves(label, run.logs, roles, methods=alone)


_NOTE = "Top-1 on the test set after the last epoch, in percent; {seeds}. The best epoch is no result."


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
    gpus = run.environment.get("gpus")
    device = (
        ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else "CPU" if "gpus" in run.environment else ""
    )
    return first["date"][:16].replace("T", " "), ", ".join(filter(None, (device, first["host"])))


class Student(NamedTuple):
    """A student of a run, with what it is compared with."""

    run: Shown
    row: Row
    control: Row | None
    teacher: Row | None

    @property
    def name(self) -> Html:
        return join((self.run.name, "" if self.only else f", {self.row.name}"))

    @property
    def words(self) -> str:
        return self.run.label if self.only else f"{self.run.label}, {self.row.name}"

    @property
    def only(self) -> bool:
        return len(self.run.recipe.of_role("student")) < 2


def _students(runs: Sequence[Shown]) -> Iterator[Student]:
    for run in runs:
        found = {row.name: row for row in rows(run.recipe, run.results)}
        control, teacher = (
            next((found[stage.name] for stage in run.recipe.of_role(role) if stage.name in found), None)
            for role in ("control", "teacher")
        )
        for stage in run.recipe.of_role("student"):
            if stage.name in found:
                yield Student(run, found[stage.name], control, teacher)


def _comparison(runs: Sequence[Shown]) -> Iterator[Html]:
    """One row for each student, beside its control, its teacher and the first student."""
    students = list(_students(runs))
    if not students:
        return
    first = students[0]
    to_control = [_minus(student.row, student.control) for student in students]
    to_first = [None if student is first else _minus(student.row, first.row) for student in students]
    shown = {
        "student": [student.row.top1.show() for student in students],
        "control": [student.control.top1.show() if student.control else "" for student in students],
        "student − control": [_signed(each) for each in to_control],
        f"student − {first.words if len(first.words) <= 20 else 'first row'}": [_signed(each) for each in to_first],
        "teacher": [student.teacher.top1.show() if student.teacher else "" for student in students],
        **{title: [_alike(student.row, key, digits) for student in students] for title, key, digits in _ALIKE},
        "paper": [_paper(student.row) for student in students],
    }
    shown = {title: cells for title, cells in shown.items() if any(cells)}
    yield element("h2", "Comparison")
    yield table(
        ("run", *shown), zip((student.name for student in students), *shown.values(), strict=True), kind="numbers"
    )
    known = [each for each in (*to_control, *to_first) if each is not None]
    if known:
        yield element("p", note(known), class_="note")
    if len(students) > 1:
        chart = dot_chart("top-1 after the last epoch, %", [*_dots(students)])
        yield element("div", chart, class_="charts")


_ALIKE = tuple(zip(("KL to teacher", "CKA", "same top-1"), *zip(*SIMILARITIES, strict=True), strict=True))


def _minus(one: Row, other: Row | None) -> Difference | None:
    return difference(one.top1.values, other.top1.values) if other is not None else None


def _signed(found: Difference | None) -> str:
    return "" if found is None else found.show(2)


def _alike(row: Row, key: str, digits: int) -> str:
    return row.similarity[key].show(digits) if key in row.similarity else ""


def _dots(students: Sequence[Student]) -> Iterator[Dot]:
    """Students, and hollow their controls; the bars are standard deviations."""
    for student in students:
        shade = student.run.curves.colour or student.run.curves.of(student.row.name)
        for name, row in (("student", student.row), ("control", student.control)):
            if row is not None:
                yield Dot(student.words, name, row.top1.mean, row.top1.std or 0.0, shade, hollow=name == "control")


def _paper(row: Row) -> Html:
    if row.published is None:
        return NOTHING
    spread = "" if row.published.std is None else f" ± {row.published.std:.2f}"
    return join((f"{row.published.top1:.2f}{spread} ", element("small", row.published.source)))


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
    heads = ("network", "", "run", "top-1", "paper", *(title for title, *_ in _ALIKE), "best epoch")
    cells = [
        [row.name, row.network, run.name, row.top1.show(), _paper(row)]
        + [_alike(row, key, digits) for _, key, digits in _ALIKE]
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
