"""What a weights file says of its network: how it is rebuilt, and what it is for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from fastkd import networks
from fastkd.methods import Context, find_method
from fastkd.networks.base import Network, output_shapes
from fastkd.networks.checkpoints import is_safetensors
from fastkd.networks.preparation import Preparation
from fastkd.support.errors import UserError
from fastkd.support.files import parse_json
from fastkd.support.plain import from_plain
from fastkd.support.schemas import Metadata, checked
from fastkd.support.words import counted
from fastkd.training.stages import deployed

KEY = "fastkd"
"""All that fastkd writes into the metadata stands under one name: several would be in another order each time, and
equal runs would leave files that differ."""
_MOST_TEACHERS = 64

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Deployment:
    """How methods made another network out of a student, such as one with the teacher's classifier (SimKD)."""

    methods: dict[str, dict[str, Any]]
    """The settings of each method, in plain types, by its name."""
    teachers: tuple["Description", ...]


class Front(NamedTuple):
    """How images are turned into those that a network was trained on: see `fastkd.networks.preparation`."""

    image_size: int
    mean: Triple
    std: Triple
    from_mean: Triple
    from_std: Triple


class Description(NamedTuple):
    """What our weights files say of themselves. What is None is not known: fastkd 0.1 did not write it."""

    network: str
    num_classes: int
    image_size: int
    """Side of the images that it was trained on."""
    deployment: Deployment | None = None
    classes: tuple[str, ...] | None = None
    """The names of the classes in the order of the logits; None, too, where the data set has no names."""
    mean: Triple | None = None
    """What was subtracted from each channel, where white is 1."""
    std: Triple | None = None
    """What each channel was divided by, likewise."""
    crop: Literal["pad", "resized", "squeezed"] | None = None
    """How a test resizes and crops images, see `Augmentation.evaluated`."""
    front: Front | None = None
    """What the network does to images first; None: nothing."""


def to_metadata(description: Description) -> dict[str, str]:
    return {KEY: json.dumps(_plain(description))}


def described_in(content: bytes, where: Path) -> Description | None:
    """What the bytes of a weights file say; None where fastkd did not write them.

    Raises UserError for what is no description, or names what no row of a table has: nothing in a file is imported.
    """
    plain = metadata_in(content, where)
    if plain is None:
        return None
    what = f"the metadata of {where}"
    found = _from_plain(plain)
    _refuse_unknown(found, what)
    return found


def metadata_in(content: bytes, where: Path) -> dict[str, Any] | None:
    """What the bytes of a weights file say, in plain types; None where fastkd did not write them."""
    if not is_safetensors(content):
        return None
    try:
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")].decode())
    except ValueError:
        return None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    text = metadata.get(KEY) if isinstance(metadata, dict) else None
    if text is None:
        return None
    what = f"the metadata of {where}"
    try:
        return checked(Metadata, parse_json(text), what)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{what} are not JSON: {error}") from error


def rebuilt(description: Description) -> Network:
    """The network that a description means, without its weights."""
    deployment, classes, size = description.deployment, description.num_classes, description.image_size
    front = description.front
    network = networks.build(description.network, num_classes=classes, image_size=front.image_size if front else size)
    if front is not None:
        network.preparation = Preparation(**front._asdict())
    if deployment is None:
        return network
    teachers = tuple(rebuilt(teacher) for teacher in deployment.teachers)
    context = Context(
        student=network,
        teachers=teachers,
        student_shapes=output_shapes(network, size),
        teacher_shapes=tuple(output_shapes(teacher, size) for teacher in teachers),
        classes=classes,
        samples=classes,
        labels=torch.arange(classes),
        batch_size=1,
        steps_per_epoch=1,
        seed=0,
    )
    kinds = {name: find_method(name) for name in deployment.methods}
    settings = {name: from_plain(kinds[name].Settings, given, name) for name, given in deployment.methods.items()}
    return deployed(network, [kinds[name](settings[name], context) for name in kinds])


def _plain(description: Description) -> dict[str, Any]:
    found: dict[str, Any] = description._asdict()
    if (front := found.pop("front")) is not None:
        found["front"] = front._asdict()
    if (deployment := found.pop("deployment")) is not None:
        teachers = [_plain(teacher) for teacher in deployment.teachers]
        found["deployment"] = {"methods": deployment.methods, "teachers": teachers}
    return found


def _from_plain(plain: Mapping[str, Any]) -> Description:
    known = {name: plain[name] for name in Description._fields if name in plain and name not in ("deployment", "front")}
    for name in ("classes", "mean", "std"):
        if known.get(name) is not None:
            known[name] = tuple(known[name])
    if "front" in plain:
        known["front"] = Front(**{name: _tupled(value) for name, value in plain["front"].items()})
    found = Description(**known)
    if "deployment" not in plain:
        return found
    teachers = tuple(_from_plain(teacher) for teacher in plain["deployment"]["teachers"])
    return found._replace(deployment=Deployment(plain["deployment"]["methods"], teachers))


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _refuse_unknown(description: Description, what: str) -> None:
    level, count = [description], 0
    while level:
        count += len(level)
        if count > _MOST_TEACHERS:
            raise UserError(f"{what} name more than {_MOST_TEACHERS} networks")
        for one in level:
            _refuse_unknown_one(one, what)
        level = [teacher for one in level if one.deployment for teacher in one.deployment.teachers]


def _refuse_unknown_one(one: Description, what: str) -> None:
    if not networks.is_known(one.network):
        of_others = "code outside of fastkd that nobody has named: give --trust, or name it on the command line"
        unknown = of_others if networks.is_outside(one.network) else "which this fastkd does not have"
        raise UserError(f"{what} name the network {one.network!r}, {unknown}")
    if one.classes is not None and not len(set(one.classes)) == len(one.classes) == one.num_classes:
        raise UserError(f"{what} name {counted(len(one.classes), 'class')}, expected {one.num_classes} that differ")
    for name in one.deployment.methods if one.deployment else ():
        if not find_method(name).changes_network():
            raise UserError(f"{what} name the method {name!r}, which leaves a network as it is")
        least, most = find_method(name).teachers_needed
        teachers = len(one.deployment.teachers) if one.deployment else 0
        if teachers < least or (most is not None and teachers > most):
            raise UserError(f"{what} name {counted(teachers, 'teacher')} for the method {name}")
