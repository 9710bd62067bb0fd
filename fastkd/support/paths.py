"""What stands at a path. Every question has an answer or one line: paths come from people, recipes and folders of
others, may lie where nobody may look, be too long, or be no paths at all."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from fastkd.support.errors import UserError

_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def reason(error: OSError) -> str:
    """Why a call of the system failed, in words."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if error.errno == errno.ELOOP:
        return "it is a link, or leads in a circle"
    return error.strerror or str(error)


@contextmanager
def explained(what: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes one line of what the system says of a path; what: `cannot read`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what} {os.fspath(path)}: {reason(error)}") from error
    except (ValueError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        why = "it takes more memory than there is" if isinstance(error, MemoryError) else str(error)
        raise UserError(f"{what} {os.fspath(path)}: {why}") from error


def is_there(path: Path) -> bool:
    return _mode(path) != 0


def is_file(path: Path) -> bool:
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    return stat.S_ISDIR(_mode(path))


def modified(path: Path) -> float | None:
    """When what stands there was last written, in seconds since 1970 by the clock of its file system; None: nothing
    stands there."""
    with explained("cannot look at", path):
        try:
            return os.stat(path).st_mtime
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise


def inside(folder: Path, pattern: str) -> list[Path]:
    """What lies in a folder and has a name of that pattern, sorted by name; nothing where there is no such folder."""
    if not is_folder(folder):
        return []
    with explained("cannot read the folder", folder):
        return [folder / name for name in sorted(os.listdir(folder)) if fnmatchcase(name, pattern)]


def expanded(word: str) -> Path:
    """The path, with a home folder for a leading ~, which a shell leaves alone behind `--run=`."""
    try:
        return Path(word).expanduser()
    except RuntimeError as error:
        raise UserError(f"{word}: there is no such home folder") from error


def free_path(path: Path) -> Path:
    """The path itself, or `NAME-2.ENDING`, `NAME-3.ENDING` …: the first where nothing stands."""
    number, found = 1, path
    with explained("cannot look at", path):
        while os.path.lexists(found):
            number += 1
            found = path.with_stem(f"{path.stem}-{number}")
    return found


def _mode(path: Path) -> int:
    """The kind and rights of what stands there; 0 for nothing."""
    with explained("cannot look at", path):
        try:
            return os.stat(path).st_mode
        except OSError as error:
            if error.errno in _ABSENT:
                return 0
            raise
