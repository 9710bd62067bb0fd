"""Decoupled distillation against its authors' numbers."""

import pytest
from helpers.golden import Case, close
from helpers.losses import DTYPES

from fastkd.losses import (
    dkd_loss,
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name, settings",
    {
        "dkd_a1.0_b8.0_T4.0": {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
        "dkd_a1.0_b2.0_T1.0": {"alpha": 1.0, "beta": 2.0, "temperature": 1.0},
        "dkd_a0.5_b4.0_T2.0": {"alpha": 0.5, "beta": 4.0, "temperature": 2.0},
        "tckd_T4.0": {"alpha": 1.0, "beta": 0.0, "temperature": 4.0},
        "nckd_T4.0": {"alpha": 0.0, "beta": 1.0, "temperature": 4.0},
    }.items(),
)
def test_dkd_equals_the_reference(name, settings, dtype):
    case = Case("dkd", "c10")
    student, teacher = case.input("zs", dtype), case.input("zt", dtype)
    loss = dkd_loss(student, teacher, case["in/y"], ce_weight=0.0, **settings)
    loss.total.backward()
    close(loss.total, case[f"loss/{name}"], dtype)
    close(student.grad, case[f"grad/{name}/zs"], dtype)
    if settings["temperature"] == 4:
        close(loss.tckd, case["loss/tckd_T4.0"], dtype)
        close(loss.nckd, case["loss/nckd_T4.0"], dtype)
    assert teacher.grad is None
