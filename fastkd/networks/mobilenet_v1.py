"""MobileNet (Howard et al. 2017), the student of the usual ImageNet pair ResNet50 -> MobileNetV1.

This is mdistiller's variant (taken from OFD), initialised as PyTorch does.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fastkd.networks.base import Head, Network
from fastkd.networks.layers import Block, conv_norm_relu, depthwise, with_preact


class SeparableUnit(nn.Module):
    """A depthwise and a pointwise convolution, each with BatchNorm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.layers = nn.Sequential(
            depthwise(in_channels, stride=stride),
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor, preacts: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        return with_preact(self.layers(x), preacts)


class MobileNetV1(Network):
    """F^0 has 32 channels at half the image's side, F^1 … F^4 have 128, 256, 512 and 1024 at 1/4 … 1/32.

    The preact is the output of a block's last BatchNorm.
    """

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem": "model.0",
        **{
            f"blocks.{i}.{j}.layers": f"model.{first + j}"
            for i, (first, units) in enumerate([(1, 3), (4, 2), (6, 6), (12, 2)])
            for j in range(units)
        },
        "head.classifier": "fc",
    }

    def __init__(self, *, num_classes: int):
        super().__init__()
        self.stem = conv_norm_relu(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList(
            [
                Block(SeparableUnit(32, 64, 1), SeparableUnit(64, 128, 2), SeparableUnit(128, 128, 1)),
                Block(SeparableUnit(128, 256, 2), SeparableUnit(256, 256, 1)),
                Block(SeparableUnit(256, 512, 2), *(SeparableUnit(512, 512, 1) for _ in range(5))),
                Block(SeparableUnit(512, 1024, 2), SeparableUnit(1024, 1024, 1)),
            ]
        )
        self.head = Head(nn.Linear(1024, num_classes))
        self.initialise_all()

    @property
    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        blocks: Any = self.blocks  # indexed as what they are; torch types every child as a plain Module
        return tuple(block[-1].layers[-1] for block in blocks)
