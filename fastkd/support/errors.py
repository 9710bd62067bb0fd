"""The one exception for mistakes that a user can mend."""

import difflib
from collections.abc import Iterable

_LONGEST = 4000


class UserError(ValueError):
    """One line that names the thing that is wrong and what was expected. The commands print it without a traceback."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class InUse(UserError):
    """Another process holds what this one wants."""


class ChangesNothing(UserError):
    """An option that would change nothing, by its name without dashes."""

    def __init__(self, option: str, why: str):
        super().__init__(f"--{option} changes nothing: {why}")
        self.option = option


def one_line(text: str) -> str:
    """The text as it may stand on a terminal, whatever names of files are in it: no line breaks, no control codes, no
    bytes that are not UTF-8; the middle of a very long one is left out."""
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message: `; did you mean 'x'?`, or the known names where nothing is near."""
    known = sorted(known)
    folded = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower()[:100], folded, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(folded[match]) for match in close) + "?"
    return "; known: " + ", ".join(known)
