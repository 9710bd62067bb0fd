"""The papers' tables as a person reads them: which there are, and for each of their lines how to run it."""

from collections.abc import Iterable, Iterator

from fastkd import networks
from fastkd.data import DATASETS
from fastkd.methods import METHODS
from fastkd.recipes import RECIPES
from fastkd.recipes.recipe import Published
from fastkd.recipes.tables import ENTRIES, OMITTED, TABLES, Entry, Omitted
from fastkd.support.errors import UserError
from fastkd.support.help import columns

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


def description(*, whole: bool) -> str:
    """What stands above the help of `fastkd.train`; whole: with the name of every network."""
    recipes = "\n".join(f"  {name}: {(make.__doc__ or '').strip().splitlines()[0]}" for name, make in RECIPES.items())
    shown = networks.NETWORKS if whole else ("resnet8x4", "wrn_40_2", "vgg13", "MobileNetV2", "torchvision_resnet50")
    more = "" if whole else f" and {len(networks.NETWORKS) - len(shown)} others, which --help-all names"
    methods = columns({name: method.about for name, method in METHODS.items()})
    return (
        "Trains a teacher, by default a student-friendly one, and distils a student from it.\n\n"
        "Examples:\n"
        "  python -m fastkd.train\n"
        "  python -m fastkd.train cifar100-sftn --data cifar100:PATH --pair wrn_40_2/wrn_16_2 --method kd+at\n"
        "  python -m fastkd.train --method at --help      (shows the settings of at)\n\n"
        f"Recipes:\n{recipes}\n\n"
        f"Data sets: {', '.join(DATASETS)}\n\n"
        f"Methods, of which several are joined by +:\n{methods}\n\n"
        f"Networks: {', '.join(shown)}{more}\n\n"
        "An option that is not given leaves the recipe's value, which stands in brackets."
    )
