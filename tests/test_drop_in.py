"""docs/DROP_IN.md: its programs run as they stand there, and give what the other projects' formulas give."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.places import ROOT
from torch import Tensor

from fastkd import losses

PAGE = (ROOT / "docs" / "DROP_IN.md").read_text()
PROGRAMS = dict(re.findall(r"^### (.*?)$.*?^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
T, ALPHA, GAMMA, BETA = 3.0, 0.7, 0.2, 0.3


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def images() -> dict[str, Any]:
    labels = torch.tensor([0, 4, 2, 1])
    mixed = 0.6 * F.one_hot(labels, 5) + 0.4 * F.one_hot(labels.flip(0), 5).double()
    return {"s": randn(4, 5, seed=0).requires_grad_(), "t": randn(4, 5, seed=1), "labels": labels, "mixed": mixed}


def tokens() -> dict[str, Any]:
    labels = torch.tensor([[0, -100, 3], [6, 2, -100]])
    t = randn(2, 3, 7, seed=1)
    values, ids = (t / T).log_softmax(-1).topk(3, -1)
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    given = {"s": randn(2, 3, 7, seed=0).requires_grad_(), "t": t, "labels": labels}
    return given | {"p": t.softmax(-1), "ids": ids, "values": values, "mask": mask}


def layers() -> dict[str, Any]:
    hidden, weight = randn(6, 4, seed=0).requires_grad_(), randn(7, 4, seed=1).requires_grad_()
    labels = torch.tensor([0, -100, 3, 6, 2, -100])
    return {
        "hidden": hidden,
        "weight": weight,
        "his": randn(6, 3, seed=2),
        "theirs": randn(7, 3, seed=3),
        "labels": labels,
    }


def kl(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    """Σ over the classes, of every row."""
    p, q = (t / temperature).softmax(-1), (s / temperature).softmax(-1)
    return (p * (p / q).log()).sum(-1)


def jsd(s: Tensor, t: Tensor, beta: float, temperature: float) -> Tensor:
    p, q = (t / temperature).softmax(-1), (s / temperature).softmax(-1)
    m = beta * p + (1 - beta) * q
    return (beta * p * (p / m).log() + (1 - beta) * q * (q / m).log()).sum(-1)


def mean_of_counted(values: Tensor, labels: Tensor) -> Tensor:
    return torch.where(labels == -100, 0, values).sum() / (labels != -100).sum()


def kept(s: Tensor, ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Σ p (log p − log q) over the kept classes of every row, and q there."""
    log_q = (s / T).log_softmax(-1).gather(-1, ids)
    return (values.exp() * (values - log_q)).sum(-1), log_q.exp()


def uniform(s: Tensor, ids: Tensor, values: Tensor) -> Tensor:
    inside, q = kept(s, ids, values)
    p_rest, q_rest = 1 - values.exp().sum(-1), 1 - q.sum(-1)
    return inside + p_rest * (p_rest / q_rest).log()


FORMULAS: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Callable[..., Tensor]]]] = {
    "RepDistiller, mdistiller": (
        images,
        {"total": lambda s, t, labels, **_: GAMMA * F.cross_entropy(s, labels) + ALPHA * T**2 * kl(s, t, T).sum() / 4},
    ),
    "torchdistill": (
        images,
        {
            "total": lambda s, t, labels, **_: (
                ALPHA * F.cross_entropy(s, labels)
                + (1 - ALPHA) * T**2 * F.kl_div((s / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean")
            )
        },
    ),
    "timm": (
        images,
        {"total": lambda s, t, mixed, **_: 0.4 * F.cross_entropy(s, mixed) + 0.9 * T**2 * kl(s, t, T).mean()},
    ),
    "TRL": (tokens, {"total": lambda s, t, labels, **_: mean_of_counted(jsd(s, t, BETA, T), labels)}),
    "torchtune": (
        tokens,
        {
            "total": lambda s, t, labels, **_: mean_of_counted(
                -(t.softmax(-1) * s.log_softmax(-1)).sum(-1) + (t.softmax(-1) * t.log_softmax(-1)).sum(-1), labels
            )
        },
    ),
    "ModelOpt": (tokens, {"total": lambda s, t, **_: T**2 * kl(s, t, T).mean()}),
    "Liger, logits": (
        tokens,
        {"total": lambda s, p, **_: F.kl_div(s.log_softmax(-1).flatten(0, 1), p.flatten(0, 1), reduction="batchmean")},
    ),
    "Liger, linear layer": (
        layers,
        {
            "total": lambda hidden, weight, his, theirs, labels: mean_of_counted(
                jsd(hidden @ weight.t(), his @ theirs.t(), BETA, T), labels
            )
        },
    ),
    "DistillKit": (
        tokens,
        {
            "zero": lambda s, ids, values, mask, **_: T**2 * (kept(s, ids, values)[0] * mask).sum() / mask.sum(),
            "uniform": lambda s, ids, values, mask, **_: T**2 * (uniform(s, ids, values) * mask).sum() / mask.sum(),
        },
    ),
    "Axolotl": (tokens, {"total": lambda s, ids, values, **_: kept(s, ids, values)[0].sum() / ids.numel()}),
}


def test_every_program_of_the_page_is_run():
    assert list(PROGRAMS) == list(FORMULAS)


@pytest.mark.parametrize("project", FORMULAS)
def test_a_program_gives_the_formula_and_its_gradient(project):
    make, formulas = FORMULAS[project]
    given = make()
    names = {name: getattr(losses, name) for name in losses.__all__}
    numbers = {
        "T": T,
        "alpha": ALPHA,
        "gamma": GAMMA,
        "beta": BETA,
        "distill_loss_weight": 0.9,
        "task_loss_weight": 0.4,
    }
    found: dict[str, Any] = {**names, **numbers, **given}
    exec(PROGRAMS[project], found)
    leaves = [value for value in given.values() if value.requires_grad]
    for name, formula in formulas.items():
        expected = formula(**given)
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-9)
        ours, theirs = (torch.autograd.grad(total, leaves) for total in (found[name], expected))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_what_the_page_says_of_torchdistills_other_forms():
    given = images()
    alone = losses.kd_loss(given["s"], given["t"], temperature=T, kl_weight=1 / T**2).total
    torch.testing.assert_close(alone, kl(given["s"], given["t"], T).mean())
    s, t = randn(2, 5, 3, 4, seed=0), randn(2, 5, 3, 4, seed=1)
    by_images = losses.kd_loss(s, t, temperature=T, kl_weight=1.0, count=2).kl
    expected = F.kl_div((s / T).log_softmax(1), (t / T).softmax(1), reduction="batchmean") * T**2
    torch.testing.assert_close(by_images, expected)


def test_the_pages_arithmetic_of_memory():
    n, d, k, gib = 8192, 4096, 128_256, 2**30
    chunk = losses.linear.rows_of_a_chunk(n, d, k)
    row = f"| student's logits | {n * k * 2 / gib:.2f} | {chunk * k * 2 / gib:.2f}, a chunk of {chunk} rows |"
    assert row in PAGE
    assert f"| gradient of the weight | {k * d * 2 / gib:.2f} | {k * d * 4 / gib:.2f} in float32, then" in PAGE
    assert f"| {n * k * 4 / gib:.2f} each | – |" in PAGE
    assert f"| gradient of the hidden states | {n * d * 2 / gib:.2f} |" in PAGE
