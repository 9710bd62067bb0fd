"""What every kernel of the distillation loss has to do: held against float64, in every form, type and hard case.

A test file runs it for an implementation: a subclass names its `path`.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.distill_cases import (
    ALONE,
    FORMS,
    LEARNING_PARTNERS,
    assert_a_small_divergence_keeps_its_digits,
    assert_no_worse,
    evaluate,
    forced,
    random_logits,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(scope="module")
def poisoned_memory():
    """What the kernels do not write is NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


SHAPES = {
    "form": st.sampled_from(list(FORMS)),
    "dtype": st.sampled_from(DTYPES),
    "samples": st.integers(1, 12),
    "classes": st.integers(2, 150),
    "partners": st.integers(1, 4),
    "ignored": st.booleans(),
    "seed": st.integers(0, 1000),
}

# Rows in chunks, of a form of each kernel; the others in the slow set, and compiled, in the executor's tests.
QUICK = ("sftn", "weighted teachers", "dkd", "tfkd", "smoothing others", "standardised rld", "ab continuous", "jsd")
WIDE = [pytest.param(form, 4099, marks=() if form in QUICK else pytest.mark.slow) for form in FORMS]
STRIDED = [(form, 6) for form in ("sftn", "weighted teachers", "dkd", "standardised rld", "ab")] + [("sftn", 4097)]


class KernelContract:
    path: str

    def no_worse_in_this_shape(self, form, dtype, samples, classes, partners, ignored, seed):
        logits, labels = random_logits(1 + partners, samples, classes, dtype, seed)
        if ignored:
            labels[::3] = -100
        assert_no_worse(form, logits, labels, path=self.path)

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(**SHAPES)
    def test_random_shapes(self, **drawn):
        self.no_worse_in_this_shape(**drawn)

    @pytest.mark.slow
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(**SHAPES)
    def test_many_random_shapes(self, **drawn):
        self.no_worse_in_this_shape(**drawn)

    @pytest.mark.parametrize("form, classes", [(form, 2) for form in FORMS] + WIDE)
    def test_every_form(self, form, classes):
        logits, labels = random_logits(3, 3, classes, torch.float32, classes)
        labels[1] = -100
        assert_no_worse(form, logits, labels, path=self.path)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("classes", (1, 3, 128, 129, 1000, 4096, 21841))
    def test_more_classes(self, form, classes, dtype):
        if classes == 1 and ("dkd" in form or "nkd" in form):
            pytest.skip("has no other classes")
        assert_no_worse(form, *random_logits(5, 2, classes, dtype, classes), path=self.path)

    @pytest.mark.parametrize("form, classes", [(form, 33) for form in ALONE] + [("sftn", 1000), ("kd", 4099)])
    def test_networks_that_nearly_agree_at_a_high_temperature(self, form, classes):
        assert_a_small_divergence_keeps_its_digits(form, classes, 3, (4.0, 1000.0), path=self.path)

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ALONE)
    @pytest.mark.parametrize("classes", (2, 3, 10, 100, 1000, 4096, 5000))
    def test_networks_that_nearly_agree_at_any_temperature(self, form, classes):
        if form != "dkd" or classes > 2:  # else there are no other classes to compare
            assert_a_small_divergence_keeps_its_digits(form, classes, 4, path=self.path)

    @pytest.mark.parametrize("form, classes", STRIDED)
    def test_strides_are_followed_without_a_copy(self, form, classes):
        logits, labels = random_logits(3, 4, 2 * classes, torch.float32, 2)
        labels %= classes
        views = [logits[0][:, :classes], logits[1][:, ::2], logits[2][:, :classes].t().contiguous().t()]
        plain = evaluate(form, self.path, [view.contiguous() for view in views], labels)
        assert not any(view.is_contiguous() for view in views)
        strided = with_views(form, self.path, views, labels)
        torch.testing.assert_close(strided, plain, rtol=0, atol=0)

    def test_types_may_differ(self):
        logits, labels = random_logits(3, 4, 10, torch.float32, 3)
        assert_no_worse("sftn", [logits[0].bfloat16(), logits[1], logits[2].half()], labels, path=self.path)

    def test_half_precision_gradients_survive_a_large_batch_and_its_loss_scale(self):
        """1/B and the probabilities of 1000 classes flush to zero in float16 unless the scale comes first."""
        student, labels = random_logits(1, 64, 100, torch.float16, 4)
        scale = 2.0**12
        exact = student[0].double().requires_grad_()
        FORMS["ce"](exact, [], labels).total.mul(scale).backward()
        with forced(self.path):
            half = student[0].requires_grad_()
            FORMS["ce"](half, [], labels).total.mul(scale).backward()
        assert half.grad.dtype == torch.float16
        assert (half.grad == 0).sum() <= (exact.grad.half() == 0).sum()
        torch.testing.assert_close(half.grad.double(), exact.grad, rtol=1e-3, atol=1e-6)

    def test_two_runs_give_the_same_bits(self):
        logits, labels = random_logits(4, 40, 33, torch.float32, 6)
        first, second = (evaluate("sftn", self.path, logits, labels) for _ in range(2))
        torch.testing.assert_close(first, second, rtol=0, atol=0)

    @pytest.mark.parametrize("classes", (5, 4100))
    def test_labels_out_of_range(self, classes):
        logits, labels = random_logits(1, 3, classes, torch.float32, 7)
        labels[1] = classes
        with pytest.raises(RuntimeError, match="a label is outside"):  # found on the CPU before the kernel runs
            evaluate("ce", self.path, logits, labels)


class HardCases:
    """Parametrised by form and classes where it is run."""

    path: str

    def logits(self, classes, value=None):
        logits, labels = random_logits(3, 3, classes, torch.float32, 5)
        return [torch.full_like(tensor, value) if value is not None else tensor for tensor in logits], labels

    def test_equal_logits(self, form, classes):
        logits, labels = self.logits(classes, 0.5)
        assert_no_worse(form, logits, labels, path=self.path)

    @pytest.mark.parametrize("size", (1e4, -1e4))
    def test_huge_logits(self, form, classes, size):
        logits, labels = self.logits(classes)
        for i, tensor in enumerate(logits):
            tensor[:, i] = size
        values, gradients, _ = evaluate(form, self.path, logits, labels)
        assert all(tensor.isfinite().all() for tensor in (*values, *gradients))
        assert_no_worse(form, logits, labels, path=self.path)

    def test_impossible_classes(self, form, classes):
        logits, labels = self.logits(classes)
        labels = 1 + labels % (classes - 2)
        for tensor in logits:
            tensor[:, [0, -1]] = -torch.inf
        if form.startswith("standardised"):  # there is no mean
            assert evaluate(form, self.path, logits, labels)[0][0].isnan()
        elif form in ("virtual", "tfkd", "smoothing", "smoothing others"):  # the teacher holds it for possible
            values, _, _ = evaluate(form, self.path, logits, labels)
            assert values[0] == torch.inf
        else:
            values, gradients, _ = evaluate(form, self.path, logits, labels)
            assert all(tensor.isfinite().all() for tensor in (*values, *gradients))
            assert_no_worse(form, logits, labels, path=self.path)

    def test_nan_in_nan_out(self, form, classes):
        logits, labels = self.logits(classes)
        logits[0][1, 2] = torch.nan
        values, gradients, hits = evaluate(form, self.path, logits, labels)
        assert values[0].isnan()
        assert gradients[0][1].isnan().all()
        assert gradients[0][[0, 2]].isfinite().all()
        assert torch.equal(hits, evaluate(form, "reference", logits, labels)[2])

    def test_nan_in_an_ignored_row_does_not_matter(self, form, classes):
        logits, labels = self.logits(classes)
        logits[0][1, 2] = torch.nan
        labels[1] = -100
        values, gradients, _ = evaluate(form, self.path, logits, labels)
        assert all(value.isfinite() for value in values)
        assert all((gradient[1] == 0).all() for gradient in gradients)

    def test_an_empty_batch(self, form, classes):
        logits, labels = self.logits(classes)
        values, gradients, hits = evaluate(form, self.path, [tensor[:0] for tensor in logits], labels[:0])
        assert all(value == 0 for value in values)
        assert all(gradient.shape == (0, classes) for gradient in gradients)
        assert not hits.any()

    def test_a_batch_of_one(self, form, classes):
        logits, labels = self.logits(classes)
        assert_no_worse(form, [tensor[:1] for tensor in logits], labels[:1], path=self.path)

    def test_all_rows_ignored(self, form, classes):
        logits, labels = self.logits(classes)
        values, gradients, hits = evaluate(form, self.path, logits, torch.full_like(labels, -100))
        assert all(value == 0 for value in values)
        assert all((gradient == 0).all() for gradient in gradients)
        assert not hits.any()


def with_views(form, path, views, labels):
    """As `evaluate`, whose copies would be contiguous."""
    leaves = [view.detach().requires_grad_() for view in views]
    with forced(path):
        *values, hits = FORMS[form](leaves[0], leaves[1:], labels)
        values[0].backward()
    learners = leaves if form in LEARNING_PARTNERS else leaves[:1]
    return [value.detach() for value in values], [leaf.grad for leaf in learners], hits
