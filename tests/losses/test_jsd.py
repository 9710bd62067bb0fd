"""The generalised Jensen-Shannon divergence against TRL's numbers (gjsd)."""

import pytest
import torch
from helpers.golden import Case, close

from fastkd.losses import JSDLoss, SparseTeacher, TeacherProbabilities, jsd_loss, kd_loss

NAMES = ("v16", "v37", "v1000", "ext60")
DTYPES = (torch.float64, torch.float32)


def check(case: Case, loss: str, total: torch.Tensor, student: torch.Tensor, dtype: torch.dtype) -> None:
    close(total, case[f"loss/{loss}"], dtype)
    if f"{case.name}/grad/{loss}/zs" in case.arrays:
        total.backward()
        close(student.grad, case[f"grad/{loss}/zs"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name, temperature", [*((name, 1) for name in NAMES), ("v16", 2)])
@pytest.mark.parametrize("beta", (0, 0.1, 0.5, 0.9, 1))
def test_without_labels_it_is_the_sum_over_tokens_by_the_number_of_sequences(name, beta, temperature, dtype):
    case, loss = Case("modern/gjsd", name), f"jsd_b{beta}_T{temperature}"
    student, teacher = case.input("zs", dtype), case["in/zt"].to(dtype)
    terms = jsd_loss(student, teacher, beta=beta, temperature=temperature, count=len(student))
    check(case, loss, terms.total, student, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("beta", (0, 0.1, 0.5, 0.9, 1))
@pytest.mark.parametrize("name", NAMES)
def test_with_labels_it_is_the_mean_over_the_tokens_that_count(name, beta, dtype):
    case = Case("modern/gjsd", name)
    student, teacher, labels = case.input("zs", dtype), case["in/zt"].to(dtype), case["in/labels"]
    check(case, f"masked_b{beta}", jsd_loss(student, teacher, labels, beta=beta).total, student, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_reductions(name):
    case = Case("modern/gjsd", name)
    teacher, labels, (*_, words) = case["in/zt"], case["in/labels"], case["in/zt"].shape
    for loss, options in (
        ("sumred_b0.5", {"reduction": "sum"}),
        ("items7_b0.5", {"count": 7.0}),
        ("meanred_b0.5", {"count": float((labels != -100).sum() * words)}),
    ):
        student = case.input("zs")
        check(case, loss, jsd_loss(student, teacher, labels, **options).total, student, torch.float64)


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_teacher_as_probabilities(name):
    """Theirs are clamped at 1e-8, which is below all of these; ours are not."""
    case = Case("modern/gjsd", name)
    student, teacher = case.input("zs"), TeacherProbabilities(case["in/zt"].softmax(-1))
    check(case, "probs_b0.5", jsd_loss(student, teacher, case["in/labels"]).total, student, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tail, word", (("lumped", "tail"), ("renormalised", "renorm")))
@pytest.mark.parametrize("beta", (0, 0.5, 1))
@pytest.mark.parametrize("k", (1, 4))
@pytest.mark.parametrize("name", NAMES[:3])
def test_kept_classes(name, k, beta, tail, word, dtype):
    """They keep the teacher's greatest for beta 0, the student's for beta 1, the greatest of both between."""
    case, loss = Case("modern/gjsd", name), f"top{k}_{word}_b{beta}"
    student, teacher, labels = case.input("zs", dtype), case["in/zt"].to(dtype), case["in/labels"]
    kept = teacher.topk(k).indices if beta == 0 else student.detach().topk(k).indices
    if 0 < beta < 1:
        both = torch.cat([teacher.topk(k).indices, kept], -1).sort(-1).values
        again = torch.zeros_like(both, dtype=torch.bool)
        again[..., 1:] = both[..., 1:] == both[..., :-1]
        kept = torch.where(again, -1, both)
    log_probs = teacher.log_softmax(-1).gather(-1, kept.clamp(min=0))
    total = jsd_loss(student, SparseTeacher(kept, log_probs, tail), labels, beta=beta).total
    check(case, loss, total, student, dtype)


def test_a_module_has_its_numbers():
    case = Case("modern/gjsd", "v16")
    student, teacher = case["in/zs"].float(), case["in/zt"].float()
    loss = JSDLoss(beta=0.1, temperature=2.0)
    torch.testing.assert_close(loss(student, teacher), jsd_loss(student, teacher, beta=0.1, temperature=2.0))
    loss.beta = 0.9
    torch.testing.assert_close(loss(student, teacher), jsd_loss(student, teacher, beta=0.9, temperature=2.0))
    for end, divergence in ((0.0, "forward"), (1.0, "reverse")):
        loss.beta = end
        of_kd = kd_loss(student, teacher, divergence=divergence, temperature=2.0, kl_weight=1.0)
        torch.testing.assert_close(loss(student, teacher).jsd, of_kd.kl / 4)


def test_labels_have_a_cross_entropy_where_it_is_asked_for():
    student, teacher, labels = torch.randn(4, 5), torch.randn(4, 5), torch.arange(4)
    terms = jsd_loss(student, teacher, labels, ce_weight=0.5, weight=2.0)
    torch.testing.assert_close(terms.total, 0.5 * terms.ce + 2.0 * terms.jsd)
    torch.testing.assert_close(terms.ce, kd_loss(student, teacher, labels).ce)
    assert jsd_loss(student, teacher, labels, temperature=3.0, tau_squared=True).jsd > 0
