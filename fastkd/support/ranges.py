"""What a number may be, and the one line that says what was expected of it."""

import math
from collections.abc import Callable
from numbers import Real
from typing import NamedTuple


class Range(NamedTuple):
    words: str
    """The range as a message says it: `a number above 0`."""
    holds: Callable[[float], bool]

    def check(self, name: str, value: object) -> None:
        """Raises ValueError for a number outside the range, TypeError for what is no number."""
        if not isinstance(value, Real):
            raise TypeError(f"{name} is {self.words}, got {value!r}")
        if not self.holds(float(value)):
            raise ValueError(f"{name} is {self.words}, got {value!r}")


FINITE = Range("a number", math.isfinite)
ABOVE_ZERO = Range("a number above 0", lambda value: 0 < value < math.inf)
FROM_0_TO_1 = Range("a number from 0 to 1", lambda value: 0 <= value <= 1)
FROM_0_TO_BELOW_1 = Range("a number from 0 to below 1", lambda value: 0 <= value < 1)
