"""The CUDA kernels of csrc/, compiled by nvcc and executed: every variant of gather, normaliser, update and draw."""

import pytest
import torch
from helpers.crd_cases import MOMENTUM, check_drawn, in_float64, near, problem
from helpers.gather_executed import ENTRIES, MARKED_WORDS, TYPES, VARIANTS, Gather, full_name, module
from ptx import nvcc

from fastkd.ops import crd

pytestmark = [
    pytest.mark.ptx,
    pytest.mark.skipif(bool(nvcc.obstacle()), reason=nvcc.obstacle() or "nvcc is there"),
]
ALL = ("sm_80", *(pytest.param(architecture, marks=pytest.mark.slow) for architecture in ("sm_90", "sm_100")))


def check(gather: Gather, **options) -> None:
    """Z, loss and gradients against float64, to the precision of the GPU tests; a finding raises."""
    case = problem(**options)
    z = gather.normaliser(case.inputs(torch.full((2,), -1.0)))
    assert torch.equal(gather.normaliser(case.inputs(z)), z), "a Z that is known stays"
    expected = in_float64(case, z)
    total, sides, *gradients = gather.loss(case.inputs(z))
    near(z, expected.z, 2e-6)
    near(total[0], expected.total, 2e-6)
    near(sides, expected.sides, 2e-6)
    for gradient, right in zip(gradients, expected.gradients, strict=True):
        near(gradient, right, 2e-6)
    assert not any(result.depends_on_order for result in gather.launches)


def test_every_kernel_that_is_compiled_is_among_the_entries():
    patterns = [pattern for several in ENTRIES.values() for pattern in several]
    assert {full_name("sm_80", pattern) for pattern in patterns} == set(module("sm_80"))


@pytest.mark.parametrize(("dtype", "dim"), [VARIANTS[1], VARIANTS[7]])
def test_variants(dtype, dim):
    check(Gather("sm_80"), dtype=TYPES[dtype], dim=dim, samples=3)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ("sm_80", "sm_90", "sm_100"))
@pytest.mark.parametrize(("dtype", "dim"), VARIANTS)
def test_every_variant(dtype, dim, architecture):
    check(Gather(architecture), dtype=TYPES[dtype], dim=dim, samples=3, negatives=140)


@pytest.mark.slow
@pytest.mark.parametrize("dim", (64, 100, 128))
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("replacement", (False, True))
@pytest.mark.parametrize("architecture", ("sm_80", "sm_90"))
def test_both_rules_of_drawing(architecture, replacement, dtype, dim):
    sizes = {"rows": 500, "samples": 16, "negatives": 150}
    check(Gather(architecture), dtype=TYPES[dtype], dim=dim, **sizes, replacement=replacement, relaxed=replacement)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"explicit": True, "rows": 9, "classes": 2, "negatives": 30},
        {"rows": 50, "negatives": 200},
        {"samples": 1, "negatives": 1},
        {"rows": 1200, "classes": 1100, "relaxed": True, "negatives": 300},
        {"negatives": 127},
        {"negatives": 128},
    ],
    ids=str,
)
def test_odd_shapes(options):
    check(Gather("sm_90"), **options)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("architecture", ALL)
def test_every_row_is_read_once_for_a_draw(architecture, dtype):
    """Without replacement the rows of one sample are different ones: nothing of them is read twice, and nothing else of
    the bank but its first row, for the places behind the last draw. Embeddings, numbers and borders of classes come on
    top."""
    case = problem(samples=1, rows=3000, negatives=2000, dim=128, dtype=TYPES[dtype])
    gather = Gather(architecture)
    gather.loss(case.inputs(torch.full((2,), 1000.0)))
    counts, row = gather.launches[0].counts, 2 * 128 * TYPES[dtype].itemsize
    assert 0 <= counts.read.unique_bytes - 2001 * row <= row + 2 * 128 * 4 + 256
    assert counts.read.bytes <= 1.1 * 2001 * row


def test_a_sample_that_takes_several_blocks():
    """The parts of a sample are added in a fixed order, by however many blocks they were made."""
    check(Gather("sm_80"), negatives=1100, rows=1500, samples=2)
    check(Gather("sm_80", blocks=2), negatives=1100, rows=1500, samples=2)


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("options", [{}, {"replacement": True, "relaxed": True}], ids=("without", "with"))
def test_draws_are_those_of_the_reference(architecture, options):
    case = problem(**options, negatives=130)
    contrast, n = case.contrast, len(case.bank)
    expected = crd.draw(contrast.rows_B, n, contrast.plan, "reference")
    assert torch.equal(Gather(architecture).draw(contrast, n), expected)


MARKED = {
    "several classes": {},
    "relaxed, every row a class": {"rows": 90, "classes": 90, "relaxed": True},
    "all others": {"rows": 70, "classes": 7, "negatives": 60},
    "one sample, one negative": {"samples": 1, "negatives": 1},
    "more draws than threads, rows without a word's end": {"rows": 1999, "negatives": 1100},
}


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name.startswith(("several", "more")) else [pytest.mark.slow]) for name in MARKED],
)
def test_marks_are_those_of_the_draws(name, architecture):
    """Against the reference, and against the kernel that writes a table of the draws."""
    case = problem(**MARKED[name])
    contrast, n, gather = case.contrast, len(case.bank), Gather(architecture)
    assert contrast.plan.distinct
    drawn = gather.mark(contrast, n)
    check_drawn(drawn, crd.draw(contrast.rows_B, n, contrast.plan, "reference"))
    check_drawn(drawn, gather.draw(contrast, n))
    assert not any(result.depends_on_order for result in gather.launches)


@pytest.mark.slow
def test_a_bank_whose_marks_no_block_holds():
    """Each block keeps its part of the rows."""
    case = problem(rows=32 * MARKED_WORDS + 700, samples=2, negatives=300, dim=1)
    contrast, n = case.contrast, len(case.bank)
    drawn = Gather("sm_90").mark(contrast, n)
    check_drawn(drawn, crd.draw(contrast.rows_B, n, contrast.plan, "reference"))


def test_a_row_outside_the_bank_draws_nothing():
    contrast = problem().contrast
    drawn = Gather("sm_90").mark(contrast._replace(rows_B=torch.tensor([-1, 5, 300])), 300)
    assert drawn.positives.tolist() == [-1, 5, 300] and (drawn.counts != 0).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("architecture", ALL)
def test_update(architecture, dtype):
    """Of samples that share a row the last one counts; what is not finite changes nothing."""
    case = problem(samples=6, dtype=TYPES[dtype], dim=20)
    rows = torch.tensor([4, 9, 4, 200, 9, 4])
    student, teacher = (tensor.detach().clone() for tensor in case.contrast[:2])
    student[3, 2] = torch.nan
    bank, z, step = case.bank.clone(), torch.tensor([-1.0, 5.0]), torch.tensor(7)
    Gather(architecture).update(bank, z, step, rows, student, teacher, torch.tensor([3.0, torch.inf]), case.numbers)
    assert z.tolist() == [3.0, 5.0] and step.item() == 8
    expected = case.bank.clone()
    for row, sample in ((4, 5), (9, 4), (200, 3)):
        for side, embeddings in enumerate((student, teacher)):
            mixed = MOMENTUM * case.bank[row, side].double() + (1 - MOMENTUM) * embeddings[sample].double()
            if mixed.isfinite().all():
                expected[row, side] = (mixed / mixed.norm()).to(bank.dtype)
    torch.testing.assert_close(bank, expected, rtol=2e-7 if dtype == "fp32" else 2**-7, atol=1e-8)
