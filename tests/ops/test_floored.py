"""The divergence of probabilities that have a floor. TRL's numbers are in tests/methods/test_golden_modern.py."""

import math

import pytest
import torch

from fastkd.losses import JSDLoss, TeacherProbabilities, jsd_loss, keep_top

STUDENT, TEACHER = 5 * torch.randn(2, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 3, -100, 6])
FLOOR = 1e-3


def by_formula(student, beta):
    p, q = (torch.where(x > FLOOR, x, FLOOR) for x in ((TEACHER / 2).softmax(1), (student / 2).softmax(1)))
    m = beta * p + (1 - beta) * q
    forward, reverse = ((x * (x / y).log()).sum(1) for x, y in ((p, q if beta == 0 else m), (q, p if beta == 1 else m)))
    return forward if beta == 0 else reverse if beta == 1 else beta * forward + (1 - beta) * reverse


@pytest.mark.parametrize("beta", (0.0, 0.3, 1.0))
def test_it_is_the_formula_and_clamped_classes_have_no_gradient(beta):
    leaf = STUDENT.clone().requires_grad_()
    numbers = {"beta": beta, "temperature": 2.0, "ce_weight": 0.5}
    found = jsd_loss(leaf, TEACHER, LABELS, floor=FLOOR, **numbers)
    rows = by_formula(leaf, beta)
    ce = torch.nn.functional.cross_entropy(leaf, LABELS)
    expected = 0.5 * ce + rows[LABELS >= 0].mean()
    torch.testing.assert_close(found.total, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in (found.total, expected))
    )
    each = jsd_loss(STUDENT, TEACHER, LABELS, floor=FLOOR, reduction="none", **numbers)
    torch.testing.assert_close(each.jsd, torch.where(LABELS >= 0, rows.detach(), 0))
    probabilities = TeacherProbabilities((TEACHER / 2).softmax(1))
    torch.testing.assert_close(jsd_loss(STUDENT, probabilities, LABELS, floor=FLOOR, **numbers).jsd, found.jsd)
    module = JSDLoss(floor=FLOOR, **numbers)(STUDENT, TEACHER, LABELS)
    torch.testing.assert_close(module, found, rtol=1e-6, atol=1e-6)


def test_a_floor_below_all_changes_nothing():
    kept = keep_top(TEACHER, 3)
    for teacher in (TEACHER, kept, kept._replace(tail="renormalised")):
        plain, floored = (jsd_loss(STUDENT, teacher, beta=0.3, floor=floor).total for floor in (0.0, 1e-30))
        torch.testing.assert_close(plain, floored)


def test_the_rest_of_kept_classes_has_the_floor():
    kept = keep_top(TEACHER, 6)
    rows = []
    for x in (TEACHER.softmax(1), STUDENT.softmax(1)):
        own = x.gather(1, kept.indices)
        rows.append(torch.cat([own, (1 - own.sum(1, keepdim=True)).clamp(min=0.2)], 1))
    p, q = rows
    assert (p[:, -1] == 0.2).all() and (q[:, -1] == 0.2).any()
    torch.testing.assert_close(jsd_loss(STUDENT, kept, beta=0.0, floor=0.2).total, (p * (p / q).log()).sum(1).mean())


@pytest.mark.parametrize("options", ({"standardise": True}, {"tau_squared": True}, {"softcap": 30.0}))
def test_what_it_is_not_for_is_one_line(options):
    for made in (lambda: jsd_loss(STUDENT, TEACHER, floor=0.1, **options), lambda: JSDLoss(floor=0.1, **options)):
        with pytest.raises(ValueError, match="floor is for logits as they are") as error:
            made()
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="floor is a number from 0 to below 1, got 1.0"):
        jsd_loss(STUDENT, TEACHER, floor=1.0)
    with pytest.raises(TypeError, match="teacher_logits are floating point"):
        jsd_loss(STUDENT, None, floor=0.5)
    assert math.isfinite(jsd_loss(STUDENT, TEACHER, floor=0.5).total)
