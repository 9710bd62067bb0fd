"""The CUDA and Triton paths on a GPU: against float64, against each other, captured, compiled, without waiting."""

import pytest
import torch
from helpers.crd_cases import PROBLEMS, check_counts, check_path, check_scaled, check_update, in_float64, near, problem

from fastkd.losses import CRDLoss
from fastkd.ops import compiled, crd
from fastkd.ops.crd.inputs import Inputs
from fastkd.training.capture import CudaRecorder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # Inductor's own
]
needs_library = pytest.mark.skipif(bool(compiled.obstacle("cuda")), reason=compiled.obstacle("cuda") or "built")
PATHS = [pytest.param("gather", marks=needs_library), "dense"]
WHOLE = {"rows": 400, "samples": 64, "dim": 128, "negatives": 150}
EACH = PROBLEMS | {"whole tiles": WHOLE, "whole tiles, bfloat16": WHOLE | {"dtype": torch.bfloat16}}
CIFAR = {"rows": 50_000, "samples": 64, "negatives": 16_384, "dim": 128, "classes": 100}


def allowed(path: str, case) -> float:
    """The dense path takes tensor cores: three products of tf32, or two of bfloat16, for one of float32."""
    return 2e-5 if path == "dense" else 2e-6


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", EACH)
def test_against_float64(name, path):
    case = problem(**EACH[name]).to("cuda")
    check_path(case, path, allowed(path, case))


@needs_library
@pytest.mark.parametrize("dim", [4, 8, 20, 64, 72, 130, 200, 256, 255])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_width_of_the_gather(dim, dtype):
    check_path(problem(dim=dim, dtype=dtype, negatives=513).to("cuda"), "gather")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("replacement", [False, True])
def test_the_shape_of_cifar(path, dtype, replacement):
    case = problem(**CIFAR, dtype=dtype, replacement=replacement).to("cuda")
    check_path(case, path, allowed(path, case))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_update(path, dtype):
    check_update(path, dtype, "cuda")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["plain", "with replacement", "just enough negatives", "every row a class"])
def test_draws_are_those_of_the_reference(name, path):
    case = problem(**(PROBLEMS[name] | {"negatives": 1500, "rows": 2000}))
    expected = crd.draw(case.contrast.rows_B, 2000, case.contrast.plan, "reference")
    given = case.to("cuda")
    assert torch.equal(crd.draw(given.contrast.rows_B, 2000, given.contrast.plan, path).cpu(), expected)


@pytest.mark.parametrize("marks", [pytest.param("cuda", marks=needs_library), "triton", "reference"])
@pytest.mark.parametrize("name", [*PROBLEMS, "of CIFAR"])
def test_counts_of_the_dense_path_are_those_of_the_draws(name, marks, monkeypatch):
    monkeypatch.setenv("FASTKD_OPS", f"crd_marks={marks}")
    case = problem(**(PROBLEMS | {"of CIFAR": CIFAR})[name]).to("cuda")
    check_counts(case)
    check_scaled(case)


@needs_library
def test_a_bank_whose_marks_no_block_holds():
    check_counts(problem(rows=900_000, samples=3, negatives=30_000, dim=1).to("cuda"))


@pytest.mark.parametrize("marks", [pytest.param("cuda", marks=needs_library), "triton"])
def test_draws_beside_the_networks_are_those_of_the_call(marks, monkeypatch):
    """A recording forks its stream; replays equal eager steps bit for bit, over several replays of several steps."""
    eager, recorded = (module(f"dense,crd_marks={marks}", monkeypatch) for _ in range(2))
    student, teacher, index = batch(0)
    totals = torch.zeros(2, 3, device="cuda")

    def step(loss: CRDLoss, total: torch.Tensor) -> None:
        loss.draw_ahead(index)
        for _ in range(5):  # in place of the networks
            torch.randn(1000, 1000, device="cuda") @ torch.randn(1000, 1000, device="cuda")
        total.copy_(loss(student, teacher, index).total.detach())

    def steps(loss: CRDLoss, into: torch.Tensor):
        numbers = iter(range(3))
        return lambda: step(loss, into[next(numbers)])

    recorder = CudaRecorder(torch.device("cuda"))
    snapshot = {name: tensor.clone() for name, tensor in recorded.state_dict().items()}
    recorder.rehearse(lambda: step(recorded, totals[1, 0]))
    replay = recorder.record(steps(recorded, totals[1]), 3)
    for name, tensor in recorded.state_dict().items():
        tensor.copy_(snapshot[name])
    for _ in range(4):
        one = steps(eager, totals[0])
        for _ in range(3):
            one()
        replay()
        assert torch.equal(*totals) and len(totals[0].unique()) == 3
    for name, tensor in eager.state_dict().items():
        assert torch.equal(recorded.state_dict()[name], tensor), name


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bit_for_bit(path, dtype):
    case = problem(**CIFAR, dtype=dtype).to("cuda")
    z = in_float64_z(case)
    first = None
    for _ in range(5):
        terms = crd.loss(case.inputs(z), path)
        result = (terms.total, terms.student, *torch.autograd.grad(terms.total, case.contrast[:2]))
        first = first or result
        assert all(torch.equal(a, b) for a, b in zip(first, result, strict=True))


def in_float64_z(case) -> torch.Tensor:
    return torch.full((2,), 2.2 * len(case.bank), device=case.bank.device)


@needs_library
def test_a_row_outside_the_bank_is_seen():
    case = problem(explicit=True).to("cuda")
    case.contrast.chosen_BK[2, 3] = 300
    assert crd.loss(case.inputs(in_float64_z(case)), "gather").total.isnan()


def module(path: str, monkeypatch, **options) -> CRDLoss:
    monkeypatch.setenv("FASTKD_OPS", f"crd={path}")
    torch.manual_seed(1)
    given = {"labels": torch.arange(500) % 7, "embed_dim": 128, "negatives": 200, "seed": 3} | options
    return CRDLoss(8, 10, 500, **given).cuda()


def batch(step: int):
    generator = torch.Generator().manual_seed(step)
    student, teacher = (torch.randn(16, width, generator=generator).cuda() for width in (8, 10))
    return student, teacher, torch.randint(500, (16,), generator=generator).cuda()


@pytest.mark.parametrize("path", [*PATHS, "reference"])
@pytest.mark.parametrize("bank_dtype", [torch.float32, torch.bfloat16])
def test_a_captured_step_replays_as_it_would_run(path, bank_dtype, monkeypatch):
    """The first replay finds Z unset, every replay draws anew; bank, Z and counter end as without the graph."""
    eager = module(path, monkeypatch, bank_dtype=bank_dtype)
    graphed = module(path, monkeypatch, bank_dtype=bank_dtype)
    snapshot = {name: tensor.clone() for name, tensor in graphed.state_dict().items()}
    inputs = batch(0)
    inputs[0].requires_grad_()

    def step(loss, given):
        total = loss(*given).total
        return total, torch.autograd.grad(total, given[0])[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step(graphed, inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = step(graphed, inputs)
    with torch.no_grad():
        for name, tensor in graphed.state_dict().items():
            tensor.copy_(snapshot[name])
    # cuBLAS may take another algorithm in a graph; our kernels are the same ones.
    tolerance = {"rtol": 2**-7, "atol": 1e-6} if path == "reference" else {"rtol": 0, "atol": 0}
    totals = []
    for i in range(3):
        given = batch(i % 2)
        with torch.no_grad():
            for static, fresh in zip(inputs, given, strict=True):
                static.copy_(fresh)
        graph.replay()
        given[0].requires_grad_()
        expected = step(eager, given)
        torch.testing.assert_close(output, expected, **tolerance)
        totals.append(output[0].item())
    assert len(set(totals)) == 3
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(graphed.state_dict()[name], tensor, **tolerance, msg=name)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_waits_for_the_gpu(path, monkeypatch):
    loss = module(path, monkeypatch)
    given = batch(0)
    loss(*given)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            loss(*given).total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("path", PATHS)
def test_compiled_in_one_piece(path, monkeypatch):
    plain, whole = module(path, monkeypatch), module(path, monkeypatch)
    torch.compiler.reset()
    step = torch.compile(whole, fullgraph=True, dynamic=False)
    for i in range(3):
        given = batch(i)
        torch.testing.assert_close(step(*given).total, plain(*given).total, rtol=1e-4, atol=0)
    torch.testing.assert_close(whole.bank, plain.bank, rtol=1e-4, atol=1e-5)
    assert whole.step == 3 and torch.equal(whole.starts, plain.starts)


@pytest.mark.parametrize("path", PATHS)
def test_extra_memory(path):
    """At CIFAR's shape the plain formulation takes 1.07 GB for the rows of one side and their copies."""
    case = problem(**CIFAR, dtype=torch.bfloat16).to("cuda")
    z = in_float64_z(case)
    crd.loss(case.inputs(z), path)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    crd.loss(case.inputs(z), path)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before < 1.07e9 / 60


@needs_library
def test_a_bank_beyond_two_to_the_31_numbers():
    """Addresses are 64 bits wide."""
    rows = 2**31 // 256 + 64
    case = problem(rows=4000, dim=128, dtype=torch.bfloat16, samples=8, negatives=400, explicit=True)
    bank = torch.zeros(rows, 2, 128, dtype=torch.bfloat16, device="cuda")
    bank[-4000:] = case.bank.cuda()
    given = case.to("cuda")
    expected = in_float64(case)
    shifted = given.contrast._replace(chosen_BK=given.contrast.chosen_BK + rows - 4000)
    z = expected.z.float().cuda() * rows / 4000
    # Z and K / n both scale with the rows: only the epsilon of the loss tells them apart.
    gradients = torch.autograd.grad(crd.loss(Inputs(shifted, bank, z, given.numbers), "gather").total, shifted[:2])
    for gradient, right in zip(gradients, expected.gradients, strict=True):
        near(gradient, right, 1e-2)
