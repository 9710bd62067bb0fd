"""What tools leave among images: never data, whatever it looks like.

A folder of it would become a class and shift all labels behind it, a file of it a sample.
"""

from collections.abc import Collection, Iterable

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
_COPIES = (" copy", " - copy", " (copy)", "_copy", "-copy")


def is_debris(name: str) -> bool:
    """Whether a file or folder is hidden, or of a name that only tools give."""
    folded = name.lower()
    return folded.startswith(_BEGINNINGS) or folded.endswith(_ENDINGS) or folded in _NAMES


def copies(names: Collection[str]) -> set[str]:
    """Those of the names that a file manager gives to the copy of a folder which is there, too: `cat - Copy`."""
    perhaps = [name for name in names if "copy" in name.lower()]
    return {name for name in perhaps if any(original in names for original in _originals(name))}


def odd(names: Iterable[str]) -> list[str]:
    """Names of classes that nobody gives to one by hand, though they may be what is meant: `cat (1)`, ` cat`."""
    return [name for name in names if is_debris(name) or name != name.strip() or _numbered(name)]


def _originals(name: str) -> list[str]:
    found = [name[: -len(ending)] for ending in _COPIES if name.lower().endswith(ending)]
    return found + ([name[len("copy of ") :]] if name.lower().startswith("copy of ") else [])


def _numbered(name: str) -> bool:
    stem, bracket, number = name.rpartition("(")
    return bool(stem and bracket) and number.endswith(")") and number[:-1].isdigit()
