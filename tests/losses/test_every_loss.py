"""The losses against the golden vectors, float64 finite differences, and the hard cases.

As it stands this tests the reference. `ops/distill_loss/test_by_interpreter.py` runs it once more on the kernels.
"""

import pytest
import torch
from helpers.losses import in_float64

from fastkd.losses import (
    DKDLoss,
    KDLoss,
    LabelSmoothingLoss,
    SFTNLoss,
    VirtualTeacherLoss,
    ce_loss,
    dkd_loss,
    kd_loss,
    label_smoothing_loss,
    multi_teacher_loss,
    virtual_teacher_loss,
)


@in_float64
def test_student_losses_have_the_gradients_of_finite_differences():
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.randn(3, 5).double()
    labels = torch.tensor([0, 4, -100])
    weights = {"kl_weight": 0.7, "ce_weight": 0.3}
    for loss in (
        lambda z: dkd_loss(z, teacher, labels, temperature=2.5, alpha=0.7, beta=1.9, ce_weight=0.4),
        lambda z: virtual_teacher_loss(z, labels, label_probability=0.8, **weights),
        lambda z: label_smoothing_loss(z, labels, smoothing=0.2),
        lambda z: multi_teacher_loss(z, [teacher, -teacher], labels, temperature=3.0, **weights),
    ):
        assert torch.autograd.gradcheck(lambda z, loss=loss: loss(z).total, (student,))


def test_modules_are_the_functions():
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(4, 7), torch.randn(4, 7), torch.tensor([0, 1, 2, -1])
    weights = {"kl_weight": 0.25, "ce_weight": 0.75}
    for module, expected in (
        (
            DKDLoss(temperature=2.0, alpha=0.5, beta=4.0, ignore_index=-1)(student, teacher, labels),
            dkd_loss(student, teacher, labels, temperature=2.0, alpha=0.5, beta=4.0, ce_weight=1.0, ignore_index=-1),
        ),
        (
            VirtualTeacherLoss(label_probability=0.75, temperature=20.0, ignore_index=-1, **weights)(student, labels),
            virtual_teacher_loss(student, labels, label_probability=0.75, temperature=20.0, ignore_index=-1, **weights),
        ),
        (
            LabelSmoothingLoss(smoothing=0.25, spread="others", ignore_index=-1)(student, labels),
            label_smoothing_loss(student, labels, smoothing=0.25, spread="others", ignore_index=-1),
        ),
    ):
        torch.testing.assert_close(module, expected, rtol=0, atol=0)


def test_weights_may_be_tensors():
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(4, 7), torch.randn(4, 7), torch.tensor([0, 1, 2, 3])
    numbers = {"temperature": 4.0, "kl_weight": 0.5, "ce_weight": 0.25}
    tensors = {name: torch.tensor(value) for name, value in numbers.items()}
    torch.testing.assert_close(
        kd_loss(student, teacher, labels, **tensors), kd_loss(student, teacher, labels, **numbers)
    )


def test_modules_follow_their_numbers():
    student, teacher, labels = torch.randn(4, 7), torch.randn(4, 7), torch.tensor([0, 1, 2, 3])
    module = KDLoss(temperature=4.0, kl_weight=0.9, ce_weight=0.1)
    before = module(student, teacher, labels)
    torch.testing.assert_close(before.total, 0.1 * before.ce + 0.9 * before.kl)
    module.kl_weight, module.ce_weight = 0.0, 1.0
    torch.testing.assert_close(module(student, teacher, labels).total, before.ce)


class TestHits:
    def test_counts_against_topk(self):
        torch.manual_seed(1)
        logits, labels = torch.randn(200, 20), torch.randint(20, (200,))
        top5 = logits.topk(5, dim=1).indices == labels[:, None]
        expected = [top5[:, :1].any(1).sum().item(), top5.any(1).sum().item()]
        assert ce_loss(logits, labels).hits.tolist() == expected

    def test_ties_go_to_the_lower_class(self):
        logits = torch.zeros(10, 10)
        assert ce_loss(logits, torch.arange(10)).hits.tolist() == [1, 5]

    def test_a_nan_label_logit_is_a_miss(self):
        logits = torch.full((1, 3), torch.nan)
        assert ce_loss(logits, torch.tensor([0])).hits.tolist() == [0, 0]

    def test_every_branch_is_counted(self):
        labels = torch.tensor([0, 1])
        right, wrong = torch.eye(2, 6) * 9, -torch.eye(2, 6) * 9
        loss = SFTNLoss()(right, [wrong, right], labels)
        assert loss.hits.tolist() == [[2, 2], [0, 0], [2, 2]]


class TestHardCases:
    @pytest.mark.parametrize("size", (1e4, -1e4))
    def test_huge_logits_stay_finite(self, size):
        student = torch.zeros(2, 4)
        student[0, 1] = size
        student.requires_grad_()
        loss = kd_loss(student, -student.detach(), torch.tensor([0, 1]), temperature=1.0, kl_weight=1.0, ce_weight=1.0)
        loss.total.backward()
        assert loss.total.isfinite()
        assert student.grad.isfinite().all()

    def test_impossible_classes_add_nothing(self):
        student, teacher = torch.randn(3, 5), torch.randn(3, 5)
        labels = torch.tensor([0, 1, 2])
        options = {"temperature": 2.0, "kl_weight": 1.0, "ce_weight": 1.0}
        expected = kd_loss(student[:, :4], teacher[:, :4], labels, **options)
        student[:, 4] = teacher[:, 4] = -torch.inf
        student.requires_grad_()
        actual = kd_loss(student, teacher, labels, **options)
        actual.total.backward()
        torch.testing.assert_close(actual.total, expected.total)
        assert student.grad.isfinite().all()

    def test_an_empty_batch_has_zero_loss(self):
        logits = torch.zeros(0, 4, requires_grad=True)
        loss = SFTNLoss()(logits, [logits], torch.zeros(0, dtype=torch.int64))
        loss.total.backward()
        assert loss.total.item() == 0
        assert loss.hits.sum() == 0

    def test_ignored_rows_count_in_no_term(self):
        torch.manual_seed(2)
        student, teacher, labels = torch.randn(6, 4), torch.randn(6, 4), torch.tensor([0, -100, 2, 3, -100, 1])
        kept = labels != -100
        options = {"temperature": 3.0, "kl_weight": 0.5, "ce_weight": 0.5}
        actual = kd_loss(student, teacher, labels, **options)
        expected = kd_loss(student[kept], teacher[kept], labels[kept], **options)
        torch.testing.assert_close(actual, expected)

    def test_nan_in_nan_out(self):
        logits = torch.tensor([[0.0, torch.nan]])
        assert ce_loss(logits, torch.tensor([0])).total.isnan()

    @pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
    def test_half_precision_logits_are_computed_in_float32(self, dtype):
        student, teacher = torch.randn(4, 9).to(dtype), torch.randn(4, 9).to(dtype)
        options = {"temperature": 4.0, "kl_weight": 0.9, "ce_weight": 0.1}
        labels = torch.tensor([0, 1, 2, 3])
        half = kd_loss(student, teacher, labels, **options)
        full = kd_loss(student.float(), teacher.float(), labels, **options)
        assert half.total.dtype == torch.float32
        torch.testing.assert_close(half.total, full.total, rtol=0, atol=0)


def test_label_out_of_range():
    with pytest.raises(RuntimeError, match=r"label is outside 0\.\.2"):
        ce_loss(torch.randn(2, 3), torch.tensor([0, 3]))
