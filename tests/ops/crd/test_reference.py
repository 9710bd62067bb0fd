"""The reference against the golden vectors, finite differences and itself in another form."""

import pytest
import torch
from helpers.crd_cases import check_golden, check_update, golden, in_float64, near, problem

from fastkd.ops import crd
from fastkd.ops.crd import reference


@pytest.mark.parametrize("name", ["call1", "call2"])
def test_golden(name):
    check_golden(name, "reference", torch.float64, 1e-9)


@pytest.mark.parametrize("name", ["call1", "call2"])
def test_golden_by_counts(name):
    case, given, _ = golden(name)
    z = torch.stack((case["out/Z1"], case["out/Z2"]))
    batch = given.contrast
    total, sides = reference.loss_by_counts(*batch[:2], given.bank, batch.chosen_BK, z, given.numbers[0])
    near(total, case["loss/crd"], 1e-9)
    near(sides, torch.stack((case["loss/nce_s"], case["loss/nce_t"])), 1e-9)
    gradients = torch.autograd.grad(total, batch[:2])
    near(gradients[0], case["grad/crd/v1"], 1e-9)
    near(gradients[1], case["grad/crd/v2"], 1e-9)


@pytest.mark.parametrize("formula", [reference.loss, reference.loss_by_counts])
def test_finite_differences(formula):
    case = problem(rows=20, samples=3, negatives=9, dim=5, classes=4, explicit=True)
    chosen = case.contrast.chosen_BK
    embeddings = [tensor.detach().double().requires_grad_() for tensor in case.contrast[:2]]
    z = torch.tensor((30.0, 40.0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s, t: formula(s, t, case.bank.double(), chosen, z, 0.3)[0], embeddings)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_update(dtype):
    check_update("reference", dtype)


def test_z_is_set_once():
    case = problem()
    z = crd.normaliser(case.inputs(torch.full((2,), -1.0)), "reference")
    near(z, in_float64(case).z, 1e-6)
    known = torch.tensor([7.0, 8.0])
    assert torch.equal(crd.normaliser(case.inputs(known), "reference"), known)


@pytest.mark.parametrize("rows", [200, 2000])
def test_both_forms_of_the_fallback(rows):
    case = problem(rows=rows)  # 70 negatives: by counts up to 280 rows
    expected = in_float64(case)
    z = expected.z.float()
    terms = crd.loss(case.inputs(z), "reference")
    near(terms.total, expected.total, 1e-6)
    for gradient, right in zip(torch.autograd.grad(terms.total, case.contrast[:2]), expected.gradients, strict=True):
        near(gradient, right, 2e-6)
