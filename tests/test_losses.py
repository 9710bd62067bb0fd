"""The reference losses against the golden vectors, float64 finite differences, and the hard cases."""

import pytest
import torch
from golden_cases import Case, close

from fastkd.losses import KDLoss, SFTNLoss, ce_loss, kd_loss, sftn_loss

DTYPES = (torch.float64, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", (1, 4, 20))
@pytest.mark.parametrize("name", ("c10", "c100", "equal"))
def test_kd_equals_the_reference(name, temperature, dtype):
    case = Case("kd", name)
    student, teacher = case.input("zs", dtype), case.input("zt", dtype)
    labels = torch.zeros(len(student), dtype=torch.int64)
    loss = kd_loss(student, teacher, labels, temperature=temperature, kl_weight=1.0, ce_weight=0.0)
    loss.total.backward()
    if name == "equal":  # both are zero but for rounding
        assert abs(loss.kl) < 1e-6
        assert student.grad.abs().max() < 1e-6
    else:
        close(loss.kl, case[f"loss/kl_T{temperature}"], dtype)
        close(student.grad, case[f"grad/kl_T{temperature}/zs"], dtype)
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", ("tau1", "tau4", "tau4_t2"))
@pytest.mark.parametrize("kl, direction", (("forward", "TR"), ("reverse", "RT")))
@pytest.mark.parametrize("name", ("m2", "m3"))
def test_sftn_equals_the_paper(name, kl, direction, suffix, dtype):
    case = Case("sftn", name)
    teacher, branches = case.input("zT", dtype), case.input("zR", dtype)
    weights = {key: case[f"hp/{short}"].item() for key, short in WEIGHTS.items()}
    temperature = 1.0 if suffix == "tau1" else 4.0
    settings = weights | {"temperature": temperature, "kl": kl, "tau_squared": suffix != "tau4"}
    loss = sftn_loss(teacher, branches, case["in/y"], **settings)
    loss.total.backward()
    close(loss.teacher_ce, case["loss/ce_T"], dtype)
    close(loss.branch_ce, case["loss/ce_R"], dtype)
    close(loss.kl, case[f"loss/kl_{direction}_{suffix}"], dtype)
    close(loss.total, case[f"loss/total_{direction}_{suffix}"], dtype)
    close(teacher.grad, case[f"grad/total_{direction}_{suffix}/zT"], dtype)
    close(branches.grad, case[f"grad/total_{direction}_{suffix}/zR"], dtype)


WEIGHTS = {"teacher_weight": "lT", "kl_weight": "lKL", "ce_weight": "lCE"}


def test_a_detached_teacher_gets_the_gradient_of_its_cross_entropy_alone():
    case = Case("sftn", "m3")
    teacher, branches = case.input("zT"), case.input("zR")
    loss = SFTNLoss(detach_teacher=True)(teacher, branches, case["in/y"])
    loss.total.backward()
    close(teacher.grad, case["grad/ce_T/zT"])
    close(branches.grad, case["grad/total_TR_tau1/zR"])


def test_branches_may_be_a_stacked_tensor_or_a_sequence():
    case = Case("sftn", "m2")
    stacked = SFTNLoss()(case["in/zT"], case["in/zR"], case["in/y"])
    listed = SFTNLoss()(case["in/zT"], list(case["in/zR"]), case["in/y"])
    torch.testing.assert_close(stacked, listed, rtol=0, atol=0)


@pytest.mark.parametrize("kl", ("forward", "reverse"))
def test_sftn_gradients_equal_finite_differences(kl):
    torch.manual_seed(0)
    teacher, branches = torch.randn(3, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    labels = torch.tensor([0, 4, -100])

    def total(teacher, branches):
        settings = {"temperature": 2.5, "teacher_weight": 0.7, "kl_weight": 1.9, "ce_weight": 0.4}
        return sftn_loss(teacher, branches, labels, kl=kl, ce_temperature=1.5, **settings).total

    assert torch.autograd.gradcheck(total, (teacher.requires_grad_(), branches.requires_grad_()))


def test_modules_follow_their_buffer():
    student, teacher, labels = torch.randn(4, 7), torch.randn(4, 7), torch.tensor([0, 1, 2, 3])
    module = KDLoss(temperature=4.0, kl_weight=0.9, ce_weight=0.1)
    before = module(student, teacher, labels)
    torch.testing.assert_close(before.total, 0.1 * before.ce + 0.9 * before.kl)
    module.settings.copy_(torch.tensor([4.0, 0.0, 1.0]))
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


class TestMistakes:
    logits, labels = torch.randn(2, 3), torch.tensor([0, 1])

    def test_label_out_of_range(self):
        with pytest.raises(RuntimeError, match=r"label is outside 0\.\.2"):
            ce_loss(self.logits, torch.tensor([0, 3]))

    def test_shapes_disagree(self):
        with pytest.raises(ValueError, match=r"agree in shape, got \[2, 3\] and \[2, 4\]"):
            KDLoss()(self.logits, torch.randn(2, 4), self.labels)

    def test_labels_of_a_wrong_type(self):
        with pytest.raises(ValueError, match="labels are int64"):
            ce_loss(self.logits, self.labels.int())

    def test_integer_logits(self):
        with pytest.raises(ValueError, match="floating-point matrix"):
            ce_loss(torch.zeros(2, 3, dtype=torch.int64), self.labels)

    def test_no_branches(self):
        with pytest.raises(ValueError, match="at least one branch"):
            SFTNLoss()(self.logits, [], self.labels)

    def test_temperature_of_zero(self):
        with pytest.raises(ValueError, match="above 0"):
            KDLoss(temperature=0.0)

    def test_unknown_direction(self):
        with pytest.raises(ValueError, match="'forward' or 'reverse'"):
            SFTNLoss(kl="sideways")(self.logits, [self.logits], self.labels)
