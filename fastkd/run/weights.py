"""Trained networks as files: what a run writes, and what `--teacher` finds."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save
from torch import Tensor, nn

from fastkd.networks.base import Network
from fastkd.networks.checkpoints import Report, begin_with, fill, public_state_dict, refuse_other_content, weights_in
from fastkd.run.description import Description, described_in, rebuilt, to_metadata
from fastkd.run.folder import known_digest, seed_folders
from fastkd.support.errors import UserError
from fastkd.support.files import read_bytes, refuse_damage, write_weights
from fastkd.support.paths import expanded, inside, is_file, is_folder


def save_network(path: Path, network: Network, description: Description) -> str:
    """Writes a network with what its file says of it; returns the SHA-256 of the file."""
    return write_weights(path, public_state_dict(network), to_metadata(description))


def describe(path: Path) -> Description | None:
    """What a weights file says of itself; None for a file that fastkd did not write, or that is not there."""
    return described_in(read_bytes(path, what="the weights "), path) if is_file(path) else None


def open_network(path: Path) -> Network:
    """The network in a file of ours, in eval mode. Raises UserError for one that is not what its run wrote."""
    file = WeightsFiles().read(path) if is_file(path) else None
    if file is None or file.description is None:
        raise UserError(f"{path} is not a weights file of fastkd")
    network = rebuilt_for(file)
    file.fill(network)
    return network.eval()


class WeightsFile(NamedTuple):
    """A weights file, read once."""

    path: Path
    sha256: str
    description: Description | None
    """None: fastkd did not write it."""
    content: bytes
    network: str | None = None
    """The name of the network, where it is known."""

    def fill(self, network: Network, prefix: str = "", *, other_classes: bool = False) -> Report:
        """Fills the network with the file's weights; raises UserError where they do not fit it. prefix, other_classes:
        see `fill`."""
        return fill(network, weights_in(self.content, self.path), self.path, prefix, other_classes=other_classes)

    def begin(self, network: Network, prefix: str = "") -> Report:
        """Fills the network with weights to begin a training with; see `begin_with`."""
        return begin_with(network, weights_in(self.content, self.path), self.path, prefix)


def rebuilt_for(file: WeightsFile) -> Network:
    """The network that a file of ours says it holds, without its weights."""
    assert file.description is not None
    try:
        return rebuilt(file.description)
    except UserError:
        raise
    except Exception as error:  # settings and sizes that no run wrote fail in whatever they are handed to
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"the network that {file.path} describes cannot be built: {why}") from error


class WeightsFiles:
    """Weights files by their paths, each read and hashed when it is first asked for."""

    def __init__(self) -> None:
        self._read: dict[Path, WeightsFile] = {}
        self._held: set[str] = set()

    def read(self, path: Path) -> WeightsFile:
        """The file, from memory where it was read before.

        Raises UserError where it cannot be read, or is not what its run wrote.
        """
        if path not in self._read:
            content = read_bytes(path, what="the weights ")
            refuse_other_content(content, path)
            digest = hashlib.sha256(content).hexdigest()
            refuse_damage(path, content, known_digest(path))
            about = described_in(content, path)
            network = None if about is None else about.network
            self._read[path] = WeightsFile(path, digest, about, content, network)
        return self._read[path]

    def found(self, spec: str, stage: str = "teacher") -> WeightsFile:
        """What RUN, RUN@EPOCH or FILE means, or the name of what is held; stage: whose network of a run is wanted."""
        held = self._read.get(Path(spec))
        return held if spec in self._held and held is not None else self.read(find_weights(spec, stage).absolute())

    def hold(self, network: str, module: nn.Module) -> None:
        """Keeps the weights that a module of this program has now, as a file would, by the name of its network."""
        state = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        content = save({name: value.detach().cpu().clone().contiguous() for name, value in state.items()})
        digest, path = hashlib.sha256(content).hexdigest(), Path(network)
        self._read[path] = WeightsFile(path, digest, None, content, network)
        self._held.add(network)

    def has(self, path: Path) -> bool:
        """Whether there is such a file, or what is held by that name."""
        return str(path) in self._held or is_file(path)

    def describe(self, path: Path) -> Description | None:
        """What the file says of itself; None where fastkd did not write it, or where it is gone."""
        return self._read[path].description if path in self._read else describe(path)


def find_weights(spec: str, name: str = "teacher") -> Path:
    """The file that RUN, RUN@EPOCH or FILE means; `name` is the stage whose network is wanted."""
    path = expanded(spec)
    spec = str(path)
    if is_file(path):
        return path
    run, _, epoch = spec.rpartition("@")
    if epoch.isdigit() and run and is_folder(Path(run)):
        return _of_epoch(Path(run), name, epoch)
    if not is_folder(path):
        raise UserError(f"no run folder and no file {spec}")
    file, exported = path / f"{name}.safetensors", path / "model.safetensors"
    if is_file(file):
        return file
    if is_file(exported) and not is_file(path / "recipe.json"):
        return exported
    seeds = [folder for folder in seed_folders(path) if is_file(folder / file.name)]
    if seeds:
        raise UserError(f"{spec} holds several seeds; name one: {seeds[0]}")
    raise UserError(f"{spec} has no {file.name}: is it a run folder, and is that stage finished?")


def _of_epoch(run: Path, name: str, epoch: str) -> Path:
    file = run / "checkpoints" / f"{name}@{epoch}.safetensors"
    if is_file(file):
        return file
    if seeds := seed_folders(run):
        raise UserError(f"{run} holds several seeds; name one: {seeds[0]}@{epoch}")
    kept = ", ".join(map(str, _kept(run, name)))
    known = f"kept are {kept}" if kept else "none was kept: train with --keep-epochs"
    raise UserError(f"{run} has no {name} of epoch {epoch}; {known}")


def _kept(run: Path, name: str) -> list[int]:
    epochs = (file.stem.partition("@")[2] for file in inside(run / "checkpoints", f"{name}@*.safetensors"))
    return sorted(int(epoch) for epoch in epochs if epoch.isdecimal() and len(epoch) < 19)
