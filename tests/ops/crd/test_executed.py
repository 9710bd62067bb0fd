"""CRD's compiled Triton kernels, executed: right against float64, and nothing to be found in them."""

import pytest
import torch
from helpers.crd_cases import check_counts, check_update, problem
from helpers.executed import executing

from fastkd.ops import crd

pytestmark = pytest.mark.ptx
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("architecture", ("sm_80", pytest.param("sm_90", marks=pytest.mark.slow), "sm_100"))
def test_update(architecture, dtype):
    """Three samples share a row; what the earlier ones read of it is not what the last one writes meanwhile."""
    with executing(architecture):
        check_update("dense", TYPES[dtype])


@pytest.mark.parametrize("dim", (16, pytest.param(128, marks=pytest.mark.slow)))
def test_the_update_of_a_large_batch(dim):
    """Four warps: short rows are held by all of them, and written by one."""
    case = problem(samples=1100, dim=dim, rows=3000)
    bank, step = case.bank.clone(), torch.tensor(7)
    z, new_z = torch.tensor([-1.0, 5.0]), torch.tensor([3.0, 2.0])
    student, teacher = (tensor.detach() for tensor in case.contrast[:2])
    inputs = (case.contrast.rows_B, student, teacher, new_z, case.numbers)
    expected = case.bank.clone()
    crd.update_(expected, z.clone(), step.clone(), *inputs, "reference")
    with executing("sm_90"):
        crd.update_(bank, z, step, *inputs, "dense")
    torch.testing.assert_close(bank, expected, rtol=5e-7, atol=1e-8)  # the norm is an approximate root
    assert step == 8 and z.tolist() == [3.0, 2.0]


@pytest.mark.parametrize("architecture", ("sm_80", pytest.param("sm_90", marks=pytest.mark.slow)))
@pytest.mark.parametrize("options", [{}, {"replacement": True, "relaxed": True}], ids=("without", "with"))
def test_draws_are_those_of_the_reference(architecture, options):
    case = problem(**options, negatives=130, samples=3)
    rows, plan = case.contrast.rows_B, case.contrast.plan
    with executing(architecture):
        drawn = crd.draw(rows, len(case.bank), plan, "dense")
    assert torch.equal(drawn, crd.draw(rows, len(case.bank), plan, "reference"))


def test_counts_do_not_depend_on_the_grid():
    """Without atomics and with them: integers, the same in whatever order and by however many blocks they are added."""
    for options in ({}, {"replacement": True}):
        case = problem(**options, samples=3, rows=1100, negatives=200)
        for multiprocessors in (1, 132):
            with executing("sm_90", multiprocessors=multiprocessors) as gpu:
                check_counts(case)
            assert not gpu.launches[0].depends_on_order
