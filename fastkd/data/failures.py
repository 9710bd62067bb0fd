"""Images that cannot be used: each is named once, and there may be only so many."""

from collections.abc import Callable

from fastkd.support.errors import UserError
from fastkd.support.words import counted

_SHOWN = 10


class Failures:
    """The images that one process cannot use, those that the scan leaves out and those that fail later in one count."""

    def __init__(self, allowed: int = 0):
        if allowed < 0:
            raise UserError(f"max-bad-images is at least 0, got {allowed}")
        self.allowed = allowed
        self.reasons: dict[str, str] = {}
        """{path: what is wrong with it}"""
        self.report: Callable[[str], None] = _nobody_listens
        """Called with a line about every image that fails after the scan."""

    def add(self, found: dict[str, str], *, while_reading: bool = False, consequence: str = "left out") -> None:
        """Notes images, {path: what is wrong}. Raises UserError with the list once there are more than allowed."""
        fresh = {path: reason for path, reason in found.items() if path not in self.reasons}
        self.reasons |= fresh
        if len(self.reasons) > self.allowed:
            raise UserError(self.summary())
        if while_reading:
            for path, reason in fresh.items():
                self.report(f"{path} {reason}: {consequence}")

    def summary(self) -> str:
        count, listed = len(self.reasons), [f"{path} {reason}" for path, reason in self.reasons.items()]
        more = f"; and {count - _SHOWN} more" if count > _SHOWN else ""
        images = f"{counted(count, 'image')} cannot be used"
        return f"{images} (--max-bad-images allows {self.allowed}): {'; '.join(listed[:_SHOWN])}{more}"


def _nobody_listens(line: str) -> None:
    pass
