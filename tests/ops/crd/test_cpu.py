"""The C++ twin against float64, the golden vectors, itself; and the operations as PyTorch sees them."""

import pytest
import torch
from helpers.crd_cases import PROBLEMS, check_golden, check_path, check_update, golden, needs_library, problem

from fastkd.ops import compiled, crd, select
from fastkd.ops.crd import operation
from fastkd.ops.schema import flat
from fastkd.support.errors import UserError

pytestmark = needs_library


@pytest.mark.parametrize("name", PROBLEMS)
def test_against_float64(name):
    check_path(problem(**PROBLEMS[name]), "cpu")


@pytest.mark.parametrize("name", ["call1", "call2"])
def test_golden(name):
    check_golden(name, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_update(dtype):
    check_update("cpu", dtype)


def test_large_and_small_scores():
    # exp(±1/0.07) after a bank of unit rows that are the embeddings themselves, and their opposites.
    case = problem(explicit=True, samples=4)
    rows = torch.stack(case.contrast[:2], 1).detach()
    case.bank[:4], case.bank[4:8] = rows.flip(1), -rows.flip(1)
    case.contrast.chosen_BK.copy_(torch.arange(4 * 71).view(4, 71) % 8)
    check_path(case, "cpu")


def run(case, path="cpu"):
    z = crd.normaliser(case.inputs(torch.full((2,), -1.0)), path)
    terms = crd.loss(case.inputs(z), path)
    return z, terms.total, *torch.autograd.grad(terms.total, case.contrast[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_every_time_and_for_any_number_of_threads(dtype):
    case = problem(dim=128, samples=7, negatives=2500, rows=4000, dtype=dtype)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(run(case))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("row", [-1, 300])
def test_rows_outside_the_bank_are_refused(row):
    case = problem()
    case.contrast.rows_B[1] = row
    with pytest.raises(RuntimeError, match="outside the bank"):
        run(case)
    with pytest.raises(RuntimeError, match="outside the bank"):
        arguments = (
            case.bank,
            torch.ones(2),
            torch.tensor(0),
            case.contrast.rows_B,
            *(t.detach() for t in case.contrast[:2]),
        )
        crd.update_(*arguments, torch.ones(2), case.numbers, "cpu")
    case = problem(explicit=True)
    case.contrast.chosen_BK[2, 3] = row
    with pytest.raises(RuntimeError, match="outside the bank"):
        run(case)


def arguments_of(case):
    z = torch.tensor((30.0, 40.0))
    return (*flat(case.inputs(z)), "cpu")


@pytest.mark.parametrize("explicit", [False, True])
def test_opcheck_loss_and_normaliser(explicit):
    case = problem(explicit=explicit)
    # Its gradients are outputs too, for the backward pass; opcheck would differentiate them.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operation.crd_loss, arguments_of(case), test_utils=tests)
    detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments_of(case)]
    torch.library.opcheck(operation.crd_normaliser, tuple(detached))


def test_opcheck_the_rest():
    case = problem()
    student, teacher = (tensor.detach() for tensor in case.contrast[:2])
    z, step = torch.full((2,), -1.0), torch.tensor(0)
    update = (case.bank, z, step, case.contrast.rows_B, student, teacher, torch.ones(2), case.numbers, "cpu")
    torch.library.opcheck(operation.crd_update_, update)
    plan = case.contrast.plan
    torch.library.opcheck(operation.crd_draw, (case.contrast.rows_B, *plan, 300, "cpu"))
    torch.library.opcheck(operation.crd_scale_, (student, teacher, torch.tensor(2.0)))


def test_the_gradient_that_arrives_is_applied_once():
    case = problem()
    z = torch.tensor((30.0, 40.0))
    plain = torch.autograd.grad(crd.loss(case.inputs(z), "cpu").total, case.contrast[:2])
    total = crd.loss(case.inputs(z), "cpu").total * 3
    scaled = torch.autograd.grad(total, case.contrast[:2], retain_graph=True)
    for one, three in zip(plain, scaled, strict=True):
        torch.testing.assert_close(three, 3 * one)
    with pytest.raises(RuntimeError, match="second backward needs a second forward"):
        torch.autograd.grad(total, case.contrast[:2])


def test_the_update_tells_autograd():
    case = problem()
    student, teacher = (tensor.detach() for tensor in case.contrast[:2])
    bank, z, step = case.bank, torch.ones(2), torch.tensor(0)
    before = [tensor._version for tensor in (bank, z, step)]
    crd.update_(bank, z, step, case.contrast.rows_B, student, teacher, torch.ones(2), case.numbers, "cpu")
    assert all(tensor._version > old for tensor, old in zip((bank, z, step), before, strict=True))


def test_the_choice(monkeypatch):
    bank = problem().bank
    assert crd.implementation(bank, 5, 70)[0] == "cpu"
    assert crd.implementation(bank.double(), 5, 70)[0] == "reference"
    monkeypatch.setenv("FASTKD_OPS", "crd=reference")
    assert crd.implementation(bank, 5, 70) == ("reference", select.FORCED)
    monkeypatch.setenv("FASTKD_OPS", "crd=gather")
    with pytest.raises(UserError, match="the compiled cuda code does not run on cpu"):
        crd.implementation(bank, 5, 70)
    monkeypatch.setenv("FASTKD_OPS", "crd=cpu")
    with pytest.raises(UserError, match="float32 and bfloat16"):
        crd.implementation(bank.double(), 5, 70)


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(compiled, "_file", lambda device: None)
    path, reason = crd.implementation(problem().bank, 5, 70)
    assert path == "reference" and "the compiled cpu library was not built" in reason


@pytest.mark.parametrize(
    ("rows", "samples", "negatives", "dense"),
    [(50_000, 64, 16_384, True), (1_281_167, 256, 16_384, False), (50_000, 2, 16_384, False)],
)
def test_large_banks_are_gathered(monkeypatch, rows, samples, negatives, dense):
    monkeypatch.setattr(select, "OPERATIONS", {"crd": dict.fromkeys(("dense", "gather"), lambda *_: "")})
    bank = torch.empty(rows, 2, 128, device="meta")
    assert crd.implementation(bank, samples, negatives)[0] == ("dense" if dense else "gather")


def test_golden_cases_are_exercised_by_the_library(monkeypatch):
    # Were the library not called, the golden tests above would say nothing.
    _, given, z = golden("call1", torch.float32)
    monkeypatch.setattr(operation, "_library_of", lambda path: pytest.fail("called"))
    with pytest.raises(pytest.fail.Exception, match="called"):
        crd.normaliser(given.inputs(z), "cpu")
