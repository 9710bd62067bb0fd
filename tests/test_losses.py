"""The losses against the golden vectors, float64 finite differences, and the hard cases.

As it stands this tests the reference. `ops/distill_loss/test_distill_interpreter.py` runs it once more on the kernels.
"""

import os
from typing import ClassVar

import pytest
import torch
from golden_cases import Case, close

from fastkd.losses import (
    DKDLoss,
    KDLoss,
    LabelSmoothingLoss,
    MultiTeacherLoss,
    SFTNLoss,
    VirtualTeacherLoss,
    ce_loss,
    dkd_loss,
    kd_loss,
    label_smoothing_loss,
    multi_teacher_loss,
    sftn_loss,
    virtual_teacher_loss,
)

KERNEL = os.environ.get("FASTKD_OPS") == "distill_loss=triton"
DTYPES = (torch.float32,) if KERNEL else (torch.float64, torch.float32)
EXACT = DTYPES[0]
in_float64 = pytest.mark.skipif(KERNEL, reason="the kernel computes in float32")


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
    teacher, branches = case.input("zT", EXACT), case.input("zR", EXACT)
    loss = SFTNLoss(detach_teacher=True)(teacher, branches, case["in/y"])
    loss.total.backward()
    close(teacher.grad, case["grad/ce_T/zT"], EXACT)
    close(branches.grad, case["grad/total_TR_tau1/zR"], EXACT)


def test_branches_may_be_a_stacked_tensor_or_a_sequence():
    case = Case("sftn", "m2")
    teacher, branches = case["in/zT"].float(), case["in/zR"].float()
    stacked = SFTNLoss()(teacher, branches, case["in/y"])
    listed = SFTNLoss()(teacher, list(branches), case["in/y"])
    torch.testing.assert_close(stacked, listed, rtol=0, atol=0)


@in_float64
@pytest.mark.parametrize("kl", ("forward", "reverse"))
def test_sftn_gradients_equal_finite_differences(kl):
    torch.manual_seed(0)
    teacher, branches = torch.randn(3, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    labels = torch.tensor([0, 4, -100])

    def total(teacher, branches):
        settings = {"temperature": 2.5, "teacher_weight": 0.7, "kl_weight": 1.9, "ce_weight": 0.4}
        return sftn_loss(teacher, branches, labels, kl=kl, ce_temperature=1.5, **settings).total

    assert torch.autograd.gradcheck(total, (teacher.requires_grad_(), branches.requires_grad_()))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name, settings",
    {
        "dkd_a1.0_b8.0_T4.0": {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
        "dkd_a1.0_b2.0_T1.0": {"alpha": 1.0, "beta": 2.0, "temperature": 1.0},
        "dkd_a0.5_b4.0_T2.0": {"alpha": 0.5, "beta": 4.0, "temperature": 2.0},
        "tckd_T4.0": {"alpha": 1.0, "beta": 0.0, "temperature": 4.0},
        "nckd_T4.0": {"alpha": 0.0, "beta": 1.0, "temperature": 4.0},
    }.items(),
)
def test_dkd_equals_the_reference(name, settings, dtype):
    case = Case("dkd", "c10")
    student, teacher = case.input("zs", dtype), case.input("zt", dtype)
    loss = dkd_loss(student, teacher, case["in/y"], ce_weight=0.0, **settings)
    loss.total.backward()
    close(loss.total, case[f"loss/{name}"], dtype)
    close(student.grad, case[f"grad/{name}/zs"], dtype)
    if settings["temperature"] == 4:
        close(loss.tckd, case["loss/tckd_T4.0"], dtype)
        close(loss.nckd, case["loss/nckd_T4.0"], dtype)
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "case_name, name, alpha, temperature, multiplier",
    (
        ("c10", "self_a0.95_T20_m1.0", 0.95, 20, 1),
        ("c10", "self_a0.95_T6_m50.0", 0.95, 6, 50),
        ("c10", "self_a0.1_T20_m1.0", 0.1, 20, 1),
        ("c10", "kd_a0.95_T20", 0.95, 20, 1),
        ("c100", "self_a0.95_T6_m50.0", 0.95, 6, 50),
        ("c100", "kd_a0.95_T6", 0.95, 6, 1),
    ),
)
def test_kd_with_the_weights_of_tfkd_equals_its_code(case_name, name, alpha, temperature, multiplier, dtype):
    case = Case("tfkd_self", case_name)
    student, teacher = case.input("zs", dtype), case["in/zt"].to(dtype)
    weights = {"ce_weight": 1 - alpha, "kl_weight": alpha * multiplier / student.shape[1]}  # its KL is a mean over K
    loss = kd_loss(student, teacher, case["in/y"], temperature=temperature, **weights)
    loss.total.backward()
    close(loss.total, case[f"loss/{name}"], dtype)
    close(student.grad, case[f"grad/{name}/zs"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("alpha, multiplier", ((0.1, 100), (0.1, 1), (0.95, 1), (0.95, 100), (1, 1)))
@pytest.mark.parametrize("case_name", ("c10", "c100"))
def test_virtual_teacher_equals_tfkd_regularisation(case_name, alpha, multiplier, dtype):
    case = Case("tfkd_reg", case_name)
    name = "soft_T20" if alpha == 1 else f"reg_a{alpha}_T20_m{multiplier}.0"
    student = case.input("zs", dtype)
    weights = {"ce_weight": 1 - alpha, "kl_weight": alpha * multiplier / student.shape[1]}
    loss = virtual_teacher_loss(student, case["in/y"], label_probability=0.99, temperature=20, **weights)
    loss.total.backward()
    close(loss.total, case[f"loss/{name}"], dtype)
    close(loss.ce, case["loss/ce"], dtype)
    close(student.grad, case[f"grad/{name}/zs"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name, smoothing, spread", (("tfkd_0.1", 0.1, "others"), ("torch_0.1", 0.1, "all"), ("torch_0.3", 0.3, "all"))
)
@pytest.mark.parametrize("case_name", ("c10", "c100"))
def test_label_smoothing_equals_its_two_definitions(case_name, name, smoothing, spread, dtype):
    case = Case("ls_ce", case_name)
    logits = case.input("z", dtype)
    loss = label_smoothing_loss(logits, case["in/y"], smoothing=smoothing, spread=spread)
    loss.total.backward()
    close(loss.total, case[f"loss/{name}"], dtype)
    close(loss.ce, case["loss/ce"], dtype)
    close(logits.grad, case[f"grad/{name}/z"], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spread, label_probability", (("others", 0.9), ("all", 0.91)))
def test_a_virtual_teacher_has_the_gradient_of_label_smoothing(spread, label_probability, dtype):
    case = Case("ls_ce", "c10")
    logits = case.input("z", dtype)
    weights = {"kl_weight": 1.0, "ce_weight": 0.0}
    virtual_teacher_loss(logits, case["in/y"], label_probability=label_probability, **weights).total.backward()
    close(logits.grad, case[f"grad/{'tfkd' if spread == 'others' else 'torch'}_0.1/z"], dtype)


class TestSeveralTeachers:
    options: ClassVar = {"temperature": 4.0, "kl_weight": 1.0, "ce_weight": 0.0}

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("loss_name, weights", (("aver", None), ("aekd", "alpha_ref"), ("ebkd", "w_ebkd")))
    @pytest.mark.parametrize("name", ("m3", "m3_norm"))
    def test_golden(self, name, loss_name, weights, dtype):
        case = Case("aekd", name)
        student, teachers = case.input("zs", dtype), case["in/zt"].to(dtype)
        given = None if weights is None else case[f"out/{weights}"].to(dtype)
        if weights == "w_ebkd":
            given = given / len(teachers)
        loss = multi_teacher_loss(student, teachers, case["in/y"], teacher_weights=given, **self.options)
        loss.total.backward()
        close(loss.kl, case[f"loss/{loss_name}"], dtype)
        close(student.grad, case[f"grad/{loss_name}/zs"], dtype)

    def test_the_gradient_is_that_of_the_mean_probability(self):
        case = Case("aekd", "m3")
        student, teachers = case.input("zs", EXACT), case["in/zt"].to(EXACT)
        multi_teacher_loss(student, list(teachers), case["in/y"], **self.options).total.backward()
        again = case.input("zs", EXACT)
        mean_logits = 4 * (teachers / 4).softmax(2).mean(0).log()
        kd_loss(again, mean_logits, case["in/y"], **self.options).total.backward()
        torch.testing.assert_close(student.grad, again.grad, rtol=1e-4, atol=1e-5)

    @in_float64
    def test_the_value_is_that_of_the_mean_probability_and_the_teachers_divergence(self):
        case = Case("aekd", "m3")
        student, teachers = case["in/zs"], case["in/zt"]
        log_p = (teachers / 4).log_softmax(2)
        mean = log_p.exp().mean(0)
        loss = multi_teacher_loss(student, teachers, case["in/y"], **self.options)
        of_the_mean = kd_loss(student, 4 * mean.log(), case["in/y"], **self.options)
        divergence = (log_p.exp() * (log_p - mean.log())).sum(2).mean()
        torch.testing.assert_close(loss.kl, of_the_mean.kl + 16 * divergence)

    def test_one_teacher_is_kd(self):
        torch.manual_seed(0)
        student, teacher, labels = torch.randn(4, 7), torch.randn(4, 7), torch.tensor([0, 1, 2, 3])
        torch.testing.assert_close(
            MultiTeacherLoss()(student, [teacher], labels), KDLoss()(student, teacher, labels), rtol=0, atol=0
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
