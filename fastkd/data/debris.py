"""What tools leave among images: never data, whatever it looks like.

A folder of it would become a class and shift all labels behind it, a file of it a sample.
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping

_NAMES = frozenset(
    (
        *("__macosx", "desktop.ini", "icon\r", "network trash folder", "temporary items"),  # macOS
        *("thumbs.db", "ehthumbs.db", "$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@tmp"),  # network storage
        *("lost+found", "__pycache__", "cvs"),
    )
)
_BEGINNINGS = (".", "~$", "synofile_thumb", "synophoto_thumb")
_ENDINGS = ("~", ".bak", ".orig", ".tmp", ".temp", ".swp", ".part", ".partial", ".crdownload", ".download")
_COPY = re.compile(
    r"(.+?)( copy| - copy|_copy|-copy|( \((another |\d+(st|nd|rd|th) )?copy\)))( ?\d+| ?\(\d+\))?", re.IGNORECASE
)
_NUMBERED = re.compile(r"(.+?) ?\(\d+\)")


def is_debris(name: str) -> bool:
    """Whether a file or folder is hidden, or of a name that only tools give."""
    folded = name.lower()
    return folded.startswith(_BEGINNINGS) or folded.endswith(_ENDINGS) or folded in _NAMES


def copies(names: Collection[str]) -> set[str]:
    """Those of the names that a file manager gives to the copy of what is there, too: `cat - Copy`, `1 copy 2.png`."""
    perhaps = [name for name in names if "copy" in name.lower()]
    return {name for name in perhaps if any(original in names for original in _originals(name))}


def doubles(sizes: Mapping[str, int]) -> list[str]:
    """Those of some files, {name: bytes}, that have the size of another one and its name with a number: `cat (1).png`.

    A browser names the second download of a picture so, and a series of different ones is named so, too.
    """
    perhaps = [(name, found) for name in sizes if "(" in name and (found := _split(_NUMBERED, name))]
    return [name for name, original in perhaps if sizes.get(original) == sizes[name]]


def odd(names: Iterable[str]) -> list[str]:
    """Names of classes that nobody gives to one by hand, though they may be what is meant: `cat (1)`, ` cat`."""
    return [name for name in names if is_debris(name) or name != name.strip() or _numbered(name)]


def _originals(name: str) -> list[str]:
    found = [_split(_COPY, name), name[len("copy of ") :] if name.lower().startswith("copy of ") else ""]
    return [original for original in found if original]


def _split(added: re.Pattern[str], name: str) -> str:
    """The name without what was added to it, in front of its ending or behind all of it; "" where nothing was."""
    stem, ending = os.path.splitext(name)
    for part, rest in ((stem, ending), (name, "")):
        if found := added.fullmatch(part):
            return found[1] + rest
    return ""


def _numbered(name: str) -> bool:
    return _NUMBERED.fullmatch(name) is not None
