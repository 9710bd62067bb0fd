"""Loss arithmetic is float32 (or float64), whatever the networks computed in."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(loss: Callable[P, R]) -> Callable[P, R]:
    """Decorates a loss: tensors given by position arrive as float32 or float64, and autocast is off, which would take
    the loss's matrix products in bfloat16."""

    @functools.wraps(loss)
    def in_full_precision(*arguments: P.args, **options: P.kwargs) -> R:
        device = next(argument.device.type for argument in arguments if isinstance(argument, Tensor))
        with torch.autocast(device, enabled=False):
            return loss(*(_wide(argument) for argument in arguments), **options)  # pyright: ignore[reportCallIssue]

    return in_full_precision


def _wide(value: object) -> object:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value
