"""Teacher-free-KD's GoogLeNet (Szegedy et al. 2015) for 32x32 images. Initialised as PyTorch does."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fastkd.networks.base import Head, Network
from fastkd.networks.layers import Block, conv_norm_relu, with_preact


class Inception(nn.Module):
    """Four paths, concatenated: 1x1; 1x1 and 3x3; 1x1 and two 3x3 (for a 5x5); max-pool and 1x1.

    The paths' common last ReLU comes after the concatenation.
    """

    def __init__(self, in_channels: int, p1: int, reduce3: int, p3: int, reduce5: int, p5: int, pool: int):
        super().__init__()
        self.b1 = _conv_norm(in_channels, p1, 1)
        self.b2 = nn.Sequential(
            *conv_norm_relu(in_channels, reduce3, 1, bias=True),
            *_conv_norm(reduce3, p3, 3),
        )
        self.b3 = nn.Sequential(
            *conv_norm_relu(in_channels, reduce5, 1, bias=True),
            nn.Conv2d(reduce5, p5, 3, padding=1),
            # A slip of the authors' code, which gives the width as eps; its weights and results depend on it.
            nn.BatchNorm2d(p5, eps=p5),
            nn.ReLU(inplace=True),
            *_conv_norm(p5, p5, 3),
        )
        self.b4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *_conv_norm(in_channels, pool, 1))

    def forward(self, x: Tensor, preacts: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        return with_preact(torch.cat([self.b1(x), self.b2(x), self.b3(x), self.b4(x)], dim=1), preacts)


class TfGoogLeNet(Network):
    """A 3x3 stem of 192 channels and three blocks; the second and third start with a max-pool.

    The preact is the concatenation before the last ReLU of a block.
    """

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem": "prelayer",
        "blocks.0.0": "a3",
        "blocks.0.1": "b3",
        "blocks.1.1": "a4",
        "blocks.1.2": "b4",
        "blocks.1.3": "c4",
        "blocks.1.4": "d4",
        "blocks.1.5": "e4",
        "blocks.2.1": "a5",
        "blocks.2.2": "b5",
        "head.classifier.1": "linear",
    }

    def __init__(self, *, num_classes: int, dropout: float = 0.4):
        super().__init__()
        self.stem = conv_norm_relu(3, 192, 3, bias=True)
        self.blocks = nn.ModuleList(
            [
                Block(
                    Inception(192, 64, 96, 128, 16, 32, 32),
                    Inception(256, 128, 128, 192, 32, 96, 64),
                ),
                Block(
                    nn.MaxPool2d(3, stride=2, padding=1),
                    Inception(480, 192, 96, 208, 16, 48, 64),
                    Inception(512, 160, 112, 224, 24, 64, 64),
                    Inception(512, 128, 128, 256, 24, 64, 64),
                    Inception(512, 112, 144, 288, 32, 64, 64),
                    Inception(528, 256, 160, 320, 32, 128, 128),
                ),
                Block(
                    nn.MaxPool2d(3, stride=2, padding=1),
                    Inception(832, 256, 160, 320, 32, 128, 128),
                    Inception(832, 384, 192, 384, 48, 128, 128),
                ),
            ]
        )
        self.head = Head(nn.Sequential(nn.Dropout(dropout), nn.Linear(1024, num_classes)))
        self.initialise_all()


def _conv_norm(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2),
        nn.BatchNorm2d(out_channels),
    )
