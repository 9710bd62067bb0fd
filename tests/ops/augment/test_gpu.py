"""On a GPU: the same pixels as on the CPU."""

import pytest
import torch
from helpers.augment_cases import SETTINGS, arguments

from fastkd.ops.augment import augment, reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_the_same_bytes_as_on_the_cpu(settings, dtype):
    tensors, how = arguments(settings, size=(33, 33), images=40, batch=64, device="cuda")
    on_cpu, _ = arguments(settings, size=(33, 33), images=40, batch=64)
    found = augment(*tensors, **how, dtype=dtype, channels_last=True)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found.cpu(), reference.augment(*on_cpu, **how, dtype=dtype))
    assert torch.equal(reference.augment(*tensors, **how, dtype=dtype).cpu(), found.cpu())


def test_in_a_captured_graph_the_epoch_is_read_from_the_device():
    tensors, how = arguments(SETTINGS[-2], device="cuda")
    augment(*tensors, **how)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = augment(*tensors, **how)
    for epoch in (5, 6):
        tensors[3].fill_(epoch)
        graph.replay()
        assert torch.equal(found, reference.augment(*tensors, **how))


def test_compiled_without_a_break():
    tensors, how = arguments(SETTINGS[-2], device="cuda")
    compiled = torch.compile(lambda *tensors: augment(*tensors, **how) * 2, fullgraph=True)
    assert torch.equal(compiled(*tensors), augment(*tensors, **how) * 2)
