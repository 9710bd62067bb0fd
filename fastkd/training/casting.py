"""A network's weights in bfloat16, cast all at once: autocast casts each layer's by itself, and each gradient back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_LAYERS = (nn.Conv2d, nn.Linear)
"""The layers whose weights autocast casts."""


class _Owner(NamedTuple):
    """Where a weight is found."""

    module: nn.Module
    name: str


class CastWeights:
    """Within it (`with cast():`) the layers of some parts of a network have their weights in bfloat16.

    The numbers are those of autocast, and so are the gradients, which arrive in float32 at the weights themselves. A
    part's weights are cast together, its gradients as soon as all of them are there.
    """

    def __init__(self, parts: Sequence[nn.Module]):
        owners: dict[nn.Parameter, list[_Owner]] = {}
        self.groups: list[list[nn.Parameter]] = []
        for part in parts:
            before = len(owners)
            for module in part.modules():
                for name, weight in module._parameters.items():
                    if isinstance(module, _LAYERS) and weight is not None and weight.requires_grad:
                        owners.setdefault(weight, []).append(_Owner(module, name))
            self.groups.append([*owners][before:])
        self.owners = owners

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            for group in filter(None, self.groups):
                for weight, copy in zip(group, _Cast.apply(*group), strict=True):
                    self._put(weight, copy)
            yield
        finally:
            for weight in self.owners:
                self._put(weight, weight)

    def _put(self, weight: nn.Parameter, value: Any) -> None:
        for owner in self.owners[weight]:
            owner.module._parameters[owner.name] = value  # setattr would ask for a parameter


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return _in_type(weights, torch.bfloat16)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        there = [gradient for gradient in gradients if gradient is not None]
        cast = iter(_in_type(there, torch.float32))
        return tuple(None if gradient is None else next(cast) for gradient in gradients)


def _in_type(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    cast = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if cast:
        torch._foreach_copy_(cast, list(tensors))  # pyright: ignore[reportPrivateImportUsage]
    return tuple(cast)
