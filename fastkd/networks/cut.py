"""The pieces of which models of others are put together again as stem, blocks and head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from fastkd.networks.base import Head, Network, Output
from fastkd.networks.layers import LinearBlock
from fastkd.networks.uncut import WORDS, Absent, Lacks, refusal, without
from fastkd.support.errors import UserError

QUARTERS = 4


@dataclass(frozen=True)
class Parts:
    stem: nn.Module
    blocks: Sequence[nn.Module]
    head: Head
    pooling: Literal["mean", "token"] = "mean"
    as_map: nn.Module | None = None
    """The map of what the blocks hand on, where that is tokens."""
    entrance: Callable[[Any], nn.Module] | None = None
    """Makes, of the stem, what turns a map into such tokens."""

    @property
    def gives_preacts(self) -> bool:
        return all(isinstance(block, LinearBlock) for block in self.blocks)


class MeanPool(nn.Module):
    def forward(self, map_BCHW: Tensor) -> Tensor:
        return map_BCHW.mean((2, 3))


class FirstToken(nn.Module):
    def forward(self, tokens_BND: Tensor) -> Tensor:
        return tokens_BND[:, 0]


class OnePixel(nn.Module):
    """A vector [B,C] as a map [B,C,1,1], for layers of maps behind the pooling."""

    def forward(self, vector_BC: Tensor) -> Tensor:
        return vector_BC[:, :, None, None]


class ChannelsFirst(nn.Module):
    def forward(self, map_BHWC: Tensor) -> Tensor:
        return map_BHWC.permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    def forward(self, map_BCHW: Tensor) -> Tensor:
        return map_BCHW.permute(0, 2, 3, 1)


class TokensToMap(nn.Module):
    """The image's tokens as a map [B,D,H,W]; those in front of them, of the class and its like, are left out."""

    def __init__(self, in_front: int, grid: tuple[int, int]):
        super().__init__()
        self.in_front, self.grid = in_front, grid

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return tokens_BND[:, self.in_front :].mT.unflatten(2, self.grid)


class CutNetwork(Network):
    """The modules of a model of others, rearranged."""

    def __init__(self, model: nn.Module, parts: Parts, name: str):
        super().__init__()
        self.name, self.pooling = name, parts.pooling
        self.stem, self.blocks, self.head = parts.stem, nn.ModuleList(parts.blocks), parts.head
        self.gives_preacts, self.from_map = parts.gives_preacts, parts.entrance
        if parts.as_map is not None:
            self.as_map = parts.as_map
        theirs = {id(value): name for name, value in _tensors(model).items()}
        self.PUBLIC_NAMES = {ours: theirs[id(value)] for ours, value in _tensors(self).items()}

    def _run(self, x: Tensor, *, first_block: int, preacts: bool) -> Output:
        if preacts and not self.gives_preacts:
            raise Lacks(refusal(self.absent, WORDS["preacts"]))
        output = super()._run(x, first_block=first_block, preacts=preacts)
        return output if self.pooling == "mean" else without(output, self.absent, "final_map")

    @property
    def absent(self) -> Absent:
        by = "its class token" if self.pooling == "token" else "the mean of its last map"
        return Absent(self.name, f"logits, features and an embedding, {by}", named=True)

    def entrance(self) -> nn.Module:
        return super().entrance() if self.from_map is None else self.from_map(self.stem)


def grouped(units: Sequence[nn.Module], wanted: int | None) -> list[Sequence[nn.Module]]:
    """The units in so many groups, by default quarters, as even as can be. Raises UserError for more than units."""
    count = wanted or min(QUARTERS, len(units))
    if count > len(units):
        raise UserError(f"blocks={count}: the network has {len(units)} of them")
    ends = [round(len(units) * number / count) for number in range(count + 1)]
    return [units[start:end] for start, end in pairwise(ends)]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a module, by their names in its state."""
    return dict(module.state_dict(keep_vars=True))
