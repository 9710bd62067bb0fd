"""Distillation from one teacher and from several, against the authors' numbers."""

from typing import ClassVar

import pytest
import torch
from helpers.golden import Case, close
from helpers.losses import DTYPES, EXACT, in_float64

from fastkd.losses import (
    KDLoss,
    MultiTeacherLoss,
    kd_loss,
    multi_teacher_loss,
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", (1, 4, 20))
@pytest.mark.parametrize("name", ("c10", "c100", "equal"))
def test_kd_equals_the_reference(name, temperature, dtype):
    case = Case("kd", name)
    student, teacher = case.input("zs", dtype), case.input("zt", dtype)
    labels = torch.zeros(len(student), dtype=torch.int64)
    loss = kd_loss(student, teacher, labels, temperature=temperature, kl_weight=1.0, ce_weight=0.0)
    loss.total.backward()
    if name == "equal":  # both are zero but for rounding
        assert abs(loss.kl) < 1e-6
        assert student.grad.abs().max() < 1e-6
    else:
        close(loss.kl, case[f"loss/kl_T{temperature}"], dtype)
        close(student.grad, case[f"grad/kl_T{temperature}/zs"], dtype)
    assert teacher.grad is None


class TestSeveralTeachers:
    options: ClassVar = {"temperature": 4.0, "kl_weight": 1.0, "ce_weight": 0.0}

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("loss_name, weights", (("aver", None), ("aekd", "alpha_ref"), ("ebkd", "w_ebkd")))
    @pytest.mark.parametrize("name", ("m3", "m3_norm"))
    def test_golden(self, name, loss_name, weights, dtype):
        case = Case("aekd", name)
        student, teachers = case.input("zs", dtype), case["in/zt"].to(dtype)
        given = None if weights is None else case[f"out/{weights}"].to(dtype)
        if weights == "w_ebkd":
            given = given / len(teachers)
        loss = multi_teacher_loss(student, teachers, case["in/y"], teacher_weights=given, **self.options)
        loss.total.backward()
        close(loss.kl, case[f"loss/{loss_name}"], dtype)
        close(student.grad, case[f"grad/{loss_name}/zs"], dtype)

    def test_the_gradient_is_that_of_the_mean_probability(self):
        case = Case("aekd", "m3")
        student, teachers = case.input("zs", EXACT), case["in/zt"].to(EXACT)
        multi_teacher_loss(student, list(teachers), case["in/y"], **self.options).total.backward()
        again = case.input("zs", EXACT)
        mean_logits = 4 * (teachers / 4).softmax(2).mean(0).log()
        kd_loss(again, mean_logits, case["in/y"], **self.options).total.backward()
        torch.testing.assert_close(student.grad, again.grad, rtol=1e-4, atol=1e-5)

    @in_float64
    def test_the_value_is_that_of_the_mean_probability_and_the_teachers_divergence(self):
        case = Case("aekd", "m3")
        student, teachers = case["in/zs"], case["in/zt"]
        log_p = (teachers / 4).log_softmax(2)
        mean = log_p.exp().mean(0)
        loss = multi_teacher_loss(student, teachers, case["in/y"], **self.options)
        of_the_mean = kd_loss(student, 4 * mean.log(), case["in/y"], **self.options)
        divergence = (log_p.exp() * (log_p - mean.log())).sum(2).mean()
        torch.testing.assert_close(loss.kl, of_the_mean.kl + 16 * divergence)

    def test_one_teacher_is_kd(self):
        torch.manual_seed(0)
        student, teacher, labels = torch.randn(4, 7), torch.randn(4, 7), torch.tensor([0, 1, 2, 3])
        torch.testing.assert_close(
            MultiTeacherLoss()(student, [teacher], labels), KDLoss()(student, teacher, labels), rtol=0, atol=0
        )
