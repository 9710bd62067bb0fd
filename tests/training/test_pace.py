"""How long the rest of a stage will take."""

import pytest

from fastkd.training.pace import Pace


def test_steps_and_the_evaluations_that_are_still_to_come():
    pace = Pace(epochs=5, steps_per_epoch=10, eval_every=2, evaluation_seconds=3.0)
    assert [pace.evaluation_is_due(epoch) for epoch in range(1, 6)] == [False, True, False, True, True]
    assert pace.seconds_left(0, 0.5) == 50 * 0.5 + 3 * 3.0
    assert pace.seconds_left(19, 0.5) == 31 * 0.5 + 3 * 3.0
    assert pace.seconds_left(20, 0.5) == 30 * 0.5 + 2 * 3.0, "that of the second epoch is done"
    assert pace.seconds_left(49, 0.5) == 0.5 + 3.0
    assert pace.seconds_per_epoch(0.5) == pytest.approx(10 * 0.5 + 1.5)


def test_a_stage_without_predictions_is_never_evaluated():
    pace = Pace(epochs=2, steps_per_epoch=3, eval_every=1, evaluates=False, evaluation_seconds=9.0)
    assert not pace.evaluation_is_due(2) and pace.seconds_left(0, 1.0) == 6.0 and pace.seconds_per_epoch(1.0) == 3.0


def test_before_the_first_evaluation_only_steps_are_known():
    assert Pace(epochs=2, steps_per_epoch=3, eval_every=1).seconds_left(1, 2.0) == 10.0


def test_what_comes_before_an_epoch_comes_before_each_that_is_left():
    pace = Pace(epochs=3, steps_per_epoch=2, eval_every=1, evaluates=False, beginning_seconds=10.0)
    assert [pace.seconds_left(done, 1.0) for done in (0, 1, 2, 5, 6)] == [26.0, 25.0, 14.0, 1.0, 0.0]
    assert pace.seconds_per_epoch(1.0) == 12.0
