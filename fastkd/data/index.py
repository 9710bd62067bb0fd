"""One scan of image folders: which files there are, what size they have, which of them cannot be used.

Names, sizes and times are listed anew every time.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastkd.data.debris import copies, doubles, is_debris
from fastkd.data.decoding import EXTENSIONS
from fastkd.data.found import Found, digest, index_file, look
from fastkd.data.paths import Paths
from fastkd.support.errors import UserError

_FOLDERS = 256  # folders a thread lists before it takes the next


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
        file = None if cache is None else index_file(cache, name, str(root))
        key = digest(paths.blob, paths.lengths, labels, *(part.state for part in listed))
        heads = look(paths, key, pool, file)
    bad = {path: reason for part in listed for path, reason in part.bad.items()}
    bad |= {paths[place]: reason for place, reason in heads.bad.items()}
    ignored = tuple(itertools.chain.from_iterable(part.ignored for part in listed))
    debris = tuple(itertools.chain.from_iterable(part.debris for part in listed))
    again = tuple(itertools.chain.from_iterable(part.doubles for part in listed))
    named = (ignored, debris, again)
    return Found(paths, labels, heads.sizes, heads.plain, bad, *named, heads.scaled, str(root), name, key, heads.bad)


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
