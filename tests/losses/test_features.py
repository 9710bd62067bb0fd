"""The losses on feature maps and embeddings as modules on plain tensors: the methods' numbers, and none of a method."""

import math

import pytest
import torch
from helpers.golden import Case, close

from fastkd.losses import (
    ABLoss,
    ATLoss,
    CATLoss,
    CCLoss,
    DISTLoss,
    FitNetLoss,
    FSPLoss,
    FTLoss,
    HCLLoss,
    NSTLoss,
    OHLoss,
    PKTLoss,
    RKDLoss,
    SPLoss,
    SRDLoss,
    VIDLoss,
    VkDLoss,
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
    "cc, neighbours": (CCLoss(form="neighbours"), (4, 8), (4, 8)),
    "dist": (DISTLoss(temperature=2.0), (4, 8), (4, 8)),
    "ab": (ABLoss(), (2, 3, 4, 4), (2, 3, 4, 4)),
    "ft": (FTLoss(), (2, 3, 8, 8), (2, 3, 4, 4)),
    "ft, whole factors": (FTLoss(form="factor"), (2, 3, 8, 8), (2, 3, 8, 8)),
    "vid": (VIDLoss(3, 5), (2, 3, 8, 8), (2, 5, 4, 4)),
    "srd": (SRDLoss(8, 5), (4, 8), (4, 5)),
    "srd, correlations": (SRDLoss(8, 5, form="correlations"), (4, 8), (4, 5)),
    "vkd": (VkDLoss(5, 8), (4, 5), (4, 8)),
    "vkd, as wide": (VkDLoss(5, 5), (4, 5), (4, 5)),
    "vkd, places": (VkDLoss(3, 5, form="places"), (2, 3, 8, 8), (2, 5, 4, 4)),
}


@pytest.mark.parametrize("name", MAPS)
def test_only_the_student_learns_and_arithmetic_is_float32(name):
    loss, *shapes = MAPS[name]
    student, teacher = (torch.randn(shape).requires_grad_() for shape in shapes)
    found = loss(student, teacher)
    found.backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None
    if list(loss.parameters()):  # a projection is in the type that autocast gives it
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert loss(student, teacher).dtype == torch.float32
        return
    half = loss(student.detach().bfloat16(), teacher.detach().bfloat16())
    assert half.dtype == torch.float32 and half.isfinite()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(student, teacher), found)


TRACED_QUICKLY = ("at", "rkd", "vkd, as wide")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in TRACED_QUICKLY)) for name in MAPS]
)
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


def test_a_pixel_is_a_row_of_dist():
    case = Case("modern/dist", "seg")
    for name, loss in (
        ("seg_b1_g1", DISTLoss()),
        ("seg_inter", DISTLoss(gamma=0.0)),
        ("seg_intra", DISTLoss(beta=0.0)),
    ):
        student = case.input("zs")
        found = loss(student, case["in/zt"])
        found.backward()
        close(found, case[f"loss/{name}"])
        close(student.grad, case[f"grad/{name}/zs"])
    tokens = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    torch.testing.assert_close(DISTLoss()(*tokens), DISTLoss()(*(x.flatten(0, 1) for x in tokens)))


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


def test_several_pairs_of_preacts_count_half_of_the_next_each():
    student, teacher = torch.randn(2, 3, 4, 6, 2, 2, dtype=torch.float64).unbind(0)
    margins = -torch.rand(3, 6, dtype=torch.float64)
    target = torch.maximum(teacher, margins[:, None, :, None, None])
    each = torch.where((student > target) | (target > 0), student - target, 0).square().sum((1, 2, 3, 4))
    expected = (each[0] / 4 + each[1] / 2 + each[2]) / 4
    torch.testing.assert_close(OHLoss()(list(student), list(teacher), list(margins)), expected)
    one = OHLoss()([student[0]], [teacher[0]], [margins[0]])
    torch.testing.assert_close(OHLoss()(student[0], teacher[0], margins[0]), one)
    beyond = torch.where(teacher > 0, (0.5 - student).clamp(min=0), (student + 0.5).clamp(min=0))
    each = 0.003 * beyond.square().sum((1, 2, 3, 4)) / 4
    expected = each[0] / 4 + each[1] / 2 + each[2]
    torch.testing.assert_close(ABLoss(margin=0.5)(list(student), list(teacher)), expected)


def test_the_margin_is_the_mean_of_what_is_below_zero():
    norm = torch.nn.BatchNorm2d(2)
    norm.weight.data, norm.bias.data = torch.tensor([1.5, -0.5]), torch.tensor([0.3, -0.2])
    drawn = norm.bias + norm.weight * torch.randn(400_000, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([x[x < 0].mean() for x in drawn.unbind(1)])
    torch.testing.assert_close(OHLoss.margin(norm), expected.detach(), rtol=1e-2, atol=0)


def test_the_likelihood_is_that_of_a_gaussian():
    loss = VIDLoss(3, 5, initial_variance=2.0).double()
    student, teacher = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 5, 4, 4).double()
    gaussian = torch.distributions.Normal(loss.regressor(student), 2.0**0.5).log_prob(teacher).mean()
    constant = 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(loss(student, teacher), -gaussian - constant, rtol=1e-6, atol=0)
    with pytest.raises(ValueError, match=r"initial_variance is above least_variance 3\.0, got 2\.0"):
        VIDLoss(3, 5, initial_variance=2.0, least_variance=3.0)


def test_what_is_learned_is_for_an_optimiser():
    for loss in (VIDLoss(3, 5), SRDLoss(3, 5), VkDLoss(3, 5, form="places")):
        assert list(loss.parameters()) and all(parameter.requires_grad for parameter in loss.parameters())
