"""A teacher of which k classes are kept, against the formulas written out in float64 over every class."""

import pytest
import torch
import torch.nn.functional as F

from fastkd.losses import (
    DKDLoss,
    KDLoss,
    MultiTeacherLoss,
    SparseTeacher,
    dkd_loss,
    kd_loss,
    multi_teacher_loss,
)
from fastkd.ops.sparse import largest_logits, normalised, tail_of

B, K, TEMPERATURE = 6, 12, 4.0


def case(dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(B, K, generator=generator, dtype=torch.float64) * scale for _ in range(2))
    labels = torch.randint(K, (B,), generator=generator)
    return student.to(dtype).requires_grad_(), teacher.to(dtype), labels


def kept(teacher, labels, k, temperature=TEMPERATURE):
    indices = largest_logits(teacher, labels, k)
    return normalised(indices, teacher.gather(1, indices), tail_of(teacher, indices, temperature), temperature)


def lumped(logits, indices):
    """[B,k+1]: log-probabilities of the kept classes and of all others as one class."""
    p = (logits / TEMPERATURE).softmax(1)
    own = p.gather(1, indices)
    return torch.cat([own, 1 - own.sum(1, keepdim=True)], 1).log()


def both(loss, student):
    (gradient,) = torch.autograd.grad(loss.total, student)
    return loss, gradient


class TestKD:
    @pytest.mark.parametrize("k", (1, 3, 7))
    def test_it_is_kl_with_the_others_as_one_class(self, k):
        student, teacher, labels = case()
        sparse = kept(teacher, labels, k)
        loss, gradient = both(kd_loss(student, sparse, labels, temperature=TEMPERATURE), student)
        p, q = (lumped(logits, sparse.indices) for logits in (teacher, student))
        kl = TEMPERATURE**2 * (p.exp() * (p - q)).sum(1).mean()
        expected = 0.1 * F.cross_entropy(student, labels) + 0.9 * kl
        torch.testing.assert_close(loss.total, expected)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0])
        whole = kd_loss(student, teacher, labels, temperature=TEMPERATURE)
        assert loss.kl <= whole.kl + 1e-12 and torch.equal(loss.hits, whole.hits)

    def test_with_all_classes_it_is_the_whole_teacher(self):
        student, teacher, labels = case()
        loss, gradient = both(kd_loss(student, kept(teacher, labels, K), labels, temperature=TEMPERATURE), student)
        whole, expected = both(kd_loss(student, teacher, labels, temperature=TEMPERATURE), student)
        torch.testing.assert_close(loss.total, whole.total)
        torch.testing.assert_close(gradient, expected)

    @pytest.mark.parametrize("scale", (1e-3, 1e4))
    def test_extreme_logits_are_finite_in_float32(self, scale):
        student, teacher, labels = case(torch.float32, scale)
        loss, gradient = both(KDLoss()(student, kept(teacher, labels, 3), labels), student)
        assert loss.total.isfinite() and gradient.isfinite().all()

    def test_a_module_follows_its_numbers_and_no_gradient_reaches_the_teacher(self):
        student, teacher, labels = case(torch.float32)
        sparse = kept(teacher, labels, 3)
        sparse = sparse._replace(log_probabilities=sparse.log_probabilities.requires_grad_())
        module = KDLoss(temperature=TEMPERATURE, kl_weight=0.0)
        module.kl_weight = 0.9
        loss = module(student, sparse, labels)
        torch.testing.assert_close(loss.total, kd_loss(student, sparse, labels, temperature=TEMPERATURE).total)
        loss.total.backward()
        assert sparse.log_probabilities.grad is None

    def test_ignored_rows_do_not_count(self):
        student, teacher, labels = case()
        labels[0] = -100
        sparse = kept(teacher, labels.clamp(min=0), 3)
        found = kd_loss(student, sparse, labels)
        rest = SparseTeacher(*(part[1:] for part in sparse))
        torch.testing.assert_close(found.total, kd_loss(student[1:], rest, labels[1:]).total)


@pytest.mark.parametrize("shares", (None, torch.tensor([0.25, 0.75], dtype=torch.float64)))
def test_several_teachers_are_the_weighted_sum_of_each(shares):
    student, teacher, labels = case()
    kept_of_each = [kept(teacher, labels, 3), kept(2 * teacher.flip(0), labels, 4)]
    found = MultiTeacherLoss()(student, kept_of_each, labels, shares)
    each = torch.stack([kd_loss(student, one, labels).kl for one in kept_of_each])
    weights = torch.full((2,), 0.5, dtype=torch.float64) if shares is None else shares
    torch.testing.assert_close(found.kl, (weights * each).sum())
    assert torch.equal(multi_teacher_loss(student, kept_of_each, labels, teacher_weights=shares).kl, found.kl)
    with pytest.raises(ValueError, match="tail are floating point"):
        multi_teacher_loss(student, [kept_of_each[0], kept_of_each[1]._replace(tail=labels[:2].double())], labels)


class TestDKD:
    @pytest.mark.parametrize("k", (2, 5))
    def test_the_others_are_one_class_of_the_non_target_part(self, k):
        student, teacher, labels = case()
        sparse = kept(teacher, labels, k)
        loss, gradient = both(dkd_loss(student, sparse, labels, temperature=TEMPERATURE), student)
        p, q = (lumped(logits, sparse.indices).exp() for logits in (teacher, student))
        own = torch.cat([sparse.indices == labels[:, None], torch.zeros(B, 1, dtype=torch.bool)], 1)
        targets = [torch.stack([x[own], 1 - x[own]], 1) for x in (p, q)]
        tckd = (targets[0] * (targets[0] / targets[1]).log()).sum(1).mean()
        others = [(x / (1 - x[own])[:, None])[~own].view(B, -1) for x in (p, q)]
        nckd = (others[0] * (others[0] / others[1]).log()).sum(1).mean()
        expected = F.cross_entropy(student, labels) + TEMPERATURE**2 * (1.0 * tckd + 8.0 * nckd)
        torch.testing.assert_close(loss.total, expected)
        torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0])
        whole = dkd_loss(student, teacher, labels, temperature=TEMPERATURE)
        torch.testing.assert_close(loss.tckd, whole.tckd)

    def test_with_all_classes_it_is_the_whole_teacher(self):
        student, teacher, labels = case()
        loss, gradient = both(DKDLoss()(student, kept(teacher, labels, K), labels), student)
        whole, expected = both(DKDLoss()(student, teacher, labels), student)
        torch.testing.assert_close(loss.total.double(), whole.total.double(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", (dkd_loss, lambda s, t, y: multi_teacher_loss(s, [t], y)), ids=("dkd", "several"))
@pytest.mark.parametrize(
    "change, words",
    (
        (lambda t: t._replace(indices=t.indices.float()), "indices are integers"),
        (lambda t: t._replace(indices=t.indices[1:]), "indices are integers"),
        (lambda t: t._replace(tail=t.tail[:, None]), r"tail are floating point \[6\]"),
    ),
)
def test_what_does_not_fit_is_one_line(change, words, loss):
    student, teacher, labels = case()
    with pytest.raises(ValueError, match=words) as error:
        loss(student, change(kept(teacher, labels, 3)), labels)
    assert "\n" not in str(error.value)
