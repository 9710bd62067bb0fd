"""The numbers of a loss that a schedule may change, as properties of its module, and what they may be."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Self, overload

import torch
from torch import Tensor, nn


def finite(name: str, value: float) -> None:
    _insist(isinstance(value, Real) and math.isfinite(value), name, value, "a number")


def above_zero(name: str, value: float) -> None:
    _insist(isinstance(value, Real) and 0 < value < math.inf, name, value, "a number above 0")


def from_0_to_1(name: str, value: float) -> None:
    _insist(isinstance(value, Real) and 0 <= value <= 1, name, value, "a number from 0 to 1")


def from_0_to_below_1(name: str, value: float) -> None:
    _insist(isinstance(value, Real) and 0 <= value < 1, name, value, "a number from 0 to below 1")


def _insist(right: bool, name: str, value: object, expected: str) -> None:
    if not right:
        error = ValueError if isinstance(value, Real) else TypeError
        raise error(f"{name} is {expected}, got {value!r}")


class Setting:
    """A number of an `Adjustable`, at its place in the buffer: `loss.temperature = 2.0`.

    Setting it fills the buffer on its device, without waiting; reading gives what was set last, without asking the
    device.
    """

    def __init__(self, place: int, check: Callable[[str, float], None] = finite):
        self.place, self.check = place, check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, module: None, owner: type) -> Self: ...
    @overload
    def __get__(self, module: "Adjustable", owner: type) -> float: ...
    def __get__(self, module: "Adjustable | None", owner: type) -> Self | float:
        if module is None:
            return self
        if self.name not in module._numbers:
            raise AttributeError(f"{type(module).__name__} was made without {self.name}")
        return module._numbers[self.name]

    def __set__(self, module: "Adjustable", value: float) -> None:
        self.check(self.name, value)
        module._numbers[self.name] = value
        module.settings[self.place].fill_(self.stored(value))

    def stored(self, value: float) -> float:
        """What the kernel wants to know."""
        return value


class Adjustable(nn.Module):
    """A module whose `Setting`s live in a buffer on the device, so that a captured graph follows a change.

    So does a compiled one, without compiling again. The buffer is float32 whatever the module is cast to.
    """

    settings: Tensor

    def __init__(self, size: int):
        super().__init__()
        self._numbers: dict[str, float] = {}
        self.register_buffer("settings", torch.ones(size, dtype=torch.float32), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self.settings
        super()._apply(fn, recurse)
        if self.settings.dtype != before.dtype:
            self.settings = before.to(self.settings.device)
        return self

    def extra_repr(self) -> str:
        options = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"}
        return ", ".join(f"{name}={value!r}" for name, value in {**self._numbers, **options}.items())
