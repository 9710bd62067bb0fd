"""The losses on feature maps and embeddings as modules on plain tensors: the methods' numbers, and none of a method."""

import pytest
import torch
from helpers.golden import Case, close

from fastkd.losses import (
    ATLoss,
    CATLoss,
    CCLoss,
    DISTLoss,
    FitNetLoss,
    FSPLoss,
    HCLLoss,
    NSTLoss,
    PKTLoss,
    RKDLoss,
    SPLoss,
)

MAPS = {
    "at": (ATLoss(), (2, 3, 8, 8), (2, 5, 4, 4)),
    "at by its norm": (ATLoss(power=1, form="norm"), (2, 3, 8, 8), (2, 5, 8, 8)),
    "nst": (NSTLoss(), (2, 3, 8, 8), (2, 5, 4, 4)),
    "fitnet": (FitNetLoss(), (2, 3, 8, 8), (2, 3, 8, 8)),
    "hcl": (HCLLoss(), (2, 3, 8, 8), (2, 3, 8, 8)),
    "cat": (CATLoss(), (2, 3, 8, 8), (2, 3, 4, 4)),
    "cat, binary": (CATLoss(binary=True, normalise=False), (2, 3, 8, 8), (2, 3, 8, 8)),
    "sp": (SPLoss(), (4, 3, 8, 8), (4, 5, 4, 4)),
    "rkd": (RKDLoss(), (4, 8), (4, 5)),
    "pkt": (PKTLoss(), (4, 8), (4, 5)),
    "cc": (CCLoss(), (4, 8), (4, 5)),
    "dist": (DISTLoss(temperature=2.0), (4, 8), (4, 8)),
}


@pytest.mark.parametrize("name", MAPS)
def test_only_the_student_learns_and_arithmetic_is_float32(name):
    loss, *shapes = MAPS[name]
    student, teacher = (torch.randn(shape).requires_grad_() for shape in shapes)
    found = loss(student, teacher)
    found.backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None
    half = loss(student.detach().bfloat16(), teacher.detach().bfloat16())
    assert half.dtype == torch.float32 and half.isfinite()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(student, teacher), found)


@pytest.mark.parametrize("name", MAPS)
def test_it_traces_whole(name):
    loss, *shapes = MAPS[name]
    given = [torch.randn(shape) for shape in shapes]
    traced = torch.compile(loss, fullgraph=True, backend="eager")(*given)
    torch.testing.assert_close(traced, loss(*given))


def test_golden_numbers_of_the_relations():
    for file, name, golden, loss in (
        ("pkt", "b6", "pkt", PKTLoss()),
        ("rkd", "b6", "distance", RKDLoss(distance_weight=1.0, angle_weight=0.0)),
        ("rkd", "b6", "angle", RKDLoss(distance_weight=0.0, angle_weight=1.0)),
    ):
        case = Case(file, name)
        student = case.input("x_s")
        found = loss(student, case["in/x_t"])
        found.backward()
        close(found, case[f"loss/{golden}"])
        close(student.grad, case[f"grad/{golden}/x_s"])


def test_golden_numbers_of_dist():
    case = Case("modern/dist", "c37")
    student = case.input("zs")
    close(DISTLoss(temperature=4.0)(student, case["in/zt"]), case["loss/dist_b1_g1_tau4.0"])
    close(DISTLoss(beta=2.0, gamma=0.5)(student, case["in/zt"]), case["loss/dist_b2_g0.5_tau1.0"])
    paper = DISTLoss(temperature=4.0, tau_squared=False)(student, case["in/zt"])
    close(16 * paper, case["loss/dist_b1_g1_tau4.0"])


def test_several_maps_are_summed():
    student = [torch.randn(2, 3, 8, 8), torch.randn(2, 4, 4, 4)]
    teacher = [torch.randn(2, 5, 8, 8), torch.randn(2, 6, 4, 4)]
    for loss in (ATLoss(), NSTLoss()):
        each = [loss(s, t) for s, t in zip(student, teacher, strict=True)]
        torch.testing.assert_close(loss(student, teacher), torch.stack(each).sum())
        with pytest.raises(ValueError, match="as many maps of the one as of the other"):
            loss(student, teacher[:1])


def test_fsp_compares_how_two_maps_go_together():
    first, second = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 5, 4, 4).double()
    matrix = torch.einsum("bcij,bdij->bdc", first, second) / 16
    other = torch.einsum("bcij,bdij->bdc", second[:, :3], second) / 16
    expected = (matrix - other).square().mean()
    torch.testing.assert_close(FSPLoss()((first, second), (second[:, :3], second)), expected)
