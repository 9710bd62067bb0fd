"""The kernels in Triton's interpreter: against float64, in every form, type and shape, and in the hard cases."""

import dataclasses

import pytest
import torch
from helpers.distill_cases import FORMS, assert_no_worse, random_logits
from helpers.distill_kernels import HardCases, KernelContract, poisoned_memory  # noqa: F401

from fastkd.ops.distill_loss import launch
from fastkd.ops.distill_loss.launch import Layout

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy, where -inf meets -inf
    pytest.mark.usefixtures("poisoned_memory"),
]


class TestKernels(KernelContract):
    path = "triton"


def test_imagenet_21k():
    assert_no_worse("sftn", *random_logits(2, 2, 21841, torch.bfloat16, 1))


LAYOUTS = {
    10: [Layout(rows, 16, 4, 255, programs=1) for rows in (1, 4)],
    4100: [Layout(1, columns, 4, 255, programs=1) for columns in (512, 8192)],
}


@pytest.mark.parametrize(
    "form",
    ("sftn", "dkd", *(pytest.param(form, marks=pytest.mark.slow) for form in ("sftn reverse", "teachers", "tfkd"))),
)
@pytest.mark.parametrize("classes, layout", [(classes, layout) for classes in LAYOUTS for layout in LAYOUTS[classes]])
def test_every_layout_with_more_blocks_than_programs(form, classes, layout, monkeypatch):
    monkeypatch.setattr(launch, "layout", lambda *_, **__: layout)
    logits, labels = random_logits(3, 29 if classes == 10 else 5, classes, torch.float32, 0)
    labels[2] = -100
    assert_no_worse(form, logits, labels)


IN_SHORT = ("standardised nkd", "standardised ab", "ab of no alpha", "ab continuous", "jsd forward", "jsd reverse")
"""Forms of which most is tested in others; the slow set has them too."""
HARD = [pytest.param(form, 7, marks=pytest.mark.slow if form in IN_SHORT else ()) for form in FORMS] + [
    pytest.param(form, 4100, marks=pytest.mark.slow) for form in FORMS
]


@pytest.mark.parametrize("form, classes", HARD)
class TestHardCases(HardCases):
    path = "triton"


@pytest.mark.parametrize("classes", (5, 4100))
@pytest.mark.parametrize("wrong", (-1, None))
def test_the_device_assertion_is_switched_by_the_environment(classes, wrong, monkeypatch):
    from triton.runtime import interpreter
    from triton.runtime.errors import InterpreterError

    logits, labels = random_logits(1, 3, classes, torch.float32, 7)
    labels[1] = classes if wrong is None else wrong
    options = {"detached": False, "tau_squared": True, "ignore_index": -100}

    def run():
        return launch.compute_losses_and_gradients(logits, [None], labels, torch.ones(3), None, "kd", **options)

    run()  # reads nothing that is not there
    monkeypatch.setenv("FASTKD_CHECK_LABELS", "1")
    # The interpreter ignores the launch option `debug`, which a GPU needs as well.
    builder = interpreter.interpreter_builder
    monkeypatch.setattr(builder, "options", dataclasses.replace(builder.options, debug=True))
    with pytest.raises(InterpreterError, match=r"outside 0\.\.K-1"):
        run()
    labels[1] = -100
    run()
