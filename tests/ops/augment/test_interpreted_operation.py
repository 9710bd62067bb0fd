"""The kernel as an operation of PyTorch: schema, compile, and inputs that are not packed."""

import pytest
import torch
from helpers.augment_cases import SETTINGS, make_inputs
from torch._subclasses.fake_tensor import FakeTensorMode

from fastkd.ops.augment import augment, reference
from fastkd.ops.augment.operation import augment as operation
from fastkd.ops.schema import flat

EVERYTHING = SETTINGS[-1]


@pytest.fixture(autouse=True)
def forced(monkeypatch):
    monkeypatch.setenv("FASTKD_OPS", "augment=triton")


def test_registered_as_an_operation():
    torch.library.opcheck(operation, tuple(flat(make_inputs(SETTINGS[3]))))


def test_compiles_without_a_graph_break():
    inputs = make_inputs(EVERYTHING)

    def step(pixels, epoch):
        return augment(inputs._replace(images_nHWC=pixels, epoch=epoch)) * 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(inputs.images_nHWC, inputs.epoch), reference.augment(inputs) * 2)


def test_rows_that_all_views_share_and_every_second_index():
    """An expanded and a strided tensor, as a resident set and a split of a batch have them."""
    inputs = make_inputs(EVERYTHING, batch=6)
    rows, index = inputs.rows_VB[:1].expand(4, -1)[:, ::2], inputs.index_B[::2]
    strided = inputs._replace(rows_VB=rows, index_B=index)
    packed = inputs._replace(rows_VB=rows.contiguous(), index_B=index.contiguous())
    assert not rows.is_contiguous() and not index.is_contiguous()
    assert torch.equal(augment(strided), reference.augment(packed))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_shape_and_type_are_promised(dtype):
    arguments = flat(make_inputs(EVERYTHING, dtype=dtype))
    found = operation(*arguments)
    with FakeTensorMode() as mode:
        promised = operation(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments))
    assert (promised.shape, promised.dtype, promised.stride()) == (found.shape, found.dtype, found.stride())
    assert found.shape == (4, 5, 9, 9, 3) and found.dtype == dtype
