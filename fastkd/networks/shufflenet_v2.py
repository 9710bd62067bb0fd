"""ShuffleNetV2 (Ma et al. 2018): RepDistiller's and SimKD's for 32x32 images, Teacher-free-KD's, and torchvision's.

All are initialised as PyTorch does.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fastkd.networks.base import Head, Network
from fastkd.networks.layers import Block, channel_shuffle, conv_norm_relu, depthwise


class ShuffleUnit(nn.Module):
    """Concatenates two halves of the channels and shuffles them: the right path's, and one that is kept.

    At stride 1 the kept half passes untouched; at stride 2 the left path makes it. The preact is the concatenation
    before the right path's last ReLU and before the shuffle, so its channels stand in another order than the feature's.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, inner: int, bias: bool):
        super().__init__()
        half = out_channels // 2
        self.left = None
        if stride == 2:
            self.left = nn.Sequential(
                depthwise(in_channels, stride=2, bias=bias),
                nn.BatchNorm2d(in_channels),
                *conv_norm_relu(in_channels, half, 1, bias=bias),
            )
        self.right = nn.Sequential(
            *conv_norm_relu(in_channels if stride == 2 else half, inner, 1, bias=bias),
            depthwise(inner, stride=stride, bias=bias),
            nn.BatchNorm2d(inner),
            nn.Conv2d(inner, half, 1, bias=bias),
            nn.BatchNorm2d(half),
        )

    def forward(self, x: Tensor, preacts: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        kept, treated = x.chunk(2, dim=1) if self.left is None else (self.left(x), x)
        preact = self.right(treated)
        feature = channel_shuffle(torch.cat([kept, preact.relu()], dim=1), 2)
        return (feature, torch.cat([kept, preact], dim=1)) if preacts else feature


class ShuffleNetV2(Network):
    """A stem of 24 channels, three blocks that each halve the map, and a neck.

    widths: channels of the three blocks and of the neck.
    depths: units in each block, counting the first one of stride 2.
    wide_first_unit: Teacher-free-KD's first units keep the width of their input until the last convolution.
    """

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem.0": "conv1",
        "stem.1": "bn1",
        **{
            f"blocks.{i}.0.{ours}": f"layer{i + 1}.0.{theirs}"
            for i in range(3)
            for ours, theirs in {
                "left.0": "conv1",
                "left.1": "bn1",
                "left.2": "conv2",
                "left.3": "bn2",
                "right.0": "conv3",
                "right.1": "bn3",
                "right.3": "conv4",
                "right.4": "bn4",
                "right.5": "conv5",
                "right.6": "bn5",
            }.items()
        },
        **{
            f"blocks.{i}.{j}.{ours}": f"layer{i + 1}.{j}.{theirs}"
            for i in range(3)
            for j in range(1, 8)
            for ours, theirs in {
                "right.0": "conv1",
                "right.1": "bn1",
                "right.3": "conv2",
                "right.4": "bn2",
                "right.5": "conv3",
                "right.6": "bn3",
            }.items()
        },
        "head.neck.0": "conv2",
        "head.neck.1": "bn2",
        "head.classifier": "linear",
    }

    def __init__(
        self,
        widths: Sequence[int],
        *,
        num_classes: int,
        depths: Sequence[int] = (4, 8, 4),
        stem: nn.Module | None = None,
        wide_first_unit: bool = False,
        bias: bool = False,
    ):
        super().__init__()
        self.stem = conv_norm_relu(3, 24, 1) if stem is None else stem
        self.blocks = nn.ModuleList()
        in_channels = 24
        for width, depth in zip(widths[:3], depths, strict=True):
            inner = in_channels if wide_first_unit else width // 2
            first = ShuffleUnit(in_channels, width, 2, inner=inner, bias=bias)
            rest = (ShuffleUnit(width, width, 1, inner=width // 2, bias=bias) for _ in range(depth - 1))
            self.blocks.append(Block(first, *rest))
            in_channels = width
        neck = conv_norm_relu(in_channels, widths[3], 1, bias=bias)
        self.head = Head(nn.Linear(widths[3], num_classes), neck=neck)
        self.initialise_all()


class TfShuffleNetV2(ShuffleNetV2):
    """Teacher-free-KD's variant: a 3x3 stem without activation, biased convolutions, wide first units."""

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem": "pre",
        **{
            f"blocks.{i}.{j}.{ours}": f"stage{i + 2}.{j}.{theirs}"
            for i in range(3)
            for j in range(8)
            for ours, theirs in {"left": "shortcut", "right": "residual"}.items()
        },
        "head.neck": "conv5",
        "head.classifier": "fc",
    }

    def __init__(self, widths: Sequence[int], *, num_classes: int):
        stem = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24))
        super().__init__(widths, num_classes=num_classes, stem=stem, wide_first_unit=True, bias=True)


class TorchvisionShuffleNetV2(ShuffleNetV2):
    """torchvision's variant for ImageNet: a 3x3 stem of stride 2 and a max-pool, so F^0 has a quarter of the side."""

    PUBLIC_NAMES: Mapping[str, str] = {
        "stem": "conv1",
        **{
            f"blocks.{i}.{j}.{ours}": f"stage{i + 2}.{j}.{theirs}"
            for i in range(3)
            for j in range(8)
            for ours, theirs in {"left": "branch1", "right": "branch2"}.items()
        },
        "head.neck": "conv5",
        "head.classifier": "fc",
    }

    def __init__(self, widths: Sequence[int], *, num_classes: int):
        stem = conv_norm_relu(3, 24, 3, stride=2)
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
        super().__init__(widths, num_classes=num_classes, stem=stem)
