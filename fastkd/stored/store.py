"""The folder of one teacher's rows: what they are, said in `store.json`, and the files of each epoch."""

import contextlib
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from fastkd.stored.epochs import CHECK, EpochFiles
from fastkd.stored.key import Circumstances, Key, first_difference, words_for
from fastkd.stored.row import RowFormat
from fastkd.support import schemas
from fastkd.support.distributed import from_main, on_main
from fastkd.support.errors import UserError
from fastkd.support.files import make_folder, read_json, write_json
from fastkd.support.locks import locked
from fastkd.support.paths import explained, inside, is_folder, is_there
from fastkd.support.plain import from_plain, to_plain
from fastkd.support.words import counted

FORMAT = 1
ABOUT = "store.json"


@dataclass(frozen=True, kw_only=True)
class About:
    """What `store.json` says."""

    format: int
    key: Key
    row: RowFormat
    made_by: tuple[Circumstances, ...]
    """Every kind of machine that wrote rows."""


class Store:
    """One teacher's rows. It is written by one command at a time, whose processes all write; any number read."""

    def __init__(self, folder: Path, about: About, today: Circumstances, *, read_only: str, lock: contextlib.ExitStack):
        self.folder, self.about, self.today, self._lock = folder, about, today, lock
        self.read_only = read_only
        """Why no row may be added; "" where rows may."""
        self.notes: list[str] = []
        """What a user should know of it."""

    @classmethod
    def opened(
        cls,
        folder: Path,
        key: Key,
        row: RowFormat,
        circumstances: Circumstances,
        *,
        exact: bool = False,
        unlocked: bool = False,
    ) -> Self:
        """Opens a store, or makes one where there is none; all ranks call it.

        Raises UserError for a store whose rows have another key, lack something that `row` has, or, with `exact`, were
        made in other circumstances. Where another command holds the store, or its rows have further views, it is only
        read. unlocked: write where the file system has no locks.
        """
        lock, busy = contextlib.ExitStack(), ""

        def prepare() -> None:
            nonlocal busy
            if not is_there(folder / ABOUT):
                _refuse_other_contents(folder)
                make_folder(folder)
            try:
                lock.enter_context(locked(folder, unlocked=unlocked, doing="storing rows in"))
            except UserError as error:
                if not is_there(folder / ABOUT):
                    raise
                busy = str(error)
            _settle(folder, key, row, circumstances, exact=exact)

        try:
            on_main(prepare)
            busy = from_main(busy)
            about = read_about(folder)
        except BaseException:
            lock.close()
            raise
        if about.row.views > row.views:
            lock.close()
            busy = f"it holds {about.row.views_in_words}, here there is 1"
        store = cls(folder, about, circumstances, read_only=busy, lock=lock)
        if busy:
            store.notes.append(f"{busy}: rows that are missing are computed here, and not added")
        if (found := _made_otherwise(about, circumstances)) is not None:
            field, then, today = found
            here = f"here it is {today}"
            store.notes.append(f"made with {words_for(field)} {then}, {here}: the last bits of rows may differ")
        return store

    @classmethod
    def foreseen(cls, folder: Path, key: Key, row: RowFormat, epochs: Collection[int], *, trained: bool = True) -> str:
        """What a store will take, in words; writes nothing.

        Raises UserError where what stands in the folder would not serve, or what is missing does not fit on the disk.
        epochs: those of the store that are read. trained: whether the key's weights are those of the teacher.
        """
        if is_there(folder / ABOUT):
            about = read_about(folder)
            _compare(folder, about, key if trained else replace(key, weights=about.key.weights), row)
            row = about.row
        else:
            _refuse_other_contents(folder)
        each = row.bytes + CHECK
        whole, needed = (
            len(epochs) * key.samples * each,
            sum(_missing(folder, key, row, epoch) for epoch in epochs) * each,
        )
        _refuse_full_disk(folder, needed)
        rows = f"{counted(len(epochs), 'epoch')} of {counted(key.samples, 'row')}, {size_of(whole)}"
        return f"the store {folder} holds {rows}" + (
            f", of which {size_of(needed)} are not there yet" if needed else ""
        )

    @property
    def writable(self) -> bool:
        return not self.read_only

    @property
    def differs(self) -> list[str]:
        """In which circumstances rows were made that are not today's, in words."""
        return [note for note in self.notes if note.startswith("made with")]

    def epoch(self, epoch: int) -> EpochFiles:
        """The files of an epoch."""
        return EpochFiles(self.folder, epoch, self.about.key.samples, self.about.row.words, writable=self.writable)

    def sign(self) -> None:
        """Keeps in what circumstances rows are made; called before they are written."""
        if self.today not in self.about.made_by:
            about = read_about(self.folder)  # another process of this command may have signed, too
            self.about = replace(about, made_by=tuple(dict.fromkeys((*about.made_by, self.today))))
            write_json(self.folder / ABOUT, to_plain(self.about))

    def missing(self, epoch: int) -> int:
        """How many rows of an epoch are not there."""
        return _missing(self.folder, self.about.key, self.about.row, epoch)

    @property
    def bytes_a_row(self) -> int:
        """What a row takes on the disk, with its check."""
        return self.about.row.bytes + CHECK

    def refuse_reading_only(self) -> None:
        """Raises UserError where no row may be added."""
        if self.read_only:
            raise UserError(f"nothing can be added to the store {self.folder}: {self.read_only}")

    def refuse_full_disk(self, rows: int) -> None:
        """Raises UserError where the disk has no room for so many more rows."""
        if self.writable:
            _refuse_full_disk(self.folder, rows * self.bytes_a_row)

    def close(self) -> None:
        self._lock.close()


def _missing(folder: Path, key: Key, row: RowFormat, epoch: int) -> int:
    files = EpochFiles(folder, epoch, key.samples, row.words, writable=False)
    try:
        return int((files.checks() == 0).sum())
    finally:
        files.close()


def _refuse_full_disk(folder: Path, needed: int) -> None:
    with explained("cannot read", folder):
        free = shutil.disk_usage(_standing(folder)).free
    if needed > free:
        raise UserError(
            f"the store {folder} needs {size_of(needed)} more, the disk has {size_of(free)}: "
            "a narrower --store-type, --store-top or --store-epochs takes less"
        )


def _standing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next((one for one in (folder, *folder.parents) if is_folder(one)), folder)


def size_of(count: int) -> str:
    """So many bytes, in words."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"


def read_about(folder: Path) -> About:
    """What a store says of itself; raises UserError for what is no store of this fastkd's."""
    path = folder / ABOUT
    plain = schemas.checked(schemas.StoreFile, read_json(path), str(path))
    if plain["format"] != FORMAT:
        raise UserError(f"{path} has format {plain['format']}, this fastkd reads {FORMAT}")
    return from_plain(About, plain, str(path))


def _settle(folder: Path, key: Key, row: RowFormat, circumstances: Circumstances, *, exact: bool) -> None:
    """Writes what the store says of itself, or compares it with what is wanted."""
    path = folder / ABOUT
    if not is_there(path):
        write_json(path, to_plain(About(format=FORMAT, key=key, row=row, made_by=())))
        return
    about = read_about(folder)
    _compare(folder, about, key, row)
    if exact and (found := _made_otherwise(about, circumstances)) is not None:
        field, then, today = found
        raise UserError(
            f"--store-exact: {folder} was made with {words_for(field)} {then}, here it is {today}: "
            "the last bits of rows may differ"
        )


def _compare(folder: Path, about: About, key: Key, row: RowFormat) -> None:
    if (found := first_difference(about.key, key)) is not None:
        field, then, today = found
        instead = f"--data-seed {then}, or " if field == "data_seed" else ""
        raise UserError(
            f"the store {folder} was made with {words_for(field)} {_short(then)}, here it is {_short(today)}: "
            f"give {instead}another --teacher-outputs"
        )
    if lacking := about.row.lacks(row):
        raise UserError(f"the store {folder} does not serve here, {lacking}: give another --teacher-outputs")


def _made_otherwise(about: About, today: Circumstances) -> tuple[str, Any, Any] | None:
    """The first circumstance in which rows were made that is not today's."""
    differing = (first_difference(then, today) for then in about.made_by)
    return next((found for found in differing if found is not None), None)


def _refuse_other_contents(folder: Path) -> None:
    """Raises UserError for a folder that holds something else than a store."""
    found = inside(folder, "[!.]*")
    if found:
        raise UserError(f"{folder} is no store: it has no {ABOUT}, but {found[0].name}")


def _short(value: Any) -> str:
    text = f"{value}"
    return f"{text[:12]}…" if len(text) == 64 else text or "none"
