"""The definition of the losses of rows against the papers' formulas under autograd, in float64 and in float32."""

import pytest
import torch
from helpers.row_cases import (
    DEFAULT,
    DIVERGENCES,
    KINDS,
    Case,
    Options,
    as_double,
    assert_a_small_divergence_keeps_its_digits,
    exact,
    gradient_of,
    make,
)

from fastkd.losses import SparseTeacher

CAPPED = Options(logit_scale=1.5, softcap=5.0, teacher_logit_scale=0.7, teacher_softcap=4.0)
ONES = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)


def close(case: Case, divergence: str, options: Options = DEFAULT) -> None:
    found = gradient_of(as_double(case), divergence, options, ONES)
    torch.testing.assert_close(found, exact(case, divergence, options, ONES), rtol=1e-10, atol=1e-12)


def possible(kind: str, divergence: str) -> bool:
    return (kind, divergence) not in (("sampled", "reverse"), ("none", "jsd"), ("none", "reverse"))


EVERY = [(kind, divergence) for kind in KINDS for divergence in DIVERGENCES if possible(kind, divergence)]


@pytest.mark.parametrize("labels", ("none", "classes", "probabilities"))
@pytest.mark.parametrize("kind, divergence", EVERY)
def test_every_teacher_and_label(kind, divergence, labels):
    if kind == labels == "none":
        pytest.skip("is no loss")
    close(make(kind, 4, 9, labels), divergence)


@pytest.mark.parametrize("kind, divergence", EVERY)
def test_scaled_and_capped_logits(kind, divergence):
    if kind == "none":
        pytest.skip("ce_loss takes logits as they are")
    close(make(kind, 4, 9), divergence, CAPPED)


@pytest.mark.parametrize("kind", ("logits", "lumped", "renormalised"))
@pytest.mark.parametrize("divergence", ("forward", "reverse"))
@pytest.mark.parametrize("classes", (2, 10, 1000))
def test_rows_that_nearly_agree(kind, divergence, classes):
    assert_a_small_divergence_keeps_its_digits(kind, divergence, classes, path="reference")


def test_weights_and_ignored_rows():
    case = make("logits", 4, 9)
    case.labels[1] = -100
    close(case._replace(weights=torch.tensor([0.5, 3.0, 0.0, 1.0], dtype=torch.float64)), "forward")


@pytest.mark.parametrize("kind", ("lumped", "renormalised", "sampled"))
def test_padding_is_no_class(kind):
    """A row with fewer kept classes than k."""
    case = make(kind, 4, 9)
    teacher = case.teacher
    padded = SparseTeacher(
        torch.cat([teacher.indices, torch.full((4, 2), -1)], 1),
        torch.cat([teacher.log_probabilities, torch.zeros(4, 2)], 1),
        teacher.tail,
    )
    close(case._replace(teacher=padded), "forward")


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("kind", ("lumped", "renormalised"))
def test_k_of_all_classes_is_the_dense_teacher(kind, divergence):
    sparse, dense = make(kind, 4, 9, k=9), make("logits", 4, 9)
    found, expected = (gradient_of(as_double(case), divergence, Options(), ONES) for case in (sparse, dense))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)  # the log-probabilities are float32
    assert found[1].isfinite().all()


def test_a_tail_that_the_student_has_nearly_lost_keeps_its_gradient():
    """1 minus what the kept classes have would be rounding."""
    case = make("lumped", 4, 9)
    case.student.scatter_add_(1, case.teacher.indices, torch.full((4, 3), 30.0))
    losses, gradient = gradient_of(case, "forward", Options(temperature=1.0), ONES.float())
    want = exact(case, "forward", Options(temperature=1.0), ONES)
    torch.testing.assert_close((losses.double(), gradient.double()), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind, divergence", EVERY)
def test_rows_of_weight_zero_may_be_anything(kind, divergence):
    case = make(kind, 4, 9)
    case.student[1] = torch.nan
    losses, gradient = gradient_of(
        case._replace(weights=torch.tensor([1.0, 0.0, 1.0, 1.0])), divergence, Options(), ONES.float()
    )
    assert losses[1] == 0 and (gradient[1] == 0).all()
    assert losses.isfinite().all() and gradient.isfinite().all()
