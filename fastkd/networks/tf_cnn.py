"""The plain networks of Teacher-free-KD (Yuan et al. 2020). Both are initialised as PyTorch does."""

from collections.abc import Mapping

from torch import Tensor, nn

from fastkd.networks.base import Head, Network
from fastkd.networks.layers import Block, with_preact
from fastkd.support.pooling import PooledTo


class PooledConv(nn.Module):
    """3x3 convolution, BatchNorm, max-pool, ReLU, in this order."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(out_channels)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor, preacts: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        return with_preact(self.pool(self.norm(self.conv(x))), preacts)


class TfCNN(Network):
    """Three convolutions and two linear layers; F^0 is the image itself, the embedding the hidden linear layer.

    The preact is the pooled map before the ReLU.
    """

    PUBLIC_NAMES: Mapping[str, str] = {
        **{f"blocks.{i}.conv": f"conv{i + 1}" for i in range(3)},
        **{f"blocks.{i}.norm": f"bn{i + 1}" for i in range(3)},
        "head.pool.2": "fc1",
        "head.pool.3": "fcbn1",
        "head.classifier.1": "fc2",
    }

    def __init__(self, *, num_classes: int, width: int = 32, dropout: float = 0.5):
        super().__init__()
        hidden = 4 * width
        self.stem = nn.Identity()
        self.blocks = nn.ModuleList([PooledConv(3, width), PooledConv(width, 2 * width), PooledConv(2 * width, hidden)])
        # The adaptive pool does nothing to 32x32 images, for which the network was made, and admits other sizes.
        pool = nn.Sequential(
            PooledTo(4),
            nn.Flatten(1),
            nn.Linear(4 * 4 * hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
        )
        self.head = Head(nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, num_classes)), pool=pool)
        self.initialise_all()


class PlainConv(nn.Module):
    """Convolution and ReLU, without normalisation."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, preacts: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        return with_preact(self.conv(x), preacts)


class TfAlexNet(Network):
    """AlexNet (Krizhevsky 2014) with adjusted paddings and one linear layer; its last max-pool is the neck."""

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem.0": "features.0",
        "blocks.0.1.conv": "features.3",
        "blocks.1.1.conv": "features.6",
        "blocks.1.2.conv": "features.8",
        "blocks.1.3.conv": "features.10",
        "head.classifier": "classifier",
    }

    def __init__(self, *, num_classes: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 11, stride=4, padding=5), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(
            [
                Block(nn.MaxPool2d(2), PlainConv(64, 192, 5)),
                Block(nn.MaxPool2d(2), PlainConv(192, 384, 3), PlainConv(384, 256, 3), PlainConv(256, 256, 3)),
            ]
        )
        self.head = Head(nn.Linear(256, num_classes), neck=nn.MaxPool2d(2))
        self.initialise_all()
