"""The compiled kernels of the distillation loss, executed: right against float64, and nothing to be found in them."""

import pytest
import torch
from helpers.distill_cases import (
    ALONE,
    FORMS,
    as_sums_of_logarithms,
    assert_a_small_divergence_keeps_its_digits,
    assert_no_worse,
    evaluate,
    random_logits,
)
from helpers.executed import executing

from fastkd.losses import sftn_loss
from fastkd.ops.distill_loss import launch

pytestmark = pytest.mark.ptx
SLACK = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # 2 ulp, as on a GPU
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


def check(form: str, classes: int, dtype: str, architecture: str, samples: int = 5, **options) -> None:
    """Runs forward and backward with an ignored row; a finding raises."""
    logits, labels = random_logits(3, samples, classes, TYPES[dtype], seed=classes)
    if samples > 1:
        labels[1] = -100
    with executing(architecture, **options) as gpu:
        assert_no_worse(form, logits, labels, slack=SLACK[TYPES[dtype]])
    assert len(gpu.launches) == 3, "the rows, their sum, the scaling"
    assert not any(result.depends_on_order for result in gpu.launches)


QUICK = [
    ("sftn", 100, "fp32", "sm_90"),
    ("kd", 1000, "bf16", "sm_80"),
    ("dkd", 100, "fp32", "sm_100"),
    ("sftn", 4200, "bf16", "sm_90"),
    ("standardised rld", 100, "fp32", "sm_80"),
    ("weighted teachers", 10, "fp16", "sm_90"),
]
"""Each of the kernels once or twice, where it can be in a code that `make test` executes elsewhere too."""


@pytest.mark.parametrize(("form", "classes", "dtype", "architecture"), QUICK)
def test_forms(form, classes, dtype, architecture):
    check(form, classes, dtype, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("classes", (100, 1000))
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_forms_types_and_architectures(form, classes, dtype, architecture):
    check(form, classes, dtype, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_wide_kernel(form):
    """Types and architectures take turns."""
    place = list(FORMS).index(form)
    check(form, 5000, list(TYPES)[place % 3], ARCHITECTURES[place // 3 % 3], samples=2)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("form", ("kd", "sftn"))
def test_one_very_wide_row(form, architecture):
    check(form, 21_841, "bf16", architecture, samples=1)


@pytest.mark.parametrize(
    ("form", "classes", "dtype", "architecture"),
    [
        ("sftn", 300, "fp32", "sm_90"),  # two warps a row
        ("kd", 1000, "bf16", "sm_80"),  # one
        pytest.param("dkd", 1000, "fp16", "sm_90", marks=pytest.mark.slow),
        pytest.param("sftn reverse", 1000, "fp32", "sm_100", marks=pytest.mark.slow),
        pytest.param("weighted teachers", 200, "fp32", "sm_90", marks=pytest.mark.slow),
        pytest.param("tfkd", 2000, "bf16", "sm_90", marks=pytest.mark.slow),
    ],
)
def test_rows_that_are_loaded_ahead(form, classes, dtype, architecture, monkeypatch):
    """More samples than programs, so that each goes round its loop; a few are laid out as many are."""
    monkeypatch.setattr(launch, "FEW", 0)
    check(form, classes, dtype, architecture, samples=21, multiprocessors=1)


PAIRS = [
    ("sftn", 2, "bf16", "sm_90", 7),
    ("sftn reverse", 10, "fp16", "sm_100", 1),
    ("sftn detached", 4096, "fp32", "sm_80", 2),
    ("sftn as printed", 2, "fp16", "sm_80", 33),
    ("kd", 10, "fp32", "sm_100", 33),
    ("kd", 4096, "bf16", "sm_90", 1),
    ("teachers", 2, "fp32", "sm_100", 1),
    ("teachers", 4096, "fp16", "sm_90", 7),
    ("weighted teachers", 10, "bf16", "sm_80", 7),
    ("dkd", 4096, "fp32", "sm_90", 3),
    ("dkd", 2, "bf16", "sm_100", 5),
    ("virtual", 10, "fp16", "sm_90", 33),
    ("tfkd", 4096, "bf16", "sm_100", 2),
    ("smoothing", 10, "fp32", "sm_80", 7),
    ("smoothing others", 4096, "fp16", "sm_80", 2),
    ("ce", 2, "fp32", "sm_90", 33),
    ("weighted teachers", 10, "fp32", "sm_90", 5),
    ("smoothing others", 2, "fp32", "sm_80", 5),
    ("standardised teachers", 10, "fp16", "sm_90", 5),
    ("jsd", 1200, "bf16", "sm_90", 5),
    ("rld", 2, "fp32", "sm_90", 7),
    ("nkd", 4096, "fp16", "sm_80", 2),
    ("ab", 10, "bf16", "sm_100", 33),
    ("wttm", 129, "fp32", "sm_90", 1),
    ("ce", 129, "bf16", "sm_80", 7),
    ("sftn", 129, "fp16", "sm_90", 33),
]
"""Classes, types, architectures and numbers of rows, pair by pair."""


@pytest.mark.slow
@pytest.mark.parametrize(("form", "classes", "dtype", "architecture", "samples"), PAIRS)
def test_pairs(form, classes, dtype, architecture, samples):
    check(form, classes, dtype, architecture, samples)


@pytest.mark.parametrize("columns", (False, pytest.param(True, marks=pytest.mark.slow)))
def test_rows_of_a_wider_matrix(columns):
    """Only their own numbers are touched; with every second column, too."""
    whole, labels = random_logits(3, 5, 300, torch.float32, 1)
    views = [tensor[:, 3:203:2] if columns else tensor[:, 3:103] for tensor in whole]
    with executing("sm_90"):
        terms = sftn_loss(views[0].requires_grad_(), views[1:], labels % 100, temperature=2.0)
    expected = sftn_loss(views[0], views[1:], labels % 100, temperature=2.0)
    torch.testing.assert_close(terms.total, expected.total)


def test_gradients_do_not_depend_on_the_grid():
    """Rows are independent: one program for all of them gives the bits that many programs give; so does any order."""
    logits, labels = random_logits(4, 21, 100, torch.float32, 2)
    found = []
    for multiprocessors in (1, 132):
        with executing("sm_90", multiprocessors=multiprocessors) as gpu:
            found.append(evaluate("sftn", "triton", logits, labels)[1])
        assert gpu["rows_kernel"].counts.blocks == min(21, multiprocessors * launch.layout(100).programs)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("classes", "dtype", "sectors"),
    [
        pytest.param(1000, "fp32", 1.06, marks=pytest.mark.slow),
        (1000, "bf16", 1.25),  # rows of 2,000 bytes begin in the middle of a sector, which two instructions ask for
        pytest.param(4096, "bf16", 1.06, marks=pytest.mark.slow),
        (4200, "bf16", 2.5),  # the wide kernel reads a row three times; the caches serve two of them
        pytest.param(21_841, "bf16", 3.6, marks=pytest.mark.slow),  # and odd rows are read 2 bytes a thread
    ],
)
def test_traffic_is_near_its_floor(classes, dtype, sectors, monkeypatch):
    """Every logit is read once and every gradient written once, but for what a sample has besides. sectors: how many
    times the floor warps ask for at most, were there no L1 cache."""
    monkeypatch.setattr(launch, "FEW", 0)  # many samples are what waits for memory; a few have more warps a row
    logits, labels = random_logits(4, 8, classes, TYPES[dtype], 4)
    with executing("sm_90", multiprocessors=4) as gpu:
        evaluate("sftn", "triton", logits, labels)
    counts, floor = [result.counts for result in gpu.launches], 2 * sum(tensor.nbytes for tensor in logits)
    assert sum(one.read.unique_bytes + one.written.unique_bytes for one in counts) <= 1.05 * floor
    assert (counts[0].read.sectors + counts[0].written.sectors) * 32 <= sectors * floor
    assert max(one.worst_conflict for one in counts) == 1


@pytest.mark.parametrize(
    "approximation",
    (pytest.param("above", marks=pytest.mark.slow), pytest.param("below", marks=pytest.mark.slow), "either"),
)
@pytest.mark.parametrize(
    "form", ("kd", pytest.param("sftn", marks=pytest.mark.slow), pytest.param("dkd", marks=pytest.mark.slow))
)
def test_the_hardwares_approximations(form, approximation):
    """Every exponential, logarithm and quotient off by what the manual allows: ten times plain PyTorch's error is not
    passed, which rounds each of them right. Over some batches, since a single number may be right by luck."""
    errors, sizes = [], []
    for seed in range(4):
        logits, labels = random_logits(3, 5, 100, torch.float32, seed)
        exact = evaluate(form, "reference", logits, labels, torch.float64)
        with as_sums_of_logarithms():
            plain = evaluate(form, "reference", logits, labels)
        with executing("sm_90", approximation=approximation):
            found = evaluate(form, "triton", logits, labels)
        goal = [*exact[0], *exact[1]]
        errors.append([_errors(one, goal) for one in ([*found[0], *found[1]], [*plain[0], *plain[1]])])
        sizes.append([right.square().sum() for right in goal])
        assert torch.equal(found[2], exact[2])
    ours, usual = (torch.stack([*map(torch.stack, one)]).sum(0).sqrt() for one in zip(*errors, strict=True))
    size = torch.stack([*map(torch.stack, sizes)]).sum(0).sqrt()
    assert bool((ours <= 10 * usual + 1e-6 * size + 1e-9).all())


def _errors(values: list[torch.Tensor], goal: list[torch.Tensor]) -> list[torch.Tensor]:
    return [(one.double() - right).square().sum() for one, right in zip(values, goal, strict=True)]


def test_a_label_among_thousands():
    """DKD's first part is a KL of two probabilities, of which one is nearly 1: its digits are those of a small one."""
    for seed in range(3):
        logits, labels = random_logits(2, 4, 4096, torch.float32, seed)
        exact = evaluate("dkd", "reference", logits, labels, torch.float64)[0]
        with executing("sm_90"):
            found = evaluate("dkd", "triton", logits, labels)[0]
        for one, right in zip(found, exact, strict=True):
            assert (one.double() - right).abs() <= 1e-5 * right.abs()


AGREEING = [("kd", 100, "sm_90"), ("sftn", 33, "sm_80"), ("standardised", 10, "sm_90")]
"""The rows and the pair kernel, in one warp and in more rows than one."""


@pytest.mark.parametrize(("form", "classes", "architecture"), AGREEING)
def test_networks_that_nearly_agree(form, classes, architecture):
    with executing(architecture):
        assert_a_small_divergence_keeps_its_digits(form, classes, 3, (4.0, 1000.0))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("classes", (2, 10, 100, 1000, 4096, 5000))
@pytest.mark.parametrize("form", ALONE)
def test_networks_that_nearly_agree_in_every_kernel(form, classes, architecture):
    if form != "dkd" or classes > 2:  # else there are no other classes to compare
        with executing(architecture):
            assert_a_small_divergence_keeps_its_digits(form, classes, 3, (1.0, 20.0, 1000.0))


def test_a_label_that_is_no_class_is_caught_on_the_device(monkeypatch):
    from ptx import FindingsError, findings

    monkeypatch.setenv("FASTKD_CHECK_LABELS", "1")
    logits, labels = random_logits(1, 5, 10, torch.float32, 0)
    numbers = torch.ones(8)
    from fastkd.ops.distill_loss.operation import distill_loss

    with executing("sm_90"):
        distill_loss(logits[0], [], labels, numbers, None, "ce", [True], False, True, -100, "triton")
        labels[3] = 10
        with pytest.raises(FindingsError, match=findings.TRAP):
            distill_loss(logits[0], [], labels, numbers, None, "ce", [True], False, True, -100, "triton")
