"""One process at a time in a folder."""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fastkd.support.errors import InUse, UserError
from fastkd.support.files import open_in_place
from fastkd.support.paths import explained, inside, reason

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_ASIDE = re.compile(r"\.(.+\.(safetensors|pt(\.\d+)?|jsonl)|(recipe|results|env|heartbeat)\.json)\.\d+")


@contextlib.contextmanager
def locked(folder: Path, *, unlocked: bool = False, doing: str = "training in") -> Iterator[None]:
    """Holds the folder for this process; a second one in it is refused. The lock ends when the process does.

    unlocked: go on where the file system has no locks. doing: what is done there, for the message. Raises UserError,
    and of its kinds InUse where another process holds it.
    """
    with explained("cannot write in", folder):
        file = open_in_place(folder / ".lock", os.O_RDWR, "r+b")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise InUse(f"another process is {doing} {folder}") from error
            if not unlocked:
                raise UserError(
                    f"the file system of {folder} has no locks ({reason(error)}): see to it that no other process "
                    f"is {doing} it, and give --unlocked"
                ) from error
        yield


def clear_aside(folder: Path) -> None:
    """Removes what killed processes were writing beside the files of a run; only for who holds the lock."""
    for path in inside(folder, ".*"):
        if _ASIDE.fullmatch(path.name):
            with explained("cannot remove", path):
                path.unlink(missing_ok=True)
