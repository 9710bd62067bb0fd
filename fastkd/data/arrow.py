"""A data set that Hugging Face's library saved (`save_to_disk`): `hf:FOLDER`, read by pyarrow's memory map."""

import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from torch import Tensor

from fastkd.data.base import DataSet, Reading
from fastkd.data.decoding import BadImage, Head, decode, probe_bytes
from fastkd.data.folder import existing_folder
from fastkd.data.listing import TEST, UNTOLD, VALIDATION, Listing, data_set_of, part_of
from fastkd.support.errors import UserError, nearest
from fastkd.support.files import read_json
from fastkd.support.paths import explained, is_file, is_folder
from fastkd.support.schemas import SavedFeatures, SavedSplits, SavedState, checked

_HINT = 'pip install "fastkd[hf]"'
_MOST_FILES = 100_000


def saved_data_set(path: str, reading: Reading, cache: Path | None = None) -> DataSet:
    """The images of a saved data set, or of the splits of a saved dictionary of data sets, in their own order.

    The class names are those of its features. Raises UserError where it holds paths instead of images.
    """
    root = existing_folder(path, "hf")
    parts = [_Part(root / name, reading.label_column, name) for name in _splits(root)]
    first = parts[0]
    for part in parts[1:]:
        if part.names != first.names:
            raise UserError(f"{part.folder} has other classes than {first.folder}")
    records = Rows([Column(part.folder, part.image_column, part.name or root.name, part.images) for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    keys = first.names or tuple(str(number) for number in sorted(set(labels.tolist())))
    if not first.names:
        labels = np.searchsorted([int(key) for key in keys], labels)
    listing = Listing(
        origin="hf",
        root=root,
        records=records,
        keys=keys,
        names=keys if first.names else (),
        labels=labels.astype(np.int64),
        parts=np.concatenate([np.full(len(part.labels), part.told, np.int8) for part in parts]),
        state=b"".join(part.state for part in parts),
        in_order=True,
    )
    return data_set_of(listing, reading, cache)


def pyarrow() -> Any:
    """The library, which is an extra. Raises UserError."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise UserError(f"--data hf: pyarrow is not installed: {_HINT}") from error


class Column(NamedTuple):
    """The images of one split."""

    folder: Path
    key: str
    """What the column is called there."""
    name: str
    """What a person calls the split."""
    images: Any
    """pyarrow's column, in a memory map."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _column_of, (self.folder, self.key, self.name)


def _column_of(folder: Path, key: str, name: str) -> Column:
    return Column(folder, key, name, _table(_arrow_files(folder)).column(key))


class Rows:
    """The images of tables in memory maps; a forked worker reads the same pages."""

    def __init__(self, parts: list[Column], places: np.ndarray | None = None):
        self._parts = parts
        self._chunks = [chunk for part in parts for chunk in part.images.chunks]
        self._ends = np.cumsum([len(chunk) for chunk in self._chunks])
        begins = np.cumsum([0, *(len(part.images) for part in parts)])
        self._begins = begins
        self._places = np.arange(begins[-1]) if places is None else places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> str:
        row = int(self._places[place])
        part = int(np.searchsorted(self._begins, row, side="right")) - 1
        return f"{self._parts[part].name}[{row - int(self._begins[part])}]"

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def name(self, place: int) -> bytes:
        return self[place].encode()

    def head(self, place: int) -> Head:
        content = self.encoded(place).data

        def read(count: int, offset: int) -> bytes:
            return bytes(content[offset : offset + count])

        return probe_bytes(read, len(content), lambda: io.BytesIO(content))

    def encoded(self, place: int) -> np.ndarray:
        row = int(self._places[place])
        number = int(np.searchsorted(self._ends, row, side="right"))
        chunk = self._chunks[number]
        within = row - int(self._ends[number]) + len(chunk)
        value = chunk[within]
        content = value["bytes"] if hasattr(value, "keys") else value
        if not content.is_valid:
            raise BadImage("holds no image: it was saved with a path in its place")
        return np.frombuffer(content.as_buffer(), np.uint8)

    def pixels(self, place: int) -> Tensor:
        return decode(self.encoded(place).copy())  # torch warns of memory that it could write to, but must not

    def take(self, places: np.ndarray) -> Self:
        return type(self)(self._parts, self._places[places])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._parts, self._places)  # another process maps the files itself


class _Part:
    """One split: its images, labels and what its features say."""

    def __init__(self, folder: Path, label_column: str | None, name: str):
        self.folder, self.name = folder, name
        self.told = UNTOLD if not name else (part_of(name) or 0)
        features = checked(SavedFeatures, read_json(folder / "dataset_info.json"), str(folder / "dataset_info.json"))
        kinds = {key: about for key, about in features["features"].items() if isinstance(about, dict)}
        image = _only(folder, "image", [key for key, about in kinds.items() if about.get("_type") == "Image"], None)
        classes = [key for key, about in kinds.items() if about.get("_type") == "ClassLabel"]
        numbers = [key for key in kinds if key in ("label", "labels", "class", "fine_label")]
        label = _only(folder, "label", classes or numbers, label_column, known=list(kinds))
        names = kinds[label].get("names", [])
        if not (isinstance(names, list) and all(isinstance(one, str) for one in names)):
            raise UserError(f"{folder / 'dataset_info.json'}: the names of {label} are no list of words")
        self.names = tuple(names)
        files = _arrow_files(folder)
        table = _table(files)
        for column in (image, label):
            if column not in table.column_names:
                raise UserError(f"{folder} has no column {column!r}, which its dataset_info.json names")
        self.image_column, self.images = image, table.column(image)
        self.labels = _labels(folder, table.column(label), label, len(self.names))
        abouts = [file.stat() for file in files]
        self.state = repr([(about.st_size, about.st_mtime_ns) for about in abouts]).encode()


def _splits(root: Path) -> list[str]:
    """The folders of the splits that are used; "" where the folder itself is one data set."""
    if is_file(root / "state.json"):
        return [""]
    if not is_file(root / "dataset_dict.json"):
        raise UserError(f"{root} is no data set that `save_to_disk` wrote: it has no state.json or dataset_dict.json")
    splits = checked(SavedSplits, read_json(root / "dataset_dict.json"), str(root / "dataset_dict.json"))["splits"]
    there = [name for name in splits if os.path.basename(name) == name and is_folder(root / name)]
    train = next((name for name in there if part_of(name) == 0), None)
    others = [name for name in there if part_of(name) in (TEST, VALIDATION)]
    if train is None:
        raise UserError(f"{root} has no split 'train': it has {', '.join(map(repr, splits)) or 'none'}")
    return [train, *others]


def _arrow_files(folder: Path) -> list[Path]:
    state = checked(SavedState, read_json(folder / "state.json"), str(folder / "state.json"))
    if state.get("_indices_files"):
        raise UserError(f"{folder} was saved with an order of its own: save it again after `flatten_indices()`")
    names = [entry["filename"] for entry in state["_data_files"]]
    if not 1 <= len(names) <= _MOST_FILES:
        raise UserError(f"{folder / 'state.json'} names {len(names):,} files: 1 to {_MOST_FILES:,} are read")
    for name in names:
        if os.path.basename(name) != name or not is_file(folder / name):
            raise UserError(f"{folder} has no file {name!r}, which its state.json names")
    return [folder / name for name in names]


def _table(files: list[Path]) -> Any:
    arrow = pyarrow()
    tables = []
    for file in files:
        with explained("cannot read", file):
            try:
                tables.append(arrow.ipc.open_stream(arrow.memory_map(str(file))).read_all())
            except arrow.ArrowInvalid as error:
                raise UserError(f"{file} is no Arrow stream: {error}") from error
    try:
        return arrow.concat_tables(tables)
    except arrow.ArrowInvalid as error:
        raise UserError(f"{files[0].parent}: its files have other columns each: {error}") from error


def _labels(folder: Path, column: Any, name: str, classes: int) -> np.ndarray:
    arrow = pyarrow()
    if not arrow.types.is_integer(column.type) or column.null_count:
        raise UserError(f"{folder}: the column {name!r} is to be whole numbers, got {column.type}")
    labels = column.to_numpy().astype(np.int64)
    if len(labels) and (labels.min() < 0 or (classes and labels.max() >= classes)):
        wrong = int(labels.min() if labels.min() < 0 else labels.max())
        raise UserError(f"{folder}: the column {name!r} has a label {wrong}, of {classes} classes")
    return labels


def _only(folder: Path, what: str, found: list[str], wanted: str | None, known: list[str] | None = None) -> str:
    if wanted is not None:
        if wanted not in (known or found):
            raise UserError(f"{folder} has no column {wanted!r}{nearest(wanted, known or found)}")
        return wanted
    if len(found) != 1:
        there = f"several columns of the kind {what}: {', '.join(found)}" if found else f"no column of the kind {what}"
        how = ": --label-column NAME says which" if what == "label" else ""
        raise UserError(f"{folder} has {there}{how}")
    return found[0]
