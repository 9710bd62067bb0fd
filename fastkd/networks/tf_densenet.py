"""Teacher-free-KD's DenseNet-BC (Huang et al. 2017) for 32x32 images. Initialised as PyTorch does."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fastkd.networks.base import Head, Network
from fastkd.networks.layers import LinearBlock


class DenseUnit(nn.Module):
    """Makes `growth` channels from all channels so far and appends them."""

    def __init__(self, in_channels: int, growth: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.layers(x)], 1)


class TfDenseNet(Network):
    """A 3x3 stem and four blocks: dense units, then a transition, which halves map and channels, in all but the last.

    The transition has no activation (torchvision's has). Features are linear, so each is its own preact; BatchNorm
    and ReLU after the last block are the neck.
    """

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem": "conv1",
        **{
            f"blocks.{i}.0.{j}.layers": f"features.dense_block_layer_{i}.bottle_neck_layer_{j}.bottle_neck"
            for i in range(3)
            for j in range(48)
        },
        **{f"blocks.3.0.{j}.layers": f"features.dense_block3.bottle_neck_layer_{j}.bottle_neck" for j in range(48)},
        **{f"blocks.{i}.1": f"features.transition_layer_{i}.down_sample" for i in range(3)},
        "head.neck.0": "features.bn",
        "head.classifier": "linear",
    }

    def __init__(self, depths: Sequence[int], *, num_classes: int, growth: int = 32):
        super().__init__()
        channels = 2 * growth
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        for index, depth in enumerate(depths):
            dense = nn.Sequential(*(DenseUnit(channels + unit * growth, growth) for unit in range(depth)))
            channels += depth * growth
            block = LinearBlock(dense)
            if index < len(depths) - 1:
                block.append(_transition(channels))
                channels //= 2
            self.blocks.append(block)
        neck = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.head = Head(nn.Linear(channels, num_classes), neck=neck)
        self.initialise_all()


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, channels // 2, 1, bias=False),
        nn.AvgPool2d(2),
    )
