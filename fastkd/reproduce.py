"""python -m fastkd.reproduce PAPER --table N: every training that a paper's table needs, and the table beside ours."""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastkd import options as of_trainings
from fastkd.data import with_absolute_path
from fastkd.plan.cells import Cell, Plan, Seeds
from fastkd.plan.computed import COMPUTED
from fastkd.plan.drawn import drawn
from fastkd.plan.filled import filled
from fastkd.plan.findings import Finder, shortened, wanted
from fastkd.plan.outlook import by_a_few_steps, outlook
from fastkd.plan.pictures import Drawing, pictures
from fastkd.plan.shown import Shown
from fastkd.plan.views import show_as_run
from fastkd.plan.worker import Worker, described
from fastkd.recipes import RECIPES
from fastkd.recipes.findings import Probed
from fastkd.recipes.published import beside_the_entry
from fastkd.recipes.recipe import Recipe
from fastkd.recipes.tables import TABLES, Entry
from fastkd.recipes.tables.entry import compares_teachers
from fastkd.recipes.tables.layout import Place, Table, pick
from fastkd.report import write_report
from fastkd.run import check
from fastkd.run.page import Html, element
from fastkd.support import distributed
from fastkd.support.command_line import command, option_names, read_options
from fastkd.support.display import Display
from fastkd.support.environment import pick_device
from fastkd.support.errors import ChangesNothing, UserError, nearest
from fastkd.support.interrupt import Interrupt, Stopped, interruptible
from fastkd.support.joining import processes
from fastkd.support.ranges import Seed, whole
from fastkd.support.session import Session
from fastkd.support.words import counted

PROGRAM = "python -m fastkd.reproduce"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains whatever a table of a paper needs, each training once, and shows the table as it is printed beside ours.

    Called again it goes on; called several times at once on one folder, the calls share the work. Any other option of
    `python -m fastkd.train` that says how something is trained (--epochs, --limit-train, --precision …) is given to
    every training, and the table then says what differs.

    Examples:
      python -m fastkd.reproduce sftn --table 17 --data cifar100=PATH --plan
      python -m fastkd.reproduce simkd --table S.8 --data cifar100=PATH --only resnet32x4/vgg8 --seeds 4
    """

    paper: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PAPER")]
    """sftn, simkd, tfkd, gtn, modern (the methods of 2022 to 2025) or digits (a small table of our own)."""
    table: str | None = None
    """The table: 17, S.8, fig4a; without it those of the paper are listed."""
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=PATH")] = ()
    """Where a data set lies, once for each that the table needs."""
    out: Path | None = None
    """Folder of trainings, cells and tables (default: runs/reproduce)."""
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="TEACHER/STUDENT")] = ()
    """Leave out all pairs but this one; once more for each further pair."""
    methods: str = ""
    """A,B+C: leave out the students of all other methods."""
    seed: Seed = 0
    """The first seed."""
    seeds: Annotated[int, whole(1, 10_000)] = 1
    """Students of every cell."""
    teachers: Annotated[int, whole(1, 10_000)] = 1
    """Teachers of every cell, which its students share out among them; one serves all, as in the authors' codes."""
    plan: bool = False
    """Show trainings, hours and bytes, and train nothing."""
    probe_epochs: Annotated[int, whole(1, 10_000)] | None = None
    """Epochs of linear classifiers on frozen features, where the table has some (default: the table's)."""
    time_steps: bool = False
    """Take a few steps of every kind of training first: the hours are unknown without that, or a finished one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is computed; auto: on a GPU where there is one."""
    unlocked: bool = False
    """Go on where the file system has no locks."""


def main(arguments: list[str]) -> int:
    own, others = divided(arguments, Options)
    options = read_options(Options, own, program=PROGRAM)
    if options.paper not in TABLES:
        raise UserError(f"no paper {options.paper!r}{nearest(options.paper, TABLES)}")
    if options.table is None and len(TABLES[options.paper]) > 1:
        print("\n".join(_listed(options.paper)))
        return 0
    table = _narrowed(pick(TABLES[options.paper], options.paper, options.table), options.only)
    table = _of_methods(table, tuple(options.methods.split(",")) if options.methods else ())
    if options.teachers > options.seeds:
        raise UserError(f"--teachers {options.teachers} are more than the {options.seeds} students of a cell (--seeds)")
    if options.probe_epochs is not None:
        table = _with_probe_epochs(table, options.probe_epochs)
    return carry_out(table, options, others)


def carry_out(table: Table, options: Options, others: Sequence[str], *, data: Mapping[str, str] | None = None) -> int:
    """Trains what the table needs, or what is left of it, and shows it; returns the program's code.

    others: options of `fastkd.train` that every training is given.
    data: `NAME:PATH` of what is read in the place of a data set, by its name, beside those that the options give.
    """
    seeds = Seeds(options.seeds, options.teachers, options.seed)
    places = _places_of_data(table, options.data, data or {})
    cells = cells_of(table, seeds, places, others)

    def cell_of(place: Place) -> Cell:
        return cells[_cell_name(table, place.entry)]

    root = options.out or Path("runs") / "reproduce"
    plan = Plan(root, list(cells.values()))
    with processes(pick_device(options.device)) as device:
        with Display(silent=not distributed.is_main()) as display:
            worker = Worker(plan, device, Session(display, Interrupt(), unlocked=options.unlocked))
            _check_and_tell(worker, seeds, time_steps=options.time_steps)
            if options.plan:
                return 0
            finder = Finder(plan, places, device, display, worker.session.interrupt)
            try:
                with interruptible(worker.session.interrupt):
                    worker.work()
                    finder.take(wanted(table.places, cell_of))
            except Stopped as stopped:
                display.note(f"{stopped}; the same command goes on")
                return 130
        if distributed.is_main():
            cells |= {name: worker.as_opened(cell) for name, cell in cells.items()}
            runs = [show_as_run(plan, cell) for cell in cells.values()]
            _show(table, worker, cells, seeds, places)
            if table.name.startswith("Figure") and not (table.chart or table.pictures or table.computed):
                _draw(table, runs, root)
    failures = [f"{described(plan.nodes[digest])}: {why}" for digest, why in worker.failures.items()] + finder.failures
    for words in failures:
        print(f"fastkd: {words}", file=sys.stderr)
    return 1 if failures else 0


def _show(table: Table, worker: Worker, cells: dict[str, Cell], seeds: Seeds, data: dict[str, str]) -> None:
    """Prints and writes the table; cells: those of its places, by their names."""
    at = [(place, cells[_cell_name(table, place.entry)]) for place in table.places]
    found = filled(table, worker.plan, at)
    computed = COMPUTED[table.computed](table, worker, list(cells.values())) if table.computed else None
    drawing = Drawing(found, worker.plan, lambda place: cells[_cell_name(table, place.entry)], data, worker.device)
    shown = Shown(found, drawn(found, worker.plan, at), computed, seeds, _drawn(drawing))
    shown.write(worker.plan.root)


def _check_and_tell(worker: Worker, seeds: Seeds, *, time_steps: bool) -> None:
    """Builds what is to be trained once, so that mistakes show before the first training, and tells the plan's size."""
    plan = worker.plan
    for cell in _different(plan.cells):
        check(worker.job(cell.recipe))
    seconds = {}
    if time_steps:
        seconds = by_a_few_steps(plan.cells, lambda cell: worker.job(cell.recipe), worker.session)
    _tell(plan, seeds, seconds, worker.session.display)


def cells_of(table: Table, seeds: Seeds, data: dict[str, str], others: Sequence[str]) -> dict[str, Cell]:
    """The cells of a table by their names; others: options of `fastkd.train` that every training is given."""
    stages: dict[str, set[str]] = {}
    entries: dict[str, Entry] = {}
    for place in table.places:
        name = _cell_name(table, place.entry)
        stages.setdefault(name, set()).add(place.stage)
        entries[name] = place.entry
    idle: dict[str, int] = {}
    cells = {}
    for name, entry in entries.items():
        control = "control" in stages[name]
        recipe = _recipe(entry, data, others, idle, control=control)
        cells[name] = Cell.of(name, recipe, seeds, stages=stages[name], teacher_share=entry.teacher_share)
    for option, times in idle.items():
        if times == len(cells):
            raise UserError(f"--{option} changes nothing in this table")
    return cells


def _recipe(
    entry: Entry, data: dict[str, str], others: Sequence[str], idle: dict[str, int], *, control: bool
) -> Recipe:
    """The recipe of an entry; idle: counts the options that change nothing in it."""
    name = RECIPES[entry.recipe]().data.partition(":")[0]
    given = [*others]
    while True:
        words = [*entry.arguments(), *given, "--data", data.get(name, name), *(["--control", "on"] if control else [])]
        try:
            made = of_trainings.recipe_of(of_trainings.parse(words, program=PROGRAM))
            return beside_the_entry(made, entry)
        except ChangesNothing as error:
            left = _without(given, error.option)
            if left == given:
                raise
            idle[error.option] = idle.get(error.option, 0) + 1
            given = left


def _without(arguments: Sequence[str], option: str) -> list[str]:
    """Arguments without an option and its values."""
    left, dropping = [], False
    for word in arguments:
        if word.startswith("--"):
            dropping = word.removeprefix("--").partition("=")[0].replace("_", "-") == option
        if not dropping:
            left.append(word)
    return left


_NOT_OF_A_TABLE = {
    "run",
    "resume",
    "pair",
    "teacher",
    "students",
    "list",
    "dry-run",
    "logger",
    "trust",
    "heartbeat",
} | {
    *("teacher-net", "student", "branch", "branch-blocks", "teacher-training", "method", "control", "data-seed"),
    *("teacher-prefix", "any-images", "teacher-outputs"),
}


def divided(arguments: Sequence[str], kind: type) -> tuple[list[str], list[str]]:
    """The options of a command, whose class that is, and those that are handed on to every training."""
    ours = {*option_names(kind), "help", "help-all"}
    handed_on = set(option_names(of_trainings.Options))
    own: list[str] = []
    others: list[str] = []
    into = own
    for word in arguments:
        name = word.removeprefix("--").partition("=")[0].replace("_", "-")
        if word.startswith("--"):
            if name not in ours and name in _NOT_OF_A_TABLE:
                raise UserError(f"--{name} is not for a table: its lines say what is trained")
            into = others if name not in ours and (name in handed_on or "." in name) else own
        elif word == "-h":
            into = own
        into.append(word)
    return own, others


def _narrowed(table: Table, pairs: Sequence[str]) -> Table:
    """The table with those pairs alone."""
    known = {_pair(place.entry): place for place in table.places}
    for pair in pairs:
        if pair not in known:
            raise UserError(f"--only {pair}: {table.title} has no such pair{nearest(pair, known)}")
    kept = tuple(place for place in table.places if not pairs or _pair(place.entry) in pairs)
    return replace(table, places=kept)


def _of_methods(table: Table, methods: Sequence[str]) -> Table:
    """The table with the students of those methods alone, beside whatever is no student's."""
    known = {place.entry.method for place in table.places if place.stage == "student"}
    if unknown := [method for method in methods if method not in known]:
        raise UserError(f"--methods {unknown[0]}: {table.title} has no such method{nearest(unknown[0], known)}")
    kept = (one for one in table.places if not methods or one.stage != "student" or one.entry.method in methods)
    return replace(table, places=tuple(kept))


def _pair(entry: Entry) -> str:
    return f"{entry.teacher}/{entry.student}" if entry.teacher else entry.student


def _with_probe_epochs(table: Table, epochs: int) -> Table:
    if not any(isinstance(place.finding, Probed) for place in table.places):
        raise UserError(f"--probe-epochs changes nothing: {table.title} has no linear classifier")
    words = f"differs: {counted(epochs, 'epoch')} of the linear classifier"
    places = [replace(place, finding=shortened(place.finding, epochs)) for place in table.places]
    return replace(table, places=tuple(places), notes=(*table.notes, words))


def _places_of_data(table: Table, given: Sequence[str], instead: Mapping[str, str]) -> dict[str, str]:
    """`NAME:PATH` of each data set, by its name."""
    needed = list(dict.fromkeys(RECIPES[place.entry.recipe]().data.partition(":")[0] for place in table.places))
    needed += dict.fromkeys(place.finding.data for place in table.places if place.finding and place.finding.data)
    found = dict(instead)
    for word in given:
        name, equals, path = word.partition("=")
        if not equals or not path:
            raise UserError(f"--data is NAME=PATH, as in cifar100=PATH, got {word!r}")
        if name not in needed:
            raise UserError(f"--data {word}: {table.title} reads {' and '.join(needed)}")
        found[name] = with_absolute_path(f"{name}:{path}")
    if lacking := [name for name in needed if name not in found and name != "digits"]:
        raise UserError(f"{table.title} reads {lacking[0]}: give --data {lacking[0]}=PATH")
    return found


def _cell_name(table: Table, entry: Entry) -> str:
    parts = [table.paper, table.key, entry.recipe, _pair(entry), entry.method]
    if compares_teachers(entry.recipe):
        parts.append(entry.teacher_training)
    parts += [f"{name}={value}" for name, value in entry.options.items()]
    parts += [f"{entry.teacher_share:g}"] * (entry.teacher_share < 1)
    return re.sub(r"[^A-Za-z0-9+.=_-]+", "-", "-".join(parts)).lower()[:200]


def _different(cells: Iterable[Cell]) -> list[Cell]:
    """A cell for each kind of networks, method and data in the cells: what does not fit is found before the first
    training."""
    found: dict[str, Cell] = {}
    for cell in cells:
        key = " ".join([cell.recipe.data, *(f"{stage.network} {stage.method}" for stage in cell.recipe.stages)])
        found.setdefault(key, cell)
    return list(found.values())


def _tell(plan: Plan, seeds: Seeds, seconds: dict[str, float], display: Display) -> None:
    classes = max((cell.recipe.published_classes or 100 for cell in plan.cells), default=100)
    found = outlook(plan, classes, seconds)
    if found.hours is None:
        hours = f"hours unknown ({found.untimed} trainings of kinds that were not timed here)"
    else:
        hours = f"{found.hours:.1f} hours on one machine as this one"
    display.note(
        f"{len(plan.cells)} cells, {seeds.words()}: {found.trainings} trainings, {found.left} left; {hours}; "
        f"{found.bytes / 2**30:.2f} GiB  ->  {plan.root}"
    )


def _draw(table: Table, runs: Sequence[Path], root: Path) -> None:
    """Writes the curves that a figure shows, those of all of its runs."""
    stem = re.sub(r"[^a-z0-9.]+", "-", table.title.lower())
    out = root / "tables" / f"{stem}-curves.html"
    write_report(runs, out)
    print(f"curves   {out}")


def _drawn(drawing: Drawing) -> Html:
    """The pictures; why there is none stands in their place."""
    try:
        return pictures(drawing)
    except UserError as error:
        print(f"fastkd: no picture: {error}", file=sys.stderr)
        return element("p", f"no picture: {error}")


def _listed(paper: str) -> list[str]:
    """A line for each table of a paper."""
    lines = [f"Tables of {paper}; each is run by {PROGRAM} {paper} --table KEY"]
    for key, table in TABLES[paper].items():
        size = f"{len(table.rows)} rows, {len(table.columns)} columns" if table.places else "computed, without training"
        lines.append(f"  {key:<10} {table.name:<14} {size}")
    return lines


if __name__ == "__main__":
    sys.exit(command(main))
