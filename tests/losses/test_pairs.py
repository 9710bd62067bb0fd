"""The losses of a student's logits against one teacher's: functions and modules, checks, tracing, numbers."""

import pytest
import torch
from helpers.losses import EXACT
from helpers.pair_formulas import FORMULAS, softmax, standardised

from fastkd.losses import (
    ABDivergenceLoss,
    DKDLoss,
    JSDLoss,
    KDLoss,
    NKDLoss,
    RLDLoss,
    TTMLoss,
    ab_divergence_loss,
    dkd_loss,
    jsd_loss,
    kd_loss,
    nkd_loss,
    rld_loss,
    ttm_loss,
)

LOSSES = {
    "dkd": (DKDLoss, dkd_loss, {"temperature": 2.0, "alpha": 0.5, "beta": 3.0, "ce_weight": 0.4}, {}),
    "nkd": (NKDLoss, nkd_loss, {"temperature": 2.0, "alpha": 0.5, "gamma": 1.3, "ce_weight": 0.4}, {}),
    "rld": (
        RLDLoss,
        rld_loss,
        {"temperature": 2.0, "target_temperature": 1.5, "alpha": 0.5, "beta": 3.0, "ce_weight": 0.4},
        {},
    ),
    "ttm": (TTMLoss, ttm_loss, {"exponent": 0.3, "kl_weight": 3.0, "ce_weight": 0.4}, {}),
    "wttm": (TTMLoss, ttm_loss, {"exponent": 0.3, "kl_weight": 3.0, "ce_weight": 0.4}, {"weighted": True}),
    "ab": (
        ABDivergenceLoss,
        ab_divergence_loss,
        {"temperature": 2.0, "alpha": 0.8, "beta": 0.3, "weight": 2.0, "ce_weight": 0.4},
        {},
    ),
    "ab_continuous": (
        ABDivergenceLoss,
        ab_divergence_loss,
        {"temperature": 2.0, "alpha": 0.5, "beta": 0.0, "weight": 2.0, "ce_weight": 0.4},
        {"continuous": True},
    ),
    "jsd": (JSDLoss, jsd_loss, {"temperature": 2.0, "beta": 0.3, "weight": 2.0, "ce_weight": 0.4}, {}),
}
each = pytest.mark.parametrize("name", LOSSES)
GENERATOR = torch.Generator().manual_seed(0)
STUDENT, TEACHER = (2 * torch.randn(2, 5, 7, generator=GENERATOR, dtype=torch.float64)).to(EXACT)
LABELS = torch.tensor([0, 3, -100, 6, 2])


def by_formula(name, numbers, standardise):
    rows = [(STUDENT[i].tolist(), TEACHER[i].tolist(), LABELS[i].item()) for i in (0, 1, 3, 4)]
    total = 0.0
    for student, teacher, label in rows:
        ce = -torch.tensor(softmax(student)[label]).double().log().item()
        pair = (standardised(student), standardised(teacher)) if standardise else (student, teacher)
        mixture = {"mixture": numbers["beta"]} if name == "jsd" else {}
        total += numbers["ce_weight"] * ce + FORMULAS[name](*pair, label, numbers | mixture)
    return total / len(rows)


@each
@pytest.mark.parametrize("standardise", (False, True))
def test_function_and_module_are_the_formula(name, standardise):
    module, function, numbers, options = LOSSES[name]
    given = numbers | options | {"standardise": standardise}
    found, again = function(STUDENT, TEACHER, LABELS, **given), module(**given)(STUDENT, TEACHER, LABELS)
    expected = by_formula(name, numbers, standardise)
    assert found.total.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(found, again, rtol=2e-6, atol=1e-6)


@each
def test_no_gradient_reaches_the_teacher_and_parts_are_detached(name):
    _, function, numbers, options = LOSSES[name]
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    found = function(student, teacher, LABELS, **numbers, **options)
    found.total.backward()
    assert student.grad.abs().sum() > 0 and teacher.grad is None
    assert not any(value.requires_grad for value in found[1:])
    assert (student.grad[2] == 0).all()


@each
def test_every_number_may_be_set(name):
    module, _, numbers, options = LOSSES[name]
    loss = module(**options)
    for number, value in numbers.items():
        setattr(loss, number, value)
    expected = module(**numbers, **options)(STUDENT, TEACHER, LABELS)
    torch.testing.assert_close(loss(STUDENT, TEACHER, LABELS), expected, rtol=0, atol=0)


@each
def test_rows_may_have_weights(name):
    module, _, numbers, options = LOSSES[name]
    loss = module(**numbers | {"ce_weight": 0.0}, **options)
    weights = torch.tensor([0.5, 2.0, 3.0, 0.0, 1.0], dtype=EXACT)
    found = loss(STUDENT, TEACHER, LABELS, weights).total
    rows = [loss(STUDENT[i : i + 1], TEACHER[i : i + 1], LABELS[i : i + 1]).total * weights[i] for i in (0, 1, 3, 4)]
    torch.testing.assert_close(found, torch.stack(rows).mean())
    with pytest.raises(ValueError, match=r"row_weights are a floating-point tensor \[5\], got torch.float\d+ \[4\]"):
        loss(STUDENT, TEACHER, LABELS, weights[:4])


def test_the_divergences_meet_where_they_should():
    labels = torch.zeros(5, dtype=torch.int64)
    common = {"ce_weight": 0.0, "temperature": 1.0}
    kl = kd_loss(STUDENT, TEACHER, labels, kl_weight=1.0, **common).total
    torch.testing.assert_close(
        ab_divergence_loss(STUDENT, TEACHER, labels, alpha=1, beta=0, weight=1, **common).total, kl
    )
    torch.testing.assert_close(jsd_loss(STUDENT, TEACHER, labels, beta=0.0, weight=1, **common).total, kl)
    torch.testing.assert_close(ttm_loss(STUDENT, TEACHER, labels, exponent=1.0, kl_weight=1, ce_weight=0.0).total, kl)
    reverse = kd_loss(TEACHER, STUDENT, labels, kl_weight=1.0, **common).total
    torch.testing.assert_close(jsd_loss(STUDENT, TEACHER, labels, beta=1.0, weight=1, **common).total, reverse)


def test_standardised_logits_do_not_see_scale_and_offset():
    given = {"ce_weight": 0.0, "standardise": True}
    found = KDLoss(**given)(STUDENT, 3 * STUDENT + 5, LABELS).total
    assert abs(found.item()) < 1e-6


def test_one_class_is_not_enough_for_what_looks_at_the_others():
    one = torch.zeros(2, 1)
    for function in (dkd_loss, nkd_loss):
        with pytest.raises(ValueError, match="K is at least 2, got 1"):
            function(one, one, torch.zeros(2, dtype=torch.int64))
