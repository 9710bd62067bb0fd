"""The loss behind a linear layer, chunk by chunk, against the loss of its logits; and the memory it takes."""

import pytest
import torch
import torch.nn.functional as F
from helpers.memory import Peak
from torch import Tensor

from fastkd.losses import (
    JSDLoss,
    KDLoss,
    LinearJSDLoss,
    LinearKDLoss,
    LinearTeacher,
    TeacherProbabilities,
    ce_loss,
    jsd_loss,
    kd_loss,
    keep_top,
    linear_jsd_loss,
    linear_kd_loss,
)
from fastkd.losses.linear import rows_of_a_chunk
from fastkd.ops.row_loss import Form, Fused, Labels, Linear, Teacher, fused

N, D, E, K = 11, 6, 4, 13
KD = {"temperature": 2.0, "kl_weight": 0.7, "ce_weight": 0.4}


def made(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


LABELS = torch.randint(K, (N,), generator=torch.Generator().manual_seed(5))
LABELS[3] = -100
TEACHER = LinearTeacher(made(N, E, seed=1), made(K, E, seed=2), made(K, seed=3))
LOGITS = TEACHER.hidden @ TEACHER.weight.t() + TEACHER.bias
TEACHERS = {
    "a layer": (TEACHER, LOGITS),
    "a layer without a bias": (TEACHER._replace(bias=None), TEACHER.hidden @ TEACHER.weight.t()),
    "logits": (LOGITS, LOGITS),
    "probabilities": (TeacherProbabilities((LOGITS / 2).softmax(1)), LOGITS),
    "lumped": (keep_top(LOGITS, 4, temperature=2.0),) * 2,
    "renormalised": (keep_top(LOGITS, 4, temperature=2.0, tail="renormalised"),) * 2,
}


def layer() -> list[Tensor]:
    return [made(*shape, seed=10 + i).requires_grad_() for i, shape in enumerate(((N, D), (K, D), (K,)))]


def both(fused, plain) -> None:
    """fused(hidden, weight, bias) and plain(logits) give the same terms and gradients."""
    parameters, again = layer(), layer()
    terms, expected = fused(*parameters), plain(again[0] @ again[1].t() + again[2])
    torch.testing.assert_close(terms, expected)
    (3 * terms[0]).backward()
    (3 * expected[0]).backward()
    for one, other in zip(parameters, again, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("chunk_rows", (1, 4, 11, 50))
@pytest.mark.parametrize("name", TEACHERS)
def test_every_teacher_in_any_chunks(name, chunk_rows):
    teacher, dense = TEACHERS[name]
    both(
        lambda h, w, b: linear_kd_loss(h, w, teacher, LABELS, head_bias=b, chunk_rows=chunk_rows, **KD),
        lambda z: kd_loss(z, dense, LABELS, **KD),
    )


@pytest.mark.parametrize("beta", (0, 0.3, 1))
def test_jsd(beta):
    both(
        lambda h, w, b: linear_jsd_loss(h, w, TEACHER, LABELS, head_bias=b, chunk_rows=4, beta=beta, ce_weight=0.2),
        lambda z: jsd_loss(z, LOGITS, LABELS, beta=beta, ce_weight=0.2),
    )


OPTIONS = {
    "a sum": {"reduction": "sum"},
    "weights": {"weights": torch.linspace(0, 2, N)},
    "a count": {"count": 7.0},
    "a count on the device": {"count": torch.tensor(7.0)},
    "the reverse divergence": {"divergence": "reverse"},
    "scale and soft-cap": {"logit_scale": 0.5, "softcap": 3.0, "teacher_logit_scale": 2.0, "teacher_softcap": 4.0},
    "another label to ignore": {"ignore_index": int(LABELS[0])},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_the_loss(name):
    labels = torch.where(LABELS == -100, LABELS[0], LABELS) if "ignore" in name else LABELS
    both(
        lambda h, w, b: linear_kd_loss(h, w, LOGITS, labels, head_bias=b, chunk_rows=4, **OPTIONS[name]),
        lambda z: kd_loss(z, LOGITS, labels, **OPTIONS[name]),
    )


def test_labels_as_probabilities_and_no_labels():
    soft = made(N, K, seed=7).softmax(1)
    both(
        lambda h, w, b: linear_kd_loss(h, w, LOGITS, soft, head_bias=b, chunk_rows=4, **KD),
        lambda z: kd_loss(z, LOGITS, soft, **KD),
    )
    both(
        lambda h, w, b: linear_kd_loss(h, w, LOGITS, head_bias=b, chunk_rows=4),
        lambda z: kd_loss(z, LOGITS),
    )


def test_without_a_teacher_it_is_the_cross_entropy():
    both(
        lambda h, w, b: linear_kd_loss(h, w, None, LABELS, head_bias=b, chunk_rows=4, ce_weight=1.0)[:2],
        lambda z: ce_loss(z, LABELS)[:2],
    )


def test_sequences():
    hidden, weight, _ = layer()
    part = slice(0, 10)
    sequences = hidden[part].view(2, 5, D)
    terms = linear_kd_loss(sequences, weight, LOGITS[part].view(2, 5, K), LABELS[part].view(2, 5), chunk_rows=4)
    expected = linear_kd_loss(hidden[part], weight, LOGITS[part], LABELS[part], chunk_rows=4)
    torch.testing.assert_close(terms, expected)
    cut = linear_kd_loss(sequences[:, :-1], weight, LOGITS[part].view(2, 5, K)[:, :-1], LABELS[part].view(2, 5)[:, 1:])
    assert cut.total.isfinite()
    terms.total.backward()
    assert hidden.grad.shape == hidden.shape and (hidden.grad[10:] == 0).all()


def test_gradients_are_made_for_what_needs_one():
    hidden, weight, _ = layer()
    linear_kd_loss(hidden.detach(), weight, LOGITS, LABELS).total.backward()
    assert weight.grad is not None
    total = linear_kd_loss(hidden.detach(), weight.detach(), LOGITS, LABELS).total
    assert not total.requires_grad
    with torch.no_grad():
        assert not linear_kd_loss(hidden, weight, LOGITS, LABELS).total.requires_grad


def test_the_modules():
    hidden, weight, bias = (tensor.detach().float() for tensor in layer())
    teacher = LinearTeacher(*(tensor.float() for tensor in TEACHER))
    logits = hidden @ weight.t() + bias
    loss, plain = LinearKDLoss(chunk_rows=4, softcap=5.0), KDLoss(softcap=5.0)
    for temperature in (4.0, 2.0):
        loss.temperature = plain.temperature = temperature
        terms = loss(hidden, weight, teacher, LABELS, head_bias=bias, count=5.0)
        torch.testing.assert_close(terms, plain(logits, LOGITS.float(), LABELS, count=5.0))
    for beta in (0.2, 1):
        terms = LinearJSDLoss(beta=beta, reduction="sum")(hidden, weight, teacher, LABELS, head_bias=bias)
        torch.testing.assert_close(terms, JSDLoss(beta=beta, reduction="sum")(logits, LOGITS.float(), LABELS))


def test_bfloat16_gradients_add_up_in_float32():
    """Over many chunks the weight's gradient is as good as that of the whole batch."""
    rows = 512
    hidden, weight, target = made(rows, D, seed=1), made(K, D, seed=2), made(rows, K, seed=3)
    exact = weight.clone().requires_grad_()
    kd_loss(hidden @ exact.t(), target, temperature=1.0).total.backward()

    def error(chunk_rows: int) -> float:
        leaf = weight.bfloat16().requires_grad_()
        linear_kd_loss(
            hidden.bfloat16(), leaf, target.bfloat16(), temperature=1.0, chunk_rows=chunk_rows
        ).total.backward()
        assert leaf.grad.dtype == torch.bfloat16
        return (leaf.grad.double() - exact.grad).norm().item()

    assert error(2) <= 1.1 * error(rows) + 1e-6


def test_float16_keeps_small_gradients():
    """1/N of a probability would be 0 in float16: rows are divided by their count in the end."""
    rows = 4096
    hidden, weight, target = made(rows, D, seed=1), made(K, D, seed=2), made(rows, K, seed=3)
    exact = hidden.clone().requires_grad_()
    kd_loss(exact @ weight.t(), target, temperature=1.0).total.mul(2.0**12).backward()
    leaf = hidden.half().requires_grad_()
    linear_kd_loss(leaf, weight.half(), target.half(), temperature=1.0).total.mul(2.0**12).backward()
    torch.testing.assert_close(leaf.grad.double(), exact.grad, rtol=0.02, atol=0.01)


def test_autocast_casts_as_a_linear_layer_would():
    hidden, weight = made(N, D, dtype=torch.bfloat16).requires_grad_(), made(K, D, seed=2, dtype=torch.float32)
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        terms = linear_kd_loss(hidden, weight, LOGITS.bfloat16(), LABELS)
        expected = kd_loss(torch.nn.functional.linear(hidden, weight), LOGITS.bfloat16(), LABELS)
    terms.total.backward()
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(terms, expected, rtol=2e-2, atol=2e-2)


def test_a_second_backward_is_an_error():
    hidden, weight, _ = layer()
    total = linear_kd_loss(hidden, weight, LOGITS, LABELS).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a second backward needs a second forward"):
        total.backward()


def test_rows_of_a_chunk():
    """A chunk's logits are about as large as the hidden states, and products have at least 128 rows."""
    assert rows_of_a_chunk(8192, 4096, 128_256) == 256
    assert rows_of_a_chunk(100, 64, 128_256) == 128
    assert rows_of_a_chunk(8192, 4096, 1000) * 1000 == pytest.approx(8192 * 4096, rel=0.01)


def scaled_down(rows: int) -> Fused:
    """N x 32 hidden states and 4,008 words, for both networks."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight, of_teacher, his = (
        torch.randn(shape, generator=generator) for shape in ((rows, 32), (4008, 32), (rows, 32), (4008, 32))
    )
    labels = Labels(torch.zeros(rows, dtype=torch.int64), None)
    layer, teacher = Linear(hidden, weight, None), Teacher("logits", None, None, None, None)
    form = Form("forward", True, False, False)
    return Fused(layer, of_teacher, his, None, teacher, labels, torch.ones(rows), torch.ones(16), form)


def fused_peak(rows: int, chunk_rows: int) -> int:
    inputs = scaled_down(rows)
    with Peak() as memory:
        fused.losses_and_gradients(inputs, [True, True, False], chunk_rows, "reference")
    return memory.peak


def plain_peak(rows: int) -> int:
    inputs = scaled_down(rows)
    hidden, weight = (tensor.requires_grad_() for tensor in inputs.student[:2])
    with Peak() as memory:
        logits = F.linear(hidden, weight)
        with torch.no_grad():
            target = F.linear(inputs.teacher_hidden_NE, inputs.teacher_weight_KE).log_softmax(1)
        kl = F.kl_div(logits.log_softmax(1), target, reduction="batchmean", log_target=True)
        (kl + F.cross_entropy(logits, inputs.labels.classes_N)).backward()
    return memory.peak


def test_memory_is_that_of_a_chunk():
    """On a CPU too, where the closed form has several temporaries of a chunk's size; gradients are as large as ever."""
    logits, gradients = 4 * 1024 * 4008, 4 * (1024 + 4008) * 32
    small, large = (fused_peak(rows, 32) - 4 * rows * 32 for rows in (256, 1024))
    assert large < 1.15 * small
    assert fused_peak(1024, 32) - gradients < 0.5 * logits < 4 * logits < plain_peak(1024)
