"""Networks of others, by the names of `fastkd.networks.naming`; what a file names is not imported."""

import copy
import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from fastkd.networks import timm_adapter, torchvision_cuts
from fastkd.networks.base import Network
from fastkd.networks.naming import GIVEN, Spec, parsed
from fastkd.networks.uncut import Uncut, refuse_another_width
from fastkd.support.errors import UserError

SOURCES: dict[str, Callable[[Spec], Callable[..., Network]]] = {
    "timm": timm_adapter.timm_source,
    "torchvision": torchvision_cuts.torchvision_source,
}
"""Who finds the networks of a library by their names; any other source is a module that is imported."""

ADAPTERS: dict[str, Callable[[Any, Spec, str], Network]] = {
    "timm": timm_adapter.adapted,
    "torchvision": torchvision_cuts.adapted,
}
"""Who knows the models of a library, whoever has made them."""

_ADMITTED: dict[str, Callable[..., Network]] = {}
"""{name without options: what makes it}, of what a person has named."""
_GIVEN: dict[str, Any] = {}


def admit(name: str) -> None:
    """Imports what makes the network of that name, for `build_outside` to find.

    Only for a name that a person has given, on the command line or in a program. Raises UserError.
    """
    spec = parsed(name)
    if spec.base not in _ADMITTED:
        source = SOURCES.get(spec.source)
        _ADMITTED[spec.base] = source(spec) if source is not None else partial(_from_factory, _imported(spec))


def give(network: Any) -> str:
    """Keeps a module of this program, of which copies are made, or what makes one; returns the name that a recipe calls
    it by."""
    name = next((name for name, kept in _GIVEN.items() if kept is network), f"{GIVEN}:network{len(_GIVEN) + 1}")
    _GIVEN[name] = network
    _ADMITTED[name] = partial(_from_factory, network)
    return name


def is_admitted(name: str) -> bool:
    return name.partition("?")[0] in _ADMITTED


def build_outside(name: str, *, num_classes: int, image_size: int) -> Network:
    """Builds a network that has been admitted, with fresh weights."""
    spec = parsed(name)
    if spec.base not in _ADMITTED:
        raise UserError(
            f"the network {name!r} is code outside of fastkd: nothing that a file names is imported; name it on the "
            "command line, by --teacher-net or --student, or trust the run by --trust RUN"
        )
    network = _ADMITTED[spec.base](spec, name, num_classes=num_classes, image_size=image_size)
    network.remake = partial(build_outside, name, num_classes=num_classes, image_size=image_size)
    return network


def _imported(spec: Spec) -> Any:
    try:
        return getattr(importlib.import_module(spec.source), spec.name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot import the network {spec.base!r}: {error}") from error


def _from_factory(factory: Any, spec: Spec, name: str, *, num_classes: int, image_size: int) -> Network:
    """The network that a factory makes; of a module itself a copy."""
    model = _called(factory, spec, name, num_classes)
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} made a {type(model).__name__}, expected a torch.nn.Module")
    if isinstance(model, Network) and spec.features:
        raise UserError(f"{name} is a fastkd network: it gives the features of its blocks")
    network = model if isinstance(model, Network) else _adapted(model, spec, name)
    refuse_another_width(network, name, num_classes, image_size)
    return network


def _adapted(model: nn.Module, spec: Spec, name: str) -> Network:
    adapter = ADAPTERS.get(type(model).__module__.partition(".")[0])
    return Uncut(model, name, spec.features) if adapter is None else adapter(model, spec, name)


def _called(factory: Any, spec: Spec, name: str, num_classes: int) -> Any:
    if spec.blocks is not None:
        raise UserError(f"network {name!r}: blocks is an option of timm's Transformers")
    if isinstance(factory, nn.Module):
        return copy.deepcopy(factory)
    if not callable(factory):
        raise UserError(f"{spec.base} is a {type(factory).__name__}, expected a module or something that makes one")
    given = {"num_classes": num_classes} if _takes(factory, "num_classes") else {}
    try:
        return factory(**given, **spec.options)
    except Exception as error:  # whatever the code of others raises
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{name} cannot be made: {type(error).__name__}: {why}") from error


def _takes(factory: Callable[..., Any], argument: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(one.name == argument or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
