"""What numbers may be."""

import math
from fractions import Fraction
from typing import Annotated

import numpy as np
import pytest
import torch

from fastkd.support.ranges import (
    ABOVE_ZERO,
    AT_LEAST_ZERO,
    FINITE,
    FROM_0_TO_1,
    FROM_0_TO_BELOW_1,
    INT64,
    Weight,
    between,
    range_of,
    whole,
)

RANGES = (FINITE, ABOVE_ZERO, FROM_0_TO_1, FROM_0_TO_BELOW_1)


@pytest.mark.parametrize(
    "allowed, value",
    [
        (FINITE, -3.4e38),
        (FINITE, 0),
        (ABOVE_ZERO, 2.0**-126),
        (ABOVE_ZERO, 3.4e38),
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
        (FINITE, 1e39, "temperature is a number that float32 can hold, got 1e+39"),
        (ABOVE_ZERO, 5e-324, "temperature is a number above 0 that float32 can hold, got 5e-324"),
        (FINITE, 10**400, "temperature is a number, got 1" + 49 * "0" + "… (401 characters)"),
        (whole(1, 2000), 0, "temperature is a whole number from 1 to 2,000, got 0"),
        (between(0, 0.5), 0.75, "temperature is a number from 0 to 0.5, got 0.75"),
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


@pytest.mark.parametrize("value", (None, "1", "", [1.0], 1j, True, torch.ones(())), ids=repr)
def test_what_is_no_number_is_of_the_wrong_type(value):
    with pytest.raises(TypeError, match="^weight is a number, got "):
        FINITE.check("weight", value)


def test_a_number_of_thousands_of_digits_is_not_written_out():
    with pytest.raises(ValueError, match="^count is a whole number from 1 to 2, got a number of thousands of digits$"):
        whole(1, 2).check("count", 10**5000)


@pytest.mark.parametrize("value", (1.0, True, "1", Fraction(1)), ids=repr)
def test_a_whole_number_is_an_integer(value):
    with pytest.raises(TypeError, match="^count is a whole number from 1 to 2, got "):
        whole(1, 2).check("count", value)


@pytest.mark.parametrize(
    "annotation, allowed",
    [
        (float, FINITE),
        (int, INT64),
        (Weight, AT_LEAST_ZERO),
        (Annotated[Weight, "a note"], AT_LEAST_ZERO),
        (str, None),
        (tuple[int, ...], None),
        (int | None, None),
    ],
    ids=str,
)
def test_the_range_of_an_annotation(annotation, allowed):
    assert range_of(annotation) is allowed
