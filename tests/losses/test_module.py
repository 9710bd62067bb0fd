"""The numbers of the loss modules: set by name, kept in float32 whatever becomes of the model around them."""

import abc
import copy
import pydoc

import pytest
import torch
from torch import nn

import fastkd.losses
from fastkd.losses import (
    CRDLoss,
    DKDLoss,
    KDLoss,
    LabelSmoothingLoss,
    MultiTeacherLoss,
    SFTNLoss,
    VirtualTeacherLoss,
)

STUDENT, TEACHER, LABELS = *torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0)), torch.arange(4)
WEIGHTS = {"kl_weight": 0.3, "ce_weight": 0.6}
# Every loss, another one of its numbers, and how to call it.
CASES = {
    "kd": (KDLoss, WEIGHTS | {"temperature": 2.0}, (STUDENT, TEACHER, LABELS)),
    "teachers": (MultiTeacherLoss, WEIGHTS | {"temperature": 2.0}, (STUDENT, [TEACHER], LABELS)),
    "sftn": (
        SFTNLoss,
        WEIGHTS | {"temperature": 2.0, "teacher_weight": 0.7, "ce_temperature": 1.5},
        (TEACHER, [STUDENT], LABELS),
    ),
    "dkd": (DKDLoss, {"temperature": 2.0, "alpha": 0.5, "beta": 2.0, "ce_weight": 0.3}, (STUDENT, TEACHER, LABELS)),
    "virtual": (VirtualTeacherLoss, WEIGHTS | {"label_probability": 0.7}, (STUDENT, LABELS)),
    "smoothing": (LabelSmoothingLoss, {"smoothing": 0.3}, (STUDENT, LABELS)),
}
each = pytest.mark.parametrize("name", CASES)


@each
def test_what_is_set_is_what_the_constructor_takes(name):
    make, numbers, arguments = CASES[name]
    loss = make()
    for number, value in numbers.items():
        before = loss(*arguments).total
        setattr(loss, number, value)
        assert getattr(loss, number) == value
        assert loss(*arguments).total != before, f"{number} has no effect"
    torch.testing.assert_close(loss(*arguments), make(**numbers)(*arguments), rtol=0, atol=0)


@each
def test_the_buffer_is_filled_in_place(name):
    make, numbers, _ = CASES[name]
    loss = make()
    buffer = loss.numbers
    for number, value in numbers.items():
        setattr(loss, number, value)
    assert loss.numbers is buffer
    assert dict(loss.named_buffers()).keys() == {"numbers"}
    assert not loss.state_dict()


@each
@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float64))
def test_a_model_that_is_cast_leaves_them_in_float32(name, dtype):
    make, numbers, arguments = CASES[name]
    loss = make(**numbers)
    buffer, expected = loss.numbers, loss(*arguments)
    model = nn.ModuleList([loss, nn.Linear(2, 2)]).to(dtype)
    assert model[1].weight.dtype == dtype
    assert loss.numbers is buffer
    torch.testing.assert_close(loss(*arguments), expected, rtol=0, atol=0)


def test_a_move_and_a_cast_at_once_move():
    loss = KDLoss().to("meta", torch.bfloat16)
    assert (loss.numbers.device.type, loss.numbers.dtype) == ("meta", torch.float32)


def test_a_copy_has_numbers_of_its_own():
    loss = KDLoss(temperature=3.0)
    other = copy.deepcopy(loss)
    other.temperature = 2.0
    assert (loss.temperature, loss.numbers[0], other.temperature, other.numbers[0]) == (3.0, 3.0, 2.0, 2.0)


def test_a_compiled_loss_follows():
    loss = KDLoss()
    step = torch.compile(loss, fullgraph=True, backend="eager")
    for temperature in (4.0, 2.0):
        loss.temperature = temperature
        expected = KDLoss(temperature=temperature)(STUDENT, TEACHER, LABELS)
        torch.testing.assert_close(step(STUDENT, TEACHER, LABELS), expected)


def test_they_are_shown():
    loss = SFTNLoss(temperature=2.0, kl="reverse")
    loss.kl_weight = 0.5
    shown = "SFTNLoss(temperature=2.0, ce_temperature=1.0, teacher_weight=1.0, kl_weight=0.5, ce_weight=1.0, "
    assert repr(loss).startswith(shown)
    assert "kl='reverse'" in repr(loss)
    assert (
        repr(LabelSmoothingLoss())
        == "LabelSmoothingLoss(smoothing=0.1, ignore_index=-100, spread='all', reduction='mean')"
    )


def test_crd_has_them_too():
    loss = CRDLoss(3, 3, 10, embed_dim=4, negatives=2)
    loss.temperature = 0.5
    assert loss.momentum == 0.5
    assert loss.bfloat16().numbers.tolist() == [0.5, 0.5]
    assert "temperature=0.5, momentum=0.5" in repr(loss)
    with pytest.raises(ValueError, match="momentum is a number from 0 to below 1, got 1"):
        loss.momentum = 1


@pytest.mark.parametrize(
    "loss, name, value, error, message",
    (
        (KDLoss(), "temperature", 0.0, ValueError, "temperature is a number above 0, got 0.0"),
        (KDLoss(), "temperature", torch.tensor(2.0), TypeError, "temperature is a number above 0, got tensor"),
        (KDLoss(), "kl_weight", "much", TypeError, "kl_weight is a number of at least 0, got 'much'"),
        (KDLoss(), "ce_weight", float("nan"), ValueError, "ce_weight is a number of at least 0, got nan"),
        (LabelSmoothingLoss(), "smoothing", 1.5, ValueError, "smoothing is a number from 0 to 1, got 1.5"),
        (VirtualTeacherLoss(), "temperature", 20.0, ValueError, "this virtual teacher was made without one"),
    ),
)
def test_mistakes(loss, name, value, error, message):
    before = loss.numbers.clone()
    with pytest.raises(error, match=message):
        setattr(loss, name, value)
    assert torch.equal(loss.numbers, before)


def test_a_virtual_teacher_without_a_temperature_has_none():
    assert not hasattr(VirtualTeacherLoss(), "temperature")
    loss = VirtualTeacherLoss(temperature=20.0)
    loss.temperature = 6.0
    expected = VirtualTeacherLoss(temperature=6.0)(STUDENT, LABELS)
    torch.testing.assert_close(loss(STUDENT, LABELS), expected, rtol=0, atol=0)


class TestHelp:
    def test_it_shows_what_a_loss_has_of_its_own(self):
        shown = pydoc.render_doc(fastkd.losses, renderer=pydoc.plaintext)
        # Of 61 names it was 3,400: a module's own members alone are some hundred lines a loss.
        assert len(shown.splitlines()) < 3400 / 61 * len(fastkd.losses.__all__)
        assert "register_forward_hook" not in shown
        for word in ("KDLoss(*, temperature=4.0", "kd_loss(student_logits", "student_dim", "FASTKD_CHECK_LABELS"):
            assert word in shown, word

    def test_an_object_lists_what_modules_have_too(self):
        assert {"parameters", "state_dict", "temperature", "forward"} <= set(dir(KDLoss()))

    def test_a_subclass_may_be_abstract(self):
        class Abstract(KDLoss, abc.ABC):
            @abc.abstractmethod
            def named(self) -> str: ...

        class Concrete(Abstract):
            def named(self) -> str:
                return "it"

        with pytest.raises(TypeError, match="abstract"):
            Abstract()
        assert Concrete(temperature=2.0).temperature == 2.0 and "named" in dir(Concrete)
