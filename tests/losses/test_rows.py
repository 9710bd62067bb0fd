"""Shapes, labels, weights and reductions of the losses of rows, against PyTorch's own losses on a plain matrix."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastkd.losses import (
    DKDLoss,
    KDLoss,
    MultiTeacherLoss,
    SFTNLoss,
    TeacherProbabilities,
    VirtualTeacherLoss,
    ce_loss,
    kd_loss,
    label_smoothing_loss,
)

KD = {"temperature": 2.0, "kl_weight": 0.7, "ce_weight": 0.4}


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels_of(*shape: int) -> Tensor:
    return torch.randint(5, shape, generator=torch.Generator().manual_seed(9))


def plain_rows(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """[N] of [N,K]: what every row adds."""
    t = KD["temperature"]
    kl = F.kl_div((student / t).log_softmax(1), (teacher / t).softmax(1), reduction="none").sum(1)
    return KD["ce_weight"] * F.cross_entropy(student, labels, reduction="none") + KD["kl_weight"] * t * t * kl


def rows_last(logits: Tensor, axis: int) -> Tensor:
    return logits.movedim(axis, -1).reshape(-1, logits.shape[axis])


SHAPES = {
    "images": (lambda seed: made(6, 5, seed=seed), 1, (6,)),
    "tokens": (lambda seed: made(2, 3, 5, seed=seed), 2, (2, 3)),
    "tokens cut out of more": (lambda seed: made(2, 4, 5, seed=seed)[:, 1:], 2, (2, 3)),
    "pixels": (lambda seed: made(2, 5, 3, 4, seed=seed), 1, (2, 3, 4)),
    "pixels, classes last in memory": (lambda seed: made(2, 3, 4, 5, seed=seed).movedim(-1, 1), 1, (2, 3, 4)),
    "pixels cut out of more": (lambda seed: made(2, 5, 3, 8, seed=seed)[..., ::2], 1, (2, 3, 4)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_row_is_an_image_a_token_or_a_pixel(name):
    make, axis, shape = SHAPES[name]
    student, teacher, labels = make(1).requires_grad_(), make(2), labels_of(*shape)
    expected = plain_rows(rows_last(student, axis), rows_last(teacher, axis), labels.flatten()).mean()
    (gradient,) = torch.autograd.grad(expected, student)
    for loss in (kd_loss, lambda *given, **numbers: KDLoss(**numbers)(*given)):
        terms = loss(student, teacher, labels, **KD)
        torch.testing.assert_close(terms.total, expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(torch.autograd.grad(terms.total, student)[0], gradient, rtol=1e-6, atol=1e-9)
        assert not terms.ce.requires_grad and not terms.kl.requires_grad


@pytest.mark.parametrize("name", SHAPES)
def test_every_loss_of_logits_takes_them(name):
    make, axis, shape = SHAPES[name]
    student, teacher, labels = make(1), make(2), labels_of(*shape)
    flat, target, column = rows_last(student, axis), rows_last(teacher, axis), labels.flatten()
    weights = torch.rand(2, *shape)
    for loss, given, expected in (
        (DKDLoss(), (student, teacher, labels), (flat, target, column)),
        (SFTNLoss(), (student, [teacher], labels), (flat, [target], column)),
        (SFTNLoss(), (student, teacher[None], labels), (flat, [target], column)),
        (VirtualTeacherLoss(), (student, labels), (flat, column)),
        (label_smoothing_loss, (student, labels), (flat, column)),
        (ce_loss, (student, labels), (flat, column)),
        (
            MultiTeacherLoss(),
            (student, [teacher, student], labels, weights),
            (flat, [target, flat], column, weights.flatten(1)),
        ),
    ):
        torch.testing.assert_close(loss(*given), loss(*expected), rtol=1e-10, atol=1e-12)


STUDENT, TEACHER, LABELS = made(6, 5, seed=1), made(6, 5, seed=2), torch.tensor([0, 3, -100, 1, 4, 2])
COUNTED = LABELS != -100


def plain(labels: Tensor = LABELS) -> Tensor:
    return torch.where(COUNTED, plain_rows(STUDENT, TEACHER, labels.clamp(min=0)), 0)


def test_reductions():
    each = kd_loss(STUDENT, TEACHER, LABELS, reduction="none", **KD)
    torch.testing.assert_close(each.total, plain())
    assert each.ce.shape == each.kl.shape == (6,) and each.hits.shape == (2,)
    torch.testing.assert_close(KD["ce_weight"] * each.ce + KD["kl_weight"] * each.kl, plain())
    torch.testing.assert_close(kd_loss(STUDENT, TEACHER, LABELS, reduction="sum", **KD).total, plain().sum())
    torch.testing.assert_close(kd_loss(STUDENT, TEACHER, LABELS, **KD).total, plain().sum() / 5)
    tokens = kd_loss(STUDENT.view(2, 3, 5), TEACHER.view(2, 3, 5), LABELS.view(2, 3), reduction="none", **KD)
    torch.testing.assert_close(tokens.total, plain().view(2, 3))


def test_weights_make_a_weighted_mean():
    weights = torch.tensor([0.5, 0.0, 9.0, 2.0, 1.0, 1.0])
    used = torch.where(COUNTED, weights, 0)
    terms = kd_loss(STUDENT, TEACHER, LABELS, weights=weights, **KD)
    torch.testing.assert_close(terms.total, (used * plain()).sum() / used.sum())
    torch.testing.assert_close(KD["ce_weight"] * terms.ce + KD["kl_weight"] * terms.kl, terms.total)
    none = kd_loss(STUDENT, TEACHER, LABELS, weights=weights, reduction="none", **KD)
    torch.testing.assert_close(none.total, used * plain())


def test_a_mask_is_weights_of_zero_and_one_and_hits_are_those_of_its_rows():
    mask = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    masked = kd_loss(STUDENT, TEACHER, LABELS, weights=mask, **KD)
    ignored = kd_loss(STUDENT, TEACHER, torch.where(mask == 0, -100, LABELS), **KD)
    torch.testing.assert_close(masked, ignored)


def test_nothing_that_counts_is_zero():
    leaf = STUDENT.clone().requires_grad_()
    terms = kd_loss(leaf, TEACHER, torch.full((6,), -100), weights=torch.ones(6), **KD)
    terms.total.backward()
    assert terms.total == 0 and (leaf.grad == 0).all() and not terms.hits.any()


@pytest.mark.parametrize("kind", (float, torch.tensor))
def test_a_count_from_outside_adds_up_over_parts_of_a_batch(kind):
    """The parts have other numbers of tokens than their share of the step's."""
    leaf = STUDENT.clone().requires_grad_()
    kd_loss(leaf, TEACHER, LABELS, reduction="sum", **KD).total.div(5).backward()
    parts = STUDENT.clone().requires_grad_()
    for part in (slice(0, 4), slice(4, 6)):
        kd_loss(parts[part], TEACHER[part], LABELS[part], count=kind(5.0), **KD).total.backward()
    torch.testing.assert_close(parts.grad, leaf.grad)


def test_labels_as_probabilities():
    mixed = 0.7 * F.one_hot(LABELS.clamp(min=0), 5) + 0.3 * F.one_hot(torch.tensor([1, 1, 2, 2, 3, 3]), 5)
    terms = kd_loss(STUDENT, TEACHER, mixed.double(), **KD)
    torch.testing.assert_close(terms.ce, F.cross_entropy(STUDENT, mixed.double()))
    assert torch.equal(terms.hits, ce_loss(STUDENT, mixed.argmax(1)).hits)
    pixels = mixed.double().view(2, 3, 5).movedim(-1, 1)[..., None]
    logits = STUDENT.view(2, 3, 5).movedim(-1, 1)[..., None]
    torch.testing.assert_close(ce_loss(logits, pixels).total, F.cross_entropy(logits, pixels))


def test_without_labels_there_is_no_cross_entropy():
    terms = kd_loss(STUDENT, TEACHER, temperature=2.0, kl_weight=0.7)
    kl = F.kl_div((STUDENT / 2).log_softmax(1), (TEACHER / 2).softmax(1), reduction="batchmean") * 4
    torch.testing.assert_close(terms.kl, kl)
    torch.testing.assert_close(terms.total, 0.7 * kl)
    assert terms.ce == 0 and not terms.hits.any()
    torch.testing.assert_close(
        KDLoss(temperature=2.0, kl_weight=0.7, ce_weight=0.0)(STUDENT.float(), TEACHER).kl, kl.float()
    )


def test_the_reverse_divergence():
    p, q = (TEACHER / 2).log_softmax(1), (STUDENT / 2).log_softmax(1)
    expected = 4 * F.kl_div(p, q, reduction="batchmean", log_target=True)
    torch.testing.assert_close(kd_loss(STUDENT, TEACHER, divergence="reverse", temperature=2.0).kl, expected)


def test_a_teacher_as_probabilities():
    given = TeacherProbabilities((TEACHER / 2).softmax(1))
    torch.testing.assert_close(kd_loss(STUDENT, given, LABELS, **KD), kd_loss(STUDENT, TEACHER, LABELS, **KD))


def test_scaled_and_capped_logits():
    def ready(z, scale, cap):
        return cap * (z * scale / cap).tanh()

    numbers = {"logit_scale": 2.0, "softcap": 3.0, "teacher_logit_scale": 0.5, "teacher_softcap": 4.0}
    leaf, again = (STUDENT.clone().requires_grad_() for _ in range(2))
    terms = kd_loss(leaf, TEACHER, LABELS, **KD, **numbers)
    expected = kd_loss(ready(again, 2.0, 3.0), ready(TEACHER, 0.5, 4.0), LABELS, **KD)
    torch.testing.assert_close(terms, expected)
    terms.total.backward()
    expected.total.backward()
    torch.testing.assert_close(leaf.grad, again.grad)
    module = KDLoss(**KD, **numbers)
    torch.testing.assert_close(module(STUDENT.float(), TEACHER.float(), LABELS).total, terms.total.detach().float())


def test_a_softcap_can_be_changed_and_not_be_taken_away():
    loss = KDLoss(softcap=5.0)
    loss.softcap = 2.0
    torch.testing.assert_close(
        loss(STUDENT, TEACHER, LABELS).total, KDLoss(softcap=2.0)(STUDENT, TEACHER, LABELS).total
    )
    with pytest.raises(ValueError, match="softcap is a number above 0, got inf"):
        loss.softcap = float("inf")
    with pytest.raises(ValueError, match="softcap: this loss was made without one"):
        KDLoss(logit_scale=2.0).softcap = 5.0


def test_a_second_backward_is_an_error():
    leaf = STUDENT.clone().requires_grad_()
    total = kd_loss(leaf, TEACHER, LABELS, reduction="sum").total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second backward needs a second forward"):
        total.backward()


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision_has_its_own_gradients(dtype):
    leaf = STUDENT.to(dtype).requires_grad_()
    kd_loss(leaf, TEACHER.to(dtype), LABELS, reduction="sum").total.backward()
    assert leaf.grad.dtype == dtype
    exact = STUDENT.clone().requires_grad_()
    kd_loss(exact, TEACHER, LABELS, reduction="sum").total.backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=0.02, atol=0.05)
