"""Weights from files: RepDistiller's, SimKD's, Teacher-free-KD's, mdistiller's, torchvision's and our own.

Nothing is unpickled that could run code: a pickle may hold tensors, plain values, and what RepDistiller and SimKD put
beside the weights (their parsed options, NumPy scalars).
"""

import argparse
import io
import re
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastkd.networks.base import Network
from fastkd.support.errors import UserError

# The function that rebuilds a NumPy scalar: NumPy 1 and 2 store it under different module names.
_numpy_scalar = np.float64(0).__reduce__()[0]
_HARMLESS = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
]

_WRAPPERS = ("model", "state_dict")
_PREFIXES = ("module.", "_orig_mod.")

# torchvision's DenseNet files are older than its module names: its own loader renames them, too.
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


class Report(NamedTuple):
    """What became of each tensor, by the names used in the file."""

    mapped: tuple[str, ...]
    """Tensors that were loaded."""
    missing: tuple[str, ...]
    """Tensors that the network wants and the file lacks."""
    unexpected: tuple[str, ...]
    """Tensors of the file that the network does not want."""
    wrong_shape: tuple[str, ...]
    """Tensors whose shape does not fit, a line each: name, expected and found shape."""


def public_name(network: Network, name: str) -> str:
    """The name that the public checkpoints of this family give to our tensor `name`: the longest prefix wins."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in network.PUBLIC_NAMES:
            return ".".join([network.PUBLIC_NAMES[prefix], *parts[length:]])
    return name


def public_state_dict(network: Network) -> dict[str, Tensor]:
    """The network's weights and buffers under the names of its family's public checkpoints."""
    return {public_name(network, name): tensor for name, tensor in network.state_dict().items()}


def load_weights(network: Network, path: str | PathLike[str]) -> Report:
    """Fills the network from a checkpoint file; see `fill`."""
    path = Path(path)
    return fill(network, read_weights(path), path)


def fill(network: Network, found: Mapping[str, Tensor], path: Path) -> Report:
    """Fills the network with the weights found in a checkpoint, whichever of the known repositories wrote it.

    Tensors that the network does not want are reported and left. Raises UserError for one that is missing or has
    another shape, and then the network is as it was. BatchNorm's step counters may be missing, as in files from before
    PyTorch 0.4.1.
    """
    ours = network.state_dict()
    names = {name: public_name(network, name) for name in ours}
    if sum(name in found for name in ours) > sum(public in found for public in names.values()):
        names = {name: name for name in ours}

    new, missing, wrong_shape = {}, [], []
    for name, tensor in ours.items():
        in_file = names[name]
        if in_file not in found:
            missing.append(in_file)
        elif found[in_file].shape != tensor.shape:
            expected, got = list(tensor.shape), list(found[in_file].shape)
            wrong_shape.append(f"{in_file} should be {expected} and is {got}")
        else:
            new[name] = found[in_file]
    report = Report(
        mapped=tuple(names[name] for name in new),
        missing=tuple(missing),
        unexpected=tuple(sorted(found.keys() - set(names.values()))),
        wrong_shape=tuple(wrong_shape),
    )

    needed = [name for name in missing if not name.endswith("num_batches_tracked")]
    if needed or wrong_shape:
        problems = [*wrong_shape, *(f"{name} is missing" for name in needed)]
        raise UserError(f"{path} does not fit this {type(network).__name__}: {_first(problems, '; ')}")
    network.load_state_dict({**ours, **new})
    return report


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file on the CPU, unwrapped, without the prefixes of DDP and torch.compile."""
    if not path.is_file():
        raise UserError(f"no checkpoint file {path}")
    return weights_in(path.read_bytes(), path)


def weights_in(content: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file whose bytes have been read."""
    return _unwrapped(_parsed(content, path), path)


def _unwrapped(content: object, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {_bare(str(name)): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} is no checkpoint: there are no weights in it")
    return tensors


def _parsed(content: bytes, path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            return load(content)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path} is no checkpoint that can be read safely: {reason}") from error


def _bare(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return _OLD_DENSENET.sub(r"\1\2.", name)


def _first(problems: Iterable[str], separator: str, shown: int = 3) -> str:
    problems = list(problems)
    more = f"{separator}and {len(problems) - shown} more" if len(problems) > shown else ""
    return separator.join(problems[:shown]) + more
