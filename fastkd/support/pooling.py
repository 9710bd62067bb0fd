"""Average pooling that is the same every time: torch's adaptive one adds atomically in its backward on a GPU."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pooled_to(x_BCHW: Tensor, size: Sequence[int]) -> Tensor:
    """Adaptive average pooling to (height, width), which may also be larger than those of the map."""
    height, width = x_BCHW.shape[2:]
    if (height, width) == tuple(size):
        return x_BCHW
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(x_BCHW, (height // size[0], width // size[1]))
    return _pooled(_pooled(x_BCHW, 2, size[0]), 3, size[1])


def _pooled(x: Tensor, axis: int, cells: int) -> Tensor:
    """The means of the cells of one axis, which overlap where it does not divide by their number."""
    length = x.shape[axis]
    bounds = [(cell * length // cells, -(-(cell + 1) * length // cells)) for cell in range(cells)]
    return torch.stack([x.narrow(axis, start, end - start).mean(axis) for start, end in bounds], axis)


class PooledTo(nn.Module):
    """`pooled_to` a square, as a layer."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return pooled_to(x_BCHW, (self.side, self.side))
