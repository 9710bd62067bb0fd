"""Trained networks as files: what a run writes, and what `--teacher` finds."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fastkd import networks
from fastkd.methods import Context, find_method
from fastkd.networks.base import Network, output_shapes
from fastkd.networks.checkpoints import Report, fill, load_weights, public_state_dict, weights_in
from fastkd.support.errors import UserError
from fastkd.support.files import reason, write_bytes, write_weights
from fastkd.support.plain import from_plain
from fastkd.training.stages import deployed


@dataclass(frozen=True)
class Deployment:
    """How methods made another network out of a student, such as one with the teacher's classifier (SimKD)."""

    methods: dict[str, dict[str, Any]]
    """The settings of each method, in plain types, by its name."""
    teachers: tuple["Description", ...]


class Description(NamedTuple):
    """What our weights files say of themselves."""

    network: str
    num_classes: int
    image_size: int
    deployment: Deployment | None = None


def save_network(path: Path, network: Network, description: Description) -> None:
    # All metadata stands under one name: several would be in another order each time, and equal runs would leave files
    # that differ.
    metadata = {KEY: json.dumps(_plain(description))}
    write_weights(path, public_state_dict(network), metadata)


KEY = "fastkd"
_FIELDS = ("network", "num_classes", "image_size")


def _plain(description: Description) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(description, name) for name in _FIELDS}
    if (deployment := description.deployment) is not None:
        teachers = [_plain(teacher) for teacher in deployment.teachers]
        found["deployment"] = {"methods": deployment.methods, "teachers": teachers}
    return found


def _from_plain(plain: Mapping[str, Any]) -> Description:
    found = Description(plain["network"], int(plain["num_classes"]), int(plain["image_size"]))
    if "deployment" not in plain:
        return found
    teachers = tuple(_from_plain(teacher) for teacher in plain["deployment"]["teachers"])
    return found._replace(deployment=Deployment(plain["deployment"]["methods"], teachers))


def describe(path: Path) -> Description | None:
    """What a weights file says of itself; None for a file that fastkd did not write."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    return _from_plain(json.loads(metadata[KEY])) if KEY in metadata else None


def rebuilt(description: Description) -> Network:
    """The network that a description means, without its weights."""
    network = networks.build(description.network, num_classes=description.num_classes)
    deployment, classes, size = description.deployment, description.num_classes, description.image_size
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


def open_network(path: Path) -> Network:
    """The network in a file of ours, in eval mode."""
    description = describe(path)
    if description is None:
        raise UserError(f"{path} is not a weights file of fastkd")
    network = rebuilt(description)
    load_weights(network, path)
    return network.eval()


class WeightsFile(NamedTuple):
    """A weights file, read once."""

    path: Path
    sha256: str
    description: Description | None
    """None: fastkd did not write it."""
    content: bytes

    def fill(self, network: Network) -> Report:
        """Fills the network with the file's weights; raises UserError where they do not fit it."""
        return fill(network, weights_in(self.content, self.path), self.path)


class WeightsFiles:
    """Weights files by their paths, each read and hashed when it is first asked for."""

    def __init__(self) -> None:
        self._read: dict[Path, WeightsFile] = {}

    def read(self, path: Path) -> WeightsFile:
        """The file, from memory where it was read before; raises UserError where it cannot be read."""
        if path not in self._read:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise UserError(f"cannot read the weights {path}: {reason(error)}") from error
            digest = hashlib.sha256(content).hexdigest()
            self._read[path] = WeightsFile(path, digest, describe(path), content)
        return self._read[path]

    def describe(self, path: Path) -> Description | None:
        """What the file says of itself; None where fastkd did not write it, or where it is gone."""
        return self._read[path].description if path in self._read else describe(path)


class _Logits(nn.Module):
    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.network(images_BCHW).logits


def export_network(path: Path, network: Network, image_size: int) -> None:
    """A `torch.export` program from normalised images [B,3,S,S], any B, to logits [B,K]; loading takes torch alone."""
    device = next(network.parameters()).device
    images = torch.zeros(2, 3, image_size, image_size, device=device)
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(_Logits(network.eval()), (images,), dynamic_shapes=(batch,))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_bytes(path, buffer.getvalue())


def find_weights(spec: str, name: str = "teacher") -> Path:
    """The file that RUN, RUN@EPOCH or FILE means; `name` is the stage whose network is wanted."""
    path = Path(spec)
    if path.is_file():
        return path
    run, _, epoch = spec.rpartition("@")
    if epoch.isdigit() and run and Path(run).is_dir():
        file = Path(run) / "checkpoints" / f"{name}@{epoch}.safetensors"
        if file.is_file():
            return file
        seeds = sorted(folder.name for folder in Path(run).glob("seed-[0-9]*"))
        if seeds:
            raise UserError(f"{run} holds several seeds; name one: {Path(run) / seeds[0]}@{epoch}")
        kept = sorted(other.stem.partition("@")[2] for other in file.parent.glob(f"{name}@*.safetensors"))
        known = f"kept are {', '.join(kept)}" if kept else "none was kept: train with --keep-epochs"
        raise UserError(f"{run} has no {name} of epoch {epoch}; {known}")
    if path.is_dir():
        file = path / f"{name}.safetensors"
        if file.is_file():
            return file
        seeds = sorted(folder.name for folder in path.glob("seed-[0-9]*") if (folder / file.name).is_file())
        if seeds:
            raise UserError(f"{spec} holds several seeds; name one: {path / seeds[0]}")
        raise UserError(f"{spec} has no {file.name}: is it a run folder, and is that stage finished?")
    raise UserError(f"no run folder and no file {spec}")
