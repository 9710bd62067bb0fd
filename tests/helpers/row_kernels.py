"""What every kernel of the losses of rows has to do: held against float64, with every teacher, label and hard case.

A test file runs it for an implementation: a subclass names its `path`.
"""

import pytest
import torch

from fastkd.losses import SparseTeacher, kd_loss
from fastkd.ops.row_loss import fused
from helpers.row_cases import DEFAULT, DIVERGENCES, KINDS, Case, Options, assert_no_worse, forced, gradient_of, make

CAPPED = Options(logit_scale=1.5, softcap=5.0, teacher_logit_scale=0.7, teacher_softcap=4.0)
EVERY = [
    (kind, divergence)
    for kind in KINDS
    for divergence in DIVERGENCES
    if (kind, divergence) not in (("sampled", "reverse"), ("none", "jsd"), ("none", "reverse"))
]
HARD = [(kind, divergence) for kind in ("logits", "lumped") for divergence in DIVERGENCES]
"""What `HardCases` are run for."""
IN_CHUNKS = (("logits", "forward"), ("logits", "jsd"), ("lumped", "forward"))
FEW = (("logits", "jsd"), ("lumped", "forward"), ("probabilities", "forward"))
WORDS = (32_000, 128_256, 151_936, 256_000)


@pytest.fixture(scope="module")
def poisoned_memory():
    """What the kernels do not write is NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def weighted(case: Case) -> Case:
    return case._replace(weights=torch.tensor([0.5, 0.0, 2.0]))


class KernelContract:
    path: str

    @pytest.mark.parametrize("kind, divergence", EVERY)
    @pytest.mark.parametrize("labels", ("classes", "probabilities"))
    def test_every_teacher(self, kind, divergence, labels):
        assert_no_worse(weighted(make(kind, 3, 7, labels)), divergence, path=self.path)

    @pytest.mark.parametrize(
        "kind, divergence", [pytest.param(*case, marks=() if case in IN_CHUNKS else pytest.mark.slow) for case in EVERY]
    )
    def test_rows_in_chunks(self, kind, divergence):
        assert_no_worse(weighted(make(kind, 3, 2051, "probabilities")), divergence, path=self.path)

    @pytest.mark.parametrize("kind, divergence", [case for case in EVERY if case[0] != "none"])
    def test_scaled_and_capped_logits(self, kind, divergence):
        assert_no_worse(make(kind, 2, 37), divergence, CAPPED, path=self.path)

    @pytest.mark.parametrize(
        "kind, divergence", (("logits", "jsd"), ("lumped", "forward"), ("probabilities", "forward"))
    )
    @pytest.mark.parametrize("classes", (2, 16, 129))
    def test_widths(self, kind, divergence, classes):
        assert_no_worse(make(kind, 3, classes, k=2), divergence, path=self.path)

    @pytest.mark.parametrize("classes", [pytest.param(c, marks=() if c == 32_000 else pytest.mark.slow) for c in WORDS])
    @pytest.mark.parametrize("kind, divergence", (("logits", "forward"), ("lumped", "jsd")))
    def test_vocabularies(self, kind, divergence, classes):
        """In bfloat16; interpreted, its gradients are stored in float32."""
        options = Options(temperature=1.0, logit_scale=1.25, softcap=30.0, teacher_softcap=20.0)
        assert_no_worse(make(kind, 1, classes, dtype=torch.bfloat16, k=50), divergence, options, path=self.path)

    @pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
    @pytest.mark.parametrize("kind", ("logits", "probabilities", "lumped"))
    def test_half_precision(self, kind, dtype):
        assert_no_worse(make(kind, 3, 100, "probabilities", dtype), "forward", path=self.path)

    @pytest.mark.parametrize("kind", ("logits", "lumped"))
    def test_a_tail_that_the_student_has_nearly_lost(self, kind):
        case = make(kind, 3, 50)
        kept = make("lumped", 3, 50).teacher.indices
        case.student.scatter_add_(1, kept, torch.full((3, 3), 30.0))
        assert_no_worse(case, "forward", Options(temperature=1.0), path=self.path)

    def test_pixels_and_cut_sequences_are_read_where_they_are(self):
        """Neither the logits nor their gradients are copied: the kernel is given their strides."""
        seen = []
        module = fused.kernel_of(self.path)
        fill = module.fill
        pixels, other = (torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(i)) for i in range(2))
        tokens, target = (torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(i))[:, :-1] for i in range(2))

        def spying(rows, found, gradient):
            seen.append((rows.student_BRK.data_ptr(), rows.teacher.dense_BRK.data_ptr(), gradient.stride()))
            fill(rows, found, gradient)

        with pytest.MonkeyPatch.context() as patch, forced(self.path):
            patch.setattr(module, "fill", spying)
            for student, teacher, labels in (
                (pixels, other, torch.randint(5, (2, 4, 6))),
                (tokens, target, torch.randint(5, (2, 6))),
            ):
                leaf = student.detach().requires_grad_()
                terms = kd_loss(leaf, teacher, labels)
                terms.total.backward()
                assert seen[-1][:2] == (student.data_ptr(), teacher.data_ptr())
                axis = 1 if student.ndim == 4 else 2
                flat = [tensor.movedim(axis, -1).reshape(-1, 5) for tensor in (student, teacher)]
                rows = flat[0].clone().requires_grad_()
                expected = kd_loss(rows, flat[1], labels.flatten(), reduction="sum")
                (expected.total / labels.numel()).backward()
                torch.testing.assert_close(leaf.grad.movedim(axis, -1).reshape(-1, 5), rows.grad)
                torch.testing.assert_close(terms.total, (expected.total / labels.numel()).detach())
        assert seen[0][2] == pixels.flatten(2).transpose(1, 2).stride()

    def test_two_runs_give_the_same_bits(self):
        case = make("lumped", 3, 2051)
        with forced(self.path):
            first, second = (gradient_of(case, "jsd", DEFAULT, torch.ones(3)) for _ in range(2))
        torch.testing.assert_close(first, second, rtol=0, atol=0)

    def test_labels_out_of_range(self):
        case = make("logits", 3, 5)
        case.labels[1] = 5
        with forced(self.path), pytest.raises(RuntimeError, match="a label is outside"):
            gradient_of(case, "forward", DEFAULT, torch.ones(3))


class HardCases:
    """Parametrised by kind and divergence where it is run."""

    path: str

    def case(self, kind, classes=9):
        return make(kind, 3, classes, seed=3)

    @pytest.mark.parametrize("size", (1e4, -1e4))
    def test_huge_logits(self, kind, divergence, size):
        case = self.case(kind)
        for i, row in enumerate(case.student):
            row[i] = size
        if kind == "logits":
            case.teacher[:, 4] = size
        with forced(self.path):
            losses, gradient = gradient_of(case, divergence, DEFAULT, torch.ones(3))
        assert losses.isfinite().all() and gradient.isfinite().all()
        assert_no_worse(case, divergence, path=self.path)

    def test_a_large_offset_changes_nothing(self, kind, divergence):
        case = self.case(kind, 50)
        case.student.add_(3000.0)
        if kind == "logits":
            case.teacher.sub_(2000.0)
        assert_no_worse(case, divergence, path=self.path)

    def test_classes_that_nobody_holds_for_possible(self, kind, divergence):
        case = self.case(kind)
        case.labels.clamp_(1, 7)
        for tensor in (case.student, case.teacher) if kind == "logits" else (case.student,):
            tensor[:, [0, -1]] = -torch.inf
        if kind == "lumped":
            kept = torch.tensor([[1, 2, 3]] * 3)
            case = case._replace(teacher=SparseTeacher(kept, case.teacher.log_probabilities))
        with forced(self.path):
            losses, gradient = gradient_of(case, divergence, DEFAULT, torch.ones(3))
        assert losses.isfinite().all() and gradient.isfinite().all()
        assert_no_worse(case, divergence, path=self.path)

    def test_nan_in_nan_out_and_in_its_own_row_alone(self, kind, divergence):
        case = self.case(kind)
        case.student[1, 2] = torch.nan
        with forced(self.path):
            losses, gradient = gradient_of(case, divergence, DEFAULT, torch.ones(3))
        assert losses[1].isnan() and gradient[1].isnan().all()
        assert losses[[0, 2]].isfinite().all() and gradient[[0, 2]].isfinite().all()

    def test_nan_in_a_row_that_does_not_count(self, kind, divergence):
        case = self.case(kind)
        case.student[1, 2] = torch.nan
        case.labels[1] = -100
        with forced(self.path):
            losses, gradient = gradient_of(case, divergence, DEFAULT, torch.ones(3))
        assert losses[1] == 0 and (gradient[1] == 0).all()
        assert losses.isfinite().all() and gradient.isfinite().all()

    def test_equal_logits(self, kind, divergence):
        case = self.case(kind)
        case.student.fill_(0.5)
        assert_no_worse(case, divergence, path=self.path)

    def test_an_empty_batch(self, kind, divergence):
        case = make(kind, 0, 9)
        with forced(self.path):
            losses, gradient = gradient_of(case, divergence, DEFAULT, torch.ones(0))
        assert losses.shape == (0,) and gradient.shape == (0, 9)
