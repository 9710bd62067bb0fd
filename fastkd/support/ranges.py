"""What a number may be, declared where the number is, and the one line that says what was expected of it.

A settings dataclass declares a range in the annotation, `lr: Annotated[float, ABOVE_ZERO]` or by a name from below,
`lr: Positive`. `fastkd.support.plain` and `fastkd.support.command_line` check it, whoever gives the number.
"""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Annotated, Any, NamedTuple, get_args, get_origin

_FLOAT32_LEAST, _FLOAT32_MOST = 2.0**-126, (2 - 2.0**-23) * 2.0**127


class Range(NamedTuple):
    words: str
    """The range as a message says it: `a number above 0`."""
    holds: Callable[[float], bool]
    whole: bool = False
    """Whether the number is an integer. Any other is one that float32 can hold: a step computes in float32."""
    measured: bool = False
    """Whether the number was measured, not set: NaN, infinity and what float32 cannot hold will do."""

    def check(self, name: str, value: object) -> None:
        """Raises ValueError for a number outside the range, TypeError for what is no number."""
        if not isinstance(value, Integral if self.whole else Real) or isinstance(value, bool):
            raise TypeError(f"{name} is {self.words}, got {value!r}")
        if expected := self.refuses(value):  # pyright: ignore[reportArgumentType]
            raise ValueError(f"{name} is {expected}, got {shortened(value)}")

    def refuses(self, value: float) -> str:
        """What was expected in place of a number outside the range; the empty string for one inside it."""
        if self.measured:
            return "" if _is_float(value) else self.words
        if not (self.whole or _in_float64(value)) or not self.holds(value):
            return self.words
        return "" if self.whole or _in_float32(float(value)) else f"{self.words} that float32 can hold"


def shortened(value: object) -> str:
    """The value as a message shows it; digits by the thousand are cut."""
    try:
        words = repr(value)
    except ValueError:  # an integer of more digits than Python writes out
        return "a number of thousands of digits"
    return words if len(words) <= 60 else f"{words[:50]}… ({len(words)} characters)"


def whole(least: int, most: int) -> Range:
    """The integers from `least` to `most`."""
    words = f"a whole number from {_spelled(least)} to {_spelled(most)}"
    return Range(words, lambda value: least <= value <= most, whole=True)


def _spelled(number: int) -> str:
    power = abs(number).bit_length() - 1
    if power < 30:
        return f"{number:,}"
    return f"{'-' * (number < 0)}2^{power}" if abs(number) == 1 << power else f"2^{power + 1} - 1"


def between(least: float, most: float) -> Range:
    """The numbers from `least` to `most`."""
    return Range(f"a number from {least:g} to {most:g}", lambda value: least <= value <= most)


def _in_float64(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_float(value: float) -> bool:
    try:
        return isinstance(float(value), float)
    except OverflowError:
        return False


def _in_float32(value: float) -> bool:
    return value == 0 or _FLOAT32_LEAST <= abs(value) <= _FLOAT32_MOST


FINITE = Range("a number", lambda value: True)
ABOVE_ZERO = Range("a number above 0", lambda value: value > 0)
AT_LEAST_ZERO = Range("a number of at least 0", lambda value: value >= 0)
FROM_0_TO_1 = Range("a number from 0 to 1", lambda value: 0 <= value <= 1)
BETWEEN_0_AND_1 = Range("a number between 0 and 1", lambda value: 0 < value < 1)
FROM_0_TO_BELOW_1 = Range("a number from 0 to below 1", lambda value: 0 <= value < 1)
# Farther out τ² times a divergence is the rounding of float32 in a kernel: its error is about 1e-7 τ² log K.
TEMPERATURE = between(1e-3, 1e3)
MEASURED = Range("a number", lambda value: True, measured=True)
COUNT = whole(0, 2**63 - 1)
INT64 = whole(-(2**63), 2**63 - 1)
_USUAL = {float: FINITE, int: INT64}


def bare(kind: Any) -> Any:
    """The type in an annotation."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def range_of(kind: Any) -> Range | None:
    """The range that an annotation declares, else the usual one of a float or an integer; None for other types."""
    declared = (one for one in getattr(kind, "__metadata__", ()) if isinstance(one, Range))
    return next(declared, _USUAL.get(bare(kind)) if isinstance(bare(kind), type) else None)


Measured = Annotated[float, MEASURED]
"""What a file says was measured."""
Count = Annotated[int, COUNT]
Positive = Annotated[float, ABOVE_ZERO]
NotNegative = Annotated[float, AT_LEAST_ZERO]
Share = Annotated[float, FROM_0_TO_1]
Decay = Annotated[float, FROM_0_TO_BELOW_1]
Temperature = Annotated[float, TEMPERATURE]
Weight = Annotated[float, AT_LEAST_ZERO]
"""The weight of a term of a loss."""
Epochs = Annotated[int, whole(1, 1_000_000)]
EpochsOrNone = Annotated[int, whole(0, 1_000_000)]
Place = Annotated[int, whole(1, 1_000)]
PlaceOrStem = Annotated[int, whole(0, 1_000)]
"""The number of a block, from 1."""
Width = Annotated[int, whole(1, 65_536)]
"""Channels, or dimensions."""
Images = Annotated[int, whole(1, 2**31 - 1)]
"""A number of images."""
Pixels = Annotated[int, whole(1, 16_384)]
"""The side of an image."""
Seed = Annotated[int, whole(0, 2**53)]
"""Up to 2⁵³ every program that reads JSON sees the same number."""
Threads = Annotated[int, whole(1, 4_096)]
