"""Files as somebody else, a full disk or a failing one leaves them: made out of good ones, by a seed."""

import copy
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fastkd.support.errors import UserError

DEEP: Any = 0
for _ in range(90):
    DEEP = [DEEP]

ODD_VALUES = [
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.5, 1e308, 5e-324, float("nan"), float("inf"), 10**9, 10**30, 10**400),
    *("", "x", "../escaped", "/etc/passwd", "a\x00b", "\udcff", "x" * 5000, "evil_module:X", "seed-0", "line\nbreak"),
    *("\x1b[31m", "kd+at", "teacher", "resnet8", "digits", "imagefolder:/nowhere"),
    *([], {}, [1], [[]], {"x": 1}, ["a", 1, None], {"": {}}, DEEP),
]
ODD_TENSORS = [
    torch.zeros(0),
    torch.zeros(3),
    torch.tensor(1.0),
    torch.zeros(2, 2, dtype=torch.int64),
    torch.zeros(2, dtype=torch.complex64),
    torch.eye(2).to_sparse(),
    torch.zeros(2, dtype=torch.bool),
    torch.full((2,), torch.nan),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested dictionaries and lists, as the keys that lead there."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def changed(value: Any, chance: random.Random, odd: list[Any]) -> Any:
    """A copy of a value in which one place is gone, has another name, or holds something odd."""
    value = copy.deepcopy(value)
    path = chance.choice(list(places(value)))
    if not path:
        return copy.deepcopy(chance.choice(odd))
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    last = path[-1]
    match chance.randrange(5):
        case 0:
            del holder[last]
        case 1 if isinstance(holder, dict):
            holder[chance.choice(["x", "name", "", "../y", f"{last}_"])] = holder.pop(last)
        case 2 if isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        case _:
            holder[last] = copy.deepcopy(chance.choice(odd))
    return value


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The bytes as a failing disk, a power cut or a wrong download leaves them."""
    place = chance.randrange(len(content) or 1)
    match chance.randrange(8):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + bytes(len(content) - place)
        case 2:
            return content[:place] + bytes(chance.randrange(256) for _ in range(16)) + content[place + 16 :]
        case 3:
            return content[:place] + b"\xff\xfe" + content[place:]
        case 4:
            return chance.choice([b"", b"{}", b"[]", b"null", b"\x00" * 100, b"[" * 100_000, b'{"a":' * 50_000])
        case 5:
            return chance.choice(
                [b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html><html>", b"1" * 5000]
            )
        case 6:
            return content + content[:place]
        case _:
            flipped = bytearray(content)
            if flipped:
                flipped[place] ^= 1 << chance.randrange(8)
            return bytes(flipped)


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


STRANGE = ("pipe", "folder", "loop", "nowhere", "device")


def put_strange(path: Path, what: str) -> None:
    """Something that is no regular file, in the place of one."""
    path.unlink(missing_ok=True)
    match what:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "nowhere":
            path.symlink_to("/nowhere/at/all")
        case "device":
            path.symlink_to("/dev/zero")


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises TimeoutError where the block hangs."""

    def late(*_: object) -> None:
        raise TimeoutError(f"it hangs: more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def line_of(action: Callable[[], Any], case: object) -> str:
    """The one line that an action ends with; "" where it goes through. Whatever else comes names the case."""
    try:
        with within(60):
            action()
    except UserError as error:
        line = str(error)
        assert line and line.isprintable(), f"{case!r:.500}: {line!r}"
        return line
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error!s:.300}\nfor the case {case!r:.2000}") from error
    return ""
