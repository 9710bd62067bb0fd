"""Which classes a data set has, in which order, under which names: those there are, or those that a list chooses."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fastkd.support.errors import UserError
from fastkd.support.files import read_text
from fastkd.support.paths import is_file

LIST = "classes.txt"


class Classes(NamedTuple):
    """Classes in the order of their labels."""

    keys: tuple[str, ...]
    """What the data set calls them: names of folders, numbers in a column."""
    names: tuple[str, ...]
    """What is shown."""
    notes: list[str]
    """Remarks, which the user is told once."""
    leaves_out: bool = False
    """Whether there are classes that the list does not name."""


def chosen_classes(
    there: Sequence[str], passed_over: Sequence[str], class_list: Path | None, *, beside: Path, where: str, what: str
) -> Classes:
    """The classes that are there, or those of a list.

    A list has lines KEY or KEY NAME: the classes in the order of their labels. One that lies beside the data as
    classes.txt counts where it names just the classes there are. Raises UserError.

    passed_over: keys that count only where a list names them. where: the place of the classes, for messages; what: a
    word for what a class is there.
    """
    file = Path(class_list) if class_list is not None else beside / LIST
    if class_list is None and not is_file(file):
        return Classes(tuple(there), tuple(there), [])
    known = {*there, *passed_over}
    listed = [[line] if line in known else line.split("\t" if "\t" in line else None, 1) for line in class_lines(file)]
    keys = tuple(line[0] for line in listed)
    if class_list is None and sorted(keys) != sorted(there):
        notes = [f"{file} does not name the {what}s of {where}: it is passed over"]
        return Classes(tuple(there), tuple(there), notes)
    if not keys:
        raise UserError(f"{file} names no classes")
    if twice := next((key for key, count in Counter(keys).items() if count > 1), None):
        raise UserError(f"{file} names the class {twice!r} twice")
    if missing := next((key for key in keys if key not in known), None):
        raise UserError(f"{file} names a class {missing!r} that has no {what} in {where}")
    left = len(there) - len(keys)
    notes = [f"{file} names {len(keys)} of the {len(there)} classes in {where}"] if left else []
    names = tuple(line[1].strip() if len(line) > 1 else line[0] for line in listed)
    return Classes(keys, names, notes, bool(left))


def class_lines(file: Path) -> list[str]:
    """The lines of a list of classes that say something."""
    return [line for line in read_text(file).splitlines() if line.strip()]
