"""What the losses have in common: numbers that are keywords, attributes, and one buffer on the device.

`fastkd.ops.numbers.NUMBERS` declares them. A loss names its row, and takes everything else from there.
"""

import inspect
from abc import ABCMeta
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, get_type_hints

import torch
from torch import Tensor, nn

from fastkd.losses.checks import check_scalar
from fastkd.ops.numbers import NUMBERS, Row, Scalar, neutral
from fastkd.support.ranges import range_of

F = TypeVar("F", bound=Callable[..., Any])


class _Attribute:
    """A number of a loss under its name: `loss.temperature = 2.0`.

    Setting it fills its place of the buffer on the device, without waiting; reading gives what was set last, without
    asking the device.
    """

    def __init__(self, name: str):
        self.name = name

    def __get__(self, loss: "Loss | None", owner: type) -> Any:
        if loss is None:
            return self
        if self.name not in loss._values:
            raise AttributeError(f"{type(loss).__name__} was made without {self.name}")
        return loss._values[self.name]

    def __set__(self, loss: "Loss", value: float) -> None:
        number = loss.row.get(self.name)
        if number is None:
            raise ValueError(loss.lacks(self.name))
        number.range.check(self.name, value)
        loss._values[self.name] = value
        loss.numbers[number.role].fill_(_known_to_torch(value))


class OwnMembers(ABCMeta):
    """Lists what a loss has of its own, so that `help` does not show the hundred methods of every module.

    It is an ABCMeta so that a subclass may be abstract, too.
    """

    def __dir__(cls) -> list[str]:
        ours = {name for base in cls.__mro__ if isinstance(base, OwnMembers) for name in vars(base)}
        documented = cls.__init__ is vars(cls).get("__init__") and cls.__init__.__doc__ is not None
        return sorted(name for name in ours if not name.startswith("_") or (name == "__init__" and documented))


class TensorLoss(nn.Module, metaclass=OwnMembers):
    """A loss between tensors of a student and a teacher, which has no numbers on the device."""

    def __init__(self, **numbers: float):
        """numbers: those of a subclass, whose constructor's annotations say what they may be.

        Raises ValueError or TypeError for one that is not.
        """
        super().__init__()
        hints = get_type_hints(type(self).__init__, include_extras=True)
        for name, value in numbers.items():
            allowed = range_of(hints[name])
            assert allowed is not None, f"{type(self).__name__}.{name} is no number"
            allowed.check(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(nn.Module)})


class Loss(nn.Module, metaclass=OwnMembers):
    """A module whose numbers live in a buffer on the device, so that a captured graph follows a change.

    A compiled graph follows, too, without compiling again. The buffer is float32 whatever the module is cast to.

    A subclass names in `form` the row of `NUMBERS` that its constructor takes as keywords. An object may use another
    row, whose names are among these.
    """

    form: ClassVar[str]
    numbers: Tensor
    if TYPE_CHECKING:  # the numbers are attributes that no class body names

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in NUMBERS[cls.form]:
            setattr(cls, name, _Attribute(name))
        cls.__signature__ = _with_numbers(inspect.signature(cls.__init__), NUMBERS[cls.form], skipped=1)

    def __init__(self, given: Mapping[str, Any], form: str | None = None):
        """given: the numbers that shall not have their defaults. form: the row, where it is not the class's."""
        super().__init__()
        self._form = form or self.form
        self._values: dict[str, float] = {}
        self.register_buffer("numbers", torch.tensor(neutral(self._form)), persistent=False)
        _refuse_unknown(type(self).__name__, given, self.row)
        for name, number in self.row.items():
            setattr(self, name, given.get(name, number.default))

    @property
    def row(self) -> Row:
        return NUMBERS[self._form]

    def lacks(self, name: str) -> str:
        """The message for a number of the class that this object does not have."""
        return f"{name}: this loss was made without one"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self.numbers
        super()._apply(fn, recurse)
        if self.numbers.dtype != before.dtype:
            self.numbers = before.to(self.numbers.device)
        return self

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(nn.Module)})

    def extra_repr(self) -> str:
        options = {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "training"}
        return ", ".join(f"{name}={value!r}" for name, value in {**self._values, **options}.items())


def takes_numbers(form: str) -> Callable[[F], F]:
    """Shows the numbers of a row in the signature of a function that takes them as `**numbers`."""

    def decorate(function: F) -> F:
        function.__signature__ = _with_numbers(inspect.signature(function), NUMBERS[form])  # pyright: ignore[reportFunctionMemberAccess]
        return function

    return decorate


def checked_numbers(function: str, form: str, given: Mapping[str, Any], logits: Tensor) -> dict[str, Scalar]:
    """The numbers that a function was given, with the defaults of the others; raises ValueError or TypeError."""
    row = NUMBERS[form]
    _refuse_unknown(function, given, row)
    for name, value in given.items():
        check_scalar(name, value, logits, row[name].range)
    return {name: _known_to_torch(given.get(name, number.default)) for name, number in row.items()}


def _known_to_torch(number: Scalar) -> Scalar:
    """The number, as a float where it is a fraction, which no tensor takes."""
    return float(number) if isinstance(number, Fraction) else number


def _refuse_unknown(owner: str, given: Mapping[str, Any], row: Row) -> None:
    unknown = next((name for name in given if name not in row), None)
    if unknown is not None:
        raise TypeError(f"{owner} has no number {unknown!r}, only {', '.join(row)}")


def _with_numbers(signature: inspect.Signature, row: Row, skipped: int = 0) -> inspect.Signature:
    """The signature with the row's names in place of `**numbers`. skipped: leading parameters (self) left out."""
    keyword, kept = inspect.Parameter.KEYWORD_ONLY, list(signature.parameters.values())[skipped:]
    numbers = [inspect.Parameter(name, keyword, default=number.default) for name, number in row.items()]
    fixed = [one for one in kept if one.kind not in (keyword, inspect.Parameter.VAR_KEYWORD)]
    options = [one for one in kept if one.kind is keyword and one.name not in row]
    return signature.replace(parameters=[*fixed, *numbers, *options])
