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
    names: tuple[str, str] = ("the teacher", "the branch network"),
) -> nn.ModuleDict:
    """Branches on the outputs of the teacher's `blocks` (counted from 1; by default all but the last).

    Branch i is the branch network from its block i+1 on, newly initialised; the keys are "1" … "N-1".
    Raises UserError, naming the networks and the shapes, for a pair that cannot be grafted.
    """
    count, branch_count = len(teacher.blocks), len(branch_network.blocks)
    teacher_maps = output_shapes(teacher, image_size).features
    branch_maps = output_shapes(branch_network, image_size).features
    if count != branch_count:
        raise UserError(
            f"cannot graft {names[1]} ({branch_count} blocks: {_sizes(branch_maps)}) "
            f"on {names[0]} ({count} blocks: {_sizes(teacher_maps)})"
        )
    chosen = tuple(range(1, count)) if blocks is None else tuple(blocks)
    if not chosen or len(set(chosen)) != len(chosen) or not all(1 <= block < count for block in chosen):
        raise UserError(f"branch blocks are among 1 to {count - 1} and distinct, got {list(chosen)}")
    branches = nn.ModuleDict()
    for block in chosen:
        source, target = list(teacher_maps[block - 1].shape[1:]), list(branch_maps[block - 1].shape[1:])
        transform = feature_transform(source, target)
        if transform is None:
            raise UserError(
                f"cannot graft {names[1]} on {names[0]} after block {block}: "
                f"the maps are {_size(target)} and {_size(source)}, expected the same height, half or twice it"
            )
        branches[str(block)] = Branch(transform, branch_network.tail(block, "fresh"))
    return branches


def _sizes(maps: Sequence[Tensor]) -> str:
    return ", ".join(_size(feature.shape[1:]) for feature in maps)


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(side) for side in shape)
