"""GTN's supernet (Binici et al., "Generalizing Teacher Networks for Effective Knowledge Distillation Across Student
Architectures", supplement, Section 1): layers of which each is one of several candidates.

The supplement prints six reconfigurable layers, kernels of 3 and 5, two to six convolutions, an identity and a zero.
The layers' channels and strides are a choice: those of the six rows behind the identity of student m (Table 2). So are
the stem and the head, which are those of its students.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastkd.networks.base import Network
from fastkd.networks.gtn_nas import Row, Stem, first_layers, last_layers, projection, stack
from fastkd.networks.initialisation import he_normal
from fastkd.networks.layers import LinearBlock

KERNELS = (3, 5)
DEPTHS = (1, 2, 3)
"""Blocks of two convolutions."""
LAYERS = (
    Row(16, 64),
    Row(64, 64),
    Row(64, 64),
    Row(64, 128, stride=2),
    Row(128, 256, stride=2),
    Row(256, 512, stride=2),
)
THIN_LAYERS = tuple(
    row._replace(in_channels=16 if row is LAYERS[0] else row.in_channels // 16, out_channels=row.out_channels // 16)
    for row in LAYERS
)
"""The same with a sixteenth of the channels, for trying out."""
SPLIT = (1, 1, 2, 2)
"""The number of layers in each block, about equally many as the supplement asks for."""
IDENTITY, ZERO = "identity", "zero"

IdentityKind = Literal["project", "pad", "absent"]
Zeros = Literal["everywhere", "but_last", "nowhere"]


@dataclass(frozen=True)
class Candidates:
    """What the supplement leaves open of the candidates."""

    identity: IdentityKind = "project"
    """What an identity is where the shape changes: a 1x1 convolution with BatchNorm; every second pixel with further
    channels of zeros; or no candidate."""
    zeros: Zeros = "everywhere"
    """In which layers zero is a candidate."""
    shared_depths: bool = False
    """Whether the shallower stacks of a kernel are the first blocks of the deepest one."""


class Piece(NamedTuple):
    """A part of a layer with weights of its own."""

    module: nn.Module
    users: tuple[int, ...]
    """The candidates that run it."""


class _Stacked(NamedTuple):
    stack: str
    """Its name among the layer's stacks."""
    depth: int
    """So many of the stack's blocks."""


class ReconfigurableLayer(nn.Module):
    """One of several candidates: whichever `drawn` says.

    drawn: a number of a candidate, which alone is run; or [] int64 on the layer's device, and all of them are run. The
    result is the same, byte for byte, and so are the running statistics: those of what was not drawn stay as they were.
    """

    def __init__(self, row: Row, how: Candidates, *, last: bool):
        super().__init__()
        self.row = row
        self.drawn: int | Tensor = 0
        self.stacks, self.stacked = nn.ModuleDict(), dict[str, _Stacked]()
        for kernel in KERNELS:
            self._add_stacks(kernel, how)
        names = list(self.stacked)
        changes = row.stride != 1 or row.in_channels != row.out_channels
        if how.identity != "absent" or not changes:
            names.append(IDENTITY)
            self.identity = _identity(row, how.identity) if changes else nn.Identity()
        if how.zeros == "everywhere" or (how.zeros == "but_last" and not last):
            names.append(ZERO)
        self.names = tuple(names)
        """The candidates, in the order of their numbers: k3d1 … k5d3, identity, zero."""

    def _add_stacks(self, kernel: int, how: Candidates) -> None:
        depths = (max(DEPTHS),) if how.shared_depths else DEPTHS
        for depth in depths:
            units = stack(self.row._replace(kernel_size=kernel, repeat=depth))
            self.stacks[f"k{kernel}d{depth}"] = nn.Sequential(*units)
        for depth in DEPTHS:
            own = f"k{kernel}d{depths[-1] if how.shared_depths else depth}"
            self.stacked[f"k{kernel}d{depth}"] = _Stacked(own, depth)

    @property
    def zero(self) -> int:
        """The number of the zero; -1 where it is no candidate."""
        return self.names.index(ZERO) if ZERO in self.names else -1

    @property
    def largest(self) -> int:
        """The number of the candidate with the largest kernel and the most convolutions."""
        return len(self.stacked) - 1

    def pieces(self) -> list[Piece]:
        """The parts that have weights, and the candidates that run each."""
        found = []
        for name, units in self.stacks.items():
            for number, unit in enumerate(_units(units)):
                runs = [own.stack == name and own.depth > number for own in self.stacked.values()]
                found.append(Piece(unit, tuple(place for place, does in enumerate(runs) if does)))
        if IDENTITY in self.names:
            found.append(Piece(self.identity, (self.names.index(IDENTITY),)))
        return [piece for piece in found if any(True for _ in piece.module.parameters())]

    def forward(self, x: Tensor) -> Tensor:
        drawn = self.drawn
        return self._all(x, drawn) if isinstance(drawn, Tensor) else self._one(x, self.names[drawn])

    def _one(self, x: Tensor, name: str) -> Tensor:
        if name == ZERO:
            return self._zeros(x)
        if name == IDENTITY:
            return self.identity(x)
        own = self.stacked[name]
        for unit in _units(self.stacks[own.stack])[: own.depth]:
            x = unit(x)
        return x

    def _all(self, x: Tensor, drawn: Tensor) -> Tensor:
        before = self._statistics() if self.training else []
        results = self._run_all(x)
        for buffer, value, users in before:
            used = is_among(drawn, users)
            # Autograd keeps the statistics of each pass, and would refuse them if it saw that they change.
            buffer.data.copy_(torch.where(used, buffer.data, value))
        chosen = results[self.names[0]]
        for number, name in enumerate(self.names[1:], 1):
            chosen = torch.where(drawn == number, results[name], chosen)
        return chosen

    def _run_all(self, x: Tensor) -> dict[str, Tensor]:
        """The results of all candidates; what shallower stacks share with deeper ones is run once."""
        results = {}
        for stack_name, units in self.stacks.items():
            names = {own.depth: name for name, own in self.stacked.items() if own.stack == stack_name}
            deeper = x
            for depth, unit in enumerate(_units(units), 1):
                deeper = unit(deeper)
                if depth in names:
                    results[names[depth]] = deeper
        return results | {name: self._one(x, name) for name in self.names if name not in self.stacked}

    def _statistics(self) -> list[tuple[Tensor, Tensor, tuple[int, ...]]]:
        """Each running statistic, its value, and the candidates that change it."""
        return [(buffer, buffer.clone(), piece.users) for piece in self.pieces() for buffer in piece.module.buffers()]

    def _zeros(self, x: Tensor) -> Tensor:
        sides = (-(-side // self.row.stride) for side in x.shape[2:])
        return x.new_zeros(len(x), self.row.out_channels, *sides)


class _Padded(nn.Module):
    """Every `stride`th pixel, with channels of zeros behind its own."""

    def __init__(self, row: Row):
        super().__init__()
        self.stride, self.further = row.stride, row.out_channels - row.in_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.further))


class Supernet(Network):
    """A stem, six reconfigurable layers in four blocks, and a head. By itself it runs its smallest path.

    rows, split: the layers, and how many of them each block has.
    """

    def __init__(
        self,
        how: Candidates = Candidates(),
        *,
        num_classes: int,
        stem: Stem = "cifar",
        rows: Sequence[Row] = LAYERS,
        split: Sequence[int] = SPLIT,
    ):
        super().__init__()
        self.stem = first_layers(stem)
        layers = [ReconfigurableLayer(row, how, last=row is rows[-1]) for row in rows]
        bounds = list(accumulate(split, initial=0))
        self.blocks = nn.ModuleList(LinearBlock(*layers[start:end]) for start, end in pairwise(bounds))
        self.head = last_layers(rows[-1].out_channels, num_classes)
        self.initialise_all()

    def initialise(self, module: nn.Module) -> None:
        he_normal(module)


def layers_of(module: nn.Module) -> list[ReconfigurableLayer]:
    """The reconfigurable layers of a supernet, or of a part of it, in their order."""
    return [layer for layer in module.modules() if isinstance(layer, ReconfigurableLayer)]


def is_among(drawn: Tensor, candidates: Sequence[int]) -> Tensor:
    """[] bool: whether the candidate that was drawn is one of these."""
    among = torch.zeros_like(drawn, dtype=torch.bool)
    for number in candidates:
        among = among | (drawn == number)
    return among


def _units(units: nn.Module) -> list[nn.Module]:
    return list(units.children())


def _identity(row: Row, kind: IdentityKind) -> nn.Module:
    return _Padded(row) if kind == "pad" else projection(row.in_channels, row.out_channels, row.stride)
