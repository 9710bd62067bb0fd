"""The few pieces that several families share."""

import torch
from torch import Tensor, nn


class Block(nn.Sequential):
    """Units in a row, the last of which can also return its preact."""

    def forward(self, x: Tensor, preacts: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        units = list(self)
        for unit in units[:-1]:
            x = unit(x)
        return units[-1](x, preacts=True) if preacts else units[-1](x)


class LinearBlock(nn.Sequential):
    """Units in a row, the last of which ends without an activation: the feature is its own preact."""

    def forward(self, x: Tensor, preacts: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        x = super().forward(x)
        return (x, x) if preacts else x


def with_preact(preact: Tensor, preacts: bool) -> Tensor | tuple[Tensor, Tensor]:
    """Ends a unit: the ReLU, not in place, and the preact beside its feature if `preacts`."""
    feature = torch.relu(preact)
    return (feature, preact) if preacts else feature


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    bias: bool = False,
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Convolution, BatchNorm, activation. The map keeps its size at stride 1 unless `padding` is given."""
    padding = kernel_size // 2 if padding is None else padding
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=bias),
        nn.BatchNorm2d(out_channels),
        activation(inplace=True),
    )


def depthwise(channels: int, *, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A 3x3 convolution of each channel by itself."""
    return nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=bias)


def channel_shuffle(x_BCHW: Tensor, groups: int) -> Tensor:
    """Deals the channels of `groups` equal parts out in turn: 0 1 2 | 3 4 5 becomes 0 3 1 4 2 5."""
    return x_BCHW.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
