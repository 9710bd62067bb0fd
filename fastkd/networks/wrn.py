"""Wide residual networks (Zagoruyko and Komodakis 2016), with the activation before the convolution."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fastkd.networks.base import Head, Network, Output
from fastkd.networks.initialisation import he_normal, zero_linear_bias


class PreActUnit(nn.Module):
    """BatchNorm, ReLU, 3x3 convolution, twice, and a shortcut.

    Where the width changes, the shortcut is a 1x1 convolution of the normalised, activated input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor, normed: Tensor | None = None) -> Tensor:
        """normed: bn1(x), if the caller has computed it already."""
        active = (self.bn1(x) if normed is None else normed).relu()
        residual = self.conv2(self.bn2(self.conv1(active)).relu())
        return residual + (x if self.shortcut is None else self.shortcut(active))


class WRNBlock(nn.Sequential):
    """Units in a row, whose feature is a raw sum, neither normalised nor activated."""

    def forward(self, x: Tensor, normed: Tensor | None = None) -> Tensor:
        units = list(self)
        x = units[0](x, normed)
        for unit in units[1:]:
            x = unit(x)
        return x


class WRN(Network):
    """WRN-`depth`-`width` of RepDistiller: a bare convolution, three blocks of (depth - 4) / 6 units, BatchNorm.

    The preact of F^i is what the next block's first BatchNorm makes of it (of the last feature, the head's), so the
    network hands that tensor on instead of normalising twice: running statistics move once.
    """

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem": "conv1",
        "blocks.0": "block1.layer",
        "blocks.1": "block2.layer",
        "blocks.2": "block3.layer",
        "blocks.0.0.shortcut": "block1.layer.0.convShortcut",
        "blocks.1.0.shortcut": "block2.layer.0.convShortcut",
        "blocks.2.0.shortcut": "block3.layer.0.convShortcut",
        "head.neck.0": "bn1",
        "head.classifier": "fc",
    }

    def __init__(self, depth: int, width: int, *, num_classes: int):
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"a WRN has 6n + 4 layers, for example 16, 28 or 40; got {depth}")
        units = (depth - 4) // 6
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        in_channels = 16
        for channels, stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
            first = PreActUnit(in_channels, channels, stride)
            self.blocks.append(WRNBlock(first, *(PreActUnit(channels, channels, 1) for _ in range(units - 1))))
            in_channels = channels
        neck = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.head = Head(nn.Linear(in_channels, num_classes), neck=neck)
        self.initialise_all()

    def _run(self, x: Tensor, *, first_block: int, preacts: bool) -> Output:
        if not preacts:
            return super()._run(x, first_block=first_block, preacts=False)
        stem, normed, features, collected = x, None, [], []
        for index in range(first_block, len(self.blocks)):
            x = self.blocks[index](x, normed)
            normed = self.preact_norms[index](x)
            features.append(x)
            collected.append(normed)
        final_map = collected[-1].relu()
        embedding = self.head.pool(final_map)
        return Output(self.head.classifier(embedding), stem, tuple(features), final_map, embedding, tuple(collected))

    def initialise(self, module: nn.Module) -> None:
        he_normal(module)
        zero_linear_bias(module)

    @property
    def preact_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        blocks: Any = self.blocks  # indexed as what they are; torch types every child as a plain Module
        neck: Any = self.head.neck
        return (blocks[1][0].bn1, blocks[2][0].bn1, neck[0])
