from pathlib import Path

from fastkd.stored import Storing


def test_a_store_that_loses_something_is_named_as_a_difference():
    assert Storing(store_type="float16").approximations == ()
    assert Storing(teacher_outputs=Path("x")).approximations == ()
    lossy = Storing(teacher_outputs=Path("x"), store_type="float16", store_top=5, store_epochs=30)
    assert lossy.approximations == (
        "the teacher's outputs in float16",
        "the teacher's 5 largest logits instead of all",
        "crops and flips of 30 epochs, repeated",
    )
