"""Virtual teachers and smoothed labels against the numbers of Tf-KD's code."""

import pytest
from helpers.golden import Case, close
from helpers.losses import DTYPES

from fastkd.losses import (
    kd_loss,
    label_smoothing_loss,
    virtual_teacher_loss,
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case_name, name, alpha, temperature, multiplier",
    (
        ("c10", "self_a0.95_T20_m1.0", 0.95, 20, 1),
        ("c10", "self_a0.95_T6_m50.0", 0.95, 6, 50),
        ("c10", "self_a0.1_T20_m1.0", 0.1, 20, 1),
        ("c10", "kd_a0.95_T20", 0.95, 20, 1),
        ("c100", "self_a0.95_T6_m50.0", 0.95, 6, 50),
        ("c100", "kd_a0.95_T6", 0.95, 6, 1),
    ),
)
def test_kd_with_the_weights_of_tfkd_equals_its_code(case_name, name, alpha, temperature, multiplier, dtype):
    case = Case("tfkd_self", case_name)
    student, teacher = case.input("zs", dtype), case["in/zt"].to(dtype)
    weights = {"ce_weight": 1 - alpha, "kl_weight": alpha * multiplier / student.shape[1]}  # its KL is a mean over K
    loss = kd_loss(student, teacher, case["in/y"], temperature=temperature, **weights)
    loss.total.backward()
    close(loss.total, case[f"loss/{name}"], dtype)
    close(student.grad, case[f"grad/{name}/zs"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha, multiplier", ((0.1, 100), (0.1, 1), (0.95, 1), (0.95, 100), (1, 1)))
@pytest.mark.parametrize("case_name", ("c10", "c100"))
def test_virtual_teacher_equals_tfkd_regularisation(case_name, alpha, multiplier, dtype):
    case = Case("tfkd_reg", case_name)
    name = "soft_T20" if alpha == 1 else f"reg_a{alpha}_T20_m{multiplier}.0"
    student = case.input("zs", dtype)
    weights = {"ce_weight": 1 - alpha, "kl_weight": alpha * multiplier / student.shape[1]}
    loss = virtual_teacher_loss(student, case["in/y"], label_probability=0.99, temperature=20, **weights)
    loss.total.backward()
    close(loss.total, case[f"loss/{name}"], dtype)
    close(loss.ce, case["loss/ce"], dtype)
    close(student.grad, case[f"grad/{name}/zs"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name, smoothing, spread", (("tfkd_0.1", 0.1, "others"), ("torch_0.1", 0.1, "all"), ("torch_0.3", 0.3, "all"))
)
@pytest.mark.parametrize("case_name", ("c10", "c100"))
def test_label_smoothing_equals_its_two_definitions(case_name, name, smoothing, spread, dtype):
    case = Case("ls_ce", case_name)
    logits = case.input("z", dtype)
    loss = label_smoothing_loss(logits, case["in/y"], smoothing=smoothing, spread=spread)
    loss.total.backward()
    close(loss.total, case[f"loss/{name}"], dtype)
    close(loss.ce, case["loss/ce"], dtype)
    close(logits.grad, case[f"grad/{name}/z"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread, label_probability", (("others", 0.9), ("all", 0.91)))
def test_a_virtual_teacher_has_the_gradient_of_label_smoothing(spread, label_probability, dtype):
    case = Case("ls_ce", "c10")
    logits = case.input("z", dtype)
    weights = {"kl_weight": 1.0, "ce_weight": 0.0}
    virtual_teacher_loss(logits, case["in/y"], label_probability=label_probability, **weights).total.backward()
    close(logits.grad, case[f"grad/{'tfkd' if spread == 'others' else 'torch'}_0.1/z"], dtype)
