"""What a look at the images of a split finds, and how it is kept: heads and tails are looked at once, until names,
sizes or times change (`cache`)."""

import hashlib
import io
import json
import os
import zipfile
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np

from fastkd.data.decoding import BadImage
from fastkd.data.records import Records
from fastkd.support.files import make_folder, parse_json, read_bytes, write_bytes
from fastkd.support.schemas import Index, checked

_FORMAT = 2
_MOST_OF_AN_INDEX = 1 << 32
_PORTION = 512  # images a thread looks at before it takes the next portion


class Scan(Protocol):
    """What was found out about the images of a split, which need not be found out again."""

    def without(self, bad: dict[str, str]) -> Self:
        """What the scan would have found if these images, {path: what is wrong}, had been bad, too."""
        ...

    def keep(self, folder: Path) -> None:
        """Writes what the next scan reads instead of the images' heads."""
        ...


@dataclass(frozen=True)
class Found:
    """The images of one split, class after class, within a class in the order of their paths."""

    records: Records
    labels: np.ndarray
    """[n] int64"""
    sizes: np.ndarray
    """[n,2] int32: width and height; 0 for a file that cannot be used."""
    plain: np.ndarray
    """[n] bool, see `decoding.Head`."""
    bad: dict[str, str]
    """{path: what is wrong with it}"""
    ignored: tuple[str, ...]
    """Files whose names do not end as an image's does."""
    debris: tuple[str, ...]
    """Files and folders that tools left there, see `debris`."""
    doubles: tuple[str, ...]
    """Files that may be copies of others, by their names and sizes; they are taken all the same."""
    scaled: int
    """How many files have 16 bits a channel, of which the upper 8 are kept."""
    root: str
    """Where they lie."""
    name: str
    """What it is kept under."""
    key: str
    """A digest of the files' names, sizes and times, which tells whether what was kept is still true."""
    bad_places: dict[int, str]
    """{row number: what is wrong with the file}"""

    @property
    def usable(self) -> np.ndarray:
        """Row numbers of the usable files."""
        return np.flatnonzero(self.sizes[:, 0] > 0)

    def take(self, places: np.ndarray) -> "Found":
        """What was found of some of the images."""
        records = self.records.take(places)
        bad = {row: self.bad_places[place] for row, place in enumerate(places.tolist()) if place in self.bad_places}
        all_of_them = {self.records[place] for place in self.bad_places}
        others = {path: reason for path, reason in self.bad.items() if path not in all_of_them}
        return replace(
            self,
            records=records,
            labels=self.labels[places],
            sizes=self.sizes[places],
            plain=self.plain[places],
            bad_places=bad,
            bad=others | {records[row]: reason for row, reason in bad.items()},
        )

    def without(self, bad: dict[str, str]) -> Self:
        """What the scan would have found if these files, {path: what is wrong}, had been bad, too."""
        places = {place: bad[path] for place, path in enumerate(self.records) if path in bad}
        sizes = self.sizes.copy()
        sizes[list(places)] = 0
        named = {self.records[place]: reason for place, reason in places.items()}
        return replace(self, sizes=sizes, bad=self.bad | named, bad_places=self.bad_places | places)

    def keep(self, folder: Path) -> None:
        """Writes what the next `scan` reads instead of the files' heads."""
        heads = Heads(self.sizes, self.plain, self.bad_places, self.scaled)
        _write(index_file(folder, self.name, self.root), self.key, heads)


class Heads(NamedTuple):
    """What the heads of the files say, as in `Found`."""

    sizes: np.ndarray
    plain: np.ndarray
    bad: dict[int, str]
    """{row number: what is wrong with the file}"""
    scaled: int = 0


def look(records: Records, key: str, pool: Executor, file: Path | None) -> Heads:
    """What the heads of the images say.

    key: a digest of their names, sizes and times. file: what an earlier look with that key
    kept, or where this one is kept.
    """
    heads = _read(file, key, len(records)) if file is not None else None
    if heads is None:
        portions = [range(first, min(first + _PORTION, len(records))) for first in range(0, len(records), _PORTION)]
        probed = list(pool.map(lambda portion: _probe(records, portion), portions))
        heads = Heads(
            np.concatenate([part.sizes for part in probed] or [np.empty((0, 2), np.int32)]),
            np.concatenate([part.plain for part in probed] or [np.empty(0, bool)]),
            {place: reason for part in probed for place, reason in part.bad.items()},
            sum(part.scaled for part in probed),
        )
        if file is not None:
            _write(file, key, heads)
    return heads


def look_at(records: Records, *, threads: int) -> tuple[Heads, dict[int, str]]:
    """What the heads of the images say, looked at now; and {row number: what is wrong}."""
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        heads = look(records, "", pool, None)
    return heads, heads.bad


def _probe(records: Records, portion: range) -> Heads:
    sizes, plain = np.zeros((len(portion), 2), np.int32), np.zeros(len(portion), bool)
    bad: dict[int, str] = {}
    scaled = 0
    for row, place in enumerate(portion):
        try:
            head = records.head(place)
            sizes[row], plain[row] = (head.width, head.height), head.plain
            scaled += head.scaled
        except BadImage as error:
            bad[place] = str(error)
    return Heads(sizes, plain, bad, scaled)


def digest(*parts: np.ndarray | bytes) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return found.hexdigest()


def index_file(folder: Path, name: str, root: str) -> Path:
    return folder / f"index-{name}-{digest(os.fsencode(os.path.abspath(root)))[:12]}.npz"


def _read(file: Path, key: str, count: int) -> Heads | None:
    """What an earlier scan kept; None if it kept nothing, if files have changed since, or if the archive is damaged."""
    try:
        content = read_bytes(file, most=_MOST_OF_AN_INDEX)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > len(content):
                return None  # `_write` packs nothing
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            about = checked(Index, parse_json(arrays["about"].tobytes().decode()), str(file))
            if about["format"] != _FORMAT or about["key"] != key:
                return None
            bad = {int(place): reason for place, reason in about["bad"].items()}
            heads = Heads(arrays["sizes"], arrays["plain"], bad, about["scaled"])
            return heads if _is_whole(heads, count) else None
    except Exception:  # a damaged archive fails in many ways; the scan is the cure for all of them
        return None


def _is_whole(heads: Heads, count: int) -> bool:
    """Whether the arrays are those of so many files, and the files without a size those that cannot be used."""
    sizes, plain = heads.sizes, heads.plain
    if (sizes.shape, sizes.dtype, plain.shape, plain.dtype) != ((count, 2), np.int32, (count,), np.bool_):
        return False
    return bool((sizes >= 0).all()) and heads.bad.keys() == set(np.flatnonzero((sizes == 0).any(1)).tolist())


def _write(file: Path, key: str, heads: Heads) -> None:
    buffer = io.BytesIO()
    about = json.dumps({"format": _FORMAT, "key": key, "bad": heads.bad, "scaled": heads.scaled}).encode()
    np.savez(buffer, about=np.frombuffer(about, np.uint8), sizes=heads.sizes, plain=heads.plain)
    make_folder(file.parent)
    write_bytes(file, buffer.getvalue())
