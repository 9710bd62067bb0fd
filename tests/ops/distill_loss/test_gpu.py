"""The kernels on a GPU: against float64, compiled, captured, without waiting, bit for bit."""

import pytest
import torch
from helpers.distill_cases import FORMS, assert_no_worse, evaluate, random_logits

from fastkd.losses import KDLoss, SFTNLoss, kd_loss, sftn_loss
from fastkd.ops import select
from fastkd.ops.distill_loss import launch, operation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # Inductor's own
]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SLACK = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # 2 ulp
SHAPES = ((1, 2), (7, 10), (64, 100), (33, 129), (64, 1000), (600, 1000), (16, 4096), (5, 4097), (4, 21841))


def on_gpu(networks, samples, classes, dtype=torch.float32, seed=0):
    return random_logits(networks, samples, classes, dtype, seed, "cuda")


def test_a_gpu_is_given_the_kernels():
    assert select.choose("distill_loss", "cuda") == ("triton", "preferred on cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("samples, classes", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_no_worse_than_pytorch(form, samples, classes, dtype):
    logits, labels = on_gpu(4, samples, classes, dtype)
    labels[::5] = -100
    assert_no_worse(form, logits, labels, slack=SLACK[dtype])


@pytest.mark.parametrize("classes", (10, 1000, 4100))
@pytest.mark.parametrize("size", (1e4, -1e4, -torch.inf))
@pytest.mark.parametrize("form", ("sftn", "sftn reverse", "kd", "dkd", "ce"))
def test_huge_and_impossible_logits(form, size, classes):
    logits, labels = on_gpu(3, 6, classes)
    labels %= classes - 1
    for tensor in logits:
        tensor[:, -1] = size
    values, gradients, _ = evaluate(form, "triton", logits, labels)
    assert all(tensor.isfinite().all() for tensor in (*values, *gradients))
    assert_no_worse(form, logits, labels)


@pytest.mark.parametrize("classes", (10, 4100))
def test_nan_and_empty_batches(classes):
    logits, labels = on_gpu(3, 6, classes)
    values, gradients, _ = evaluate("sftn", "triton", [tensor[:0] for tensor in logits], labels[:0])
    assert all(value == 0 for value in values)
    assert gradients[0].shape == (0, classes)
    logits[1][2, 3] = torch.nan
    values, gradients, _ = evaluate("sftn", "triton", logits, labels)
    assert values[0].isnan()
    assert gradients[1][2].isnan().all()
    assert gradients[1][3].isfinite().all()


@pytest.mark.parametrize("samples, classes", ((4096, 100), (1024, 1000), (64, 21841)))
def test_bit_for_bit(samples, classes):
    logits, labels = on_gpu(4, samples, classes)
    first = evaluate("sftn", "triton", logits, labels)
    for _ in range(5):
        torch.testing.assert_close(evaluate("sftn", "triton", logits, labels), first, rtol=0, atol=0)


def test_rows_beyond_two_to_the_31_numbers():
    """Addresses are 64 bits wide."""
    samples, classes = 2**31 // 4096 + 8, 4096
    student = torch.zeros(samples, classes, dtype=torch.bfloat16, device="cuda").requires_grad_()
    labels = torch.zeros(samples, dtype=torch.int64, device="cuda")
    kd_loss(student, student.detach(), labels, temperature=1.0, kl_weight=0.0, ce_weight=1.0).total.backward()
    assert student.grad[-1, 0] < 0
    assert (student.grad[-1, 1:] > 0).all()


@pytest.mark.parametrize("form", ("sftn", "kd", "dkd", "tfkd", "smoothing"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiles_without_a_graph_break(form, dtype):
    logits, labels = on_gpu(3, 8, 100, dtype)
    leaves = [[tensor.clone().requires_grad_() for tensor in logits] for _ in range(2)]

    def step(anchor, *partners):
        return 3 * FORMS[form](anchor, list(partners), labels).total

    torch.compiler.reset()
    totals = [step(*leaves[0]), torch.compile(step, fullgraph=True)(*leaves[1])]
    torch.testing.assert_close(*totals)
    for total in totals:
        total.backward()
    for eager, compiled in zip(*leaves, strict=True):
        torch.testing.assert_close(eager.grad, compiled.grad)


@pytest.mark.parametrize("form", ("sftn", "sftn_reverse", "kd"))
def test_opcheck(form):
    logits, labels = on_gpu(3, 3, 5)
    for i, tensor in enumerate(logits):
        tensor.requires_grad_(i == 0 or form != "kd")
    numbers = torch.tensor([2.0, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 0.5], device="cuda")
    wanted = [tensor.requires_grad for tensor in logits]
    arguments = (logits[0], logits[1:], labels, numbers, None, form, wanted, False, True, -100, "triton")
    torch.library.opcheck(operation.distill_loss, arguments)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16))
@pytest.mark.parametrize("classes", (100, 4100))
def test_a_captured_graph_follows_inputs_and_weights(classes, dtype):
    logits, labels = on_gpu(3, 16, classes, dtype)
    leaves = [tensor.requires_grad_() for tensor in logits]
    loss = SFTNLoss(temperature=2.0).cuda()
    scale = torch.tensor(1.0, device="cuda")

    def step():
        terms = loss(leaves[0], leaves[1:], labels)
        return terms, torch.autograd.grad(terms.total * scale, leaves)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for weight, factor in ((1.0, 1.0), (0.3, 2.5)):
        new, new_labels = on_gpu(3, 16, classes, dtype, seed=int(10 * weight))
        with torch.no_grad():
            for leaf, tensor in zip(leaves, new, strict=True):
                leaf.copy_(tensor)
        labels.copy_(new_labels)
        loss.kl_weight = weight
        loss.temperature = 1.0 + weight
        scale.fill_(factor)
        graph.replay()
        replayed = ([value.clone() for value in captured[0]], [gradient.clone() for gradient in captured[1]])
        terms, gradients = step()
        torch.testing.assert_close(replayed, (list(terms), list(gradients)), rtol=0, atol=0)


def test_functions_with_numbers_are_capturable():
    (student, teacher), labels = on_gpu(2, 16, 100)
    student.requires_grad_()
    options = {"temperature": 4.0, "kl_weight": 0.9, "ce_weight": 0.1}
    expected = kd_loss(student, teacher, labels, **options).total
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total = kd_loss(student, teacher, labels, **options).total
    graph.replay()
    torch.testing.assert_close(total, expected, rtol=0, atol=0)


def test_nothing_waits_for_the_gpu():
    logits, labels = on_gpu(3, 16, 100)
    leaves = [tensor.requires_grad_() for tensor in logits]
    module, student_loss = SFTNLoss().cuda(), KDLoss().cuda()

    def step():
        total = module(leaves[0], leaves[1:], labels).total + student_loss(leaves[1], leaves[0], labels).total
        total += sftn_loss(
            leaves[0], leaves[1:], labels, temperature=2.0, teacher_weight=1.0, kl_weight=3.0, ce_weight=1.0
        ).total
        (2.5 * total).backward()

    step()  # compiles
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_schedules_and_the_last_batch_do_not_compile_again():
    kernel = launch.kernel_for("sftn", 100, launch.layout(100))
    logits, labels = on_gpu(2, 17, 100)
    loss = KDLoss().cuda()
    loss(logits[0], logits[1], labels)
    cache = kernel.device_caches[torch.cuda.current_device()][0]
    compiled = len(cache)
    for samples in (1, 16, 13):
        loss.temperature *= 1.1
        loss(logits[0][:samples], logits[1][:samples], labels[:samples])
    assert len(cache) == compiled


def test_peak_memory_is_the_gradients():
    logits, labels = on_gpu(4, 1024, 1000)
    leaves = [tensor.requires_grad_() for tensor in logits]
    loss = SFTNLoss().cuda()
    loss(leaves[0], leaves[1:], labels).total.backward()
    for leaf in leaves:
        leaf.grad = None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss(leaves[0], leaves[1:], labels).total.backward()
    assert torch.cuda.max_memory_allocated() - before < 4.2 * logits[0].nbytes


def test_a_loss_left_on_the_cpu_is_named():
    (student, teacher), labels = on_gpu(2, 4, 10)
    with pytest.raises(ValueError, match=r"the loss is on cpu, the logits are on cuda:0: move it with \.to"):
        KDLoss()(student, teacher, labels)


def test_a_temperature_left_on_the_cpu_is_named():
    """Its copy to the device could not be captured."""
    (student, teacher), labels = on_gpu(2, 4, 10)
    weights = {"temperature": torch.tensor(4.0), "kl_weight": 0.9, "ce_weight": 0.1}
    with pytest.raises(ValueError, match="temperature: on cpu, where the logits are on cuda:0"):
        kd_loss(student, teacher, labels, **weights)


def test_a_number_is_set_without_waiting_for_the_gpu():
    loss = KDLoss().cuda().bfloat16()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss.temperature *= 0.5
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert loss.numbers[:3].tolist() == pytest.approx([2.0, 0.9, 0.1])


def test_the_label_assertion():
    """In a process of its own: a device assertion takes the whole context down with it."""
    import os
    import subprocess
    import sys

    program = """
import torch
from fastkd.losses import ce_loss
ce_loss(torch.zeros(2, 3, device="cuda"), torch.tensor([0, 3], device="cuda"))
torch.cuda.synchronize()
"""
    for switch, succeeds in (("0", True), ("1", False)):
        environment = {**os.environ, "FASTKD_CHECK_LABELS": switch}
        result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert (result.returncode == 0) == succeeds, result.stderr[-2000:]
    assert "a label is outside" in result.stdout + result.stderr
