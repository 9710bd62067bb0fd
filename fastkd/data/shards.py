"""Where tar shards lie and how parts of them are read: files of this machine, or of a store that fsspec knows."""

import functools
import glob
import importlib
import itertools
import os
import re
from collections.abc import Sequence
from typing import Any, BinaryIO

from fastkd.data.decoding import BadImage, unreadable
from fastkd.support.errors import UserError
from fastkd.support.paths import expanded, explained

_HINT = 'pip install "fastkd[remote]", and what the store itself needs'
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_SHARDS = 1_000_000
_OPEN = 64
"""Shards that a process holds open; the next one closes the one that was not read for the longest time."""


class Shards:
    """Files that a pattern names, in the order of their names."""

    def __init__(self, pattern: str):
        self.remote = "://" in pattern
        patterns = list(_expanded(pattern))
        if self.remote:
            self._store = patterns[0].partition("://")[0]
            found = [name for one in patterns for name in _store_of(self._store, os.getpid()).glob(one)]
        else:
            found = [name for one in patterns for name in glob.glob(str(expanded(one)))]
        self.paths = sorted(set(found))
        if not self.paths:
            raise UserError(f"no shards {pattern}")

    def __len__(self) -> int:
        return len(self.paths)

    def state(self, number: int) -> str:
        """What changes when the shard does: its size and time, or what the store has in their place."""
        path = self.paths[number]
        if self.remote:
            about = _store_of(self._store, os.getpid()).info(path)
            marks = [about.get(name) for name in ("ETag", "etag", "mtime", "LastModified", "created")]
            return repr((about.get("size"), *(str(mark) for mark in marks if mark is not None)))
        with explained("cannot read", path):
            about = os.stat(path)
        return repr((about.st_size, about.st_mtime_ns))

    def opened(self, number: int) -> BinaryIO:
        """The shard, to be read from its beginning."""
        path = self.paths[number]
        if self.remote:
            return _store_of(self._store, os.getpid()).open(path, "rb")
        with explained("cannot read", path):
            return open(path, "rb")

    def read(self, number: int, count: int, offset: int) -> bytes:
        """A part of a shard, less at its end. Raises BadImage where the system or the store does not give it."""
        path = self.paths[number]
        try:
            if self.remote:
                return _store_of(self._store, os.getpid()).cat_file(path, offset, offset + count)
            held = _descriptor(path, os.getpid())  # another thread may make the cache let go of it meanwhile
            return os.pread(held.number, count, offset)
        except OSError as error:
            raise BadImage(unreadable(error)) from error


class _Descriptor:
    """An open file, closed when nothing holds it any more."""

    def __init__(self, path: str):
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@functools.lru_cache(maxsize=_OPEN)
def _descriptor(path: str, process: int) -> _Descriptor:
    return _Descriptor(path)


@functools.cache
def _store_of(protocol: str, process: int) -> Any:
    """The store; each process has its own, since connections do not outlive a fork."""
    try:
        return importlib.import_module("fsspec").filesystem(protocol)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot read {protocol}://…: {error}: {_HINT}") from error


def _expanded(pattern: str) -> Sequence[str]:
    """`{train,val}-{000..146}.tar` as every name that it stands for, as shells do."""
    parts = _BRACES.split(pattern)
    choices = [_choices(part) if place % 2 else [part] for place, part in enumerate(parts)]
    if (count := functools.reduce(lambda left, right: left * len(right), choices, 1)) > _MOST_SHARDS:
        raise UserError(f"{pattern} names {count:,} shards, more than {_MOST_SHARDS:,}")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
    if ends := _RANGE.fullmatch(inside):
        first, last = int(ends[1]), int(ends[2])
        if not 0 <= last - first < _MOST_SHARDS:
            raise UserError(f"{{{inside}}} is no range of at most {_MOST_SHARDS:,} shards")
        return [f"{number:0{len(ends[1])}}" for number in range(first, last + 1)]
    return inside.split(",")
