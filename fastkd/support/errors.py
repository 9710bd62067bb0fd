"""The one exception for mistakes that a user can mend."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """One line that names the thing that is wrong and what was expected. The commands print it without a traceback."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message: `; did you mean 'x'?`, or the known names where nothing is near."""
    known = sorted(known)
    folded = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(folded[match]) for match in close) + "?"
    return "; known: " + ", ".join(known)
