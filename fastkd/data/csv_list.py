"""A CSV file that lists image files with their classes: `csv:FILE`."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from fastkd.data.base import DataSet, Reading
from fastkd.data.listing import UNTOLD, Listing, data_set_of, part_of
from fastkd.data.paths import Paths
from fastkd.support.errors import UserError, nearest
from fastkd.support.files import read_text
from fastkd.support.paths import expanded, is_file

_PATH, _LABEL, _SPLIT = ("path", "file", "filename", "image"), ("label", "class"), ("split", "set")
"""The names that columns may have."""
_PORTION = 512  # files a thread asks the system about before it takes the next


def csv_list(path: str, reading: Reading, cache: Path | None = None) -> DataSet:
    """The images of a CSV file with a head: columns `path` and `label`, and `split` (train, val, test) if there is one.

    Paths are relative to the folder of the file and lie below it.
    """
    if not path:
        raise UserError("csv needs a file: --data csv:FILE")
    file = expanded(path)
    if not is_file(file):
        raise UserError(f"no file {path} (from --data csv:{path})")
    lines = _lines(file, reading.label_column)
    keys = sorted({label for _, label, _ in lines})
    label_of = {key: place for place, key in enumerate(keys)}
    root = file.absolute().parent
    records = Paths.of(str(root), [name for name, _, _ in lines])
    listing = Listing(
        origin="csv",
        root=root,
        records=records,
        keys=tuple(keys),
        labels=np.array([label_of[label] for _, label, _ in lines], dtype=np.int64),
        parts=np.array([part for _, _, part in lines], dtype=np.int8),
        state=_state(records, reading.lookers),
    )
    return data_set_of(listing, reading, cache)


def _lines(file: Path, label_column: str | None) -> list[tuple[bytes, str, int]]:
    """(name below the file's folder, label, part) of every line."""
    rows = csv.reader(io.StringIO(read_text(file), newline=""), strict=True)
    try:
        head = [name.strip() for name in next(rows, [])]
        path = _column(file, head, _PATH)
        label = _column(file, head, (label_column,) if label_column else _LABEL)
        split = next((head.index(name) for name in _SPLIT if name in head), None)
        return list(_parsed(file, rows, len(head), path, label, split))
    except csv.Error as error:
        raise UserError(f"{file}, line {rows.line_num}: {error}") from error


def _parsed(
    file: Path, rows: Iterator[Sequence[str]], width: int, path: int, label: int, split: int | None
) -> Iterator[tuple[bytes, str, int]]:
    seen: dict[bytes, int] = {}
    for row in rows:
        if not row:
            continue
        where = f"{file}, line {rows.line_num}"  # pyright: ignore[reportAttributeAccessIssue]
        if len(row) != width:
            raise UserError(f"{where}: expected {width} columns, got {len(row)}")
        name, key = _name_below(file, row[path], where), row[label].strip()
        if not key:
            raise UserError(f"{where}: {row[path]} has no label")
        if name in seen:
            raise UserError(f"{where}: {row[path]} stands in line {seen[name]}, too")
        seen[name] = rows.line_num  # pyright: ignore[reportAttributeAccessIssue]
        word = row[split].strip() if split is not None else ""
        part = part_of(word) if word else UNTOLD
        if part is None:
            raise UserError(f"{where}: expected train, val or test in the column {_SPLIT[0]}, got {word!r}")
        yield name, key, part


def _name_below(file: Path, path: str, where: str) -> bytes:
    """The normal form of a path below the file's folder; raises UserError for one that leads elsewhere."""
    name = os.path.normpath(path.strip())
    if os.path.isabs(name):
        name = os.path.relpath(name, file.absolute().parent)
    if not path.strip() or "\0" in name or name == "." or name.split(os.sep)[0] == os.pardir:
        raise UserError(f"{where}: {path!r} is no path below the folder of {file.name}")
    return os.fsencode(name)


def _column(file: Path, head: list[str], names: Sequence[str]) -> int:
    for name in names:
        if name in head:
            return head.index(name)
    wanted = " or ".join(map(repr, names))
    there = f"its columns are {', '.join(head)}{nearest(names[0], head)}" if any(head) else "it has no head"
    raise UserError(f"{file} has no column {wanted}: {there}")


def _state(records: Paths, threads: int) -> bytes:
    """Sizes and times of the files; nothing for one that is not there."""
    portions = [range(first, min(first + _PORTION, len(records))) for first in range(0, len(records), _PORTION)]
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        found = pool.map(lambda portion: b"".join(_state_of(records[place]) for place in portion), portions)
        return b"".join(found)


def _state_of(path: str) -> bytes:
    try:
        about = os.stat(path)
    except (OSError, ValueError):
        return bytes(16)
    return about.st_size.to_bytes(8) + (about.st_mtime_ns % 2**64).to_bytes(8)
