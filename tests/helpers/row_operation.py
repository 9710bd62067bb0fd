"""What the operations of the losses of rows promise: in place behind a linear layer, compiled, scaled in backward.

A test file runs it for an implementation: a subclass names its `path`.
"""

import pytest
import torch

from fastkd.losses import LinearTeacher, TeacherProbabilities, kd_loss, keep_top, linear_jsd_loss, linear_kd_loss
from fastkd.ops.row_loss import Form, Fused, Labels, Linear, Teacher, fused, operation
from helpers.memory import Peak
from helpers.row_cases import Options, forced, loss_of, make


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LABELS = torch.tensor([0, 3, -100, 19, 5])
LAYER = LinearTeacher(randn(5, 4, seed=1), randn(20, 4, seed=2), randn(20, seed=3))
LOGITS = LAYER.hidden @ LAYER.weight.t() + LAYER.bias
TEACHERS = {
    "layer": LAYER,
    "logits": LOGITS,
    "probabilities": TeacherProbabilities(LOGITS.softmax(1)),
    "lumped": keep_top(LOGITS, 4, temperature=4.0),
    "renormalised": keep_top(LOGITS, 4, temperature=4.0, tail="renormalised"),
}


class OperationContract:
    path: str

    @pytest.fixture(autouse=True)
    def kernels(self):
        torch.compiler.reset()
        with forced(self.path):
            yield

    @pytest.mark.parametrize("name", TEACHERS)
    @pytest.mark.parametrize("loss", (linear_kd_loss, linear_jsd_loss))
    def test_the_loss_in_place_of_a_chunks_logits(self, loss, name):
        """The same as the closed form in PyTorch gives, which writes elsewhere."""
        results = []
        for implementation in (self.path, "reference"):
            layer = [randn(*shape, seed=7 + i).requires_grad_() for i, shape in enumerate(((5, 6), (20, 6), (20,)))]
            with forced(implementation):
                options = {"head_bias": layer[2], "chunk_rows": 2, "softcap": 6.0, "ce_weight": 0.5}
                terms = loss(*layer[:2], TEACHERS[name], LABELS, **options)
                (2.5 * terms.total).backward()
            results.append((*(part.detach() for part in terms), *(tensor.grad for tensor in layer)))
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)

    def test_in_place_and_elsewhere_are_the_same_bits(self):
        case = make("logits", 5, 300)
        leaf = case.student.clone().requires_grad_()
        kd_loss(leaf, case.teacher, case.labels, reduction="sum").total.backward()
        identity = torch.eye(300)
        hidden = case.student.clone().requires_grad_()
        linear_kd_loss(hidden, identity, case.teacher, case.labels, reduction="sum", chunk_rows=2).total.backward()
        torch.testing.assert_close(hidden.grad, leaf.grad, rtol=0, atol=0)

    def test_memory_is_two_chunks_and_the_gradients(self, monkeypatch):
        """The arithmetic of docs/DROP_IN.md: the student's logits, where the gradient comes, and the teacher's.

        The kernel allocates nothing; that the interpreter does is no matter.
        """
        monkeypatch.setattr(fused.kernel_of(self.path), "fill", lambda *_: None)
        rows, dim, classes, chunk = 24, 3, 500, 4
        tensors = [randn(*shape, seed=i) for i, shape in enumerate(((rows, dim), (classes, dim)) * 2)]
        teacher, labels = Teacher("logits", None, None, None, None), Labels(torch.zeros(rows, dtype=torch.int64), None)
        form = Form("forward", True, False, False)
        layer = Linear(*tensors[:2], None)
        inputs = Fused(layer, *tensors[2:], None, teacher, labels, torch.ones(rows), torch.ones(16), form)
        with Peak() as memory:
            fused.losses_and_gradients(inputs, [True, True, False], chunk, self.path)
        numbers = 2 * chunk * classes + (rows + classes) * dim
        assert 4 * numbers <= memory.peak <= 4 * (numbers + 10 * rows)

    @pytest.mark.parametrize("kind", ("logits", "lumped"))
    def test_compiles_without_a_graph_break(self, kind):
        case = make(kind, 3, 5)
        leaves = [case.student.clone().requires_grad_() for _ in range(2)]

        def step(student):
            return loss_of(case._replace(student=3 * student), "forward", Options()).total

        totals = [step(leaves[0]), torch.compile(step, fullgraph=True, backend="aot_eager")(leaves[1])]
        torch.testing.assert_close(*totals, rtol=0, atol=0)
        for total in totals:
            total.backward()
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=0, atol=0)

    def test_opcheck_of_the_scaling(self):
        torch.library.opcheck(operation.scale_rows_, (torch.randn(2, 3, 5), torch.linspace(0, 2, 6), self.path))

    @pytest.mark.parametrize("shape", ((1, 3, 2051), (2, 70, 5), (0, 3, 5)))
    def test_rows_are_scaled_each_by_its_own(self, shape):
        gradient, scale = randn(*shape), torch.linspace(0, 2, shape[0] * shape[1])
        expected = gradient * scale.view(*shape[:2], 1)
        operation.scale_rows_(gradient, scale, self.path)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0)

    def test_pixels_are_scaled_where_they_are(self):
        gradient = randn(2, 5, 12).transpose(1, 2)
        expected = gradient * 2
        operation.scale_rows_(gradient, torch.full((24,), 2.0), self.path)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=0)
