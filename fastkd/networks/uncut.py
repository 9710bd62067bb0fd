"""Networks that are not cut into stem, blocks and head: they give their logits, and what else somebody has named."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fastkd.networks.base import Network, Output, output_shapes
from fastkd.support.errors import UserError


class Lacks(UserError):
    """A network does not give what is read of it."""


@dataclass(frozen=True)
class Absent:
    """What stands in the place of something that a network does not give."""

    network: str
    """The network's name."""
    gives: str
    """What it gives, in words."""
    named: bool = False
    """Whether its features are its own, so that there is nothing for a person to name."""


class PartialOutput(Output):
    """An output that lacks something: reading what is `Absent` raises `Lacks`, in one line that says what."""

    def _found(self, place: int) -> Any:
        value = tuple.__getitem__(self, place)
        if isinstance(value, Absent):
            raise Lacks(refusal(value, WORDS[Output._fields[place]]))
        return value

    @property
    def stem(self) -> Tensor:
        return self._found(1)

    @property
    def features(self) -> tuple[Tensor, ...]:
        return self._found(2)

    @property
    def final_map(self) -> Tensor:
        return self._found(3)

    @property
    def embedding(self) -> Tensor:
        return self._found(4)


def gives_embedding(output: Output) -> bool:
    return _gives(output, "embedding")


def gives_final_map(output: Output) -> bool:
    return _gives(output, "final_map")


def _gives(output: Output, field: str) -> bool:
    return not isinstance(tuple.__getitem__(output, Output._fields.index(field)), Absent)


WORDS = {
    "stem": "the map behind the stem",
    "features": "features",
    "final_map": "a last map whose mean the classifier reads",
    "embedding": "the embedding",
    "preacts": "what is in front of its last activations",
    "cut": "a stem, blocks and a head that are apart",
}


def refusal(absent: Absent, lacking: str) -> str:
    named = not absent.named and lacking in (WORDS["features"], WORDS["embedding"])
    hint = " (--teacher-features and --student-features name more)" if named else ""
    return f"it needs {lacking} of {absent.network}, which gives {absent.gives}{hint}"


def without(output: Output, absent: Absent, *fields: str) -> Output:
    """The output without some of its fields."""
    return PartialOutput._make(
        absent if name in fields else value for name, value in zip(Output._fields, tuple.__iter__(output), strict=True)
    )


class Uncut(Network):
    """Any module from images to logits, as a network that gives these and the named features.

    The model returns a tensor [B,K], a tuple whose first tensor that is, or something with `logits`. A feature is what
    the submodule of that name returned when it last ran: a map [B,C,H,W], tokens [B,N,D], of which those in front of
    the last square number are left out, or a vector [B,D], which is the embedding.
    """

    is_cut = False
    runs_on_meta = False
    PUBLIC_NAMES = {"model": ""}  # noqa: RUF012 - nothing changes it

    def __init__(self, model: nn.Module, name: str, features: Sequence[str] = ()):
        """Raises UserError where the model has no submodule of such a name."""
        super().__init__()
        self.model, self.name, self.named = model, name, tuple(features)
        self.kept: dict[str, Tensor] = {}
        self.gives_embedding = False
        modules = dict(model.named_modules())
        for feature in self.named:
            if feature not in modules:
                raise UserError(f"{name} has no module {feature!r}{_nearest_modules(modules)}")
            modules[feature].register_forward_hook(_Keep(feature, self.kept))

    def forward(self, images_BCHW: Tensor, *, preacts: bool = False) -> Output:
        if preacts:
            raise Lacks(refusal(self.absent, WORDS["preacts"]))
        logits = logits_of(self.model(self.preparation(images_BCHW)), self.name)
        found = {name: self.kept.pop(name, None) for name in self.named}
        values = [self._read(name, value) for name, value in found.items()]
        maps = tuple(value for value in values if value.ndim == 4)
        vectors = [value for value in values if value.ndim == 2]
        absent: Any = self.absent
        embedding = vectors[-1] if vectors else absent
        return PartialOutput(logits, absent, maps or absent, absent, embedding)

    def _read(self, name: str, value: Tensor | None) -> Tensor:
        if value is None:
            raise UserError(f"{self.name}: the module {name!r} does not run, or returns no tensor")
        return as_map_or_vector(value, f"{self.name}: {name}")

    @property
    def absent(self) -> Absent:
        return Absent(self.name, f"logits and {' and '.join(self.named)}" if self.named else "logits alone")

    @property
    def classifier(self) -> nn.Module:
        if not (last := self.last_layers()):
            raise Lacks(f"{self.name} has no linear layer, the last of which would be the classifier")
        return last[0]

    def last_layers(self) -> list[nn.Linear]:
        return [module for module in self.model.modules() if isinstance(module, nn.Linear)][-1:]

    def _refuse_cut(self) -> Any:
        raise Lacks(refusal(self.absent, WORDS["cut"]))

    stem = property(_refuse_cut)  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]
    blocks = property(_refuse_cut)  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]
    head = property(_refuse_cut)  # pyright: ignore[reportAssignmentType, reportIncompatibleVariableOverride]


class _Keep:
    """A forward hook that keeps what a module returns. It holds no network: a copy of one has hooks of its own."""

    def __init__(self, name: str, kept: dict[str, Tensor]):
        self.name, self.kept = name, kept

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        value = output[0] if isinstance(output, list | tuple) and output else output
        if isinstance(value, Tensor):
            self.kept[self.name] = value


def logits_of(value: Any, name: str) -> Tensor:
    """The logits [B,K] in what a model returned. Raises UserError where there are none."""
    found = value
    if isinstance(value, Mapping):
        found = value.get("logits")
    elif not isinstance(value, Tensor):
        found = getattr(value, "logits", None)
        if found is None and isinstance(value, list | tuple):
            found = next((part for part in value if isinstance(part, Tensor)), None)
    if not isinstance(found, Tensor) or found.ndim != 2:
        shape = f" of shape {list(found.shape)}" if isinstance(found, Tensor) else ""
        raise UserError(
            f"{name} returns {type(value).__name__}{shape}, expected logits [B,K], a tuple that begins with them, or "
            "something with .logits"
        )
    return found


def as_map_or_vector(value: Tensor, name: str) -> Tensor:
    """A map [B,C,H,W] of tokens [B,N,D], without the tokens in front of the image's; others stay as they are."""
    if value.ndim == 3:
        side = math.isqrt(value.shape[1])
        return value[:, value.shape[1] - side * side :].mT.unflatten(2, (side, side))
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        return value.flatten(1)
    if value.ndim not in (2, 4):
        raise UserError(f"{name} has shape {list(value.shape)}, expected a map, tokens or a vector of each image")
    return value


def refuse_another_width(network: Network, name: str, num_classes: int, image_size: int) -> None:
    """Raises UserError where the network's logits are of another number of classes, or there are none."""
    try:
        width = output_shapes(network, image_size).logits.shape[1]
    except UserError:
        raise
    except Exception as error:  # whatever the code of others raises
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{name} does not take images [B,3,{image_size},{image_size}]: {why}") from error
    if width != num_classes:
        raise UserError(f"{name} has {width} classes, the data have {num_classes}")


def _nearest_modules(modules: Mapping[str, nn.Module]) -> str:
    top = [name for name in modules if name and name.count(".") == 0]
    return f"; it has {', '.join(top[:12])}{' …' if len(top) > 12 else ''}"
