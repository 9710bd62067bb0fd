"""One scan of image folders: which files there are, what size they have, which of them cannot be used.

Names, sizes and times are listed anew every time; heads and tails are looked at once and kept, until one of those
changes (`cache`).
"""

import hashlib
import io
import itertools
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastkd.data.debris import copies, doubles, is_debris
from fastkd.data.decoding import EXTENSIONS, BadImage, probe
from fastkd.data.paths import Paths
from fastkd.support.errors import UserError
from fastkd.support.files import make_folder, parse_json, read_bytes, write_bytes
from fastkd.support.schemas import Index, checked

_FORMAT = 2
_MOST_OF_AN_INDEX = 1 << 32
_FOLDERS = 256  # folders a thread lists before it takes the next
_PORTION = 4096  # files a thread looks at before it takes the next portion


@dataclass(frozen=True)
class Found:
    """The files of one split, class after class, within a class in the order of their paths."""

    paths: Paths
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
    name: str
    """What `scan` was told to keep it under."""
    key: str
    """A digest of the files' names, sizes and times, which tells whether what was kept is still true."""
    bad_places: dict[int, str]
    """{row number: what is wrong with the file}"""

    @property
    def usable(self) -> np.ndarray:
        """Row numbers of the usable files."""
        return np.flatnonzero(self.sizes[:, 0] > 0)

    def without(self, bad: dict[str, str]) -> "Found":
        """What the scan would have found if these files, {path: what is wrong}, had been bad, too."""
        places = {place: bad[path] for place, path in enumerate(self.paths) if path in bad}
        sizes = self.sizes.copy()
        sizes[list(places)] = 0
        named = {self.paths[place]: reason for place, reason in places.items()}
        return replace(self, sizes=sizes, bad=self.bad | named, bad_places=self.bad_places | places)

    def keep(self, folder: Path) -> None:
        """Writes what the next `scan` reads instead of the files' heads."""
        heads = _Heads(self.sizes, self.plain, self.bad_places, self.scaled)
        _write(_file(folder, self.name, self.paths.root), self.key, heads)


class _Listed(NamedTuple):
    """What a folder says about its files; nothing has been opened."""

    paths: Paths
    state: np.ndarray
    """[n,2] int64: bytes and time of the last change."""
    bad: dict[str, str]
    ignored: list[str]
    debris: list[str]
    doubles: list[str]


def scan(root: Path, folders: Sequence[str], *, threads: int, cache: Path | None = None, name: str = "") -> Found:
    """The images of root/FOLDER and all below it; a folder's position in the list is its label.

    cache: a folder that keeps what was found, under `name`, for the next time.
    """
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        share = max(1, min(_FOLDERS, len(folders) // (4 * threads or 1)))  # a task for each of 100,000 would cost more
        some = [folders[first : first + share] for first in range(0, len(folders), share)]
        parts = pool.map(lambda part: [_list_files(str(root), folder) for folder in part], some)
        listed = list(itertools.chain.from_iterable(parts))
        paths = Paths.joined(str(root), [part.paths for part in listed])
        counts = np.array([len(part.paths) for part in listed], dtype=np.int64)
        labels = np.repeat(np.arange(len(folders), dtype=np.int64), counts)
        file = None if cache is None else _file(cache, name, str(root))
        key = _digest(paths.blob, paths.lengths, labels, *(part.state for part in listed))
        heads = _read(file, key, len(paths)) if file is not None else None
        if heads is None:
            portions = [range(first, min(first + _PORTION, len(paths))) for first in range(0, len(paths), _PORTION)]
            probed = list(pool.map(lambda portion: _probe(paths, portion), portions))
            heads = _Heads(
                np.concatenate([part.sizes for part in probed] or [np.empty((0, 2), np.int32)]),
                np.concatenate([part.plain for part in probed] or [np.empty(0, bool)]),
                {place: reason for part in probed for place, reason in part.bad.items()},
                sum(part.scaled for part in probed),
            )
            if file is not None:
                _write(file, key, heads)
    bad = {path: reason for part in listed for path, reason in part.bad.items()}
    bad |= {paths[place]: reason for place, reason in heads.bad.items()}
    ignored = tuple(itertools.chain.from_iterable(part.ignored for part in listed))
    debris = tuple(itertools.chain.from_iterable(part.debris for part in listed))
    again = tuple(itertools.chain.from_iterable(part.doubles for part in listed))
    named = (ignored, debris, again)
    return Found(paths, labels, heads.sizes, heads.plain, bad, *named, heads.scaled, name, key, heads.bad)


def class_folders(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the folders in `root`, sorted: those that may be classes, and what tools left among them."""
    try:
        with os.scandir(root) as entries:
            folders = {entry.name for entry in entries if entry.is_dir()}
    except OSError as error:
        raise UserError(f"cannot read the folder {root}: {error.strerror or error}") from error
    never = {name for name in folders if is_debris(name)}
    never |= copies(folders - never)
    return tuple(sorted(folders - never)), tuple(sorted(never))


def _list_files(root: str, folder: str) -> _Listed:
    listed = _Listed(Paths.of(root, ()), np.empty((0, 2), np.int64), {}, [], [], [])
    found = sorted(_walk(root, folder, listed))
    if not found:
        return listed
    if any(b"(" in entry[0] for entry in found):
        again = doubles({os.fsdecode(name): size for name, size, _ in found})
        listed.doubles.extend(os.path.join(root, name) for name in again)
    state = np.array([entry[1:] for entry in found], dtype=np.int64)
    return listed._replace(paths=Paths.of(root, [entry[0] for entry in found]), state=state)


class _Above(NamedTuple):
    """The folders that a folder lies in, from the nearest on."""

    own: tuple[int, int]
    above: "_Above | None"

    def __contains__(self, folder: object) -> bool:
        around: _Above | None = self
        while around is not None:
            if around.own == folder:
                return True
            around = around.above
        return False


def _walk(root: str, first: str, listed: _Listed) -> Iterator[tuple[bytes, int, int]]:
    """Yields (name below root, bytes, nanoseconds of the last change); links are followed, but not in circles.

    What is no image, and what is wrong, is noted in `listed`.
    """
    waiting: list[tuple[str, _Above | None]] = [(first, None)]
    while waiting:
        folder, above = waiting.pop()
        path = os.path.join(root, folder)
        try:
            about = os.stat(path)
            own = (about.st_dev, about.st_ino)
            if above is not None and own in above:
                listed.bad[path] = "is a link to a folder that it lies in"
                continue
            with os.scandir(path) as entries:
                inside = list(entries)
        except OSError as error:
            listed.bad[path] = f"cannot be read: {error.strerror or error}"
            continue
        copied = copies({entry.name for entry in inside})
        for entry in inside:
            name = os.path.join(folder, entry.name)
            try:
                if is_debris(entry.name) or entry.name in copied:
                    listed.debris.append(entry.path)
                elif entry.is_dir():
                    waiting.append((name, _Above(own, above)))
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                    about = entry.stat()
                    yield os.fsencode(name), about.st_size, about.st_mtime_ns
                else:
                    listed.ignored.append(entry.path)
            except OSError as error:  # links that lead nowhere, or to themselves
                listed.bad[entry.path] = f"cannot be read: {error.strerror or error}"


class _Heads(NamedTuple):
    """What the heads of the files say, as in `Found`."""

    sizes: np.ndarray
    plain: np.ndarray
    bad: dict[int, str]
    """{row number: what is wrong with the file}"""
    scaled: int = 0


def _probe(paths: Paths, portion: range) -> _Heads:
    sizes, plain = np.zeros((len(portion), 2), np.int32), np.zeros(len(portion), bool)
    bad: dict[int, str] = {}
    scaled, root = 0, os.fsencode(os.path.join(paths.root, ""))
    for row, place in enumerate(portion):
        try:
            head = probe(root + paths.name(place))
            sizes[row], plain[row] = (head.width, head.height), head.plain
            scaled += head.scaled
        except BadImage as error:
            bad[place] = str(error)
    return _Heads(sizes, plain, bad, scaled)


def _digest(*parts: np.ndarray | bytes) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return found.hexdigest()


def _file(folder: Path, name: str, root: str) -> Path:
    return folder / f"index-{name}-{_digest(os.fsencode(os.path.abspath(root)))[:12]}.npz"


def _read(file: Path, key: str, count: int) -> _Heads | None:
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
            heads = _Heads(arrays["sizes"], arrays["plain"], bad, about["scaled"])
            return heads if _is_whole(heads, count) else None
    except Exception:  # a damaged archive fails in many ways; the scan is the cure for all of them
        return None


def _is_whole(heads: _Heads, count: int) -> bool:
    """Whether the arrays are those of so many files, and the files without a size those that cannot be used."""
    sizes, plain = heads.sizes, heads.plain
    if (sizes.shape, sizes.dtype, plain.shape, plain.dtype) != ((count, 2), np.int32, (count,), np.bool_):
        return False
    return bool((sizes >= 0).all()) and heads.bad.keys() == set(np.flatnonzero((sizes == 0).any(1)).tolist())


def _write(file: Path, key: str, heads: _Heads) -> None:
    buffer = io.BytesIO()
    about = json.dumps({"format": _FORMAT, "key": key, "bad": heads.bad, "scaled": heads.scaled}).encode()
    np.savez(buffer, about=np.frombuffer(about, np.uint8), sizes=heads.sizes, plain=heads.plain)
    make_folder(file.parent)
    write_bytes(file, buffer.getvalue())
