"""What a stage's numbers depend on, compared with what a checkpoint or a result was made with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastkd.support.errors import UserError
from fastkd.support.plain import differences


@dataclass(frozen=True)
class Identity:
    plain: dict[str, Any] = field(default_factory=dict)
    """The identity in plain types, as it stands in files."""
    in_words_of_today: Callable[[dict[str, Any]], dict[str, Any]] = lambda then: then
    """Rewrites the plain types that an earlier fastkd wrote as today's would be."""

    def refuse_changes(self, then: dict[str, Any], where: Path) -> None:
        """Raises UserError where a file was made with another identity: the recipe has been edited since."""
        found = differences(self.in_words_of_today(then), self.plain)
        if found:
            place, before, after = found[0]
            raise UserError(
                f"{where} was made with {place} = {before!r}, the recipe now says {after!r}: start another run"
            )
