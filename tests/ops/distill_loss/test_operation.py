"""What the operation promises to a compiler, for a GPU that is not there.

What it computes is in test_interpreted_operation.py.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

pytest.importorskip("triton", reason="Triton is not installed")

from fastkd.losses import KDLoss, SFTNLoss, kd_loss, label_smoothing_loss, multi_teacher_loss, sftn_loss
from fastkd.ops.distill_loss import launch, operation

CUDA = torch.device("cuda")
FLOAT = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True)
def imagined():
    """Tensors have shapes, types and devices, and no values: to read one is an error."""
    with FakeTensorMode() as mode:
        yield mode


def logits(networks, samples=4, classes=7, dtype=torch.float32, learning=True):
    return [torch.empty(samples, classes, dtype=dtype, device=CUDA, requires_grad=learning) for _ in range(networks)]


def labels(samples=4):
    return torch.empty(samples, dtype=torch.int64, device=CUDA)


def promised(form, tensors, wanted, samples=4):
    numbers = torch.empty(8, device=CUDA)
    return operation.distill_loss(
        tensors[0].detach(),
        [tensor.detach() for tensor in tensors[1:]],
        labels(samples),
        numbers,
        None,
        form,
        wanted,
        False,
        True,
        -100,
        "triton",
    )


@pytest.mark.parametrize("samples, classes", ((0, 5), (1, 1), (3, 4097)))
@pytest.mark.parametrize("form", launch.FORMS)
def test_shapes_are_those_of_the_inputs(form, samples, classes):
    tensors = logits(3, samples, classes)
    total, parts, hits, gradients, correction = promised(form, tensors, [True] * 3, samples)
    networks = 3 if form.startswith("sftn") else 1
    assert (total.shape, parts.shape, hits.shape, correction.shape) == ((), (3,), (networks, 2), ())
    assert [tuple(gradient.shape) for gradient in gradients] == [(samples, classes)] * 3
    assert hits.dtype == torch.int64 and {value.device.type for value in (total, parts, hits, *gradients)} == {"cuda"}


@pytest.mark.parametrize("wanted", ((True, False, True), (False, False, False), (False, True, False)))
def test_gradients_are_made_for_those_who_want_one(wanted):
    assert len(promised("sftn", logits(3), wanted)[3]) == sum(wanted)


@pytest.mark.parametrize("dtype", FLOAT)
def test_gradients_of_float16_wait_in_float32(dtype):
    """They would flush to zero before the loss scale reaches them; those of bfloat16 keep its type."""
    (gradient,) = promised("ce", logits(1, dtype=dtype), [True])[3]
    assert gradient.dtype == (torch.float32 if dtype == torch.float16 else dtype)


def shares():
    return torch.empty(2, 4, device=CUDA)


NUMBERS = {"temperature": 4.0, "kl_weight": 0.9, "ce_weight": 0.1}
LOSSES = {
    "kd": lambda z, y: kd_loss(z[0], z[1], y, **NUMBERS),
    "teachers": lambda z, y: multi_teacher_loss(z[0], z[1:], y, teacher_weights=shares(), **NUMBERS),
    "sftn": lambda z, y: sftn_loss(z[0], z[1:], y, teacher_weight=1.0, **NUMBERS),
    "smoothing": lambda z, y: label_smoothing_loss(z[0], y, smoothing=0.1),
    "modules": lambda z, y: SFTNLoss().to(CUDA)(z[0], z[1:], y),
}


@pytest.mark.parametrize("dtype", FLOAT)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_on_a_gpu_waits_for_nothing(name, dtype, monkeypatch):
    """No label is looked at, no number is fetched: a captured step may hold it."""
    monkeypatch.delenv("FASTKD_OPS", raising=False)
    found = LOSSES[name](logits(3, dtype=dtype), labels())
    assert found.total.device.type == "cuda" and found.total.dtype == torch.float32 and found.total.requires_grad
    assert not any(part.requires_grad for part in found[1:])


def test_a_loss_that_was_left_on_the_cpu_is_told_where_it_belongs(monkeypatch):
    monkeypatch.delenv("FASTKD_OPS", raising=False)
    with pytest.raises(
        ValueError, match=r"the loss is on cpu, the logits are on cuda:0: move it with \.to\('cuda:0'\)"
    ):
        KDLoss()(*logits(2), labels())
