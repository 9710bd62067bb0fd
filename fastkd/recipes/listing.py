"""The papers' tables as a person reads them: which there are, and for each of their lines how to run it."""

from collections.abc import Iterable, Iterator

from fastkd.recipes import RECIPES
from fastkd.recipes.recipe import Published
from fastkd.recipes.tables import ENTRIES, OMITTED, TABLES, Entry, Omitted
from fastkd.support.errors import UserError

COMMAND = "python -m fastkd.train"
WHOLE_TABLES = "python -m fastkd.reproduce"


def overview() -> Iterator[str]:
    """A line for every recipe and table, each with a command to begin with; then what is not run, and why."""
    yield "Tables of the papers. The command runs the first line of each; RECIPE --list shows them all,"
    yield "with --pair, --method or --teacher-training those that are meant. Add --data NAME:PATH to run one."
    shown = ""
    for (paper, table, recipe), entries in _by_table(ENTRIES).items():
        if paper != shown:
            shown = paper
            yield f"\n{paper}"
        methods = len({entry.method for entry in entries})
        pairs = len({(entry.teacher, entry.student) for entry in entries})
        size = f"{_count(len(entries), 'run')}: {_count(pairs, 'pair')}, {_count(methods, 'method')}"
        yield f"  {table:<12} {recipe:<14}  {size:<37}  {COMMAND} {entries[0].command()}"
    yield f"\nWhole tables and figures, with what is printed beside what is measured: {WHOLE_TABLES} PAPER --table KEY"
    for paper, tables in TABLES.items():
        keys = ", ".join(tables)
        yield f"  {paper:<6} {keys}"
    yield "\nNot run by fastkd, or not printed"
    width = max(len(_where(omitted)) for omitted in OMITTED)
    for omitted in OMITTED:
        yield f"  {_where(omitted):<{width}}  {omitted.what}: {omitted.why}"


def lines(recipe: str, *, teacher: str = "", student: str = "", method: str = "", training: str = "") -> Iterator[str]:
    """What the papers report for a recipe, narrowed to what is given. Raises UserError where nothing is left."""
    entries = [
        entry
        for entry in ENTRIES
        if entry.recipe == recipe
        and teacher in ("", entry.teacher)
        and student in ("", entry.student)
        and training in ("", entry.teacher_training)
        and method in ("", entry.method, entry.method.removeprefix("kd+"))
    ]
    if not entries:
        raise UserError(f"--list: the papers have no such line of the recipe {recipe}")
    yield (RECIPES[recipe].__doc__ or "").strip().splitlines()[0]
    for (paper, table, _), found in _by_table(entries).items():
        yield f"\n{paper}, {table}: top-1 in %"
        width = max(len(entry.command()) for entry in found)
        for entry in found:
            figures = "  ".join(f"{stage} {_show(figure)}" for stage, figure in entry.figures.items())
            yield f"  {COMMAND} {entry.command():<{width}}  {figures}"


def _by_table(entries: Iterable[Entry]) -> dict[tuple[str, str, str], list[Entry]]:
    tables: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries:
        tables.setdefault((entry.paper, entry.table, entry.recipe), []).append(entry)
    return tables


def _show(figure: Published) -> str:
    return f"{figure.top1:.2f}" + ("" if figure.std is None else f" ± {figure.std:.2f}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("s" if number != 1 else "")


def _where(omitted: Omitted) -> str:
    return f"{omitted.paper}, {omitted.table}"
