"""Weights from files: RepDistiller's, SimKD's, Teacher-free-KD's, mdistiller's, torchvision's, our own, and whatever
else holds one state dict whose tensors fit.

Nothing is unpickled that could run code: a pickle may hold tensors, plain values, and what RepDistiller and SimKD put
beside the weights (their parsed options, NumPy scalars and arrays, paths).
"""

import argparse
import io
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastkd.networks.base import Network
from fastkd.support.errors import UserError
from fastkd.support.files import read_bytes
from fastkd.support.paths import is_file
from fastkd.support.words import counted

# The function that rebuilds a NumPy scalar: NumPy 1 and 2 store it under different module names.
_numpy_scalar = np.float64(0).__reduce__()[0]
_numpy_array = np.zeros(1).__reduce__()[0]
_HARMLESS = [
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    pathlib.PosixPath,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
    (_numpy_array, "numpy.core.multiarray._reconstruct"),
    (_numpy_array, "numpy._core.multiarray._reconstruct"),
]

_MOST_LEVELS, _MOST_VALUES = 16, 1_000_000
"""How deep and how far a file is walked through."""
_ANCHORS = 4
"""So many of a network's names, from its first and from its last, are looked for to find prefixes."""
_USUAL = ("", "model.", "state_dict.")
"""The places of the weights in files of the repositories that fastkd knows: preferred where several fit."""
_WRAPPERS_OF_TORCH = ("module.", "_orig_mod.")

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
    left: tuple[str, ...] = ()
    """Tensors of a classifier for other classes: the network's own are as they were."""


def public_name(network: Network, name: str) -> str:
    """The name that the public checkpoints of this family give to our tensor `name`: the longest prefix wins."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in network.PUBLIC_NAMES:
            return ".".join(filter(None, [network.PUBLIC_NAMES[prefix], *parts[length:]]))
    return name


def public_state_dict(network: Network) -> dict[str, Tensor]:
    """The network's weights and buffers under the names of its family's public checkpoints."""
    return {public_name(network, name): tensor for name, tensor in network.state_dict().items()}


def load_weights(network: Network, path: str | PathLike[str], prefix: str = "") -> Report:
    """Fills the network from a checkpoint file; see `fill`."""
    path = Path(path)
    return fill(network, read_weights(path), path, prefix)


def begin_with(network: Network, found: Mapping[str, Tensor], path: Path, prefix: str = "") -> Report:
    """Fills the network with weights to begin a training with: `fill`, and the classifier may be for other classes.

    Its own stays then, and where the file has none. Networks of a library that knows how take weights for another image
    size, too (timm resamples positions).
    """
    if network.taking is None:
        return fill(network, found, path, prefix, other_classes=True)
    place = _place(network, network.state_dict(), found, path, prefix)
    weights = {name.removeprefix(place.prefix): value for name, value in found.items() if name.startswith(place.prefix)}
    ours = network.state_dict()
    own = {public_name(network, name): ours[name] for name in _of_classifier(network)}
    count = next((len(weights[name]) for name in own if name in weights), None)
    if count is None:  # weights of a body alone
        weights, count = weights | own, max((len(value) for value in own.values()), default=2)
    try:
        donor = network.taking(num_classes=count, weights=weights).state_dict()
    except UserError as error:
        raise UserError(f"{path} does not fit: {error}; {_examples(found)}") from error
    left = tuple(name for name, tensor in ours.items() if donor[name].shape != tensor.shape)
    network.load_state_dict({name: tensor if name in left else donor[name] for name, tensor in ours.items()})
    public = {name: public_name(network, name) for name in ours}
    unexpected = tuple(sorted(set(weights) - set(public.values())))
    mapped = tuple(public[name] for name in ours if name not in left)
    return Report(mapped, (), unexpected, (), tuple(public[name] for name in left))


def _of_classifier(network: Network) -> set[str]:
    """The names of the parameters of the layers that end in the classes."""
    last = {id(parameter) for layer in network.last_layers() for parameter in layer.parameters()}
    return {name for name, value in network.state_dict(keep_vars=True).items() if id(value) in last}


def fill(
    network: Network, found: Mapping[str, Tensor], path: Path, prefix: str = "", *, other_classes: bool = False
) -> Report:
    """Fills the network with the weights found in a checkpoint, whoever wrote it.

    found: all tensors of the file by their dotted names, see `weights_in`. prefix: what stands in front of the
    network's own names there; "" lets what fits decide. Tensors that the network does not want are reported and left.
    Raises UserError for one that is missing, has another shape or is no plain tensor of numbers, and for several places
    that fit; then the network is as it was. BatchNorm's step counters may be missing, as in files from before PyTorch
    0.4.1.

    other_classes: the network's classifier may be for another number of classes; it is then left as it is.
    """
    ours = network.state_dict()
    place = _place(network, ours, found, path, prefix)
    new, missing, wrong, left = {}, [], [], []
    of_classes = _of_classifier(network) if other_classes else set()
    for name, tensor in ours.items():
        in_file = place.names[name]
        other = found.get(place.prefix + in_file)
        if name in of_classes and (other is None or other.shape[:1] != tensor.shape[:1]):
            left.append(in_file)
            continue
        if other is None:
            missing.append(in_file)
        elif problem := _problem(other, tensor):
            wrong.append(f"{in_file} {problem}")
        else:
            new[name] = other
    mapped = tuple(place.names[name] for name in new)
    beside = {name.removeprefix(place.prefix) for name in found if name.startswith(place.prefix)}
    unexpected = tuple(sorted(beside - set(place.names.values())))
    needed = [name for name in missing if not _is_counter(name)]
    if needed or wrong:
        problems = [*wrong, *(f"{name} is missing" for name in needed)]
        what = _first(problems, "; ")
        raise UserError(f"{path} does not fit this {type(network).__name__}: {what}; {_what_it_holds(place, found)}")
    network.load_state_dict({**ours, **new})
    return Report(mapped, tuple(missing), unexpected, tuple(wrong), tuple(left))


class _Place(NamedTuple):
    """A place where a network's tensors may stand in a file."""

    prefix: str
    """What stands in front of all their names."""
    names: Mapping[str, str]
    """{our name: the name behind the prefix}"""
    fitting: int
    """Tensors that are there and fit."""
    whole: bool
    """Whether all that are needed do."""


def _place(
    network: Network, ours: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path, prefix: str
) -> _Place:
    """The place that fits best. Raises UserError where several fit wholly, and none of them is the usual one."""
    public, own = {name: public_name(network, name) for name in ours}, {name: name for name in ours}
    schemes = (public,) if public == own else (public, own)
    places = [
        _judged(place, names, ours, found) for names in schemes for place in _prefixes(names.values(), found, prefix)
    ]
    if not places:
        raise UserError(f"{path} has no names with the prefix {prefix!r}; {_examples(found)}")
    best = max(places, key=lambda place: (place.fitting, _is_usual(place.prefix)))
    several = sorted({place.prefix for place in places if place.whole})
    if best.whole and len(several) > 1 and not _is_usual(best.prefix):
        options = " or ".join(f"--teacher-prefix {name.rstrip('.')}" for name in several[:3])
        raise UserError(f"{path} holds several networks that fit: say which, {options}")
    return best


def _prefixes(names: Iterable[str], found: Mapping[str, Tensor], wanted: str) -> list[str]:
    """What may stand in front of the names; wanted: how the prefix ends, "" for any."""
    names, ending = list(names), f"{wanted.rstrip('.')}." if wanted else ""
    prefixes = {""}
    for anchor in {*names[:_ANCHORS], *names[-_ANCHORS:]}:
        prefixes |= {name[: -len(anchor)] for name in found if name.endswith(f".{anchor}")}
    return sorted(prefix for prefix in prefixes if f".{prefix}".endswith(f".{ending}") or not ending)


def _judged(prefix: str, names: Mapping[str, str], ours: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> _Place:
    good = {
        name
        for name, tensor in ours.items()
        if (other := found.get(prefix + names[name])) is not None and not _problem(other, tensor)
    }
    whole = all(name in good or _is_counter(name) for name in ours)
    return _Place(prefix, names, len(good), whole)


def _is_usual(prefix: str) -> bool:
    for wrapper in _WRAPPERS_OF_TORCH:
        prefix = prefix.replace(wrapper, "")
    return prefix in _USUAL


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _problem(found: Tensor, ours: Tensor) -> str:
    """Why a file's tensor cannot take the place of ours; "" if it can."""
    plain = found.layout == torch.strided and not found.is_quantized and not found.is_nested
    if not plain or found.device.type != "cpu":
        return "is no plain tensor"
    if ours.is_floating_point() and not found.is_floating_point():
        return f"should be a floating type and is {str(found.dtype).removeprefix('torch.')}"
    if found.is_complex():
        return "is complex"
    if found.shape != ours.shape:
        return f"should be {list(ours.shape)} and is {list(found.shape)}"
    return ""


def _what_it_holds(place: _Place, found: Mapping[str, Tensor]) -> str:
    """The end of a message: the file's own names, and the prefix under which most of it fits."""
    if place.prefix and place.fitting:
        under = place.prefix.rstrip(".")
        return f"under the prefix {under} {place.fitting} of the {len(place.names)} tensors fit; {_examples(found)}"
    return _examples(found)


def _examples(found: Mapping[str, Tensor]) -> str:
    return f"the file holds {counted(len(found), 'tensor')}: {_first(found, ', ')}"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file on the CPU; see `weights_in`."""
    if not is_file(path):
        raise UserError(f"no checkpoint file {path}")
    return weights_in(read_bytes(path, what="the weights "), path)


def weights_in(content: bytes, path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint file whose bytes have been read, by their names.

    A name is that of the tensor in its state dict, with what leads to that dictionary in front: `state_dict.fc.weight`.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in _tensors(_parsed(content, path)):
        tensors[_bare(name)] = value
        if len(tensors) > _MOST_VALUES:
            raise UserError(f"{path} is no checkpoint: it holds more than {_MOST_VALUES:,} tensors")
    if not tensors:
        raise UserError(f"{path} is no checkpoint: there are no tensors in it")
    return tensors


def _tensors(content: object) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in dictionaries and lists, however they are wrapped; each container once, for they may hold
    themselves."""
    level: list[tuple[str, object]] = [("", content)]
    seen: set[int] = set()
    for _ in range(_MOST_LEVELS):
        below: list[tuple[str, object]] = []
        for prefix, container in level:
            if id(container) in seen:
                continue
            seen.add(id(container))
            for key, value in _items(container):
                name = f"{prefix}{key}"
                if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
                    value = torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
                if isinstance(value, Tensor):
                    yield name, value
                elif isinstance(value, Mapping | list | tuple):
                    below.append((f"{name}.", value))
        level = below[:_MOST_VALUES]


def _items(container: object) -> Iterable[tuple[object, object]]:
    if isinstance(container, Mapping):
        return container.items()
    return enumerate(container) if isinstance(container, list | tuple) else ()


def refuse_other_content(content: bytes, path: Path) -> None:
    """Raises UserError for what often lies in the place of a checkpoint: nothing, a pointer, a web page."""
    begins = content[:512].lstrip().lower()
    if not content:
        raise UserError(f"{path} is no checkpoint: it is empty (0 bytes)")
    if begins.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is no checkpoint but a pointer of Git LFS: fetch the file with `git lfs pull`")
    if begins.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{path} is no checkpoint but a web page: the download went wrong")


def _parsed(content: bytes, path: Path) -> object:
    refuse_other_content(content, path)
    try:
        if is_safetensors(content):
            from safetensors.torch import load

            return load(content)
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        raise UserError(f"{path} is no checkpoint that can be read safely: {_why(error)}") from error


def is_safetensors(content: bytes) -> bool:
    """Whether the bytes begin as a safetensors file does: with the length of a header in JSON."""
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content) - 8


_GLOBAL = re.compile(r"(?:GLOBAL|class|function|global)\s+`?([\w.]+)`?")


def _why(error: Exception) -> str:
    """What is wrong with a file. torch's own words are not passed on: they advise to switch its safety off."""
    named = _GLOBAL.search(str(error))
    if type(error).__name__ == "UnpicklingError" and named:
        return f"it holds an object of {named[1]}, which only that code can make; save the model's state_dict() instead"
    return f"it is damaged, or of another program ({type(error).__name__})"


def _bare(name: str) -> str:
    """The name without what torch.compile puts into it."""
    return _OLD_DENSENET.sub(r"\1\2.", name.replace("_orig_mod.", ""))


def _first(problems: Iterable[str], separator: str, shown: int = 3) -> str:
    problems = [str(problem)[:200] for problem in problems]
    more = f"{separator}and {len(problems) - shown} more" if len(problems) > shown else ""
    return separator.join(problems[:shown]) + more
