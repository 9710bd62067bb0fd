"""On a GPU, every method's step can be captured once and replayed."""

import pytest
import torch
from helpers.walk import EACH, batch, with_a_weight

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", (torch.float32, torch.bfloat16), ids=("float32", "bfloat16"))
@pytest.mark.parametrize("name", [name for name in EACH if name != "crd"])  # its own tests capture it
def test_a_captured_step_is_the_same(name, precision):
    stage = with_a_weight(name).cuda().eval()  # BatchNorm moves nothing between the passes that are compared
    tensors = {name: value.cuda() for name, value in batch()._asdict().items() if torch.is_tensor(value)}
    data = batch()._replace(**tensors)
    learners = [parameter for parameter in stage.parameters() if parameter.requires_grad]

    def step():
        with torch.autocast("cuda", dtype=precision, enabled=precision != torch.float32):
            loss = stage(data)
        return loss.total, *torch.autograd.grad(loss.total, learners)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    graph.replay()
    torch.cuda.synchronize()
    scale = 1e-3 if precision == torch.float32 else 5e-2
    for actual, goal in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, goal, rtol=0, atol=scale * goal.abs().max().item() + 1e-5)
