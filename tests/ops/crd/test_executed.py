"""CRD's compiled Triton kernels, executed: right against float64, and nothing to be found in them."""

import pytest
import torch
from helpers.crd_cases import check_counts, check_path, check_scaled, check_update, problem
from helpers.executed import executing, needs_compiler
from helpers.recorders import RunAgain, RunBeside
from ptx import NotExecuted

from fastkd.losses import CRDLoss
from fastkd.ops import crd
from fastkd.ops.crd import operation
from fastkd.support.branches import offering

pytestmark = pytest.mark.ptx
TOLERANCE = 2e-5  # as on a GPU: two products of bfloat16, or three, for one of float32
ISSUE = {"rows": 500, "samples": 16, "negatives": 150}
WHOLE = {"rows": 200, "samples": 33, "negatives": 40}
"""More samples than half a tile: on Hopper the products are those of a warpgroup."""
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def check(architecture: str, dtype: str, **sizes) -> None:
    case = problem(**sizes, dtype=TYPES[dtype])
    with executing(architecture) as gpu:
        check_path(case, "dense", TOLERANCE)
        check_counts(case)
        check_scaled(case)
    assert not any(result.depends_on_order for result in gpu.launches)


@pytest.mark.parametrize(
    ("architecture", "dtype", "sizes"),
    [
        pytest.param("sm_90", "bf16", {**WHOLE, "dim": 64}, marks=needs_compiler),
        ("sm_80", "fp32", {"dim": 20, "rows": 100, "samples": 5, "negatives": 30, "replacement": True}),
    ],
)
def test_losses_and_gradients(architecture, dtype, sizes):
    check(architecture, dtype, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize("dim", (64, 100, 128))
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("replacement", (False, True))
@pytest.mark.parametrize("architecture", ("sm_80", "sm_90", "sm_100"))
def test_losses_and_gradients_of_every_kind(architecture, replacement, dtype, dim):
    """Sixteen samples: on every architecture the products are those of a warp."""
    check(architecture, dtype, **ISSUE, dim=dim, replacement=replacement, relaxed=replacement)


@pytest.mark.slow
@pytest.mark.parametrize("dim", (64, 100, 128))
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("architecture", ("sm_80", "sm_90"))
def test_losses_and_gradients_of_whole_tiles(architecture, dtype, dim):
    check(architecture, dtype, **WHOLE, dim=dim)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ("sm_80", "sm_90"))
@pytest.mark.parametrize(
    "sizes",
    [
        {"explicit": True, "rows": 9, "classes": 2, "negatives": 30},
        {"rows": 50, "negatives": 200},
        {"samples": 1, "negatives": 1},
        {"rows": 90, "classes": 90, "relaxed": True},
        {"dim": 13},
        {"rows": 70, "samples": 65, "negatives": 20},
    ],
    ids=str,
)
def test_odd_shapes(architecture, sizes):
    check(architecture, "fp32", **sizes)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("architecture", ("sm_80", pytest.param("sm_90", marks=pytest.mark.slow), "sm_100"))
def test_update(architecture, dtype):
    """Three samples share a row; what the earlier ones read of it is not what the last one writes meanwhile."""
    with executing(architecture):
        check_update("dense", TYPES[dtype])


@needs_compiler
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


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ("sm_80", "sm_90"))
@pytest.mark.parametrize("dtype", TYPES)
def test_shared_memory_is_read_without_conflicts(architecture, dtype):
    case = problem(**WHOLE, dim=128, dtype=TYPES[dtype])
    with executing(architecture) as gpu:
        crd.loss(case.inputs(torch.full((2,), 1000.0)), "dense")
    for kernel in ("mark_kernel", "prepare_kernel", "scores_kernel"):
        assert gpu[kernel].counts.worst_conflict <= 2, gpu[kernel].counts.conflicts


def test_products_of_tensor_memory_are_parsed_alone():
    """On Blackwell whole tiles are multiplied by tcgen05, which is refused by name; fewer samples by mma, as above."""
    with executing("sm_100"), pytest.raises(NotExecuted, match="scores_kernel: mbarrier, tcgen05 are parsed"):
        crd.loss(problem(**WHOLE).inputs(torch.full((2,), 1000.0)), "dense")


@pytest.mark.parametrize("replacement", (False, pytest.param(True, marks=pytest.mark.slow)))
def test_what_is_drawn_beside_the_networks_is_what_the_call_draws(replacement):
    """Whenever it is drawn: at once, or as late as can be; bit for bit."""
    outcomes = []
    with executing("sm_90") as gpu:
        for recorder in (RunAgain(), RunBeside(), RunBeside(late=True)):
            torch.manual_seed(1)
            options = {"labels": torch.arange(60) % 7, "embed_dim": 16, "negatives": 20, "replacement": replacement}
            loss, totals = CRDLoss(8, 10, 60, **options), []

            def step(loss=loss, totals=totals):
                student, teacher = torch.randn(4, 8), torch.randn(4, 10)
                index = torch.arange(4) * (len(totals) + 1)
                loss.draw_ahead(index)
                totals.append(loss(student, teacher, index).total.detach())

            before = len(gpu.launches)
            recorder.record(step, 2)()
            outcomes.append((*totals, *loss.state_dict().values()))
            kernels = [result.kernel for result in gpu.launches[before:]]
            drawn = "draw_kernel" if replacement else "mark_kernel"
            once = [drawn, "finish_kernel", "prepare_kernel", "scores_kernel", "update_kernel"]
            assert sorted(kernels) == sorted(once * 2), "no other launch, and none that returns at once"
            assert not isinstance(recorder, RunBeside) or recorder.forks == 2
    for outcome in outcomes[1:]:
        assert all(torch.equal(one, two) for one, two in zip(outcome, outcomes[0], strict=True))


def test_draws_for_another_batch_are_thrown_away():
    with executing("sm_90"):
        loss = CRDLoss(8, 10, 60, labels=torch.arange(60) % 7, embed_dim=16, negatives=20)
        given = torch.randn(4, 8), torch.randn(4, 10)
        expected = loss.eval()(*given, torch.arange(4)).total

        def step():
            loss.draw_ahead(torch.arange(4) + 9)
            assert loss(*given, torch.arange(4)).total == expected

        RunBeside().record(step, 2)()
        with offering(lambda work: lambda: pytest.fail("joined")):
            loss.draw_ahead(torch.arange(4))  # of a recording that fails before the loss is called
        loss.draw_ahead(torch.arange(4))
        assert loss(*given, torch.arange(4)).total == expected


@pytest.mark.slow
@pytest.mark.parametrize("scarce", (False, True))
def test_opcheck_the_operations_of_the_dense_path(scarce):
    case = problem(dim=20, rows=100, samples=5, negatives=30)
    batch, bank, z, numbers = case.inputs(torch.tensor((30.0, 40.0)))
    plan = batch.plan._replace(scarce=scarce)
    embeddings = batch.student_BD.detach(), batch.teacher_BD.detach()
    with executing("sm_90"):
        torch.library.opcheck(operation.crd_count, (batch.rows_B, None, *plan, len(bank)))
        inputs = (*embeddings, batch.rows_B, None, *plan, bank, z, numbers)
        torch.library.opcheck(operation.crd_prepare, inputs)
        drawn, scaled = crd.count(batch.rows_B, len(bank), plan), operation.crd_prepare(*inputs)[1]
        # Its gradients are outputs too, for the backward pass; opcheck would differentiate them.
        tests = ("test_schema", "test_autograd_registration", "test_faketensor")
        score = (*batch[:2], *drawn, scaled, bank, z, numbers, plan.negatives)
        torch.library.opcheck(operation.crd_score, score, test_utils=tests)
