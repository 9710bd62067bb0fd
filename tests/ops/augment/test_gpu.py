"""On a GPU: the same pixels as on the CPU."""

import pytest
import torch
from helpers.augment_cases import SETTINGS, make_inputs

from fastkd.ops.augment import augment, reference

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_the_same_bytes_as_on_the_cpu(settings, dtype):
    inputs = make_inputs(settings, size=(33, 33), images=40, batch=64, dtype=dtype, device="cuda")
    on_cpu = make_inputs(settings, size=(33, 33), images=40, batch=64, dtype=dtype)
    found = augment(inputs, channels_last=True)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found.cpu(), reference.augment(on_cpu))
    assert torch.equal(reference.augment(inputs).cpu(), found.cpu())


def test_in_a_captured_graph_the_epoch_is_read_from_the_device():
    inputs = make_inputs(SETTINGS[-2], device="cuda")
    augment(inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = augment(inputs)
    for epoch in (5, 6):
        inputs.epoch.fill_(epoch)
        graph.replay()
        assert torch.equal(found, reference.augment(inputs))


def test_compiled_without_a_break():
    inputs = make_inputs(SETTINGS[-2], device="cuda")
    compiled = torch.compile(lambda inputs: augment(inputs) * 2, fullgraph=True)
    assert torch.equal(compiled(inputs), augment(inputs) * 2)
