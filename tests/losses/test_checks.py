"""What the losses refuse: one line that names the argument and what was expected."""

import inspect
import math
from fractions import Fraction
from typing import get_type_hints

import pytest
import torch

from fastkd import losses
from fastkd.losses import (
    DKDLoss,
    KDLoss,
    LabelSmoothingLoss,
    MultiTeacherLoss,
    SFTNLoss,
    VirtualTeacherLoss,
    ce_loss,
    kd_loss,
    multi_teacher_loss,
    sftn_loss,
)
from fastkd.losses.module import Loss, TensorLoss
from fastkd.ops.numbers import NUMBERS
from fastkd.support.ranges import Range, range_of

LOGITS, LABELS = torch.randn(2, 3), torch.tensor([0, 1])
KD = {"temperature": 4.0, "kl_weight": 0.9, "ce_weight": 0.1}
SFTN = KD | {"teacher_weight": 1.0}


def kd(**changed):
    return kd_loss(
        **{"student_logits": LOGITS, "teacher_logits": LOGITS, "labels": LABELS, **KD, **changed},
    )


def teachers(several, **changed):
    return multi_teacher_loss(LOGITS, several, LABELS, **KD | changed)


CASES = {
    "labels as a list": (lambda: ce_loss(LOGITS, [0, 1]), TypeError, "labels are int64 [2], got list"),
    "labels of a wrong type": (
        lambda: ce_loss(LOGITS, LABELS.int()),
        ValueError,
        "labels are int64 [2], got torch.int32 [2]",
    ),
    "labels elsewhere": (
        lambda: kd(labels=LABELS.to("meta")),
        ValueError,
        "labels: on meta, where the logits are on cpu",
    ),
    "integer logits": (
        lambda: ce_loss(torch.zeros(2, 3, dtype=torch.int64), LABELS),
        ValueError,
        "logits are floating point [B,K], [B,T,K] or [B,K,H,W], got torch.int64 [2, 3]",
    ),
    "logits as a list": (
        lambda: kd(student_logits=[[0.0]]),
        TypeError,
        "student_logits are floating point [B,K], [B,T,K] or [B,K,H,W], got list",
    ),
    "logits of other shapes": (
        lambda: KDLoss()(LOGITS, torch.randn(2, 4), LABELS),
        ValueError,
        "logits agree in shape, got student_logits [2, 3] and teacher_logits [2, 4]",
    ),
    "a teacher elsewhere": (
        lambda: kd(teacher_logits=LOGITS.to("meta")),
        ValueError,
        "teacher_logits: on meta, where the logits are on cpu",
    ),
    "a single branch": (
        lambda: SFTNLoss()(LOGITS, LOGITS, LABELS),
        ValueError,
        "branch_logits are a tensor [N,B,K] or a sequence of N tensors [B,K], N at least 1, got a tensor [2, 3]",
    ),
    "no branches": (lambda: SFTNLoss()(LOGITS, [], LABELS), ValueError, "N at least 1, got none"),
    "a branch of another shape": (
        lambda: SFTNLoss()(LOGITS, [LOGITS, LOGITS[:, :2]], LABELS),
        ValueError,
        "got teacher_logits [2, 3] and branch_logits[1] [2, 2]",
    ),
    "a branch that is none": (
        lambda: SFTNLoss()(LOGITS, [None], LABELS),
        TypeError,
        "branch_logits[0] are floating point [B,K], [B,T,K] or [B,K,H,W], got NoneType",
    ),
    "teachers of a wrong type": (lambda: teachers(3.0), TypeError, "teacher_logits are a tensor [N,B,K]"),
    "no teachers": (lambda: teachers([]), ValueError, "teacher_logits are a tensor [N,B,K]"),
    "teacher weights as a list": (
        lambda: teachers([LOGITS], teacher_weights=[1.0]),
        TypeError,
        "teacher_weights are a tensor [1] or [1, 2], got list",
    ),
    "teacher weights of a wrong shape": (
        lambda: MultiTeacherLoss()(LOGITS, [LOGITS], LABELS, torch.ones(2)),
        ValueError,
        "teacher_weights are a tensor [1] or [1, 2], got [2]",
    ),
    "teacher weights elsewhere": (
        lambda: teachers([LOGITS], teacher_weights=torch.ones(1, device="meta")),
        ValueError,
        "teacher_weights: on meta, where the logits are on cpu",
    ),
    "a temperature of zero": (lambda: KDLoss(temperature=0.0), ValueError, "temperature is a number above 0, got 0.0"),
    "a temperature in words": (lambda: kd(temperature="hot"), TypeError, "temperature is a number above 0, got 'hot'"),
    "a CE temperature below zero": (
        lambda: sftn_loss(LOGITS, [LOGITS], LABELS, ce_temperature=-1.0, **SFTN),
        ValueError,
        "ce_temperature is a number above 0, got -1.0",
    ),
    "two temperatures": (
        lambda: kd(temperature=torch.ones(2)),
        ValueError,
        "temperature is one number, got a tensor [2]",
    ),
    "a temperature of zero on the CPU": (
        lambda: kd(temperature=torch.tensor(0.0)),
        ValueError,
        "temperature is a number above 0, got 0.0",
    ),
    "a weight that is NaN on the CPU": (
        lambda: kd(kl_weight=torch.tensor(float("nan"))),
        ValueError,
        "kl_weight is a number of at least 0, got nan",
    ),
    "an ignored label that is no integer": (
        lambda: kd_loss(LOGITS, LOGITS, LABELS, ignore_index=1.5),
        TypeError,
        "ignore_index is an integer, got 1.5",
    ),
    "an ignored label that is nothing": (
        lambda: KDLoss(ignore_index=None)(LOGITS, LOGITS, LABELS),
        TypeError,
        "ignore_index is an integer, got None",
    ),
    "an ignored label in words": (
        lambda: KDLoss(ignore_index="x")(LOGITS, LOGITS, LABELS),
        TypeError,
        "ignore_index is an integer, got 'x'",
    ),
    "sparse logits": (
        lambda: kd_loss(LOGITS.to_sparse(), LOGITS, LABELS),
        ValueError,
        "student_logits are floating point [B,K], [B,T,K] or [B,K,H,W], got a sparse one: make it dense",
    ),
    "teachers' weights of truth": (
        lambda: MultiTeacherLoss()(LOGITS, [LOGITS], LABELS, torch.tensor([True])),
        ValueError,
        "teacher_weights are numbers, got torch.bool",
    ),
    "a teacher's weight that is NaN": (
        lambda: MultiTeacherLoss()(LOGITS, [LOGITS], LABELS, torch.tensor([float("nan")])),
        ValueError,
        "teacher_weights are finite, got one that is not",
    ),
    "a weight below zero": (
        lambda: kd(kl_weight=-1.0),
        ValueError,
        "kl_weight is a number of at least 0, got -1.0",
    ),
    "a weight below zero on the CPU": (
        lambda: kd(ce_weight=torch.tensor(-0.5)),
        ValueError,
        "ce_weight is a number of at least 0, got -0.5",
    ),
    "a row's weight that is NaN": (
        lambda: DKDLoss()(LOGITS, LOGITS, LABELS, torch.tensor([1.0, float("nan")])),
        ValueError,
        "row_weights are finite, got one that is not",
    ),
    "a row's weight that is infinite": (
        lambda: kd(weights=torch.tensor([1.0, float("inf")])),
        ValueError,
        "weights are finite, got one that is not",
    ),
    "rows' weights of truth": (
        lambda: kd(weights=torch.tensor([True, False])),
        ValueError,
        "weights are numbers, got torch.bool",
    ),
    "a weight that is none": (lambda: kd(kl_weight=None), TypeError, "kl_weight is a number of at least 0, got None"),
    "a weight to be learnt": (
        lambda: kd(kl_weight=torch.tensor(1.0, requires_grad=True)),
        ValueError,
        "kl_weight gets no gradient from this loss, but requires one: detach it",
    ),
    "a weight elsewhere": (
        lambda: kd(ce_weight=torch.tensor(1.0, device="meta")),
        ValueError,
        "ce_weight: on meta, where the logits are on cpu",
    ),
    "no class": (
        lambda: kd_loss(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64), **KD),
        ValueError,
        "student_logits have one class at least, got [2, 0]",
    ),
    "eight bits": (
        lambda: kd_loss(LOGITS.to(torch.float8_e4m3fn), LOGITS, LABELS, **KD),
        ValueError,
        "student_logits are floating point [B,K], [B,T,K] or [B,K,H,W], got torch.float8_e4m3fn",
    ),
    "nested rows": (
        lambda: kd_loss(torch.nested.nested_tensor([LOGITS[0], LOGITS[1]], layout=torch.jagged), LOGITS, LABELS, **KD),
        ValueError,
        "got a nested one: make it dense",
    ),
    "an ignored label beyond 64 bits": (
        lambda: kd(ignore_index=2**63),
        ValueError,
        "ignore_index is an integer of 64 bits, got 9223372036854775808",
    ),
    "a single class": (
        lambda: DKDLoss()(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)),
        ValueError,
        "K is at least 2",
    ),
    "a probability above one": (
        lambda: VirtualTeacherLoss(label_probability=1.5),
        ValueError,
        "label_probability is a number from 0 to 1, got 1.5",
    ),
    "a smoothing below zero": (
        lambda: LabelSmoothingLoss(smoothing=-0.1),
        ValueError,
        "smoothing is a number from 0 to 1, got -0.1",
    ),
    "an unknown spread": (
        lambda: LabelSmoothingLoss(spread="some"),
        ValueError,
        "spread is 'all' or 'others', got 'some'",
    ),
    "an unknown direction": (lambda: SFTNLoss(kl="bar"), ValueError, "kl is 'forward' or 'reverse', got 'bar'"),
    "an unknown direction of the function": (
        lambda: sftn_loss(LOGITS, [LOGITS], LABELS, kl="bar", **SFTN),
        ValueError,
        "kl is 'forward' or 'reverse', got 'bar'",
    ),
}


@pytest.mark.parametrize("mistake", CASES)
def test_is_one_clear_line(mistake):
    call, error, message = CASES[mistake]
    with pytest.raises(error) as raised:
        call()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "name, positional",
    {
        "ce_loss": ["logits", "labels"],
        "kd_loss": ["student_logits", "teacher_logits", "labels"],
        "multi_teacher_loss": ["student_logits", "teacher_logits", "labels"],
        "sftn_loss": ["teacher_logits", "branch_logits", "labels"],
        "dkd_loss": ["student_logits", "teacher_logits", "labels"],
        "virtual_teacher_loss": ["student_logits", "labels"],
        "label_smoothing_loss": ["logits", "labels"],
    }.items(),
)
def test_the_names_of_the_arguments(name, positional):
    given = inspect.signature(getattr(losses, name)).parameters.values()
    assert [one.name for one in given if one.kind is one.POSITIONAL_OR_KEYWORD] == positional
    module = "".join({"kd": "KD", "sftn": "SFTN", "dkd": "DKD"}.get(part, part.title()) for part in name.split("_"))
    if name != "ce_loss":
        forward = inspect.signature(getattr(losses, module).forward).parameters
        assert list(forward)[1 : 1 + len(positional)] == positional


def numbers_of(loss: type[torch.nn.Module]) -> dict[str, Range]:
    """Every number that a loss is made with, and what it may be."""
    if issubclass(loss, Loss):
        return {name: number.range for name, number in NUMBERS[loss.form].items()}
    hints = get_type_hints(loss.__init__, include_extras=True) if "__init__" in vars(loss) else {}
    return {name: found for name, hint in hints.items() if (found := range_of(hint)) is not None}


OF_LOSSES = [
    (loss, name, allowed)
    for loss in vars(losses).values()
    if isinstance(loss, type) and issubclass(loss, Loss | TensorLoss)
    for name, allowed in numbers_of(loss).items()
]


@pytest.mark.parametrize("loss, name, allowed", OF_LOSSES, ids=lambda one: getattr(one, "__name__", str(one)[:20]))
def test_no_number_of_a_loss_may_be_nonsense(loss, name, allowed):
    needed = [one for one in inspect.signature(loss).parameters.values() if one.default is one.empty]
    sizes = {one.name: 10 for one in needed if one.kind is one.POSITIONAL_OR_KEYWORD}
    nonsense = [math.nan, math.inf, 1e39, True, "x", 1j, *([] if loss is VirtualTeacherLoss else [None])]
    nonsense += [one for one in (-1, -1e-30, 0, 0.5, 2) if allowed.refuses(one)]
    for value in nonsense:
        with pytest.raises((ValueError, TypeError), match=rf"^{name} is a") as error:
            loss(**sizes | {name: value})
        assert "\n" not in str(error.value)


def test_a_fraction_is_a_number():
    expected = kd_loss(LOGITS, LOGITS, LABELS, **KD | {"temperature": 2.5}).total
    assert kd_loss(LOGITS, LOGITS, LABELS, **KD | {"temperature": Fraction(5, 2)}).total == expected
    loss = KDLoss(**KD | {"temperature": Fraction(5, 2)})
    assert loss(LOGITS, LOGITS, LABELS).total == expected and loss.temperature == 2.5
