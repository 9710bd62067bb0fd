"""The compiled row kernel of a CPU, in vectors of every width that this machine has."""

import pytest
import torch
from helpers.crd_cases import needs_library
from helpers.distill_cases import AB, FORMS, assert_no_worse, evaluate, random_logits
from helpers.distill_kernels import HardCases, KernelContract, poisoned_memory  # noqa: F401
from helpers.distill_operation import OperationContract
from helpers.instructions import every_instruction_set, instructions  # noqa: F401

from fastkd.losses import ab_divergence_loss
from fastkd.ops import compiled
from fastkd.support.errors import UserError

pytestmark = [
    needs_library,
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # Inductor's own
]


@every_instruction_set
class TestKernel(KernelContract):
    path = "cpu"

    @pytest.mark.parametrize("classes", (1, 4, 9, 16, 31, 1000))
    @pytest.mark.parametrize("form", FORMS)
    def test_rows_of_whole_vectors_and_of_parts(self, form, classes):
        if form.endswith(("dkd", "nkd")) and classes == 1:
            pytest.skip("has no other classes")
        assert_no_worse(form, *random_logits(3, 5, classes, torch.float32, classes), path="cpu")

    @pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
    def test_every_number_of_two_bytes(self, dtype):
        """Denormal ones, infinite ones and NaN are among them."""
        logits = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)[:, None]
        values = logits.float()
        student = torch.cat((logits, torch.zeros_like(logits)), 1)
        hits = evaluate("ce", "cpu", [student], torch.zeros(len(logits), dtype=torch.int64))[2]
        assert hits[0] == (values >= 0).sum() and hits[1] == (~values.isnan()).sum()
        finite = values.isfinite()[:, 0]
        assert_no_worse("ce", [student[finite]], torch.zeros(int(finite.sum()), dtype=torch.int64), path="cpu")


@every_instruction_set
@pytest.mark.parametrize("form, classes", [(form, 7) for form in FORMS])
class TestHardCases(HardCases):
    path = "cpu"


class TestOperation(OperationContract):
    path = "cpu"


def test_a_form_that_the_library_lacks_is_left_to_the_reference(monkeypatch):
    logits, labels = random_logits(2, 3, 5, torch.float32, 0)
    monkeypatch.setattr(compiled, "_forms", lambda: frozenset(("ce", "kd")))
    monkeypatch.delenv("FASTKD_OPS", raising=False)
    assert FORMS["rld"](logits[0], logits[1:], labels).total.isfinite()
    monkeypatch.setenv("FASTKD_OPS", "distill_loss=cpu")
    with pytest.raises(UserError, match="the compiled cpu library has no kernel of the form rld"):
        FORMS["rld"](logits[0], logits[1:], labels)


@every_instruction_set
class TestAgreement:
    @pytest.mark.parametrize("apart", (1e-1, 1e-3))
    @pytest.mark.parametrize("form", FORMS)
    def test_networks_that_nearly_agree(self, form, apart):
        logits, labels = random_logits(3, 4, 50, torch.float32, 8)
        logits = [logits[0] + apart * noise for noise in (torch.zeros(()), *logits[1:])]
        assert_no_worse(form, logits, labels, path="cpu")

    @pytest.mark.parametrize("form", FORMS)
    def test_logits_that_are_far_from_zero(self, form):
        logits, labels = random_logits(3, 4, 50, torch.float32, 9)
        logits = [tensor + offset for tensor, offset in zip(logits, (3000.0, -500.0, 200.0), strict=True)]
        assert_no_worse(form, logits, labels, path="cpu")


LIMITS = ((1.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.0, 0.0), (1.0, -1.0), (0.5, -0.5), (2.0, -0.5), (-0.5, 0.2))


@every_instruction_set
class TestLimitsOfTheAlphaBetaDivergence:
    @pytest.mark.parametrize("continuous", (False, True))
    @pytest.mark.parametrize("alpha, beta", LIMITS)
    def test_they_are_no_worse(self, alpha, beta, continuous, monkeypatch):
        numbers = AB | {"alpha": alpha, "beta": beta, "continuous": continuous}
        monkeypatch.setitem(FORMS, "limit", lambda a, b, y: ab_divergence_loss(a, b[0], y, **numbers))
        assert_no_worse("limit", *random_logits(2, 5, 37, torch.float32, 10), path="cpu")


def test_imagenet_21k():
    assert_no_worse("sftn", *random_logits(2, 2, 21841, torch.bfloat16, 1), path="cpu")


@pytest.mark.parametrize("form", ("sftn", "dkd", "teachers"))
def test_the_same_bits_for_any_number_of_threads(form):
    logits, labels = random_logits(3, 333, 100, torch.float32, 0)
    labels[::7] = -100
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            results.append(evaluate(form, "cpu", logits, labels))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)
