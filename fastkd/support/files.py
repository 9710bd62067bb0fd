"""Files that are there whole or not at all, and foreign files that are looked at before they are read."""

import contextlib
import hashlib
import io
import json
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fastkd.support import environment
from fastkd.support.errors import UserError
from fastkd.support.paths import explained, is_there, reason

_MOST_TEXT = 1 << 28
"""Bytes of the largest text that is read: the log of a very long run has some megabytes."""
_DEEPEST_JSON = 64
T = TypeVar("T")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes beside the file, flushes to the disk, then renames: whoever looks sees the old content or the new."""
    write_by(path, lambda file: file.write(content))


def write_by(path: Path, fill: Callable[[BinaryIO], T]) -> T:
    """Does as `write_bytes` with what `fill` writes into the file that it is given; returns what it returns.

    What `fill` raises leaves what stood there as it was; an OSError of it is a UserError here.
    """
    with explained("cannot write", path):
        aside = _aside(path)
        strange = path.exists() and not path.is_file()
    if strange:  # a rename would put a file in the place of /dev/null
        raise UserError(f"cannot write {path}: it is no regular file")
    before, renamed = is_there(path), False
    try:
        with _created(aside) as file:
            filled = fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        renamed = True
        sync_folder(path.parent)
    except BaseException as error:
        if not renamed:
            with contextlib.suppress(OSError):
                aside.unlink()
        if not isinstance(error, OSError):
            raise
        kept = "; what stood there before is intact" if before else ""
        state = "; the new content stands there, but may not outlive a power cut" if renamed else kept
        raise UserError(f"cannot write {path}: {reason(error)}{state}") from error
    return filled


def _aside(path: Path) -> Path:
    """Where the new content of a file is written; processes of two machines may have the same number."""
    return path.with_name(f".{path.name}.{os.getpid()}{secrets.randbelow(10**6):06}")


def _created(path: Path) -> io.BufferedWriter:
    """A new file: what a killed process of the same number left there is removed, and no link is followed."""
    how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(path, how, 0o666), "wb")
    except FileExistsError:
        path.unlink()
        return os.fdopen(os.open(path, how, 0o666), "wb")


def open_in_place(path: Path, how: int, mode: str) -> io.BufferedRandom | io.BufferedWriter:
    """Opens a file that is changed where it stands: a regular one, reached by no link; made where there is none.

    Raises OSError, or UserError for a pipe or a device.
    """
    number = os.open(path, how | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise UserError(f"cannot write {path}: it is no regular file")
    return os.fdopen(number, mode)  # pyright: ignore[reportReturnType]


def second_name(source: Path, target: Path) -> None:
    """Gives a file a second name; where the file system has one name a file, the target is a copy of it."""
    with explained("cannot write", target):
        if target.exists() and target.samefile(source):
            return
        aside = _aside(target)
        try:
            os.link(source, aside)
        except OSError:
            aside = None
        if aside is not None:
            os.replace(aside, target)
            return
    write_bytes(target, read_bytes(source))


def sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def make_folder(path: Path, *, own: bool = False) -> None:
    """Makes a folder with its parents, each on the disk before what lies in it; one that stands there will do.

    Where one cannot be made, those that were made for it are removed.

    own: not one that a link leads to, where somebody else's files lie.
    """
    with explained("cannot create the folder", path):
        if own and os.path.islink(path):
            raise UserError(f"cannot write in {path}: it is a link")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)  # a path that is too long as a whole is known before anything is made
        missing = [folder for folder in (path, *path.parents) if not os.path.isdir(folder)]
        made: list[Path] = []
        try:
            for folder in reversed(missing):
                if not os.path.isdir(folder):  # another process may make the same
                    folder.mkdir(exist_ok=True)
                    made.append(folder)
                sync_folder(folder.parent)
        except BaseException:  # a name that is too long is known in the middle of its path
            with contextlib.suppress(OSError):
                for folder in reversed(made):
                    folder.rmdir()
            raise


def remove(path: Path) -> None:
    """Removes a file, if it is there."""
    with explained("cannot remove", path):
        path.unlink(missing_ok=True)


def read_bytes(path: Path, *, what: str = "", most: int | None = None) -> bytes:
    """The content of a regular file; pipes, devices and folders are refused before they are opened for good.

    what: `the weights `, for the message. most: bytes; None: what fits into the free memory.
    """
    with explained(f"cannot read {what}".rstrip(), path):
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not hang the program
        with os.fdopen(number, "rb") as file:
            about = os.fstat(number)
            if stat.S_ISDIR(about.st_mode):
                raise IsADirectoryError(21, "Is a directory")
            if not stat.S_ISREG(about.st_mode):
                raise UserError(f"cannot read {what}{path}: it is no regular file")
            _refuse_size(path, about.st_size, most)
            return file.read(about.st_size)  # not what a growing file, or one of /proc, makes of itself


def _refuse_size(path: Path, size: int, most: int | None) -> None:
    if most is not None and size > most:
        raise UserError(f"{path} has {size:,} bytes, expected {most:,} at most")
    free = environment.free_memory()
    if free is not None and size > free:
        raise UserError(f"{path} takes {size / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} are free")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8."""
    try:
        return read_bytes(path, most=_MOST_TEXT).decode("utf-8-sig")  # editors may put a mark in front
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8") from error


def write_text(path: Path, text: str) -> None:
    """Writes text in UTF-8; names that are none are written with the escapes that JSON has for them."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return parse_json(read_bytes(path, most=_MOST_TEXT).decode("utf-8-sig"))
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def parse_json(text: str) -> Any:
    """The value of a text; raises ValueError where it is none, or one that is nested too deeply to be ours."""
    try:
        value = json.loads(text, object_pairs_hook=_entries)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        if "Exceeds the limit" in str(error):
            raise ValueError("a number in it has thousands of digits") from None
        raise
    level = [value]
    for _ in range(_DEEPEST_JSON):
        level = [item for part in level if isinstance(part, dict | list) for item in _items(part)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary; ValueError for two entries of one name, of which one would count for nothing."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"two entries have the name {next(name for name in names if names.count(name) > 1)!r:.60}")
    return entries


def _items(part: dict[str, Any] | list[Any]) -> list[Any]:
    return list(part.values()) if isinstance(part, dict) else part


def write_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Writes a safetensors file; returns the SHA-256 of its bytes."""
    content = save({name: value.detach().cpu().contiguous() for name, value in weights.items()}, metadata or None)
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def read_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file; sha256: what its bytes have to be, where that is known."""
    content = read_bytes(path, what="the weights ")
    refuse_damage(path, content, sha256)
    try:
        return load(content)
    except (SafetensorError, ValueError, MemoryError) as error:
        raise UserError(f"cannot read the weights {path}: {error}") from error


def refuse_damage(path: Path, content: bytes, sha256: str | None) -> None:
    """Raises UserError for bytes that are not those that were written; None: nobody knows which were."""
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is not what the run wrote: damaged, or replaced by another file")


def sha256(path: Path) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()


def read_array(path: Path) -> np.ndarray:
    """The array of a file that `numpy.save` wrote; raises UserError for a header that promises more than there is."""
    with explained("cannot read", path):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"cannot read {path}: it is no regular file")
    try:
        return np.load(path, allow_pickle=False, mmap_mode="r")
    except Exception as error:  # headers fail in many ways, deep ones among them
        raise UserError(f"{path} is no array of numpy: truncated?") from error
