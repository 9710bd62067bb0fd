"""The loss of a student-friendly teacher against the paper's formulas."""

import pytest
import torch
from helpers.golden import Case, close
from helpers.losses import DTYPES, EXACT, in_float64

from fastkd.losses import (
    SFTNLoss,
    sftn_loss,
)

WEIGHTS = {"teacher_weight": "lT", "kl_weight": "lKL", "ce_weight": "lCE"}
"""By the name in the vectors."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", ("tau1", "tau4", "tau4_t2"))
@pytest.mark.parametrize("kl, direction", (("forward", "TR"), ("reverse", "RT")))
@pytest.mark.parametrize("name", ("m2", "m3"))
def test_sftn_equals_the_paper(name, kl, direction, suffix, dtype):
    case = Case("sftn", name)
    teacher, branches = case.input("zT", dtype), case.input("zR", dtype)
    weights = {key: case[f"hp/{short}"].item() for key, short in WEIGHTS.items()}
    temperature = 1.0 if suffix == "tau1" else 4.0
    settings = weights | {"temperature": temperature, "kl": kl, "tau_squared": suffix != "tau4"}
    loss = sftn_loss(teacher, branches, case["in/y"], **settings)
    loss.total.backward()
    close(loss.teacher_ce, case["loss/ce_T"], dtype)
    close(loss.branch_ce, case["loss/ce_R"], dtype)
    close(loss.kl, case[f"loss/kl_{direction}_{suffix}"], dtype)
    close(loss.total, case[f"loss/total_{direction}_{suffix}"], dtype)
    close(teacher.grad, case[f"grad/total_{direction}_{suffix}/zT"], dtype)
    close(branches.grad, case[f"grad/total_{direction}_{suffix}/zR"], dtype)


def test_a_detached_teacher_gets_the_gradient_of_its_cross_entropy_alone():
    case = Case("sftn", "m3")
    teacher, branches = case.input("zT", EXACT), case.input("zR", EXACT)
    loss = SFTNLoss(detach_teacher=True)(teacher, branches, case["in/y"])
    loss.total.backward()
    close(teacher.grad, case["grad/ce_T/zT"], EXACT)
    close(branches.grad, case["grad/total_TR_tau1/zR"], EXACT)


def test_branches_may_be_a_stacked_tensor_or_a_sequence():
    case = Case("sftn", "m2")
    teacher, branches = case["in/zT"].float(), case["in/zR"].float()
    stacked = SFTNLoss()(teacher, branches, case["in/y"])
    listed = SFTNLoss()(teacher, list(branches), case["in/y"])
    torch.testing.assert_close(stacked, listed, rtol=0, atol=0)


@in_float64
@pytest.mark.parametrize("kl", ("forward", "reverse"))
def test_sftn_gradients_equal_finite_differences(kl):
    torch.manual_seed(0)
    teacher, branches = torch.randn(3, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    labels = torch.tensor([0, 4, -100])

    def total(teacher, branches):
        settings = {"temperature": 2.5, "teacher_weight": 0.7, "kl_weight": 1.9, "ce_weight": 0.4}
        return sftn_loss(teacher, branches, labels, kl=kl, ce_temperature=1.5, **settings).total

    assert torch.autograd.gradcheck(total, (teacher.requires_grad_(), branches.requires_grad_()))
