"""The losses that are a paper's whole: on plain tensors, beside the authors' numbers where a method needs more.

Their arithmetic is compared with the authors' through `METHODS`, in tests/methods/test_golden_*.py.
"""

import pytest
import torch
from helpers.golden import Case, close
from torch import nn

from fastkd.losses import (
    AEKDLoss,
    CRLDLoss,
    CTKDLoss,
    MLLDLoss,
    MultiTeacherLoss,
    ReviewKDLoss,
    SDDLoss,
    SemCKDLoss,
    SRRLLoss,
    SSKDLoss,
    USKDLoss,
    kd_loss,
)

GENERATOR = torch.Generator().manual_seed(0)


def drawn(*shape):
    return torch.randn(shape, generator=GENERATOR)


LABELS = torch.tensor([0, 3, 4, 1])
VIEWS = (drawn(4, 6), drawn(4, 6), drawn(4, 6), drawn(4, 6))
MAPS = [drawn(4, 3, 8, 8), drawn(4, 5, 4, 4)], [drawn(4, 4, 8, 8), drawn(4, 6, 4, 4)]
CALLS = {
    "semckd": (lambda: SemCKDLoss([3, 5], [4, 6], 4), MAPS, ()),
    "reviewkd": (lambda: ReviewKDLoss([3, 5], [4, 6]), MAPS, ()),
    "srrl": (lambda: SRRLLoss(5, 7, nn.Linear(7, 6)), (drawn(4, 5), [drawn(4, 7), drawn(4, 6)]), ()),
    "srrl of a map": (
        lambda: SRRLLoss(5, 7, nn.Linear(7, 6), source="map"),
        (drawn(4, 5, 3, 3), [drawn(4, 7), drawn(4, 6)]),
        (),
    ),
    "sdd": (lambda: SDDLoss(), (drawn(4, 6, 8, 8), drawn(4, 6, 8, 8)), (LABELS,)),
    "sdd, nkd": (lambda: SDDLoss(base="nkd"), (drawn(4, 6, 8, 8), drawn(4, 6, 8, 8)), (LABELS,)),
    "ctkd": (lambda: CTKDLoss(), (drawn(4, 6), drawn(4, 6)), (LABELS,)),
    "aekd": (lambda: AEKDLoss(), (drawn(4, 6), [[drawn(4, 6), drawn(4, 6), drawn(4, 6)]]), (LABELS,)),
}
each = pytest.mark.parametrize("name", CALLS)


def leaves(tensors):
    """The same, nested alike, of tensors that take gradients; and these."""
    if isinstance(tensors, torch.Tensor):
        leaf = tensors.clone().requires_grad_()
        return leaf, [leaf]
    pairs = [leaves(one) for one in tensors]
    return [one for one, _ in pairs], [leaf for _, found in pairs for leaf in found]


def total(found):
    return found if isinstance(found, torch.Tensor) else found.total


def called(name, loss):
    """(the loss, the student's leaves, the teacher's)."""
    _, (student, teacher), rest = CALLS[name]
    (student, students), (teacher, teachers) = leaves(student), leaves(teacher)
    single = name in ("semckd", "reviewkd") or isinstance(teacher, torch.Tensor)
    return total(loss(student, *([teacher] if single else teacher), *rest)), students, teachers


@each
def test_the_student_and_what_is_trained_learn_and_the_teacher_does_not(name):
    torch.manual_seed(0)
    loss = CALLS[name][0]()
    found, students, teachers = called(name, loss)
    found.backward()
    assert found.ndim == 0 and found.isfinite()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in students)
    assert all(leaf.grad is None for leaf in teachers)
    assert all(one.grad is not None for one in loss.parameters() if one.requires_grad)


@pytest.mark.slow
@each
def test_it_traces_whole(name):
    torch.manual_seed(0)
    torch._dynamo.reset()
    loss = CALLS[name][0]().eval()
    _, (student, teacher), rest = CALLS[name]
    single = name in ("semckd", "reviewkd") or isinstance(teacher, torch.Tensor)
    given = (student, *([teacher] if single else teacher), *rest)
    traced = torch.compile(loss, fullgraph=True, backend="eager")(*given)
    torch.testing.assert_close(total(traced), total(loss(*given)))


def test_two_views():
    for loss in (MLLDLoss(), MLLDLoss(arithmetic="paper"), CRLDLoss(strong_threshold=0.0, weak_threshold=0.0)):
        views, made = leaves(VIEWS)
        terms = loss(*views, LABELS)
        terms.total.backward()
        assert all(leaf.grad.any() for leaf in made[:2]) and all(leaf.grad is None for leaf in made[2:])
        assert not terms.ce.requires_grad and terms.hits.shape == (2,)
    crld = CRLDLoss(weak_threshold=0.0, strong_threshold=0.0)
    weak, strong, weak_target, strong_target = VIEWS
    expected = sum(
        weight * kd_loss(student, teacher, LABELS, temperature=4.0, ce_weight=0.0, kl_weight=1.0).total
        for student, teacher, weight in (
            (weak, weak_target, 2.0),
            (strong, strong_target, 2.0),
            (strong, weak_target, 0.5),
            (weak, strong_target, 0.5),
        )
    )
    torch.testing.assert_close(crld(*VIEWS, LABELS).kl, expected)


@pytest.mark.parametrize("size", ("c10", "c37", "ext60"))
def test_the_parts_of_class_maps(size):
    """The classifier comes first and the pooling behind it, which for a linear one is the same."""
    case = Case("modern/sdd", size)
    scales = (1, 2, 4) if case["hp/scales"] == 3 else (1, 2)
    leaf = case.input("map_s")
    found = SDDLoss(beta=8.0, scales=scales)(leaf, case["in/map_t"], case["in/y"])
    close(found, case["loss/sdd_dkd_a1_b8_T4"])
    close(torch.autograd.grad(found, leaf)[0], case["grad/sdd_dkd_a1_b8_T4/map_s"])


def test_soft_labels_of_uskd_are_the_two_greatest():
    case = Case("modern/uskd", "mixup")
    loss = USKDLoss(6, 12).double()
    for name, parameter in (("weight", loss.weak.weight), ("bias", loss.weak.bias)):
        parameter.data.copy_(case[f"w/fc.{name}"])
    zs, middle = case.input("zs"), case.input("fea_mid")
    found = loss(zs, middle, case["in/y_soft"])
    close(found, case["loss/uskd_a1_b0.1_mu0.005"])
    close(torch.autograd.grad(found, zs, retain_graph=True)[0], case["grad/uskd_a1_b0.1_mu0.005/zs"])
    torch.testing.assert_close(loss(zs, middle[:, :, None, None].expand(-1, -1, 2, 2), case["in/y_soft"]), found)


def test_sskds_head_is_trained_by_its_contrast_alone():
    loss, embedding = SSKDLoss(5, 7), drawn(16, 7)
    assert not any(one.requires_grad for one in loss.teacher_head.parameters())
    loss.teacher_head.requires_grad_()
    terms = loss.contrast(embedding)
    terms.total.backward()
    assert all(one.grad is not None for one in loss.teacher_head.parameters()) and 0 <= terms.hits[0] <= 12
    loss.teacher_head.requires_grad_(False)
    student, teacher = (drawn(16, 6).requires_grad_() for _ in range(2))
    loss(student, teacher, drawn(16, 5), embedding, LABELS).backward()
    assert student.grad[4:].any() and not student.grad[:4].any() and teacher.grad is None


def test_the_temperature_of_ctkd_ascends():
    loss = CTKDLoss(epochs_of_rise=4)
    given = drawn(4, 6), drawn(4, 6), LABELS
    for epoch, factor in ((0, -0.1464466), (3, -1.0), (9, -1.0)):
        loss.begin_epoch(epoch)
        (pull,) = torch.autograd.grad(loss(*given).total, loss.global_T)
        assert loss.factor.item() == pytest.approx(factor)
        step = 1e-3
        up, down = (
            kd_loss(*(x.double() for x in given[:2]), LABELS, temperature=_tau(g), ce_weight=0.1).total
            for g in (1 + step, 1 - step)
        )
        assert pull.item() == pytest.approx(factor * ((up - down) / (2 * step)).item(), rel=1e-3)


def _tau(g):
    return 1 + 20 / (1 + torch.tensor(-g).exp().item())


def test_the_weights_of_aekd_are_shares_up_to_the_cap():
    teachers = [drawn(4, 6) for _ in range(3)]
    loss = AEKDLoss(cap=0.4)
    weights = loss.teacher_weights(VIEWS[0], teachers)
    assert weights.sum().item() == pytest.approx(1.0) and (weights <= 0.4 + 1e-9).all() and (weights >= 0).all()
    expected = MultiTeacherLoss(kl_weight=1.0, ce_weight=1.0)(VIEWS[0], teachers, LABELS, weights.float())
    torch.testing.assert_close(loss(VIEWS[0], teachers, LABELS), expected)


REFUSALS = {
    "a batch below the factor": (lambda: SemCKDLoss([3], [4], 2), "batch_size is at least factor, 4, got 2"),
    "another batch": (
        lambda: SemCKDLoss([3, 5], [4, 6], 8)(*MAPS),
        "every batch has 8 samples, got 4",
    ),
    "maps without a partner": (lambda: ReviewKDLoss([3], [4, 6]), "as many maps each, got 1 and 2"),
    "scales without the whole": (lambda: SDDLoss(scales=(2, 4)), r"scales are 1 and after it some of 2 and 4, got \[2"),
    "an unknown base": (lambda: SDDLoss(base="rld"), "base is 'kd' or 'dkd' or 'nkd', got 'rld'"),
    "an unknown source": (lambda: SRRLLoss(3, 4, nn.Identity(), source="logits"), "source is 'embedding' or 'map'"),
    "an unknown arithmetic": (lambda: MLLDLoss(arithmetic="mine"), "arithmetic is 'code' or 'paper', got 'mine'"),
    "an unknown ranking": (lambda: USKDLoss(3, 4, ranking="mine"), "ranking is 'code' or 'paper', got 'mine'"),
    "no teachers": (lambda: AEKDLoss()(VIEWS[0], [], LABELS), "teacher_logits are those of 1 to 7 teachers, got 0"),
    "a share above one": (lambda: SSKDLoss(3, 4, tf_ratio=1.5), "tf_ratio is a number from 0 to 1, got 1.5"),
    "a threshold above one": (lambda: CRLDLoss(weak_threshold=2), "weak_threshold is a number from 0 to 1, got 2"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_mistake_is_one_line(name):
    call, words = REFUSALS[name]
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
