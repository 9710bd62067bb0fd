"""Work beside other work: begun where somebody offers a branch, and nowhere else."""

import pytest
from helpers.recorders import RunBeside

from fastkd.support.branches import begun_beside, offering


def test_nothing_is_begun_where_nobody_offers_a_branch():
    assert begun_beside(lambda: pytest.fail("begun")) is None


def test_a_branch_is_offered_within_and_not_behind():
    with offering(lambda work: work):
        assert begun_beside(lambda: 3)() == 3
    assert begun_beside(lambda: 3) is None


@pytest.mark.parametrize("late", (False, True))
def test_a_recorder_without_a_gpu_runs_it_at_once_or_as_late_as_can_be(late):
    done, recorder = [], RunBeside(late=late)

    def work():
        joined = begun_beside(lambda: done.append("beside"))
        done.append("trunk")
        joined()

    recorder.record(work, 2)()
    assert done == (["trunk", "beside"] if late else ["beside", "trunk"]) * 2 and recorder.forks == 2


def test_a_branch_that_does_not_end_is_a_mistake():
    with pytest.raises(AssertionError, match="1 branches do not end"):
        RunBeside().record(lambda: begun_beside(lambda: None))()
