"""The compiled kernels of the losses of rows, executed: right against float64, and nothing to be found in them."""

import pytest
import torch
from helpers.executed import executing
from helpers.row_cases import (
    DEFAULT,
    Options,
    as_double,
    assert_a_small_divergence_keeps_its_digits,
    forced,
    gradient_of,
    make,
)

from fastkd.losses import LinearTeacher, kd_loss, linear_kd_loss

pytestmark = pytest.mark.ptx
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
CAPPED = Options(logit_scale=1.5, softcap=5.0, teacher_logit_scale=0.7, teacher_softcap=4.0)


def check(
    kind: str, divergence: str, labels: str, classes: int, dtype: str, architecture: str, options: Options = DEFAULT
) -> None:
    """Runs forward and backward, a row of weight 0 among them; a finding raises."""
    case = make(kind, 3, classes, labels, TYPES[dtype], seed=classes)
    case, scale = case._replace(weights=torch.tensor([0.5, 0.0, 2.0])), torch.tensor([1.0, 1.0, 3.0])
    with forced("reference"):
        losses, gradient = gradient_of(as_double(case), divergence, options, scale.double())
    with executing(architecture) as gpu:
        found, of_kernel = gradient_of(case, divergence, options, scale)
    assert len(gpu.launches) == 2, "the rows, the scaling"
    assert not any(result.depends_on_order for result in gpu.launches)
    torch.testing.assert_close(found.double(), losses, rtol=1e-4, atol=1e-5)
    error = (of_kernel.double() - gradient).norm()
    assert error <= ROUNDING[TYPES[dtype]] * (gradient.norm() + 1e-2)


QUICK = [
    ("logits", "forward", "classes", 100, "fp32", "sm_90"),
    ("lumped", "forward", "classes", 1000, "bf16", "sm_90"),
    ("probabilities", "reverse", "none", 21, "fp32", "sm_100"),
]


@pytest.mark.parametrize(("kind", "divergence", "labels", "classes", "dtype", "architecture"), QUICK)
def test_teachers(kind, divergence, labels, classes, dtype, architecture):
    check(kind, divergence, labels, classes, dtype, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ("sm_80", "sm_90", "sm_100"))
@pytest.mark.parametrize("kind", ("logits", "probabilities", "lumped", "renormalised", "sampled"))
def test_all_teachers_on_all_architectures(kind, architecture):
    for divergence in ("forward", "jsd") if kind == "sampled" else ("forward", "reverse", "jsd"):
        check(kind, divergence, "classes", 2100, "bf16", architecture, CAPPED)


@pytest.mark.parametrize("kind", ("logits", "lumped"))
@pytest.mark.parametrize("divergence", ("forward", pytest.param("reverse", marks=pytest.mark.slow)))
def test_rows_that_nearly_agree(kind, divergence):
    with executing("sm_90"):
        assert_a_small_divergence_keeps_its_digits(kind, divergence, 100, (4.0, 1000.0))


FORMS = [
    (kind, divergence)
    for kind in ("logits", "probabilities", "renormalised", "lumped", "sampled")
    for divergence in ("forward", "reverse", "jsd")
    if (kind, divergence) != ("sampled", "reverse")
] + [("none", "forward")]
LABELS = ("classes", "probabilities", "none")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ("sm_80", "sm_90", "sm_100"))
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("kind", "divergence"), FORMS)
def test_all_forms_types_and_architectures(kind, divergence, dtype, architecture):
    """At both sizes; kinds of labels take turns, and a row without a teacher has some."""
    turn = FORMS.index((kind, divergence)) + list(TYPES).index(dtype)
    for classes in (100, 1000):
        labels = LABELS[(turn + classes // 1000) % (2 if kind == "none" else 3)]
        check(kind, divergence, labels, classes, dtype, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("classes", (32_000, 128_256))
@pytest.mark.parametrize("kind", ("logits", "lumped"))
def test_a_vocabulary(kind, classes):
    check(kind, "forward", "classes", classes, "bf16", "sm_90")


@pytest.mark.parametrize("name", ("pixels", pytest.param("a cut sequence", marks=pytest.mark.slow)))
def test_only_their_own_numbers_are_touched(name):
    whole = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    student = whole if name == "pixels" else whole.view(2, 12, 5)[:, 1:-1]
    labels = torch.zeros(student.movedim(1 if name == "pixels" else 2, 0).shape[1:], dtype=torch.int64)
    teacher = student.flip(0)
    with executing("sm_90"):
        leaf = student.detach().requires_grad_()
        terms = kd_loss(leaf, teacher, labels)
        (3 * terms.total).backward()
    again = student.detach().clone().requires_grad_()
    expected = kd_loss(again, teacher, labels)
    (3 * expected.total).backward()
    torch.testing.assert_close(terms, expected)
    torch.testing.assert_close(leaf.grad, again.grad)


@pytest.mark.parametrize("kind", ("logits", pytest.param("lumped", marks=pytest.mark.slow)))
def test_a_chunk_in_place(kind):
    """The gradient is written where other threads have read logits."""
    torch.manual_seed(0)
    case = make(kind, 3, 300)
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(300, 4, requires_grad=True)
    teacher = LinearTeacher(torch.randn(3, 4), torch.randn(300, 4)) if kind == "logits" else case.teacher
    results = []
    for executed in (True, False):
        if executed:
            with executing("sm_90") as gpu:
                total = linear_kd_loss(hidden, weight, teacher, case.labels, chunk_rows=2).total
            assert len(gpu.launches) == 2 and not any(result.depends_on_order for result in gpu.launches)
        else:
            total = linear_kd_loss(hidden, weight, teacher, case.labels, chunk_rows=2).total
        results.append((total.detach(), *torch.autograd.grad(total, (hidden, weight))))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ("logits", pytest.param("lumped", marks=pytest.mark.slow)))
def test_traffic_is_near_its_floor(kind):
    """Every logit is asked for twice; every gradient is written once, and a scale of 1 touches none."""
    case = make(kind, 4, 4096, "classes", torch.bfloat16)
    with executing("sm_90", multiprocessors=4) as gpu:
        gradient_of(case, "forward", DEFAULT, torch.ones(4))
    row, dense = case.student.nbytes, 2 if kind == "logits" else 1
    counts = gpu.launches[0].counts
    assert counts.read.unique_bytes <= 1.05 * dense * row + 4096
    assert counts.written.unique_bytes <= 1.05 * row
    assert counts.read.sectors * 32 <= 1.1 * 2 * dense * row + 16384
    assert gpu.launches[1].counts.read.unique_bytes <= 64, "a scale of 1 reads no gradient"
