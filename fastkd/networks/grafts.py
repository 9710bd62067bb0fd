"""Grafts: a copy of the student's last blocks on a block of the teacher (SFTN, Park et al. 2021, §3.2 and Table 22)."""

from collections.abc import Sequence

from torch import Tensor, nn

from fastkd.networks.base import Network, Output, Tail, output_shapes
from fastkd.support.errors import UserError


class Branch(nn.Module):
    """A transform from the teacher's map to the branch network's, then that network's tail."""

    def __init__(self, transform: nn.Module, tail: Tail):
        super().__init__()
        self.transform, self.tail = transform, tail

    def forward(self, teacher_feature_BCHW: Tensor) -> Output:
        return self.tail(self.transform(teacher_feature_BCHW))


def feature_transform(source: Sequence[int], target: Sequence[int]) -> nn.Sequential | None:
    """Convolution, BatchNorm and ReLU from a map of shape (C,H,W) to another; None if the sizes do not go together.

    The convolution is 1x1 for equal sizes, 3x3 of stride 2 to half the size, a transposed 4x4 of stride 2 to twice the
    size. It has a bias, as `ConvReg` has in the authors' code.
    """
    (channels_in, *size_in), (channels_out, *size_out) = source, target
    if size_in == size_out:
        convolution = nn.Conv2d(channels_in, channels_out, 1)
    elif size_in == [2 * side for side in size_out]:
        convolution = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
    elif [2 * side for side in size_in] == size_out:
        convolution = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
    else:
        return None
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def graft(
    teacher: Network,
    branch_network: Network,
    image_size: int,
    *,
    blocks: Sequence[int] | None = None,
    starts: Sequence[int] | None = None,
    names: tuple[str, str] = ("the teacher", "the branch network"),
) -> nn.ModuleDict:
    """Branches on the outputs of the teacher's `blocks` (counted from 1, 0 is the stem; by default all but the last).

    starts: the number of the branch network's blocks that each of the branches leaves out, by default as many as the
    teacher has up to there: the branch on the output of block i is then the branch network from its block i+1 on. Every
    branch is newly initialised; the keys are the teacher's blocks. Raises UserError, naming the networks and the
    shapes, for a pair that cannot be grafted.
    """
    of_teacher, of_branch = _maps(teacher, image_size), _maps(branch_network, image_size)
    places = _places(of_teacher, of_branch, blocks, starts, names)
    branches = nn.ModuleDict()
    for block, start in places:
        source, target = of_teacher[block], of_branch[start]
        transform = feature_transform(source, target)
        if transform is None:
            behind = f"after block {block}" if block else "after its stem"
            raise UserError(
                f"cannot graft {names[1]} on {names[0]} {behind}: "
                f"the maps are {_size(target)} and {_size(source)}, expected the same height, half or twice it"
            )
        branches[str(block)] = Branch(transform, branch_network.tail(start, "fresh"))
    return branches


def aligned(teacher_blocks: int, branch_blocks: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The blocks and starts of branches that end where the teacher ends: the longest leaves out one block, or stands on
    the stem; the shortest has the last block alone (GTN)."""
    lengths = range(min(teacher_blocks, branch_blocks - 1), 0, -1)
    return tuple(teacher_blocks - length for length in lengths), tuple(branch_blocks - length for length in lengths)


def _places(
    of_teacher: Sequence[Sequence[int]],
    of_branch: Sequence[Sequence[int]],
    blocks: Sequence[int] | None,
    starts: Sequence[int] | None,
    names: tuple[str, str],
) -> list[tuple[int, int]]:
    """(teacher's block, branch network's start) of each branch."""
    count, branch_count = len(of_teacher) - 1, len(of_branch) - 1
    if count != branch_count and starts is None:
        raise UserError(
            f"cannot graft {names[1]} ({branch_count} blocks: {_sizes(of_branch[1:])}) on {names[0]} ({count} blocks: "
            f"{_sizes(of_teacher[1:])}) without --branch-blocks and --branch-starts"
        )
    chosen = tuple(range(1, count)) if blocks is None else tuple(blocks)
    least, most = (0, count) if starts is not None else (1, count - 1)
    if not chosen or len(set(chosen)) != len(chosen) or not all(least <= block <= most for block in chosen):
        raise UserError(f"branch blocks are among {least} to {most} and distinct, got {list(chosen)}")
    begun = chosen if starts is None else tuple(starts)
    if len(begun) != len(chosen) or not all(0 <= start < branch_count for start in begun):
        raise UserError(
            f"branch starts are {len(chosen)}, one for each branch, from 0 to {branch_count - 1}, got {list(begun)}"
        )
    return list(zip(chosen, begun, strict=True))


def _maps(network: Network, image_size: int) -> list[list[int]]:
    """The shapes (C,H,W) of F^0, F^1 …"""
    shapes = output_shapes(network, image_size)
    return [list(one.shape[1:]) for one in (shapes.stem, *shapes.features)]


def _sizes(maps: Sequence[Sequence[int]]) -> str:
    return ", ".join(map(_size, maps))


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)
