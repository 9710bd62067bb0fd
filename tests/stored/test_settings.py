from pathlib import Path

import pytest

from fastkd.stored import Storing
from fastkd.support.errors import UserError


def test_a_store_that_loses_something_is_named_as_a_difference():
    assert Storing(store_type="float16").approximations == ()
    assert Storing(teacher_outputs=Path("x")).approximations == ()
    lossy = Storing(teacher_outputs=Path("x"), store_type="float16", store_top=5, store_epochs=30)
    assert lossy.approximations == (
        "the teacher's outputs in float16",
        "the teacher's 5 largest logits instead of all",
        "crops and flips of 30 epochs, repeated",
    )


@pytest.mark.parametrize("name", ("store_top", "store_epochs"))
def test_counts_are_at_least_1(name):
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} is at least 1, got 0"):
        Storing(**{name: 0})
