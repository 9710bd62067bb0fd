"""Who works on a node: a file with a heartbeat, which several processes and machines agree on through a folder alone.

The file system need not have locks. The claim of a process of this machine is taken over when that process is gone; one
of another machine, when its heartbeat has stopped.
"""

import contextlib
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fastkd.support.paths import explained
from fastkd.support.processes import is_gone, own_process

BEAT_SECONDS = 10.0
STALE_SECONDS = 120.0
"""A claim that has not been renewed for so long, by the clock of the file system, is nobody's."""
_FILE, _MOST = "claim", 4096


class Claim:
    """A claim that this process holds."""

    def __init__(self, folder: Path, token: str):
        self.file, self.token = folder / _FILE, token
        self._end = threading.Event()
        self._beat = threading.Thread(target=self._keep_alive, daemon=True, name="heartbeat")
        self.lost: Callable[[], None] = lambda: None
        """Called once where another process has taken the claim over: this one had stopped for too long."""

    def start(self) -> None:
        self._beat.start()

    def end(self) -> None:
        """Gives the claim back, if it is still this process's."""
        self._end.set()
        self._beat.join()
        if self.is_ours():
            with contextlib.suppress(OSError):
                self.file.unlink()

    def is_ours(self) -> bool:
        return _read(self.file).get("token") == self.token

    def _keep_alive(self) -> None:
        while not self._end.wait(BEAT_SECONDS):
            if not self.is_ours():
                self.lost()
                return
            with contextlib.suppress(OSError):  # a file server that is away for a while is no reason to stop
                os.utime(self.file)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[Claim | None]:
    """Holds the folder's claim while the block runs; None where a living process has it."""
    token = secrets.token_hex(8)
    if not _taken(folder / _FILE, token):
        yield None
        return
    claim = Claim(folder, token)
    claim.start()
    try:
        yield claim
    finally:
        claim.end()


def holder(folder: Path) -> str:
    """Who works on the folder, `HOST, process N`; the empty string where nobody living does."""
    file = folder / _FILE
    found = _read(file)
    return f"{found.get('host')}, process {found.get('pid')}" if found and not _is_stale(file, found) else ""


def _taken(file: Path, token: str) -> bool:
    """Whether the claim is this process's now."""
    content = json.dumps({"token": token, **own_process()}).encode()
    with explained("cannot write", file):
        if _made(file, content):
            return True
        if not _is_stale(file, _read(file)):
            return False
        return _taken_over(file, content)


def _taken_over(file: Path, content: bytes) -> bool:
    """Puts this process's claim in the place of a stale one; of several that want to, one does.

    It holds a second file meanwhile, and looks again: another process may have been faster. There is no moment without
    a claim.
    """
    taking = file.with_name(f"{_FILE}.taking")
    if _age(taking) > STALE_SECONDS:
        taking.unlink(missing_ok=True)  # who made it was killed in the lines below
    if not _made(taking, content):
        return False
    if not _is_stale(file, _read(file)):
        taking.unlink(missing_ok=True)
        return False
    os.replace(taking, file)
    return True


def _made(file: Path, content: bytes) -> bool:
    """Makes a file that is not there yet; of several processes that do, one has made it."""
    try:
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(number, "wb") as written:
        written.write(content)
    return True


def _is_stale(file: Path, found: dict[str, Any]) -> bool:
    gone = is_gone(found)
    return _age(file) > STALE_SECONDS if gone is None else gone


def _age(file: Path) -> float:
    """Seconds since the last heartbeat, by the clock of the file system that the claim lies on."""
    probe = file.with_name(f"{_FILE}.{secrets.token_hex(8)}")
    try:
        probe.touch()
        return probe.stat().st_mtime - file.stat().st_mtime
    except OSError:  # it was given back meanwhile
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, Any]:
    """What a claim says; nothing where there is none, or one that is not whole yet."""
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(_MOST))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
