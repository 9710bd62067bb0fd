"""The kernels of the losses of rows on a GPU: against float64, captured, without waiting, in the memory of a chunk."""

import pytest
import torch
from helpers.row_cases import DEFAULT, DIVERGENCES, KINDS, Case, Options, as_double, forced, gradient_of, make

from fastkd.losses import KDLoss, LinearKDLoss, LinearTeacher, SparseTeacher, kd_loss, linear_kd_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # Inductor's own
]
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def on_gpu(case: Case) -> Case:
    def move(value):
        if isinstance(value, torch.Tensor):
            return value.cuda()
        return value if value is None or isinstance(value, str) else type(value)(*map(move, value))

    return Case(*map(move, case))


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("classes", (2, 21, 1000, 4099, 32_000, 128_256, 151_936, 256_000))
@pytest.mark.parametrize("kind", KINDS)
def test_close_to_float64(kind, classes, dtype):
    for divergence in DIVERGENCES if kind in ("logits", "lumped") else ("forward",):
        options = Options(logit_scale=1.25, softcap=30.0, teacher_softcap=20.0) if divergence == "jsd" else DEFAULT
        case = on_gpu(make(kind, 5, classes, dtype=dtype, k=min(classes, 50)))
        scale = torch.linspace(0.5, 1.5, 5, device="cuda")
        with forced("reference"):
            losses, exact = gradient_of(as_double(case), divergence, options, scale.double())
        found, gradient = gradient_of(case, divergence, options, scale)
        torch.testing.assert_close(found.double(), losses, rtol=1e-4, atol=1e-4)
        assert (gradient.double() - exact).norm() <= ROUNDING[dtype] * (exact.norm() + 1e-2)


def steps():
    """A call of each kind, with gradients: (function, its tensors that learn)."""
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device="cuda", dtype=torch.bfloat16)

    logits, teacher, labels = normal(64, 32_000).requires_grad_(), normal(64, 32_000), torch.arange(64, device="cuda")
    kept = SparseTeacher(labels[:, None] + torch.arange(8, device="cuda"), torch.full((64, 8), -3.0, device="cuda"))
    hidden, weight = normal(300, 64).requires_grad_(), normal(32_000, 64).requires_grad_()
    layer = LinearTeacher(normal(300, 32), normal(32_000, 32))
    loss, linear = KDLoss(temperature=2.0, softcap=20.0).cuda(), LinearKDLoss(chunk_rows=128).cuda()
    words = torch.arange(300, device="cuda")
    return {
        "tokens": (lambda: loss(logits, teacher, labels, weights=labels.float()).total, [logits], loss),
        "kept": (lambda: kd_loss(logits, kept, labels).total, [logits], None),
        "layer": (lambda: linear(hidden, weight, layer, words).total, [hidden, weight], linear),
    }


@pytest.mark.parametrize("name", ("tokens", "kept", "layer"))
def test_nothing_waits_and_a_captured_graph_follows(name):
    function, leaves, loss = steps()[name]

    def step():
        total = function()
        return total.detach(), *torch.autograd.grad(total, leaves)

    step()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for temperature in (1.0, 3.0):
        if loss is not None:
            loss.temperature = temperature
        graph.replay()
        torch.testing.assert_close([one.clone() for one in captured], list(step()), rtol=0, atol=0)


def test_memory_of_the_layer_is_that_of_a_chunk():
    rows, dim, classes, chunk = 4096, 512, 64_000, 256
    hidden, his = (torch.randn(rows, dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    weight, theirs = (torch.randn(classes, dim, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    hidden.requires_grad_()
    weight.requires_grad_()
    labels = torch.zeros(rows, dtype=torch.int64, device="cuda")

    def step():
        torch.autograd.grad(
            linear_kd_loss(hidden, weight, LinearTeacher(his, theirs), labels, chunk_rows=chunk).total, (hidden, weight)
        )

    step()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    gradients = (rows + classes) * dim * 2 + classes * dim * 4
    assert torch.cuda.max_memory_allocated() - before < 1.1 * (2 * chunk * classes * 2 + gradients)
