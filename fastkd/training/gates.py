"""Losses behind gates: what of a stage's loss is added only while it pulls the same way as the rest (SCKD)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastkd.support.distributed import sum_over_ranks, world_size
from fastkd.training.stages import Stage, StageLoss

Gradients = list[Tensor | None]
"""The gradient of each parameter, where a loss has one."""


class Gates:
    """Takes the place of `backward` in the step of a stage with gated losses: each total has a backward of its own.

    The gradients of a batch, and of its parts, are collected; then they are averaged over the processes, compared, and
    added up in the parameters. The gates are scalars on the device, and nothing waits for them. DDP is not needed: its
    hooks see none of these gradients.
    """

    def __init__(self, stage: Stage):
        assert stage.gate is not None
        self.least_cosine = stage.gate.least_cosine
        self.parameters = [parameter for parameter in stage.parameters() if parameter.requires_grad]
        compared = {id(parameter) for parameter in stage.gate_parameters()}
        self.compared = [id(parameter) in compared for parameter in self.parameters]
        self.collected: list[Gradients] = []

    def begin(self) -> None:
        """Forgets what was collected."""
        self.collected = []

    def backward(self, loss: StageLoss, weight: float) -> None:
        """Collects the gradients of a part of a batch, times its weight."""
        totals = [loss.total, *loss.gated.values()]
        found = [self._gradients(total * weight, last=total is totals[-1]) for total in totals]
        self.collected = [_sum(*pair) for pair in zip(self.collected, found, strict=True)] if self.collected else found

    def _gradients(self, total: Tensor, *, last: bool) -> Gradients:
        return list(torch.autograd.grad(total, self.parameters, retain_graph=not last, allow_unused=True))

    @torch.no_grad()
    def open(self, loss: StageLoss) -> StageLoss:
        """Leaves the sum of the gradients in the parameters; returns the loss whose total that is, with the gates as
        terms."""
        plain, *gated = _averaged(self.collected)
        gates = [self._gate(plain, gradients) for gradients in gated]
        self.begin()
        one = torch.ones_like(loss.total)
        for gradients, gate in zip((plain, *gated), (one, *gates), strict=True):
            self._add(gradients, gate)
        values = [gate * value for gate, value in zip(gates, loss.gated.values(), strict=True)]
        terms = loss.terms | dict(zip(loss.gated, gates, strict=True))
        return StageLoss(torch.stack([loss.total, *values]).sum(), terms, loss.hits)

    def _gate(self, plain: Gradients, gated: Gradients) -> Tensor:
        """1 where the cosine is at least what is asked for, else 0. One that is not finite closes the gate, which
        times the gradient is not finite either. A loss that reaches nothing that is compared passes."""
        ours, theirs = (
            [gradient if of_it else None for gradient, of_it in zip(gradients, self.compared, strict=True)]
            for gradients in (plain, gated)
        )
        product = self._product(ours, theirs)
        lengths = (self._product(ours, ours) * self._product(theirs, theirs)).sqrt()
        return (product >= self.least_cosine * lengths).to(product.dtype)

    def _product(self, first: Gradients, second: Gradients) -> Tensor:
        """The inner product; 0 where no parameter has both gradients."""
        products = [(a * b).sum() for a, b in zip(first, second, strict=True) if a is not None and b is not None]
        return torch.stack([self.parameters[0].new_zeros(()), *products]).sum()

    def _add(self, gradients: Gradients, gate: Tensor) -> None:
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:  # in the parameter's own memory layout, as a fused optimiser wants it
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.addcmul_(gradient, gate.to(gradient.dtype))


def _sum(first: Gradients, second: Gradients) -> Gradients:
    pairs = zip(first, second, strict=True)
    return [b if a is None else a if b is None else a + b for a, b in pairs]


def _averaged(collected: Sequence[Gradients]) -> list[Gradients]:
    """The means over the processes; all gradients travel in one message."""
    if world_size() == 1:
        return list(collected)
    there = [gradient for gradients in collected for gradient in gradients if gradient is not None]
    flat = sum_over_ranks(torch.cat([gradient.reshape(-1) for gradient in there])) / world_size()
    pieces = iter(flat.split([gradient.numel() for gradient in there]))
    return [
        [None if gradient is None else next(pieces).view(gradient.shape) for gradient in gradients]
        for gradients in collected
    ]
