"""ShuffleNet (Zhang et al. 2018) for 32x32 images, as RepDistiller has it. Initialised as PyTorch does."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fastkd.networks.base import Head, Network
from fastkd.networks.layers import Block, channel_shuffle, conv_norm_relu, depthwise, with_preact


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, 3x3 depthwise, grouped 1x1, and a shortcut.

    At stride 1 the input is added; at stride 2 its average-pooled version is concatenated, so that the convolutions
    make out_channels - in_channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, first_groups: int, groups: int):
        super().__init__()
        self.concatenates = stride == 2
        self.first_groups = first_groups
        made = out_channels - in_channels if self.concatenates else out_channels
        inner = made // 4
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = depthwise(inner, stride=stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, made, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.shortcut = nn.AvgPool2d(3, stride=2, padding=1) if self.concatenates else nn.Identity()

    def forward(self, x: Tensor, preacts: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        residual = self.bn1(self.conv1(x)).relu()
        residual = channel_shuffle(residual, self.first_groups)
        residual = self.bn2(self.conv2(residual)).relu()
        residual = self.bn3(self.conv3(residual))
        kept = self.shortcut(x)
        return with_preact(torch.cat([residual, kept], 1) if self.concatenates else residual + kept, preacts)


class ShuffleNetV1(Network):
    """A 1x1 stem of 24 channels and three blocks, each halving the map; the preact is the sum before the last ReLU."""

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem.0": "conv1",
        "stem.1": "bn1",
        "blocks.0": "layer1",
        "blocks.1": "layer2",
        "blocks.2": "layer3",
        "head.classifier": "linear",
    }

    def __init__(
        self,
        *,
        num_classes: int,
        widths: Sequence[int] = (240, 480, 960),
        depths: Sequence[int] = (4, 8, 4),
        groups: int = 3,
    ):
        super().__init__()
        self.stem = conv_norm_relu(3, 24, 1)
        self.blocks = nn.ModuleList()
        in_channels = 24
        for width, depth in zip(widths, depths, strict=True):
            # The stem is too narrow for the very first convolution to be grouped.
            first_groups = groups if len(self.blocks) else 1
            first = ShuffleUnit(in_channels, width, 2, first_groups=first_groups, groups=groups)
            rest = (ShuffleUnit(width, width, 1, first_groups=groups, groups=groups) for _ in range(depth - 1))
            self.blocks.append(Block(first, *rest))
            in_channels = width
        self.head = Head(nn.Linear(in_channels, num_classes))
        self.initialise_all()
