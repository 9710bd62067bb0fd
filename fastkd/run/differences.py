"""Whether two results differ by more than seeds alone would make of them, as far as that is known."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fastkd.run.figures import mean_and_std


class Difference(NamedTuple):
    mean: float
    error: float | None
    """Standard error of the mean; None where it is unknown: one of the two has a single seed."""

    @property
    def within_noise(self) -> bool:
        """Whether it is known to be under two standard errors; what is not known is not said."""
        return self.error is not None and (abs(self.mean) < 2 * self.error or self.mean == 0)

    def show(self, digits: int) -> str:
        return f"{'≈ ' if self.within_noise else ''}{self.mean:+.{digits}f}"


def difference(one: Sequence[float], other: Sequence[float]) -> Difference:
    """The difference of the means, one - other, with the standard error of two independent samples."""
    figures = [mean_and_std(values) for values in (one, other)]
    mean = figures[0].mean - figures[1].mean
    errors = [
        figure.std / math.sqrt(len(values))
        for figure, values in zip(figures, (one, other), strict=True)
        if figure.std is not None
    ]
    return Difference(mean, math.hypot(*errors) if len(errors) == 2 else None)


def note(differences: Iterable[Difference]) -> str:
    """What a reader of some differences has to know about their marks."""
    known = {each.error is not None for each in differences}
    marked = "≈ marks a difference under two standard errors, √(s₁²/n₁ + s₂²/n₂): seeds alone may make as much."
    unknown = "A difference of single seeds has no standard error: how much of it is chance is not known."
    return " ".join(text for text, said in ((marked, True in known), (unknown, False in known)) if said)
