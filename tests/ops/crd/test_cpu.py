"""The C++ twin against float64, the golden vectors and itself."""

import pytest
import torch
from helpers.crd_cases import PROBLEMS, check_golden, check_path, check_update, golden, needs_library, problem
from helpers.instructions import every_instruction_set, instructions  # noqa: F401

from fastkd.ops import crd
from fastkd.ops.crd import operation

pytestmark = needs_library
every_path = pytest.mark.parametrize("path", ("cpu", "cpu_tiles"))


@every_instruction_set
@every_path
class TestAgainstFloat64:
    @pytest.mark.parametrize("name", PROBLEMS)
    def test_problems(self, name, path):
        check_path(problem(**PROBLEMS[name]), path)

    @pytest.mark.parametrize("dim", [8, 40, 64, 72, 130, 256])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_dimensions(self, dim, dtype, path):
        check_path(problem(dim=dim, dtype=dtype, rows=101, negatives=300, replacement=True), path)

    @pytest.mark.parametrize("name", ["call1", "call2"])
    def test_golden(self, name, path):
        check_golden(name, path)

    def test_large_and_small_scores(self, path):
        # exp(±1/0.07) after a bank of unit rows that are the embeddings themselves, and their opposites.
        case = problem(explicit=True, samples=4)
        rows = torch.stack(case.contrast[:2], 1).detach()
        case.bank[:4], case.bank[4:8] = rows.flip(1), -rows.flip(1)
        case.contrast.chosen_BK.copy_(torch.arange(4 * 71).view(4, 71) % 8)
        check_path(case, path)

    def test_more_draws_of_a_tile_than_are_scored_at_once(self, path):
        check_path(problem(rows=50, negatives=3000, replacement=True), path)


@every_instruction_set
@pytest.mark.parametrize("rows", [2, 47, 48, 49, 1000])
@pytest.mark.parametrize("replacement", [False, True])
def test_every_instruction_set_draws_the_same(rows, replacement):
    plan = problem(rows=rows, classes=2, negatives=rows // 2, replacement=replacement).contrast.plan
    own = torch.arange(rows)
    assert torch.equal(crd.draw(own, rows, plan, "cpu"), crd.draw(own, rows, plan, "reference"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_update(dtype):
    check_update("cpu", dtype)


def run(case, path="cpu"):
    z = crd.normaliser(case.inputs(torch.full((2,), -1.0)), path)
    terms = crd.loss(case.inputs(z), path)
    return z, terms.total, *torch.autograd.grad(terms.total, case.contrast[:2])


@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_every_time_and_for_any_number_of_threads(dtype, path):
    case = problem(dim=128, samples=7, negatives=2500, rows=4000, dtype=dtype)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(run(case, path))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@every_path
@pytest.mark.parametrize("row", [-1, 300])
def test_rows_outside_the_bank_are_refused(row, path):
    case = problem()
    case.contrast.rows_B[1] = row
    with pytest.raises(RuntimeError, match="outside the bank"):
        run(case, path)
    with pytest.raises(RuntimeError, match="outside the bank"):
        arguments = (
            case.bank,
            torch.ones(2),
            torch.tensor(0),
            case.contrast.rows_B,
            *(t.detach() for t in case.contrast[:2]),
        )
        crd.update_(*arguments, torch.ones(2), case.numbers, path)
    case = problem(explicit=True)
    case.contrast.chosen_BK[2, 3] = row
    with pytest.raises(RuntimeError, match="outside the bank"):
        run(case, path)


def test_golden_cases_are_exercised_by_the_library(monkeypatch):
    # Were the library not called, the golden tests above would say nothing.
    _, given, z = golden("call1", torch.float32)
    monkeypatch.setattr(operation, "_library_of", lambda path: pytest.fail("called"))
    with pytest.raises(pytest.fail.Exception, match="called"):
        crd.normaliser(given.inputs(z), "cpu")
