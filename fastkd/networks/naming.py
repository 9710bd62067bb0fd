"""The names of networks of others.

They are `timm:NAME`, `torchvision:NAME` and `package.module:factory`. Behind a `?` stand options, joined by `&`:
`features=layer1,layer2` names what else than logits it gives, `blocks=6` into how many blocks a Transformer is cut; the
others are numbers for whoever makes the network, as in `patch_size=4`. The whole name says how the network is made,
wherever it is written.
"""

import re
from dataclasses import dataclass, field

from fastkd.support.errors import UserError

GIVEN = "given"
"""The source of what a program gives as an object."""
Option = bool | int | float
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_RESERVED = {"num_classes", "pretrained", "features_only", "scriptable", "exportable", "img_size", "in_chans"}
"""Arguments that fastkd gives itself, or that would make something else than a network with fresh weights."""


@dataclass(frozen=True)
class Spec:
    """What a name means."""

    base: str
    """The name without its options."""
    features: tuple[str, ...] = ()
    blocks: int | None = None
    options: dict[str, Option] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return self.base.partition(":")[0]

    @property
    def name(self) -> str:
        return self.base.partition(":")[2]


def is_outside(name: str) -> bool:
    return ":" in name


def is_given(name: str) -> bool:
    """Whether the network was an object of the program that named it, which no other program finds."""
    return name.startswith(f"{GIVEN}:")


def parsed(name: str) -> Spec:
    """Reads a name; raises UserError for one that means nothing."""
    base, mark, text = name.partition("?")
    source, _, inner = base.partition(":")
    if not _WORD.fullmatch(source) or not _WORD.fullmatch(inner):
        raise UserError(f"no network {name!r}: expected timm:NAME, torchvision:NAME or package.module:factory")
    given: dict[str, str] = {}
    for part in text.split("&") if mark else ():
        key, equals, value = part.partition("=")
        if not equals or not value or not _WORD.fullmatch(key) or key in given:
            raise UserError(f"network {name!r}: expected options KEY=VALUE joined by &, got {part!r}")
        given[key] = value
    features = tuple(given.pop("features").split(",")) if "features" in given else ()
    if not all(map(_WORD.fullmatch, (one.replace(".", "_") for one in features))) and not all(features):
        raise UserError(f"network {name!r}: features are names of modules joined by commas")
    options = {key: _number(name, key, value) for key, value in given.items()}
    blocks = options.pop("blocks", None)
    if blocks is not None and (type(blocks) is not int or blocks < 1):
        raise UserError(f"network {name!r}: blocks is a whole number of at least 1")
    return Spec(base, features, blocks, options)  # pyright: ignore[reportArgumentType] - it is a whole number


def _number(name: str, key: str, value: str) -> Option:
    if key in _RESERVED:
        raise UserError(f"network {name!r}: {key} is not for you to give")
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    raise UserError(f"network {name!r}: {key} is a number, true or false, got {value!r}")


def with_features(name: str, features: str) -> str:
    """The name with `features=…`. Raises UserError for a network of the table, which has its features."""
    if not is_outside(name):
        raise UserError(f"{name} gives the features of its blocks: only those of timm:NAME and the like are named")
    if parsed(name).features:
        raise UserError(f"network {name!r} names its features already")
    return f"{name}{'&' if '?' in name else '?'}features={features}"
