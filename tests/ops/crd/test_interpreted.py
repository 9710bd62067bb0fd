"""The dense path in Triton's interpreter."""

import pytest
import torch
from helpers.crd_cases import PROBLEMS, check_counts, check_golden, check_path, check_scaled, check_update, problem

from fastkd.losses import CRDLoss
from fastkd.ops import crd
from fastkd.ops.crd import dense

SMALL = {name: options | {"negatives": min(options.get("negatives", 70), 200)} for name, options in PROBLEMS.items()}

SLOWER = (
    "bfloat16",
    "odd dimensions",
    "48 dimensions, bfloat16",
    "128 dimensions",
    "every row a class",
    "more negatives than rows",
)
EACH = [pytest.param(name, marks=pytest.mark.slow) if name in SLOWER else name for name in SMALL]


@pytest.fixture(autouse=True)
def marked_by_triton(monkeypatch):
    monkeypatch.setenv("FASTKD_OPS", "crd_marks=triton")


@pytest.mark.parametrize("name", EACH)
def test_against_float64(name):
    check_path(problem(**SMALL[name]), "dense")


@pytest.mark.parametrize("name", ["call1", "call2"])
def test_golden(name):
    check_golden(name, "dense")


def test_update():
    check_update("dense", torch.float32)  # bfloat16 is cut off, not rounded, when interpreted


@pytest.mark.parametrize("name", ["plain", "with replacement", "just enough negatives", "every row a class"])
def test_draws_are_those_of_the_reference(name):
    case = problem(**(SMALL[name] | {"negatives": 150}))
    arguments = (case.contrast.rows_B, len(case.bank), case.contrast.plan)
    assert torch.equal(crd.draw(*arguments, "dense"), crd.draw(*arguments, "reference"))


@pytest.mark.parametrize("name", SMALL)
def test_counts_are_those_of_the_draws(name):
    check_counts(problem(**SMALL[name]))
    check_scaled(problem(**SMALL[name]))


@pytest.mark.parametrize("programs", [0, 1])  # 0: one for each sample
def test_counts_of_several_blocks_and_many_classes(programs, monkeypatch):
    monkeypatch.setattr(dense, "MARKING_PROGRAMS", programs)
    check_counts(problem(rows=2100, classes=300, negatives=900, samples=3, relaxed=True))
    check_counts(problem(rows=1100, classes=2, negatives=700, samples=3))  # too few of the other class


def test_the_reference_marks_the_same(monkeypatch):
    for options in ({}, {"rows": 90, "classes": 90, "relaxed": True}, {"rows": 70, "classes": 7, "negatives": 60}):
        case = problem(**options)
        arguments = (case.contrast.rows_B, len(case.bank), case.contrast.plan)
        by_triton = crd.count(*arguments)
        with monkeypatch.context() as patch:
            patch.setenv("FASTKD_OPS", "crd_marks=reference")
            assert all(map(torch.equal, by_triton, crd.count(*arguments)))


@pytest.mark.slow
def test_a_plan_that_may_be_scarce_counts_what_a_sure_one_marks():
    """The two formats of the counts, one loss."""
    case = problem()
    plan = case.contrast.plan
    assert plan.distinct
    z = torch.tensor((30.0, 40.0))
    for scarce in (False, True):
        again = case._replace(contrast=case.contrast._replace(plan=plan._replace(scarce=scarce)))
        check_counts(again)
        found = crd.loss(again.inputs(z), "dense").total
        torch.testing.assert_close(found, crd.loss(case.inputs(z), "reference").total, rtol=2e-6, atol=0)


@pytest.mark.slow
def test_two_tiles_of_samples_and_several_programs():
    check_path(problem(samples=35, rows=130, negatives=40, replacement=True), "dense")


@pytest.mark.slow
def test_the_same_bits_every_time():
    case = problem()
    z = torch.tensor((30.0, 40.0))
    results = []
    for _ in range(2):
        total = crd.loss(case.inputs(z), "dense").total
        results.append((total, *torch.autograd.grad(total, case.contrast[:2])))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.slow
def test_the_module(monkeypatch):
    totals = []
    for path in ("dense", "reference"):
        monkeypatch.setenv("FASTKD_OPS", f"crd={path},crd_marks=triton")
        torch.manual_seed(1)
        loss = CRDLoss(8, 10, 40, labels=torch.arange(40) % 3, embed_dim=12, negatives=20)
        assert loss.implementation(6)[0] == path
        for step in range(3):
            student, teacher = torch.randn(6, 8), torch.randn(6, 10)
            totals.append(loss(student, teacher, torch.arange(6) * (step + 1)).total)
            torch.autograd.grad(totals[-1], list(loss.parameters()))
    torch.testing.assert_close(totals[:3], totals[3:], rtol=1e-5, atol=0)
