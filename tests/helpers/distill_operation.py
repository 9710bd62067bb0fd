"""What the operation of the distillation loss promises: schema, compile, what backward may and may not do.

A test file runs it for an implementation: a subclass names its `path`.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastkd.losses import KDLoss, SFTNLoss, kd_loss
from fastkd.ops.distill_loss import operation
from helpers.distill_cases import FORMS, forced, random_logits

SLOW = pytest.mark.slow

# To a trace a form is a name: what differs is the Python of its public function.
QUICK = ("sftn", "weighted teachers", "weighted nkd", "standardised dkd", "tfkd", "smoothing others", "ce")
QUICK += ("wttm", "rld", "ab", "jsd")
TRACED = [
    *(pytest.param(form, torch.float32, marks=() if form in QUICK else SLOW) for form in FORMS),
    ("sftn", torch.float16),
]


class OperationContract:
    path: str

    @pytest.fixture(autouse=True)
    def kernels(self):
        torch.compiler.reset()
        with forced(self.path):
            yield

    @pytest.mark.parametrize(
        "form",
        (
            "sftn",
            "kd",
            "rld_standardised",
            *(pytest.param(form, marks=SLOW) for form in ("sftn_reverse", "dkd", "virtual_softened", "ab")),
        ),
    )
    def test_opcheck_of_the_loss(self, form):
        partners = {"virtual_softened": 0, "dkd": 1, "rld_standardised": 1, "ab": 1}.get(form, 2)
        learning = form.startswith("sftn")
        logits, labels = random_logits(1 + partners, 3, 5, torch.float32, 0)
        for i, tensor in enumerate(logits):
            tensor.requires_grad_(i == 0 or learning)
        wanted = [tensor.requires_grad for tensor in logits]
        numbers = torch.tensor([2.0, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5, 1.5, 0.7, 0.3, 0.5])
        arguments = (logits[0], logits[1:], labels, numbers, None, form, wanted, False, True, -100, self.path)
        torch.library.opcheck(operation.distill_loss, arguments)

    def test_opcheck_of_the_scaling(self):
        arguments = ([torch.randn(3, 5), torch.randn(3, 5).bfloat16()], torch.tensor(2.0), torch.tensor(0.5), self.path)
        torch.library.opcheck(operation.scale_gradients_, arguments)

    @pytest.mark.parametrize("form, dtype", TRACED)
    def test_compiles_without_a_graph_break(self, form, dtype):
        logits, labels = random_logits(3, 3, 5, dtype, 0)

        def step(*logits):
            loss = FORMS[form](logits[0], list(logits[1:]), labels)
            return 3 * loss.total, loss

        leaves = [[tensor.clone().requires_grad_() for tensor in logits] for _ in range(2)]
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        results = [step(*leaves[0]), compiled(*leaves[1])]
        torch.testing.assert_close(*results, rtol=0, atol=0)
        for total, _ in results:
            total.backward()
        for eager, traced in zip(*leaves, strict=True):
            torch.testing.assert_close(eager.grad, traced.grad, rtol=0, atol=0)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # Dynamo looks at that of the logits
    def test_compiles_with_inductor(self):
        logits, labels = random_logits(3, 3, 5, torch.float32, 0)
        loss = SFTNLoss()
        leaves = [[tensor.clone().requires_grad_() for tensor in logits] for _ in range(2)]
        for step, (teacher, *branches) in zip((loss, torch.compile(loss, fullgraph=True)), leaves, strict=True):
            (2 * step(teacher * 1.5, branches, labels).total).backward()
        for eager, traced in zip(*leaves, strict=True):
            torch.testing.assert_close(eager.grad, traced.grad)

    def test_schedules_do_not_compile_again(self):
        from torch._dynamo.testing import CompileCounterWithBackend

        counter = CompileCounterWithBackend("aot_eager")
        (student, teacher), labels = random_logits(2, 3, 5, torch.float32, 0)
        loss = KDLoss()
        step = torch.compile(loss, fullgraph=True, backend=counter)
        for temperature in (4.0, 3.0, 2.0):
            loss.temperature = temperature
            expected = kd_loss(student, teacher, labels, temperature=temperature, kl_weight=0.9, ce_weight=0.1)
            torch.testing.assert_close(step(student, teacher, labels), expected)
        assert counter.frame_count == 1

    @pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float64))
    def test_a_loss_inside_a_model_that_was_cast(self, dtype):
        (student, teacher), labels = random_logits(2, 3, 5, torch.float32, 0)
        loss = torch.nn.Sequential(KDLoss()).to(dtype)[0]
        step = torch.compile(loss, fullgraph=True, backend="aot_eager")
        expected = KDLoss()(student, teacher, labels)
        torch.testing.assert_close([loss(student, teacher, labels), step(student, teacher, labels)], [expected] * 2)

    def test_the_loss_is_promised_in_float32(self):
        with FakeTensorMode():
            logits, numbers = torch.empty(3, 5), torch.empty(8, dtype=torch.bfloat16)
            labels = torch.empty(3, dtype=torch.int64)
            total, parts, *_, correction = operation.distill_loss(
                logits, [logits], labels, numbers, None, "kd", [True, False], False, True, -100, self.path
            )
        assert {total.dtype, parts.dtype, correction.dtype} == {torch.float32}

    def test_a_second_backward_raises(self):
        (student, teacher), labels = random_logits(2, 3, 5, torch.float32, 0)
        total = KDLoss()(student.requires_grad_(), teacher, labels).total
        (2 * total).backward(retain_graph=True)
        first = student.grad.clone()
        with pytest.raises(RuntimeError, match="a second backward needs a second forward"):
            total.backward()
        torch.testing.assert_close(student.grad, first, rtol=0, atol=0)

    @pytest.mark.parametrize("backend", ("aot_eager", pytest.param("inductor", marks=pytest.mark.slow)))
    def test_a_second_backward_of_a_compiled_loss_is_right(self, backend):
        """Compiled, the gradients are not scaled in place, and nothing is used up."""
        (student, teacher), labels = random_logits(2, 3, 5, torch.float32, 0)
        total = torch.compile(KDLoss(), fullgraph=True, backend=backend)(
            student.requires_grad_(), teacher, labels
        ).total
        (2 * total).backward(retain_graph=True)
        first = student.grad.clone()
        (2 * total).backward()
        torch.testing.assert_close(student.grad, 2 * first, rtol=0, atol=0)

    def test_a_backward_after_the_graph_is_freed_raises(self):
        (student, teacher), labels = random_logits(2, 3, 5, torch.float32, 0)
        total = KDLoss()(student.requires_grad_(), teacher, labels).total
        total.backward()
        with pytest.raises(RuntimeError, match="a second backward|backward through the graph a second time"):
            total.backward()

    def test_double_backward_raises(self):
        (student, teacher), labels = random_logits(2, 3, 5, torch.float32, 0)
        total = KDLoss()(student.requires_grad_(), teacher, labels).total
        with pytest.raises(RuntimeError):
            (gradient,) = torch.autograd.grad(total, student, create_graph=True)
            gradient.sum().backward()

    @pytest.mark.parametrize("scale", (1.0, -2.5, 0.0))
    def test_the_gradient_of_the_loss_is_scaled(self, scale):
        logits, labels = random_logits(3, 3, 5, torch.float32, 0)
        leaves = [[tensor.clone().requires_grad_() for tensor in logits] for _ in range(2)]
        SFTNLoss()(leaves[0][0], leaves[0][1:], labels).total.backward()
        (scale * SFTNLoss()(leaves[1][0], leaves[1][1:], labels).total).backward()
        for plain, scaled in zip(*leaves, strict=True):
            torch.testing.assert_close(scaled.grad, scale * plain.grad, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("compiled", (False, True))
    def test_ignored_rows_scale_the_gradients_once(self, compiled):
        """Divided by B in forward, by the number of counted rows after backward."""
        logits, labels = random_logits(3, 6, 5, torch.float32, 0)
        loss = torch.compile(SFTNLoss(), fullgraph=True, backend="aot_eager") if compiled else SFTNLoss()
        gradients = []
        for rows in (slice(0, 6), slice(0, 4)):
            leaves = [tensor[rows].clone().requires_grad_() for tensor in logits]
            loss(leaves[0], leaves[1:], torch.where(torch.arange(6) < 4, labels, -100)[rows]).total.backward()
            gradients.append([leaf.grad[:4] for leaf in leaves])
        torch.testing.assert_close(*gradients, rtol=1e-6, atol=0)

    def test_memory_is_the_gradients(self):
        """Of what the operation and its backward allocate, only the gradients are as large as the logits."""
        logits, labels = random_logits(4, 8, 50, torch.float32, 0)
        leaves = [tensor.requires_grad_() for tensor in logits]
        loss = SFTNLoss()
        allocated = LargeAllocations(logits[0].nbytes)
        with allocated:
            loss(leaves[0], leaves[1:], labels).total.backward()
        assert len(allocated.storages) == len(leaves)
        assert {leaf.grad.untyped_storage().data_ptr() for leaf in leaves} == allocated.storages

    def test_the_parts_are_detached(self):
        logits, labels = random_logits(2, 3, 5, torch.float32, 0)
        loss = SFTNLoss()(logits[0].requires_grad_(), [logits[1].requires_grad_()], labels)
        assert loss.total.requires_grad
        assert not any(part.requires_grad for part in loss[1:])

    def test_gradients_are_written_for_the_inputs_that_need_one(self):
        logits, labels = random_logits(3, 3, 5, torch.float32, 0)
        numbers = torch.tensor([2.0, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5])

        def gradients(*wanted):
            return operation.distill_loss(
                logits[0], logits[1:], labels, numbers, None, "sftn", wanted, False, True, -100, self.path
            )[3]

        every = gradients(True, True, True)
        assert len(every) == 3
        assert gradients(False, False, False) == []
        torch.testing.assert_close(gradients(False, True, False), [every[1]], rtol=0, atol=0)

    def test_the_value_does_not_depend_on_who_needs_a_gradient(self):
        logits, labels = random_logits(2, 3, 5, torch.float32, 0)
        without = SFTNLoss()(logits[0], [logits[1]], labels)
        with_gradient = SFTNLoss()(logits[0].requires_grad_(), [logits[1]], labels)
        with torch.no_grad():
            in_evaluation = SFTNLoss()(logits[0], [logits[1]], labels)
        assert not without.total.requires_grad
        torch.testing.assert_close(without, with_gradient, rtol=0, atol=0)
        torch.testing.assert_close(without, in_evaluation, rtol=0, atol=0)

    def test_float64_is_refused_where_the_kernel_is_forced(self):
        with pytest.raises(ValueError, match="the kernel computes in float32, the logits are float64"):
            KDLoss()(torch.zeros(2, 3).double(), torch.zeros(2, 3).double(), torch.tensor([0, 1]))


class LargeAllocations(TorchDispatchMode):
    """The storages of at least so many bytes that PyTorch's operations make."""

    def __init__(self, least: int):
        super().__init__()
        self.least, self.storages, self.kept = least, set(), []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {storage.data_ptr() for storage in self.large(args)}
        result = func(*args, **(kwargs or {}))
        new = [storage for storage in self.large(result) if storage.data_ptr() not in given]
        self.kept += new  # else their addresses may be given away again
        self.storages |= {storage.data_ptr() for storage in new}
        return result

    def large(self, values):
        storages = [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
        return [storage for storage in storages if storage.nbytes() >= self.least]
