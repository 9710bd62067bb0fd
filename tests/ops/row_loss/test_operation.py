"""The losses of rows as operations of PyTorch: schema, compile, and what they promise of a GPU that is not there."""

import sys
from typing import NamedTuple

import pytest
import torch
from helpers.crd_cases import needs_library
from helpers.row_cases import forced, make
from torch._subclasses.fake_tensor import FakeTensorMode

from fastkd.losses import (
    JSDLoss,
    KDLoss,
    LinearKDLoss,
    LinearTeacher,
    SparseTeacher,
    jsd_loss,
    kd_loss,
    linear_kd_loss,
)
from fastkd.ops import row_loss
from fastkd.ops.row_loss import Form, Fused, Labels, Linear, Rows, Teacher, operation
from fastkd.ops.schema import flat

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # Inductor's own


def rows(kind: str = "logits", classes: int = 6) -> Rows:
    case = make(kind, 4, classes)
    sparse = case.teacher if isinstance(case.teacher, SparseTeacher) else None
    dense = case.teacher[None] if sparse is None else None
    teacher = Teacher(kind, dense, *(sparse[:2] if sparse else (None, None)), sparse.tail if sparse else None)
    student = case.student.view(2, 2, classes).requires_grad_()
    teacher = teacher._replace(dense_BRK=None if dense is None else dense.view(2, 2, classes))
    numbers = torch.linspace(0.1, 2.0, 16)
    return Rows(student, teacher, Labels(case.labels, None), torch.ones(4), numbers, Form("forward", True, True, False))


PATHS = (pytest.param("reference", marks=pytest.mark.slow), pytest.param("cpu", marks=needs_library))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ("logits", "lumped"))
def test_opcheck_of_the_loss(kind, path):
    torch.library.opcheck(operation.row_loss, (*flat(rows(kind)), True, path))


@pytest.mark.parametrize("path", PATHS)
def test_opcheck_of_the_layer(path):
    case = rows()
    layer = Linear(torch.randn(4, 3, requires_grad=True), torch.randn(6, 3, requires_grad=True), None)
    teacher = case.teacher._replace(dense_BRK=case.teacher.dense_BRK.view(1, 4, 6))
    inputs = Fused(layer, None, None, None, teacher, *case[2:])
    torch.library.opcheck(operation.linear_loss, (*flat(inputs), [True, True, False], 3, path))


@pytest.mark.parametrize("path", PATHS)
def test_opcheck_of_the_scaling(path):
    torch.library.opcheck(operation.scale_rows_, (torch.randn(2, 2, 5), torch.arange(4.0), path))
    torch.library.opcheck(operation.scale_all_, ([torch.randn(2, 5), torch.randn(3)], torch.tensor(2.0)))


class Given(NamedTuple):
    """What the losses below take beside the two networks' logits, on one device."""

    labels: torch.Tensor
    kept: SparseTeacher
    weight: torch.Tensor
    ones: torch.Tensor
    module: KDLoss
    layer: LinearKDLoss


def given(device: str = "cpu") -> Given:
    labels = torch.zeros(4, dtype=torch.int64, device=device)
    kept = SparseTeacher(
        labels[:, None].expand(4, 3) + torch.arange(3, device=device), torch.zeros(4, 3, device=device)
    )
    modules = KDLoss(softcap=5.0).to(device), LinearKDLoss(chunk_rows=3).to(device)
    return Given(labels, kept, torch.ones(6, 6, device=device), torch.ones(4, device=device), *modules)


LOSSES = {
    "kd": lambda z, t, g: kd_loss(z, t, g.labels, weights=g.ones),
    "kd of kept classes": lambda z, t, g: kd_loss(z, g.kept, g.labels),
    "kd of tokens": lambda z, t, g: kd_loss(z.view(2, 2, 6), t.view(2, 2, 6), g.labels.view(2, 2), count=3.0),
    "jsd": lambda z, t, g: jsd_loss(z, t, g.labels),
    "a module": lambda z, t, g: g.module(z, t, g.labels, weights=g.ones),
    "a layer": lambda z, t, g: linear_kd_loss(z, g.weight, t, g.labels, chunk_rows=3),
    "a layer as a module": lambda z, t, g: g.layer(z, g.weight, LinearTeacher(t, g.weight), g.labels),
}


@pytest.mark.parametrize("name", LOSSES)
def test_compiles_without_a_graph_break(name):
    torch.compiler.reset()
    leaves = [torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)]
    teacher, beside = torch.randn(4, 6, generator=torch.Generator().manual_seed(2)), given()

    def step(student):
        terms = LOSSES[name](student, teacher, beside)
        return 3 * terms.total, terms

    results = [step(leaves[0]), torch.compile(step, fullgraph=True, backend="aot_eager")(leaves[1])]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    for total, _ in results:
        total.backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-6, atol=1e-8)


def test_a_schedule_does_not_compile_again():
    torch.compiler.reset()
    loss, (student, teacher) = JSDLoss(), torch.randn(2, 4, 6)
    counter = torch._dynamo.testing.CompileCounter()
    step = torch.compile(loss, fullgraph=True, backend=counter)
    for beta in (0.5, 0.1, 0.9):
        loss.beta = beta
        torch.testing.assert_close(step(student, teacher), jsd_loss(student, teacher, beta=beta))
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_on_a_gpu_waits_for_nothing(name, monkeypatch):
    """Tensors have shapes, types and devices, and no values: to read one is an error. A captured step may hold it."""
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.delenv("FASTKD_OPS", raising=False)
    with FakeTensorMode():
        student, teacher = (torch.empty(4, 6, device="cuda", requires_grad=learns) for learns in (True, False))
        terms = LOSSES[name](student, teacher, given("cuda"))
    assert terms.total.device.type == "cuda" and terms.total.dtype == torch.float32 and terms.total.requires_grad
    assert not any(part.requires_grad for part in terms[1:])


@pytest.mark.parametrize("path", ("triton", pytest.param("cpu", marks=needs_library)))
def test_float64_is_refused_where_the_kernel_is_forced(path):
    with forced(path), pytest.raises(ValueError, match=f"row_loss={path}: .*"):
        row_loss.compute(rows()._replace(student_BRK=torch.zeros(2, 2, 6, dtype=torch.float64)))


def test_gradients_have_the_layout_of_their_logits():
    """So that autograd hands them on without a copy."""
    for shape in ((2, 5, 3, 4), (2, 3, 5)):
        student = torch.randn(shape, requires_grad=True)
        labels = torch.zeros([size for i, size in enumerate(shape) if i != (1 if len(shape) == 4 else 2)], dtype=int)
        kd_loss(student, student.detach(), labels).total.backward()
        assert student.grad.stride() == student.stride()


@needs_library
def test_an_eager_call_looks_for_nothing_and_takes_no_tree_apart():
    """What a loss of few numbers would wait for: the search for packages, torch's trees of tensors, and type hints."""
    student, teacher, beside = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6), given()
    called = set()

    def watch(frame, event, _argument):
        if event == "call":
            called.add((frame.f_code.co_filename, frame.f_code.co_name))

    def step():
        torch.autograd.grad(beside.module(student, teacher, beside.labels, weights=beside.ones).total, student)

    with forced("cpu"):
        step()
        sys.setprofile(watch)
        try:
            step()
        finally:
            sys.setprofile(None)
    assert any(name == "fill" and file.endswith("cpu.py") for file, name in called)
    slow = ("pytree", "importlib", "inspect", "torch/library.py", "torch/_library", "get_type_hints")
    assert not [call for call in called if any(part in "/".join(call) for part in slow)]


@needs_library
@pytest.mark.parametrize("retained", (False, True))
def test_a_second_backward_raises(retained):
    with forced("cpu"):
        student = torch.randn(3, 5, requires_grad=True)
        total = kd_loss(student, torch.randn(3, 5), torch.zeros(3, dtype=torch.int64), weights=torch.ones(3)).total
        total.backward(retain_graph=retained)
        with pytest.raises(RuntimeError, match="a second backward|backward through the graph a second time"):
            total.backward()


@needs_library
def test_double_backward_raises():
    with forced("cpu"):
        student = torch.randn(3, 5, requires_grad=True)
        total = kd_loss(student, torch.randn(3, 5), torch.zeros(3, dtype=torch.int64), weights=torch.ones(3)).total
        with pytest.raises(RuntimeError):
            (gradient,) = torch.autograd.grad(total, student, create_graph=True)
            gradient.sum().backward()
