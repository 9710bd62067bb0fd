"""VGG (Simonyan and Zisserman 2014) with BatchNorm and one linear layer, as RepDistiller has it for CIFAR."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fastkd.networks.base import Head, Network
from fastkd.networks.initialisation import he_normal, small_linear
from fastkd.networks.layers import conv_norm_relu, with_preact


class VGGBlock(nn.Module):
    """Max-pool, then convolutions.

    The pool stands at the start, so that a branch which begins with this block pools what it is given (SFTN, Tables
    20 to 22). `smallest_pooled`: maps with a shorter side than this are not pooled.
    """

    def __init__(self, in_channels: int, width: int, convolutions: int, *, smallest_pooled: int):
        super().__init__()
        self.smallest_pooled = smallest_pooled
        self.pool = nn.MaxPool2d(2)
        self.layers = _convolutions(in_channels, width, convolutions)[:-1]

    def forward(self, x: Tensor, preacts: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        if x.shape[2] >= self.smallest_pooled:
            x = self.pool(x)
        return with_preact(self.layers(x), preacts)


class VGG(Network):
    """A stem without pool and four blocks. depths: the numbers of convolutions in these five.

    The last block pools images of side 64 and more only (F^3 has 8x8 pixels there), so that at 32x32 two blocks
    work at 4x4. The preact is the output of a block's last BatchNorm.
    """

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem": "block0",
        "blocks.0.layers": "block1",
        "blocks.1.layers": "block2",
        "blocks.2.layers": "block3",
        "blocks.3.layers": "block4",
        "head.classifier": "classifier",
    }

    def __init__(self, depths: Sequence[int], *, num_classes: int, widths: Sequence[int] = (64, 128, 256, 512, 512)):
        super().__init__()
        self.stem = _convolutions(3, widths[0], depths[0])
        self.blocks = nn.ModuleList(
            VGGBlock(widths[i], widths[i + 1], depths[i + 1], smallest_pooled=8 if i == 3 else 2) for i in range(4)
        )
        self.head = Head(nn.Linear(widths[4], num_classes))
        self.initialise_all()

    def initialise(self, module: nn.Module) -> None:
        he_normal(module)
        small_linear(module)

    @property
    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        blocks: Any = self.blocks  # indexed as what they are; torch types every child as a plain Module
        return tuple(block.layers[-1] for block in blocks)


def _convolutions(in_channels: int, width: int, count: int) -> nn.Sequential:
    """`count` times 3x3 convolution with bias, BatchNorm, ReLU, in one flat row."""
    layers = nn.Sequential()
    for _ in range(count):
        layers.extend(conv_norm_relu(in_channels, width, 3, bias=True))
        in_channels = width
    return layers
