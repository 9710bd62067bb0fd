"""Differences of results: their standard error, and what is said where nobody knows it."""

import math

import pytest

from fastkd.run.differences import Difference, difference, note


class TestDifference:
    def test_of_two_samples(self):
        found = difference([1.0, 2.0, 3.0], [0.0, 0.0, 3.0])
        assert found.mean == pytest.approx(1.0)
        assert found.error == pytest.approx(math.sqrt(1 / 3 + 3 / 3))  # variances 1 and 3, three values each
        assert found.within_noise and found.show(2) == "≈ +1.00"

    def test_two_standard_errors_are_no_noise(self):
        assert not Difference(-2.0, 1.0).within_noise and Difference(-2.0, 1.0).show(1) == "-2.0"
        assert Difference(1.99, 1.0).within_noise
        assert Difference(0.0, 0.0).within_noise

    @pytest.mark.parametrize("one, other", [([9.0], [1.0]), ([9.0, 9.0], [1.0]), ([1.0], [1.0])])
    def test_of_a_single_seed_nothing_is_said(self, one, other):
        found = difference(one, other)
        assert found.error is None and not found.within_noise and found.show(0) == f"{one[0] - other[0]:+.0f}"


class TestNote:
    def test_it_explains_the_marks_that_there_may_be(self):
        known, unknown = Difference(1.0, 2.0), Difference(1.0, None)
        assert note([]) == ""
        assert "≈" in note([known]) and "not known" not in note([known])
        assert "≈" not in note([unknown]) and "not known" in note([unknown])
        assert "≈" in note([known, unknown]) and "not known" in note([known, unknown])
