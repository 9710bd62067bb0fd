"""All forms of the loss as functions of (anchor, partners, labels), and the ruler that kernels are judged by."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from fastkd.losses import (
    DKDLoss,
    NKDLoss,
    ab_divergence_loss,
    ce_loss,
    dkd_loss,
    jsd_loss,
    kd_loss,
    label_smoothing_loss,
    multi_teacher_loss,
    nkd_loss,
    rld_loss,
    sftn_loss,
    ttm_loss,
    virtual_teacher_loss,
)
from fastkd.ops.distill_loss import reference_parts

SFTN = {"temperature": 2.5, "teacher_weight": 0.7, "kl_weight": 1.9, "ce_weight": 0.4}
KD = {"temperature": 4.0, "kl_weight": 0.9, "ce_weight": 0.1}
DKD = {"temperature": 4.0, "alpha": 0.5, "beta": 2.0, "ce_weight": 1.0}
RLD = {"temperature": 4.0, "target_temperature": 2.0, "alpha": 0.5, "beta": 2.0, "ce_weight": 0.7}
AB = {"alpha": 0.8, "beta": 0.3, "temperature": 4.0, "weight": 5.0}
VIRTUAL = {"kl_weight": 0.6, "ce_weight": 0.4}


def several_teachers(anchor: Tensor, partners: list[Tensor], labels: Tensor):
    weights = torch.linspace(0.2, 0.9, len(partners) * len(labels), device=anchor.device).view(len(partners), -1)
    return multi_teacher_loss(anchor, partners, labels, teacher_weights=weights, **KD)


def of_weighted_rows(loss: nn.Module, anchor: Tensor, partner: Tensor, labels: Tensor):
    return loss(anchor, partner, labels, torch.linspace(0.3, 1.0, len(labels), device=anchor.device))


FORMS: dict[str, Callable] = {
    "sftn": lambda a, b, y: sftn_loss(a, b, y, **SFTN),
    "sftn reverse": lambda a, b, y: sftn_loss(a, b, y, kl="reverse", **SFTN),
    "sftn detached": lambda a, b, y: sftn_loss(a, b, y, detach_teacher=True, **SFTN),
    "sftn as printed": lambda a, b, y: sftn_loss(a, b, y, ce_temperature=2.5, tau_squared=False, **SFTN),
    "kd": lambda a, b, y: kd_loss(a, b[0], y, **KD),
    "teachers": lambda a, b, y: multi_teacher_loss(a, b, y, **KD),
    "weighted teachers": several_teachers,
    "dkd": lambda a, b, y: dkd_loss(a, b[0], y, **DKD),
    "weighted dkd": lambda a, b, y: of_weighted_rows(DKDLoss(**DKD), a, b[0], y),
    "virtual": lambda a, b, y: virtual_teacher_loss(a, y, label_probability=0.9, **VIRTUAL),
    "tfkd": lambda a, b, y: virtual_teacher_loss(a, y, label_probability=0.99, temperature=20.0, **VIRTUAL),
    "smoothing": lambda a, b, y: label_smoothing_loss(a, y, smoothing=0.1),
    "smoothing others": lambda a, b, y: label_smoothing_loss(a, y, smoothing=0.1, spread="others"),
    "ce": lambda a, b, y: ce_loss(a, y),
    "standardised teachers": lambda a, b, y: multi_teacher_loss(a, b, y, standardise=True, **KD),
    "standardised dkd": lambda a, b, y: dkd_loss(a, b[0], y, standardise=True, **DKD),
    "nkd": lambda a, b, y: nkd_loss(a, b[0], y, gamma=1.5, temperature=3.0, ce_weight=0.4),
    "standardised nkd": lambda a, b, y: nkd_loss(a, b[0], y, standardise=True, gamma=1.5, temperature=3.0),
    "weighted nkd": lambda a, b, y: of_weighted_rows(NKDLoss(gamma=1.5, temperature=3.0), a, b[0], y),
    "rld": lambda a, b, y: rld_loss(a, b[0], y, **RLD),
    "standardised rld": lambda a, b, y: rld_loss(a, b[0], y, standardise=True, **RLD),
    "ttm": lambda a, b, y: ttm_loss(a, b[0], y, kl_weight=3.0, exponent=0.3),
    "wttm": lambda a, b, y: ttm_loss(a, b[0], y, kl_weight=0.5, exponent=0.6, weighted=True),
    "standardised wttm": lambda a, b, y: ttm_loss(a, b[0], y, kl_weight=0.5, weighted=True, standardise=True),
    "ab": lambda a, b, y: ab_divergence_loss(a, b[0], y, **AB),
    "ab of no alpha": lambda a, b, y: ab_divergence_loss(a, b[0], y, **AB | {"alpha": 0.0, "beta": 0.6}),
    "ab continuous": lambda a, b, y: ab_divergence_loss(a, b[0], y, continuous=True, **AB | {"beta": 0.0}),
    "standardised ab": lambda a, b, y: ab_divergence_loss(a, b[0], y, standardise=True, **AB),
    "jsd": lambda a, b, y: jsd_loss(a, b[0], y, beta=0.3, temperature=2.0, weight=2.0, ce_weight=0.5),
    "jsd forward": lambda a, b, y: jsd_loss(a, b[0], y, beta=0.0, ce_weight=0.5),
    "jsd reverse": lambda a, b, y: jsd_loss(a, b[0], y, beta=1.0, ce_weight=0.5),
    "standardised jsd": lambda a, b, y: jsd_loss(a, b[0], y, standardise=True, beta=0.3, weight=2.0),
}
LEARNING_PARTNERS = ("sftn", "sftn reverse", "sftn detached", "sftn as printed")


@contextmanager
def forced(implementation: str) -> Iterator[None]:
    before = os.environ.get("FASTKD_OPS")
    os.environ["FASTKD_OPS"] = f"distill_loss={implementation}"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTKD_OPS"]
        else:
            os.environ["FASTKD_OPS"] = before


def evaluate(
    form: str, implementation: str, logits: list[Tensor], labels: Tensor, dtype: torch.dtype | None = None
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """(values, gradients, hits); the first of `logits` is the anchor."""
    leaves = [tensor.detach().to(dtype or tensor.dtype, copy=True).requires_grad_() for tensor in logits]
    with forced(implementation):
        *values, hits = FORMS[form](leaves[0], leaves[1:], labels)
        values[0].backward()
    learners = leaves if form in LEARNING_PARTNERS else leaves[:1]
    return [value.detach() for value in values], [leaf.grad for leaf in learners], hits


@contextmanager
def as_sums_of_logarithms() -> Iterator[None]:
    """KL in the reference as Σ p (log p − log q) alone, as the authors' codes have it, with its gradient's digits."""
    before, reference_parts.FAR = reference_parts.FAR, 0.0
    try:
        yield
    finally:
        reference_parts.FAR = before


def assert_no_worse(form: str, logits: list[Tensor], labels: Tensor, slack: float = 0.0, path: str = "triton") -> None:
    """The kernel errs at most twice as much as plain PyTorch in the same type, measured against float64.

    Below a few units of float32 rounding nothing is compared: there PyTorch may be right by luck. `slack` is relative,
    for what a type's own rounding adds.
    """
    exact_values, exact_gradients, exact_hits = evaluate(form, "reference", logits, labels, torch.float64)
    with as_sums_of_logarithms():
        plain_values, plain_gradients, _ = evaluate(form, "reference", logits, labels)
    values, gradients, hits = evaluate(form, path, logits, labels)
    assert torch.equal(hits, exact_hits), f"{form}: hits"
    rounding = 4 * torch.finfo(torch.float32).eps
    # A single number may be right by luck, and τ² KL is a difference of log-probabilities that are larger than itself.
    greatest = 2 * max(1.0, *(value.abs().item() for value in exact_values))
    for i, (value, plain, exact) in enumerate(zip(values, plain_values, exact_values, strict=True)):
        error, allowed = (value - exact).abs(), 2 * (plain - exact).abs() + rounding * greatest
        assert error <= allowed, f"{form}: value {i} errs by {error:.3g}, allowed {allowed:.3g}"
    for i, (gradient, plain, exact) in enumerate(zip(gradients, plain_gradients, exact_gradients, strict=True)):
        assert gradient.dtype == plain.dtype
        size = exact.norm() + 1e-2 / max(len(labels), 1)  # equal rows have no gradient but rounding
        error = (gradient.double() - exact).norm()
        allowed = 2 * (plain.double() - exact).norm() + (rounding + slack) * size
        assert error <= allowed, f"{form}: gradient {i} errs by {error:.3g}, allowed {allowed:.3g}"


def random_logits(networks: int, samples: int, classes: int, dtype: torch.dtype, seed: int, device: str = "cpu"):
    generator = torch.Generator().manual_seed(seed)
    logits = [3 * torch.randn(samples, classes, generator=generator) for _ in range(networks)]
    labels = torch.randint(classes, (samples,), generator=generator)
    return [tensor.to(device, dtype) for tensor in logits], labels.to(device)


ALONE: dict[str, Callable] = {
    "kd": lambda a, b, y, t: kd_loss(a, b, y, temperature=t, kl_weight=1.0, ce_weight=0.0),
    "standardised": lambda a, b, y, t: multi_teacher_loss(
        a, [b], y, standardise=True, temperature=t, kl_weight=1.0, ce_weight=0.0
    ),
    "sftn": lambda a, b, y, t: sftn_loss(a, [b], y, temperature=t, kl_weight=1.0, teacher_weight=0.0, ce_weight=0.0),
    "sftn reverse": lambda a, b, y, t: sftn_loss(
        a, [b], y, kl="reverse", temperature=t, kl_weight=1.0, teacher_weight=0.0, ce_weight=0.0
    ),
    "dkd": lambda a, b, y, t: dkd_loss(a, b, y, temperature=t, alpha=0.0, beta=1.0, ce_weight=0.0),
}
"""The forms that have a KL, and nothing else of them: losses of (anchor, partner, labels, temperature)."""


def assert_a_small_divergence_keeps_its_digits(
    form: str, classes: int, samples: int, temperatures: Iterable[float] = (1.0, 4.0, 20.0, 1000.0), path: str = ""
) -> None:
    """τ² KL of networks that nearly agree errs by a share of itself; the normalisers' error counts in second order.

    Σ p (log p − log q) errs by up to 1e-7 τ², which at τ = 1000 is more than the loss. path: "" is what is chosen where
    this is called.
    """
    for temperature, gap, offset in itertools.product(temperatures, (0.05, 1.0), (0.0, 30.0)):
        (anchor, noise), labels = random_logits(2, samples, classes, torch.float32, classes)
        given = (anchor, anchor + gap * noise + offset)
        with forced("reference"):
            exact = ALONE[form](*(tensor.double() for tensor in given), labels, temperature).total
        with forced(path) if path else nullcontext():
            found = ALONE[form](*given, labels, temperature).total
        case = f"{form}, {classes} classes, τ {temperature:g}, {gap:g} apart, {offset:g} between them"
        error, allowed = (found.double() - exact).abs(), 1e-5 * exact + (1e-6 * temperature) ** 2 / 2
        assert error <= allowed, f"{case}: {found.item():.9g} for {exact.item():.9g}"
