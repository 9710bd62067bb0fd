"""The students of GTN (Binici et al., "Generalizing Teacher Networks for Effective Knowledge Distillation Across
Student Architectures", supplement, Tables 1-3), which a search of architectures has found.

The tables print rows of (layer, channels in and out, kernel, stride). What they leave open is a choice here: `ResBlock
(xn)` is n blocks of two convolutions, the first of which has the stride; an identity that changes the number of
channels is a 1x1 convolution with BatchNorm; the 1x1 convolution to 1280 channels has BatchNorm and ReLU; the rows are
divided into blocks as GTN's supernet is, so that their feature maps have its shapes.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import nn

from fastkd.networks.base import Head, Network
from fastkd.networks.initialisation import he_normal
from fastkd.networks.layers import Block, conv_norm_relu
from fastkd.networks.resnet import BasicUnit

STEM_CHANNELS = 16
LAST_CHANNELS = 1280
Stem = Literal["cifar", "imagenet"]


class Row(NamedTuple):
    """A row of a table: `repeat` blocks of two convolutions; none of them is an identity."""

    in_channels: int
    out_channels: int
    kernel_size: int = 3
    stride: int = 1
    repeat: int = 1


def identity(channels: int, out_channels: int | None = None) -> Row:
    return Row(channels, out_channels or channels, repeat=0)


Blocks = Sequence[Sequence[Row]]

SMALL: Blocks = ((Row(16, 64),), (Row(64, 128, stride=2),), (Row(128, 256, stride=2),))
"""Table 1."""
MEDIUM: Blocks = (
    (Row(16, 64, repeat=2),),
    (Row(64, 64),),
    (identity(64), Row(64, 128, kernel_size=5, stride=2, repeat=2)),
    (Row(128, 256, stride=2), Row(256, 512, stride=2)),
)
"""Table 2."""
LARGE: Blocks = (
    (Row(16, 64, repeat=2),),
    (identity(64), Row(64, 64, repeat=3)),
    (identity(64, 128), Row(128, 128, stride=2, repeat=3), identity(128), Row(128, 128, repeat=3)),
    (Row(128, 256, stride=2, repeat=3), Row(256, 512, stride=2, repeat=3)),
)
"""Table 3."""


class GTNStudent(Network):
    """A 3x3 convolution to 16 channels and an identity, blocks of rows, a 1x1 convolution to 1280 channels, a linear
    layer. For ImageNet the stem makes a quarter of the image's side."""

    def __init__(self, blocks: Blocks, *, num_classes: int, stem: Stem = "cifar"):
        super().__init__()
        self.stem = first_layers(stem)
        self.blocks = nn.ModuleList(Block(*(unit for row in rows for unit in _units(row))) for rows in blocks)
        self.head = last_layers(blocks[-1][-1].out_channels, num_classes)
        self.initialise_all()

    def initialise(self, module: nn.Module) -> None:
        he_normal(module)


def first_layers(stem: Stem) -> nn.Module:
    """The layers up to F^0; the identity behind the convolution is none of them, as it does nothing."""
    if stem == "cifar":
        return conv_norm_relu(3, STEM_CHANNELS, 3)
    return nn.Sequential(conv_norm_relu(3, STEM_CHANNELS, 3, stride=2), nn.MaxPool2d(3, stride=2, padding=1))


def last_layers(channels: int, num_classes: int) -> Head:
    return Head(nn.Linear(LAST_CHANNELS, num_classes), neck=conv_norm_relu(channels, LAST_CHANNELS, 1))


def stack(row: Row) -> list[nn.Module]:
    """The blocks of two convolutions of a row; the first has its stride and its change of channels."""
    changes = [(row.in_channels, row.stride), *[(row.out_channels, 1)] * (row.repeat - 1)]
    return [
        BasicUnit(channels, row.out_channels, stride, kernel_size=row.kernel_size)
        for channels, stride in changes[: row.repeat]
    ]


def projection(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """A 1x1 convolution with BatchNorm: what stands for an identity that changes its input's shape."""
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def _units(row: Row) -> list[nn.Module]:
    if row.repeat:
        return stack(row)
    same = row.in_channels == row.out_channels
    return [nn.Identity() if same else projection(row.in_channels, row.out_channels)]
