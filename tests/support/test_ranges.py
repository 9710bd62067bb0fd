"""What numbers may be."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from fastkd.support.ranges import ABOVE_ZERO, FINITE, FROM_0_TO_1, FROM_0_TO_BELOW_1

RANGES = (FINITE, ABOVE_ZERO, FROM_0_TO_1, FROM_0_TO_BELOW_1)


@pytest.mark.parametrize(
    "allowed, value",
    [
        (FINITE, -1e308),
        (FINITE, 0),
        (ABOVE_ZERO, 5e-324),
        (ABOVE_ZERO, 1e308),
        (FROM_0_TO_1, 0),
        (FROM_0_TO_1, 1),
        (FROM_0_TO_BELOW_1, 0.0),
        (FROM_0_TO_BELOW_1, math.nextafter(1, 0)),
        (FROM_0_TO_1, np.float32(0.5)),
        (FROM_0_TO_1, Fraction(1, 3)),
    ],
)
def test_the_ends_that_belong_to_it(allowed, value):
    allowed.check("weight", value)


@pytest.mark.parametrize(
    "allowed, value, words",
    [
        (ABOVE_ZERO, 0, "temperature is a number above 0, got 0"),
        (ABOVE_ZERO, -0.0, "temperature is a number above 0, got -0.0"),
        (FROM_0_TO_1, -1e-9, "temperature is a number from 0 to 1, got -1e-09"),
        (FROM_0_TO_1, math.nextafter(1, 2), "temperature is a number from 0 to 1, got 1.0000000000000002"),
        (FROM_0_TO_BELOW_1, 1, "temperature is a number from 0 to below 1, got 1"),
        (FINITE, math.inf, "temperature is a number, got inf"),
    ],
)
def test_the_message_names_the_number_and_what_was_expected(allowed, value, words):
    with pytest.raises(ValueError) as raised:
        allowed.check("temperature", value)
    assert str(raised.value) == words


@pytest.mark.parametrize("allowed", RANGES, ids=lambda allowed: allowed.words)
@pytest.mark.parametrize("value", (math.nan, math.inf, -math.inf))
def test_what_is_not_finite_is_in_no_range(allowed, value):
    with pytest.raises(ValueError, match="got -?(nan|inf)$"):
        allowed.check("weight", value)


@pytest.mark.parametrize("value", (None, "1", "", [1.0], 1j, torch.ones(())), ids=repr)
def test_what_is_no_number_is_of_the_wrong_type(value):
    with pytest.raises(TypeError, match="^weight is a number, got "):
        FINITE.check("weight", value)
