"""Trained networks as files: what a run writes, and what `--teacher` finds."""

from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from fastkd import networks
from fastkd.errors import UserError
from fastkd.files import write_weights
from fastkd.networks.base import Network
from fastkd.networks.checkpoints import load_weights, public_state_dict


class Description(NamedTuple):
    """What our weights files say of themselves."""

    network: str
    num_classes: int
    image_size: int


def save_network(path: Path, network: Network, description: Description) -> None:
    metadata = {name: str(value) for name, value in description._asdict().items()}
    write_weights(path, public_state_dict(network), metadata)


def describe(path: Path) -> Description | None:
    """None for a file that fastkd did not write."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    if not set(Description._fields) <= metadata.keys():
        return None
    return Description(metadata["network"], int(metadata["num_classes"]), int(metadata["image_size"]))


def open_network(path: Path) -> Network:
    """The network in a file of ours, in eval mode."""
    description = describe(path)
    if description is None:
        raise UserError(f"{path} is not a weights file of fastkd")
    network = networks.build(description.network, num_classes=description.num_classes)
    load_weights(network, path)
    return network.eval()


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
